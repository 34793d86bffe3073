//go:build linux

package containers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// points at which a server is made to kill itself; see package fault.
var points = []string{
	"queue.commit", "queue.committed", "run.commit", "unit.start", "unit.started", "unit.running",
	"callback.committed", "cleanup.remove", "cleanup.removed",
}

// expected is what a run of a pipeline comes to, whatever is killed.
type expected struct {
	status waybill.Status
	tries  map[string]int // attempts of each step that begins
}

// campaign is the world of a seed.
type campaign struct {
	*world
	wit  *witness
	runs map[string]expected // by run
	keys int
}

// newCampaign makes a server with pipelines that have every part of a container's life:
// images that are pulled, and slowly, output, files, callbacks, failures and ends by
// force.
func newCampaign(t *testing.T, p platform) *campaign {
	t.Helper()
	wit := newWitness(t)
	host := "with: {network: host}"
	begin, end := wit.says("start")+"; echo begun; ", "; echo ended; "+wit.says("end")
	w := serve(t, p, harness.Options{Project: map[string]string{
		"waybill.yaml": "units: {max: 4, orphan_sweep: 1s, orphan_grace: 2s}\n",
		"pipelines/chain.yaml": pipeline("chain", steps(
			sh("a", begin+`echo "___A=of $WAYBILL_RUN" >"$WAYBILL_OUTPUT"; seq 1 500`+end, host),
			sh("b", begin+`echo "$___A" >out.txt; sleep 0.3`+end, host, "outputs: {out: {file: out.txt}}"))),
		"pipelines/pulls.yaml": pipeline("pulls", steps(
			strings.Replace(sh("a", begin+"sleep 0.1"+end, "with: {network: host, pull: always}"), "{{image}}", "{{base}}/slow:v1", 1))),
		"pipelines/calls.yaml": pipeline("calls", steps(
			sh("a", `echo begun; n=0; until `+call+`'{"variables":{"___X":"told"}}' $WAYBILL_CALLBACK; do n=$((n+1)); [ $n -lt 200 ] || exit 9; sleep 0.1; done; echo ended`, "callback: required"))),
		"pipelines/retries.yaml": pipeline("retries", steps(
			sh("a", begin+`sleep 0.2`+end+`; [ $WAYBILL_ATTEMPT = 2 ] || exit 7`, host, "retry: {max: 1, backoff: 20ms}"))),
		"pipelines/stuck.yaml": pipeline("stuck", steps(sh("a", begin+"trap '' TERM; sleep 600", host, "timeout: 2s"))),
	}})
	slow := registrytest.Base(t)
	slow.Files = append(slow.Files, registrytest.File{Path: "/data/slow", Text: strings.Repeat(fmt.Sprint(rand.Uint64()), 20_000)})
	w.reg.Push(t, "slow:v1", slow.Build(t))
	w.reg.Break(registrytest.Fault{Path: "/slow/blobs/", Delay: 200 * time.Millisecond})
	return &campaign{world: w, wit: wit, runs: map[string]expected{}}
}

var plans = map[string]expected{
	"chain":   {waybill.StatusSucceeded, map[string]int{"a": 1, "b": 1}},
	"pulls":   {waybill.StatusSucceeded, map[string]int{"a": 1}},
	"calls":   {waybill.StatusSucceeded, map[string]int{"a": 1}},
	"retries": {waybill.StatusSucceeded, map[string]int{"a": 2}},
	"stuck":   {waybill.StatusTimedOut, map[string]int{"a": 1}},
}

