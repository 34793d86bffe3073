package app

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/rehearsal"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/schema"
)

// schemas make the JSON Schema of each kind of file of a project.
var schemas = map[string]func() schema.Schema{
	"pipeline": func() schema.Schema {
		runners := localRunners()
		with := map[string]schema.Schema{}
		for name, r := range runners {
			if d, ok := r.(runner.Described); ok {
				with[name] = schema.Of(d.Settings())
			}
		}
		with["http"]["required"] = []string{"url"}
		return pipeline.Schema(slices.Sorted(maps.Keys(runners)), with, project.NotifySchema())
	},
	"settings": func() schema.Schema { return project.Schema(configSchemas()) },
	"test":     rehearsal.Schema,
}

// SchemaKinds are the kinds of files that have a schema, sorted.
func SchemaKinds() []string { return slices.Sorted(maps.Keys(schemas)) }

// FileSchema is the JSON Schema of a kind of file. KindNotFound: there is no such kind.
func FileSchema(kind string) ([]byte, error) {
	f := schemas[kind]
	if f == nil {
		return nil, waybill.E(waybill.KindNotFound, "there is no schema of %.40q", kind).WithHint("there are %s", strings.Join(SchemaKinds(), ", "))
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(f())
	return b.Bytes(), err
}
