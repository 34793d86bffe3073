package app

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/schema"
)

// compiled is the schema of a kind of file, as an editor would have it.
func compiled(t *testing.T, kind string) *jsonschema.Schema {
	t.Helper()
	b, err := FileSchema(kind)
	if err != nil {
		t.Fatal(err)
	}
	return compile(t, b)
}

func compile(t *testing.T, b []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatalf("the schema is none: %v", err)
	}
	return s
}

// against holds a file against a schema. The first result is false if it is no YAML.
func against(t *testing.T, s *jsonschema.Schema, file string) (bool, error) {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(bytes.TrimPrefix(src, []byte("\ufeff")), &v); err != nil {
		return false, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return true, s.Validate(doc)
}

// files are those below a folder of the repository that have a name.
func files(t *testing.T, dir string, match func(path string) bool) []string {
	t.Helper()
	var out []string
	if err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && match(filepath.ToSlash(path)) {
			out = append(out, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("no files in %s", dir)
	}
	return out
}

func TestSchemasTakeWhatIsRight(t *testing.T) {
	t.Parallel()
	isYAML := func(path string) bool { return strings.HasSuffix(path, ".yaml") }
	// The tests of the grammar give the runners settings of their own.
	b, err := json.Marshal(pipeline.Schema([]string{"process", "sim"}, nil, project.NotifySchema()))
	if err != nil {
		t.Fatal(err)
	}
	s := compile(t, b)
	for _, f := range files(t, "internal/pipeline/testdata/good", isYAML) {
		if _, err := against(t, s, f); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	s = compiled(t, "pipeline")
	for _, f := range files(t, "examples", func(p string) bool { return isYAML(p) && strings.Contains(p, "/pipelines/") }) {
		if _, err := against(t, s, f); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	s = compiled(t, "settings")
	for _, f := range files(t, "examples", func(p string) bool { return strings.HasSuffix(p, "/waybill.yaml") }) {
		if _, err := against(t, s, f); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	s = compiled(t, "test")
	for _, f := range files(t, "examples", func(p string) bool { return isYAML(p) && strings.Contains(p, "/tests/") }) {
		if _, err := against(t, s, f); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// beyond are the bad files whose mistakes a schema cannot see: what names refer to,
// what an expression or a pattern means, or YAML itself.
var beyond = []string{
	"check", "control", "design", "duplicates", "env", "expressions", "needs", "secret", "upstream", "empty", "documents",
}

func TestPipelineSchemaRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := compiled(t, "pipeline")
	seen := 0
	for _, f := range files(t, "internal/pipeline/testdata/bad", func(p string) bool { return strings.HasSuffix(p, ".yaml") }) {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		readable, err := against(t, s, f)
		switch {
		case !readable:
		case err == nil && !slices.Contains(beyond, name):
			t.Errorf("%s.yaml has mistakes that the schema does not see", name)
		case err != nil:
			seen++
		}
	}
	if seen < 10 {
		t.Errorf("the schema refused %d files only", seen)
	}
	for _, bad := range []string{
		`{"name":"p","steps":[{"name":"a","runner":"http","with":{"url":"http://e.com","methd":"GET"}}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"http","with":{"method":"GET"}}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"http"}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"http","with":{"url":"http://e.com","expect":{"status":"20x"}}}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"sim","with":{"run_four":"1s"}}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"wait","with":{"for":"1s","until":"x"}}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"pool"}]}`,
		`{"name":"p","steps":[{"name":"a","run":["x"],"timeout":10}]}`,
		`{"name":"p","on":{"schedule":{"cron":"@daily","overlap":"never"}},"steps":[{"name":"a","run":["x"]}]}`,
	} {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(bad))
		if err != nil {
			t.Fatal(err)
		}
		if s.Validate(doc) == nil {
			t.Errorf("the schema takes %s", bad)
		}
	}
	for _, good := range []string{
		`{"name":"p","steps":[{"name":"a","runner":"http","with":{"url":"${{ vars.x }}","timeout":"${{ vars.t }}","expect":{"status":[200,"2xx"]},"headers":{"n":1}}}]}`,
		`{"name":"p","on":{"schedule":["@daily",{"every":"15m"}]},"steps":[{"name":"a","runner":"sim","with":{"run_for":"${{ vars.t }}","exit":"${{ vars.e }}"}}]}`,
		`{"name":"p","steps":[{"name":"a","runner":"approval","with":{"form":{"x":"int","y":{"type":"string","enum":["a"]}}}}]}`,
	} {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

// Editors show a text for each key.
func TestEveryKeyIsDescribed(t *testing.T) {
	t.Parallel()
	for _, kind := range SchemaKinds() {
		b, err := FileSchema(kind)
		if err != nil {
			t.Fatal(err)
		}
		if missing := schema.Undescribed(json.RawMessage(b)); len(missing) > 0 {
			t.Errorf("%s: keys without description: %v", kind, missing)
		}
	}
}
