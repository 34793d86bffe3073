package pipeline

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
)

var update = flag.Bool("update", false, "write the .problems files")

// testOptions are those of a server with a small environment and picky runners.
func testOptions() Options {
	env := map[string]string{"NAME": "from-env", "HOME_OF_X": "/x", "NUMBER": "7", "EVIL": "${{ 1 + 1 }}"}
	return Options{
		Env: func(n string) (string, bool) { v, ok := env[n]; return v, ok },
		Check: func(runner string, args []string, with json.RawMessage) error {
			if strings.Contains(string(with), "banana") || len(args) > 0 && args[0] == "forbidden" {
				return fmt.Errorf("the %s runner does not like %v %s", runner, args, with)
			}
			return nil
		},
	}
}

func mustParse(tb testing.TB, src string) *Plan {
	tb.Helper()
	p, err := Parse("test.yaml", []byte(src), testOptions())
	if err != nil {
		tb.Fatalf("definition is refused:\n%v", err)
	}
	return p
}

// Every file of testdata/bad is refused with exactly the problems beside it.
func TestBadDefinitions(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse(filepath.Base(f), src, testOptions())
			var problems Problems
			if !errors.As(err, &problems) || p != nil {
				t.Fatalf("want no plan and Problems, got %v, %v", p, err)
			}
			if !waybill.IsKind(err, waybill.KindInvalid) {
				t.Errorf("kind %s, want invalid", waybill.KindOf(err))
			}
			golden := strings.TrimSuffix(f, ".yaml") + ".problems"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("problems differ (-want +got):\n%s", d)
			}
		})
	}
}

func TestGoodDefinitions(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(filepath.Base(f), src, testOptions()); err != nil {
			t.Errorf("%s is refused:\n%v", f, err)
		}
	}
}

func TestPlanHoldsWhatTheFileSays(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, string(src))
	want := &Plan{
		Name: "nightly-report", Description: "Fetches and publishes the figures of the day.", File: "test.yaml",
		Source: src, Prefix: "___", Priority: 5,
		On: On{HTTP: true, Objects: []ObjectTrigger{
			{Bucket: "inbox", Match: "*.csv", Events: []string{ObjectCreated, ObjectUpdated}}, {Bucket: "raw", Match: "**", Events: []string{ObjectCreated, ObjectUpdated}},
		}},
		Params: []Param{
			{Name: "region", Type: "string", Default: waybill.Value(`"eu"`), Enum: []waybill.Value{waybill.Value(`"eu"`), waybill.Value(`"us"`)}, Description: "where"},
			{Name: "limit", Type: "int", Required: true},
			{Name: "ratio", Type: "number"},
			{Name: "dry", Type: "bool", Default: waybill.Value(`false`)},
			{Name: "extra", Type: "json", Default: waybill.Value(`{"a":[1,2.5,true,null]}`)},
		},
		Vars: []Var{{Name: "___DAY"}, {Name: "___KEY"}, {Name: "LIST"}, {Name: "plain"}, {Name: "number"}},
		Steps: []*Step{
			{Name: "fetch", Description: "gets it", InheritAll: true, Index: 0, Runner: "process", Timeout: 10 * time.Minute, Heartbeat: 30 * time.Second,
				Retry: Retry{Max: 3, Backoff: 2 * time.Second, MaxBackoff: time.Minute}, Callback: "required", Line: 28, Column: 5,
				Outputs: []Output{{Name: "rows", Type: "int"}, {Name: "report", Type: "file", File: "out/report.csv"}, {Name: "note", Type: "string", Optional: true}}},
			{Name: "load-it", InheritAll: true, Index: 1, Needs: []string{"fetch"}, Runner: "sim", Timeout: 2 * time.Hour,
				Retry: Retry{Max: 1, Backoff: time.Second, MaxBackoff: time.Minute}, Callback: "optional", Line: 39, Column: 5, Outputs: []Output{{Name: "size", Type: "int"}}},
			{Name: "tell", InheritAll: true, Index: 2, Needs: []string{"load-it", "fetch"}, Runner: "process", Timeout: 2 * time.Hour,
				Retry: Retry{Max: 1, Backoff: time.Second, MaxBackoff: time.Minute}, Callback: "optional", Line: 44, Column: 5},
		},
	}
	opts := []cmp.Option{cmpopts.IgnoreUnexported(Trigger{}, Plan{}, Step{}, Var{}, Output{}), cmpopts.IgnoreFields(Plan{}, "Hash", "Warnings"), cmpopts.EquateEmpty()}
	if d := cmp.Diff(want, p, opts...); d != "" {
		t.Errorf("plan differs (-want +got):\n%s", d)
	}
	if p.Step("tell") != p.Steps[2] || p.Step("nobody") != nil {
		t.Error("Step does not find steps by name")
	}
}

