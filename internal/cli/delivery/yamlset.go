package delivery

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// setting is a value for a path of the settings.
type setting struct{ path, value string }

// edit returns YAML with values set. Comments, the order of what is there and references to
// variables stay as they are.
func edit(src []byte, set []setting) ([]byte, error) {
	for _, s := range set {
		var err error
		if src, err = editOne(src, strings.Split(s.path, "."), s.value); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func editOne(src []byte, path []string, value string) ([]byte, error) {
	f, err := parser.ParseBytes(src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	// How much of the path is there?
	have := 0
	for n := len(path); n > 0 && have == 0; n-- {
		if node, err := yamlPath(path[:n]).FilterFile(f); err == nil && node != nil {
			have = n
			if _, isMap := node.(*ast.MappingNode); n < len(path) && !isMap {
				if _, one := node.(*ast.MappingValueNode); !one {
					have = n - 1 // null or a value: it is replaced by what belongs there
					break
				}
			}
		}
	}
	tree := any(value)
	for i := len(path) - 1; i > have; i-- {
		tree = map[string]any{path[i]: tree}
	}
	if have == len(path) {
		old, err := yamlPath(path).FilterFile(f)
		if err != nil {
			return nil, err
		}
		node, err := yaml.ValueToNode(value)
		if err != nil {
			return nil, err
		}
		if c := old.GetComment(); c != nil {
			if err := node.SetComment(c); err != nil {
				return nil, err
			}
		}
		if err := yamlPath(path).ReplaceWithNode(f, node); err != nil {
			return nil, err
		}
		return []byte(f.String()), nil
	}
	text, err := yaml.MarshalWithOptions(map[string]any{path[have]: tree}, yaml.Indent(2))
	if err != nil {
		return nil, err
	}
	empty := len(f.Docs) == 0 || f.Docs[0].Body == nil
	if !empty {
		_, empty = f.Docs[0].Body.(*ast.CommentGroupNode)
	}
	switch {
	case have == 0 && empty:
		return append(bytes.TrimRight(src, "\n \t"), append(newline(src), text...)...), nil
	case have == 0:
		err = yamlPath(nil).MergeFromReader(f, bytes.NewReader(text))
	default:
		node, _ := yamlPath(path[:have]).FilterFile(f)
		if _, isNull := node.(*ast.NullNode); isNull {
			err = yamlPath(path[:have]).ReplaceWithReader(f, bytes.NewReader(text))
		} else {
			err = yamlPath(path[:have]).MergeFromReader(f, bytes.NewReader(text))
		}
	}
	if err != nil {
		return nil, err
	}
	return []byte(f.String()), nil
}

func newline(src []byte) []byte {
	if len(bytes.TrimSpace(src)) == 0 {
		return nil
	}
	return []byte("\n")
}

// yamlPath is a path of names; they are letters, digits and _ here.
func yamlPath(names []string) *yaml.Path {
	b := (&yaml.PathBuilder{}).Root()
	for _, n := range names {
		b = b.Child(n)
	}
	return b.Build()
}

// save writes the settings so that there is either the old file or the new one, and nobody
// else can read it.
func save(file string, text []byte) (err error) {
	fail := func(err error) error {
		return errorf(codeFile, "config-file-write-err", "the settings in %s cannot be written", file).because(err)
	}
	if file == "" {
		return fail(errors.New("there is no home folder; name a file with --config"))
	}
	// A link stays one: what it points to is written.
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fail(err)
	}
	t, err := os.CreateTemp(filepath.Dir(file), ".config-*")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(t.Name())
		}
	}()
	_, err = t.Write(text)
	err = errors.Join(err, t.Sync(), t.Close())
	if err == nil {
		err = os.Rename(t.Name(), file)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}
