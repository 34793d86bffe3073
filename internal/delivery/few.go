package delivery

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Every filter has an index in the order of updates. In another order a list that few rows
// meet would have to go through all rows there are; so those few are read by the index of
// their filter and put in order here. What many meet is found soon in any order.

// few is how many rows are put in order at most.
const few = 1000

// fewCursor begins the cursors of lists that were put in order here.
const fewCursor = "few."

// spot is a place in such a list: what it is ordered by, and the key.
type spot struct {
	By  string `json:"b"`
	At  int64  `json:"t"`
	Key string `json:"k"`
}

// list returns a page of rows.
func (s *Service) list(ctx context.Context, q store.Query) (store.Page, error) {
	if q.Order == "updated" || len(q.Where) < 2 || q.After != "" && !strings.HasPrefix(q.After, fewCursor) {
		return s.o.Store.Query(ctx, q)
	}
	all := q
	all.Order, all.Desc, all.After, all.Limit = "updated", true, "", few
	page, err := s.o.Store.Query(ctx, all)
	if err != nil {
		return store.Page{}, err
	}
	if page.Next != "" {
		if q.After != "" {
			return store.Page{}, waybill.E(waybill.KindInvalid, "the list has grown since its last page was read").WithHint("read it again from its beginning")
		}
		return s.o.Store.Query(ctx, q)
	}
	var after spot
	if q.After != "" {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(q.After, fewCursor))
		if err != nil || json.Unmarshal(b, &after) != nil || after.Key == "" {
			return store.Page{}, waybill.E(waybill.KindInvalid, "the cursor is not one of this list")
		}
	}
	type entry struct {
		spot
		row store.Row
	}
	entries := make([]entry, 0, len(page.Rows))
	order := func(a, b spot) int {
		x := cmp.Or(strings.Compare(a.By, b.By), cmp.Compare(a.At, b.At), strings.Compare(a.Key, b.Key))
		if q.Desc {
			return -x
		}
		return x
	}
	for _, r := range page.Rows {
		var d struct {
			Service   string    `json:"service"`
			Ring      string    `json:"ring"`
			CreatedAt time.Time `json:"created_at"`
		}
		if err := json.Unmarshal(r.Val, &d); err != nil {
			return store.Page{}, err
		}
		x := spot{Key: r.Key}
		switch q.Order {
		case "created":
			x.At = d.CreatedAt.UnixMilli()
		case "ring":
			x.By = bounded(d.Ring)
		default:
			x.By = bounded(fold(waybill.DisplayService(d.Service)))
		}
		if q.After == "" || order(x, after) > 0 {
			entries = append(entries, entry{x, r})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return order(a.spot, b.spot) })
	var out store.Page
	for i, e := range entries[:min(len(entries), q.Limit)] {
		out.Rows = append(out.Rows, e.row)
		if i == q.Limit-1 && len(entries) > q.Limit {
			b, err := json.Marshal(e.spot)
			if err != nil {
				return store.Page{}, err
			}
			out.Next = fewCursor + base64.RawURLEncoding.EncodeToString(b)
		}
	}
	return out, nil
}