func TestDefaultsOfADefinition(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nsteps:\n  - {name: a, run: [x]}\n  - {name: b, run: [x]}\n  - {name: c, run: [x]}\n")
	s := p.Steps[2]
	if !p.On.HTTP || p.Prefix != "___" || s.Timeout != time.Hour || s.Runner != "process" || s.Callback != "optional" || s.Retry.Max != 0 {
		t.Errorf("plan %+v, step %+v", p, s)
	}
	if !cmp.Equal(s.Needs, []string{"b"}) || p.Steps[0].Needs != nil {
		t.Errorf("a list without needs is not a chain: %v %v", p.Steps[0].Needs, s.Needs)
	}
	p = mustParse(t, "name: x\non: {object: {bucket: in}}\nsteps:\n  - {name: a, run: [x]}\n  - {name: b, run: [x], needs: [a]}\n  - {name: c, run: [x]}\n")
	if p.On.HTTP || p.Steps[2].Needs != nil {
		t.Errorf("one needs must free all steps without: %v; http %v", p.Steps[2].Needs, p.On.HTTP)
	}
}

func TestHashNamesTheVersion(t *testing.T) {
	t.Parallel()
	const src = "name: x\nvars: {a: \"${env:NAME}\"}\nsteps: [{name: a, run: [x]}]\n"
	with := func(v string) *Plan {
		p, err := Parse("x", []byte(src), Options{Env: func(string) (string, bool) { return v, true }})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if with("1").Hash != with("1").Hash || with("1").Hash == with("2").Hash || with("1").Env["NAME"] != "1" {
		t.Error("the hash does not follow the values of the environment")
	}
	plain := mustParse(t, "name: x\nsteps: [{name: a, run: [x]}]\n")
	if want := fmt.Sprintf("%x", sha256.Sum256(plain.Source)); plain.Hash != want {
		t.Errorf("hash %s, want that of the source, %s", plain.Hash, want)
	}
}

func TestEnvironmentIsRefusedThroughTheAPI(t *testing.T) {
	t.Parallel()
	_, err := Parse("api", []byte("name: x\ndescription: ${env:HOME}\nsteps: [{name: a, run: [x]}]\n"), Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "api:2:14: ${env:HOME} can only be used in files") {
		t.Error(err)
	}
}

// What the environment inserts is never an expression.
func TestEnvironmentIsNotInterpreted(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nsteps: [{name: a, run: [x, \"${env:EVIL}-${{ 1 }}\"]}]\n")
	b, err := p.Steps[0].Build(Scope{})
	if err != nil || b.Args[1] != "${{ 1 + 1 }}-1" {
		t.Errorf("%q, %v", b.Args, err)
	}
}

func TestLoadReportsAllFiles(t *testing.T) {
	t.Parallel()
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	fsys := fstest.MapFS{
		"pipelines/a.yaml":    file("name: one\nsteps: [{name: a, run: [x]}]\n"),
		"pipelines/b.yml":     file("name: two\nstpes: []\n"),
		"pipelines/c.yaml":    file("# c\nname: one\nsteps: [{name: a, run: [x]}]\n"),
		"pipelines/d.yaml":    file("name: three\nsteps: [{name: a, run: [x]}]\n"),
		"pipelines/big.yaml":  file(strings.Repeat("#", 1<<20+1)),
		"pipelines/notes.txt": file("not yaml"),
		"pipelines/.e.yaml":   file("hidden"),
	}
	plans, err := Load(fsys, Options{})
	var got []string
	for _, p := range plans {
		got = append(got, p.Name)
	}
	if d := cmp.Diff([]string{"one", "three"}, got); d != "" {
		t.Error(d)
	}
	want := `pipelines/b.yml:1:1: the pipeline has no steps (add steps: with at least one step)
pipelines/b.yml:2:1: unknown key stpes in the pipeline (did you mean steps?)
pipelines/big.yaml: the file has 1048577 bytes; at most 1048576 (1 MiB) are allowed
pipelines/c.yaml:2:7: pipeline one is defined in pipelines/a.yaml too`
	if err == nil || err.Error() != want {
		t.Errorf("problems:\n%v\nwant:\n%s", err, want)
	}
	if plans, err := Load(fstest.MapFS{}, Options{}); plans != nil || err != nil {
		t.Error("a folder without pipelines:", plans, err)
	}
}

// A hostile file is refused or read within a bounded time.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	size := 1 << 20
	if raceEnabled {
		size /= 8 // for time only
	}
	fill := func(head, unit string) string { return head + strings.Repeat(unit, (size-len(head)-2)/len(unit)) }
	many := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < size-40; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	cases := map[string]string{
		"flow lists":      fill("a: ", "["),
		"flow maps":       fill("a: ", "{a: "),
		"block lists":     fill("a:\n", "- "),
		"many keys":       many("k%d: v\n"),
		"nested keys":     many("k%d:\n a: b\n"),
		"block scalars":   many("k%d: |\n"),
		"explicit keys":   fill("", "? a\n"),
		"tags":            fill("a: ", "!a "),
		"anchors":         fill("a: ", "&a "),
		"anchor lines":    fill("a:\n", " &a\n"),
		"documents":       fill("", "---\n"),
		"long line":       fill("a: ", "x"),
		"quotes":          fill("a: '", "''") + "'\n",
		"expressions":     fill("name: x\nvars:\n  a: \"", "${{ 1 }}") + "\"\n",
		"bad expressions": fill("name: x\nvars:\n  a: [", "'${{ x }}',") + "1]\n",
		"one long line":   "name: x\nvars:\n  é: [" + strings.Repeat("é", size/8) + ", &a '${{ 1 }}'" + strings.Repeat(", *a", size/8) + "]\n",
		"unclosed":        fill("name: x\nvars:\n  a: ", "${{"),
		"dollars":         fill("name: x\nvars:\n  a: ", "$"),
		"many problems":   fill("name: x\nsteps:\n", "- {name: A}\n"),
		"list of blocks":  fill("a:\n", "- |\n"),
	}
	for name, src := range cases {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			p, err := Parse("x.yaml", []byte(src), testOptions())
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("took %v", took)
			} else {
				t.Logf("took %v: %.150v", took, err)
			}
			if p != nil || err == nil {
				t.Error("was accepted")
			}
			var ps Problems
			if errors.As(err, &ps) && len(ps) > maxProblems+1 {
				t.Errorf("%d problems", len(ps))
			}
		})
	}
}

