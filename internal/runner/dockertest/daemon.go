// Package dockertest starts real engines of Docker for tests, each with a socket, a
// folder and networks of its own, and puts faults in front of them.
package dockertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is an engine. Its methods are for one goroutine at a time.
type Daemon struct {
	dir  string
	host string     // of an engine that is not ours
	done chan error // has the end of the process that runs now
	pid  int
}

// Missing says what an engine needs and is not here; empty when everything is.
func Missing() string {
	if os.Geteuid() != 0 {
		return "an engine for tests needs root"
	}
	for _, program := range []string{"dockerd", "containerd", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return program + " is not installed; the package docker.io has it"
		}
	}
	return ""
}

// Need skips a test where an engine cannot be started, or fails it if
// WAYBILL_REQUIRE_ALL is 1.
func Need(t testing.TB) {
	t.Helper()
	switch why := Missing(); {
	case why == "":
	case os.Getenv("WAYBILL_REQUIRE_ALL") == "1":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// Start starts an engine and returns when it answers. It ends with Stop, and with this
// process.
func Start() (*Daemon, error) {
	dir, err := os.MkdirTemp("", "waybill-docker-")
	if err != nil {
		return nil, err
	}
	d := &Daemon{dir: dir}
	if err := d.Restart(); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// At is an engine that somebody else has started, and that does not end with Stop. It has
// a socket: unix:///path.
func At(host string) *Daemon { return &Daemon{host: host} }

// Socket is the path of the engine's socket.
func (d *Daemon) Socket() string {
	if d.host != "" {
		return strings.TrimPrefix(d.host, "unix://")
	}
	return filepath.Join(d.dir, "docker.sock")
}

// Host is the engine's address.
func (d *Daemon) Host() string { return "unix://" + d.Socket() }

// Restart starts the engine again after Kill or Terminate.
func (d *Daemon) Restart() error {
	// The engine's own child ends with it, but not at once: one that is found dying would
	// be waited for in vain.
	d.endContainerd()
	_ = os.Remove(filepath.Join(d.dir, "docker.pid"))
	out, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// Neither a bridge nor rules of its own on this machine: tests make their networks.
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"),
		"--pidfile", filepath.Join(d.dir, "docker.pid"), "--host", d.Host(), "--bridge", "none", "--iptables=false", "--ip6tables=false",
		"--userland-proxy=false", "--default-address-pool", "base=10.208.0.0/12,size=24", "--max-download-attempts", "1", "--shutdown-timeout", "1", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started, done := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // its end would be taken for that of this process
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	d.pid, d.done = cmd.Process.Pid, done
	return d.await()
}

// empty removes what would outlive the engine: containers, and the networks that are
// devices of this machine.
func (d *Daemon) empty() {
	c := d.client(30 * time.Second)
	for _, kind := range []struct{ list, remove, query string }{
		{"/containers/json?all=1", "/containers/", "?force=1&v=1"}, {"/networks", "/networks/", ""},
	} {
		res, err := c.Get("http://docker" + kind.list)
		if err != nil {
			return
		}
		var items []struct{ ID, Name, Driver string }
		err = json.NewDecoder(res.Body).Decode(&items)
		_ = res.Body.Close()
		if err != nil {
			return
		}
		for _, i := range items {
			q, err := http.NewRequest(http.MethodDelete, "http://docker"+kind.remove+i.ID+kind.query, nil)
			if err != nil || i.Driver == "host" || i.Driver == "null" {
				continue
			}
			if res, err := c.Do(q); err == nil {
				_ = res.Body.Close()
			}
		}
	}
}

func (d *Daemon) client(limit time.Duration) *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket())
	}}}
}

func (d *Daemon) await() error {
	c := d.client(2 * time.Second)
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-d.done:
			d.done <- err
			return fmt.Errorf("dockerd ended: %w\n%s", err, d.tail())
		default:
		}
		if res, err := c.Get("http://docker/_ping"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return fmt.Errorf("dockerd does not answer\n%s", d.tail())
}

func (d *Daemon) tail() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b[max(0, len(b)-3000):])
}

// Kill ends the engine as a crash does; what it started goes on.
func (d *Daemon) Kill() { d.end(syscall.SIGKILL) }

// Terminate ends the engine in good order, and its containers with it.
func (d *Daemon) Terminate() { d.end(syscall.SIGTERM) }

// Pause lets the engine hang, until Continue.
func (d *Daemon) Pause() { _ = syscall.Kill(d.pid, syscall.SIGSTOP) }

// Continue lets it go on.
func (d *Daemon) Continue() { _ = syscall.Kill(d.pid, syscall.SIGCONT) }

func (d *Daemon) end(sig syscall.Signal) {
	if d.pid == 0 {
		return
	}
	_ = syscall.Kill(d.pid, syscall.SIGCONT)
	_ = syscall.Kill(d.pid, sig)
	select {
	case <-d.done:
	case <-time.After(60 * time.Second):
		_ = syscall.Kill(d.pid, syscall.SIGKILL)
		<-d.done
	}
	d.pid = 0
}

// Stop ends the engine and everything it started, and removes its folder.
func (d *Daemon) Stop() error {
	if d.host != "" {
		return nil
	}
	if d.pid == 0 {
		_ = d.Restart() // only it knows its networks
	}
	d.empty()
	d.end(syscall.SIGTERM)
	// What an engine that was killed could not end.
	d.endContainerd()
	shims := d.processes()
	for _, p := range processes() {
		if slices.Contains(shims, p.parent) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // the first process of a container
		}
	}
	for _, pid := range shims {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	d.unmount()
	return os.RemoveAll(d.dir)
}

// endContainerd ends the engine's child and returns when it is gone.
func (d *Daemon) endContainerd() {
	at := filepath.Join(d.dir, "exec", "containerd", "containerd.pid")
	b, err := os.ReadFile(at)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 2 {
		return
	}
	for end := time.Now().Add(10 * time.Second); d.ours(pid) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = os.Remove(at)
}

type process struct{ pid, parent int }

// processes are all of this machine.
func processes() []process {
	var out []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		var state string
		var parent int
		if _, err := fmt.Sscan(string(b[bytes.LastIndexByte(b, ')')+1:]), &state, &parent); err == nil {
			out = append(out, process{pid: pid, parent: parent})
		}
	}
	return out
}

// processes are those that name the engine's folder.
func (d *Daemon) processes() []int {
	var out []int
	for _, p := range processes() {
		if p.pid != os.Getpid() && d.ours(p.pid) {
			out = append(out, p.pid)
		}
	}
	return out
}

// ours reports whether a process is of this engine.
func (d *Daemon) ours(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(b, []byte(d.dir+"/"))
}

// unmount takes away what is mounted below the folder.
func (d *Daemon) unmount() {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 1 && strings.HasPrefix(f[1], d.dir+"/") {
			_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
