// Package httpdtest is a small world in memory behind an HTTP server, for tests
// of the server, of the client and of the command line. It keeps the promises of
// the service interfaces as far as those tests look.
package httpdtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd"
)

// World is the state behind a server. The exported maps are filled before it is
// used, or under Do. Safe for concurrent use.
type World struct {
	mu        sync.Mutex
	changed   chan struct{}
	Now       func() time.Time
	Details   map[string]*waybill.RunDetail
	order     []string
	keys      map[string]string // idempotency key → run
	records   map[string][]waybill.Record
	logs      map[string]map[string][]byte // run → step → text
	Attempts  map[string]string            // token → attempt
	Closed    map[string]bool              // attempts
	Completed map[string]string            // attempt → body
	Vars      map[string]waybill.Vars      // attempt → variables that were set
	Stop      map[string]bool              // attempt → heartbeats are told to stop
	pipelines map[string]waybill.Pipeline
	objects   map[string][]stored
	Topics    map[string]*waybill.QueueInfo
	Waiting   map[string][]waybill.QueueMessage
	Dead      map[string][]waybill.QueueMessage
	tokens    []waybill.Token
	secrets   map[string]string // secret → token id
	Audits    []waybill.AuditRecord
	Rules     map[string]waybill.Notification
	asked     int64                     // scans of a watched bucket
	Filter    waybill.RunFilter         // of the last list of runs
	Kept      map[string]waybill.Secret // what may be known of secrets
	Delivered map[string]bool           // ids of events
	PausedBy  string                    // who paused the schedule of hello
	// Deliveries answers for deliveries; they are not of this world and unset unless a test
	// needs them.
	Deliveries waybill.Deliveries
	Made       []waybill.Unit // units that there are
	// Loaded are the images that are kept, by name. NoImages is a server that keeps none.
	Loaded   map[string]waybill.Image
	NoImages bool
	// Fail makes every method return this error.
	Fail error
	Away bool // a provider of deliveries cannot be asked
}

type stored struct {
	waybill.Object
	content []byte
}

// SourceErrors is what is wrong with a definition.
type SourceErrors []httpd.SourceProblem

func (e SourceErrors) Error() string { return fmt.Sprintf("%d problems", len(e)) }

// Problems is for httpd.Options.
func Problems(err error) []httpd.SourceProblem {
	var e SourceErrors
	errors.As(err, &e)
	return e
}

// New returns a world with the pipeline hello, of the folder.
func New(now func() time.Time) *World {
	w := &World{
		Now: now, changed: make(chan struct{}), Details: map[string]*waybill.RunDetail{}, keys: map[string]string{},
		records: map[string][]waybill.Record{}, logs: map[string]map[string][]byte{}, Attempts: map[string]string{},
		Closed: map[string]bool{}, Completed: map[string]string{}, Vars: map[string]waybill.Vars{}, Stop: map[string]bool{},
		pipelines: map[string]waybill.Pipeline{}, objects: map[string][]stored{},
		Topics:  map[string]*waybill.QueueInfo{"unit": {Topic: "unit", Depth: 1, Dead: 2}},
		Waiting: map[string][]waybill.QueueMessage{"unit": {{Topic: "unit", Key: "a", Seq: 1, Body: `{"n":1}`, Attempt: 1, SentAt: now()}}},
		Dead: map[string][]waybill.QueueMessage{"unit": {
			{ID: "d1", Topic: "unit", Key: "a", Body: "one", Attempt: 3, Fails: 3, SentAt: now(), Reason: "no such program", DeadAt: now()},
			{ID: "d2", Topic: "unit", Key: "b", Body: "two", Attempt: 3, Fails: 3, SentAt: now(), Reason: "no such program", DeadAt: now()}}},
		secrets: map[string]string{}, Kept: map[string]waybill.Secret{},
		Rules: map[string]waybill.Notification{"ops": {Origin: "folder", NotifyRule: waybill.NotifyRule{
			Name: "ops", On: []waybill.NotifyEvent{waybill.NotifyFailed}, Webhook: &waybill.NotifyWebhook{URL: "https://example.org/hook"},
		}}},
	}
	w.pipelines["hello"] = waybill.Pipeline{Name: "hello", Version: 1, Hash: "h1", Origin: "folder", File: "pipelines/hello.yaml",
		Source: "name: hello\n", CreatedAt: now(), Triggers: []string{"http"}, Steps: []string{"greet"}, Summary: "says hello"}
	return w
}

