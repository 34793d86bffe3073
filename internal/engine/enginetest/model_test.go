// Package enginetest_test runs the whole engine in a world of its own: a real store, units
// that misbehave, and faults in everything that the engine relies on. Random pipelines are
// started, canceled, paused, answered and repeated while servers are killed and come back.
// Every commit is held against the invariants of runs, steps, attempts, slots and leases,
// and when all is quiet nothing may be open, missing, there twice or left over.
//
// A world is a bubble of testing/synctest: its clock stands still while anything happens,
// so that an hour takes no time and no test waits for a clock. A seed decides pipelines,
// actions and faults; which goroutine comes first is the scheduler's.
//
//	WAYBILL_SEED=7 go test -race -run TestWorlds -v ./internal/engine/enginetest
//	WAYBILL_CAMPAIGN=full go test -race -run TestWorlds -timeout 60m ./internal/engine/enginetest
package enginetest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Seeds of a usual test run, and of a campaign.
const (
	usualSeeds    = 10
	campaignSeeds = 1000
)

// total is what a test run has seen.
var total = struct {
	sync.Mutex
	worlds, runs, commits int
	faults                map[string]int
	statuses              map[string]int
}{faults: map[string]int{}, statuses: map[string]int{}}

func TestWorlds(t *testing.T) {
	first, last := uint64(1), uint64(usualSeeds)
	if os.Getenv("WAYBILL_CAMPAIGN") == "full" {
		last = campaignSeeds
	}
	if s := os.Getenv("WAYBILL_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatalf("WAYBILL_SEEDS=%q: want a number", s)
		}
		last = n
	}
	if s := os.Getenv("WAYBILL_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("WAYBILL_SEED=%q: want a number", s)
		}
		first, last = n, n
	}
	total.worlds, total.runs, total.commits = 0, 0, 0
	clear(total.faults)
	clear(total.statuses)
	t.Run("seed", func(t *testing.T) {
		for seed := first; seed <= last; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { oneWorld(t, seed) })
			})
		}
	})
	t.Logf("%d worlds, %d commits, %d runs: %v; faults: %v", total.worlds, total.commits, total.runs, total.statuses, total.faults)
}

func oneWorld(t *testing.T, seed uint64) {
	w := newWorld(t, seed)
	defer func() {
		if t.Failed() {
			t.Logf("repeat with WAYBILL_SEED=%d; pipelines:\n%s\nlog:\n%s", seed, w.text, tail(w.log.b.String(), 6000))
		}
	}()
	w.play(12)
	w.f.stop()
	// Nobody resumes what was paused but us.
	for _, id := range w.ids("run:", func(val []byte) bool { return strings.Contains(string(val), `"paused_by"`) }) {
		if _, err := w.nodes[0].engine().PauseRun(context.Background(), id, false, waybill.Principal{Name: "end"}); err != nil && !waybill.IsKind(err, waybill.KindConflict) {
			t.Errorf("resume %s: %v", id, err)
		}
	}
	for range 3 { // a pause may still have been on its way
		if left := w.quiet(6 * time.Minute); left != nil {
			for _, m := range left {
				t.Errorf("left though nothing goes wrong any more: %s/%s attempt %d fails %d leased %v by %q ready in %s: %s",
					m.Topic, m.Key, m.Attempt, m.Fails, m.Leased, m.Owner, m.ReadyAt.Sub(time.Now()), m.Body)
			}
			break
		}
		for _, id := range w.ids("run:", func(val []byte) bool { return strings.Contains(string(val), `"paused_by"`) }) {
			if _, err := w.nodes[0].engine().PauseRun(context.Background(), id, false, waybill.Principal{Name: "end"}); err != nil && !waybill.IsKind(err, waybill.KindConflict) {
				t.Errorf("resume %s: %v", id, err)
			}
		}
	}
	w.swept(10 * sweep)
	w.judge()
	w.close()
}

