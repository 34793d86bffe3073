package oci_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/oci"
	"github.com/waybill-run/waybill/internal/runner/process"
)

// nobody is a user that has no rights here.
const nobody = 64321

// TestRootless runs units in a server of a user without privileges, which is this program
// once more.
func TestRootless(t *testing.T) {
	img := baseImage(t)
	dir, err := os.MkdirTemp("/tmp", "waybill-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "program")
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	f, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(f, self)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, program} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, dir, img)
	cmd.Env = []string{"OCI_TEST_ROLE=rootless", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errs.String())
	}
	var got struct {
		Units  map[string]ran
		Errors map[string]string
		Left   []string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errs.String())
	}
	defer func() {
		if t.Failed() {
			t.Logf("errors: %v\n%s", got.Errors, errs.String())
		}
	}()
	want := map[string]ran{
		"plain":   {Log: "0 /waybill/work yes\nread only\nwritten\n"},
		"written": {Log: "root yes\n", Writable: true},
		"code":    {Code: 7},
		"signal":  {Code: -1, Signal: "SIGKILL"},
	}
	for name, w := range want {
		g := got.Units[name]
		if g.Log != w.Log || g.Code != w.Code || g.Signal != w.Signal || g.Reason != w.Reason {
			t.Errorf("%s: %+v, want %+v", name, g, w)
		}
	}
	if u := got.Units["user"]; u.Reason != runner.ReasonStartFailed || !strings.Contains(u.Message, "without privileges") {
		t.Errorf("another user: %+v", u)
	}
	for name, word := range map[string]string{"bridge": "network: host", "memory": "cannot be enforced"} {
		if !strings.Contains(got.Errors[name], word) {
			t.Errorf("%s: error %q, want it to say %q", name, got.Errors[name], word)
		}
	}
	if len(got.Left) > 0 {
		t.Errorf("left: %v", got.Left)
	}
}

type ran struct {
	Log, Signal, Reason, Message string
	Code                         int
	Writable                     bool
}

// rootlessMain is the server of TestRootless.
func rootlessMain(dir, img string) error {
	ctx := context.Background()
	sup := filepath.Join(dir, "supervisor")
	in, err := process.New(process.Options{Dir: sup, Command: []string{filepath.Join(dir, "program"), sup}, Env: []string{"OCI_TEST_ROLE=supervisor", "PATH=" + os.Getenv("PATH")}, Handover: true})
	if err != nil {
		return err
	}
	r, err := oci.New(oci.Options{Dir: filepath.Join(dir, "oci"), Inner: in, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	defer r.Close()
	units, faults := map[string]ran{}, map[string]string{}
	for name, c := range map[string]struct {
		with   map[string]any
		script string
	}{
		"plain":   {nil, `echo "$(id -u) $(pwd) $FROM_IMAGE"; echo x 2>/dev/null > /data/new || echo read only; echo y > made && cat made >/dev/null && echo written`},
		"written": {map[string]any{"writable": true, "network": "none"}, `echo x > /new && echo root yes`},
		"code":    {nil, "exit 7"},
		"signal":  {nil, "kill -KILL $$"},
		"user":    {map[string]any{"user": "worker"}, "true"},
		"bridge":  {map[string]any{"network": "bridge"}, "true"},
		"memory":  {map[string]any{"memory": "64MiB"}, "true"},
	} {
		home := filepath.Join(dir, "home-"+name)
		if err := os.MkdirAll(filepath.Join(home, container.Work), 0o700); err != nil {
			return err
		}
		all := map[string]any{"image": img}
		for k, v := range c.with {
			all[k] = v
		}
		with, _ := json.Marshal(all)
		h, err := r.Start(ctx, runner.Spec{Unit: "u-" + name, Args: []string{"/bin/sh", "-c", c.script}, With: with, Dir: home, Log: home + ".log"})
		if err != nil {
			faults[name] = err.Error()
			if e := (*waybill.Error)(nil); errors.As(err, &e) {
				faults[name] += "; " + e.Hint
			}
			continue
		}
		e, err := r.Wait(ctx, h)
		if err != nil {
			return err
		}
		log, _ := os.ReadFile(home + ".log")
		units[name] = ran{Log: string(log), Signal: e.Signal, Reason: e.Reason, Message: e.Message, Code: e.Code}
		if err := r.Remove(ctx, h); err != nil {
			return err
		}
	}
	var left []string
	entries, _ := os.ReadDir(filepath.Join(dir, "oci", "units"))
	for _, e := range entries {
		left = append(left, e.Name())
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"Units": units, "Errors": faults, "Left": left})
}
