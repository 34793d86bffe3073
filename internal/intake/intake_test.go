package intake_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	azqueue "github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/cloud/azuretest"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/intake"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/source"
	"github.com/waybill-run/waybill/internal/source/azurequeue"
	"github.com/waybill-run/waybill/internal/source/rabbitmq"
	"github.com/waybill-run/waybill/internal/source/rabbittest"
	"github.com/waybill-run/waybill/internal/source/sourcetest"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// world is a server without runners: messages become runs, and those wait.
type world struct {
	t       *testing.T
	store   *sqlite.Store
	project *project.Project
	engine  *engine.Engine
	events  *arrival.Events
	admin   *queue.Admin
	sink    intake.Sink
	admit   func(context.Context) error
	intake  *intake.Intake
	hops    map[string]int
}

func newWorld(t *testing.T, definitions ...string) *world {
	t.Helper()
	w := &world{t: t, hops: map[string]int{}}
	var schema store.Schema
	for _, part := range []store.Schema{engine.Tables(), object.Tables(), project.Tables(), arrival.Tables()} {
		schema = append(schema, part...)
	}
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	blobs, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if w.project, err = project.Open(t.Context(), w.store, "", project.Options{Parse: pipeline.Options{}}); err != nil {
		t.Fatal(err)
	}
	w.engine = engine.New(engine.Options{Store: w.store, Blobs: blobs, Plans: w.project})
	w.events = arrival.NewEvents(arrival.EventOptions{
		Store: w.store, Plans: w.project, Starter: arrival.NewStarter(w.engine.Begin, time.Now, nil), Now: time.Now,
		Hops: func(_ context.Context, attempt string) (int, error) {
			n, ok := w.hops[attempt]
			if !ok {
				return 0, waybill.E(waybill.KindNotFound, "there is no run")
			}
			return n, nil
		},
	})
	w.sink, w.admin = w.events, queue.NewAdmin(w.store, 0)
	for _, d := range definitions {
		w.apply(d)
	}
	return w
}

func (w *world) apply(definition string) {
	w.t.Helper()
	if _, _, err := w.project.ApplyPipeline(w.t.Context(), []byte(definition), waybill.Principal{Name: "test"}); err != nil {
		w.t.Fatal(err)
	}
}

// start takes messages until the function it returns is called.
func (w *world) start(s source.Source) (stop func()) {
	w.t.Helper()
	in := intake.New(intake.Options{
		Sink: w.sink, Admit: w.admit,
		Feeds: []intake.Feed{{Name: "orders", Kind: "fake", Queue: "q", Max: 16, MaxDeliveries: 4, Source: s}},
	})
	w.intake = in
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.Run(ctx)
	}()
	once := sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(once)
	return once
}

func (w *world) status() waybill.Source {
	w.t.Helper()
	l, err := w.intake.Sources(w.t.Context())
	if err != nil || len(l) != 1 {
		w.t.Fatal(l, err)
	}
	return l[0]
}

// until waits for what happens in other goroutines.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for limit := time.Now().Add(90 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			w.t.Fatalf("not in time: %s; %+v", what, w.status())
		}
	}
}

func (w *world) runs() []waybill.Run {
	w.t.Helper()
	var all []waybill.Run
	for cursor := ""; ; {
		page, err := w.engine.Runs(w.t.Context(), waybill.RunFilter{Limit: 1000, Cursor: cursor})
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, page.Items...)
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// started counts runs by pipeline and data.
func (w *world) started() map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for _, r := range w.runs() {
		out[r.Pipeline+" "+string(r.Event.Data)]++
	}
	return out
}

