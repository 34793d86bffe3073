package enginetest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/engine"
)

// play lets clients start runs and act on them while servers come and go.
func (w *world) play(actions int) {
	var wg sync.WaitGroup
	rng := rand.New(rand.NewPCG(w.seed, 3))
	for i := range 5 + rng.IntN(6) {
		wg.Go(func() { w.start(rand.New(rand.NewPCG(w.seed, 100+uint64(i))), fmt.Sprintf("key-%d", i)) })
	}
	for i := range 2 {
		wg.Go(func() { w.act(rand.New(rand.NewPCG(w.seed, 200+uint64(i))), actions) })
	}
	wg.Go(func() { w.trouble(rand.New(rand.NewPCG(w.seed, 300))) })
	wg.Wait()
}

func (w *world) any(rng *rand.Rand) *engine.Engine { return w.nodes[rng.IntN(len(w.nodes))].engine() }

// start is a client that wants one run, and asks until it is told that it has it. Some
// ask twice, at once, or without a key.
func (w *world) start(rng *rand.Rand, key string) {
	ctx := context.Background()
	time.Sleep(time.Duration(rng.IntN(8000)) * time.Millisecond)
	names := make([]string, 0, len(w.plans))
	for name := range w.plans {
		if name[0] == 'p' {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	r := waybill.StartRequest{Pipeline: names[rng.IntN(len(names))], IdempotencyKey: key, By: waybill.Principal{Name: "client"}}
	r.Params.Set("n", waybill.Value(fmt.Sprint(1+rng.IntN(3))))
	r.Vars.Set("___GIVEN", waybill.Value(`"given"`))
	if rng.IntN(4) == 0 {
		r.Delay = time.Duration(rng.IntN(3000)) * time.Millisecond
	}
	if rng.IntN(4) == 0 {
		p := rng.IntN(7) - 3
		r.Priority = &p
	}
	once := rng.IntN(6) == 0
	if once {
		r.IdempotencyKey = ""
	} else {
		w.mu.Lock()
		w.keyed[key], w.keys[key] = r.Pipeline, map[string]bool{}
		w.mu.Unlock()
	}
	var wg sync.WaitGroup
	from := time.Now()
	for c := range 1 + rng.IntN(2) {
		again := rng.IntN(3) == 0
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(w.seed, 1000+uint64(c)))
			for told := 0; ; {
				run, _, err := w.any(rng).StartRun(ctx, r)
				if err == nil {
					w.mu.Lock()
					w.accepted[run.ID] = "start " + key
					if !once {
						w.keys[key][run.ID] = true
					}
					w.mu.Unlock()
					if told++; told > 1 || !again {
						return
					}
				}
				w.internal("start "+r.Pipeline, err)
				if k := waybill.KindOf(err); err != nil && (k == waybill.KindInvalid || k == waybill.KindNotFound || time.Since(from) > 5*time.Minute) {
					w.t.Errorf("run of %s refused: %v", r.Pipeline, err)
					return
				}
				if once {
					return // a client that gives up
				}
				time.Sleep(time.Second)
			}
		})
	}
	wg.Wait()
}

