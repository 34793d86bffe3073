// Package deptest checks in which direction packages import each other.
//
// The rows of arrows.go say what each package may import, and why. Whoever adds a package
// adds a row; whoever needs another arrow changes a row and defends it in review.
// Files are read, not built, so that those of other platforms count too.
package deptest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Row is what the packages of a folder may import.
type Row struct {
	Dir     string   // folder or pattern of path.Match, from the root of the module; "" is the root
	May     []string // folders of this module, "" being the root; "*" means all
	Modules []string // paths of other modules' packages, or prefixes of them; "*" means all
	Why     string   // what the package is, so that the arrows follow
	Instead string   // where code that wants more belongs
}

// Check reads the tree and reports every import that no row allows and every
// package without a row. The first row that matches a folder counts. Imports of
// test files are free: a test needs whatever it compares with, and none of it
// is linked into the program.
func Check(tree fs.FS, module string, rows []Row) ([]string, error) {
	var wrong []string
	known := map[string]bool{} // folders that hold a package
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(tree, name)
		}
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir := path.Dir(name)
		if dir == "." {
			dir = ""
		}
		row := find(rows, dir)
		if row == nil {
			if !known[dir] {
				wrong = append(wrong, fmt.Sprintf("%s has no row in internal/deptest/arrows.go: say there what it may import and why", label(dir)))
			}
			known[dir] = true
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
			}
			if why := refuse(row, dir, module, to); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s imports %s, but %s.\n\t%s is %s\n\tInstead: %s",
					name, to, why, label(dir), row.Why, row.Instead))
			}
		}
		return nil
	})
	slices.Sort(wrong)
	return wrong, err
}

// enter says which folders are looked into.
func enter(tree fs.FS, name string) error {
	base := path.Base(name)
	if name == "." {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || name == "bin" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(tree, name+"/go.mod"); err == nil {
		return fs.SkipDir // another module
	}
	return nil
}

func find(rows []Row, dir string) *Row {
	for i := range rows {
		if ok, err := path.Match(rows[i].Dir, dir); ok && err == nil {
			return &rows[i]
		}
	}
	return nil
}

// refuse returns what is wrong with an import, or nothing.
func refuse(row *Row, dir, module, to string) string {
	if to == module || strings.HasPrefix(to, module+"/") {
		to = strings.TrimPrefix(strings.TrimPrefix(to, module), "/")
		if slices.Contains(row.May, "*") || slices.Contains(row.May, to) {
			return ""
		}
		return label(dir) + " may import " + list(row.May)
	}
	if first, _, _ := strings.Cut(to, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	for _, m := range row.Modules {
		if m == "*" || to == m || strings.HasPrefix(to, m+"/") {
			return ""
		}
	}
	if len(row.Modules) == 0 {
		return label(dir) + " uses no other module than the standard library"
	}
	return label(dir) + " may use of other modules only " + strings.Join(row.Modules, ", ")
}

func list(may []string) string {
	if len(may) == 0 {
		return "nothing of this module"
	}
	names := make([]string, len(may))
	for i, m := range may {
		names[i] = label(m)
	}
	return "only " + strings.Join(names, ", ")
}

func label(dir string) string {
	if dir == "" {
		return "the root package"
	}
	return dir
}
