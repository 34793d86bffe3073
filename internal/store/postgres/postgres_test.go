package postgres_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/storetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t testing.TB, dsn string, schema store.Schema, opts postgres.Options) *postgres.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := postgres.Open(ctx, dsn, schema, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	pgtest.DSN(t) // starts the server
	var dsns sync.Map
	with := func(t *testing.T, dsn string, schema store.Schema, clock func() time.Time) store.Store {
		s := open(t, dsn, schema, postgres.Options{Clock: clock})
		dsns.Store(store.Store(s), dsn)
		return s
	}
	storetest.Run(t, storetest.Options{
		Open: func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store {
			return with(t, pgtest.DSN(t), schema, clock)
		},
		Reopen: func(t *testing.T, s store.Store, schema store.Schema, clock func() time.Time) store.Store {
			dsn, _ := dsns.Load(s)
			return with(t, dsn.(string), schema, clock)
		},
		Shared: true,
	})
}