// submit starts runs; requests are repeated over the server's deaths.
func (c *campaign) submit(ctx context.Context, names ...string) error {
	for _, n := range names {
		c.keys++
		for {
			r, err := c.Client().StartRun(ctx, n, client.StartRun{}, fmt.Sprintf("%s-%d", n, c.keys))
			if err == nil {
				c.runs[r.ID] = plans[n]
				break
			}
			var e *client.Error
			if ctx.Err() != nil || errors.As(err, &e) && e.Kind != waybill.KindUnavailable {
				return fmt.Errorf("start %s: %w", n, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// settled returns nil when everything has ended and nothing is left.
func (c *campaign) settled() error {
	for id := range c.runs {
		r, err := c.Client().Run(c.ctx, id)
		if err != nil {
			return err
		}
		if !r.Status.Terminal() {
			return fmt.Errorf("run %s of %s is %s: %s", id, r.Pipeline, r.Status, shown(r))
		}
		if err := c.leftovers(id, r.Attempts); err != nil {
			return fmt.Errorf("run %s of %s: %w", id, r.Pipeline, err)
		}
	}
	return nil
}

// judge holds the end against what it would be without a kill.
func (c *campaign) judge() {
	t := c.t
	t.Helper()
	if err := harness.Await(2*soon, c.settled); err != nil {
		t.Errorf("not done: %v", err)
		return
	}
	for id, want := range c.runs {
		r := c.run(id)
		if r.Status != want.status {
			t.Errorf("run %s of %s ended as %s, want %s: %s", id, r.Pipeline, r.Status, want.status, shown(r))
		}
		for step, n := range want.tries {
			if got := attempts(r, step); got != n {
				t.Errorf("run %s of %s: step %s took %d attempts, want %d: %s", id, r.Pipeline, step, got, n, shown(r))
			}
		}
		for _, s := range r.Steps {
			if s.Losses > 0 {
				t.Errorf("run %s of %s: step %s lost %d units: %s", id, r.Pipeline, s.Name, s.Losses, shown(r))
			}
		}
		for _, a := range r.Attempts {
			if a.Image == "" || !strings.Contains(a.Image, "@sha256:") {
				t.Errorf("run %s of %s: the image of attempt %d of step %s is %q", id, r.Pipeline, a.Number, a.Step, a.Image)
			}
			// What a container wrote is there once, from the beginning to the end.
			log := c.log(id, a.Step, a.Number)
			ends := 1
			if r.Pipeline == "stuck" {
				ends = 0
			}
			if strings.Count(log, "begun\n") != 1 || strings.Count(log, "ended\n") != ends || strings.Contains(log, "unheard") {
				t.Errorf("run %s of %s: the log of attempt %d of step %s is %q", id, r.Pipeline, a.Number, a.Step, log)
			}
			if r.Pipeline == "chain" && a.Step == "a" && !strings.Contains(log, "begun\n1\n2\n3\n") || strings.Count(log, "\n250\n") > 1 {
				t.Errorf("run %s of %s: the log of attempt %d of step %s is not the one that was written", id, r.Pipeline, a.Number, a.Step)
			}
			if r.Pipeline == "calls" {
				continue // nobody witnesses what happens on the bridge
			}
			starts := 0
			for _, e := range c.wit.of(id) {
				if e.step == a.Step && e.attempt == strconv.Itoa(a.Number) && e.what == "start" {
					starts++
				}
			}
			if starts != 1 {
				t.Errorf("duplicate: run %s of %s: attempt %d of step %s was executed %d times", id, r.Pipeline, a.Number, a.Step, starts)
			}
		}
		if r.Pipeline == "calls" && variable(r, "___X") != "told" {
			t.Errorf("run %s of calls was told %q", id, variable(r, "___X"))
		}
		if r.Pipeline == "chain" && variable(r, "___A") != "of "+id {
			t.Errorf("run %s of chain returned %q", id, variable(r, "___A"))
		}
	}
	for _, topic := range []string{"run", "unit", "cleanup"} {
		dead := must(c.Client().DeadLetters(c.ctx, topic, client.ListDeadLettersParams{}))(t)
		for _, m := range dead.Items {
			t.Errorf("dead letter of %s: %s", topic, text(m))
		}
	}
	left, err := c.p.left(c.world)
	if err != nil {
		t.Error(err)
	}
	if c.p.name == "oci" && len(left) > 0 { // an engine has those of others, too
		t.Errorf("left: %v", left)
	}
	if l := must(c.Client().Units(c.ctx))(t); len(l.Items) > 0 {
		t.Errorf("units are listed: %+v", l.Items)
	}
}

// up starts the server. One that dies at its point before it is healthy has done what was
// asked of it.
func (c *campaign) up(point string, n int) error {
	var env []string
	if point != "" {
		env = append(env, "WAYBILL_KILL_AT="+point+":"+strconv.Itoa(n))
	}
	if err := c.TryStart(env...); err != nil && (point == "" || c.Running() || c.ExitCode() != -1) {
		return fmt.Errorf("a killed server does not start again: %w", err)
	}
	return nil
}

// A server that is killed at a named point of a container's life ends it as if it had not
// been killed.
func TestFA10_KillPoints(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		c := newCampaign(t, p)
		if err := c.submit(c.ctx, "chain"); err != nil { // the image is here, the network is made
			t.Fatal(err)
		}
		c.judge()
		for i, point := range points {
			c.Kill()
			if err := c.up(point, 1+i%2); err != nil {
				t.Fatal(err)
			}
			c.runs = map[string]expected{}
			ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
			started := make(chan error, 1)
			names := []string{"chain", "calls", "retries"}
			go func() {
				defer cancel()
				started <- c.submit(ctx, names...)
			}()
			select {
			case <-c.Exited():
			case <-time.After(45 * time.Second):
				t.Errorf("the server did not come to %s", point)
				c.Kill()
			}
			if err := c.up("", 0); err != nil {
				t.Fatal(err)
			}
			if err := <-started; err != nil {
				t.Fatal(err)
			}
			if c.judge(); t.Failed() {
				t.Fatalf("after a kill at %s", point)
			}
		}
	})
}

func seeds(t *testing.T) []uint64 {
	t.Helper()
	if one := os.Getenv("WAYBILL_SEED"); one != "" {
		n, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{n}
	}
	n := 10
	if os.Getenv("WAYBILL_CAMPAIGN") == "full" {
		n = 50
	}
	if s := os.Getenv("WAYBILL_SEEDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	all := make([]uint64, n)
	for i := range all {
		all[i] = uint64(i + 1)
	}
	return all
}

// Servers that are killed at random moments of containers' lives, and at named points, end
// them as if they had not been killed: nothing is lost, nothing twice, nothing left.
func TestFA10_KillCampaign(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		kills, begun := 0, time.Now()
		all := seeds(t)
		for _, seed := range all {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				c := newCampaign(t, p)
				rng := rand.New(rand.NewPCG(seed, 1))
				names := []string{"chain", "pulls", "calls", "retries", "chain", "calls"}
				if seed%3 == 0 {
					names = append(names, "stuck")
				}
				rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				ctx, cancel := context.WithTimeout(c.ctx, 2*time.Minute)
				defer cancel()
				started := make(chan error, 1)
				go func() { started <- c.submit(ctx, names...) }()
				for i := range 5 {
					select {
					case <-c.Exited(): // at its point
					case <-time.After(time.Duration(30+rng.IntN(1200)) * time.Millisecond):
						c.Kill()
					}
					kills++
					time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond) // units go on without it
					point := ""
					if rng.IntN(2) == 0 {
						point = points[(int(seed)*5+i)%len(points)]
					}
					if err := c.up(point, 1+rng.IntN(3)); err != nil {
						t.Fatal(err)
					}
				}
				c.Kill()
				kills++
				if err := c.up("", 0); err != nil {
					t.Fatal(err)
				}
				if err := <-started; err != nil {
					t.Fatal(err)
				}
				c.judge()
			})
		}
		t.Logf("%s: %d seeds, %d kills, %v", p.name, len(all), kills, time.Since(begun).Round(time.Second))
	})
}
