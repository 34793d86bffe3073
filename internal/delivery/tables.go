package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// The tables. Every key begins with the partition.
const (
	tableHead  = "delivery_head"       // partition: the number of its last event
	tableEvent = "delivery_event"      // partition/event
	tablePart  = "delivery_part"       // partition/kind/part
	tableRef   = "delivery_ref"        // partition/reference: the keys of the parts that have it
	tableRow   = "delivery_deployment" // partition/id
	tableAlias = "delivery_alias"      // partition/former id: the id
	tablePlace = "delivery_place"      // partition/cluster/service/ring

	tableSummary = "delivery_now" // partition/service/ring: what is there in each cluster
)

// head is the row of a partition.
type head struct {
	Seq int64 `json:"seq"`
}

// record is an event with what it did.
type record struct {
	waybill.DeliveryEvent
	Action  waybill.ReportAction `json:"action"`
	Rows    []string             `json:"rows,omitempty"`
	Warning string               `json:"warning,omitempty"`
}

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	text := func(names ...string) (out []store.Column) {
		for _, n := range names {
			out = append(out, store.Column{Name: n, Type: store.Text})
		}
		return out
	}
	num := func(names ...string) (out []store.Column) {
		for _, n := range names {
			out = append(out, store.Column{Name: n, Type: store.Int})
		}
		return out
	}
	return store.Schema{
		{Name: tableHead, Version: 1},
		{
			Name: tableEvent, Version: 1,
			Columns: append(text("part"), num("seq")...), Indexes: [][]string{{"part", "seq"}},
			Derive: store.JSON(func(key string, r *record) store.Derived {
				return store.Derived{Columns: []any{partitionOf(key), r.Seq}, Counters: []string{"events"}}
			}),
		},
		{
			Name: tablePart, Version: 1,
			Columns: append(text("inbox"), num("since")...), Indexes: [][]string{{"inbox", "since"}},
			Derive: store.JSON(func(key string, p *part) store.Derived {
				if p.Unlinked == "" {
					return store.Derived{Columns: []any{nil, nil}}
				}
				return store.Derived{Columns: []any{partitionOf(key), store.Millis(p.First)}, Counters: []string{"unlinked"}}
			}),
		},
		{Name: tableRef, Version: 1},
		{
			Name: tableRow, Version: 2,
			Columns: append(text("part", "service", "shown", "ring", "tag", "source", "build", "kind", "status", "inbox"), num("updated", "created")...),
			Indexes: [][]string{
				{"part", "updated"}, {"part", "created"}, {"part", "service", "updated"}, {"part", "shown", "updated"}, {"part", "ring", "updated"},
				{"part", "tag", "updated"}, {"part", "source", "updated"}, {"part", "build", "updated"}, {"part", "status", "updated"},
				{"part", "kind", "updated"}, {"part", "ring", "status", "updated"}, {"part", "ring"}, {"inbox", "updated"},
			},
			Derive: store.JSON(func(key string, d *waybill.Deployment) store.Derived {
				build := ""
				if r := d.Build.Last(); r != nil {
					build = r.Run
				}
				var inbox any
				counters := []string{"status:" + string(d.Status)}
				if d.Unlinked != "" {
					inbox = partitionOf(key)
				}
				return store.Derived{
					Columns: []any{
						partitionOf(key), bounded(fold(d.Service)), bounded(fold(d.DisplayService())), bounded(d.Ring), bounded(fold(d.ImageTag)),
						short(d.Commit), bounded(build), d.Kind, string(d.Status), inbox, store.Millis(d.UpdatedAt), store.Millis(d.CreatedAt),
					},
					Counters: counters,
				}
			}),
		},
		{Name: tableAlias, Version: 1},
		{Name: tablePlace, Version: 1},
		{Name: tableSummary, Version: 1},
		{Name: tableAlert, Version: 1},
	}
}

// bounded keeps what is compared in an index from being longer than an index takes.
func bounded(s string) string {
	const most = 160
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:most], "") + "~" + hex.EncodeToString(sum[:8])
}

func partitionOf(key string) string {
	p, _, _ := strings.Cut(key, "/")
	return p
}

func rowKey(partition, rest string) string { return escape(partition) + "/" + rest }

func refPath(ref string) string { return escape(bounded(ref)) }

// crowd is how many parts may share a reference. All of them are looked at when one
// changes, so there must be an end; references are meant to be of few things.
const crowd = 4096

// opCrowded marks the error of a reference that too many share.
const opCrowded = "find what belongs together"

func isCrowded(err error) bool {
	var e *waybill.Error
	return errors.As(err, &e) && e.Op == opCrowded
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}
