package watch

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/store"
)

const (
	tableWatch = "watch"      // key: bucket; value: state
	tableAsk   = "watch_ask"  // key: bucket; its revision counts the scans that were asked for
	tableSeen  = "watch_seen" // key: see seenKey; value: seen
)

// What has become of the version of an object that was seen last.
const (
	statePending   = "pending"   // to be taken at Due, if it is the same then
	stateFailed    = "failed"    // could not be read; tried again at Due
	stateSkipped   = "skipped"   // not taken, for Reason; a new version is looked at anew
	stateTaken     = "taken"     // it is an object of ours
	stateFinishing = "finishing" // that, and its source is to be deleted or moved at Due
	stateGone      = "gone"      // its source is gone; remembered until Due
)

// Reasons for which an object is not taken.
const (
	reasonGone     = "object_gone"
	reasonEmpty    = "empty"
	reasonTooLarge = "too_large"
	reasonName     = "bad_name"
	reasonRead     = "unreadable"
	reasonFinish   = "not_finished" // taken, but its source could not be deleted or moved
)

// remember is how long it is known which versions were taken of objects that are
// gone. A folder that was not mounted for a while does not arrive again.
const remember = 30 * 24 * time.Hour

// rememberOdd is how long what has no proper name is told of after it was seen last.
// It has no place in the order of keys, so that nobody sees it go.
const rememberOdd = 24 * time.Hour

// seen is the row of an object at its source.
type seen struct {
	Key     string    `json:"key"`
	Version string    `json:"version"`
	Size    int64     `json:"size,omitempty"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Error   string    `json:"error,omitempty"`
	Fails   int       `json:"fails,omitempty"`
	At      time.Time `json:"at"`               // when the state began
	Due     time.Time `json:"due,omitzero"`     // when something is to be done
	Took    string    `json:"took,omitempty"`   // the version that became an object last
	Object  string    `json:"object,omitempty"` // the version of that object
	rev     int64
	row     string // key of the row
	bucket  string
}

// seenKey is the key of a row. Rows of one bucket have the order of their keys.
// Names that no object can have stand apart and in quotes.
func seenKey(bucket, key string) string {
	if object.CheckKey(key) != nil {
		q := strconv.QuoteToASCII(key)
		return bucket + "\x02" + q[:min(len(q), 1500)]
	}
	return bucket + "\x01" + key
}

// state is the row of a bucket. The server that watches writes it.
type state struct {
	Node       string        `json:"node,omitempty"`
	Told       bool          `json:"told,omitempty"`
	Error      string        `json:"error,omitempty"`
	ErrorAt    time.Time     `json:"error_at,omitzero"`
	ScanBegan  time.Time     `json:"scan_began,omitzero"`
	ScanFrom   string        `json:"scan_from,omitempty"` // where the listing in work goes on
	ScanLast   string        `json:"scan_last,omitempty"` // last key it has shown
	ScanMixed  bool          `json:"scan_mixed,omitempty"`
	ScanCount  int64         `json:"scan_count,omitempty"`
	ScanAsk    int64         `json:"scan_ask,omitempty"` // asked for when it began
	ScannedAt  time.Time     `json:"scanned_at,omitzero"`
	ScanTook   time.Duration `json:"scan_took,omitempty"`
	Listed     int64         `json:"listed,omitempty"`
	Asked      int64         `json:"asked,omitempty"`
	Taken      int64         `json:"taken,omitempty"`
	Duplicates int64         `json:"duplicates,omitempty"`
}

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{
		{Name: tableWatch, Version: 1},
		{Name: tableAsk, Version: 1},
		{
			Name: tableSeen, Version: 1,
			Columns: []store.Column{{Name: "state", Type: store.Text}, {Name: "due", Type: store.Int}, {Name: "at", Type: store.Int}},
			Indexes: [][]string{{"state", "due"}, {"state", "at"}},
			Derive: store.JSON(func(key string, s *seen) store.Derived {
				n := 0
				for n < len(key) && key[n] > 2 {
					n++
				}
				name := key[:n] + "/" + s.State
				return store.Derived{Columns: []any{name, store.Millis(s.Due), store.Millis(s.At)}, Counters: []string{name}}
			}),
		},
	}
}

// put is the change that writes a row as it is now.
func (r *seen) put() (store.Put, error) {
	val, err := json.Marshal(r)
	return store.Put{Table: tableSeen, Key: r.row, Rev: r.rev, Val: val}, err
}

func decode(bucket string, row store.Row) (*seen, error) {
	r := &seen{rev: row.Rev, row: row.Key, bucket: bucket}
	return r, json.Unmarshal(row.Val, r)
}

// state reads the row of a bucket and its revision.
func (w *Watcher) state(ctx context.Context, name string) (st state, rev int64, err error) {
	row, err := w.o.Store.Get(ctx, "", tableWatch, name)
	if errors.Is(err, store.ErrNotFound) {
		return st, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(row.Val, &st)
	}
	return st, row.Rev, err
}

// due returns rows of a state whose time has come, the earliest first; with the
// zero time all that have one.
func (w *Watcher) due(ctx context.Context, bucket, state string, now time.Time, limit int) ([]*seen, error) {
	until := int64(1) << 62
	if !now.IsZero() {
		until = now.UnixMilli()
	}
	page, err := w.o.Store.Query(ctx, store.Query{
		Table: tableSeen, Order: "due", Limit: limit,
		Where: []store.Where{{Column: "state", Op: store.Eq, Value: bucket + "/" + state}, {Column: "due", Op: store.Le, Value: until}},
	})
	if err != nil {
		return nil, err
	}
	out := make([]*seen, len(page.Rows))
	for i, row := range page.Rows {
		if out[i], err = decode(bucket, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// skipped is the record of an object that is not taken.
func (r *seen) skipped(at time.Time) (store.Event, error) {
	data, err := json.Marshal(map[string]string{"reason": r.Reason, "error": r.Error, "version": r.Version})
	return store.Event{Subject: "object/" + r.bucket + "/" + r.Key, Kind: "object.skipped", Data: data, At: at}, err
}

// backoff is how long to wait after a number of failures.
func backoff(fails int) time.Duration {
	return min(time.Second<<min(max(fails-1, 0), 12), 5*time.Minute)
}

// passing tells a fault of everything from one of a single object.
func passing(err error) bool {
	switch waybill.KindOf(err) {
	case waybill.KindUnavailable, waybill.KindExhausted, waybill.KindUnauthorized, waybill.KindCanceled:
		return true
	}
	return false
}
