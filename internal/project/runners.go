package project

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/waybill-run/waybill/internal/schema"
)

// Runners are the settings of runners by their names. Each runner decodes its own.
type Runners map[string]json.RawMessage

// ConfiguredRunners are those that have settings in waybill.yaml.
var ConfiguredRunners = []string{"aci", "docker", "kubernetes", "oci"}

// runnersReader reads the object runners.
func runnersReader(to *Runners) func(*settingsReader, string, ast.Node) {
	return func(r *settingsReader, name string, n ast.Node) {
		m, ok := n.(ast.MapNode)
		if !ok {
			r.add(placeOf(n), "", "%s: expected an object with %s", name, strings.Join(ConfiguredRunners, ", "))
			return
		}
		for it := m.MapRange(); it.Next(); {
			key := it.Key().GetToken().Value
			if !slices.Contains(ConfiguredRunners, key) {
				r.add(placeOf(it.Key()), "there are "+strings.Join(ConfiguredRunners, ", "), "unknown key %.80s", name+"."+key)
				continue
			}
			raw := json.RawMessage(`{}`)
			if it.Value().Type() != ast.NullType {
				v, ok := r.tree(name+"."+key, it.Value())
				if !ok {
					continue
				}
				b, err := json.Marshal(v)
				if err != nil {
					r.add(placeOf(it.Value()), "", "%s.%s: %v", name, key, err)
					continue
				}
				raw = b
			}
			if *to == nil {
				*to = Runners{}
			}
			(*to)[key] = raw
		}
	}
}

// RunnersSchema describes the settings of runners, given those of each.
func RunnersSchema(each map[string]schema.Schema) schema.Schema {
	keys := map[string]schema.Schema{}
	for _, name := range ConfiguredRunners {
		s := each[name]
		if s == nil {
			s = schema.Any()
		}
		keys[name] = schema.Either(s, schema.Schema{"type": "null"}).Doc("Settings of the runner " + name + ".")
	}
	return schema.Object(keys)
}
