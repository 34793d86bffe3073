//go:build linux

// Package kill_test kills servers at random moments and at named points while
// clients give them work, and then counts: everything that was accepted has come to
// the end it always comes to, once, and nothing is left.
//
//	WAYBILL_SEEDS=n        seeds for each store, 20 by default
//	WAYBILL_CAMPAIGN=full  200 seeds
//	WAYBILL_SEED=n         this seed only
package kill_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// setting is how the worlds of a test are made.
type setting struct {
	store   string
	servers int
	spread  int // 1, or 2 to have one server less in every second seed
	kills   int
	load    load
	settle  time.Duration   // how long all may take after the last kill; 0 means a minute
	options harness.Options // Store and Project are set
}

// live runs one seed and returns its world with the violations in it.
func live(t *testing.T, seed uint64, o setting) *world {
	t.Helper()
	begun := time.Now()
	w := &world{
		t: t, seed: seed, runs: map[string]string{}, pipeline: map[string]string{}, objects: map[string]string{},
		ended: map[string]client.RunDetail{}, points: map[string]int{},
	}
	o.options.Store, o.options.Project = o.store, project
	w.servers = append(w.servers, harness.New(t, o.options))
	for len(w.servers) < o.servers-int(seed)%o.spread {
		w.servers = append(w.servers, w.servers[0].Sibling())
	}
	for _, s := range w.servers {
		w.clients = append(w.clients, s.NewClient(client.Options{RetryFor: 300 * time.Millisecond}))
	}
	up := time.Since(begun)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	watching, stopWatching := context.WithCancel(ctx)
	var watcher, workers sync.WaitGroup
	watcher.Go(func() { w.watch(watching) })
	workers.Go(func() { w.submit(ctx, o.load) })
	workers.Go(func() { w.kill(ctx, o.kills) })
	workers.Wait()
	stopWatching()
	watcher.Wait()
	worked := time.Since(begun)
	if o.settle == 0 {
		o.settle = time.Minute
	}
	w.judge(ctx, o.settle)
	t.Logf("started after %v, worked until %v, settled after %v more, judged at %v", up.Round(time.Millisecond),
		worked.Round(time.Millisecond), w.settling.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	return w
}

// seeds are those to be run.
func seeds(t *testing.T) []uint64 {
	t.Helper()
	number := func(name string, def int) int {
		text := os.Getenv(name)
		if text == "" {
			return def
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("%s=%q is not a number from 1", name, text)
		}
		return n
	}
	if one := number("WAYBILL_SEED", 0); one > 0 {
		return []uint64{uint64(one)}
	}
	def := 20
	if os.Getenv("WAYBILL_CAMPAIGN") == "full" {
		def = 200
	}
	if testing.Short() {
		def = 2
	}
	var list []uint64
	for i := range number("WAYBILL_SEEDS", def) {
		list = append(list, uint64(i+1))
	}
	return list
}

// Without being asked for a number of seeds, a machine that is slow or busy does
// at least the fewest, and begins none after the budget.
const (
	fewest = 6
	budget = 150 * time.Second
)

func unasked() bool {
	return os.Getenv("WAYBILL_SEEDS") == "" && os.Getenv("WAYBILL_SEED") == "" && os.Getenv("WAYBILL_CAMPAIGN") == ""
}

func campaign(t *testing.T, o setting) {
	list := seeds(t)
	var mu sync.Mutex
	var kills, runs, violations int
	points := map[string]int{}
	start, done := time.Now(), 0
	t.Run("seeds", func(t *testing.T) {
		for _, seed := range list {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				mu.Lock()
				late := unasked() && done >= fewest && time.Since(start) > budget
				mu.Unlock()
				if late {
					return // told by the summary
				}
				w := live(t, seed, o)
				for _, v := range w.found {
					t.Error(v)
				}
				if len(w.found) > 0 {
					t.Logf("again with: WAYBILL_SEED=%d", seed)
				}
				mu.Lock()
				defer mu.Unlock()
				done++
				kills, runs, violations = kills+w.kills, runs+len(w.runs)+len(w.objects), violations+len(w.found)
				for p, n := range w.points {
					points[p] += n
				}
			})
		}
	})
	fmt.Printf("kill %s: seeds=%d/%d servers≤%d kills=%d runs=%d violations=%d took=%v points=%v\n",
		o.store, done, len(list), o.servers, kills, runs, violations, time.Since(start).Round(time.Second), points)
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	campaign(t, setting{store: "sqlite", servers: 1, spread: 1, kills: 6, load: load{starts: 13, objects: 4}})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	campaign(t, setting{store: "postgres", servers: 3, spread: 2, kills: 8, load: load{starts: 13, objects: 4}})
}

// TestLostFence shows that the judge would notice: with leases that end all the
// time nothing happens as long as late owners are fenced off, and without the
// fence work is done twice.
func TestLostFence(t *testing.T) {
	t.Parallel()
	duplicates := func(t *testing.T, faults string, settle time.Duration) (n int, found []string) {
		for seed := range uint64(2) {
			w := live(t, 1000+seed, setting{
				store: "sqlite", servers: 1, spread: 1, kills: 1, load: load{starts: 16, objects: 3}, settle: settle,
				options: harness.Options{Tags: []string{"faults"}, Env: []string{"WAYBILL_FAULT=" + faults}},
			})
			for _, v := range w.found {
				if strings.HasPrefix(v, "duplicate: ") {
					n++
				}
			}
			found = append(found, w.found...)
		}
		return n, found
	}
	t.Run("fenced", func(t *testing.T) {
		t.Parallel()
		if n, found := duplicates(t, "leases", time.Minute); n > 0 {
			t.Errorf("%d duplicates with the fence:\n%s", n, strings.Join(found, "\n"))
		}
	})
	t.Run("unfenced", func(t *testing.T) {
		t.Parallel()
		n, found := duplicates(t, "leases nofence", 5*time.Second) // it may never settle
		if n == 0 {
			t.Errorf("no duplicates without the fence; other violations: %d\n%s", len(found), strings.Join(found, "\n"))
		}
		t.Logf("%d duplicates, %d violations", n, len(found))
	})
}
