package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// ociRuntime is the program that makes containers.
type ociRuntime struct {
	path string
	name string
}

// runtimes are those that are tried, in this order.
var runtimes = []string{"runc", "crun"}

// chooser finds a runtime that works here and remembers it.
type chooser struct {
	want string // of the settings
	dir  string // in memory, for trials

	mu    sync.Mutex
	found *ociRuntime
	err   error
	until time.Time // err holds so long
}

func (c *chooser) get(ctx context.Context) (*ociRuntime, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found != nil {
		return c.found, nil
	}
	if c.err != nil && time.Now().Before(c.until) {
		return nil, c.err
	}
	rt, err := c.search(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c.found, c.err, c.until = rt, err, time.Now().Add(10*time.Second)
	return rt, err
}

func (c *chooser) search(ctx context.Context) (*ociRuntime, error) {
	names := runtimes
	if c.want != "" {
		names = []string{c.want}
	}
	var tried []string
	for _, n := range names {
		at, err := exec.LookPath(n)
		if err != nil {
			continue
		}
		if at, err = filepath.Abs(at); err != nil {
			continue
		}
		rt := &ociRuntime{path: at, name: filepath.Base(at)}
		if err := rt.try(ctx, c.dir); err != nil {
			tried = append(tried, fmt.Sprintf("%s: %v", n, err))
			continue
		}
		return rt, nil
	}
	if len(tried) == 0 {
		return nil, waybill.E(waybill.KindUnavailable, "there is no OCI runtime here: looked for %s", strings.Join(names, ", ")).
			WithHint("install one, on Debian with: apt-get install runc")
	}
	return nil, waybill.E(waybill.KindUnavailable, "no OCI runtime can make a container here: %s", strings.Join(tried, "; ")).
		WithHint("apt-get install runc, and let the server run as root or where users may make namespaces")
}

// Trials have names by which those of a server that was killed are found.
const (
	tryPrefix = "try-"
	tryGroup  = "/waybill"
)

// try makes a container of nothing but the first process, which finds no program to start.
func (rt *ociRuntime) try(ctx context.Context, dir string) error {
	if len(initCode) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	dir, err := os.MkdirTemp(dir, tryPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
		return err
	}
	program := filepath.Join(dir, "init")
	if err := os.WriteFile(program, initProgram(), 0o755); err != nil {
		return err
	}
	b := &bundle{
		args: []string{"/nothing"}, cwd: "/", root: "root", settings: &container.Settings{}, network: container.NetworkNone,
		cgroup: path.Join(tryGroup, filepath.Base(dir)), rootless: os.Geteuid() != 0,
	}
	b.binds = append(b.binds, bind(program, initPath, "ro"))
	if err := writeConfig(dir, b); err != nil {
		return err
	}
	id := "waybill-" + filepath.Base(dir)
	state := filepath.Join(dir, "state")
	var errs bytes.Buffer
	cmd := rt.command(ctx, state, "run", "--bundle", dir, id)
	cmd.Stderr = &errs
	err = cmd.Run()
	rt.delete(context.WithoutCancel(ctx), state, id)
	limits := findControllers()
	_ = limits.prune(b.cgroup)
	limits.forget(tryGroup)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 127 && errs.Len() == 0 {
		return nil
	}
	if text := strings.TrimSpace(errs.String()); text != "" {
		return errors.New(container.Clean(errors.New(text)))
	}
	if err == nil {
		err = errors.New("it ended as no container does")
	}
	return err
}

func writeConfig(dir string, b *bundle) error {
	text, err := json.Marshal(b.config())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, configFile), text, 0o600)
}

const configFile = "config.json"

func (rt *ociRuntime) command(ctx context.Context, state string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, rt.path, append([]string{"--root", state}, args...)...)
	cmd.Env = runtimeEnv()
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// runtimeEnv is the environment of a runtime, which needs next to nothing.
func runtimeEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"XDG_RUNTIME_DIR", "HOME"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// delete removes a container with all that runs in it. One that is not there is none to
// be removed.
func (rt *ociRuntime) delete(ctx context.Context, state, id string) error {
	if _, err := os.Stat(filepath.Join(state, id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := rt.command(ctx, state, "delete", "--force", id).CombinedOutput()
	if _, serr := os.Stat(filepath.Join(state, id)); errors.Is(serr, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s delete: %w: %s", rt.name, err, container.Clean(errors.New(strings.TrimSpace(string(out)))))
	}
	return nil
}

// memoryDir finds a folder that is in memory, because what the runtimes are told must not
// reach a disk. It reports false when there is none and dir is returned instead.
func memoryDir(instance, dir string) (string, bool, error) {
	var candidates []string
	if os.Geteuid() == 0 {
		candidates = append(candidates, "/run/waybill")
	} else if x := os.Getenv("XDG_RUNTIME_DIR"); x != "" {
		candidates = append(candidates, filepath.Join(x, "waybill"))
	}
	candidates = append(candidates, fmt.Sprintf("/dev/shm/waybill-%d", os.Geteuid()))
	for _, c := range candidates {
		var fs unix.Statfs_t
		if unix.Statfs(filepath.Dir(c), &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
			continue
		}
		full := filepath.Join(c, instance)
		if os.MkdirAll(full, 0o700) != nil {
			continue
		}
		// Whoever else may write there must not have made it.
		var st unix.Stat_t
		if unix.Lstat(c, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == os.Geteuid() && st.Mode&0o077 == 0 {
			return full, true, nil
		}
	}
	full := filepath.Join(dir, "run")
	return full, false, os.MkdirAll(full, 0o700)
}
