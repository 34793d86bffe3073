package enginetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/sim"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// lease is that of every server here.
const lease = 3 * time.Second

// sweep is how often servers look for units that nobody owns.
const sweep = 20 * time.Second

// world is one seed: servers on one store, what goes wrong, and what clients know.
type world struct {
	t     *testing.T
	seed  uint64
	text  string // the pipelines
	dir   string
	f     *faults
	watch *watch
	blobs *file.Store
	vault *vault
	plans plans
	nodes []*node
	log   *syncBuffer

	mu       sync.Mutex
	given    map[string]string          // attempt to the secret that its unit was first handed
	units    map[string]string          // unit to the node that started it
	accepted map[string]string          // runs that were accepted, and how they were asked for
	keys     map[string]map[string]bool // idempotency key to runs that were answered
	keyed    map[string]string          // idempotency key to pipeline
}

// node is a server, life after life.
type node struct {
	w    *world
	name string
	dir  string

	mu   sync.Mutex // changes of what is below
	sim  *sim.Runner
	life *life
	e    *engine.Engine
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// folder is a place for the files of a world, in memory where there is such a place:
// durability is for the campaign that kills the program to test.
func folder(t *testing.T) string {
	if dir, err := os.MkdirTemp("/dev/shm", "waybill-model-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, seed: seed, dir: folder(t), log: &syncBuffer{},
		given: map[string]string{}, units: map[string]string{}, accepted: map[string]string{}, keys: map[string]map[string]bool{}, keyed: map[string]string{},
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	w.plans, w.text = author{rng}.world(t)
	st, err := sqlite.Open(t.Context(), filepath.Join(w.dir, "store.db"), engine.Tables(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.blobs, err = file.Open(filepath.Join(w.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	w.watch = newWatch(st)
	w.f = &faults{rng: rand.New(rand.NewPCG(seed, 2)), on: true, rate: rng.IntN(12), made: map[string]int{}, now: st.Now}
	w.vault = &vault{f: w.f, values: map[string][]string{}}
	for _, name := range []string{"alpha", "beta"} {
		w.turn(name, rng)
	}
	w.watch.parallel = func(run *waybill.Run, step string) int {
		return w.plans[run.Pipeline].Step(step).Matrix.MaxParallel
	}
	for i := range 1 + int(seed%3)/2 { // every third world has two servers
		n := &node{w: w, name: fmt.Sprintf("node-%d", i), dir: filepath.Join(w.dir, fmt.Sprint("server-", i))}
		w.nodes = append(w.nodes, n)
		n.boot(true)
	}
	return w
}

// turn gives a secret a new value.
func (w *world) turn(name string, rng *rand.Rand) {
	v := fmt.Sprintf("S3cr3t-%s-%016x", name, rng.Uint64())
	w.watch.secret(v)
	w.vault.turn(name, v)
}

// started notes that a node starts a unit, and which secret it is handed.
func (w *world) started(s runner.Spec, node string) {
	unit := s.Unit
	w.mu.Lock()
	for _, v := range s.Env {
		if key, ok := strings.CutPrefix(v, "KEY="); ok {
			w.given[s.Meta["run"]+"/"+s.Meta["step"]+"/"+s.Meta["attempt"]] = key
		}
	}
	by, ok := w.units[unit]
	w.units[unit] = node
	w.mu.Unlock()
	if ok && by != node {
		w.watch.mu.Lock()
		w.watch.bad("unit %s was started by %s and by %s", unit, by, node)
		w.watch.mu.Unlock()
	}
}

// boot begins a new life of the node, with the units of the one before or without.
func (n *node) boot(fresh bool) {
	w := n.w
	if fresh {
		if n.sim != nil {
			n.sim.Close()
		}
		n.sim = sim.New(sim.Options{Client: &http.Client{Transport: network{w}}})
	}
	for {
		l := &life{f: w.f}
		e := engine.New(engine.Options{
			Store: &faultyStore{w.watch, l}, Blobs: &faultyBlobs{w.blobs, l, w.watch}, Plans: w.plans, Secrets: w.vault,
			Runners: map[string]runner.Runner{sim.Name: &faultyRunner{n.sim, l, w, n.name}},
			Logger:  slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", n.name),
			Node:    n.name, Instance: "model", Secret: []byte("secret of " + n.name), Dir: n.dir,
			URL:   func(context.Context, string) string { return "http://waybill.test" },
			Units: 6, Runs: 8, Lease: lease, OrphanSweep: sweep, OrphanGrace: sweep, StopGrace: time.Second, CallGrace: 3 * time.Second, Shared: len(w.nodes) > 1 || w.seed%3 == 2,
		})
		if err := os.MkdirAll(n.dir, 0o755); err != nil {
			w.t.Error(err)
			return
		}
		err := e.Start(context.Background())
		if err == nil {
			n.mu.Lock()
			n.life, n.e = l, e
			n.mu.Unlock()
			return
		}
		l.over.Store(true)
		e.Stop()
		time.Sleep(time.Second)
	}
}

func (n *node) engine() *engine.Engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.e
}

// end ends the life of a node: as a stop, or as a crash after which nothing it does
// reaches anything.
func (n *node) end(crash bool) {
	n.mu.Lock()
	l, e := n.life, n.e
	n.mu.Unlock()
	if crash {
		l.over.Store(true)
	}
	e.Stop()
	l.over.Store(true)
}

// network is the way from units to servers.
type network struct{ w *world }

func (x network) RoundTrip(req *http.Request) (*http.Response, error) {
	w := x.w
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	if w.f.hit("callback lost", 15) {
		return nil, errAway
	}
	if w.f.hit("callback slow", 15) {
		pause(req.Context(), w.f.draw(5*time.Second))
	}
	times := 1
	if w.f.hit("callback twice", 15) {
		times = 2
	}
	for range times {
		e := w.nodes[int(w.f.draw(time.Hour))%len(w.nodes)].engine()
		p, aerr := e.Authenticate(req.Context(), strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
		switch {
		case aerr != nil:
			err = aerr
		case strings.HasSuffix(req.URL.Path, "/callback"):
			_, err = e.Complete(req.Context(), p.Attempt, body, req.Header.Get("Content-Type"))
			w.internal("callback of "+p.Attempt, err)
		case strings.HasSuffix(req.URL.Path, "/heartbeat"):
			_, err = e.Heartbeat(req.Context(), p.Attempt, "")
			w.internal("heartbeat of "+p.Attempt, err)
		}
	}
	if w.f.hit("callback answer", 15) {
		return nil, errAway
	}
	if err != nil {
		return &http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader(err.Error())), Request: req}, nil
	}
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("{}")), Request: req}, nil
}

// internal notes an answer that means that the engine did not know what to do.
func (w *world) internal(what string, err error) {
	if waybill.IsKind(err, waybill.KindInternal) && !injected(err.Error()) && !errors.Is(err, context.Canceled) {
		w.watch.mu.Lock()
		defer w.watch.mu.Unlock()
		w.watch.bad("%s: %v", what, err)
	}
}

// quiet waits until no message is left, and returns those that are left after a time.
func (w *world) quiet(within time.Duration) []store.QueuedMsg {
	var left []store.QueuedMsg
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(2 * time.Second) {
		left = left[:0]
		for _, topic := range []string{queue.TopicRun, queue.TopicUnit, queue.TopicSlot, queue.TopicTimer, queue.TopicCleanup} {
			msgs, _, err := w.watch.Peek(context.Background(), store.DefaultTenant, topic, "", 20)
			if err != nil {
				w.t.Error(err)
			}
			left = append(left, msgs...)
		}
		if len(left) == 0 {
			return nil
		}
	}
	return left
}
