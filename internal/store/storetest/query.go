package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func sortBytes(keys []string) { slices.Sort(keys) } // Go compares strings by bytes

// ptr returns nil for about one in four.
func ptr[T any](rng *rand.Rand, v T) *T {
	if rng.IntN(4) == 0 {
		return nil
	}
	return &v
}

func cmpPtr[T cmp.Ordered](a, b *T) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(*a, *b)
}

type keyed struct {
	key string
	item
}

// fill commits n random items with few distinct values and many without one.
func (e *env) fill(n int) []keyed {
	rng := rand.New(rand.NewPCG(3, 4))
	names := []string{"", "A", "a", "a%", "a_b", "b", "é", "it's"}
	var all []keyed
	var c store.Commit
	for i := range n {
		k := keyed{fmt.Sprintf("%s-%d", oddKeys[rng.IntN(len(oddKeys))], i), item{
			Name: ptr(rng, names[rng.IntN(len(names))]),
			Size: ptr(rng, int64(rng.IntN(7)-3)),
			Grp:  ptr(rng, fmt.Sprint(rng.IntN(3))),
		}}
		all = append(all, k)
		c.Puts = append(c.Puts, store.Put{Table: "item", Key: k.key, Val: k.json()})
	}
	e.commit(c)
	return all
}

func (e *env) query(q store.Query) store.Page {
	e.Helper()
	p, err := e.Query(e.ctx(), q)
	if err != nil {
		e.Fatalf("Query %+v: %v", q, err)
	}
	return p
}

// pages reads a whole list, calling between before every page but the first.
func (e *env) pages(q store.Query, between func()) []string {
	e.Helper()
	var keys []string
	for {
		p := e.query(q)
		if q.Limit > 0 && len(p.Rows) > q.Limit {
			e.Fatalf("a page of %d rows, want at most %d", len(p.Rows), q.Limit)
		}
		keys = append(keys, rowKeys(p.Rows)...)
		if p.Next == "" {
			return keys
		}
		q.After = p.Next
		if between != nil {
			between()
		}
	}
}

