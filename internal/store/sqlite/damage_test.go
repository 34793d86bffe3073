package sqlite_test

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// scratch is a folder in memory, where there is one: most tests flush often, and
// do not depend on what a flush does.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "waybill-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fill commits n rows, one after another.
func fill(t *testing.T, s *sqlite.Store, n int) {
	t.Helper()
	for i := range n {
		if err := s.Commit(t.Context(), &store.Commit{Puts: []store.Put{{
			Table: "thing", Key: fmt.Sprintf("%06d", i), Rev: store.AnyRev, Val: text(t, strings.Repeat("x", 700)),
		}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// ends are the places in a log at which its commits end.
func ends(wal []byte) []int64 {
	var all []int64
	for at := 32; at+24+4096 <= len(wal) && bytes.Equal(wal[16:24], wal[at+8:at+16]); at += 24 + 4096 {
		if binary.BigEndian.Uint32(wal[at+4:]) != 0 {
			all = append(all, int64(at+24+4096))
		}
	}
	return all
}

func open(t *testing.T, path string, o sqlite.Options) (*sqlite.Store, error) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, thing, o)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func mustOpen(t *testing.T, path string, o sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := open(t, path, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t *testing.T, s *sqlite.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// closed is the file of a store of 300 rows that was closed.
func closed(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(scratch(t), "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	fill(t, s, 300)
	mustClose(t, s)
	return read(t, path)
}

// killed is the files of a store that was open, with 300 rows that all stand in
// the log, and where each of them ends.
func killed(t *testing.T) (file, wal []byte, sizes []int64) {
	t.Helper()
	path := filepath.Join(scratch(t), "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	fill(t, s, 300)
	wal = read(t, path+"-wal")
	if sizes = ends(wal); len(sizes) != 300 {
		t.Fatalf("the log holds %d commits of 300", len(sizes))
	}
	return read(t, path), wal, sizes
}

// files are the contents of a folder by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range all {
		if e.Type().IsRegular() {
			m[e.Name()] = string(read(t, filepath.Join(dir, e.Name())))
		}
	}
	return m
}

// otherDatabase is an SQLite file that is not ours.
func otherDatabase(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range statements {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	whole := closed(t)
	file, wal, sizes := killed(t)
	flip := func(b []byte, at, n int) []byte {
		b = append([]byte{}, b...)
		for i := range n {
			b[at+i] ^= 0x5a
		}
		return b
	}
	for name, c := range map[string]struct {
		make  func(t *testing.T, path string)
		must  bool
		kind  waybill.Kind
		words []string
	}{
		"a text": {
			make: func(t *testing.T, path string) { write(t, path, []byte("Dear diary,\n"+strings.Repeat("x", 5000))) },
			kind: waybill.KindConflict, words: []string{"not a Waybill store"},
		},
		"a short text": {
			make: func(t *testing.T, path string) { write(t, path, []byte("x")) },
			kind: waybill.KindConflict, words: []string{"not a Waybill store"},
		},
		"a database of another program": {
			make: func(t *testing.T, path string) { otherDatabase(t, path, "CREATE TABLE thing (a)") },
			kind: waybill.KindConflict, words: []string{"another program"},
		},
		"a database of another program, with a log": {
			make: func(t *testing.T, path string) {
				write(t, path, whole)
				otherDatabase(t, path, "PRAGMA application_id=4711", "PRAGMA journal_mode=WAL")
				write(t, path+"-wal", wal)
			},
			kind: waybill.KindConflict, words: []string{"another program"},
		},
		"a newer schema": {
			make: func(t *testing.T, path string) {
				write(t, path, whole)
				otherDatabase(t, path, "PRAGMA user_version=1000")
			},
			kind: waybill.KindConflict, words: []string{"schema 1000", "newer version"},
		},
		"cut short": {
			make: func(t *testing.T, path string) { write(t, path, whole[:len(whole)/2]) },
			kind: waybill.KindUnavailable, words: []string{"cut short", "backup"},
		},
		"cut short in its first page": {
			make: func(t *testing.T, path string) { write(t, path, whole[:512]) },
			kind: waybill.KindUnavailable, words: []string{"cut short", "backup"},
		},
		"a garbled header": {
			make: func(t *testing.T, path string) { write(t, path, flip(whole, 0, 16)) },
			kind: waybill.KindConflict, words: []string{"not a Waybill store"},
		},
		"a garbled first page": {
			make: func(t *testing.T, path string) { write(t, path, flip(whole, 100, 300)) },
			kind: waybill.KindUnavailable, words: []string{"damaged", "backup"},
		},
		"a garbled page": {
			make: func(t *testing.T, path string) { write(t, path, flip(whole, len(whole)/8192*4096, 2000)) },
			kind: waybill.KindUnavailable, words: []string{"damaged", "backup"},
		},
		"a garbled page, with a log": {
			make: func(t *testing.T, path string) {
				write(t, path, flip(file, 4096*2, 2000))
				write(t, path+"-wal", wal[:sizes[0]])
			},
			kind: waybill.KindUnavailable, words: []string{"damaged", "backup"},
		},
		"an empty file that was a store": {
			make: func(t *testing.T, path string) { write(t, path, nil) }, must: true,
			kind: waybill.KindUnavailable, words: []string{"empty", "backup"},
		},
		"a missing file": {
			make: func(t *testing.T, path string) {}, must: true,
			kind: waybill.KindUnavailable, words: []string{"missing", "backup"},
		},
		"a folder": {
			make: func(t *testing.T, path string) {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			},
			kind: waybill.KindConflict, words: []string{"not a regular file"},
		},
		"no log though it was not closed": {
			make: func(t *testing.T, path string) { write(t, path, file) },
			kind: waybill.KindUnavailable, words: []string{"store.db-wal", "is missing", "backup"},
		},
		"a log with a garbled beginning": {
			make: func(t *testing.T, path string) {
				write(t, path, file)
				write(t, path+"-wal", flip(wal, 0, 8))
			},
			kind: waybill.KindUnavailable, words: []string{"store.db-wal", "beginning", "damaged"},
		},
		"a log cut in its header": {
			make: func(t *testing.T, path string) {
				write(t, path, file)
				write(t, path+"-wal", wal[:20])
			},
			kind: waybill.KindUnavailable, words: []string{"store.db-wal", "beginning", "damaged"},
		},
		"a log garbled in the middle": {
			make: func(t *testing.T, path string) {
				write(t, path, file)
				write(t, path+"-wal", flip(wal, int(sizes[100])+500, 1))
			},
			kind: waybill.KindUnavailable, words: []string{"store.db-wal", "damaged at byte", "198 later commits"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := scratch(t)
			path := filepath.Join(dir, "store.db")
			c.make(t, path)
			before := files(t, dir)
			_, err := open(t, path, sqlite.Options{MustExist: c.must})
			var w *waybill.Error
			if !errors.As(err, &w) || w.Kind != c.kind {
				t.Fatalf("opened with %v, want kind %s", err, c.kind)
			}
			told := w.Error() + " (" + w.Hint + ")"
			for _, word := range append(c.words, "store.db") {
				if !strings.Contains(told, word) {
					t.Errorf("told %q, want %q in it", told, word)
				}
			}
			if after := files(t, dir); !cmp.Equal(before, after) {
				for name, b := range after {
					if before[name] != b {
						t.Errorf("%s was changed from %d to %d bytes", name, len(before[name]), len(b))
					}
				}
				t.Errorf("%d files before, %d after", len(before), len(after))
			}
		})
	}
}

func TestFolderIsMissing(t *testing.T) {
	t.Parallel()
	_, err := open(t, filepath.Join(scratch(t), "no", "store.db"), sqlite.Options{})
	if !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("opened with %v", err)
	}
}

// Root may read and write whatever the mode says; a flag of the file system or a
// user without rights stands for that.
func TestFileMayNotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	write(t, path, closed(t))
	if os.Getuid() == 0 {
		out, err := exec.Command("chattr", "+i", path).CombinedOutput()
		needs(t, err == nil, fmt.Sprintf("a file system with immutable files (%s)", out))
		t.Cleanup(func() {
			if out, err := exec.Command("chattr", "-i", path).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	} else if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, path, sqlite.Options{})
	if !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "not permitted") && !strings.Contains(err.Error(), "denied") {
		t.Errorf("opened with %v", err)
	}
	if len(files(t, dir)) != 1 {
		t.Errorf("files were left: %d", len(files(t, dir)))
	}
}

// The log may end anywhere when the power goes, and be garbled in what was written
// last. What stands before is kept, in order, and the operator is told.
func TestTornLog(t *testing.T) {
	t.Parallel()
	file, wal, sizes := killed(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	check := func(t *testing.T, wal []byte, want int, word string) {
		t.Helper()
		path := filepath.Join(scratch(t), "store.db")
		write(t, path, file)
		write(t, path+"-wal", wal)
		var n notes
		s, err := open(t, path, sqlite.Options{MustExist: true, Logger: n.logger()})
		if err != nil {
			t.Fatalf("log of %d bytes: %v", len(wal), err)
		}
		rows, err := s.Scan(t.Context(), "", "thing", "", 0)
		if err != nil || len(rows) != want {
			t.Errorf("log of %d bytes: %d rows of %d: %v", len(wal), len(rows), want, err)
		}
		for i, r := range rows {
			if r.Key != fmt.Sprintf("%06d", i) {
				t.Fatalf("log of %d bytes: row %d is %s", len(wal), i, r.Key)
			}
		}
		if !strings.Contains(n.String(), "not closed in order") || !strings.Contains(n.String(), word) {
			t.Errorf("log of %d bytes: told %q", len(wal), n.String())
		}
		// It works on, and what is written now is not mixed with what was torn off.
		fill(t, s, 5)
		mustClose(t, s)
		if rows, err := mustOpen(t, path, sqlite.Options{}).Scan(t.Context(), "", "thing", "", 0); err != nil || len(rows) != max(want, 5) {
			t.Errorf("log of %d bytes: later %d rows: %v", len(wal), len(rows), err)
		}
	}
	readable := func(size int64) (n int) {
		for n < len(sizes) && sizes[n] <= size {
			n++
		}
		return n
	}
	whole := sizes[len(sizes)-1]
	cuts := []int64{32, 33, 32 + 24 + 4095, sizes[0], sizes[0] + 1, sizes[7] + 24, sizes[7] + 25, whole - 1, whole - 4096}
	for range 10 {
		cuts = append(cuts, 32+rnd.Int64N(whole-32))
	}
	for _, cut := range cuts {
		word := "commits="
		if n := readable(cut); n > 0 && cut != sizes[n-1] {
			word = "unfinished_bytes="
		}
		check(t, wal[:cut], readable(cut), word)
	}
	for range 6 { // the last commit is garbled
		at := sizes[len(sizes)-2] + rnd.Int64N(whole-sizes[len(sizes)-2])
		b := append([]byte{}, wal...)
		b[at] ^= byte(1 + rnd.IntN(255))
		check(t, b, len(sizes)-1, "unfinished_bytes=")
	}
	check(t, nil, 0, "commits may be missing") // an empty one is the operator's word
	check(t, wal, len(sizes), "commits=300")
}

// A store that was closed needs no log, and says nothing when it is opened.
func TestClosedInOrder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(scratch(t), "store.db")
	var n notes
	for range 3 {
		s := mustOpen(t, path, sqlite.Options{Logger: n.logger()})
		fill(t, s, 3)
		mustClose(t, s)
		if m := files(t, filepath.Dir(path)); len(m) != 1 {
			t.Errorf("%d files of a closed store", len(m))
		}
	}
	if n.String() != "" {
		t.Errorf("logged: %s", n.String())
	}
}

// A copy made by SQLite while the store is open is a whole store.
func TestCopyOfOpenStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(scratch(t), "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	fill(t, s, 10)
	to := filepath.Join(scratch(t), "store.db")
	otherDatabase(t, path, "VACUUM INTO '"+to+"'")
	rows, err := mustOpen(t, to, sqlite.Options{MustExist: true}).Scan(t.Context(), "", "thing", "", 0)
	if err != nil || len(rows) != 10 {
		t.Errorf("%d rows of 10: %v", len(rows), err)
	}
}

// A store that was killed when it had just been made, at any point of that.
func TestKilledWhileBeingMade(t *testing.T) {
	t.Parallel()
	for name, statements := range map[string][]string{
		"marked":         {"PRAGMA application_id=0x5759424c"},
		"with a log":     {"PRAGMA application_id=0x5759424c", "PRAGMA journal_mode=WAL"},
		"without tables": {"PRAGMA application_id=0x5759424c", "PRAGMA journal_mode=WAL", "CREATE TABLE x (a)", "DROP TABLE x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(scratch(t), "store.db")
			otherDatabase(t, path, statements...)
			s := mustOpen(t, path, sqlite.Options{})
			fill(t, s, 1)
		})
	}
}
