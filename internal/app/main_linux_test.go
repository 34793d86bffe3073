package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/runner/process"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

// TestMain lets the test binary be the supervisor of a server's processes, too,
// and sees that nothing of all the servers is left in the end.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "test-supervisor" {
		err := process.Supervise(context.Background(), os.Args[2], process.SupervisorOptions{
			IdleExit: 100 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	pgtest.Stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintf(os.Stderr, "servers that were stopped left goroutines: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// config is that of a server on a free port with a new data directory and a
// project of these files.
func config(t *testing.T, files map[string]string) Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	c := Config{
		Data: filepath.Join(work, "data"), Project: filepath.Join(work, "project"), Listen: "127.0.0.1:0",
		Supervisor: []string{exe, "test-supervisor"},
	}
	if err := os.MkdirAll(c.Project, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(c.Project, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "{{dir}}", work)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { awaitSupervisor(t, c.Data) })
	return c
}

// awaitSupervisor returns when no supervisor uses a data directory.
func awaitSupervisor(t *testing.T, data string) {
	f, err := os.Open(filepath.Join(data, "supervisor", "supervisor.lock"))
	if err != nil {
		return
	}
	defer f.Close()
	eventually(t, "the supervisor leaves", func() bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil })
}

func start(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() }) // those that matter are stopped by their test
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// caller is a client whose connections end with each answer.
func caller() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
}

func clientOf(t *testing.T, url, token string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Server: url, Token: token, HTTP: caller(), RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func begin(t *testing.T, c *client.Client, pipeline string) string {
	t.Helper()
	r, err := c.StartRun(t.Context(), pipeline, client.StartRun{}, "")
	if err != nil {
		t.Fatalf("start %s: %v", pipeline, err)
	}
	return r.ID
}

func succeeds(t *testing.T, c *client.Client, id string) client.RunDetail {
	t.Helper()
	var r client.RunDetail
	eventually(t, "run "+id+" ends", func() bool {
		var err error
		if r, err = c.Run(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return !r.FinishedAt.IsZero()
	})
	if r.Status != "succeeded" {
		t.Errorf("run %s: %s: %s", id, r.Status, r.Error)
	}
	return r
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func needs(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("WAYBILL_REQUIRE_ALL") == "1":
		t.Fatalf("this test needs %s", what)
	default:
		t.Skipf("this test needs %s", what)
	}
}

// smallDisk is a folder with room for so much.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	needs(t, os.Getuid() == 0, "root, to mount a small disk")
	dir := t.TempDir()
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput()
	needs(t, err == nil, fmt.Sprintf("mounts: %v: %s", err, out))
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmount: %v", err)
			}
		}
	})
	return dir
}

// fillDisk writes a file until nothing more fits.
func fillDisk(t *testing.T, dir string) (ballast string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size >= 512; {
		if n, err := f.WriteString(strings.Repeat("x", size)); err != nil || n < size {
			size /= 2
		}
	}
	return f.Name()
}
