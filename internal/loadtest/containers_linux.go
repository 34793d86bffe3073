package loadtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

const (
	containerRatio = 1.3 // of a step over the bare runtime
	crowd          = 200 // containers of the long pipeline
	crowdAtOnce    = 8
)

// box is a way to run containers, and what it is held against.
type box struct {
	name     string // of the figures
	runner   string
	settings string // of the runner, in waybill.yaml
	// prepare makes what the bare runtime needs and loads the image for the server. It
	// returns how one container is run without Waybill.
	prepare func(ctx context.Context, b *box, srv *server, image, archive string) (bare func(context.Context) (time.Duration, error), err error)
	missing string // why it is not here
}

func boxes() []box {
	all := []box{
		{name: "oci with runc", runner: "oci", settings: "runtime: runc", prepare: prepareRuntime("runc"), missing: absent("runc")},
		{name: "oci with crun", runner: "oci", settings: "runtime: crun", prepare: prepareRuntime("crun"), missing: absent("crun")},
		{name: "docker", runner: "docker", prepare: prepareDocker, missing: absent("docker")},
	}
	return all
}

func boxNames() []string {
	var names []string
	for _, b := range boxes() {
		names = append(names, b.name)
	}
	return names
}

func absent(program string) string {
	if _, err := exec.LookPath(program); err != nil {
		return program + " is not installed"
	}
	return ""
}

