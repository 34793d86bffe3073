package inbound

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// group is what the objects of one cluster said of one revision.
type group struct {
	At      time.Time         `json:"at"` // of the last write
	Objects map[string]object `json:"objects"`
	// Told is what was reported last, and the time that the report had.
	Told waybill.ClusterState `json:"told,omitempty"`
	Time time.Time            `json:"time,omitzero"`
}

type object struct {
	State   waybill.ClusterState `json:"state"`
	Time    time.Time            `json:"time"`
	Message string               `json:"message,omitempty"`
}

// maxObjects is how many objects of a cluster are told apart; of more, those that said
// something longest ago are forgotten.
const maxObjects = 500

// worse ranks states: a cluster is at a revision as far as the least of its objects is.
var worse = map[waybill.ClusterState]int{
	waybill.ClusterFailed: 3, waybill.ClusterPending: 2, waybill.ClusterApplied: 1, waybill.ClusterHealthy: 0,
}

// change returns how a group looks after a note, and whether there is something to be
// reported: its state changed. The report is r with the state, time and message that it
// should have.
func (g group) change(name string, r *waybill.DeliveryReport, now time.Time) (group, bool) {
	at := r.Time
	if at.IsZero() {
		at = now
	}
	was, known := g.Objects[name]
	switch {
	case known && at.Before(was.Time):
		return g, false // it comes late
	case known && was.State == waybill.ClusterHealthy && r.ClusterState == waybill.ClusterApplied:
		return g, false // what works is not applied less
	}
	g.Objects = maps.Clone(g.Objects)
	if g.Objects == nil {
		g.Objects = map[string]object{}
	}
	g.Objects[name] = object{r.ClusterState, at, Clip(r.Message, 500)}
	for len(g.Objects) > maxObjects {
		oldest := slices.MinFunc(slices.Sorted(maps.Keys(g.Objects)), func(a, b string) int { return g.Objects[a].Time.Compare(g.Objects[b].Time) })
		delete(g.Objects, oldest)
	}
	least := slices.MaxFunc(slices.Sorted(maps.Keys(g.Objects)), func(a, b string) int {
		x, y := g.Objects[a], g.Objects[b]
		return cmp.Or(cmp.Compare(worse[x.State], worse[y.State]), x.Time.Compare(y.Time))
	})
	g.At = now
	o := g.Objects[least]
	if o.State == g.Told {
		return g, false
	}
	r.ClusterState, r.Message = o.State, o.Message
	if len(g.Objects) > 1 && o.Message != "" {
		r.Message = least + ": " + o.Message
	}
	// The reports of a group are in order, however coarse the clocks of the senders are.
	if !at.After(g.Time) {
		at = g.Time.Add(time.Millisecond)
	}
	r.Time = at
	g.Told, g.Time = o.State, at
	return g, true
}

func groupKey(r *waybill.DeliveryReport) string {
	return hashed(r.Partition, r.Cluster, r.Ring, r.Service, r.ManifestCommit, r.ImageTag, r.ImageDigest, r.Run)
}

// visit is where an object is: the group that it spoke of last.
type visit struct {
	At    time.Time `json:"at"` // of the write
	Group string    `json:"group"`
	Time  time.Time `json:"time"`
}

// row reads a row of the table of objects into v and returns its revision, 0 when there
// is none.
func (in *Inbound) row(ctx context.Context, key string, v any) (int64, error) {
	row, err := in.o.Store.Get(ctx, "", tableObjects, key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return row.Rev, json.Unmarshal(row.Val, v)
}

// fold asks what a note changes, and reports it. The report comes first: a server that
// ends in between reports it again, which is a repetition.
func (in *Inbound) fold(ctx context.Context, n Note, by waybill.Principal) (*waybill.IngestReport, error) {
	key := groupKey(&n.Report)
	r := n.Report
	r.ManifestCommit, r.ImageTag, r.ImageDigest, r.Run = r.ManifestRepo, "", "", ""
	visitKey := "visit/" + n.Object + "/" + groupKey(&r)
	if n.Report.ImageTag+n.Report.ImageDigest != "" {
		visitKey += "/" + imageName(n.Report.ImageTag)
	}
	visitKey = hashed(visitKey)
	// Objects of a group take turns on this server, so that those of others alone are met
	// in the store.
	turn := &in.turns[crc32.ChecksumIEEE([]byte(key))%uint32(len(in.turns))]
	turn.Lock()
	defer turn.Unlock()
	for {
		now := in.o.Now().UTC().Truncate(time.Millisecond)
		var g group
		var v visit
		rev, err := in.row(ctx, key, &g)
		if err != nil {
			return nil, err
		}
		visitRev, err := in.row(ctx, visitKey, &v)
		if err != nil {
			return nil, err
		}
		r := n.Report
		at := r.Time
		if at.IsZero() {
			at = now
		}
		arrives := v.Group != key && !at.Before(v.Time)
		if arrives && v.Group != "" && rev != 0 {
			// It was here before and comes back: what was said then is over.
			g = g.without(v.Time)
		}
		next, tell := g.change(n.Object, &r, now)
		if !tell && !arrives && next.At.Equal(g.At) {
			return nil, nil
		}
		var done *waybill.IngestReport
		if tell {
			if done, err = in.report(ctx, r, by); err != nil {
				return nil, err
			}
		}
		c := &store.Commit{}
		if err := put(c, key, rev, next); err != nil {
			return nil, err
		}
		if v.Group == key || arrives {
			if err := put(c, visitKey, visitRev, visit{now, key, latest(v.Time, at)}); err != nil {
				return nil, err
			}
		}
		if err = in.o.Store.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return done, err
		}
		// Another object of the cluster was faster: what follows is decided again.
	}
}

func put(c *store.Commit, key string, rev int64, v any) error {
	val, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.Puts = append(c.Puts, store.Put{Table: tableObjects, Key: key, Rev: rev, Val: val})
	return nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// imageName is an image without its tag.
func imageName(tag string) string {
	if i := strings.LastIndex(tag, ":"); i > strings.LastIndex(tag, "/") {
		return tag[:i]
	}
	return tag
}

// without is a group as somebody finds it who was elsewhere until a time.
func (g group) without(until time.Time) group {
	g.Objects = maps.Clone(g.Objects)
	maps.DeleteFunc(g.Objects, func(_ string, o object) bool { return o.Time.Before(until) })
	g.Told = ""
	return g
}