// swept waits until no runner has a unit any more: one that was given up with its server,
// and came back with it, is found by a sweep.
func (w *world) swept(within time.Duration) {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(sweep) {
		left := 0
		for _, n := range w.nodes {
			units, err := n.sim.List(context.Background())
			if err != nil {
				w.t.Error(err)
			}
			files, err := filepath.Glob(filepath.Join(n.dir, "*.output"))
			if err != nil {
				w.t.Error(err)
			}
			left += len(units) + len(files)
		}
		if left == 0 && w.quiet(time.Minute) == nil {
			return
		}
	}
}

// close ends the servers and looks at what they leave.
func (w *world) close() {
	for _, n := range w.nodes {
		n.end(false)
		if err := n.sim.Close(); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.watch.Close(); err != nil {
		w.t.Error(err)
	}
	w.leaks()
}

func tail(s string, n int) string { return s[max(len(s)-n, 0):] }

// judge looks at what has become of everything when nothing happens any more.
func (w *world) judge() {
	t, x := w.t, w.watch
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, b := range x.wrong {
		t.Error(b)
	}
	runs := map[string]*waybill.Run{}
	for k, r := range x.rows {
		table, key, _ := strings.Cut(k, ":")
		switch table {
		case "run":
			run := read[waybill.Run](x, r.val)
			runs[key] = run
			if !run.Status.Terminal() {
				t.Errorf("run %s of %s is %s for ever: %s", key, run.Pipeline, run.Status, r.val)
			}
			if n := x.ended[key]; n != 1 {
				t.Errorf("the timeline of run %s tells %d times of its end", key, n)
			}
		case "attempt":
			a := read[waybill.Attempt](x, r.val)
			if a.Phase != waybill.PhaseTerminal {
				t.Errorf("attempt %s is open for ever: %s", key, r.val)
			}
			if a.Cleanup == waybill.CleanupPending || a.Cleanup == waybill.CleanupDeleting {
				t.Errorf("the clean-up of attempt %s is %s for ever", key, a.Cleanup)
			}
		case "step":
			if st := read[waybill.Step](x, r.val); !st.Status.Terminal() {
				t.Errorf("step %s is %s for ever", key, st.Status)
			}
		case "slot", "wait":
			t.Errorf("%s is left: %s", k, r.val)
		}
	}
	for id, how := range w.accepted {
		if runs[id] == nil {
			t.Errorf("run %s was accepted (%s) and is missing", id, how)
		}
	}
	for key, ids := range w.keys {
		idem := get[struct{ Run string }](x, "idem", "run/"+w.keyed[key]+"/"+key)
		if idem == nil || len(ids) != 1 || !ids[idem.Run] {
			t.Errorf("the key %s was answered with the runs %v, and the store remembers %v", key, ids, idem)
		}
	}
	for _, d := range x.dead {
		killer := strings.HasPrefix(d.Reason, "worker_killer: step ")
		outage := strings.HasPrefix(d.Reason, "failed ") && injected(d.Reason) // five faults in a row
		if !killer && !outage {
			t.Errorf("a dead letter that no fault explains: %s/%s: %s: %s", d.Topic, d.Key, d.Reason, d.Body)
		}
	}
	total.Lock()
	defer total.Unlock()
	total.worlds++
	total.runs += len(runs)
	total.commits += x.commits
	for _, r := range runs {
		total.statuses[string(r.Status)]++
	}
	for _, d := range x.dead {
		why, _, _ := strings.Cut(d.Reason, " ")
		total.faults["dead letter of "+d.Topic+", "+strings.Trim(why, ":")]++
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	for k, n := range w.f.made {
		total.faults[k] += n
	}
	for _, n := range w.nodes {
		if left, err := n.sim.List(context.Background()); err != nil || len(left) > 0 {
			t.Errorf("units are left on %s: %v %v", n.name, left, err)
		}
	}
}

// leaks looks for the values of secrets in every byte that is left of the servers and
// their store, and for what is left of units.
func (w *world) leaks() {
	err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if s := w.watch.holds(b); s != "" {
			w.t.Errorf("%s holds the secret %s", path, s)
		}
		if strings.HasSuffix(path, ".output") {
			w.t.Errorf("%s is left", path)
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
}

var _ store.Store = (*watch)(nil)