func (s suite) query(t *testing.T) {
	s.group(t, map[string]func(*env){
		"pages in every order": func(e *env) {
			all := e.fill(120)
			orders := map[string]func(a, b keyed) int{
				"":     func(a, b keyed) int { return 0 },
				"key":  func(a, b keyed) int { return 0 },
				"name": func(a, b keyed) int { return cmpPtr(a.Name, b.Name) },
				"size": func(a, b keyed) int { return cmpPtr(a.Size, b.Size) },
				"grp":  func(a, b keyed) int { return cmpPtr(a.Grp, b.Grp) },
			}
			for order, compare := range orders {
				slices.SortFunc(all, func(a, b keyed) int { return cmp.Or(compare(a, b), cmp.Compare(a.key, b.key)) })
				for _, desc := range []bool{false, true} {
					for _, only := range []string{"", "1"} {
						var want []string
						for _, k := range all {
							if only == "" || k.Grp != nil && *k.Grp == only {
								want = append(want, k.key)
							}
						}
						if desc {
							slices.Reverse(want)
						}
						for _, limit := range []int{1, 7, 0} {
							if limit == 1 && only == "" {
								continue
							}
							q := store.Query{Table: "item", Order: order, Desc: desc, Limit: limit}
							if only != "" {
								q.Where = []store.Where{{Column: "grp", Op: store.Eq, Value: only}}
							}
							if got := e.pages(q, nil); !slices.Equal(got, want) {
								e.Errorf("order %q desc %t limit %d group %q:\n got %q\nwant %q", order, desc, limit, only, got, want)
							}
						}
					}
				}
			}
		},
		"pages stay whole while rows come and go": func(e *env) {
			all := e.fill(60)
			for _, order := range []string{"key", "name", "size"} {
				for _, desc := range []bool{false, true} {
					n := 0
					got := e.pages(store.Query{Table: "item", Order: order, Desc: desc, Limit: 7}, func() {
						// Rows before, in and after the page; they go again later.
						n++
						var c store.Commit
						for i, name := range []string{"", "a", "zz"} {
							c.Puts = append(c.Puts, store.Put{Table: "item", Key: fmt.Sprintf("%d new %d", i*5, n), Rev: store.AnyRev, Val: newItem(name, int64(i*10-10), "new")})
							if n > 2 {
								c.Puts = append(c.Puts, store.Put{Table: "item", Key: fmt.Sprintf("%d new %d", i*5, n-2), Rev: store.AnyRev})
							}
						}
						e.commit(c)
					})
					seen := map[string]int{}
					for _, k := range got {
						if seen[k]++; seen[k] > 1 {
							e.Errorf("order %s desc %t: %q came twice", order, desc, k)
						}
					}
					for _, k := range all {
						if seen[k.key] != 1 {
							e.Errorf("order %s desc %t: %q was skipped", order, desc, k.key)
						}
					}
				}
			}
		},
		"conditions": func(e *env) {
			all := e.fill(100)
			str := func(f func(string) bool) func(keyed) bool {
				return func(k keyed) bool { return k.Name != nil && f(*k.Name) }
			}
			num := func(f func(int64) bool) func(keyed) bool {
				return func(k keyed) bool { return k.Size != nil && f(*k.Size) }
			}
			for _, c := range []struct {
				column string
				op     store.Op
				value  any
				want   func(keyed) bool // a row without a value fulfils no condition on it
			}{
				{"name", store.Eq, "a", str(func(s string) bool { return s == "a" })},
				{"name", store.Ne, "a", str(func(s string) bool { return s != "a" })},
				{"name", store.Lt, "a_b", str(func(s string) bool { return s < "a_b" })},
				{"name", store.Le, "a_b", str(func(s string) bool { return s <= "a_b" })},
				{"name", store.Gt, "a", str(func(s string) bool { return s > "a" })},
				{"name", store.Ge, "a", str(func(s string) bool { return s >= "a" })},
				{"name", store.In, []string{"a", "it's", "none"}, str(func(s string) bool { return s == "a" || s == "it's" })},
				{"name", store.In, []string{}, func(keyed) bool { return false }},
				{"name", store.Prefix, "a", str(func(s string) bool { return strings.HasPrefix(s, "a") })},
				{"name", store.Prefix, "a%", str(func(s string) bool { return strings.HasPrefix(s, "a%") })},
				{"name", store.Prefix, "a_", str(func(s string) bool { return strings.HasPrefix(s, "a_") })},
				{"name", store.Prefix, "", str(func(string) bool { return true })},
				{"name", store.Eq, "", str(func(s string) bool { return s == "" })},
				{"size", store.Eq, int64(-1), num(func(n int64) bool { return n == -1 })},
				{"size", store.Ne, int64(0), num(func(n int64) bool { return n != 0 })},
				{"size", store.Gt, int64(1), num(func(n int64) bool { return n > 1 })},
				{"size", store.In, []int64{-3, 2, 99}, num(func(n int64) bool { return n == -3 || n == 2 })},
				{"size", store.Eq, true, num(func(n int64) bool { return n == 1 })},
				{"key", store.Prefix, "a", func(k keyed) bool { return strings.HasPrefix(k.key, "a") }},
				{"key", store.Gt, "b", func(k keyed) bool { return k.key > "b" }},
			} {
				var want []string
				for _, k := range all {
					if c.want(k) {
						want = append(want, k.key)
					}
				}
				sortBytes(want)
				got := e.pages(store.Query{Table: "item", Where: []store.Where{{Column: c.column, Op: c.op, Value: c.value}}, Limit: 1000}, nil)
				if !slices.Equal(got, want) {
					e.Errorf("%s %s %v: got %q, want %q", c.column, c.op, c.value, got, want)
				}
			}
			// Conditions are joined by "and", also with a page in the middle.
			var want []string
			for _, k := range all {
				if k.Grp != nil && *k.Grp != "0" && k.Size != nil && *k.Size >= 0 {
					want = append(want, k.key)
				}
			}
			got := e.pages(store.Query{Table: "item", Order: "name", Limit: 4, Where: []store.Where{
				{Column: "grp", Op: store.Ne, Value: "0"}, {Column: "size", Op: store.Ge, Value: int64(0)}}}, nil)
			sortBytes(want)
			sortBytes(got)
			if !slices.Equal(got, want) {
				e.Errorf("two conditions: got %q, want %q", got, want)
			}
		},
		"last page": func(e *env) {
			var c store.Commit
			for i := range 6 {
				c.Puts = append(c.Puts, store.Put{Table: "note", Key: fmt.Sprint(i), Val: []byte(`1`)})
			}
			e.commit(c)
			p := e.query(store.Query{Table: "note", Limit: 3})
			p = e.query(store.Query{Table: "note", Limit: 3, After: p.Next})
			if len(p.Rows) != 3 || p.Next != "" {
				e.Errorf("last page has %d rows and next %q, want 3 and none", len(p.Rows), p.Next)
			}
			if r := p.Rows[2]; r.Tenant != store.DefaultTenant || r.Key != "5" || r.Rev != 1 || string(r.Val) != `1` {
				e.Errorf("row %+v", r)
			}
		},
		"refused": func(e *env) {
			e.fill(10)
			next := e.query(store.Query{Table: "item", Order: "name", Limit: 3}).Next
			for name, q := range map[string]store.Query{
				"unknown column in a condition": {Table: "item", Where: []store.Where{{Column: "nope", Op: store.Eq, Value: "x"}}},
				"unknown column to sort by":     {Table: "item", Order: "nope"},
				"column with SQL in it":         {Table: "item", Order: "name; drop table item"},
				"unknown comparison":            {Table: "item", Where: []store.Where{{Column: "name", Op: "like", Value: "x"}}},
				"value of another type":         {Table: "item", Where: []store.Where{{Column: "size", Op: store.Eq, Value: "x"}}},
				"prefix of a number":            {Table: "item", Where: []store.Where{{Column: "size", Op: store.Prefix, Value: "x"}}},
				"In without a list":             {Table: "item", Where: []store.Where{{Column: "name", Op: store.In, Value: "x"}}},
				"cursor that is none":           {Table: "item", After: "garbage"},
				"cursor of another order":       {Table: "item", Order: "size", After: next},
			} {
				_, err := e.Query(e.ctx(), q)
				if !waybill.IsKind(err, waybill.KindInvalid) {
					e.Errorf("%s: got %v, want kind invalid", name, err)
				}
			}
		},
	})
}
