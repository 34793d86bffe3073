// Package watch finds what arrives in buckets that lie elsewhere and puts it as
// objects, which start runs as all objects do.
//
// The listing is the truth: what it shows and the table of seen versions does not
// know is new. Changes that a bucket tells of as they happen only make it faster;
// one that is lost is found by the next listing, one that is told twice finds the
// version known. A version becomes an object under an idempotency key made of what
// it is, so it becomes one exactly once, whatever ends in between.
//
// One server watches a bucket at a time. Which one says a lane of the queue: topic
// "watch", one message for each bucket that is never finished. The server that
// holds it is replaced like any worker when it dies.
//
// Memory does not grow with the bucket: listings are read in pages, and what was
// seen is in the store.
package watch

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Bucket says how one bucket is watched.
type Bucket struct {
	Name      string // of our bucket: objects keep their whole key in it
	URL       string
	Prefix    string        // of keys that are looked at
	Settle    time.Duration // how long a version must stay as it is before it is taken
	Poll      time.Duration // between the end of a listing and the next
	TakeEmpty bool          // objects of no bytes are taken
	Delete    bool          // the source is deleted once it was taken
	MoveTo    string        // or it is moved: this goes before its key
	MaxSize   int64         // of what is taken, bytes
	Ignore    func(key string) bool
}

// ignored reports whether a key is left alone.
func (b *Bucket) ignored(key string) bool {
	return b.MoveTo != "" && strings.HasPrefix(key, b.MoveTo) || b.Ignore != nil && b.Ignore(key)
}

// Objects is what the watcher needs of objects.
type Objects interface {
	PutObject(ctx context.Context, o waybill.Object, r io.Reader, idempotencyKey string, by waybill.Principal) (waybill.Object, error)
	Object(ctx context.Context, bucket, key, version string) (waybill.Object, error)
}

// Options of a Watcher.
type Options struct {
	Store   store.Store
	Objects Objects
	// Open opens the bucket of a URL, in which references to secrets still stand.
	Open    func(ctx context.Context, url string) (cloud.Bucket, error)
	Buckets []Bucket
	// Settle returns how long pipelines want an object to have settled, if that is
	// longer than its bucket says. Nil: they want nothing.
	Settle func(ctx context.Context, bucket, key string) (time.Duration, error)
	Node   string
	Logger *slog.Logger
}

// Watcher implements waybill.Watches and handles the topic "watch".
type Watcher struct{ o Options }

var _ waybill.Watches = (*Watcher)(nil)

// New returns a watcher.
func New(o Options) *Watcher {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Watcher{o}
}

// Worker returns the options of the worker that lets this server watch.
func (w *Watcher) Worker() queue.Options {
	return queue.Options{
		Store: w.o.Store, Topic: queue.TopicWatch, Owner: w.o.Node, Logger: w.o.Logger, Handler: w.Handle,
		Slots: max(len(w.o.Buckets), 1),
		// A lane is held for as long as its server lives: that is no failure.
		MaxFails: 1 << 30, MaxDeliveries: -1,
	}
}

// Handle watches a bucket until its context ends.
func (w *Watcher) Handle(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	i := slices.IndexFunc(w.o.Buckets, func(b Bucket) bool { return b.Name == m.Key })
	if i < 0 {
		return nil, nil // whoever knows it sends another message
	}
	s := &session{w: w, conf: w.o.Buckets[i], now: w.o.Store.Now}
	s.run(ctx)
	if cause := context.Cause(ctx); !errors.Is(cause, queue.ErrStopping) {
		return nil, cause
	}
	return nil, queue.Yield(0, "the server stops")
}

// keepEvery is how often it is made sure that every bucket has its message.
const keepEvery = 10 * time.Second

