package container_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// However often the server dies in the middle, and wherever, the file is that of one
// which did not.
func TestReplayGoesOnWhereTheFileEnds(t *testing.T) {
	const secret = "p4s$ w0rd/+"
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "line %d of %s\n", i, secret)
	}
	source := []byte(text.String())
	dir := t.TempDir()
	for _, limit := range []int64{0, 700, 1 << 20} {
		whole := filepath.Join(dir, fmt.Sprintf("whole-%d", limit))
		write := func(path string, base int64, cuts []int) runner.Exit {
			var e runner.Exit
			for i, end := range append(cuts, len(source)) {
				r, err := container.OpenReplay(path, base, limit, []byte(secret))
				if err != nil {
					t.Fatal(err)
				}
				for from := 0; from < end; {
					n := min(1+rand.IntN(200), end-from)
					r.Write(source[from : from+n])
					from += n
				}
				if i == len(cuts) {
					r.Close(&e)
				} else if err := r.Leave(); err != nil {
					t.Fatal(err)
				}
			}
			return e
		}
		want := write(whole, 0, nil)
		b, err := os.ReadFile(whole)
		if err != nil || strings.Contains(string(b), secret) {
			t.Fatalf("%v, or the log holds the secret", err)
		}
		for round := range 30 {
			path := filepath.Join(dir, fmt.Sprintf("cut-%d-%d", limit, round))
			if err := os.WriteFile(path, []byte("from before\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			base := container.LogSize(path)
			got := write(path, base, []int{rand.IntN(len(source)), rand.IntN(len(source)), len(source)})
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("limit %d: exit (-want +got):\n%s", limit, d)
			}
			log, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff("from before\n"+string(b), string(log)); d != "" {
				t.Fatalf("limit %d: log (-want +got):\n%s", limit, d)
			}
		}
	}
}

// A platform that has thrown the beginning away is told of in the log, and nothing that it
// still has is missing.
func TestReplayOfAnotherBeginning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r, err := container.OpenReplay(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Write([]byte("one\ntwo\nthr"))
	if err := r.Leave(); err != nil {
		t.Fatal(err)
	}
	if r, err = container.OpenReplay(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	r.Write([]byte("three\nfour\n"))
	r.Close(&runner.Exit{})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.HasPrefix(got, "one\ntwo\nthr\n[waybill] ") || !strings.HasSuffix(got, "\nthree\nfour\n") {
		t.Errorf("log = %q", got)
	}
}
