package sqlite_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

var update = flag.Bool("update", false, "write testdata/schema-N.sql of the present schema, if there is none")

// oldSchema is the table of the stores in testdata.
var oldSchema = store.Schema{{
	Name: "thing", Version: 1, Columns: []store.Column{{Name: "n", Type: store.Int}}, Indexes: [][]string{{"n"}},
	Derive: store.JSON(func(_ string, v *struct{ N int64 }) store.Derived {
		return store.Derived{Columns: []any{v.N}, Counters: []string{"all"}}
	}),
}}

// at is a clock of the stores in testdata, so many minutes after they were written.
func at(minutes int) sqlite.Options {
	return sqlite.Options{MustExist: minutes > 0, Clock: func() time.Time {
		return time.Date(2026, 1, 1, 0, minutes, 0, 0, time.UTC)
	}}
}

// TestEarlierSchemas opens a store of each schema there ever was and finds what was
// in it. A new migration needs a dump of its schema: go test -run EarlierSchemas -args -update.
func TestEarlierSchemas(t *testing.T) {
	t.Parallel()
	now := mustOpen(t, filepath.Join(scratch(t), "store.db"), sqlite.Options{}).Info().Schema
	for n := 1; n <= now; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			dump := filepath.Join("testdata", fmt.Sprintf("schema-%04d.sql", n))
			if _, err := os.Stat(dump); errors.Is(err, os.ErrNotExist) && n == now && *update {
				write(t, dump, dumpOfNewStore(t))
			}
			path := filepath.Join(scratch(t), "store.db")
			otherDatabase(t, path, string(read(t, dump)))
			if got := pragma(t, path, "user_version"); got != fmt.Sprint(n) {
				t.Fatalf("%s has schema %s", dump, got)
			}
			s, err := sqlite.Open(t.Context(), path, oldSchema, at(1))
			if err != nil {
				t.Fatal(err)
			}
			expectEverything(t, s)
			mustClose(t, s)
			if got := pragma(t, path, "integrity_check"); got != "ok" {
				t.Error(got)
			}
		})
	}
}