// Services are the world as a server wants it.
func (w *World) Services() httpd.Services {
	all := httpd.Services{Runs: runs{w}, Callbacks: callbacks{w}, Pipelines: pipelines{w}, Objects: objects{w}, Lineages: lineages{w}, Queues: queues{w}, Units: units{w}, Tokens: tokens{w}, Identities: identities{w}, Operations: operations{w}, Dumps: dumps{w}, Secrets: kept{w}, Watches: watches{w}, Sources: sources{w}, Deliveries: w.Deliveries, Providers: providers{w}, Ingest: ingest{w},
		Folder: folder{w}, Schemas: schemas, Stats: stats{w}, Notifications: notifications{w}, Metrics: http.HandlerFunc(metrics),
		Events: events{w}, Schedules: schedules{w}}
	if !w.NoImages {
		all.Images = images{w}
	}
	return all
}

// Do runs f while nobody else uses the world.
func (w *World) Do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.ring()
}

func (w *World) ring() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// lock takes the world, unless it is broken.
func (w *World) lock() (func(), error) {
	w.mu.Lock()
	if w.Fail != nil {
		defer w.mu.Unlock()
		return nil, w.Fail
	}
	return w.mu.Unlock, nil
}

// Record adds a line to a run's timeline.
func (w *World) Record(run, kind string) {
	w.Do(func() { w.record(run, kind) })
}

func (w *World) record(run, kind string) {
	n := len(w.records[run]) + 1
	w.records[run] = append(w.records[run], waybill.Record{
		Cursor: strconv.Itoa(n), Subject: "run/" + run, Kind: kind, At: w.Now(), Data: []byte(`{"n":` + strconv.Itoa(n) + `}`)})
}

// Write adds text to the log of a step.
func (w *World) Write(run, step, text string) {
	w.Do(func() {
		if w.logs[run] == nil {
			w.logs[run] = map[string][]byte{}
		}
		w.logs[run][step] = append(w.logs[run][step], text...)
	})
}

// End ends a run and its step.
func (w *World) End(run string, s waybill.Status) {
	w.Do(func() {
		d := w.Details[run]
		d.Status, d.FinishedAt, d.StepsDone = s, w.Now(), 1
		d.Steps[0].Status, d.Steps[0].FinishedAt = s, w.Now()
		if s != waybill.StatusSucceeded {
			d.Error, d.Steps[0].Error = "step greet failed: exit code 3", "exit code 3"
		}
		w.record(run, "run."+string(s))
	})
}

// AddToken makes a usable API token and returns its secret.
func (w *World) AddToken(name string, role waybill.Role) string {
	_, secret, err := tokens{w}.CreateToken(context.Background(), name, role, 0, waybill.Principal{Name: "test"})
	if err != nil {
		panic(err)
	}
	return secret
}

type runs struct{ *World }

func (w runs) StartRun(_ context.Context, r waybill.StartRequest) (waybill.Run, bool, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Run{}, false, err
	}
	defer unlock()
	if _, ok := w.pipelines[r.Pipeline]; !ok {
		return waybill.Run{}, false, waybill.E(waybill.KindNotFound, "there is no pipeline %s", r.Pipeline)
	}
	if id, ok := w.keys[r.IdempotencyKey]; ok && r.IdempotencyKey != "" {
		old := w.Details[id].Run
		if got, _ := r.Params.MarshalJSON(); !bytes.Equal(got, must(old.Params.MarshalJSON())) {
			return waybill.Run{}, false, waybill.E(waybill.KindInvalid, "the key was used for another request")
		}
		return old, false, nil
	}
	d := w.start(r.Pipeline, r.Vars, r.Params, "")
	d.Event.Traceparent = r.Traceparent
	if r.IdempotencyKey != "" {
		w.keys[r.IdempotencyKey] = d.ID
	}
	return d.Run, true, nil
}

