//go:build linux

package kill_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// The project. Every unit appends to a file outside of the data directory when it
// starts and when it ends, so that the judge knows what was really executed.
var project = map[string]string{
	"unit.sh": `#!/bin/sh
say() { echo "$WAYBILL_RUN $WAYBILL_STEP $WAYBILL_ATTEMPT $$ $1" >>"{{dir}}/effects"; }
say start
for f in * .[!.]*; do [ ! -e "$f" ] || say dirty; done
echo x >left
done=___DONE_$(echo "$WAYBILL_STEP" | tr . _)=$WAYBILL_ATTEMPT
case $1 in
slow) sleep "$2" ;;
flaky) if [ "$WAYBILL_ATTEMPT" -le "$2" ]; then say end; exit 7; fi ;;
fail) say end; exit 3 ;;
report)
	waybill callback complete "$done" "___REPORT=$WAYBILL_RUN" || say unreported
	say end
	exit 0 ;;
set) waybill callback set "___SET=$WAYBILL_RUN" || say unset ;;
read) done="$done
___CONTENT=$(cat "$WAYBILL_OBJECT")" ;;
esac
echo "$done" >"$WAYBILL_OUTPUT"
say end
`,
	"waybill.yaml": "units: {max: 8}\n",
	"pipelines/chain.yaml": `name: chain
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, quick]}
  - {name: b, run: [./unit.sh, quick]}
  - {name: c, run: [./unit.sh, quick]}
`,
	"pipelines/graph.yaml": `name: graph
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, quick]}
  - {name: b, needs: [a], run: [./unit.sh, slow, "0.15"]}
  - {name: c, needs: [a], run: [./unit.sh, quick]}
  - {name: d, needs: [b, c], run: [./unit.sh, quick]}
`,
	"pipelines/flaky.yaml": `name: flaky
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, flaky, "2"], retry: {max: 3, backoff: 30ms}}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/report.yaml": `name: report
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, report], callback: required}
  - {name: b, run: [./unit.sh, set]}
`,
	"pipelines/failing.yaml": `name: failing
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, quick]}
  - {name: b, run: [./unit.sh, fail]}
  - {name: c, run: [./unit.sh, quick]}
`,
	"pipelines/slow.yaml": `name: slow
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, slow, "0.7"]}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/stuck.yaml": `name: stuck
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, slow, "600"]}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/wide.yaml": `name: wide
on: {http: {}}
steps:
  - {name: a, matrix: {values: {n: [1, 2, 3, 4, 5]}, max_parallel: 2, fail_fast: false}, run: [./unit.sh, flaky, "${{ matrix.n == 2 ? 1 : 0 }}"], retry: {max: 1, backoff: 30ms}}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/handled.yaml": `name: handled
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, fail]}
  - {name: b, run: [./unit.sh, quick]}
on_failure: [{name: f, run: [./unit.sh, quick]}]
always:
  - {name: t, run: [./unit.sh, quick]}
  - {name: u, run: [./unit.sh, quick]}
`,
	"pipelines/outer.yaml": `name: outer
on: {http: {}}
steps:
  - {name: i, runner: pipeline, with: {pipeline: inner}}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/inner.yaml": `name: inner
on: {http: {}}
steps: [{name: a, run: [./unit.sh, quick]}]
`,
	"pipelines/gated.yaml": `name: gated
on: {http: {}}
steps:
  - {name: g, runner: approval, with: {expires: 1h, form: {___ANSWER: {type: string, required: true}}}}
  - {name: w, runner: wait, with: {for: 200ms}}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/line.yaml": `name: line
on: {http: {}}
concurrency: {limit: 1}
steps: [{name: a, run: [./unit.sh, slow, "0.1"]}, {name: b, run: [./unit.sh, quick]}]
`,
	"pipelines/intake.yaml": `name: intake
