package pipeline

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
)

func vars(tb testing.TB, src string) waybill.Vars {
	tb.Helper()
	var v waybill.Vars
	if err := json.Unmarshal([]byte(src), &v); err != nil {
		tb.Fatal(err)
	}
	return v
}

func text(tb testing.TB, v any) string {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func testScope(tb testing.TB) Scope {
	return Scope{
		Event: map[string]any{"id": "e1", "type": "object", "time": "2024-03-01T10:20:30Z", "data": json.RawMessage(`{"n":[1,2.5,"x"]}`),
			"object": map[string]any{"bucket": "inbox", "key": "a/b.csv", "size": int64(5)}},
		Run:    map[string]any{"id": "r1", "pipeline": "p", "version": "v"},
		Params: vars(tb, `{"region":"eu","limit":3,"list":["b","a"]}`),
		Vars:   vars(tb, `{"___Day":"2024-03-01","___Num":12,"___Json":{"a":{"b":[1,true,null]}},"___Big":9007199254740993}`),
		Steps: map[string]StepResult{
			"fetch":  {Status: waybill.StatusSucceeded, Outputs: vars(tb, `{"rows":42,"note":"hi"}`)},
			"load-1": {Status: waybill.StatusFailed, ExitCode: 3, Outputs: vars(tb, `{"rows":1}`)},
		},
	}
}

// one evaluates a text as an environment value and as a part of "with".
func one(tb testing.TB, source string) (asText, asJSON string, err error) {
	tb.Helper()
	quoted := text(tb, source)
	p, err := Parse("t.yaml", []byte("name: t\nparams: {region: string, limit: int, list: json}\nsteps:\n"+
		"  - {name: fetch, run: [x], outputs: {rows: int, note: string}}\n"+
		"  - {name: load-1, run: [x], outputs: {rows: int}}\n"+
		"  - name: last\n    run: [x]\n    env: {V: "+quoted+"}\n    with: {v: "+quoted+"}\n"), Options{})
	if err != nil {
		return "", "", err
	}
	b, err := p.Step("last").Build(testScope(tb))
	if err != nil {
		return "", "", err
	}
	return strings.TrimPrefix(b.Env[0], "V="), strings.TrimSuffix(strings.TrimPrefix(string(b.With), `{"v":`), "}"), nil
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, text, json string }{
		{"plain $ text $x {{ }} }}", "plain $ text $x {{ }} }}", `"plain $ text $x {{ }} }}"`},
		{"", "", `""`},
		{"$${{ x }} $${env:X} $${secret:Y} $$ $$1", "${{ x }} ${env:X} ${secret:Y} $$ $$1", `"${{ x }} ${env:X} ${secret:Y} $$ $$1"`},
		{"${{ 1 + 2 }}", "3", `3`},
		{"<${{ 1 + 2 }}|${{ 'a' }}>", "<3|a>", `"<3|a>"`},
		{"${{ vars.___day }}", "2024-03-01", `"2024-03-01"`},
		{"${{ vars['___DAY'] }}", "2024-03-01", `"2024-03-01"`},
		{"${{ vars.___num }}", "12", `12`},
		{"${{ vars.___Big }}", "9007199254740993", `9007199254740993`},
		{"${{ vars.___json.a.b[1] }}", "true", `true`},
		{"${{ vars.___json }}", `{"a":{"b":[1,true,null]}}`, `{"a":{"b":[1,true,null]}}`},
		{"${{ vars.___json.a.b[2] }}", "", `null`},
		{"${{ has(vars.___none) }} ${{ has(vars.___DAY) }}", "false true", `"false true"`},
		{"${{ default(vars.___none, 'x') }}", "x", `"x"`},
		{"${{ default(vars.___day, 'x') }}", "2024-03-01", `"2024-03-01"`},
		{"${{ default(vars.___json.q.r, 7) }}", "7", `7`},
		{"${{ params.REGION + string(params.limit) }}", "eu3", `"eu3"`},
		{"${{ params.list.map(x, x.upperAscii()).join('-') }}", "B-A", `"B-A"`},
		{"${{ steps.fetch.outputs.ROWS > 41 && steps.load-1.status == 'failed' }}", "true", `true`},
		{"${{ steps.load-1.exit_code }}", "3", `3`},
		{"${{ steps['load-1'].outputs.rows - 1 }}", "0", `0`},
		{"${{ steps.load-1.outputs.rows-1 }}", "0", `0`},
		{"${{ json(steps.fetch.outputs) }}", `{"note":"hi","rows":42}`, `"{\"note\":\"hi\",\"rows\":42}"`},
		{"${{ steps.fetch.outputs.size() }}", "2", `2`},
		{"${{ format(event.time, '2006/01/02 15h') }}", "2024/03/01 10h", `"2024/03/01 10h"`},
		{"${{ format('2020-05-06T00:00:00+02:00', 'Jan 2') }}", "May 6", `"May 6"`},
		{"${{ event.time }}", "2024-03-01T10:20:30Z", `"2024-03-01T10:20:30Z"`},
		{"${{ event.object.key.split('/')[1] }}", "b.csv", `"b.csv"`},
		{"${{ event.data.n[1] }}", "2.5", `2.5`},
		{"${{ run.id }}/${{ run.version }}", "r1/v", `"r1/v"`},
		{"${{ {'a': {'b': 1}}.a.b }}", "1", `1`},
		{"${{ '}}' + \"}}\" + r'\\' }}", `}}}}\`, `"}}}}\\"`},
		{"${{ 1 > 0.5 ? 'yes' : 'no' }}", "yes", `"yes"`},
		{"${{ ' Ab '.trim().lowerAscii().replace('a', '<&>') }}", "<&>b", `"<&>b"`},
	} {
		gotText, gotJSON, err := one(t, c.in)
		if err != nil || gotText != c.text || gotJSON != c.json {
			t.Errorf("%s\n got %s and %s, %v\nwant %s and %s", c.in, gotText, gotJSON, err, c.text, c.json)
		}
	}
}

func TestFailingExpressionsNameThePlace(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"${{ vars.___none }}":                       "step last: env.V: t.yaml:8:15: ${{ vars.___none }}: there is no value ___none",
		"${{ event.subject }}":                      "there is no value subject",
		"a ${{ 1 / (params.limit - 3) }}":           "t.yaml:8:17: ${{ 1 / (params.limit - 3) }}: division by zero",
		"${{ vars.___num + 'x' }}":                  "no such overload",
		"${{ default(1 / (params.limit - 3), 1) }}": "division by zero",
		"${{ format('x', '2006') }}":                `format: "x" is not a time`,
		"${{ 1.0 / 0.0 }}":                          "not a finite number",
		"${{ {1: 2} }}":                             "a key of an object must be text",
		"${{ type(1) }}":                            "cannot be used",
		"${{ vars.___day + '\\u0000' }}":            "NUL",
		"${{ [1,2,3,4,5,6,7,8,9].map(a,[1,2,3,4,5,6,7,8,9].map(b,[1,2,3,4,5,6,7,8,9].map(c,[1,2,3,4,5,6,7,8,9].map(d,[1,2,3,4,5,6,7,8,9].map(e,a+b+c+d+e))))) }}": "too much work",
	} {
		start := time.Now()
		_, _, err := one(t, in)
		if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %v", in, took)
		}
	}
}

// Text that doubles with every nesting stays bounded.
func TestResultsAreBounded(t *testing.T) {
	t.Parallel()
	big := strings.Repeat(`\`, 1<<18)
	p := mustParse(t, "name: x\nsteps:\n  - name: a\n    run: [x, \"${{ json(json(json(json(vars.___X)))) }}\"]\n  - name: b\n    run: [x, \""+
		strings.Repeat("${{ vars.___X }}", 8)+"\"]\n")
	var v waybill.Vars
	v.Set("___X", waybill.StringValue(big))
	for _, s := range p.Steps {
		if _, err := s.Build(Scope{Vars: v}); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: %.200v", s.Name, err)
		}
	}
}

func TestInitialVars(t *testing.T) {
	t.Parallel()
	p := mustParse(t, `
name: x
params: {region: string}
vars:
  ___A: "${{ params.region }}-a"
  ___B: ${{ vars.___a + vars.___GIVEN }}
  list: [1, "${{ event.id }}", {k: true}]
  ___Name: me
steps: [{name: a, run: [x]}]
`)
	sc := testScope(t)
	sc.Vars = vars(t, `{"___given":"!","___NAME":"you"}`)
	got, err := p.InitialVars(sc)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"___A":"eu-a","___B":"eu-a!","___given":"!","___Name":"you","list":[1,"e1",{"k":true}]}`
	if d := cmp.Diff(want, text(t, got)); d != "" {
		t.Error(d)
	}
	sc.Vars = vars(t, `{"lits":1,"a b":2}`)
	_, err = p.InitialVars(sc)
	if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "did you mean list?") || !strings.Contains(err.Error(), `"a b"`) {
		t.Error(err)
	}
	sc.Vars = waybill.Vars{}
	if _, err = p.InitialVars(sc); err == nil || !strings.Contains(err.Error(), "vars.___B: test.yaml:6:9") {
		t.Error(err)
	}
}

func TestAnotherPrefix(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nprefix: X_\nsteps: [{name: a, run: [x, \"${{ vars.x_any }}\"]}]\n")
	b, err := p.Steps[0].Build(Scope{Vars: vars(t, `{"X_ANY":"1"}`)})
	if err != nil || b.Args[1] != "1" {
		t.Error(b, err)
	}
	if _, err := Parse("x", []byte("name: x\nprefix: X_\nsteps: [{name: a, run: [x, \"${{ vars.___any }}\"]}]\n"), Options{}); err == nil {
		t.Error("the default prefix still counts")
	}
}

func TestBindParams(t *testing.T) {
	t.Parallel()
	p := mustParse(t, `
name: x
params:
  region: {type: string, default: eu, enum: [eu, us]}
  limit: {type: int, required: true}
  dry: bool
  data: json
steps: [{name: a, run: [x]}]
`)
	got, err := p.BindParams(map[string]waybill.Value{"LIMIT": waybill.Value(`"12"`), "data": waybill.Value(`{"a": 1}`), "dry": waybill.Value(`null`)})
	if want := `{"data":{"a": 1},"limit":12,"region":"eu"}`; err != nil || text(t, got) != `{"data":{"a":1},"limit":12,"region":"eu"}` {
		t.Errorf("got %s, %v, want %s", text(t, got), err, want)
	}
	_, err = p.BindParams(map[string]waybill.Value{"regoin": waybill.Value(`1`), "region": waybill.Value(`"uss"`), "dry": waybill.Value(`"perhaps"`)})
	for _, want := range []string{"there is no parameter regoin (did you mean region?)", "parameter limit is required",
		"parameter region: uss is not one of eu, us (did you mean us?)", `parameter dry: "perhaps" is not of type bool`} {
		if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestBindOutputs(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nsteps:\n  - name: a\n    run: [x]\n    outputs: {rows: int, ok: {type: bool, optional: true}, f: {file: o.csv}, ___R: number}\n")
	s := p.Steps[0]
	out, run, err := s.BindOutputs(vars(t, `{"ROWS":"12","extra":[1],"___X":"y","___r":"1.5"}`), "___")
	if err != nil || text(t, out) != `{"___R":1.5,"extra":[1],"rows":12}` || text(t, run) != `{"___R":1.5,"___X":"y"}` {
		t.Errorf("outputs %s, run %s, %v", text(t, out), text(t, run), err)
	}
	_, _, err = s.BindOutputs(vars(t, `{"ok":"maybe","f":"not a file"}`), "___")
	for _, want := range []string{"output rows of type int was not returned", "output ___R of type number was not returned",
		`output ok: "maybe" is not of type bool`, "output f:"} {
		if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

// Settings that hold expressions are checked by their runner when they are known.
func TestRunnerChecksEvaluatedSettings(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nsteps: [{name: a, runner: sim, with: {sleep: \"${{ vars.___X }}\"}}]\n")
	if _, err := p.Steps[0].Build(Scope{Vars: vars(t, `{"___X":"1s"}`)}); err != nil {
		t.Error(err)
	}
	_, err := p.Steps[0].Build(Scope{Vars: vars(t, `{"___X":"banana"}`)})
	if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "step a (test.yaml:2:9): the sim runner does not like") {
		t.Error(err)
	}
}

func TestPlansAreSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nsteps: [{name: a, run: [x, \"${{ vars.___X }}\", \"${{ vars.___X + '1' }}\"]}]\n")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b, err := p.Steps[0].Build(Scope{Vars: vars(t, `{"___X":"v"}`)})
			if err != nil || !cmp.Equal(b.Args, []string{"x", "v", "v1"}) {
				t.Error(b, err)
			}
		})
	}
	wg.Wait()
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	r := Retry{Max: 9, Backoff: 2 * time.Second, MaxBackoff: 10 * time.Second}
	for failures, want := range map[int]time.Duration{0: 2 * time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 4: 10 * time.Second, 1 << 40: 10 * time.Second} {
		if got := r.Delay(failures); got != want {
			t.Errorf("after %d failures: %v, want %v", failures, got, want)
		}
	}
	if got := (Retry{Backoff: time.Second}).Delay(1000); got != time.Hour {
		t.Error("default cap:", got)
	}
	if got := (Retry{}).Delay(5); got != 0 {
		t.Error("no backoff:", got)
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{"90s": 90 * time.Second, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
		"": 0, "0s": 0, "0d": 0, "-1s": 0, "1d-1h": 0, "d": 0, "1": 0, "99999999d": 0, "40000d": 0, "5 m": 0} {
		got, err := parseDuration(in)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

func TestObjectTriggers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, key string
		want         bool
	}{
		{"", "any/thing", true}, {"**", "any/thing", true}, {"*.csv", "a.csv", true}, {"*.csv", "a/b.csv", false}, {"*.csv", "a.csv.gz", false},
		{"**/*.csv", "a.csv", true}, {"**/*.csv", "x/y/a.csv", true}, {"**.csv", "x/y/a.csv", true}, {"**/x", "foox", false}, {"**/x", "foo/x", true},
		{"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b", true}, {"a/**/b", "ab", false}, {"a/**", "a/", true}, {"a/**", "b/a/", false},
		{"?.csv", "a.csv", true}, {"?.csv", "/.csv", false}, {"in/*/2024-??.json", "in/eu/2024-03.json", true}, {"a[b]", "a[b]", true},
		{"*", "", true}, {"a", "", false}, {strings.Repeat("*a", 200), strings.Repeat("a", 1000) + "b", false},
	} {
		if got := (ObjectTrigger{Bucket: "in", Match: c.pattern}).Matches("in", c.key); got != c.want {
			t.Errorf("%.20q matches %.20q: %v", c.pattern, c.key, got)
		}
	}
	if (ObjectTrigger{Bucket: "in"}).Matches("out", "x") {
		t.Error("another bucket matches")
	}
}

func TestGraph(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "name: x\nsteps:\n  - {name: a, run: [x], needs: []}\n  - {name: b-1, run: [x], needs: [a]}\n  - {name: end, run: [x], needs: [a, b-1]}\n  - {name: d, run: [x]}\n")
	for format, want := range map[string]string{
		"text":    "x\n  a\n  d\n    b-1  <- a\n      end  <- a, b-1\n",
		"dot":     "digraph \"x\" {\n  rankdir=LR;\n  node [shape=box];\n  \"a\";\n  \"b-1\";\n  \"end\";\n  \"d\";\n  \"a\" -> \"b-1\";\n  \"a\" -> \"end\";\n  \"b-1\" -> \"end\";\n}\n",
		"mermaid": "flowchart LR\n  s0[\"a\"]\n  s1[\"b-1\"]\n  s2[\"end\"]\n  s3[\"d\"]\n  s0 --> s1\n  s0 --> s2\n  s1 --> s2\n",
	} {
		if got, err := p.Graph(format); err != nil || got != want {
			t.Errorf("%s: %v\n%s", format, err, cmp.Diff(want, got))
		}
	}
	if _, err := p.Graph("png"); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Error(err)
	}
}
