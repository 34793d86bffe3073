package queue_test

import (
	"context"
	"flag"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/queue/queuetest"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestMain(m *testing.M) {
	// Enough for every day; -rapid.checks on the command line wins.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err) // rapid has no such flag any more
	}
	pgtest.Main(m)
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store {
		s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "queue.db"), schema, sqlite.Options{Clock: clock})
		return opened(t, s, err)
	})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	pgtest.DSN(t) // starts the server, outside of any bubble
	queuetest.Run(t, func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store {
		// A connection that listens would keep the time of a bubble from passing.
		s, err := postgres.Open(context.Background(), pgtest.DSN(t), schema, postgres.Options{Clock: clock, NoListen: true})
		return opened(t, s, err)
	})
}

func opened[S store.Store](t *testing.T, s S, err error) store.Store {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}
