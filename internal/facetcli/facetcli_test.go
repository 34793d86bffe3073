package facetcli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const films = `{"id":1,"title":"The long way home","year":1999,"genre":["drama","war"],"length":12.5,"seen":true,"made":"2020-01-02"}
{"id":2,"title":"A short way home","year":2001,"genre":["drama"],"length":9,"seen":false,"made":"2020-01-05T00:00:00Z","maker":{"name":"x","city":"Oslo"}}

{"id":3,"title":"Nothing at all here","year":2001,"genre":["comedy"],"maker":{"name":"y","city":"Oslo"},"age":{"gte":1,"lte":5}}
`

type result struct {
	out, err string
	failure  error
}

// waybill runs a command line as the program does.
func run(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	root := &cobra.Command{Use: "waybill", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().StringP("output", "o", "text", "")
	root.AddCommand(Command(Deps{Getenv: func(string) string { return "" }, Width: func(io.Writer) int { return 0 }}))
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(append([]string{"facet"}, args...))
	err := root.ExecuteContext(context.Background())
	return result{out.String(), errOut.String(), err}
}

func must(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	r := run(t, stdin, args...)
	if r.failure != nil {
		t.Fatalf("facet %s: %v", strings.Join(args, " "), r.failure)
	}
	return r.out
}

func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in:\n%s", p, text)
		}
	}
}

// fails expects an error with these words, of the hint too.
func fails(t testing.TB, r result, parts ...string) {
	t.Helper()
	if r.failure == nil {
		t.Fatalf("it worked: %s", r.out)
	}
	text := r.failure.Error()
	var e *waybill.Error
	if errors.As(r.failure, &e) {
		text += "\n" + e.Hint
	}
	contains(t, text, parts...)
}

func indexed(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "films")
	must(t, films, "build", dir)
	return dir
}

func TestBuildAndQuery(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	out := must(t, "", "query", dir, "--filter", "genre=drama", "--facets=genre,year", "--sum", "length")
	contains(t, out, "2 documents", "21.5  sum of length", "* drama   2", "  comedy  1", "  war     1", "  1999  1")
	if strings.Contains(out, "* war") {
		t.Errorf("war was not chosen:\n%s", out)
	}
	for filter, want := range map[string]string{
		"title^=sho": "1 document ", "year>=2000": "2 documents", "year!=2001": "1 document ", "maker.city=Oslo": "2 documents", "maker.city=null": "1 document ",
		"age contains 2..3": "1 document ", "age within 2..": "0 documents", "made<=2020-01-03": "1 document ", "seen=true": "1 document ", "_id=3": "1 document ", "length=9": "1 document ",
	} {
		if out := must(t, "", "query", dir, "--filter", filter); !strings.HasPrefix(out, want) {
			t.Errorf("%s found %q, want %s", filter, strings.SplitN(out, "\n", 2)[0], want)
		}
	}
	// Two values of a field are alternatives, two fields are not.
	contains(t, must(t, "", "query", dir, "--filter", "genre=war", "--filter", "genre=comedy", "--filter", "year=2001"), "1 document ")
}

func TestPagesGoOnWhereTheyAreTold(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	var seen []string
	args := []string{"query", dir, "--sort", "length:desc", "--size", "1", "-o", "json"}
	for range 5 {
		var page struct {
			Hits []struct{ ID string }
			Last json.RawMessage
			More bool
		}
		if err := json.Unmarshal([]byte(must(t, "", args...)), &page); err != nil {
			t.Fatal(err)
		}
		for _, h := range page.Hits {
			seen = append(seen, h.ID)
		}
		if !page.More {
			break
		}
		var key bytes.Buffer
		if err := json.Compact(&key, page.Last); err != nil {
			t.Fatal(err)
		}
		args = append(args[:8:8], "--after", key.String())
	}
	// The longest first, the one without a length last.
	if got := strings.Join(seen, " "); got != "1 2 3" {
		t.Errorf("the pages hold %s, want 1 2 3", got)
	}
}

