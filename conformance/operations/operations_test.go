//go:build linux

// Package operations looks after the built program as an operator does: backups
// under load and with kill -9 in their middle, restores, stores that move,
// standbys that are promoted.
package operations

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { harness.Main(m) }

// soon is how long anything may take that should be done at once, on a busy machine.
const soon = 60 * time.Second

// full says whether tests run at the size that the fault table names.
var full = os.Getenv("WAYBILL_CAMPAIGN") != ""

// project has a pipeline that ends at once and leaves a log and an object, and one
// that waits until a file is there.
var project = map[string]string{
	"pipelines/quick.yaml": `name: quick
on: {http: {}}
steps:
  - name: work
    run: [./quick.sh]
    outputs: {report: {file: report.txt}}
`,
	"quick.sh": `#!/bin/sh
echo "log of $WAYBILL_RUN"
echo "report of $WAYBILL_RUN" > report.txt
`,
	"pipelines/slow.yaml": `name: slow
on: {http: {}}
steps:
  - name: wait
    run: [./slow.sh]
  - name: after
    run: [./quick.sh]
`,
	"slow.sh": `#!/bin/sh
echo waiting
while [ ! -e {{dir}}/go ]; do sleep 0.05; done
`,
	"pipelines/sim.yaml": `name: sim
on: {http: {}}
steps:
  - name: work
    runner: sim
    with: {run_for: 1ms}
`,
}

func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := try(cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args[1:], " "), err, out)
	}
	return out
}

// try runs a command and returns all that it wrote.
func try(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// finish waits until runs have ended and checks how.
func finish(t *testing.T, c *client.Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		harness.Until(t, soon, "run "+id+" ends", func() error {
			r, err := c.Run(t.Context(), id)
			if err == nil && !r.Status.Terminal() {
				err = fmt.Errorf("it is %s", r.Status)
			}
			if err == nil && r.Status != waybill.StatusSucceeded {
				t.Errorf("run %s ended as %s: %s", id, r.Status, r.Error)
			}
			return err
		})
	}
}

// restored is a server on the data directory that a backup was restored into, with
// the project of the one that it is of.
func restored(t *testing.T, of *harness.Server, data string, args ...string) (url string, stop func()) {
	t.Helper()
	log, err := os.Create(data + ".log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := of.Command(append([]string{"up", "--data", data, "--project", of.ProjectDir(), "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				_ = cmd.Process.Kill()
				t.Error("the restored server does not stop")
			}
			log.Close()
		})
	}
	t.Cleanup(stop)
	harness.Until(t, soon, "the restored server serves", func() error {
		b, err := os.ReadFile(data + ".log")
		if err != nil {
			return err
		}
		_, rest, ok := strings.Cut(string(b), "serving on ")
		if !ok {
			return fmt.Errorf("it says: %s", b)
		}
		url = strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0])
		res, err := http.Get(url + "/health")
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("health %d", res.StatusCode)
		}
		return nil
	})
	return url, stop
}

// at is a client of the server at a URL.
func at(t *testing.T, s *harness.Server, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Server: url, HTTP: &http.Client{Transport: s.Transport()}, RetryFor: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// load starts runs until it is stopped, and remembers those that were accepted.
type load struct {
	mu   sync.Mutex
	ids  []string
	took []time.Duration
	stop chan struct{}
	wg   sync.WaitGroup
}

func start(t *testing.T, c *client.Client, callers int, pipeline string) *load {
	l := &load{stop: make(chan struct{})}
	for range callers {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				began := time.Now()
				r, err := c.StartRun(context.Background(), pipeline, client.StartRun{}, "")
				took := time.Since(began)
				if client.KindOf(err) == waybill.KindExhausted {
					continue
				}
				if err != nil {
					select {
					case <-l.stop:
					default:
						t.Errorf("start: %v", err)
					}
					return
				}
				l.mu.Lock()
				l.ids, l.took = append(l.ids, r.ID), append(l.took, took)
				l.mu.Unlock()
				// Others want the machine as well, and the queue shall not grow for ever.
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) end() []string {
	close(l.stop)
	l.wg.Wait()
	return l.ids
}

// p99 is that of the starts since the last call.
func (l *load) p99() (time.Duration, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := l.took
	l.took = nil
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)*99/100], len(took)
}