func (w runs) start(pipeline string, vars, params waybill.Vars, of string) *waybill.RunDetail {
	now := w.Now()
	id := fmt.Sprintf("run-%d", len(w.order)+1)
	d := &waybill.RunDetail{
		Run: waybill.Run{ID: id, Tenant: "default", Pipeline: pipeline, Version: 1, Status: waybill.StatusRunning, Vars: vars, Params: params,
			Event:     waybill.Event{ID: id, Type: "http", Source: "/pipelines/" + pipeline, Time: now},
			CreatedAt: now, StartedAt: now, StepCount: 1, Of: of},
		Steps: []waybill.Step{{Run: id, Name: "greet", Runner: "process", Status: waybill.StatusRunning, Attempts: 1, StartedAt: now}},
		Attempts: []waybill.Attempt{{Tenant: "default", Run: id, Step: "greet", Number: 1, Unit: "u-" + id, Runner: "process", Phase: waybill.PhaseRunning,
			Status: waybill.StatusRunning, TokenHash: "hash that must not leave", Handle: []byte(`{"pid":1}`), QueuedAt: now, StartedAt: now}},
	}
	w.Details[id] = d
	w.order = append(w.order, id)
	w.record(id, "run.started")
	w.ring()
	return d
}

func (w runs) get(id string) (*waybill.RunDetail, error) {
	if d, ok := w.Details[id]; ok {
		return d, nil
	}
	return nil, waybill.E(waybill.KindNotFound, "there is no run %s", id)
}

func (w runs) Run(_ context.Context, id string) (waybill.RunDetail, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.RunDetail{}, err
	}
	defer unlock()
	d, err := w.get(id)
	if err != nil {
		return waybill.RunDetail{}, err
	}
	out := *d
	out.Steps, out.Attempts = slices.Clone(d.Steps), slices.Clone(d.Attempts)
	return out, nil
}

func (w runs) Runs(_ context.Context, f waybill.RunFilter) (waybill.Page[waybill.Run], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.Run]{}, err
	}
	defer unlock()
	w.Filter = f
	var all []waybill.Run
	for _, id := range slices.Backward(w.order) {
		r := w.Details[id].Run
		if (f.Pipeline == "" || f.Pipeline == r.Pipeline) && (len(f.Statuses) == 0 || slices.Contains(f.Statuses, r.Status)) {
			all = append(all, r)
		}
	}
	return page(all, f.Limit, f.Cursor)
}

func page[T any](all []T, limit int, cursor string) (waybill.Page[T], error) {
	from := 0
	if cursor != "" {
		n, err := strconv.Atoi(cursor)
		if err != nil || n > len(all) {
			return waybill.Page[T]{}, waybill.E(waybill.KindInvalid, "cursor %q is not one of ours", cursor)
		}
		from = n
	}
	p := waybill.Page[T]{Items: all[from:min(len(all), from+limit)]}
	if from+limit < len(all) {
		p.Next = strconv.Itoa(from + limit)
	}
	return p, nil
}

func (w runs) CancelRun(_ context.Context, id, reason string, _ bool, by waybill.Principal) (waybill.Run, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Run{}, err
	}
	defer unlock()
	d, err := w.get(id)
	if err != nil {
		return waybill.Run{}, err
	}
	if d.Status.Terminal() {
		return waybill.Run{}, waybill.E(waybill.KindConflict, "the run has ended as %s", d.Status).WithOp("cancel run", id)
	}
	d.CancelBy = by.Name
	w.record(id, "run.cancel_requested")
	w.ring()
	return d.Run, nil
}

func (w runs) RetryRun(_ context.Context, id, from string, _ waybill.Principal) (waybill.Run, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Run{}, err
	}
	defer unlock()
	d, err := w.get(id)
	if err != nil {
		return waybill.Run{}, err
	}
	if !d.Status.Terminal() {
		return waybill.Run{}, waybill.E(waybill.KindConflict, "the run has not ended")
	}
	if from != "" && from != "greet" {
		return waybill.Run{}, waybill.E(waybill.KindInvalid, "there is no step %s", from)
	}
	return w.start(d.Pipeline, d.Vars, d.Params, id).Run, nil
}

