package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func variable(t *testing.T, n int, value string) client.Vars {
	t.Helper()
	var v client.Vars
	if err := json.Unmarshal(fmt.Appendf(nil, `{"___X%d": %q}`, n, value), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// A full disk refuses what cannot be kept, says so, and harms nothing else.
func TestFA12DiskFullOnCommit(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{
		"pipelines/echo.yaml": echo,
		"pipelines/hold.yaml": `name: hold
steps:
  - name: wait
    run: ["./hold.sh"]
`,
		"hold.sh": `#!/bin/sh
echo "$WAYBILL_CALLBACK $WAYBILL_TOKEN" > {{dir}}/callback.new
mv {{dir}}/callback.new {{dir}}/callback
while [ ! -e {{dir}}/go ]; do sleep 0.05; done
`,
	})
	work := filepath.Dir(c.Data)
	c.Data = smallDisk(t, "16m")
	t.Cleanup(func() { awaitSupervisor(t, c.Data) }) // before the disk goes
	s := start(t, c)
	api := clientOf(t, s.URL(), "")
	held := begin(t, api, "hold")
	var callback, token string
	eventually(t, "the unit runs", func() bool {
		b, _ := os.ReadFile(filepath.Join(work, "callback"))
		n, _ := fmt.Sscan(string(b), &callback, &token)
		return n == 2
	})
	unit, err := client.NewCallback(callback, token, client.Options{HTTP: caller(), RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}

	ballast := fillDisk(t, c.Data)
	var last error
	accepted := map[string]bool{held: true}
	for range 5000 {
		r, err := api.StartRun(t.Context(), "echo", client.StartRun{}, "")
		if last = err; err != nil {
			break
		}
		accepted[r.ID] = true
	}
	unavailable := func(what string, err error) {
		t.Helper()
		var e *client.Error
		if !errors.As(err, &e) || e.Status != 503 || e.Kind != waybill.KindUnavailable || !strings.Contains(e.Error(), "the disk is full") || e.RetryAfter == 0 {
			t.Errorf("%s: %v, want 503 and that the disk is full", what, err)
		}
	}
	unavailable("start", last)
	// What is small may still find room in the store's log; what grows does not.
	set := 0
	for last = nil; last == nil && set < 100; set++ {
		last = unit.SetVariables(t.Context(), variable(t, set, strings.Repeat("x", 8000)))
	}
	unavailable("variables", last)
	result := client.Outcome{Variables: variable(t, 100, "result")}
	if last = unit.Complete(t.Context(), result); last != nil {
		unavailable("callback", last)
	}
	eventually(t, "health tells of the full disk", func() bool {
		_, h := health(t, s.URL())
		return h.Status == "degraded" && strings.Contains(h.Checks["store"], "the disk is full")
	})
	runs := func() map[string]bool {
		t.Helper()
		all := map[string]bool{}
		for r, err := range client.Each(func(cursor string) ([]client.Run, client.NextCursor, error) {
			l, err := api.Runs(t.Context(), client.ListRunsParams{Limit: 1000, Cursor: cursor})
			return l.Items, l.NextCursor, err
		}) {
			if err != nil {
				t.Fatal(err)
			}
			all[r.ID] = true
		}
		return all
	}
	if got := runs(); !maps.Equal(got, accepted) {
		t.Errorf("%d runs are there, %d were accepted", len(got), len(accepted))
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "health recovers", func() bool {
		_, h := health(t, s.URL())
		return h.Status == "ok"
	})
	if err := unit.Complete(t.Context(), result); err != nil {
		t.Errorf("callback after space came back: %v", err)
	}
	if err := os.WriteFile(filepath.Join(work, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	accepted[begin(t, api, "echo")] = true
	for id := range accepted {
		r := succeeds(t, api, id)
		if b, err := json.Marshal(r.Vars); id == held && (err != nil || !strings.Contains(string(b), `"___X100":"result"`) || strings.Count(string(b), "___X") < set) {
			t.Errorf("variables of the callback: %.200s (%v), want %d", b, err, set)
		}
	}
	if got := runs(); !maps.Equal(got, accepted) {
		t.Errorf("%d runs are there, %d were accepted", len(got), len(accepted))
	}
	stop(t, s)
}

// A store that was lost or damaged is never taken for a new one: the server says
// what is wrong, or goes on from the last commit that can be read.
func TestFA13StoreLostOrTorn(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{"pipelines/echo.yaml": echo})
	s := start(t, c)
	api := clientOf(t, s.URL(), "")
	for range 5 {
		succeeds(t, api, begin(t, api, "echo"))
	}
	// Copies of the files of a running server are what a killed one leaves.
	read := func(names ...string) map[string]string {
		m := map[string]string{}
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(c.Data, name))
			if err != nil {
				t.Fatal(err)
			}
			m[name] = string(b)
		}
		return m
	}
	killed := read("node", "secret", "store.used", "store.db", "store.db-wal")
	stop(t, s)
	stopped := read("node", "secret", "store.used", "store.db")

	for name, x := range map[string]struct {
		files  map[string]string
		change func(files map[string]string)
		kind   waybill.Kind // empty when the server starts
		words  []string
		runs   int
	}{
		"killed":            {files: killed, runs: 5},
		"stopped":           {files: stopped, runs: 5},
		"store deleted":     {stopped, func(f map[string]string) { delete(f, "store.db") }, waybill.KindUnavailable, []string{"store.db", "missing", "backup"}, 0},
		"store emptied":     {stopped, func(f map[string]string) { f["store.db"] = "" }, waybill.KindUnavailable, []string{"store.db", "empty", "backup"}, 0},
		"store truncated":   {stopped, func(f map[string]string) { f["store.db"] = f["store.db"][:len(f["store.db"])/2] }, waybill.KindUnavailable, []string{"store.db", "cut short", "backup"}, 0},
		"store overwritten": {stopped, func(f map[string]string) { f["store.db"] = strings.Repeat("no\n", 9000) }, waybill.KindConflict, []string{"store.db", "not a Waybill store"}, 0},
		"log deleted":       {killed, func(f map[string]string) { delete(f, "store.db-wal") }, waybill.KindUnavailable, []string{"store.db-wal", "missing", "backup"}, 0},
		"log torn":          {killed, func(f map[string]string) { f["store.db-wal"] += "a write that was not finished" }, "", nil, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := c
			c.Data = filepath.Join(t.TempDir(), "data")
			if err := os.MkdirAll(c.Data, 0o700); err != nil {
				t.Fatal(err)
			}
			files := maps.Clone(x.files)
			if x.change != nil {
				x.change(files)
			}
			for name, b := range files {
				if err := os.WriteFile(filepath.Join(c.Data, name), []byte(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if x.kind != "" {
				refused(t, c, x.kind, x.words...)
				for name, b := range files {
					if got, err := os.ReadFile(filepath.Join(c.Data, name)); err != nil || string(got) != b {
						t.Errorf("%s was changed (%v)", name, err)
					}
				}
				return
			}
			t.Cleanup(func() { awaitSupervisor(t, c.Data) })
			s := start(t, c)
			l, err := clientOf(t, s.URL(), "").Runs(t.Context(), client.ListRunsParams{})
			if err != nil || len(l.Items) != x.runs {
				t.Errorf("%d runs of %d: %v", len(l.Items), x.runs, err)
			}
			stop(t, s)
		})
	}
}