// finished are the runs that a server says have ended.
func finished(t *testing.T, c *client.Client) map[string]client.Status {
	t.Helper()
	out := map[string]client.Status{}
	for cursor := ""; ; {
		l, err := c.Runs(t.Context(), client.ListRunsParams{Limit: 500, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.Items {
			if r.Status.Terminal() {
				out[r.ID] = r.Status
			}
		}
		if l.NextCursor == nil || *l.NextCursor == "" {
			return out
		}
		cursor = *l.NextCursor
	}
}

// same checks that a server has runs that had ended, as they had, each with one end.
func same(t *testing.T, c *client.Client, was map[string]client.Status) {
	t.Helper()
	is := finished(t, c)
	for id, status := range was {
		if is[id] != status {
			t.Errorf("run %s is %q, was %q", id, is[id], status)
		}
	}
	n := 0
	for id := range was {
		if n++; n > 20 {
			break
		}
		l, err := c.Events(t.Context(), id, client.GetRunEventsParams{Limit: 200})
		if err != nil {
			t.Errorf("events of %s: %v", id, err)
			continue
		}
		ends := 0
		for _, r := range l.Items {
			if r.Kind == "run.ended" {
				ends++
			}
		}
		if ends != 1 {
			t.Errorf("run %s ended %d times", id, ends)
		}
	}
}

func logOf(t *testing.T, c *client.Client, id string) string {
	t.Helper()
	var b bytes.Buffer
	if err := c.Log(t.Context(), id, client.GetRunLogsParams{Step: "work"}, &b); err != nil {
		t.Errorf("log of %s: %v", id, err)
	}
	return b.String()
}

func backups(t *testing.T, s *harness.Server, args ...string) map[string]any {
	t.Helper()
	cmd := s.Command(append([]string{"backup", "-o", "json"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("backup: %v\n%s", err, errs.String())
	}
	var v map[string]any
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// A backup that is made under load holds every run that had ended before it began,
// with its log and its files; open runs go on in the restored server, and no run has
// two ends.
func TestBackupUnderLoad(t *testing.T) {
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := harness.New(t, harness.Options{Store: kind, Project: project})
			c := s.Client()
			var quick []string
			for range 5 {
				r, err := c.StartRun(t.Context(), "quick", client.StartRun{}, "")
				if err != nil {
					t.Fatal(err)
				}
				quick = append(quick, r.ID)
			}
			finish(t, c, quick...)
			if _, err := c.PutObject(t.Context(), "inbox", "a.txt", "text/plain", strings.NewReader("precious")); err != nil {
				t.Fatal(err)
			}
			open, err := c.StartRun(t.Context(), "slow", client.StartRun{}, "")
			if err != nil {
				t.Fatal(err)
			}
			harness.Until(t, soon, "the slow unit runs", func() error {
				if len(s.Units()) == 0 {
					return errors.New("no unit")
				}
				return nil
			})
			l := start(t, c, 4, "sim")
			harness.Until(t, soon, "there is load", func() error {
				if n := len(finished(t, c)); n < 60 {
					return fmt.Errorf("%d runs have ended", n)
				}
				return nil
			})
			before, n := l.p99()
			was := finished(t, c)
			dir := filepath.Join(s.Dir(), "backup")
			first := backups(t, s, dir, "--with-keys")
			during, m := l.p99()
			t.Logf("p99 of a start: %v of %d before, %v of %d during a backup", before, n, during, m)
			// The second one adds what is new, and an archive holds all of it.
			second := backups(t, s, dir, "--with-keys", "--with-project")
			archive := filepath.Join(s.Dir(), "backup.tar.zst")
			backups(t, s, archive, "--with-keys")
			l.end()
			if first["id"] == second["id"] || second["files"].(float64) <= first["files"].(float64) {
				t.Errorf("the second backup is not a later one: %v, %v", first, second)
			}
			run(t, s.Command("restore", dir, "--check"))
			for _, from := range []string{dir, archive} {
				data := from + "-data"
				args := []string{"restore", from, "--data", data}
				var up []string
				if kind == "postgres" {
					up = []string{"--store", pgSchema(t)}
					args = append(args, up...)
				}
				run(t, s.Command(args...))
				if node, err := os.ReadFile(filepath.Join(data, "node")); err != nil || string(node) != read(t, filepath.Join(s.DataDir(), "node")) {
					t.Errorf("the restored server is node %q, %v", node, err)
				}
				if out, err := try(s.Command(args...)); err == nil || !strings.Contains(out, "not empty") {
					t.Errorf("a second restore into the same folder: %v\n%s", err, out)
				}
				url, stop := restored(t, s, data, up...)
				rc := at(t, s, url)
				same(t, rc, was)
				for _, id := range quick {
					if got := logOf(t, rc, id); got != "log of "+id+"\n" {
						t.Errorf("log of %s: %q", id, got)
					}
				}
				if got := run(t, s.Command("--server", url, "object", "get", "inbox", "a.txt")); got != "precious" {
					t.Errorf("the object holds %q", got)
				}
				// The unit that ran is not here: it is lost and made again.
				if err := os.WriteFile(filepath.Join(s.Dir(), "go"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				finish(t, rc, open.ID)
				r, err := rc.Run(t.Context(), open.ID)
				if err != nil || len(r.Attempts) < 3 {
					t.Errorf("the open run has %d attempts, %v; want one lost and two more: %+v", len(r.Attempts), err, r.Attempts)
				}
				out := run(t, s.Command("--server", url, "doctor"))
				for _, want := range []string{"store.engine", "blobs.content", "all "} {
					if !strings.Contains(out, want) {
						t.Errorf("doctor of the restored server lacks %q:\n%s", want, out)
					}
				}
				stop()
				if err := os.Remove(filepath.Join(s.Dir(), "go")); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// pgSchema is an empty schema on the PostgreSQL of the tests.
func pgSchema(t *testing.T) string {
	t.Helper()
	return pgtest.DSN(t)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// However a backup is cut off, nothing half is taken for whole, and the folder keeps
// the backup that it held.
func TestBackupKilled(t *testing.T) {
	t.Parallel()
	s := harness.New(t, harness.Options{Project: project})
	c := s.Client()
	put := func(n int) {
		for i := range 10 {
			if _, err := c.PutObject(t.Context(), "inbox", fmt.Sprint("f", i), "text/plain", strings.NewReader(fmt.Sprint("content ", n, " ", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0)
	dir := filepath.Join(s.Dir(), "backup")
	kill := func(at string, args ...string) {
		t.Helper()
		cmd := s.Command(args...)
		cmd.Env = append(cmd.Env, "WAYBILL_KILL_AT="+at)
		out, err := try(cmd)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("%v was not killed at %s: %v\n%s", args, at, err, out)
		}
	}
	check := func(from string) (string, error) { return try(s.Command("restore", from, "--check")) }
	// Killed before there is a first one.
	kill("backup.kept:4", "backup", dir)
	if out, err := check(dir); err == nil || !strings.Contains(out, "no whole backup") {
		t.Errorf("half a backup: %v\n%s", err, out)
	}
	if out, err := try(s.Command("restore", dir, "--data", filepath.Join(s.Dir(), "no"))); err == nil {
		t.Errorf("half a backup was restored:\n%s", out)
	}
	backups(t, s, dir)
	first := run(t, s.Command("restore", dir, "--check"))
	put(1)
	for _, at := range []string{"backup.kept:3", "backup.manifest:1"} {
		kill(at, "backup", dir)
		if out, err := check(dir); err != nil || out != first {
			t.Errorf("after a kill at %s the folder holds another backup: %v\n%s, was\n%s", at, err, out, first)
		}
	}
	kill("backup.prune:1", "backup", dir)
	if out, err := check(dir); err != nil || out == first {
		t.Errorf("after a kill behind the manifest the folder holds: %v\n%s", err, out)
	}
	// The server dies in the middle: the client refuses what it got.
	archive := filepath.Join(s.Dir(), "b.tar.zst")
	s.Kill()
	for _, at := range []string{"backup.snapshot:1", "backup.file:5"} {
		s.Start("WAYBILL_KILL_AT=" + at)
		out, err := try(s.Command("backup", archive))
		if err == nil {
			t.Errorf("a backup of a server that died at %s:\n%s", at, out)
		}
		<-s.Exited()
	}
	s.Start()
	if left, err := filepath.Glob(archive + "*"); err != nil || len(left) > 0 && slices.Contains(left, archive) {
		t.Errorf("left of archives that were cut off: %v", left)
	}
	kill("backup.manifest:1", "backup", archive)
	if _, err := os.Stat(archive); err == nil {
		t.Error("an archive that was not finished has its name")
	}
	backups(t, s, archive)
	// Archives that were cut or changed on their way.
	whole := []byte(read(t, archive))
	for what, bad := range map[string][]byte{
		"cut": whole[:len(whole)*2/3], "cut at its end": whole[:len(whole)-20], "empty": nil, "changed": append(append(slices.Clone(whole[:len(whole)/2]), whole[len(whole)/2]^0x55), whole[len(whole)/2+1:]...),
	} {
		path := filepath.Join(s.Dir(), "bad.tar.zst")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := check(path); err == nil {
			t.Errorf("an archive that was %s passes:\n%s", what, out)
		}
		if out, err := try(s.Command("restore", path, "--data", filepath.Join(s.Dir(), "bad-data"))); err == nil {
			t.Errorf("an archive that was %s is restored:\n%s", what, out)
		}
		if out, err := try(s.Command("up", "--data", filepath.Join(s.Dir(), "bad-data"), "--listen", "127.0.0.1:0")); err == nil || !strings.Contains(out, "restore") {
			t.Errorf("a server starts on half a restore: %v\n%s", err, out)
		}
	}
	// Killed in the middle of a restore: no server starts, and again it works.
	data := filepath.Join(s.Dir(), "data2")
	for _, from := range []string{dir, archive} {
		for _, at := range []string{"restore.file:3", "restore.store:1", "restore.end:1"} {
			kill(at, "restore", from, "--data", data)
			if out, err := try(s.Command("up", "--data", data, "--listen", "127.0.0.1:0")); err == nil || !strings.Contains(out, "has not ended") {
				t.Errorf("a server starts on a restore killed at %s: %v\n%s", at, err, out)
			}
		}
		run(t, s.Command("restore", from, "--data", data))
		url, stop := restored(t, s, data)
		for i := range 10 {
			if got := run(t, s.Command("--server", url, "object", "get", "inbox", fmt.Sprint("f", i))); got != fmt.Sprint("content 1 ", i) {
				t.Errorf("object %d after a restore: %q", i, got)
			}
		}
		stop()
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
	}
	// Of the stopped server, from its folder.
	s.Stop()
	offline := filepath.Join(s.Dir(), "offline")
	out := run(t, s.Command("backup", offline, "--data", s.DataDir(), "--blobs", s.BlobsDir(), "--project", s.ProjectDir()))
	if !strings.Contains(out, "saved in") {
		t.Error(out)
	}
	run(t, s.Command("restore", offline, "--data", data, "--project", filepath.Join(s.Dir(), "project2")))
	if st, err := os.Stat(filepath.Join(s.Dir(), "project2", "quick.sh")); err != nil || st.Mode()&0o100 == 0 {
		t.Errorf("the project's script: %v, %v", st, err)
	}
}