func TestTheGuessedSchemaCanBeEditedAndGiven(t *testing.T) {
	t.Parallel()
	text := must(t, films, "schema")
	var s struct {
		Fields []struct {
			Name, Kind   string
			Multi, Words bool
		}
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, f := range s.Fields {
		kinds[f.Name] = f.Kind
		if f.Multi != (f.Name == "genre") || f.Words != (f.Name == "title") {
			t.Errorf("%+v", f)
		}
	}
	for name, kind := range map[string]string{"title": "keyword", "year": "int", "length": "number", "seen": "bool", "made": "date", "maker.city": "keyword", "age": "range"} {
		if kinds[name] != kind {
			t.Errorf("%s was taken for %q, want %s", name, kinds[name], kind)
		}
	}
	file := filepath.Join(t.TempDir(), "schema")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, `"year",`+"\n      "+`"kind": "int"`, `"year",`+"\n      "+`"kind": "keyword"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	must(t, films, "build", dir, "--schema", file)
	contains(t, must(t, "", "query", dir, "--filter", "year^=200"), "2 documents")
	// Another schema for an index that is there is refused.
	if err := os.WriteFile(file, []byte(`{"fields":[{"name":"year","kind":"int"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, run(t, films, "build", dir, "--schema", file), "schema")
	if err := os.WriteFile(file, []byte(`{"fields":[{"name":"year","kind":"integer"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, run(t, films, "build", dir, "--schema", file), "integer", "int, number")
}

func TestDocumentsAreReplacedAndRemoved(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	contains(t, must(t, `{"id":2,"title":"other","year":2001}`, "build", dir), "1 document indexed", "holds 3 documents")
	contains(t, must(t, "", "query", dir, "--filter", "genre=drama"), "1 document ")
	contains(t, must(t, `{"id":"2"}`, "build", dir, "--delete"), "holds 2 documents")
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	fails(t, run(t, "{\"id\":9,\"year\":1}\n{\"id\":10,\"year\":\"x\"}\n", "build", dir), "standard input:2", "year", "--skip-bad")
	// A build that fails changes nothing.
	contains(t, must(t, "", "query", dir), "3 documents")
	r := run(t, "{\"id\":9,\"year\":1}\nnonsense\n", "build", dir, "--skip-bad")
	contains(t, r.out+r.err, "1 document indexed", "passed over 1 line")
	fails(t, run(t, `{"year":1}`, "build", dir), "without an id", "--id NAME")
	fails(t, run(t, "[1]\n", "build", filepath.Join(t.TempDir(), "new")), "standard input:1", "no JSON object")
	fails(t, run(t, "", "build", filepath.Join(t.TempDir(), "new")), "no field can be told")
}

func TestMistakesInQueries(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	fails(t, run(t, "", "query", dir, "--filter", "gerne=drama"), `no field "gerne"`, "genre")
	fails(t, run(t, "", "query", dir, "--filter", "drama"), "not understood", "FIELD=VALUE")
	fails(t, run(t, "", "query", dir, "--filter", "year=new"), "year", "kind int")
	fails(t, run(t, "", "query", dir, "--size", "5000"), "page too large", "1000")
	fails(t, run(t, "", "query", dir, "--after", "nonsense"), "a key is [value, id]")
	fails(t, run(t, "", "query", filepath.Join(t.TempDir(), "nothing")), "there is no index", "waybill facet build")
	r := run(t, "", "query", dir, "--filter", "genre=Dram")
	contains(t, r.out+r.err, "0 documents", "there is drama")
	// A folder with other files is not made an index.
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, run(t, films, "build", other), "thesis.txt")
}

func TestVerifyNamesADamagedFile(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	contains(t, must(t, "", "verify", dir), "is as it was written")
	files, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, "", "verify", dir)
	fails(t, r, "is damaged")
	contains(t, r.out, filepath.Base(files[0]))
	r = run(t, "", "verify", dir, "-o", "json")
	contains(t, r.out, `"ok": false`, filepath.Base(files[0]))
}

func TestStatAndExplain(t *testing.T) {
	t.Parallel()
	dir := indexed(t)
	contains(t, must(t, "", "stat", dir), "3 documents", "genre", "keyword, multi", "in 1 segment")
	contains(t, must(t, "", "stat", dir, "-o", "json"), `"docs": 3`, `"distinct": 3`, `"schema"`)
	contains(t, must(t, "", "query", dir, "--filter", "genre=drama", "--explain"), "filter", "genre")
	contains(t, must(t, "", "query", dir, "--fields", "year,genre"), "_id  year  genre", "1    1999  drama, war")
}

func TestAnIndexCanBeInPostgreSQL(t *testing.T) {
	t.Parallel()
	url := pgtest.DSN(t) + "#films"
	contains(t, must(t, films, "build", url), "3 documents indexed")
	contains(t, must(t, "", "query", url, "--facets=genre"), "drama   2")
	contains(t, must(t, "", "stat", url), "postgres, sequence 1")
	fails(t, run(t, "", "query", strings.TrimSuffix(url, "#films")), "does not name an index")
	fails(t, run(t, "", "query", pgtest.DSN(t)+"#nothing"), "there is no such index")
}

func TestTextOfOthersIsSafeToShow(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "x")
	must(t, `{"id":1,"k":"\u001b[31mred"}`+"\n"+`{"id":2,"k":"b"}`, "build", dir)
	if out := must(t, "", "query", dir, "--facets=k"); strings.ContainsRune(out, '\x1b') {
		t.Errorf("an escape reaches the terminal: %q", out)
	}
}

func TestBars(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, most, room int
		want          string
	}{{8, 8, 2, "██"}, {4, 8, 2, "█"}, {1, 1000, 10, "▏"}, {0, 5, 10, ""}, {3, 8, 2, "▊"}} {
		if got := bar(c.n, c.most, c.room); got != c.want {
			t.Errorf("bar(%d of %d in %d) is %q, want %q", c.n, c.most, c.room, got, c.want)
		}
	}
}

func TestConformanceOfTheEngines(t *testing.T) {
	fails(t, run(t, "", "conformance", "--engine", "lucene"), `engine "lucene"`)
	fails(t, run(t, "", "conformance", "--engine", "postgres"), "needs --url")
}