func (w *world) want(want map[string]int) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.started()); diff != "" {
		w.t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func (w *world) dead() []waybill.QueueMessage {
	w.t.Helper()
	page, err := w.admin.DeadLetters(w.t.Context(), queue.TopicEvent, 100, "")
	if err != nil && !waybill.IsKind(err, waybill.KindNotFound) { // the topic has never been used
		w.t.Fatal(err)
	}
	return page.Items
}

// redrive sends dead letters again and works on them.
func (w *world) redrive() {
	w.t.Helper()
	n, err := w.admin.Redrive(w.t.Context(), queue.TopicEvent, nil, waybill.Principal{})
	if err != nil || n == 0 {
		w.t.Fatal(n, err)
	}
	worker, err := queue.Start(w.t.Context(), queue.Options{Store: w.store, Topic: queue.TopicEvent, Owner: "test", Handler: w.events.Handle})
	if err != nil {
		w.t.Fatal(err)
	}
	w.until("dead letters are worked on", func() bool {
		msgs, _, err := w.store.Peek(w.t.Context(), "", queue.TopicEvent, "", 1)
		return err == nil && len(msgs) == 0
	})
	worker.Stop()
}

// on is a definition that messages of the source orders start.
func on(name, more string) string {
	return "name: " + name + "\non: {queue: {source: orders" + more + "}}\nsteps: [{name: one, run: [\"true\"]}]\n"
}

const needsNumber = `
name: typed
params: {n: {type: int}}
on: {queue: {source: orders, params: {n: "${{ event.data.n }}"}}}
steps: [{name: one, run: ["true"]}]
`

func TestWhatMessagesStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""), on("blue", ", filter: \"event.headers.color == 'blue'\""), "name: other\non: {queue: {source: others}}\nsteps: [{name: one, run: [\"true\"]}]\n")
	f := sourcetest.NewFake()
	f.Send(t, "1", []byte(`{"n": 1}`), map[string]string{"color": "blue"})
	f.Send(t, "2", []byte("plain text"), map[string]string{"color": "red"})
	f.Send(t, "3", []byte{0xff, 0, 1}, nil)
	w.start(f)
	w.until("all is taken", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`all {"n":1}`: 1, `blue {"n":1}`: 1, `all "plain text"`: 1, `all "/wAB"`: 1})
	for _, r := range w.runs() {
		ev := r.Event
		if ev.Type != "queue" || ev.Source != "/sources/orders" || ev.Time.IsZero() || ev.Hops != 1 {
			t.Errorf("event %+v", ev)
		}
		if string(ev.Data) == `"/wAB"` && ev.Headers["body-encoding"] != "base64" {
			t.Errorf("nothing tells that %s is encoded: %v", ev.Data, ev.Headers)
		}
	}
	if s := w.status(); s.Status != "ok" || s.Accepted != 3 || s.Received != 3 || s.Dead != 0 {
		t.Errorf("%+v", s)
	}
}

// A message that nobody wants is acknowledged and known.
func TestUnwanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("blue", ", filter: \"event.data == 'blue'\""))
	f := sourcetest.NewFake()
	w.start(f)
	f.Send(t, "1", []byte("red"), nil)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	w.apply(on("late", ""))
	f.Send(t, "1", []byte("red"), nil)
	w.until("it is taken again", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{})
	if s := w.status(); s.Duplicates != 1 || s.Accepted != 1 {
		t.Errorf("%+v", s)
	}
}

// cutting cuts the connection after a message was taken and before that is told.
type cutting struct {
	intake.Sink
	times atomic.Int64
	cut   func()
}

func (c *cutting) Message(ctx context.Context, m arrival.Message) (waybill.Delivery, error) {
	d, err := c.Sink.Message(ctx, m)
	if c.times.Add(-1) >= 0 {
		c.cut()
	}
	return d, err
}

