package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/waybill-run/waybill/internal/image"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// launch makes everything that a unit needs and starts it. After an error without
// rec.Begun nothing was started.
func (r *Runner) launch(ctx context.Context, st *state, rt *ociRuntime, rec *record, set *container.Settings, img *image.Image, s runner.Spec) error {
	mem := filepath.Join(st.memory, rec.Unit)
	if err := os.MkdirAll(filepath.Join(mem, "rootfs"), 0o700); err != nil {
		return err
	}
	rootDir, err := r.makeRoot(st, rec, set, mem)
	if err != nil {
		return err
	}
	root, err := openRoot(rootDir)
	if err != nil {
		return err
	}
	defer root.close()
	b := &bundle{
		root: rootDir, settings: set, network: rec.Network, cgroup: rec.Cgroup, limits: st.limits, labels: rec.Labels, rootless: r.rootless,
	}
	if b.hostname = rec.Unit; len(b.hostname) > 63 {
		b.hostname = b.hostname[:63]
	}
	err = r.fill(root, b, set, img, s)
	var user *noAccount
	var program *noProgram
	switch {
	case errors.As(err, &user):
		return r.stillborn(rec, 126, user.text, s)
	case errors.As(err, &program):
		return r.stillborn(rec, program.code, program.text, s)
	case err != nil:
		return err
	}
	if err := give(s.Dir, b.who); err != nil {
		return fmt.Errorf("give the files of the unit to its user: %w", err)
	}
	if err := r.connect(st, rec, b, mem); err != nil {
		return err
	}
	if err := r.mounts(st, b, rec, mem, s); err != nil {
		return err
	}
	if err := writeConfig(mem, b); err != nil {
		return fmt.Errorf("write the configuration of the runtime: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here on the inner runner may know it.
	rec.Begun = true
	if err := r.save(rec); err != nil {
		rec.Begun = false
		return fmt.Errorf("record the unit: %w", err)
	}
	with, err := json.Marshal(map[string]any{
		"pid_file": r.unitDir(rec.Unit, pidFile), "status": r.unitDir(rec.Unit, statusFile), "remove": []string{filepath.Join(mem, configFile)},
	})
	if err != nil {
		return err
	}
	args := []string{rt.path, "--root", filepath.Join(st.memory, stateDir), "--log", r.unitDir(rec.Unit, runtimeLog), "--log-format", "json",
		"run", "--detach", "--bundle", mem, "--pid-file", r.unitDir(rec.Unit, pidFile)}
	if len(initCode) > 0 {
		args = append(args, "--preserve-fds", "1")
	}
	_, err = r.o.Inner.Start(ctx, runner.Spec{
		Unit: rec.Unit, Args: append(args, rec.ID), Env: runtimeEnv(), Dir: mem, Log: s.Log, With: with, Meta: s.Meta,
		LogCap: s.LogCap, HardStop: s.HardStop, Mask: s.Mask,
	})
	return err
}

// makeRoot makes the root file system of a unit: an overlay, or a copy where there are
// none.
func (r *Runner) makeRoot(st *state, rec *record, set *container.Settings, mem string) (string, error) {
	if !r.rootless {
		for _, d := range []string{upperDir, workDir} {
			if err := os.Mkdir(r.unitDir(rec.Unit, d), 0o755); err != nil {
				return "", err
			}
		}
		target := filepath.Join(mem, "rootfs")
		err := r.mount(st.images.Dir(), rec.Layers, r.unitDir(rec.Unit, upperDir), r.unitDir(rec.Unit, workDir), target)
		if err == nil {
			return target, nil
		}
		r.log.Warn("overlays cannot be mounted here, so the image is copied for every unit, which takes longer", "unit", rec.Unit, "error", err)
	}
	rec.Flat = true
	if err := r.save(rec); err != nil {
		return "", err
	}
	target := r.unitDir(rec.Unit, flatDir)
	if err := os.Mkdir(target, 0o755); err != nil {
		return "", err
	}
	return target, flatten(st.images.Dir(), rec.Layers, target, !set.Writable)
}

// fill works out what is executed, as whom and where.
func (r *Runner) fill(root rootfs, b *bundle, set *container.Settings, img *image.Image, s runner.Spec) error {
	who := set.User
	if who == "" {
		who = img.Config.User
	}
	var err error
	if b.who, err = root.account(who); err != nil {
		return err
	}
	if r.rootless {
		if b.who.uid != 0 || b.who.gid != 0 {
			return &noAccount{fmt.Sprintf("a server without privileges runs units as the root of their image, not as user %q", who)}
		}
		b.who.groups = nil
	}
	args := s.Args
	if len(args) == 0 {
		more := img.Config.Cmd
		if len(set.Args) > 0 {
			more = set.Args
		}
		args = append(append([]string{}, img.Config.Entrypoint...), more...)
	}
	if len(args) == 0 || args[0] == "" {
		return &noProgram{"the step has no run, and the image neither an entrypoint nor a command", 127}
	}
	b.env = environment(img.Config.Env, s.Env, b.who.home)
	switch {
	case set.Workdir != "":
		b.cwd = path.Clean(set.Workdir)
	case len(s.Args) > 0:
		b.cwd = container.WorkDir()
		if _, err := os.Stat(container.Outside(s.Dir, container.Work)); err != nil {
			b.cwd = container.Home
		}
	case path.IsAbs(img.Config.WorkingDir):
		b.cwd = path.Clean(img.Config.WorkingDir)
	default:
		b.cwd = "/"
	}
	program, err := root.program(args[0], b.env, b.cwd, s.Dir)
	if err != nil {
		return err
	}
	b.args = append([]string{program}, args[1:]...)
	return nil
}

// stillborn records the end of a unit whose program cannot be started.
func (r *Runner) stillborn(rec *record, code int, why string, s runner.Spec) error {
	now := time.Now().UTC()
	log, err := runner.OpenLog(s.Log, s.LogCap, s.Mask...)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	e := runner.Exit{Code: code, StartedAt: now, EndedAt: now}
	log.Close(&e)
	e.Reason, e.Message = runner.ReasonStartFailed, why
	rec.Exit = &e
	if err := r.save(rec); err != nil {
		rec.Exit = nil
		return fmt.Errorf("record the unit: %w", err)
	}
	return nil
}

// connect puts a unit on the bridge. Its address is recorded first.
func (r *Runner) connect(st *state, rec *record, b *bundle, mem string) error {
	if rec.Network != container.NetworkBridge {
		return nil
	}
	ip, err := st.net.allot(rec.Unit)
	if err != nil {
		return err
	}
	rec.IP = ip.String()
	if err := r.save(rec); err != nil {
		st.net.release(rec.IP)
		return err
	}
	b.netns = filepath.Join(mem, "netns")
	return st.net.attach(rec.Unit, ip, b.netns)
}

// mounts are what a unit has besides its image.
func (r *Runner) mounts(st *state, b *bundle, rec *record, mem string, s runner.Spec) error {
	b.binds = append(b.binds, bind(s.Dir, container.Home))
	for _, part := range []string{container.Event, container.In} {
		if from := container.Outside(s.Dir, part); exists(from) {
			b.binds = append(b.binds, bind(from, path.Join(container.Home, part), "ro"))
		}
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	var resolv []byte
	switch rec.Network {
	case container.NetworkBridge:
		hosts += rec.IP + "\t" + b.hostname + "\n"
		st.net.mu.Lock()
		hosts += st.net.gateway.String() + "\thost.waybill.internal\n"
		st.net.mu.Unlock()
		resolv = nameServers()
	case container.NetworkHost:
		hosts += "127.0.1.1\t" + b.hostname + "\n127.0.0.1\thost.waybill.internal\n"
		if own, err := os.ReadFile("/etc/hosts"); err == nil {
			hosts += string(own)
		}
		resolv, _ = os.ReadFile("/etc/resolv.conf")
	default:
		hosts += "127.0.1.1\t" + b.hostname + "\n"
	}
	for name, text := range map[string]string{"hosts": hosts, "resolv.conf": string(resolv), "hostname": b.hostname + "\n"} {
		file := filepath.Join(mem, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o644); err != nil { // whatever the mask of this process is
			return err
		}
		b.binds = append(b.binds, bind(file, "/etc/"+name, "ro"))
	}
	if len(initCode) > 0 {
		b.binds = append(b.binds, bind(filepath.Join(st.memory, initFile), initPath, "ro"))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil && !strings.ContainsRune(path, 0)
}
