package sqlite_test

import (
	"database/sql"
	"testing"
)

// pragma asks a database that nobody has open.
func pragma(t *testing.T, path, name string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var v string
	if err := db.QueryRow("PRAGMA " + name).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// holdSnapshot begins to read the rows of table thing and ends when the function
// is called, which says how many it saw.
func holdSnapshot(t *testing.T, path string) func() int {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := tx.QueryRow("SELECT count(*) FROM t_thing").Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	count()
	return func() int {
		n := count()
		tx.Rollback() //nolint:errcheck // only read
		db.Close()
		return n
	}
}
