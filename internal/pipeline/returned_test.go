package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/waybill-run/waybill"
)

func TestParseOutputs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", `{}`},
		{"A=1\nB=x=y=\r\n\n  \nC=\nD= two words ", `{"A":"1","B":"x=y=","C":"","D":" two words "}`},
		{`{"n": 12, "o": {"a": [1, 2]}, "s": "x"}` + "\nlast=1", `{"last":"1","n":12,"o":{"a":[1,2]},"s":"x"}`},
		{"a=1\nA=2\n{\"a\":3}\n", `{"a":3}`},
		{"\ufeffA=é", `{"A":"é"}`},
		{`  {"\u0061b": "\ud83d\ude00"}  `, `{"ab":"\ud83d\ude00"}`},
	} {
		v, err := ParseOutputs(strings.NewReader(c.in))
		if err != nil || text(t, v) != text(t, json.RawMessage(c.want)) {
			t.Errorf("%q: %s, %v, want %s", c.in, text(t, v), err, c.want)
		}
	}
	for in, want := range map[string]string{
		"A=1\nno value\n":                   "line 2: want NAME=value or a JSON object, found no value",
		"A=1\n\nB-C=2":                      `line 3: variable name "B-C"`,
		" A=1":                              `variable name " A"`,
		"=1":                                "empty name",
		"A=1\n{\"a\":1":                     "line 2: not valid JSON: it ends too early",
		"{\"a\":1} x":                       "text after the object",
		"{\"a\":01}":                        "not valid JSON at byte 7",
		"{\"a\":1,\"\\u0061\":2}":           "key a is given twice",
		"{\"a\":{\"b\":1,\"b\":2}}":         "key b is given twice",
		"{\"a b\":1}":                       `variable name "a b"`,
		"A=1\nB=\xff":                       "is not UTF-8 text (line 2)",
		"{\"a\":" + strings.Repeat("[", 70): "nested deeper than 64",
		strings.Repeat("A", 200) + "=1":     "longer than 128",
		"{\"a\":\"x\ty\"}":                  "not valid JSON",
		many(maxReturned+1, func(i int) string { return fmt.Sprintf("v%d=1\n", i) }): "more than 10000 names",
	} {
		if _, err := ParseOutputs(strings.NewReader(in)); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %s", in, err, want)
		}
	}
	if _, err := ParseOutputs(strings.NewReader("A=" + strings.Repeat("x", MaxReturned))); !waybill.IsKind(err, waybill.KindTooLarge) || !strings.Contains(err.Error(), "1 MiB") {
		t.Error(err)
	}
	if _, err := ParseOutputs(strings.NewReader("A=" + strings.Repeat("x", MaxReturned-2))); err != nil {
		t.Error(err)
	}
	if _, err := ParseOutputs(iotest.ErrReader(errors.New("cut"))); !waybill.IsKind(err, waybill.KindMalformed) {
		t.Error(err)
	}
}

