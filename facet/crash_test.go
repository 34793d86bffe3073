package facet_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/internal/disktest"
	"github.com/waybill-run/waybill/facet/memory"
)

// campaign is a number of rounds: few by default, many when asked for.
func campaign(few, many int) int {
	if os.Getenv("WAYBILL_CAMPAIGN") != "" {
		return many
	}
	return few
}

func TestEveryPlan(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := range campaign(5, 300) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			facet.TakeEveryPlan(t, rnd)
			facettest.RunRandom(t, facettest.Config{Checks: 25, New: func(t testing.TB, s facet.Schema) facet.Index {
				return open(t, t.TempDir(), s, facet.Options{Workers: 1 + rnd.IntN(3), MergeRate: -1})
			}, Reopen: func(t testing.TB, x facet.Index) facet.Index {
				if err := x.(*facet.Engine).Compact(context.Background()); err != nil {
					t.Error(err)
				}
				return x
			}})
		})
	}
}

var crashSchema = facet.Schema{Fields: []facet.Field{
	{Name: "part", Kind: facet.KindKeyword, Multi: true}, {Name: "round", Kind: facet.KindInt}, {Name: "name", Kind: facet.KindKeyword, Words: true},
}}

// roundBatch replaces the same documents each round, and deletes and brings back some.
func roundBatch(round int) facet.Batch {
	b := facet.Batch{Seq: facet.Seq(round)}
	for i := range 60 {
		if i%7 == round%7 {
			b.Del = append(b.Del, fmt.Sprint(i))
			continue
		}
		b.Put = append(b.Put, facet.Doc{ID: fmt.Sprint(i), Version: int64(round), Source: []byte(strings.Repeat(fmt.Sprint(round, " "), 20)), Fields: map[string][]facet.Value{
			"part": {facet.String(fmt.Sprint(i % 5)), facet.String(fmt.Sprint(round % 3))}, "round": {facet.Int(int64(round))}, "name": {facet.String(fmt.Sprintf("file %d of %d", i, round))}}})
	}
	return b
}

