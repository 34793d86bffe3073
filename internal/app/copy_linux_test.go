package app

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
	"github.com/waybill-run/waybill/internal/store/storetest"
)

func bothStores(t *testing.T) (file, shared storetest.Options) {
	pgtest.DSN(t) // skips the test where there is none
	file = storetest.Options{Open: func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store {
		s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}}
	shared = storetest.Options{Open: func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := postgres.Open(ctx, pgtest.DSN(t), schema, postgres.Options{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}}
	return file, shared
}

// What one kind of store holds can go on in the other kind.
func TestStoresOfTwoKinds(t *testing.T) {
	file, shared := bothStores(t)
	t.Run("sqlite to postgres", func(t *testing.T) { storetest.Between(t, file, shared) })
	t.Run("postgres to sqlite", func(t *testing.T) { storetest.Between(t, shared, file) })
}

// A feed goes on at its place when events are numbered anew.
func TestRenumbered(t *testing.T) {
	file, shared := bothStores(t)
	from, to := shared.Open(t, Schema(), nil), file.Open(t, Schema(), nil)
	defer from.Close()
	defer to.Close()
	ctx := t.Context()
	for i := range 20 {
		if err := from.Commit(ctx, &store.Commit{Events: []store.Event{{Subject: fmt.Sprint("s", i), Kind: "k", Data: []byte(`{}`)}}}); err != nil {
			t.Fatal(err)
		}
	}
	events := func(s store.Store, after store.Cursor, want int) []store.StoredEvent {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			got, err := s.Tail(ctx, after, 100)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) >= want || time.Now().After(end) {
				return got
			}
		}
	}
	all := events(from, "", 20)
	for name, at := range map[string]int{"first": 0, "middle": 11, "last": 19} {
		val, err := json.Marshal(map[string]any{"cursor": all[at].Cursor, "owner": "n", "state": map[string]int{"n": at}})
		if err != nil {
			t.Fatal(err)
		}
		if err := from.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableFeed, Key: name, Val: val}}}); err != nil {
			t.Fatal(err)
		}
	}
	items, err := renumbered(ctx, from, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Import(ctx, items); err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string]int{"first": 19, "middle": 8, "last": 0} {
		row, err := to.Get(ctx, "", tableFeed, name)
		if err != nil {
			t.Fatal(err)
		}
		got := events(to, store.Cursor(feedCursor(row.Val)), left)
		if len(got) != left || left > 0 && got[0].Subject != fmt.Sprint("s", 20-left) {
			t.Errorf("the feed that was %s has %d events before it, want %d", name, len(got), left)
		}
	}
}