func many(n int, f func(int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}

func TestDecodeCallback(t *testing.T) {
	t.Parallel()
	const asJSON, asForm = "application/json; charset=utf-8", "application/x-www-form-urlencoded"
	for _, c := range []struct {
		in, ct string
		status string
		vars   string
		err    string
		msg    string
	}{
		{"", "", "", `{}`, "", ""},
		{"{}", asJSON, "", `{}`, "", ""},
		{`{"status":"failed","error":"E1","message":"no luck","variables":{"rows":3,"___X":{"a": 1}}}`, asJSON, "failed", `{"___X":{"a":1},"rows":3}`, "E1", "no luck"},
		{`{"status":"succeeded","variables":null,"error":null}`, "", "succeeded", `{}`, "", ""},
		{`{"___A":"1","___NextStageFunctionUrl":"http://x","other":{"x":1},"status":5}`, asJSON, "", `{"___A":"1","___NextStageFunctionUrl":"http://x"}`, "", ""},
		{`{"___A":1}`, asForm, "", `{"___A":1}`, "", ""},
		{`{"___A":1}`, "application/vnd.x+json", "", `{"___A":1}`, "", ""},
		{"___A=1+2&___B=%C3%A9&x=y", asForm, "", `{"___A":"1 2","___B":"é"}`, "", ""},
		{"status=failed&message=m", asForm, "failed", `{}`, "", "m"},
	} {
		got, err := DecodeCallback(strings.NewReader(c.in), c.ct)
		if err != nil || got.Status != c.status || text(t, got.Variables) != c.vars || got.Error != c.err || got.Message != c.msg {
			t.Errorf("%s (%s): %+v %s, %v", c.in, c.ct, got, text(t, got.Variables), err)
		}
	}
	for _, c := range []struct{ in, ct, want string }{
		{"[1]", "", "want a JSON object"},
		{"{", "", "ends too early"},
		{`{"status":"done"}`, "", "status done: want succeeded or failed"},
		{`{"status":1}`, "", "status: want text"},
		{`{"variables":[1]}`, "", "variables: want an object"},
		{`{"rows":1}`, "", "unknown key rows"},
		{`{"status":"failed","status":"succeeded"}`, "", "key status is given twice"},
		{`{"variables":{"a":{"b":[{"c":1,"c":2}]}}}`, "", "key c is given twice"},
		{`{"variables":{"a":1,"A":2}}`, "", "given twice, in different case"},
		{`{"___a":1,"___A":2}`, "", "given twice, in different case"},
		{`{"variables":{"a=b":1}}`, "", "variable name"},
		{`{"variables":{"":1}}`, "", "empty name"},
		{`{"___a\n":1}`, "", "variable name"},
		{`{"message":"` + "\xff" + `"}`, "", "UTF-8"},
		{`{"variables":` + strings.Repeat(`{"a":`, 100), "", "deeper than 64"},
		{"a=1&a=2", asForm, "key a is given twice"},
		{"a=%zz", asForm, "well-formed"},
		{"a=%ff", asForm, "well-formed"},
		{"<a/>", "application/xml", "content type application/xml"},
	} {
		if _, err := DecodeCallback(strings.NewReader(c.in), c.ct); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: got %v, want %s", c.in, err, c.want)
		}
	}
	if _, err := DecodeCallback(strings.NewReader(strings.Repeat(" ", MaxReturned+1)), ""); !waybill.IsKind(err, waybill.KindTooLarge) {
		t.Error(err)
	}
	p := mustParse(t, "name: x\nprefix: X_\nsteps: [{name: a, run: [x]}]\n")
	if c, err := p.DecodeCallback(strings.NewReader(`{"X_A":1,"___B":2}`), ""); err != nil || text(t, c.Variables) != `{"X_A":1}` {
		t.Error(c, err)
	}
}