// Messages that are delivered again start nothing again; like ones that are others
// start something each.
func TestCutBeforeAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	sink := &cutting{Sink: w.events, cut: func() { f.Cut(t) }}
	sink.times.Store(3)
	w.sink = sink
	for i := range 20 {
		f.Send(t, fmt.Sprint(i), fmt.Appendf(nil, "with id %d", i), nil)
		f.Send(t, "", fmt.Appendf(nil, "without %d", i), nil)
	}
	f.Send(t, "", []byte("twins"), nil)
	f.Send(t, "", []byte("twins"), nil)
	f.Send(t, "7", []byte("with id 7"), nil) // the sender repeats it
	w.start(f)
	w.until("all is taken", func() bool { return f.Left(t) == 0 })
	want := map[string]int{`all "twins"`: 2}
	for i := range 20 {
		want[fmt.Sprintf(`all "with id %d"`, i)] = 1
		want[fmt.Sprintf(`all "without %d"`, i)] = 1
	}
	w.want(want)
	if s := w.status(); s.Duplicates == 0 || s.Accepted != 42 {
		t.Errorf("%+v, want 42 accepted and some duplicates", s)
	}
	// One like an earlier one, which was acknowledged, is another one, also if it comes twice.
	sink.times.Store(1)
	f.Send(t, "", []byte("twins"), nil)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	want[`all "twins"`] = 3
	w.want(want)
}

func TestMessagesThatCanStartNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, needsNumber, on("all", ""))
	f := sourcetest.NewFake()
	w.start(f)
	f.Send(t, "good", []byte(`{"n":1}`), nil)
	f.Send(t, "bad", []byte(`{"n":"many"}`), nil)
	w.until("all is taken", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`typed {"n":1}`: 1, `all {"n":1}`: 1, `all {"n":"many"}`: 1})
	letters := w.dead()
	if len(letters) != 1 || !strings.Contains(letters[0].Reason, "pipeline typed cannot start") {
		t.Fatalf("dead letters: %v", letters)
	}
	w.apply(strings.Replace(needsNumber, "type: int", "type: string", 1))
	w.redrive()
	w.want(map[string]int{`typed {"n":1}`: 1, `all {"n":1}`: 1, `all {"n":"many"}`: 1, `typed {"n":"many"}`: 1})

	// An id that comes with other content is no repetition.
	f.Send(t, "good", []byte(`{"n":2}`), nil)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	if letters := w.dead(); len(letters) != 1 || !strings.Contains(letters[0].Reason, "with another content") || !strings.Contains(letters[0].Body, `"n":2`) {
		t.Errorf("dead letters: %v", letters)
	}
	if s := w.status(); s.Status != "ok" || s.Dead != 1 {
		t.Errorf("%+v", s)
	}
	w.redrive()
	if n := w.started()[`typed {"n":2}`]; n != 1 {
		t.Errorf("sent again it started %d", n)
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	w.start(f)
	bodies := []string{
		"", "{", "[[[[", strings.Repeat("[", 100_000), "\x00\x00", "\xff\xfe", `{"a":1,"a":2}`, `"\u0000"`, "null", strings.Repeat("9", 1000),
		`{"__proto__":{"x":1}}`, "${secret:X} ${{ 1 }}", strings.Repeat("x", intake.MaxBody+1),
	}
	for i, b := range bodies {
		f.Send(t, fmt.Sprintf("id\x00\xff%d", i), []byte(b), map[string]string{"bad\x00\xffheader": "\xff\x00", "": "empty", "long": strings.Repeat("h", 100_000)})
	}
	f.Send(t, strings.Repeat("id", 1000), []byte("long id"), nil)
	w.until("all is taken", func() bool { return f.Left(t) == 0 })
	if n := len(w.runs()); n != len(bodies) {
		t.Errorf("%d runs, want %d: %v", n, len(bodies), w.dead())
	}
	letters := w.dead()
	if len(letters) != 1 || !strings.Contains(letters[0].Reason, "the limit is") || len(letters[0].Body) <= intake.MaxBody {
		t.Errorf("%d dead letters", len(letters))
	}
	if s := w.status(); s.Status != "ok" {
		t.Errorf("%+v", s)
	}
}

// flaky fails for a while.
type flaky struct {
	intake.Sink
	left atomic.Int64
	err  error
}

func (f *flaky) Message(ctx context.Context, m arrival.Message) (waybill.Delivery, error) {
	if m.Refuse == "" && f.left.Add(-1) >= 0 {
		return waybill.Delivery{}, f.err
	}
	return f.Sink.Message(ctx, m)
}