func (w runs) Records(_ context.Context, run, after string, n int) ([]waybill.Record, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := w.get(run); err != nil {
		return nil, err
	}
	from, _ := strconv.Atoi(after)
	all := w.records[run]
	from = min(from, len(all))
	return slices.Clone(all[from:min(len(all), from+n)]), nil
}

func (w runs) Follow(ctx context.Context, run, after string, f func(waybill.Record) error) error {
	for {
		w.mu.Lock()
		changed, d := w.changed, w.Details[run]
		over := d.Status.Terminal()
		w.mu.Unlock()
		records, err := w.Records(ctx, run, after, 100)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := f(r); err != nil {
				return err
			}
			after = r.Cursor
		}
		if len(records) == 0 && over {
			return nil
		}
		if len(records) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w runs) Log(ctx context.Context, q waybill.LogQuery, out io.Writer) error {
	if _, err := w.Run(ctx, q.Run); err != nil {
		return err
	}
	step, sent := q.Step, q.Offset
	if step == "" {
		step = "greet"
		if _, err := io.WriteString(out, "==> greet (attempt 1) <==\n"); err != nil {
			return err
		}
	}
	if step != "greet" {
		return waybill.E(waybill.KindNotFound, "run %s has no step %s", q.Run, q.Step)
	}
	for {
		w.mu.Lock()
		changed, over := w.changed, w.Details[q.Run].Status.Terminal()
		text := w.logs[q.Run][step]
		text = slices.Clone(text[min(int(sent), len(text)):])
		w.mu.Unlock()
		if len(text) > 0 {
			if _, err := out.Write(text); err != nil {
				return err
			}
			sent += int64(len(text))
			continue
		}
		if over || !q.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type pipelines struct{ *World }

func (w pipelines) Pipelines(_ context.Context, limit int, cursor string) (waybill.Page[waybill.Pipeline], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.Pipeline]{}, err
	}
	defer unlock()
	var all []waybill.Pipeline
	for _, p := range w.pipelines {
		all = append(all, p)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return page(all, limit, cursor)
}

func (w pipelines) Pipeline(_ context.Context, name string, version int) (waybill.Pipeline, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Pipeline{}, err
	}
	defer unlock()
	p, ok := w.pipelines[name]
	if !ok || version > p.Version {
		return p, waybill.E(waybill.KindNotFound, "there is no pipeline %s", name)
	}
	return p, nil
}

func (w pipelines) ApplyPipeline(ctx context.Context, src []byte, by waybill.Principal) (waybill.Pipeline, bool, error) {
	p, err := w.ValidatePipeline(ctx, src)
	if err != nil {
		return p, false, err
	}
	unlock, err := w.lock()
	if err != nil {
		return p, false, err
	}
	defer unlock()
	old := w.pipelines[p.Name]
	if old.Origin == "folder" {
		return p, false, waybill.E(waybill.KindConflict, "it comes from %s", old.File).WithOp("apply pipeline", p.Name)
	}
	if old.Hash == p.Hash {
		return old, false, nil
	}
	p.Version, p.CreatedAt, p.CreatedBy = old.Version+1, w.Now(), by.Name
	w.pipelines[p.Name] = p
	return p, true, nil
}

func (w pipelines) ValidatePipeline(_ context.Context, src []byte) (waybill.Pipeline, error) {
	name, ok := strings.CutPrefix(strings.SplitN(string(src), "\n", 2)[0], "name: ")
	if !ok {
		return waybill.Pipeline{}, waybill.E(waybill.KindInvalid, "the definition is not valid: %w",
			SourceErrors{{File: "pipeline.yaml", Line: 1, Column: 1, Msg: "there is no name", Hint: "add name:"}})
	}
	sum := sha256.Sum256(src)
	return waybill.Pipeline{Name: name, Hash: hex.EncodeToString(sum[:]), Origin: "api", Source: string(src), Triggers: []string{"http"}}, nil
}

func (w pipelines) PipelineGraph(ctx context.Context, name, format string) (string, error) {
	p, err := w.Pipeline(ctx, name, 0)
	if err != nil {
		return "", err
	}
	return format + ": " + strings.Join(p.Steps, " -> ") + "\n", nil
}