// hostileBodies are 1 MiB each.
func hostileBodies() map[string][2]string {
	const asForm = "application/x-www-form-urlencoded"
	pad := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (MaxReturned-len(head)-len(tail))/len(unit)) + tail
	}
	upTo := func(head string, f func(int) string, tail string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; ; i++ {
			s := f(i)
			if b.Len()+len(s)+len(tail) > MaxReturned {
				return b.String() + tail
			}
			b.WriteString(s)
		}
	}
	return map[string][2]string{
		"deep lists":        {pad(`{"variables":`, "[", ""), ""},
		"deep objects":      {pad(`{"variables":`, `{"a":`, ""), ""},
		"many top keys":     {upTo(`{`, func(i int) string { return fmt.Sprintf(`"___%x":1,`, i) }, `"___z":1}`), ""},
		"many variables":    {upTo(`{"variables":{`, func(i int) string { return fmt.Sprintf(`"v%x":1,`, i) }, `"z":1}}`), ""},
		"many inner keys":   {upTo(`{"variables":{"a":{`, func(i int) string { return fmt.Sprintf(`"%x":1,`, i) }, `"z":1}}}`), ""},
		"escaped keys":      {upTo(`{"variables":{"a":{`, func(i int) string { return fmt.Sprintf(`"\u00%02x%x":1,`, i%64+64, i) }, `"z":1}}}`), ""},
		"many objects":      {pad(`{"variables":{"a":[`, `{"a":1},`, `1]}}`), ""},
		"empty objects":     {pad(`{"variables":{"a":[`, `{},`, `1]}}`), ""},
		"huge key":          {pad(`{"`, "k", `":1}`), ""},
		"huge escaped key":  {pad(`{"`, `\u0041`, `":1}`), ""},
		"huge string":       {pad(`{"message":"`, `\n`, `"}`), ""},
		"huge variable":     {pad(`{"variables":{"a":"`, `\u00e9`, `"}}`), ""},
		"spaces":            {pad(`{"variables":{"a":[1`, " ", `]}}`), ""},
		"numbers":           {pad(`{"variables":{"a":[`, "1,", `1]}}`), ""},
		"long number":       {pad(`{"variables":{"a":`, "1", `}}`), ""},
		"many form names":   {pad("", "a&", "b"), asForm},
		"huge form value":   {pad("___a=", "%41", ""), asForm},
		"many form amp":     {pad("", "&", ""), asForm},
		"10,000 form names": {many(maxReturned, func(i int) string { return fmt.Sprintf("___%d=%%41%%41&", i) }), asForm},
		"10,000 variables":  {`{` + many(maxReturned-1, func(i int) string { return fmt.Sprintf(`"___%d": [1, 2, {"a": %d}],`, i, i) }) + `"___z":1}`, ""},
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A body of any shape costs at most 10 ms of a processor. Not parallel: the
// clock is that of the whole process.
func TestHostileCallbacksAreCheap(t *testing.T) {
	limit, tries := 10*time.Millisecond, 5
	if raceEnabled {
		limit, tries = 40*limit, 1 // instrumented code is that much slower
	}
	for name, c := range hostileBodies() {
		body := []byte(c[0])
		best := time.Hour
		var err error
		for range tries {
			start := cpuTime()
			_, err = DecodeCallback(bytes.NewReader(body), c[1])
			best = min(best, cpuTime()-start)
		}
		t.Logf("%-18s %8d bytes %6.2f ms  %.80v", name, len(body), float64(best.Microseconds())/1000, err)
		if best > limit {
			t.Errorf("%s took %v", name, best)
		}
	}
}

func FuzzParseOutputs(f *testing.F) {
	f.Add([]byte("A=1\nB=x=y\r\n{\"a\": [1, {\"b\": null}]}\n"))
	f.Add([]byte("{\"a\":\"\\ud83d\\ude00\",\"b\":1e9}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseOutputs(bytes.NewReader(b))
		checkReturned(t, v, err)
	})
}

func FuzzDecodeCallback(f *testing.F) {
	for _, ct := range []string{"", "application/json", "application/x-www-form-urlencoded", "text/xml"} {
		f.Add([]byte(`{"status":"failed","variables":{"a":{"b":[1.5e3,"\u00e9\n",true,null]}},"message":"m"}`), ct)
		f.Add([]byte(`{"___A":"1","\u005f__B":2}`), ct)
		f.Add([]byte("___A=1&b=%20"), ct)
	}
	f.Fuzz(func(t *testing.T, b []byte, ct string) {
		c, err := DecodeCallback(bytes.NewReader(b), ct)
		checkReturned(t, c.Variables, err)
	})
}

// checkReturned checks what holds for variables of any origin: good names, valid
// JSON, and the standard library reads back the same set.
func checkReturned(t *testing.T, v waybill.Vars, err error) {
	t.Helper()
	if err != nil {
		if k := waybill.KindOf(err); k != waybill.KindInvalid && k != waybill.KindTooLarge {
			t.Fatalf("kind %s: %v", k, err)
		}
		if v.Len() > 0 {
			t.Fatal("an error and variables")
		}
		return
	}
	for _, n := range v.Names() {
		x, _ := v.Get(n)
		if waybill.CheckName(n) != nil || !json.Valid(x) {
			t.Fatalf("%q = %q", n, x)
		}
	}
	var back waybill.Vars
	if b, err := json.Marshal(v); err != nil {
		t.Fatal(err)
	} else if err := json.Unmarshal(b, &back); err != nil || back.Len() != v.Len() {
		t.Fatal(err, back.Len())
	}
}

// The scanner accepts exactly the objects that the standard library accepts,
// but for repeated keys and depth.
func FuzzJSONScan(f *testing.F) {
	f.Add([]byte(`{"a":[1,-0.5e+3,"\u0041",{}],"b":{"c":true}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if invalidUTF8(b) >= 0 {
			return
		}
		j := jsonScan{b: b}
		err := j.object()
		trimmed := bytes.TrimLeft(b, " \t\r\n")
		want := json.Valid(b) && len(trimmed) > 0 && trimmed[0] == '{'
		if err == nil && !want {
			t.Fatalf("%q is accepted", b)
		}
		if err != nil && want && !strings.Contains(err.Error(), "twice") && !strings.Contains(err.Error(), "deeper") {
			t.Fatalf("%q: %v", b, err)
		}
	})
}
