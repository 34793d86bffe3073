package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

var thing = store.Schema{{Name: "thing", Version: 1}}

// A process that is killed leaves the files as they are. Copies of the files of an
// open store are what a killed one leaves.
func TestOpenAfterKill(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	path := filepath.Join(dir, "store.db")
	s, err := sqlite.Open(ctx, path, thing, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		val := fmt.Sprintf(`"%d %0900d"`, i, 0)
		if err := s.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: "thing", Key: fmt.Sprint(i), Val: []byte(val)}}}); err != nil {
			t.Fatal(err)
		}
	}
	file, wal := read(t, path), read(t, path+"-wal")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole := read(t, path)
	if len(file) >= len(whole) || len(wal) == 0 {
		t.Fatalf("the test wants a store whose first checkpoint has not come: %d bytes of %d, log %d", len(file), len(whole), len(wal))
	}
	for name, file := range map[string][]byte{
		"before the first checkpoint": file,
		"during a checkpoint":         append(append([]byte{}, whole[:4096]...), file[min(len(file), 4096):]...),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			write(t, path, file)
			write(t, path+"-wal", wal)
			s, err := sqlite.Open(ctx, path, thing, sqlite.Options{MustExist: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			rows, err := s.Scan(ctx, "", "thing", "", 0)
			if err != nil || len(rows) != 200 {
				t.Errorf("%d rows of 200: %v", len(rows), err)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