func TestTooManySteps(t *testing.T) {
	t.Parallel()
	list := func(n int) string { return "name: x\nsteps:\n" + strings.Repeat("  - name: s%\n    run: [x]\n", n) }
	number := func(s string) string {
		var b strings.Builder
		for i, part := range strings.Split(s, "%") {
			if i > 0 {
				fmt.Fprint(&b, i)
			}
			b.WriteString(part)
		}
		return b.String()
	}
	if p := mustParse(t, number(list(MaxSteps))); len(p.Steps) != MaxSteps || p.Steps[MaxSteps-1].Needs[0] != "s9999" {
		t.Error("10,000 steps are not read as a chain")
	}
	_, err := Parse("x", []byte(number(list(MaxSteps+1))), Options{})
	if err == nil || !strings.Contains(err.Error(), "at most 10000") {
		t.Error(err)
	}
}

// Whatever needs are written, a plan comes out exactly when they hold no cycle,
// and its order puts every step after those it needs.
func TestNeedsAreAcyclic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "steps")
		needs := make([][]int, n)
		var b strings.Builder
		b.WriteString("name: x\nsteps:\n")
		for i := range n {
			needs[i] = rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 0, 3, rapid.ID[int]).Draw(t, "needs")
			var names []string
			for _, k := range needs[i] {
				names = append(names, fmt.Sprintf("s%d", k))
			}
			fmt.Fprintf(&b, "  - {name: s%d, run: [x], needs: [%s]}\n", i, strings.Join(names, ", "))
		}
		// Reference: take away steps whose needs are all gone.
		gone, left := make([]bool, n), n
		for again := true; again; {
			again = false
			for i := range n {
				if gone[i] {
					continue
				}
				free := true
				for _, k := range needs[i] {
					free = free && gone[k]
				}
				if free {
					gone[i], again = true, true
					left--
				}
			}
		}
		p, err := Parse("x", []byte(b.String()), Options{})
		if (err == nil) != (left == 0) {
			t.Fatalf("acyclic %v, but: %v\n%s", left == 0, err, b.String())
		}
		if p == nil {
			return
		}
		done := map[string]bool{}
		for _, s := range p.order() {
			for _, k := range s.Needs {
				if !done[k] {
					t.Fatalf("%s comes before %s", s.Name, k)
				}
			}
			done[s.Name] = true
		}
		if len(done) != n {
			t.Fatalf("order holds %d of %d steps", len(done), n)
		}
	})
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.yaml")
	for _, name := range files {
		if src, err := os.ReadFile(name); err == nil {
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := Parse("fuzz.yaml", src, testOptions())
		if (p == nil) == (err == nil) {
			t.Fatal("want a plan or problems")
		}
		var ps Problems
		if err != nil && !errors.As(err, &ps) {
			t.Fatalf("%T is not Problems", err)
		}
		lines := strings.Count(string(src), "\n") + 1
		for _, x := range ps {
			if x.Line < 0 || x.Line > lines || x.Line > 0 && x.Column < 1 || x.Msg == "" {
				t.Fatalf("problem at an impossible place: %+v", x)
			}
		}
		if p == nil {
			return
		}
		if len(p.order()) != len(p.Steps) {
			t.Fatal("needs have a cycle")
		}
		for _, s := range p.Steps {
			_, err := s.Build(Scope{})
			if err != nil && !waybill.IsKind(err, waybill.KindInvalid) {
				t.Fatalf("Build: %v", err)
			}
		}
	})
}

func BenchmarkParse500Steps(b *testing.B) {
	var s strings.Builder
	s.WriteString("name: bench\nvars: {___DAY: \"${{ format(event.time, '2006-01-02') }}\"}\nsteps:\n")
	for i := range 500 {
		fmt.Fprintf(&s, "  - name: step-%d\n    run: [\"./run.sh\", \"${{ vars.___DAY }}\"", i)
		if i > 0 {
			fmt.Fprintf(&s, ", \"${{ steps.step-%d.outputs.rows }}\", \"of ${{ steps.step-%d.outputs.rows + %d }}\"", i-1, i/2, i)
		}
		s.WriteString("]\n    timeout: 10m\n    retry: {max: 3, backoff: 2s}\n    outputs: {rows: int}\n")
	}
	src := []byte(s.String())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("bench.yaml", src, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