// putEverything makes a store in which every part of the schema is used.
func putEverything(t *testing.T, s *sqlite.Store) {
	t.Helper()
	ctx := t.Context()
	commit := func(c *store.Commit) {
		t.Helper()
		if err := s.Commit(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		commit(&store.Commit{
			ID:     fmt.Sprint("once-", i),
			Puts:   []store.Put{{Table: "thing", Key: fmt.Sprint("k", i), Val: fmt.Appendf(nil, `{"n":%d}`, 10-i)}},
			Sends:  []store.Send{{Topic: "t", Key: "lane", Body: fmt.Append(nil, i)}, {Topic: "later", Key: "l", Body: []byte("x"), Delay: time.Hour}},
			Events: []store.Event{{Subject: "s", Kind: "k", Data: fmt.Append(nil, i)}},
		})
	}
	commit(&store.Commit{Tenant: "other", Puts: []store.Put{{Table: "thing", Key: "k0", Val: []byte(`{"n":7}`)}}})
	commit(&store.Commit{Puts: []store.Put{{Table: "thing", Key: "k0", Rev: 1, Val: []byte(`{"n":11}`)}}})
	commit(&store.Commit{Sends: []store.Send{{Topic: "bad", Key: "b", Body: []byte("poison")}}})
	got, err := s.Claim(ctx, store.ClaimRequest{Topic: "bad", Owner: "node", Lanes: 1, Lease: time.Minute})
	if err != nil || len(got.Msgs) != 1 {
		t.Fatalf("claimed %v, %v", got.Msgs, err)
	}
	commit(&store.Commit{Dead: got.Msgs[0], Reason: "it never works"})
	if err := s.Pause(ctx, "later", true); err != nil {
		t.Fatal(err)
	}
}

func expectEverything(t *testing.T, s *sqlite.Store) {
	t.Helper()
	ctx := t.Context()
	check := func(what string, got, want any) {
		t.Helper()
		if d := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	page, err := s.Query(ctx, store.Query{Table: "thing", Tenant: "*", Order: "n"})
	check("rows", err, nil)
	var rows []string
	for _, r := range page.Rows {
		rows = append(rows, fmt.Sprintf("%s/%s@%d=%s", r.Tenant, r.Key, r.Rev, r.Val))
	}
	check("rows", rows, []string{
		`other/k0@1={"n":7}`, `default/k2@1={"n":8}`, `default/k1@1={"n":9}`, `default/k0@2={"n":11}`,
	})
	counts, err := s.Counts(ctx, "", "thing")
	check("counters", err, nil)
	check("counters", counts, map[string]int64{"all": 3})
	check("a repeated commit", s.Commit(ctx, &store.Commit{ID: "once-1", Puts: []store.Put{{Table: "thing", Key: "k1", Rev: 0, Val: []byte(`{}`)}}}), nil)

	got, err := s.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: "node", Lanes: 1, PerLane: 10, Lease: time.Minute})
	check("messages", err, nil)
	var bodies []string
	for _, m := range got.Msgs {
		bodies = append(bodies, string(m.Body))
	}
	check("messages", bodies, []string{"0", "1", "2"})
	topics, err := s.Topics(ctx, "")
	check("topics", err, nil)
	var states []string
	for _, x := range topics {
		states = append(states, fmt.Sprintf("%s:%d:%d:%t", x.Topic, x.Depth, x.Dead, x.Paused))
	}
	check("topics", states, []string{"bad:0:1:false", "later:3:0:true", "t:3:0:false"})

	dead, err := s.Scan(ctx, "", store.DeadTable, "bad/", 0)
	check("dead letters", err, nil)
	var letter store.DeadLetter
	if len(dead) != 1 || json.Unmarshal(dead[0].Val, &letter) != nil || string(letter.Body) != "poison" || letter.Reason != "it never works" {
		t.Errorf("dead letters: %v", dead)
	}
	events, err := s.Events(ctx, "", "s", "", 10)
	check("events", err, nil)
	var data []string
	for _, e := range events {
		data = append(data, string(e.Data))
	}
	check("events", data, []string{"0", "1", "2"})
}

func dumpOfNewStore(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := sqlite.Open(t.Context(), path, oldSchema, at(0))
	if err != nil {
		t.Fatal(err)
	}
	putEverything(t, s)
	mustClose(t, s)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	column := func(q string) []string {
		rows, err := db.Query(q)
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		defer rows.Close()
		var all []string
		for rows.Next() {
			var v string
			if err := rows.Scan(&v); err != nil {
				t.Fatal(err)
			}
			all = append(all, v)
		}
		return all
	}
	var b strings.Builder
	for _, p := range []string{"application_id", "user_version"} {
		fmt.Fprintf(&b, "PRAGMA %s=%s;\n", p, column("PRAGMA " + p)[0])
	}
	const ours = "name NOT LIKE 'sqlite_%'"
	for _, q := range column("SELECT sql FROM sqlite_master WHERE type='table' AND " + ours + " ORDER BY name") {
		fmt.Fprintf(&b, "%s;\n", q)
	}
	for _, table := range append(column("SELECT name FROM sqlite_master WHERE type='table' AND "+ours+" ORDER BY name"), "sqlite_sequence") {
		cols := column("SELECT name FROM pragma_table_info('" + table + "')")
		for _, values := range column("SELECT quote(" + strings.Join(cols, ")||', '||quote(") + ") FROM " + table) {
			fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES (%s);\n", table, strings.Join(cols, ", "), values)
		}
	}
	for _, q := range column("SELECT sql FROM sqlite_master WHERE type='index' AND sql IS NOT NULL ORDER BY name") {
		fmt.Fprintf(&b, "%s;\n", q)
	}
	return []byte(strings.ReplaceAll(b.String(), "INSERT INTO sqlite_sequence", "INSERT OR REPLACE INTO sqlite_sequence"))
}