// sameAsRound compares the index with one to which all rounds were applied, one after the other.
func sameAsRound(t testing.TB, x facet.Index, round int) {
	t.Helper()
	m, err := memory.New(crashSchema)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for r := max(1, round-8); r <= round; r++ { // earlier ones have been replaced
		if _, err := m.Apply(ctx, roundBatch(r)); err != nil {
			t.Fatal(err)
		}
	}
	q := facet.Query{Size: 100, Sort: facet.Sort{Field: "name", Desc: true}, Facets: []facet.FacetReq{{Field: "part"}, {Field: "round"}}, Filters: map[string]facet.Filter{"name": {Prefix: []string{"fil"}}}}
	want, err := m.Search(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	got, err := x.Search(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if d := facettest.Diff(want, got); d != "" {
		t.Fatalf("after round %d (-want +got):\n%s", round, d)
	}
}

// TestKill kills a process that writes, and opens what it has left.
func TestKill(t *testing.T) {
	if dir := os.Getenv("FACET_KILL_DIR"); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
	last := 0
	for range campaign(8, 200) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "FACET_KILL_DIR="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		stop := 3 + rnd.IntN(25)
		for n := 0; lines.Scan(); {
			if _, err := fmt.Sscanf(lines.Text(), "applied %d", &last); err == nil {
				if n++; n == stop {
					break
				}
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(out) // what it had said before it died counts
		for line := range strings.Lines(string(rest)) {
			if strings.HasSuffix(line, "\n") {
				_, _ = fmt.Sscanf(line, "applied %d", &last)
			}
		}
		_ = cmd.Wait() // it was killed
		x := open(t, dir, facet.Schema{}, facet.Options{ScrubEvery: -1})
		seq, err := x.Applied(context.Background())
		if err != nil || int(seq) < last || int(seq) > last+1 {
			t.Fatalf("%d was acknowledged, %d is there, %v", last, seq, err)
		}
		sameAsRound(t, x, int(seq))
		if err := x.Verify(context.Background()); err != nil {
			t.Fatal(err)
		}
		last = int(seq)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d batches survived", last)
	if last == 0 {
		t.Error("nothing was written")
	}
}

func writeUntilKilled(t *testing.T, dir string) {
	x, err := facet.Open(dir, crashSchema, facet.Options{MergeRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := x.Applied(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for round := int(seq) + 1; round < int(seq)+2000; round++ {
		if _, err := x.Apply(context.Background(), roundBatch(round)); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("applied %d\n", round)
	}
}

// TestPowerLoss takes away the power at every operation of a history: what was acknowledged is there afterwards,
// whatever of the rest came through.
func TestPowerLoss(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	ctx := context.Background()
	for i := range campaign(40, 5000) {
		fs := disktest.New(t)
		x, err := facet.Open("", crashSchema, facet.Options{MergeRate: -1, ScrubEvery: -1}.On(fs))
		if err != nil {
			t.Fatal(err)
		}
		fs.DieAfter(rnd.IntN(250))
		acked := 0
		for round := 1; round <= 14; round++ {
			if round%6 == 0 {
				_ = x.Compact(ctx) // it may be the one that meets the end
			}
			if _, err := x.Apply(ctx, roundBatch(round)); err != nil {
				break
			}
			acked = round
		}
		_ = x.Close() // without power
		after := fs.Crash(rnd)
		y, err := facet.Open("", facet.Schema{}, facet.Options{ScrubEvery: -1}.On(after))
		if err != nil {
			t.Fatalf("%d: after %d batches: %v", i, acked, err)
		}
		seq, _ := y.Applied(ctx)
		if int(seq) != acked && int(seq) != acked+1 {
			t.Fatalf("%d: %d was acknowledged, %d is there", i, acked, seq)
		}
		sameAsRound(t, y, int(seq))
		if err := y.Verify(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := y.Apply(ctx, roundBatch(int(seq)+1)); err != nil {
			t.Fatal(err)
		}
		sameAsRound(t, y, int(seq)+1)
		if err := y.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk fills the disk at every place of a batch. The state before is what there is, files that were begun
// are gone, and with space again the same batch goes through.
func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	f := disktest.New(t)
	x, err := facet.Open("", crashSchema, facet.Options{MergeRate: -1, ScrubEvery: -1}.On(f))
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	round := 0
	for space := 0; space < 12000; space += campaign(397, 41) {
		f.FillAfter(space)
		_, err := x.Apply(ctx, roundBatch(round+1))
		f.FillAfter(-1)
		if err == nil {
			round++
			sameAsRound(t, x, round)
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with %d bytes: %v", space, err)
		}
		sameAsRound(t, x, round)
		if seq, err := x.Applied(ctx); int(seq) != round || err != nil {
			t.Fatalf("with %d bytes: %d is applied, %v", space, seq, err)
		}
		if _, err := x.Apply(ctx, roundBatch(round+1)); err != nil {
			t.Fatalf("with space again: %v", err)
		}
		round++
		sameAsRound(t, x, round)
	}
	if err := x.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	sameAsRound(t, x, round)
	names, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	st, _ := x.Stats()
	var want []string
	for _, s := range st.Segments {
		want = append(want, s.Name)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "MANIFEST" || slices.Contains(want, n) })
	if len(names) > 0 {
		t.Errorf("left over: %q", names)
	}
}

// TestDamage cuts off, flips and removes pieces of every file. The damage is named, never answered from, and
// the rest can be read.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	x := open(t, dir, crashSchema, facet.Options{ScrubEvery: -1})
	for round := 1; round <= 5; round++ {
		if _, err := x.Apply(ctx, roundBatch(round)); err != nil {
			t.Fatal(err)
		}
	}
	want := answers(t, x)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 3))
	damages := 0
	for _, name := range names {
		base := filepath.Base(name)
		if base == "LOCK" {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for range campaign(25, 1000) {
			bad := bytes.Clone(content)
			switch rnd.IntN(4) {
			case 0:
				bad = bad[:rnd.IntN(len(bad))]
			case 1:
				bad = append(bad, 0)
			default:
				bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
			}
			if bytes.Equal(bad, content) {
				continue
			}
			damages++
			checkDamage(t, dir, name, bad, want)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(base, "seg-") {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
			if _, err := facet.Open(dir, facet.Schema{}, facet.Options{}); !errors.Is(err, facet.ErrCorrupt) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("without %s: %v", base, err)
			}
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d damages", damages)
	y := open(t, dir, facet.Schema{}, facet.Options{})
	sameAsRound(t, y, 5)
	if err := y.Close(); err != nil {
		t.Fatal(err)
	}
}

// answers are the results of some queries that together read everything.
func answers(t testing.TB, x facet.Index) []facet.Result {
	var all []facet.Result
	for _, q := range damageQueries {
		r, err := x.Search(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

var damageQueries = []facet.Query{
	{Size: 100, Facets: []facet.FacetReq{{Field: "part"}, {Field: "round"}, {Field: "name"}}},
	{Size: 100, Sort: facet.Sort{Field: "part"}, Filters: map[string]facet.Filter{"part": {Is: []facet.Value{facet.String("1")}}, "name": {Prefix: []string{"o"}}}, Facets: []facet.FacetReq{{Field: "part"}, {Field: "round"}}},
	{Size: 10, Fields: []string{"name", "part", "round"}, Sort: facet.Sort{Field: "name"}, Filters: map[string]facet.Filter{"round": {Within: []facet.Span{{Lo: facet.Int(2)}}}}},
}

func checkDamage(t *testing.T, dir, name string, bad []byte, want []facet.Result) {
	t.Helper()
	ctx := context.Background()
	if err := os.WriteFile(name, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	base := filepath.Base(name)
	named := func(err error) {
		t.Helper()
		var e *facet.Error
		if !errors.Is(err, facet.ErrCorrupt) || !errors.As(err, &e) || e.File != base {
			t.Fatalf("damage of %s: %v", base, err)
		}
	}
	x, err := facet.Open(dir, facet.Schema{}, facet.Options{ScrubEvery: -1, ReadOnly: true})
	if err != nil {
		named(err)
		if base == "MANIFEST" {
			return
		}
		y, err := facet.Open(dir, facet.Schema{}, facet.Options{Salvage: true})
		if err != nil {
			t.Fatalf("salvage without %s: %v", base, err)
		}
		if st, err := y.Stats(); err != nil || len(st.Refused) != 1 {
			t.Fatalf("refused %q, %v", st.Refused, err)
		}
		if _, err := y.Search(ctx, damageQueries[0]); err != nil {
			t.Fatalf("the rest: %v", err)
		}
		if err := y.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	defer x.Close()
	for i, q := range damageQueries {
		r, err := x.Search(ctx, q)
		if err != nil {
			named(err)
			continue
		}
		if d := facettest.Diff(want[i], r); d != "" {
			t.Fatalf("answered from a damaged %s:\n%s", base, d)
		}
	}
	if err := x.Verify(ctx); err != nil {
		named(err)
	}
}

// TestCutWhileOpen cuts a file that is mapped. The process lives, and says which file it is.
func TestCutWhileOpen(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	x := open(t, dir, crashSchema, facet.Options{ScrubEvery: -1})
	defer x.Close()
	for round := 1; round <= 3; round++ {
		if _, err := x.Apply(ctx, roundBatch(round)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Apply(ctx, facet.Batch{Seq: 4, Put: []facet.Doc{{ID: "another"}}}); err != nil {
		t.Fatal(err)
	}
	st, err := x.Stats()
	if err != nil {
		t.Fatal(err)
	}
	cut := st.Segments[len(st.Segments)-2].Name
	if err := os.Truncate(filepath.Join(dir, cut), 0); err != nil {
		t.Fatal(err)
	}
	for i, err := range []error{second(x.Search(ctx, damageQueries[1])), second(x.Apply(ctx, roundBatch(5))), x.Verify(ctx), x.Compact(ctx)} {
		var e *facet.Error
		if !errors.Is(err, facet.ErrCorrupt) || !errors.As(err, &e) || e.File != cut {
			t.Errorf("%d: a file was cut: %v", i, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
