// Package deliverytest has deliveries for tests: services over every store that there is,
// and data sets to fill them with.
package deliverytest

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// New returns a service over an empty SQLite file. A nil now is time.Now.
func New(t testing.TB, now func() time.Time) *delivery.Service {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), delivery.Tables(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return delivery.New(delivery.Options{Store: s, Now: now})
}

// EveryStore calls f with an empty service over each store. The package of the test calls
// pgtest.Main in its TestMain.
func EveryStore(t *testing.T, now func() time.Time, f func(t *testing.T, s *delivery.Service)) {
	t.Run("sqlite", func(t *testing.T) { f(t, New(t, now)) })
	t.Run("postgres", func(t *testing.T) {
		s, err := postgres.Open(t.Context(), pgtest.DSN(t), delivery.Tables(), postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		f(t, delivery.New(delivery.Options{Store: s, Now: now}))
	})
}