// containers measures what a step costs over the container that it runs in, and whether
// any of very many is lost or left.
func containers(ctx context.Context, o *options, s *sheet) error {
	measured := 0
	for _, b := range boxes() {
		if len(o.only) > 0 && !slices.Contains(o.only, b.name) {
			continue
		}
		if b.missing == "" && b.runner == "docker" {
			if out, err := exec.CommandContext(ctx, "docker", "info").CombinedOutput(); err != nil {
				b.missing = "no engine answers: " + lastLine(out)
			}
		}
		if b.missing != "" {
			if len(o.only) > 0 {
				return waybill.E(waybill.KindUnavailable, "%s: %s", b.name, b.missing)
			}
			o.note("%s is left out: %s", b.name, b.missing)
			continue
		}
		err := b.measure(ctx, o, s)
		if unfit := (*unfit)(nil); errors.As(err, &unfit) && len(o.only) == 0 {
			o.note("%s is left out: %v", b.name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		measured++
	}
	if measured == 0 {
		return waybill.E(waybill.KindUnavailable, "there is neither runc nor crun nor Docker here")
	}
	return nil
}

// unfit is the error of a runtime that does not run containers here by itself.
type unfit struct{ error }

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func (b box) measure(ctx context.Context, o *options, s *sheet) error {
	dir, err := os.MkdirTemp("", "waybill-loadtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "exit")
	code, err := exitProgram(runtime.GOARCH)
	if err != nil {
		return err
	}
	if err := os.WriteFile(program, code, 0o755); err != nil {
		return err
	}
	image := fmt.Sprintf("waybill-loadtest/exit:%d", os.Getpid())
	archive := filepath.Join(dir, "image.tar")
	if err := o.Pack(program, image, archive); err != nil {
		return err
	}
	cells := make([]string, crowd)
	for i := range cells {
		cells[i] = fmt.Sprint(i)
	}
	step := fmt.Sprintf("name: only, runner: %s, image: '%s', run: [/bin/exit], with: {pull: never, network: none}", b.runner, image)
	with := *o
	with.files = map[string]string{
		"waybill.yaml":             fmt.Sprintf("name: loadtest\nrunners:\n  %s: {%s}\n", b.runner, b.settings),
		"pipelines/contained.yaml": "name: contained\non: {http: {}}\nsteps:\n  - {" + step + "}\n",
		"pipelines/crowd.yaml": fmt.Sprintf("name: crowd\non: {http: {}}\nsteps:\n  - {%s, matrix: {values: {n: [%s]}, max_parallel: %d, fail_fast: false}}\n",
			step, strings.Join(cells, ", "), crowdAtOnce),
	}
	if b.settings == "" {
		with.files["waybill.yaml"] = "name: loadtest\n"
	}
	return onServer(ctx, &with, func(srv *server) error {
		bare, err := b.prepare(ctx, &b, srv, image, archive)
		if err != nil {
			return err
		}
		if err := b.overhead(ctx, srv, s, bare); err != nil {
			return err
		}
		return b.crowd(ctx, srv, s)
	})
}

// overhead runs one container at a time, with and without Waybill in turn, so that both
// see the same machine.
func (b *box) overhead(ctx context.Context, srv *server, s *sheet, bare func(context.Context) (time.Duration, error)) error {
	n := 60
	if srv.o.quick {
		n = 15
	}
	srv.o.note("%s: %d containers, one at a time", b.name, n)
	var ours, theirs times
	for i := range n + 3 {
		t, err := bare(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		run, err := srv.StartRun(ctx, "contained", client.StartRun{}, "")
		if err != nil {
			return err
		}
		var done time.Duration
		if err := srv.FollowEvents(ctx, run.ID, "", func(r client.Record) error {
			if r.Kind == "run.ended" {
				done = r.At.Sub(began)
			}
			return nil
		}); err != nil {
			return err
		}
		if d, err := srv.Run(ctx, run.ID); err != nil || d.Status != waybill.StatusSucceeded {
			return fmt.Errorf("run %s is %s: %s (%w)", run.ID, d.Status, d.Error, err)
		}
		// What is removed after the end is not counted, and shall not run beside the next.
		if err := srv.unitsGone(ctx); err != nil {
			return err
		}
		if i >= 3 { // the first ones fill caches
			ours, theirs = append(ours, done), append(theirs, t)
		}
	}
	s.add(b.name+": bare p50", theirs.at(.5), "ms", bar{}, "the runtime alone, a program that ends at once")
	s.add(b.name+": step p50", ours.at(.5), "ms", bar{}, "from the request until the run has ended")
	s.add(b.name+": ratio p50", ours.at(.5)/theirs.at(.5), "×", atMost(containerRatio), "p99 %s ms over %s ms", number(ours.at(.99)), number(theirs.at(.99)))
	return nil
}

// unitsGone waits until no unit is left, and returns how many there were at last.
func (s *server) unitsGone(ctx context.Context) error {
	for began := time.Now(); ; {
		l, err := s.Units(ctx)
		if err != nil {
			return err
		}
		if len(l.Items) == 0 {
			return nil
		}
		if time.Since(began) > 2*time.Minute {
			return fmt.Errorf("%d units are left: %+v", len(l.Items), l.Items[0])
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// crowd runs very many containers, some at a time, and counts.
func (b *box) crowd(ctx context.Context, srv *server, s *sheet) error {
	srv.o.note("%s: %d containers, %d at a time", b.name, crowd, crowdAtOnce)
	began := time.Now()
	run, err := srv.StartRun(ctx, "crowd", client.StartRun{}, "")
	if err != nil {
		return err
	}
	if err := srv.FollowEvents(ctx, run.ID, "", func(client.Record) error { return nil }); err != nil {
		return err
	}
	took := time.Since(began)
	d, err := srv.Run(ctx, run.ID)
	if err != nil {
		return err
	}
	good, tries := 0, 0
	for _, st := range d.Steps {
		if st.Cell != nil {
			tries += st.Attempts
			if st.Status == waybill.StatusSucceeded {
				good++
			}
		}
	}
	left := 0
	if err := srv.unitsGone(ctx); err != nil {
		l, lerr := srv.Units(ctx)
		if lerr != nil {
			return errors.Join(err, lerr)
		}
		left = len(l.Items)
	}
	s.add(b.name+": lost", float64(crowd-good), "containers", atMost(0), "of %d, %d at a time", crowd, crowdAtOnce)
	s.add(b.name+": tried again", float64(tries-crowd), "times", atMost(0), "")
	s.add(b.name+": left", float64(left), "containers", atMost(0), "when all is removed, the last after %s s", number(time.Since(began).Seconds()))
	s.add(b.name+": rate", crowd/took.Seconds(), "/s", bar{}, "%d at a time", crowdAtOnce)
	return nil
}

// prepareRuntime makes a bundle of the same image for a runtime. It has the namespaces
// that a step has, and a root that cannot be written.
func prepareRuntime(program string) func(context.Context, *box, *server, string, string) (func(context.Context) (time.Duration, error), error) {
	return func(ctx context.Context, b *box, srv *server, image, archive string) (func(context.Context) (time.Duration, error), error) {
		f, err := os.Open(archive)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if _, err := srv.LoadImage(ctx, f, ""); err != nil {
			return nil, err
		}
		bundle := srv.path("bundle")
		root := filepath.Join(bundle, "rootfs")
		for _, d := range []string{"bin", "proc", "dev", "sys", "tmp"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return nil, err
			}
		}
		code, err := exitProgram(runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(root, "bin", "exit"), code, 0o755); err != nil {
			return nil, err
		}
		if out, err := exec.CommandContext(ctx, program, "spec", "--bundle", bundle).CombinedOutput(); err != nil {
			cmd := exec.CommandContext(ctx, program, "spec") // crun knows no --bundle here
			cmd.Dir = bundle
			if again, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%s spec: %w: %s%s", program, err, out, again)
			}
		}
		config := filepath.Join(bundle, "config.json")
		text, err := os.ReadFile(config)
		if err != nil {
			return nil, err
		}
		var spec map[string]any
		if err := json.Unmarshal(text, &spec); err != nil {
			return nil, err
		}
		process, ok := spec["process"].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s spec writes no process", program)
		}
		process["terminal"], process["args"] = false, []string{"/bin/exit"}
		if text, err = json.Marshal(spec); err != nil {
			return nil, err
		}
		if err := os.WriteFile(config, text, 0o644); err != nil {
			return nil, err
		}
		state, n := srv.path("state"), 0
		bare := func(ctx context.Context) (time.Duration, error) {
			n++
			cmd := exec.CommandContext(ctx, program, "--root", state, "run", "--bundle", bundle, fmt.Sprintf("waybill-loadtest-%d-%d", os.Getpid(), n))
			began := time.Now()
			out, err := cmd.CombinedOutput()
			took := time.Since(began)
			if err != nil {
				return 0, fmt.Errorf("%s run: %w: %s", program, err, bytes.TrimSpace(out))
			}
			return took, nil
		}
		if _, err := bare(ctx); err != nil {
			return nil, &unfit{err}
		}
		return bare, nil
	}
}

// prepareDocker loads the image into the engine.
func prepareDocker(ctx context.Context, b *box, srv *server, image, archive string) (func(context.Context) (time.Duration, error), error) {
	docker := func(ctx context.Context, args ...string) error {
		if out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("docker %s: %w: %s", args[0], err, bytes.TrimSpace(out))
		}
		return nil
	}
	if err := docker(ctx, "load", "-i", archive); err != nil {
		return nil, err
	}
	drop := srv.drop
	srv.drop = func() {
		// What cannot be removed is only a leftover.
		_ = docker(context.WithoutCancel(ctx), "image", "rm", "-f", image)
		drop()
	}
	n := 0
	return func(ctx context.Context) (time.Duration, error) {
		n++
		name := fmt.Sprintf("waybill-loadtest-%d-%d", os.Getpid(), n)
		began := time.Now()
		err := docker(ctx, "run", "--name", name, "--network", "none", "--read-only", "--entrypoint", "/bin/exit", image)
		took := time.Since(began)
		return took, errors.Join(err, docker(context.WithoutCancel(ctx), "rm", "-f", name))
	}, nil
}

// exitProgram is the smallest program that ends well: the header of an executable and
// the call exit_group(0). What a container costs is not hidden behind what runs in it.
func exitProgram(arch string) ([]byte, error) {
	var machine uint16
	var code []byte
	switch arch {
	case "amd64":
		machine, code = 62, []byte{0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov eax, 231; xor edi, edi; syscall
	case "arm64":
		machine, code = 183, []byte{0xc8, 0x0b, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4} // mov x8, 94; mov x0, 0; svc 0
	default:
		return nil, waybill.E(waybill.KindUnsupported, "containers are measured on amd64 and arm64 only")
	}
	const base, header = 0x400000, 64 + 56
	size := uint64(header + len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), machine, uint32(1), uint64(base + header), uint64(64), uint64(0), uint32(0), // an executable; where it begins, where its segments are told
		uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // all of it is loaded, to be read and executed
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	b.Write(code)
	return b.Bytes(), nil
}
