//go:build linux

package operations

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // changes what a newer version would have changed

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// Every start that was answered 202 has its run, however soon the server is killed.
func TestFA42_StartsThenKill(t *testing.T) {
	t.Parallel()
	want := int64(600)
	if full {
		want = 10_000
	}
	s := harness.New(t, harness.Options{Project: project})
	c := s.NewClient(client.Options{RetryFor: -1})
	var mu sync.Mutex
	accepted := map[string]bool{}
	var n atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	began := time.Now()
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := c.StartRun(context.Background(), "sim", client.StartRun{}, "")
				if err != nil {
					continue // it is being killed
				}
				mu.Lock()
				if accepted[r.ID] {
					t.Errorf("run %s was given to two starts", r.ID)
				}
				accepted[r.ID] = true
				mu.Unlock()
				n.Add(1)
			}
		})
	}
	harness.Until(t, 2*time.Minute, "starts are accepted", func() error {
		if have := n.Load(); have < want {
			return fmt.Errorf("%d of %d", have, want)
		}
		return nil
	})
	s.Kill() // while more are on their way
	close(stop)
	wg.Wait()
	t.Logf("%d starts in %v, then SIGKILL", len(accepted), time.Since(began).Round(time.Millisecond))
	s.Start()
	c = s.Client()
	have := map[string]bool{}
	for cursor := ""; ; {
		l, err := c.Runs(t.Context(), client.ListRunsParams{Limit: 1000, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.Items {
			have[r.ID] = true
		}
		if l.NextCursor == nil || *l.NextCursor == "" {
			break
		}
		cursor = *l.NextCursor
	}
	lost := 0
	for id := range accepted {
		if !have[id] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d accepted starts have no run", lost, len(accepted))
	}
	if extra := len(have) - len(accepted); extra > 16 {
		t.Errorf("%d runs more than were accepted, and at most 16 were on their way", extra)
	}
	// And they are worked on.
	i := 0
	for id := range accepted {
		if i++; i > 20 {
			break
		}
		finish(t, c, id)
	}
}

// A binary whose tables are derived in another way takes over a store with many open
// runs, once; one that is older than the store refuses it with a message and leaves
// it alone. (That a copy is kept before a migration is tested beside the migrations.)
func TestFA40_UpgradeAndDowngrade(t *testing.T) {
	t.Parallel()
	want := 150
	if full {
		want = 1000
	}
	s := harness.New(t, harness.Options{Project: project})
	c := s.Client()
	for _, topic := range []string{"run", "unit"} {
		if err := c.Pause(t.Context(), topic, true); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for range want {
		r, err := c.StartRun(t.Context(), "sim", client.StartRun{}, "")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	s.Stop()
	path := filepath.Join(s.DataDir(), "store.db")
	edit := func(q string) {
		t.Helper()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	// Written by a later version: refused, and left as it is.
	edit("PRAGMA user_version=999")
	was := read(t, path)
	err := s.TryStart()
	if err == nil || !strings.Contains(s.Log(), "schema 999") || !strings.Contains(s.Log(), "newer version") {
		t.Fatalf("a store of a later version: %v", err)
	}
	if read(t, path) != was {
		t.Error("the refused store was changed")
	}
	edit("PRAGMA user_version=1")
	// Written by an earlier one: every table is derived again, once.
	edit("UPDATE descriptor SET version=-7")
	s.Start()
	if n := strings.Count(s.Log(), "table derived again"); n < 10 {
		t.Errorf("%d tables were derived again", n)
	}
	before := strings.Count(s.Log(), "table derived again")
	s.Kill()
	s.Start()
	if n := strings.Count(s.Log(), "table derived again"); n != before {
		t.Errorf("tables were derived once more at the next start")
	}
	c = s.Client()
	for _, topic := range []string{"run", "unit"} {
		if err := c.Pause(t.Context(), topic, false); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, c, ids...)
	if got := finished(t, c); len(got) != want {
		t.Errorf("%d runs have ended, want %d", len(got), want)
	}
}

// What the doctor tells of a data directory that is stopped, and of one that is hurt.
func TestDoctorOfDataDirectory(t *testing.T) {
	t.Parallel()
	s := harness.New(t, harness.Options{Project: project})
	for i := range 5 {
		if _, err := s.Client().PutObject(t.Context(), "inbox", fmt.Sprint(i), "", strings.NewReader(fmt.Sprint("content ", i))); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, s.Command("doctor"))
	for _, check := range []string{"data.space", "data.flush", "store.integrity", "clock.jump", "limits.files", "queues.dead", "blobs.content", "project", "secrets.key"} {
		if !strings.Contains(out, check) {
			t.Errorf("doctor of the server lacks %s:\n%s", check, out)
		}
	}
	at := []string{"doctor", "--data", s.DataDir(), "--blobs", s.BlobsDir(), "--listen", "127.0.0.1:0"}
	if out, err := try(s.Command(at...)); err == nil || !strings.Contains(out, "data.lock") {
		t.Errorf("doctor of a data directory in use: %v\n%s", err, out)
	}
	s.Stop()
	out = run(t, s.Command(append(at, "--deep", "--project", s.ProjectDir())...))
	if !strings.Contains(out, "all 5 contents") || strings.Contains(out, "fail") {
		t.Errorf("doctor of the stopped server:\n%s", out)
	}
	found, err := filepath.Glob(filepath.Join(s.BlobsDir(), "objects", "*", "*"))
	if err != nil || len(found) != 5 {
		t.Fatalf("%v, %v", found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(found[1], []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.DataDir(), "secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = try(s.Command(at...))
	if err == nil || !strings.Contains(out, "1 are missing and 1 of 4") || !strings.Contains(out, "chmod 600") {
		t.Errorf("doctor of what was hurt: %v\n%s", err, out)
	}
	out, err = try(s.Command(append(at, "-o", "json")...))
	if err == nil || !strings.Contains(out, `"status": "fail"`) {
		t.Errorf("as JSON: %v\n%s", err, out)
	}
	b := []byte(read(t, filepath.Join(s.DataDir(), "store.db")))
	for i := range b[8192:12288] {
		b[8192+i] = 0x55
	}
	if err := os.WriteFile(filepath.Join(s.DataDir(), "store.db"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := try(s.Command(at...)); err == nil || !strings.Contains(out, "store.open") || !strings.Contains(out, "backup") {
		t.Errorf("doctor of a damaged store: %v\n%s", err, out)
	}
	if out, err := try(s.Command("doctor", "--data", filepath.Join(s.Dir(), "nothing"))); err == nil || !strings.Contains(out, "data.folder") {
		t.Errorf("doctor of nothing: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "nothing")); err == nil {
		t.Error("the doctor made a data directory")
	}
}

// A topic is dumped, edited and fed by the command line, also into another server.
func TestQueueDumpAndFeed(t *testing.T) {
	t.Parallel()
	s := harness.New(t, harness.Options{Project: project})
	c := s.Client()
	if err := c.Pause(t.Context(), "run", true); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range 5 {
		r, err := c.StartRun(t.Context(), "sim", client.StartRun{}, "")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	path := filepath.Join(s.Dir(), "saved.jsonl")
	run(t, s.Command("queue", "dump", "run", path))
	if got := run(t, s.Command("queue", "dump", "run")); got != read(t, path) || strings.Count(got, "\n") != 5 {
		t.Errorf("the dump:\n%s", got)
	}
	run(t, s.Command("queue", "purge", "run"))
	bad := filepath.Join(s.Dir(), "bad.jsonl")
	if err := os.WriteFile(bad, []byte(read(t, path)+"garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := try(s.Command("queue", "feed", "run", bad)); err == nil || !strings.Contains(out, "line 6") {
		t.Errorf("garbage: %v\n%s", err, out)
	}
	if out := run(t, s.Command("queue", "feed", "run", path, "--dry")); !strings.Contains(out, "5 would be sent") {
		t.Errorf("dry: %s", out)
	}
	if out := run(t, s.Command("queue", "feed", "run", path)); !strings.Contains(out, "5 sent") {
		t.Errorf("feed: %s", out)
	}
	feed := s.Command("queue", "feed", "run", "-")
	feed.Stdin = bytes.NewReader([]byte(read(t, path)))
	if out := run(t, feed); !strings.Contains(out, "0 sent") || !strings.Contains(out, "5 skipped") {
		t.Errorf("the same again: %s", out)
	}
	run(t, s.Command("resume", "run"))
	finish(t, c, ids...)
	token := strings.TrimSpace(run(t, s.Command("token", "create", "op", "--role", "operator", "-o", "json")))
	_, secret, _ := strings.Cut(token, `"secret": "`)
	secret, _, _ = strings.Cut(secret, `"`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/api/v1/queues/run/dump", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("a dump for an operator: %d", res.StatusCode)
	}
}

// A server that stands still for a minute while another one takes over its work
// writes nothing about it when it goes on, and makes no unit a second time.
func TestFA28_LongPause(t *testing.T) {
	t.Parallel()
	pause, args := 12*time.Second, []string{"--lease", "2s"}
	if full {
		pause, args = time.Minute, nil
	}
	files := map[string]string{
		"pipelines/note.yaml": "name: note\non: {http: {}}\nsteps:\n  - {name: one, run: [./note.sh]}\n  - {name: two, run: [./note.sh]}\n",
		"note.sh":             "#!/bin/sh\necho $WAYBILL_RUN/$WAYBILL_STEP/$WAYBILL_ATTEMPT >> {{dir}}/made\nsleep 1\n",
	}
	one := harness.New(t, harness.Options{Store: "postgres", Project: files, Args: args})
	two := one.Sibling()
	c := two.Client()
	var ids []string
	begin := func(s *harness.Server, n int) {
		for range n {
			r, err := s.Client().StartRun(t.Context(), "note", client.StartRun{}, "")
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.ID)
		}
	}
	begin(one, 8)
	harness.Until(t, soon, "the first server has units", func() error {
		if len(one.Units()) == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	one.Signal(syscall.SIGSTOP)
	stood := time.Now()
	begin(two, 4)
	harness.Until(t, pause+soon, "the pause is over", func() error {
		if left := pause - time.Since(stood); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	finish(t, c, ids...) // without the first server
	one.Signal(syscall.SIGCONT)
	begin(one, 2)
	finish(t, one.Client(), ids...)
	was := finished(t, c)
	same(t, c, was)
	same(t, one.Client(), was)
	made := map[string]int{}
	for _, line := range strings.Fields(read(t, filepath.Join(one.Dir(), "made"))) {
		made[line]++
	}
	for attempt, n := range made {
		if n != 1 {
			t.Errorf("attempt %s was made %d times", attempt, n)
		}
	}
	if len(made) < 2*len(ids) {
		t.Errorf("%d attempts of %d steps were made", len(made), 2*len(ids))
	}
}
