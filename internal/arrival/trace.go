package arrival

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Started says that the arrival of a version of an object started a run. It is known as
// long as the version is kept, also when the run no longer is.
type Started struct {
	Pipeline string
	Bucket   string
	Key      string
	Version  string
	Run      string
	At       time.Time
}

// Started returns a page of the runs that a version of an object started, by pipeline.
// Runs that repeat those are not among them.
func (a *Arrivals) Started(ctx context.Context, bucket, key, version string, limit int, cursor string) (waybill.Page[Started], error) {
	return a.ledger(ctx, "version", bucket+"/"+key+"\x01"+version, limit, cursor)
}

// StartedBy returns what started a run, ok=false when that was not an object, or one
// that is long gone.
func (a *Arrivals) StartedBy(ctx context.Context, run string) (Started, bool, error) {
	page, err := a.ledger(ctx, "run", run, 1, "")
	if err != nil || len(page.Items) == 0 {
		return Started{}, false, err
	}
	return page.Items[0], true, nil
}

func (a *Arrivals) ledger(ctx context.Context, column, value string, limit int, cursor string) (waybill.Page[Started], error) {
	out := waybill.Page[Started]{Items: []Started{}}
	page, err := a.store.Query(ctx, store.Query{
		Table: tableLedger, Limit: limit, After: cursor, Where: []store.Where{{Column: column, Op: store.Eq, Value: value}},
	})
	if err != nil {
		return out, err
	}
	out.Next = page.Next
	for _, r := range page.Rows {
		var e entry
		if err := json.Unmarshal(r.Val, &e); err != nil {
			return out, err
		}
		s := Started{Run: e.Run, At: e.At}
		var rest, name string
		s.Pipeline, rest, _ = strings.Cut(r.Key, "\x01")
		name, s.Version, _ = strings.Cut(rest, "\x01")
		s.Bucket, s.Key, _ = strings.Cut(name, "/")
		out.Items = append(out.Items, s)
	}
	return out, nil
}
