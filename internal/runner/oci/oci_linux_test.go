package oci_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/oci"
)

// nothingLeft fails when units left a mount, a folder or a control group behind.
func nothingLeft(t testing.TB, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "oci", "instance"))
	if err != nil {
		return
	}
	instance := strings.TrimSpace(string(b))
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, instance) || strings.Contains(line, dir) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	memory, _ := filepath.Glob("/dev/shm/waybill-*/" + instance + "/*")
	more, _ := filepath.Glob("/run/waybill/" + instance + "/*")
	for _, path := range append(memory, more...) {
		if name := filepath.Base(path); name != "init" && name != "state" && name != "owner" {
			t.Errorf("left in memory: %s", path)
		}
		if left, _ := os.ReadDir(filepath.Join(filepath.Dir(path), "state")); len(left) > 0 {
			t.Errorf("the runtime still knows %v", left)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/waybill-" + instance[:8])
	if len(groups) > 0 {
		t.Errorf("control groups are left: %v", groups)
	}
	if _, err := os.Stat("/sys/class/net/wb" + instance[:10]); err == nil {
		t.Error("the bridge is left")
	}
	units, _ := os.ReadDir(filepath.Join(dir, "oci", "units"))
	if len(units) > 0 {
		t.Errorf("units are left: %v", units)
	}
	for _, path := range append(memory, more...) {
		os.RemoveAll(filepath.Dir(path))
	}
}

// decoys are a container of somebody else in the folder of our runtime, and a unit of the
// same name that is another instance's.
func decoys(t *testing.T, s setup, mine *oci.Runner, unit string) func(t *testing.T) {
	t.Helper()
	theirs, _ := newRunner(t, setup{})
	home := filepath.Join(t.TempDir(), "home")
	if err := os.MkdirAll(filepath.Join(home, container.Work), 0o755); err != nil {
		t.Fatal(err)
	}
	with, _ := json.Marshal(map[string]any{"image": baseImage(t), "network": "none"})
	h, err := theirs.Start(t.Context(), runner.Spec{
		Unit: unit, Args: []string{"/bin/sleep", "1000"}, With: with, Dir: home, Log: filepath.Join(t.TempDir(), "log"), Meta: map[string]string{"instance": "another"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := theirs.Remove(context.Background(), h); err != nil {
			t.Logf("remove the decoy: %v", err)
		}
	})
	check := func(t *testing.T) {
		t.Helper()
		if err := theirs.Recover(t.Context(), h, runner.Spec{}); err != nil {
			t.Errorf("the unit of another instance is gone: %v", err)
		}
	}
	return check
}
