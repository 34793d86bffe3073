package engine

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/mask"
)

func TestMaskVars(t *testing.T) {
	t.Parallel()
	m := mask.New("hunter2-hunter2", "12345678", `{"user":"a","pass":"b"}`)
	var vars waybill.Vars
	if err := json.Unmarshal([]byte(`{
		"TEXT": "is hunter2-hunter2.", "SAFE": "hunter2", "NUMBER": 12345678, "BIG": 9007199254740993,
		"ESCAPED": "hunter2\u002dhunter2", "LIST": ["x", {"deep": "hunter2-hunter2", "hunter2-hunter2": 1, "n": 9007199254740993}],
		"OBJECT": {"user":"a","pass":"b"}, "BASE64": "aHVudGVyMi1odW50ZXIy"
	}`), &vars); err != nil {
		t.Fatal(err)
	}
	masked, err := maskVars(m, &vars)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(masked, " "); got != "BASE64 ESCAPED LIST NUMBER OBJECT TEXT" {
		t.Errorf("masked: %s", got)
	}
	for name, want := range map[string]string{
		"TEXT": `"is ***."`, "SAFE": `"hunter2"`, "NUMBER": `"***"`, "BIG": `9007199254740993`, "ESCAPED": `"***"`,
		"LIST": `["x",{"***":1,"deep":"***","n":9007199254740993}]`, "OBJECT": `"***"`, "BASE64": `"***"`,
	} {
		if v, _ := vars.Get(name); string(v) != want {
			t.Errorf("%s is %s, want %s", name, v, want)
		}
	}
	vars = waybill.Vars{}
	vars.Set("a_hunter2", waybill.StringValue("x"))
	if _, err := maskVars(mask.New("hunter2"), &vars); !waybill.IsKind(err, waybill.KindInvalid) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a name that holds a secret: %v", err)
	}
}

// Whatever a unit returns, no value holds a secret afterwards, and it is still JSON.
func TestMaskValueProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringOfN(rapid.RuneFrom([]rune(`ab"\{}[]:,1`)), 4, 8, -1).Draw(t, "secret")
		m := mask.New(secret)
		if m == nil {
			return
		}
		text := rapid.SampledFrom([]string{secret, "x" + secret, secret + secret}).Draw(t, "text")
		var x any = text
		switch rapid.IntRange(0, 3).Draw(t, "shape") {
		case 1:
			x = []any{text, 1}
		case 2:
			x = map[string]any{text: "v", "k": text}
		case 3:
			if json.Unmarshal([]byte(secret), &x) != nil {
				return
			}
		}
		v, err := waybill.ValueOf(x)
		if err != nil {
			t.Fatal(err)
		}
		got, changed := maskValue(m, v)
		if !changed || !json.Valid(got) || m.Holds(string(got)) {
			t.Fatalf("%s becomes %s (%t)", v, got, changed)
		}
	})
}