// ids are the runs there are, the oldest first.
func (w *world) ids(prefix string, keep func(val []byte) bool) []string {
	w.watch.mu.Lock()
	defer w.watch.mu.Unlock()
	var out []string
	for k, r := range w.watch.rows {
		if id, ok := strings.CutPrefix(k, prefix); ok && keep(r.val) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func pick(rng *rand.Rand, list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[rng.IntN(len(list))]
}

// act is somebody who cancels, pauses, answers, repeats, and reports what is not theirs.
func (w *world) act(rng *rand.Rand, actions int) {
	ctx := context.Background()
	me := waybill.Principal{Name: "operator", Role: waybill.RoleAdmin}
	all := func([]byte) bool { return true }
	for range actions {
		time.Sleep(time.Duration(50+rng.IntN(2500)) * time.Millisecond)
		e := w.any(rng)
		run := pick(rng, w.ids("run:", all))
		if run == "" {
			continue
		}
		var err error
		what := ""
		switch rng.IntN(12) {
		case 0, 1:
			what = "cancel"
			_, err = e.CancelRun(ctx, run, "no longer wanted", rng.IntN(3) == 0, me)
		case 2, 3:
			what = "pause"
			_, err = e.PauseRun(ctx, run, rng.IntN(2) == 0, me)
		case 4, 5, 6, 7:
			what = "answer"
			asked := w.ids("attempt:", func(val []byte) bool {
				return strings.Contains(string(val), `"runner":"approval"`) && strings.Contains(string(val), `"status":"waiting"`)
			})
			if key := pick(rng, asked); key != "" {
				err = w.answer(ctx, rng, key)
			}
		case 8, 9:
			what = "retry"
			ended := pick(rng, w.ids("run:", func(val []byte) bool { return strings.Contains(string(val), `"finished_at"`) }))
			if ended == "" || len(w.ids("run:", all)) > 60 {
				continue
			}
			from := ""
			if rng.IntN(3) > 0 {
				from = fmt.Sprint("s", rng.IntN(2))
			}
			var again waybill.Run
			if again, err = e.RetryRun(ctx, ended, from, me); err == nil {
				w.mu.Lock()
				w.accepted[again.ID] = "retry of " + ended
				w.mu.Unlock()
			}
		default:
			what = "callback"
			if key := pick(rng, w.ids("attempt:", func(val []byte) bool { return strings.Contains(string(val), `"runner":"sim"`) })); key != "" {
				w.mu.Lock()
				alpha := w.given[key]
				w.mu.Unlock()
				bodies := []string{
					`{"status":"succeeded","variables":{"n":7}}`, `{"status":"succeeded","variables":{"n":"many"}}`, `{"status":"failed","error":"it broke"}`,
					`{"status":"succeeded","variables":{"___N":1`, `{"status":"maybe"}`, `{"status":"succeeded","variables":{"n":1,"note":"` + alpha + `"}}`,
				}
				body, kind := bodies[rng.IntN(len(bodies)-1)], "application/json"
				if alpha != "" {
					body = bodies[rng.IntN(len(bodies))]
				}
				for range 1 + rng.IntN(2) {
					_, err = e.Complete(ctx, key, []byte(body), kind)
					w.internal("callback "+body+" of "+key, err)
				}
				if rng.IntN(3) == 0 {
					err = e.SetVariables(ctx, key, vars("___EARLY", `1`))
				}
			}
		}
		w.internal(what+" "+run, err)
	}
}

func vars(name, value string) waybill.Vars {
	var v waybill.Vars
	v.Set(name, waybill.Value(value))
	return v
}

// answer lets two people answer the same question at once. One of them counts.
func (w *world) answer(ctx context.Context, rng *rand.Rand, key string) error {
	parts := strings.Split(key, "/")
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, who := range []string{"ann", "bob"} {
		a := waybill.Answer{Decision: []waybill.Decision{waybill.Approved, waybill.Approved, waybill.Rejected}[rng.IntN(3)], Comment: "seen"}
		if rng.IntN(3) > 0 {
			a.Values.Set("ticket", waybill.Value(`"C-1"`))
		}
		e := w.any(rng)
		wg.Go(func() {
			_, errs[i] = e.Answer(ctx, parts[0], parts[1], a, waybill.Principal{Name: who, Role: waybill.RoleAdmin})
			if errs[i] == nil {
				w.watch.mu.Lock()
				defer w.watch.mu.Unlock()
				// Steps with retries ask again, so the one that was answered is looked for.
				for k := range w.watch.rows {
					if strings.HasPrefix(k, "attempt:"+parts[0]+"/"+parts[1]+"/") {
						if at := get[waybill.Attempt](w.watch, "attempt", strings.TrimPrefix(k, "attempt:")); at.Approval != nil && at.Approval.By == who && at.Approval.Decision == a.Decision {
							return
						}
					}
				}
				w.watch.bad("%s was told that the answer %s to %s counts, and it does not", who, a.Decision, key)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if waybill.IsKind(err, waybill.KindInternal) {
			return err
		}
	}
	return nil
}

// trouble ends servers and begins them again, takes the store away for a while, and keeps
// leases from being renewed until they have ended.
func (w *world) trouble(rng *rand.Rand) {
	for range 3 + rng.IntN(6) {
		time.Sleep(time.Duration(500+rng.IntN(7000)) * time.Millisecond)
		n := w.nodes[rng.IntN(len(w.nodes))]
		switch rng.IntN(6) {
		case 0, 1:
			n.end(true)
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
			n.boot(rng.IntN(2) == 0)
		case 2:
			n.end(false)
			time.Sleep(time.Duration(rng.IntN(12000)) * time.Millisecond)
			n.boot(rng.IntN(3) == 0)
		case 3:
			w.f.begin("outage", &w.f.outage, time.Duration(500+rng.IntN(4000))*time.Millisecond)
		case 4:
			w.f.begin("deaf", &w.f.deaf, lease+time.Duration(rng.IntN(4000))*time.Millisecond)
		case 5:
			w.turn("alpha", rng)
			w.turn("beta", rng)
		}
	}
}
