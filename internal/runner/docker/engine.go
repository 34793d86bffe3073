package docker

import (
	"context"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
)

// engine is what is asked of one once.
type engine struct {
	version string // API
	arch    string
	driver  string // of logs
	podman  bool
}

func (r *Runner) heard() {
	r.mu.Lock()
	r.seen = time.Now()
	r.mu.Unlock()
}

// Available reports whether an engine answers and can run units. It is cheap.
func (r *Runner) Available(ctx context.Context) bool { return r.Ready(ctx) == nil }

// Ready says why units cannot be started now, nil when they can. The engine is asked for
// a sign of life, at most once in a second.
func (r *Runner) Ready(ctx context.Context) error {
	if err := r.checkProgram(); err != nil {
		return err
	}
	r.mu.Lock()
	fresh := time.Since(r.seen) < time.Second
	r.mu.Unlock()
	if fresh {
		return nil
	}
	bound, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := r.api.Ping(bound, client.PingOptions{}); err != nil {
		return r.fault(ctx, "reach", "docker", err)
	}
	r.heard()
	return nil
}

// absent reports whether there is no engine and nobody said that there is one: its socket
// was looked for where engines have theirs, is not there, and has not answered since.
func (r *Runner) absent() bool {
	socket, local := strings.CutPrefix(r.api.DaemonHost(), "unix://")
	if !local || r.o.Host != "" || os.Getenv(client.EnvOverrideHost) != "" {
		return false
	}
	r.mu.Lock()
	seen := !r.seen.IsZero()
	r.mu.Unlock()
	_, err := os.Stat(socket)
	return !seen && os.IsNotExist(err)
}

// Host is the engine's address.
func (r *Runner) Host() string { return r.api.DaemonHost() }

// checkProgram checks that this program can run in a container.
func (r *Runner) checkProgram() error {
	f, err := elf.Open(r.o.Program)
	if err != nil {
		return waybill.E(waybill.KindUnsupported, "the runner docker puts this program into containers and cannot read it: %v", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return waybill.E(waybill.KindUnsupported, "the runner docker puts this program into containers, and %s is not static", filepath.Base(r.o.Program)).
				WithHint("build it with CGO_ENABLED=0")
		}
	}
	return nil
}

var architectures = map[string]elf.Machine{
	"x86_64": elf.EM_X86_64, "amd64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64, "arm64": elf.EM_AARCH64,
}

// know asks the engine what it is.
func (r *Runner) know(ctx context.Context) (engine, error) {
	r.mu.Lock()
	known := r.engine
	r.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	if err := r.checkProgram(); err != nil {
		return engine{}, err
	}
	got, err := call(ctx, r, func(ctx context.Context) (client.SystemInfoResult, error) {
		return r.api.Info(ctx, client.InfoOptions{})
	})
	if err != nil {
		return engine{}, r.fault(ctx, "ask", "the engine", err)
	}
	e := engine{version: r.api.ClientVersion(), arch: got.Info.Architecture, driver: "json-file"}
	// Local keeps bytes as they are; the others make text of them.
	for _, d := range []string{"local", "json-file", "k8s-file"} {
		if slices.Contains(got.Info.Plugins.Log, d) {
			e.driver = d
			break
		}
	}
	f, err := elf.Open(r.o.Program)
	if err != nil {
		return engine{}, waybill.E(waybill.KindUnsupported, "%v", err)
	}
	defer f.Close()
	if m, ok := architectures[e.arch]; ok && m != f.Machine {
		return engine{}, waybill.E(waybill.KindUnsupported, "the engine's machine is %s, and this program is for another (%s)", e.arch, f.Machine).
			WithHint("use a server of the engine's architecture, or the runner kubernetes")
	}
	r.mu.Lock()
	r.engine = &e
	r.mu.Unlock()
	return e, nil
}

// programFile is this program as containers get it.
func (r *Runner) programFile() (string, error) {
	info, err := os.Stat(r.o.Program)
	if err != nil {
		return "", waybill.E(waybill.KindUnavailable, "%v", err)
	}
	if info.Mode()&0o005 != 0o005 {
		return "", waybill.E(waybill.KindInvalid, "%s is not readable and executable by all users, and units may be of any", r.o.Program).
			WithHint("chmod 755 %s", r.o.Program)
	}
	return r.o.Program, nil
}
