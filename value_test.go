package waybill_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
)

func TestVarsIgnoreCaseAndKeepSpelling(t *testing.T) {
	var v waybill.Vars
	v.Set("___Name", waybill.StringValue("a"))
	v.Set("___NAME", waybill.StringValue("b"))
	if got, ok := v.Get("___name"); !ok || got.Text() != "b" {
		t.Errorf("got %s, %v", got, ok)
	}
	b, err := json.Marshal(v)
	if err != nil || string(b) != `{"___Name":"b"}` {
		t.Errorf("got %s, %v", b, err)
	}
	var back waybill.Vars
	if err := json.Unmarshal([]byte(`{"a":1,"A":2}`), &back); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("two names that differ in case: %v", err)
	}
	c := v.Clone()
	c.Set("x", waybill.Value("1"))
	if v.Len() != 1 {
		t.Error("changing a clone changed the original")
	}
}

func TestCoerce(t *testing.T) {
	for _, c := range []struct {
		in   string
		typ  waybill.ValueType
		want string // empty: refused
	}{
		{`"12"`, waybill.TypeInt, "12"},
		{`12`, waybill.TypeInt, "12"},
		{`12.5`, waybill.TypeInt, ""},
		{`"12.5"`, waybill.TypeNumber, "12.5"},
		{`" true "`, waybill.TypeBool, "true"},
		{`1`, waybill.TypeBool, ""},
		{`{"a":1}`, waybill.TypeString, `"{\"a\":1}"`},
		{`"{\"a\":1}"`, waybill.TypeJSON, `{"a":1}`},
		{`"plain"`, waybill.TypeJSON, `"plain"`},
		{`"x"`, waybill.TypeFile, ""},
		{`null`, waybill.TypeNumber, ""},
	} {
		got, err := waybill.Value(c.in).Coerce(c.typ)
		if string(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s as %s: got %s, %v; want %s", c.in, c.typ, got, err, c.want)
		}
	}
}

func TestFileReferencesFromOutside(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	ref := waybill.FileValue(waybill.FileRef{SHA256: sum, Size: 3, Name: "x"})
	if f, ok := ref.File(); !ok || f.SHA256 != sum {
		t.Errorf("our own reference is not recognised: %v", f)
	}
	for _, bad := range []string{
		`{"$file":{"sha256":"../../../../etc","size":1}}`, `{"$file":{"sha256":"` + strings.ToUpper(sum) + `","size":1}}`,
		`{"$file":{"sha256":"` + sum + `","size":-1}}`, `{"$file":7}`, `{"$file":{"sha256":"` + sum + `"},"more":1}`,
	} {
		if _, ok := waybill.Value(bad).File(); ok {
			t.Errorf("%s is taken for a reference", bad)
		}
	}
}

func TestIDsSortInTheOrderTheyWereMade(t *testing.T) {
	at := time.UnixMilli(1_800_000_000_000)
	var ids []string
	for i := range 5000 {
		// The clock stands still, jumps ahead and goes back.
		ids = append(ids, waybill.NewID(at.Add(time.Duration(i%7-3)*time.Second)))
	}
	if !slices.IsSorted(ids) {
		t.Error("ids are out of order")
	}
	if len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Error("an id was given twice")
	}
	if len(ids[0]) != 36 || ids[0][14] != '7' || !strings.ContainsRune("89ab", rune(ids[0][19])) {
		t.Errorf("%s is not a UUID of version 7", ids[0])
	}
}
func TestIDTime(t *testing.T) {
	at := time.Date(2026, 3, 2, 12, 0, 0, 5e6, time.UTC)
	if got, ok := waybill.IDTime("019cae6b-6605-7abc-8000-0123456789ab"); !ok || !got.Equal(at) {
		t.Errorf("the time of an id is %s (%v), want %s", got, ok, at)
	}
	began := time.Now().Truncate(time.Millisecond)
	if got, ok := waybill.IDTime(waybill.NewID(began)); !ok || got.Before(began) {
		t.Errorf("the time of an id is %s (%v), want %s or later", got, ok, began)
	}
	for _, bad := range []string{"", "x", "0191-", "zzzzzzzz-zzzz-7000-8000-000000000000", "01a1ff66-2a1f-4001-b27c-cf52979dc1f8"} {
		if got, ok := waybill.IDTime(bad); ok {
			t.Errorf("%q has the time %s", bad, got)
		}
	}
}
