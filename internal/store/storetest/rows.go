package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// oddKeys is in byte order.
var oddKeys = []string{"", " ", "%", "'", "A", "\\", "_", "a", "a%", "a%b", "a'b", "a_", "a_b", "ab", "a\"b", "b", "é", "日本", "😀"}

func (s suite) rows(t *testing.T) {
	s.group(t, map[string]func(*env){
		"scan": func(e *env) {
			keys := append([]string{}, oddKeys[1:]...)
			sortBytes(keys)
			var c store.Commit
			for _, k := range keys {
				c.Puts = append(c.Puts, store.Put{Table: "note", Key: k, Val: []byte(`{}`)})
			}
			e.commit(c)
			e.commit(store.Commit{Tenant: "acme", Puts: []store.Put{{Table: "note", Key: "a", Val: []byte(`2`)}}})
			for _, prefix := range append([]string{"", "zz", "a%b%"}, keys...) {
				var want []string
				for _, k := range keys {
					if len(k) >= len(prefix) && k[:len(prefix)] == prefix {
						want = append(want, k)
					}
				}
				got, err := e.Scan(e.ctx(), "", "note", prefix, 0)
				if err != nil {
					e.Fatal(err)
				}
				if fmt.Sprintf("%q", rowKeys(got)) != fmt.Sprintf("%q", want) {
					e.Errorf("scan %q: got %q, want %q", prefix, rowKeys(got), want)
				}
			}
			if got, err := e.Scan(e.ctx(), "", "note", "a", 3); err != nil || len(got) != 3 {
				e.Errorf("scan with limit 3: %d rows, %v", len(got), err)
			}
			for _, k := range keys {
				e.wantRow("note", k, 1, `{}`)
			}
		},
		"unknown table": func(e *env) {
			_, err := e.Get(e.ctx(), "", "nope", "k")
			e.wantKind("Get", err, waybill.KindInvalid)
			_, err = e.Scan(e.ctx(), "", "nope", "", 0)
			e.wantKind("Scan", err, waybill.KindInvalid)
			_, err = e.Query(e.ctx(), store.Query{Table: "nope"})
			e.wantKind("Query", err, waybill.KindInvalid)
			_, err = e.Counts(e.ctx(), "", "nope")
			e.wantKind("Counts", err, waybill.KindInvalid)
		},
		"tenants do not see each other": func(e *env) {
			for _, tenant := range []string{"", "acme", "zeta"} {
				e.commit(store.Commit{Tenant: tenant, Puts: []store.Put{
					{Table: "item", Key: "same", Val: newItem("of "+tenant, 1, "g")},
					{Table: "item", Key: "own-" + tenant, Val: newItem("n", 1, "g")},
				}})
			}
			r, err := e.Get(e.ctx(), "acme", "item", "same")
			if err != nil || string(r.Val) != string(newItem("of acme", 1, "g")) || r.Tenant != "acme" {
				e.Errorf("got %s of %s, %v", r.Val, r.Tenant, err)
			}
			if _, err := e.Get(e.ctx(), "acme", "item", "own-zeta"); !errors.Is(err, store.ErrNotFound) {
				e.Errorf("another tenant's row: %v, want ErrNotFound", err)
			}
			if got, err := e.Scan(e.ctx(), "acme", "item", "", 0); err != nil || fmt.Sprint(rowKeys(got)) != "[own-acme same]" {
				e.Errorf("scan: %v, %v", rowKeys(got), err)
			}
			if p, err := e.Query(e.ctx(), store.Query{Table: "item", Tenant: "zeta"}); err != nil || fmt.Sprint(rowKeys(p.Rows)) != "[own-zeta same]" {
				e.Errorf("query: %v, %v", rowKeys(p.Rows), err)
			}
			if p, err := e.Query(e.ctx(), store.Query{Table: "item", Tenant: store.DefaultTenant}); err != nil || fmt.Sprint(rowKeys(p.Rows)) != "[own- same]" {
				e.Errorf("query: %v, %v", rowKeys(p.Rows), err)
			}
			if n, err := e.Counts(e.ctx(), "acme", "item"); err != nil || n["all"] != 2 {
				e.Errorf("counts: %v, %v, want 2", n, err)
			}
			// All tenants, page by page, every row once.
			seen := map[string]bool{}
			q := store.Query{Table: "item", Tenant: "*", Limit: 1, Order: "name"}
			for range 10 {
				p, err := e.Query(e.ctx(), q)
				if err != nil {
					e.Fatal(err)
				}
				for _, r := range p.Rows {
					if seen[r.Tenant+"/"+r.Key] {
						e.Errorf("%s of %s came twice", r.Key, r.Tenant)
					}
					seen[r.Tenant+"/"+r.Key] = true
				}
				if q.After = p.Next; p.Next == "" {
					break
				}
			}
			if len(seen) != 6 {
				e.Errorf("%d rows of all tenants, want 6: %v", len(seen), seen)
			}
		},
		"counts are exact": func(e *env) {
			rng := rand.New(rand.NewPCG(1, 2))
			grps := map[string]string{}
			for range 200 {
				var c store.Commit
				for _, k := range rng.Perm(20)[:1+rng.IntN(3)] {
					key := fmt.Sprint(k)
					p := store.Put{Table: "item", Key: key, Rev: store.AnyRev}
					if rng.IntN(3) == 0 {
						delete(grps, key)
					} else {
						g := fmt.Sprint(rng.IntN(4))
						p.Val, grps[key] = newItem("n", 1, g), g
					}
					c.Puts = append(c.Puts, p)
				}
				e.commit(c)
			}
			want := map[string]int64{}
			for _, g := range grps {
				want["all"]++
				want["grp:"+g]++
			}
			if got := e.counts("item"); !maps.Equal(got, want) {
				e.Errorf("counts %v, want %v", got, want)
			}
			e.reopen(Schema())
			if got := e.counts("item"); !maps.Equal(got, want) {
				e.Errorf("counts %v after a restart, want %v", got, want)
			}
		},
		"counts are exact under concurrency": func(e *env) {
			ctx := e.ctx()
			parallel(16, func(i int) {
				rng := rand.New(rand.NewPCG(uint64(i), 7))
				for range 20 {
					p := store.Put{Table: "item", Key: fmt.Sprint(rng.IntN(10)), Rev: store.AnyRev}
					if rng.IntN(3) > 0 {
						p.Val = newItem("n", 1, fmt.Sprint(rng.IntN(3)))
					}
					if err := e.Commit(ctx, &store.Commit{Puts: []store.Put{p}}); err != nil {
						e.Errorf("Commit: %v", err)
					}
				}
			})
			rows, err := e.Scan(ctx, "", "item", "", 0)
			if err != nil {
				e.Fatal(err)
			}
			want := map[string]int64{}
			for _, r := range rows {
				want["all"]++
				want["grp:"+*decode[item](e, r.Val).Grp]++
			}
			if got := e.counts("item"); !maps.Equal(got, want) {
				e.Errorf("counts %v, want %v", got, want)
			}
		},
		"another version derives again": func(e *env) {
			const n = 1200
			for from := 0; from < n; from += 300 {
				var c store.Commit
				for i := from; i < from+300; i++ {
					c.Puts = append(c.Puts, store.Put{Table: "item", Key: fmt.Sprintf("%04d", i), Val: newItem("n", int64(i), "g")})
				}
				e.commit(c)
			}
			e.commit(store.Commit{Tenant: "acme", Puts: []store.Put{{Table: "item", Key: "x", Val: item{}.json()}}})
			e.reopen(schemaV2())
			p, err := e.Query(e.ctx(), store.Query{Table: "item", Where: []store.Where{{Column: "double", Op: store.Ge, Value: int64(2 * (n - 3))}}, Order: "double", Desc: true})
			if err != nil || fmt.Sprint(rowKeys(p.Rows)) != "[1199 1198 1197]" {
				e.Errorf("query of the new column: %v, %v", rowKeys(p.Rows), err)
			}
			if got, want := e.counts("item"), map[string]int64{"second": n}; !maps.Equal(got, want) {
				e.Errorf("counts %v, want %v", got, want)
			}
			_, err = e.Query(e.ctx(), store.Query{Table: "item", Order: "size"})
			e.wantKind("query of a column that went away", err, waybill.KindInvalid)
			e.wantRow("item", "0007", 1, string(newItem("n", 7, "g")))
			// And back again, with writes of the new version in between.
			e.commit(store.Commit{Puts: []store.Put{{Table: "item", Key: "0007", Rev: 1}, {Table: "item", Key: "new", Val: newItem("m", 5, "h")}}})
			e.reopen(Schema())
			if got, want := e.counts("item"), map[string]int64{"all": n, "grp:g": n - 1, "grp:h": 1}; !maps.Equal(got, want) {
				e.Errorf("counts %v, want %v", got, want)
			}
		},
		"an ended context ends a read": func(e *env) {
			ctx, cancel := context.WithCancel(e.ctx())
			cancel()
			if _, err := e.Query(ctx, store.Query{Table: "item"}); !errors.Is(err, context.Canceled) {
				e.Errorf("Query: got %v, want context.Canceled", err)
			}
		},
	})
}

func rowKeys(rows []store.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.Key)
	}
	return out
}