// While we cannot take messages they stay where they are; one that could not be taken
// too often is refused with all it holds.
func TestFaultsOfOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	sink := &flaky{Sink: w.events, err: waybill.E(waybill.KindUnavailable, "the disk is full")}
	sink.left.Store(2)
	w.sink = sink
	f.Send(t, "1", []byte("one"), nil)
	w.start(f)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`all "one"`: 1})

	sink.left.Store(1 << 40)
	f.Send(t, "2", []byte("two"), nil)
	w.until("it is refused", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`all "one"`: 1})
	if l := w.dead(); len(l) != 1 || !strings.Contains(l[0].Reason, "poison: it was delivered 4 times") {
		t.Fatalf("dead letters: %v", l)
	}
	w.redrive()
	w.want(map[string]int{`all "one"`: 1, `all "two"`: 1})
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	var full atomic.Bool
	full.Store(true)
	w.admit = func(context.Context) error {
		if full.Load() {
			return waybill.E(waybill.KindExhausted, "the queue run holds 10 messages, its limit is 10")
		}
		return nil
	}
	f.Send(t, "1", []byte("one"), nil)
	w.start(f)
	w.until("it is told", func() bool { return w.status().Status == "full" })
	if s := w.status(); s.Received != 0 || !strings.Contains(s.Error, "its limit is 10") {
		t.Errorf("%+v", s)
	}
	full.Store(false)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	if s := w.status(); s.Status != "ok" || s.Error != "" {
		t.Errorf("%+v", s)
	}
}

func TestSourceIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	w.start(f)
	w.until("it is connected", func() bool { return w.status().Status == "ok" })
	f.Do(func() { f.Down = waybill.E(waybill.KindUnavailable, "connection refused") })
	f.Send(t, "1", []byte("one"), nil)
	w.until("it is told", func() bool { return w.status().Status == "failing" })
	if s := w.status(); s.Error != "connection refused" || s.ErrorAt.IsZero() {
		t.Errorf("%+v", s)
	}
	f.Do(func() { f.Down = nil })
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`all "one"`: 1})
}

// What our own attempts send arrives one hop further, and ends.
func TestFB14MessagesInARound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	w.hops["run/one/1"], w.hops["run/one/2"] = 4, arrival.MaxHops+1
	f.Send(t, "1", []byte("near"), map[string]string{"Waybill-Attempt": "run/one/1"})
	f.Send(t, "2", []byte("far"), map[string]string{"waybill_attempt": "run/one/2"})
	f.Send(t, "3", []byte("strange"), map[string]string{"waybill-attempt": "who/knows/1"})
	w.start(f)
	w.until("all is taken", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`all "near"`: 1, `all "strange"`: 1})
	for _, r := range w.runs() {
		if string(r.Event.Data) == `"near"` && r.Event.Hops != 5 {
			t.Errorf("%d hops, want 5", r.Event.Hops)
		}
	}
	if l := w.dead(); len(l) != 1 || !strings.HasPrefix(l[0].Reason, "loop") {
		t.Errorf("dead letters: %v", l)
	}
}

// Two servers take messages of one queue; one of them stops in the middle.
func TestManyMessages(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]func(t *testing.T) (*sourcetest.Place, int){
		"fake": func(*testing.T) (*sourcetest.Place, int) {
			f := sourcetest.NewFake()
			return &sourcetest.Place{Source: f, Send: f.Send, Left: f.Left, Cut: f.Cut}, 5000
		},
		"RabbitMQ": func(t *testing.T) (*sourcetest.Place, int) {
			node := rabbittest.Start(t)
			node.Declare(t, "orders")
			return &sourcetest.Place{
				Source: rabbitmq.New(rabbitmq.Options{URL: func(context.Context) (string, error) { return node.URL, nil }, Queue: "orders", Prefetch: 32}),
				Send: func(t *testing.T, id string, body []byte, h map[string]string) {
					node.Send(t, "orders", id, body, h)
				},
				Left: func(t *testing.T) int { return node.Left(t, "orders") },
			}, 5000
		},
		"Azurite": func(t *testing.T) (*sourcetest.Place, int) { return azurite(t), 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, n := place(t)
			w := newWorld(t, on("all", ""))
			for i := range n {
				id := ""
				if i%2 == 0 {
					id = fmt.Sprint(i)
				}
				p.Send(t, id, fmt.Appendf(nil, "message %d", i), nil)
			}
			first := w.start(p.Source)
			one := w.intake
			w.start(p.Source)
			accepted := func() int64 {
				l, err := one.Sources(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return l[0].Accepted + w.status().Accepted
			}
			w.until("half of them are taken", func() bool { return accepted() > int64(n/2) })
			first()
			w.until("all are taken", func() bool { return accepted() >= int64(n) })
			want := map[string]int{}
			for i := range n {
				want[fmt.Sprintf(`all "message %d"`, i)] = 1
			}
			w.until("all are acknowledged", func() bool { return p.Left(t) == 0 })
			w.want(want)
		})
	}
}

