package pgtest_test

import (
	"testing"

	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestSchemasAreSeparate(t *testing.T) {
	a, b := pgtest.DSN(t), pgtest.DSN(t)
	pgtest.Exec(t, a, "CREATE TABLE x (n int)")
	pgtest.Exec(t, b, "CREATE TABLE x (n int)")
}
