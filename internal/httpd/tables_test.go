package httpd

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapitest"
)

func TestEveryKindHasAStatusAndATitle(t *testing.T) {
	for _, k := range waybill.Kinds() {
		if statusOf[k] < 400 || titles[k] == "" {
			t.Errorf("kind %s: status %d, title %q", k, statusOf[k], titles[k])
		}
	}
	if len(statusOf) != len(waybill.Kinds()) || len(titles) != len(waybill.Kinds()) {
		t.Error("a table holds a kind that does not exist")
	}
	doc := openapitest.Doc(t)
	for name, words := range map[string][]string{
		"Kind": convert(waybill.Kinds(), func(k waybill.Kind) string { return string(k) }), "Status": convert(waybill.Statuses(), func(s waybill.Status) string { return string(s) }),
	} {
		var enum []string
		for _, x := range doc.Components.Schemas[name].Value.Enum {
			enum = append(enum, x.(string))
		}
		if strings.Join(enum, " ") != strings.Join(words, " ") {
			t.Errorf("the contract's %s is %v, the program's %v", name, enum, words)
		}
	}
}

func TestEveryOperationHasRights(t *testing.T) {
	declared := map[string]bool{}
	for path, item := range openapitest.Doc(t).Paths.Map() {
		for method, o := range item.Operations() {
			key := method + " " + path
			declared[key] = true
			op, ok := operations[key]
			if !ok || op.id != o.OperationID {
				t.Errorf("%s is %s in the contract and %q in the table", key, o.OperationID, op.id)
			}
			if open := o.Security != nil && len(*o.Security) == 1 && len((*o.Security)[0]) == 0; open != (op.need == "") {
				t.Errorf("%s: open in the contract: %t, in the table: %t", key, open, op.need == "")
			}
			if changes := method != "GET" && method != "HEAD" && op.id != "validatePipeline"; changes != (op.action != "") {
				t.Errorf("%s changes something: %t, but its action is %q", key, changes, op.action)
			}
			if op.need == waybill.RoleViewer && op.action != "" {
				t.Errorf("%s changes something and needs viewer only", key)
			}
		}
	}
	for key := range operations {
		if !declared[key] {
			t.Errorf("%s is not in the contract", key)
		}
	}
}

func TestFailuresAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	f := newFailures(2, time.Second, func() time.Time { return now })
	for i := range maxSources + 100 {
		f.add("2001:db8:" + string(rune('a'+i%6)) + ":" + strings.Repeat("1", 1+i%4) + "::" + string(rune('a'+i%5)))
		f.add(string(rune(0x4e00 + i)))
		f.good(string(rune(0x4e00 + i)))
	}
	if len(f.sources) > maxSources || len(f.right) > maxRight {
		t.Errorf("%d sources, %d tokens", len(f.sources), len(f.right))
	}
	f.add("2001:db8:9::1")
	f.add("2001:db8:9::2")
	if f.wait("2001:db8:9::3", "x") == 0 {
		t.Error("addresses of one IPv6 network are taken for many senders")
	}
	now = now.Add(time.Second)
	if f.wait("2001:db8:9::3", "x") != 0 {
		t.Error("nothing is forgiven")
	}
}

func BenchmarkCheckJSON(b *testing.B) {
	many := func(part string) string {
		var t strings.Builder
		for i := 0; t.Len() < 1<<20-100; i++ {
			t.WriteString(strings.ReplaceAll(part, "#", strconv.Itoa(i)))
		}
		return t.String()
	}
	for name, text := range map[string]string{
		"deep":  many(`{"a":`),
		"wide":  "[" + many(`{},`) + "{}]",
		"names": "{" + many(`"name-#":1,`) + `"z":1}`,
		"huge":  `{"` + many(`x`) + `":1}`,
		"twice": "{" + many(`"a":1,`) + `"a":1}`,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_ = checkJSON([]byte(text), waybill.KindInvalid) // only its cost matters
			}
		})
	}
}