// azurite is a queue of Azurite.
func azurite(t *testing.T) *sourcetest.Place {
	t.Helper()
	server := azuretest.Start(t)
	credential, err := azqueue.NewSharedKeyCredential(azuretest.Account, azuretest.Key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := azqueue.NewQueueClientWithSharedKeyCredential(server.Queues+"/orders", credential, nil)
	if err == nil {
		_, err = q.Create(t.Context(), nil)
	}
	u, perr := url.Parse(server.Queues)
	if err = errors.Join(err, perr); err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(azuretest.Account, azuretest.Key)
	return &sourcetest.Place{
		Source: azurequeue.New(azurequeue.Options{
			URL: func(context.Context) (string, error) { return u.String(), nil }, Queue: "orders", Visibility: time.Minute, Encoding: "auto", Poll: 200 * time.Millisecond,
		}),
		Send: func(t *testing.T, _ string, body []byte, _ map[string]string) {
			t.Helper()
			if _, err := q.EnqueueMessage(t.Context(), string(body), nil); err != nil {
				t.Fatal(err)
			}
		},
		Left: func(t *testing.T) int {
			t.Helper()
			p, err := q.GetProperties(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return int(*p.ApproximateMessagesCount)
		},
	}
}

// A stop gives back what was not taken, and finishes what is in hand.
func TestOrderlyStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, on("all", ""))
	f := sourcetest.NewFake()
	entered, release := make(chan struct{}), make(chan struct{})
	w.sink = &slow{Sink: w.events, entered: entered, release: release}
	f.Send(t, "1", []byte("one"), nil)
	stop := w.start(f)
	<-entered
	f.Send(t, "2", []byte("two"), nil)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	release <- struct{}{}
	<-stopped
	w.want(map[string]int{`all "one"`: 1})
	if n := f.Left(t); n != 1 {
		t.Errorf("%d messages are left, want the one that was not taken", n)
	}
	w.sink = w.events
	w.start(f)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	w.want(map[string]int{`all "one"`: 1, `all "two"`: 1})
}

type slow struct {
	intake.Sink
	entered, release chan struct{}
}

func (s *slow) Message(ctx context.Context, m arrival.Message) (waybill.Delivery, error) {
	s.entered <- struct{}{}
	<-s.release
	return s.Sink.Message(ctx, m)
}

func TestSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sink := &unsettled{w.events}
	w.sink = sink
	f := sourcetest.NewFake()
	f.Send(t, "", []byte("one"), nil)
	w.start(f)
	w.until("it is taken", func() bool { return f.Left(t) == 0 })
	rows := func() int {
		t.Helper()
		l, err := w.store.Scan(t.Context(), "", "message_open", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	if err := w.events.SweepMessages(t.Context(), time.Now()); err != nil || rows() != 1 {
		t.Errorf("%d rows, %v", rows(), err)
	}
	if err := w.events.SweepMessages(t.Context(), time.Now().Add(arrival.Remember+time.Hour)); err != nil || rows() != 0 {
		t.Errorf("%d rows, %v", rows(), err)
	}
}

// unsettled never hears of acknowledgments.
type unsettled struct{ intake.Sink }

func (unsettled) Settled(context.Context, arrival.Message) error { return nil }
