package sqlite_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
	"github.com/waybill-run/waybill/internal/store/storetest"
)

func TestStore(t *testing.T) {
	var mu sync.Mutex
	paths := map[store.Store]string{}
	open := func(t *testing.T, path string, schema store.Schema, clock func() time.Time) store.Store {
		t.Helper()
		s, err := sqlite.Open(t.Context(), path, schema, sqlite.Options{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		paths[s] = path
		mu.Unlock()
		return s
	}
	storetest.Run(t, storetest.Options{
		Open: func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store {
			return open(t, filepath.Join(t.TempDir(), "store.db"), schema, clock)
		},
		Reopen: func(t *testing.T, s store.Store, schema store.Schema, clock func() time.Time) store.Store {
			mu.Lock()
			path := paths[s]
			mu.Unlock()
			return open(t, path, schema, clock)
		},
	})
}