// Keep sees to it that each bucket has its message, until ctx ends: it is sent when
// a bucket is new, and again should somebody have purged the topic.
func (w *Watcher) Keep(ctx context.Context) {
	for len(w.o.Buckets) > 0 {
		if err := w.Ensure(ctx); err != nil && ctx.Err() == nil {
			w.o.Logger.Warn("watched buckets not looked after", "err", err)
		}
		t := time.NewTimer(keepEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// Ensure sends the messages that are missing.
func (w *Watcher) Ensure(ctx context.Context) error {
	// The rows are read before the messages: a server that was faster has changed the
	// row then, or its message is seen.
	rows := make([]store.Row, len(w.o.Buckets))
	for i, b := range w.o.Buckets {
		row, err := w.o.Store.Get(ctx, "", tableWatch, b.Name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if row.Val == nil {
			row.Val = []byte(`{}`)
		}
		rows[i] = row
	}
	there := map[string]bool{}
	for after := ""; ; {
		msgs, next, err := w.o.Store.Peek(ctx, "", queue.TopicWatch, after, 1000)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			there[m.Key] = true
		}
		if after = next; after == "" {
			break
		}
	}
	for i, b := range w.o.Buckets {
		if there[b.Name] {
			continue
		}
		err := w.o.Store.Commit(ctx, &store.Commit{
			Puts:  []store.Put{{Table: tableWatch, Key: b.Name, Rev: rows[i].Rev, Val: rows[i].Val}},
			Sends: []store.Send{{Topic: queue.TopicWatch, Key: b.Name, Body: []byte(`{}`)}},
		})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// bucket returns the settings of a bucket.
func (w *Watcher) bucket(name string) (Bucket, error) {
	for _, b := range w.o.Buckets {
		if b.Name == name {
			return b, nil
		}
	}
	return Bucket{}, waybill.E(waybill.KindNotFound, "bucket %.80q is not watched", name).WithHint("name it under buckets in waybill.yaml")
}

// WatchedBuckets implements waybill.Watches.
func (w *Watcher) WatchedBuckets(ctx context.Context) ([]waybill.WatchedBucket, error) {
	out := make([]waybill.WatchedBucket, 0, len(w.o.Buckets))
	if len(w.o.Buckets) == 0 {
		return out, nil
	}
	counts, err := w.o.Store.Counts(ctx, "", tableSeen)
	if err != nil {
		return nil, err
	}
	for _, b := range w.o.Buckets {
		d, err := w.describe(ctx, b, counts)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// describe tells how a bucket fares.
func (w *Watcher) describe(ctx context.Context, b Bucket, counts map[string]int64) (waybill.WatchedBucket, error) {
	d := waybill.WatchedBucket{Name: b.Name, URL: Redact(b.URL), Prefix: b.Prefix, Status: "waiting"}
	st, _, err := w.state(ctx, b.Name)
	if err != nil {
		return d, err
	}
	asked, err := w.asked(ctx, b.Name)
	if err != nil {
		return d, err
	}
	d.Node, d.Told, d.Error, d.ErrorAt = st.Node, st.Told, st.Error, st.ErrorAt
	d.ScanBegan, d.ScannedAt, d.ScanTook, d.Listed = st.ScanBegan, st.ScannedAt, st.ScanTook.Seconds(), st.Listed
	d.Asked, d.Answered = asked, st.Asked
	d.Taken, d.Duplicates = st.Taken, st.Duplicates
	d.Pending, d.Failed = counts[b.Name+"/"+statePending], counts[b.Name+"/"+stateFailed]
	d.Skipped, d.Finishing = counts[b.Name+"/"+stateSkipped], counts[b.Name+"/"+stateFinishing]
	switch {
	case st.Error != "":
		d.Status = "failing"
	case !st.ScannedAt.IsZero():
		d.Status = "ok"
	}
	first, err := w.due(ctx, b.Name, statePending, time.Time{}, 1)
	if err != nil {
		return d, err
	}
	if len(first) == 1 {
		d.Lag = max(w.o.Store.Now().Sub(first[0].Due).Seconds(), 0)
	}
	return d, nil
}

// maxProblems is how many problems are shown of a bucket.
const maxProblems = 100

// WatchedBucket implements waybill.Watches.
func (w *Watcher) WatchedBucket(ctx context.Context, name string) (waybill.WatchedBucket, error) {
	b, err := w.bucket(name)
	if err != nil {
		return waybill.WatchedBucket{}, err
	}
	counts, err := w.o.Store.Counts(ctx, "", tableSeen)
	if err != nil {
		return waybill.WatchedBucket{}, err
	}
	d, err := w.describe(ctx, b, counts)
	if err != nil {
		return d, err
	}
	for _, state := range []string{stateFailed, stateFinishing, stateSkipped} {
		page, err := w.o.Store.Query(ctx, store.Query{
			Table: tableSeen, Where: []store.Where{{Column: "state", Op: store.Eq, Value: name + "/" + state}},
			Order: "at", Desc: true, Limit: maxProblems - len(d.Problems) + 1,
		})
		if err != nil {
			return d, err
		}
		for _, row := range page.Rows {
			var r seen
			if err := json.Unmarshal(row.Val, &r); err != nil {
				return d, err
			}
			if r.Reason == "" || len(d.Problems) == maxProblems {
				continue
			}
			d.Problems = append(d.Problems, waybill.WatchProblem{Key: r.Key, State: state, Reason: r.Reason, Error: r.Error, At: r.At, Next: r.Due})
		}
	}
	return d, nil
}

// ScanBucket implements waybill.Watches.
func (w *Watcher) ScanBucket(ctx context.Context, name string, by waybill.Principal) (waybill.WatchedBucket, error) {
	if _, err := w.bucket(name); err != nil {
		return waybill.WatchedBucket{}, err
	}
	data, err := json.Marshal(map[string]string{"by": by.Name})
	if err != nil {
		return waybill.WatchedBucket{}, err
	}
	// The revision of the row counts; the record makes the server that watches look.
	if err := w.o.Store.Commit(ctx, &store.Commit{
		Puts:   []store.Put{{Table: tableAsk, Key: name, Rev: store.AnyRev, Val: data}},
		Events: []store.Event{{Subject: "bucket/" + name, Kind: "bucket.scan_asked", Data: data, At: w.o.Store.Now().UTC()}},
	}); err != nil {
		return waybill.WatchedBucket{}, err
	}
	return w.WatchedBucket(ctx, name)
}

// asked is how many scans were asked for.
func (w *Watcher) asked(ctx context.Context, name string) (int64, error) {
	row, err := w.o.Store.Get(ctx, "", tableAsk, name)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return row.Rev, err
}

// Redact is a URL without credentials, also when it holds references and is no URL
// yet.
func Redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		if strings.HasPrefix(text, "${") {
			return text // a reference alone
		}
		return "(not shown)"
	}
	// A password that is not encoded may hold any character; none of our URLs has an @
	// behind the name of its bucket.
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + "://" + rest
}