on: {object: {bucket: inbox, match: "*.csv"}}
steps:
  - {name: a, run: [./unit.sh, read]}
  - {name: b, run: [./unit.sh, quick]}
`,
	"pipelines/audit.yaml": `name: audit
on: {object: {bucket: inbox, match: "*"}}
steps:
  - {name: a, run: [./unit.sh, quick]}
`,
}

// plan is what a run of a pipeline comes to, whatever is killed.
type plan struct {
	status waybill.Status
	needs  map[string][]string       // every step, also those that never begin
	steps  map[string]waybill.Status // those that begin
	tries  map[string]int            // attempts of a step; 1 when absent
	vars   []string                  // besides ___DONE_<step> of what succeeds
	silent []string                  // steps without a unit
}

func succeeds(needs map[string][]string) plan {
	p := plan{status: waybill.StatusSucceeded, needs: needs, steps: map[string]waybill.Status{}}
	for n := range needs {
		p.steps[n] = waybill.StatusSucceeded
	}
	return p
}

func plans() map[string]plan {
	two := map[string][]string{"a": nil, "b": {"a"}}
	three := map[string][]string{"a": nil, "b": {"a"}, "c": {"b"}}
	m := map[string]plan{
		"chain":  succeeds(three),
		"graph":  succeeds(map[string][]string{"a": nil, "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}),
		"flaky":  succeeds(two),
		"report": succeeds(two),
		"slow":   succeeds(two),
		"intake": succeeds(two),
		"audit":  succeeds(map[string][]string{"a": nil}),
		"failing": {status: waybill.StatusFailed, needs: three, steps: map[string]waybill.Status{
			"a": waybill.StatusSucceeded, "b": waybill.StatusFailed,
		}},
		"stuck": {status: waybill.StatusCanceled, needs: two, steps: map[string]waybill.Status{"a": waybill.StatusCanceled}},
	}
	with := func(name string, f func(*plan)) { p := m[name]; f(&p); m[name] = p }
	with("flaky", func(p *plan) { p.tries = map[string]int{"a": 3} })
	m["wide"] = plan{
		status: waybill.StatusSucceeded, needs: map[string][]string{"b": nil}, tries: map[string]int{"a.1": 2},
		steps: map[string]waybill.Status{"b": waybill.StatusSucceeded},
	}
	for i := range 5 {
		cell := fmt.Sprintf("a.%d", i)
		m["wide"].needs["b"] = append(m["wide"].needs["b"], cell)
		m["wide"].steps[cell] = waybill.StatusSucceeded
	}
	m["handled"] = plan{
		status: waybill.StatusFailed, needs: map[string][]string{"a": nil, "b": {"a"}, "f": nil, "t": {"f"}, "u": {"t"}},
		steps: map[string]waybill.Status{
			"a": waybill.StatusFailed, "f": waybill.StatusSucceeded, "t": waybill.StatusSucceeded, "u": waybill.StatusSucceeded,
		},
	}
	m["outer"] = succeeds(map[string][]string{"i": nil, "b": nil})
	m["inner"] = succeeds(map[string][]string{"a": nil})
	m["gated"] = succeeds(map[string][]string{"g": nil, "w": nil, "b": nil})
	m["line"] = succeeds(two)
	with("outer", func(p *plan) { p.silent, p.vars = []string{"i"}, []string{"___DONE_a"} })
	with("gated", func(p *plan) { p.silent, p.vars = []string{"g", "w"}, []string{"___ANSWER"} })
	with("report", func(p *plan) { p.vars = []string{"___REPORT", "___SET"} })
	with("intake", func(p *plan) { p.vars = []string{"___CONTENT"} })
	return m
}

// world is one seed: servers on one store, a workload, and what its clients know.
type world struct {
	t       *testing.T
	seed    uint64
	servers []*harness.Server
	clients []*client.Client

	mu       sync.Mutex
	runs     map[string]string           // accepted starts: idempotency key → run
	pipeline map[string]string           // of each key
	objects  map[string]string           // accepted puts: bucket/key and version → content
	ended    map[string]client.RunDetail // runs as they were first seen ended
	found    []string                    // violations
	kills    int                         // SIGKILLs
	points   map[string]int              // kills by named point
	settling time.Duration               // how long it took until all was done after the last kill
}

func (w *world) violation(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, fmt.Sprintf(format, args...))
}

func (w *world) effects() string { return filepath.Join(w.servers[0].Dir(), "effects") }

// load is how much a seed has to do.
type load struct{ starts, objects int }

// submit sends the workload from several clients at once and returns when all of
// it was accepted and every cancellation too. Clients repeat what fails, as the
// client of the API does by itself, with the same key and on any server.
func (w *world) submit(ctx context.Context, l load) {
	rng := rand.New(rand.NewPCG(w.seed, 1))
	var jobs []func(*rand.Rand)
	names := []string{
		"chain", "report", "graph", "wide", "flaky", "gated", "report", "line", "failing", "outer", "slow", "handled", "stuck", "line",
	}
	for i := range l.starts {
		name := names[(i+int(w.seed)*5)%len(names)]
		key := fmt.Sprintf("%s-%d", name, i)
		w.pipeline[key] = name
		jobs = append(jobs, func(r *rand.Rand) { w.start(ctx, r, name, key) })
		if rng.IntN(3) == 0 { // a second client with the same request
			jobs = append(jobs, func(r *rand.Rand) { w.start(ctx, r, name, key) })
		}
	}
	for i := range l.objects {
		key := fmt.Sprintf("file%d%s", i%max(1, l.objects-1), []string{".csv", ".csv", ".txt"}[i%max(1, l.objects-1)%3])
		jobs = append(jobs, func(r *rand.Rand) { w.put(ctx, r, key, fmt.Sprintf("content %d of seed %d", i, w.seed)) })
	}
	rng.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(w.seed, uint64(10+c)))
			for i := c; i < len(jobs); i += 4 {
				pause(ctx, time.Duration(r.IntN(600))*time.Millisecond)
				jobs[i](r)
			}
		})
	}
	wg.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// again repeats a request on any of the servers until it is answered.
func (w *world) again(ctx context.Context, r *rand.Rand, what string, f func(*client.Client) error) bool {
	for {
		err := f(w.clients[r.IntN(len(w.clients))])
		if err == nil {
			return true
		}
		var e *client.Error
		passing := errors.As(err, &e) && (e.Kind == waybill.KindUnavailable || e.Kind == waybill.KindExhausted)
		if ctx.Err() != nil || !passing {
			w.violation("%s: %v", what, err)
			return false
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func (w *world) start(ctx context.Context, r *rand.Rand, name, key string) {
	var run client.Run
	vars := waybill.Vars{}
	vars.Set("___KEY", waybill.StringValue(key))
	if !w.again(ctx, r, "start "+key, func(c *client.Client) (err error) {
		run, err = c.StartRun(ctx, name, client.StartRun{Vars: vars}, key)
		return err
	}) {
		return
	}
	w.mu.Lock()
	if first := w.runs[key]; first != "" && first != run.ID {
		w.found = append(w.found, fmt.Sprintf("duplicate: the idempotency key %s was answered with runs %s and %s", key, first, run.ID))
	}
	w.runs[key] = run.ID
	w.mu.Unlock()
	if name == "gated" {
		w.answer(ctx, r, run.ID)
	}
	if name == "stuck" {
		pause(ctx, time.Duration(r.IntN(600))*time.Millisecond)
		w.again(ctx, r, "cancel "+key, func(c *client.Client) error {
			_, err := c.CancelRun(ctx, run.ID, "enough")
			return err
		})
	}
}

// answer approves what a run asks, once it asks.
func (w *world) answer(ctx context.Context, r *rand.Rand, run string) {
	in := client.Answer{Decision: "approved"}
	in.Values.Set("___ANSWER", waybill.StringValue("yes"))
	asked := false
	for ctx.Err() == nil && !asked {
		if !w.again(ctx, r, "look at "+run, func(c *client.Client) error {
			d, err := c.Run(ctx, run)
			for _, a := range d.Attempts {
				asked = asked || a.Approval != nil
			}
			return err
		}) {
			return
		}
		pause(ctx, 30*time.Millisecond)
	}
	for range 1 + r.IntN(2) { // some tell it twice
		w.again(ctx, r, "approve "+run, func(c *client.Client) error {
			_, err := c.AnswerApproval(ctx, run, "g", in)
			return err
		})
	}
}

func (w *world) put(ctx context.Context, r *rand.Rand, key, content string) {
	// A put repeats itself for as long as its server needs to come back, because only
	// it knows its idempotency key.
	o, err := w.servers[r.IntN(len(w.servers))].Client().PutObject(ctx, "inbox", key, "text/csv", bytes.NewReader([]byte(content)))
	if err != nil {
		w.violation("put %s: %v", key, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.objects[key+" "+o.Version] = content
}

// watch notes how runs look when they are first seen ended.
func (w *world) watch(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, 150*time.Millisecond) {
		for _, c := range w.clients {
			list, err := c.Runs(ctx, client.ListRunsParams{Limit: 200})
			if err != nil {
				continue // it is down just now
			}
			for _, r := range list.Items {
				w.mu.Lock()
				_, seen := w.ended[r.ID]
				w.mu.Unlock()
				if seen || !r.Status.Terminal() {
					continue
				}
				if d, err := c.Run(ctx, r.ID); err == nil {
					w.mu.Lock()
					w.ended[r.ID] = d
					w.mu.Unlock()
				}
			}
			break
		}
	}
}

// points at which servers are made to kill themselves; see package fault.
var points = []string{
	"queue.commit", "queue.committed", "run.commit", "unit.start", "unit.started", "unit.running",
	"callback.committed", "cleanup.remove", "cleanup.removed",
}

// kill ends servers, one at a time, at random moments and at named points, and
// starts them again. At the end it kills and starts all of them once more.
func (w *world) kill(ctx context.Context, kills int) {
	r := rand.New(rand.NewPCG(w.seed, 2))
	armed := map[*harness.Server]string{}
	for i := range kills {
		if ctx.Err() != nil {
			break
		}
		s := w.servers[r.IntN(len(w.servers))]
		point := armed[s]
		switch {
		case point != "":
			select {
			case <-s.Exited():
				w.points[point]++
			case <-time.After(700 * time.Millisecond):
			}
		default:
			pause(ctx, time.Duration(20+r.IntN(350))*time.Millisecond)
		}
		if point == "" && r.IntN(8) == 0 {
			s.Stop()
		} else {
			s.Kill()
			w.kills++
		}
		if r.IntN(2) == 0 {
			pause(ctx, time.Duration(r.IntN(150))*time.Millisecond)
		}
		armed[s] = ""
		if r.IntN(4) > 0 {
			armed[s] = points[(int(w.seed)*kills+i)%len(points)] // all of them equally often
		}
		n := 1 + r.IntN(3)
		if armed[s] == "callback.committed" {
			n = 1 // there are few
		}
		w.up(s, armed[s], n)
	}
	for _, s := range w.servers {
		s.Kill()
		w.kills++
	}
	for _, s := range w.servers {
		w.up(s, "", 0)
	}
}

// up starts a server. One that dies at its point before it is healthy has done
// what was asked of it.
func (w *world) up(s *harness.Server, point string, n int) {
	var env []string
	if point != "" {
		env = append(env, "WAYBILL_KILL_AT="+point+":"+strconv.Itoa(n))
	}
	if err := s.TryStart(env...); err != nil && (point == "" || s.Running() || s.ExitCode() != -1) {
		w.violation("a killed server does not start again: %v", err)
	}
}
