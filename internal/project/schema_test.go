package project

import (
	"testing"

	"github.com/waybill-run/waybill/internal/schema"
)

// Each setting that is read is described, and nothing else is.
func TestSchemaDescribesTheSettings(t *testing.T) {
	t.Parallel()
	s := Default()
	paths := s.shapes()
	for path := range paths {
		if said[path] == "" {
			t.Errorf("%s has no description in schema.go", path)
		}
	}
	for path := range said {
		if _, ok := paths[path]; ok {
			continue
		}
		section := false
		for p := range paths {
			section = section || len(p) > len(path) && p[:len(path)+1] == path+"."
		}
		if !section {
			t.Errorf("%s is described and no setting", path)
		}
	}
	if missing := schema.Undescribed(Schema(nil)); len(missing) > 0 {
		t.Errorf("keys without description: %v", missing)
	}
}
