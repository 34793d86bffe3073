package oci_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/oci"
)

// serverMain starts the units that it is told of, and waits to be killed.
func serverMain(dir, specs string, remove bool) error {
	b, err := os.ReadFile(specs)
	if err != nil {
		return err
	}
	var all []runner.Spec
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	r, err := openRunner(dir, oci.Config{}, os.Stderr)
	if err != nil {
		return err
	}
	for _, sp := range all {
		h, err := r.Start(context.Background(), sp)
		if err == nil && remove {
			err = r.Remove(context.Background(), h)
		}
		if err != nil {
			return err
		}
	}
	fmt.Println("ready")
	select {}
}

// A server that is killed at any moment of a start leaves what the next one goes on with:
// every unit is executed once, and nothing is left of it in the end.
func TestServerKilled(t *testing.T) {
	need(t)
	_, s := newRunner(t, setup{})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		var specs []runner.Spec
		for i := range 3 {
			specs = append(specs, spec(t, fmt.Sprintf("killed-%d-%d", round, i), map[string]any{"network": []string{"none", "bridge"}[i%2]}, "echo executed; sleep 0.2; exit 4"))
		}
		list := filepath.Join(t.TempDir(), "specs")
		b, err := json.Marshal(specs)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(list, b, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, s.dir, list)
		cmd.Env = append(os.Environ(), "OCI_TEST_ROLE=server")
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond) // the moment is the subject
		cmd.Process.Kill()
		cmd.Wait()
		r := open(t, s)
		for _, sp := range specs {
			h := start(t, r, sp)
			if e := wait(t, r, h); e.Code != 4 {
				t.Errorf("%s: exit = %+v", sp.Unit, e)
			}
			if b, _ := os.ReadFile(sp.Log); string(b) != "executed\n" {
				t.Errorf("%s: log %q, want one execution", sp.Unit, b)
			}
			remove(t, r, h)
		}
		if units, err := r.List(t.Context()); err != nil || len(units) != 0 {
			t.Errorf("left: %v, %v", units, err)
		}
		r.Close()
	}
}

// The runtime is killed while it starts a unit: the unit ends, and not as a success.
func TestRuntimeKilled(t *testing.T) {
	need(t)
	dir := t.TempDir()
	wrapper := filepath.Join(dir, "runtime")
	text := `#!/bin/sh
case "$*" in
*--detach*) runc "$@" & sleep 0.0$(cat ` + dir + `/moment); kill -9 $! $$ ;;
*) exec runc "$@" ;;
esac
`
	if err := os.WriteFile(wrapper, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	r, _ := newRunner(t, setup{config: oci.Config{Runtime: wrapper}})
	for round := range 10 {
		if err := os.WriteFile(filepath.Join(dir, "moment"), []byte(strconv.Itoa(round)), 0o600); err != nil {
			t.Fatal(err)
		}
		sp := spec(t, fmt.Sprintf("runtime-%d", round), map[string]any{"network": "bridge"}, "sleep 1000")
		h := start(t, r, sp)
		e := wait(t, r, h)
		if e.OK() {
			t.Errorf("round %d: exit = %+v", round, e)
		}
		remove(t, r, h)
		if left := inside(t, sp.Unit); len(left) > 0 {
			t.Errorf("round %d: processes are left: %v", round, left)
		}
	}
}

// Units do not survive their supervisor, and are lost then.
func TestSupervisorKilled(t *testing.T) {
	need(t)
	r, s := newRunner(t, setup{})
	sp := spec(t, "orphan", nil, "echo ready; sleep 1000")
	h := start(t, r, sp)
	eventually(t, "the unit runs", logged(sp, "ready"))
	pid := supervisorPID(t, filepath.Join(s.dir, "supervisor"))
	if pid == 0 {
		t.Fatal("there is no supervisor")
	}
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(t.Context(), h); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("wait: %v, want kind lost", err)
	}
	// A start of the same name starts nothing.
	if _, err := r.Start(t.Context(), sp); err != nil {
		t.Errorf("start again: %v", err)
	}
	if _, err := r.Wait(t.Context(), h); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("wait: %v, want kind lost", err)
	}
	if b, _ := os.ReadFile(sp.Log); strings.Count(string(b), "ready") != 1 {
		t.Errorf("log %q, want one execution", b)
	}
	remove(t, r, h)
	eventually(t, "its processes are gone", func() bool { return len(inside(t, "orphan")) == 0 })
}

// inside lists the processes of a unit, which are known by their control group.
func inside(t testing.TB, unit string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "/"+unit+"\n") {
			out = append(out, filepath.Dir(path))
		}
	}
	return out
}

func supervisorPID(t testing.TB, dir string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		b, _ := os.ReadFile(path)
		if args := strings.Split(string(b), "\x00"); len(args) > 1 && args[1] == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// What a server leaves that was killed, and whose data was removed then, goes with the
// next server.
func TestInherit(t *testing.T) {
	need(t)
	dead := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sp := spec(t, "only", map[string]any{"network": "bridge"}, "true")
	b, err := json.Marshal([]runner.Spec{sp})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "specs")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, dead, list, "remove")
	cmd.Env = append(os.Environ(), "OCI_TEST_ROLE=server")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the server did not get so far: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	awaitIdle(t, filepath.Join(dead, "supervisor"))
	text, err := os.ReadFile(filepath.Join(dead, "oci", "instance"))
	if err != nil {
		t.Fatal(err)
	}
	bridge := "/sys/class/net/wb" + strings.TrimSpace(string(text))[:10]
	next := func() {
		r, _ := newRunner(t, setup{})
		if _, err := r.Gateway(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	next()
	if _, err := os.Stat(bridge); err != nil {
		t.Errorf("the bridge of a server whose data is there was removed: %v", err)
	}
	if err := os.RemoveAll(dead); err != nil {
		t.Fatal(err)
	}
	next()
	eventually(t, "the bridge of a server whose data is gone goes", func() bool { // perhaps by yet another server
		_, err := os.Stat(bridge)
		return err != nil
	})
}
