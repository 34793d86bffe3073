package pipeline

import (
	"slices"
	"testing"

	"github.com/waybill-run/waybill/internal/schema"
)

// The schema cannot drift from the grammar: each key that runs is described, and
// nothing is described that is no key.
func TestSchemaDescribesTheGrammar(t *testing.T) {
	t.Parallel()
	for name, o := range objects(nil) {
		known := map[string]bool{}
		for _, w := range o.words {
			known[w.name] = true
			k, ok := o.keys[w.name]
			switch {
			case w.state != runs && ok:
				t.Errorf("%s.%s is described and does not run yet", name, w.name)
			case w.state == runs && !ok:
				t.Errorf("%s.%s runs and is not described in schema.go", name, w.name)
			case ok && k.doc == "":
				t.Errorf("%s.%s has no description", name, w.name)
			}
		}
		for k := range o.keys {
			if !known[k] {
				t.Errorf("%s.%s is described and no key of the grammar", name, k)
			}
		}
	}
	s := Schema([]string{"process"}, nil, schema.Any())
	if missing := schema.Undescribed(s); len(missing) > 0 {
		t.Errorf("keys without description: %v", missing)
	}
	// Every table of the grammar is an object of the schema.
	var tables int
	for _, words := range [][]word{pipelineKeys, stepKeys, onKeys, httpKeys, objectKeys, queueKeys, scheduleKeys, webhookKeys, eventKeys,
		defaultsKeys, retryKeys, paramKeys, outputKeys, matrixKeys, cleanupKeys, concurrencyKeys, deliveryKeys} {
		tables++
		if !slices.ContainsFunc(valuesOf(objects(nil)), func(o []word) bool {
			return slices.Equal(names(o), names(words))
		}) {
			t.Errorf("the table %v is not in the schema", names(words))
		}
	}
	if n := len(objects(nil)); n != tables {
		t.Errorf("%d objects are described, the grammar has %d tables that this test knows", n, tables)
	}
}

func valuesOf(m map[string]struct {
	words []word
	keys  keys
}) [][]word {
	var out [][]word
	for _, o := range m {
		out = append(out, o.words)
	}
	return out
}
