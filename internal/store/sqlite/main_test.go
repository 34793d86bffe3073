package sqlite_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// TestMain lets the test binary be a process that writes and is killed.
func TestMain(m *testing.M) {
	if os.Getenv("SQLITE_TEST_ROLE") == "writer" {
		if err := writerMain(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writerMain commits from many callers until it is killed, and prints "caller n"
// when the n-th commit of a caller, from 0, was acknowledged. Without callers it
// commits once and ends itself as soon as that can be read.
func writerMain(path, callers, synchronous string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, thing, sqlite.Options{}.WithSynchronous(synchronous))
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(callers)
	if err != nil {
		return err
	}
	if n == 0 {
		go s.Commit(ctx, step(0, 0)) //nolint:errcheck // nobody is told
		for {
			if _, err := s.Get(ctx, "", "thing", key(0, 0)); err == nil {
				p, err := os.FindProcess(os.Getpid())
				if err != nil {
					return err
				}
				_ = p.Kill()
			}
		}
	}
	failed := make(chan error)
	for caller := range n {
		go func() {
			for i := 0; ; i++ {
				if err := s.Commit(ctx, step(caller, i)); err != nil {
					failed <- err
					return
				}
				// One write to a pipe is not mixed with others.
				if _, err := fmt.Printf("%d %d\n", caller, i); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

func key(caller, i int) string { return fmt.Sprintf("%03d-%06d", caller, i) }

// step is a commit that writes everything that there is.
func step(caller, i int) *store.Commit {
	return &store.Commit{
		Puts:   []store.Put{{Table: "thing", Key: key(caller, i), Val: fmt.Appendf(nil, `{"pad":"%0200d"}`, i)}},
		Sends:  []store.Send{{Topic: "t", Key: fmt.Sprint(caller), Body: fmt.Append(nil, i)}},
		Events: []store.Event{{Subject: fmt.Sprint("caller/", caller), Kind: "step", Data: []byte("{}")}},
	}
}

// writing is a writerMain in a process of its own.
type writing struct {
	cmd *exec.Cmd
	end chan struct{} // closed when its output has ended

	mu    sync.Mutex
	acked map[int]int // by caller: how many
	total int
}

func startWriting(t *testing.T, path string, callers int, synchronous string) *writing {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &writing{cmd: exec.Command(exe, path, fmt.Sprint(callers), synchronous), end: make(chan struct{}), acked: map[int]int{}}
	w.cmd.Env = append(os.Environ(), "SQLITE_TEST_ROLE=writer")
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go w.read(out)
	t.Cleanup(w.kill)
	return w
}

func (w *writing) read(out io.Reader) {
	defer close(w.end)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var caller, i int
		if _, err := fmt.Sscan(lines.Text(), &caller, &i); err != nil {
			continue
		}
		w.mu.Lock()
		w.acked[caller] = i + 1
		w.total++
		w.mu.Unlock()
	}
}

// kill ends the process and returns when all that it told was read. It may be
// called again.
func (w *writing) kill() {
	_ = w.cmd.Process.Kill()
	<-w.end
	_ = w.cmd.Wait()
}

// told is what was acknowledged until now.
func (w *writing) told() map[int]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := map[int]int{}
	for k, v := range w.acked {
		m[k] = v
	}
	return m
}

func (w *writing) await(t *testing.T, total int) {
	t.Helper()
	eventually(t, "the process writes", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.total >= total
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// missing says what of a store is not as a process that was killed left it: every
// caller's commits are there, without a gap, up to the last acknowledged one at
// least, and each with all its parts.
func missing(t *testing.T, s *sqlite.Store, acked map[int]int) []string {
	t.Helper()
	ctx := t.Context()
	var bad []string
	rows, err := s.Scan(ctx, "", "thing", "", 0)
	if err != nil {
		return []string{err.Error()}
	}
	have := map[int]int{}
	for _, r := range rows {
		var caller, i int
		if _, err := fmt.Sscanf(r.Key, "%d-%d", &caller, &i); err != nil {
			t.Fatal(err)
		}
		if i != have[caller] {
			bad = append(bad, fmt.Sprintf("caller %d: after %d comes %d", caller, have[caller]-1, i))
		}
		have[caller] = i + 1
	}
	for caller, n := range acked {
		if have[caller] < n {
			bad = append(bad, fmt.Sprintf("caller %d: %d of %d acknowledged commits", caller, have[caller], n))
		}
	}
	if depth, err := s.Depth(ctx, "t"); err != nil || depth != int64(len(rows)) {
		bad = append(bad, fmt.Sprintf("%d messages for %d rows (%v)", depth, len(rows), err))
	}
	events, err := s.Tail(ctx, "", len(rows)+1)
	if err != nil || len(events) != len(rows) {
		bad = append(bad, fmt.Sprintf("%d events for %d rows (%v)", len(events), len(rows), err))
	}
	got, err := s.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: "n", Lanes: 1000, PerLane: 1 << 20, Lease: time.Minute})
	if err != nil {
		bad = append(bad, err.Error())
	}
	next := map[string]int{}
	for _, m := range got.Msgs {
		if string(m.Body) != fmt.Sprint(next[m.Key]) {
			bad = append(bad, fmt.Sprintf("lane %s: message %s where %d should be", m.Key, m.Body, next[m.Key]))
		}
		next[m.Key]++
	}
	return bad
}

// needs skips a test that lacks something, which is a failure where all tests
// must run.
func needs(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("WAYBILL_REQUIRE_ALL") == "1":
		t.Fatalf("this test needs %s", what)
	default:
		t.Skipf("this test needs %s", what)
	}
}

// notes keeps what a store logs.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

func (n *notes) logger() *slog.Logger { return slog.New(slog.NewTextHandler(n, nil)) }

func text(t *testing.T, s string) []byte {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
