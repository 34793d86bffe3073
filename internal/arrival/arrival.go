// Package arrival turns what arrived into runs.
package arrival

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Matcher finds the pipelines that an object starts.
type Matcher interface {
	Matching(ctx context.Context, bucket, key string) ([]project.Match, error)
}

// Objects tells whether a version of an object is still there.
type Objects interface {
	// Object returns a version, or waybill.KindNotFound.
	Object(ctx context.Context, bucket, key, version string) (waybill.Object, error)
}

// Begin makes a run and the commit that accepts it.
type Begin func(plan *pipeline.Plan, version int, ev waybill.Event, params, vars waybill.Vars, slots ...waybill.Slot) (waybill.Run, *store.Commit, error)

// MaxHops is how many arrivals may lead to another before that is taken for a loop.
const MaxHops = 10

// settled is the age below which a version of an object is surely there.
const settled = time.Hour

// tableLedger remembers which version of an object started which pipeline. Key:
// pipeline, bucket/key and version.
const tableLedger = "ledger"

// entry is a row of the ledger.
type entry struct {
	Run string    `json:"run"`
	At  time.Time `json:"at"` // when it was started
}

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{{
		Name: tableLedger, Version: 3,
		Columns: []store.Column{{Name: "at", Type: store.Int}, {Name: "version", Type: store.Text}, {Name: "run", Type: store.Text}},
		Indexes: [][]string{{"at"}, {"version"}, {"run"}},
		Derive: store.JSON(func(key string, e *entry) store.Derived {
			_, version, _ := strings.Cut(key, "\x01")
			return store.Derived{Columns: []any{store.Millis(e.At), version, e.Run}}
		}),
	}, seenTable(), openTable()}
}

// Options of Arrivals.
type Options struct{ Logger *slog.Logger }

// Arrivals handles the topic "arrival".
type Arrivals struct {
	store   store.Store
	matcher Matcher
	objects Objects
	starter *Starter
}

// New returns the handler of arrivals.
func New(s store.Store, m Matcher, x Objects, b Begin, o Options) *Arrivals {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Arrivals{s, m, x, NewStarter(b, s.Now, o.Logger)}
}

// Handle starts one run of every pipeline that matches an object, all in the
// commit that ends the message. The ledger says which have been started: an arrival that is
// told twice starts nothing again. A pipeline that cannot be started does not
// keep the others from it: they start first, and the message is buried for it.
func (a *Arrivals) Handle(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var in object.Arrival
	if err := json.Unmarshal(m.Body, &in); err != nil {
		return nil, queue.Bury("unreadable arrival: %v", err)
	}
	o := in.Event.Object
	if o == nil || o.Version == "" {
		return nil, queue.Bury("an arrival without an object")
	}
	if in.Hops > MaxHops {
		return nil, queue.Bury("loop: %d arrivals led to this one", in.Hops)
	}
	if a.store.Now().Sub(o.CreatedAt) > settled {
		// A dead letter that is sent again much later: what the object started may be
		// forgotten, and so may the object.
		if kept, err := a.kept(ctx, o.Bucket, o.Key, o.Version); err != nil {
			return nil, err
		} else if !kept {
			return nil, queue.Bury("object %s/%s version %s is no longer kept", o.Bucket, o.Key, o.Version)
		}
	}
	if in.Hops > 0 {
		data, err := json.Marshal(map[string]int{"hops": in.Hops})
		if err != nil {
			return nil, err
		}
		in.Event.Data = data
	}
	matches, err := a.matcher.Matching(ctx, o.Bucket, o.Key)
	if err != nil {
		return nil, err
	}
	all := &store.Commit{Tenant: m.Tenant}
	var broken []string
	for _, match := range matches {
		key := strings.Join([]string{match.Plan.Name, o.Bucket + "/" + o.Key, o.Version}, "\x01")
		if _, err := a.store.Get(ctx, m.Tenant, tableLedger, key); err == nil {
			continue
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		res, err := a.start(match, in)
		if err != nil {
			return nil, err
		}
		if res.Dead {
			broken = append(broken, res.Reason)
			continue
		}
		res.Add(all)
		if res.Run.ID == "" {
			continue
		}
		val, err := json.Marshal(entry{res.Run.ID, a.store.Now().UTC()})
		if err != nil {
			return nil, err
		}
		all.Puts = append(all.Puts, store.Put{Table: tableLedger, Key: key, Val: val})
	}
	if len(broken) == 0 {
		return all, nil
	}
	// The message ends as a dead letter, so what did start is committed before; the
	// ledger keeps it from starting again when the letter is sent again.
	if len(all.Puts)+len(all.Events) > 0 {
		if err := a.store.Commit(ctx, all); err != nil {
			return nil, err
		}
	}
	return nil, queue.Bury("%s", strings.Join(broken, "; "))
}

// start tries the triggers of a pipeline that fit an object, in the order of the file,
// until one takes it: an object starts a pipeline once.
func (a *Arrivals) start(match project.Match, in object.Arrival) (Result, error) {
	res := Result{Commit: &store.Commit{}}
	for i := range match.Plan.On.Objects {
		t := &match.Plan.On.Objects[i]
		if !t.Matches(in.Event.Object.Bucket, in.Event.Object.Key) || in.Change != "" && !t.Wants(in.Change) {
			continue
		}
		one, err := a.starter.by(match, fmt.Sprintf("object/%d", i+1), &t.Trigger, in.Event, nil)
		if err != nil {
			return Result{}, err
		}
		if one.Run.ID != "" || one.Dead {
			return one, nil
		}
		one.Add(res.Commit) // the record of a filter that failed
	}
	return res, nil
}
