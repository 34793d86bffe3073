package deptest_test

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/waybill-run/waybill/internal/deptest"
)

// root returns the root of this module and its path.
func root(t *testing.T) (dir, module string) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := os.Open(filepath.Join(dir, "go.mod"))
		if err == nil {
			defer f.Close()
			lines := bufio.NewScanner(f)
			for lines.Scan() {
				if m, ok := strings.CutPrefix(lines.Text(), "module "); ok {
					return dir, strings.TrimSpace(m)
				}
			}
			t.Fatalf("%s/go.mod names no module", dir)
		}
		if up := filepath.Dir(dir); up != dir {
			dir = up
			continue
		}
		t.Fatal("there is no go.mod above this folder")
	}
}

func TestArrowsPointInward(t *testing.T) {
	t.Parallel()
	dir, module := root(t)
	wrong, err := deptest.Check(os.DirFS(dir), module, deptest.Arrows)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// Rows that allow what the design forbids would make the check agree with anything.
func TestTableKeepsItsPromises(t *testing.T) {
	t.Parallel()
	all := map[string]bool{}
	for _, r := range deptest.Arrows {
		if r.Why == "" || r.Instead == "" {
			t.Errorf("row %q: says not why, or not where else such code belongs", r.Dir)
		}
		if _, err := path.Match(r.Dir, "x"); err != nil {
			t.Errorf("row %q: %v", r.Dir, err)
		}
		if all[r.Dir] {
			t.Errorf("row %q is there twice", r.Dir)
		}
		all[r.Dir] = true
		for _, m := range r.May {
			switch {
			case m == "*" && r.Dir != "internal/app":
				t.Errorf("row %q: only internal/app sees everything", r.Dir)
			case m == "internal/app" && r.Dir != "cmd/*" && r.Dir != "conformance/*":
				t.Errorf("row %q: nothing inside may know the wiring", r.Dir)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	rows := []deptest.Row{
		{Dir: "", Why: "nouns", Instead: "elsewhere"},
		{Dir: "port", May: []string{""}, Why: "a contract", Instead: "the contract"},
		{Dir: "port/*", May: []string{"", "port"}, Modules: []string{"example.org/db"}, Why: "an adapter", Instead: "the wiring"},
		{Dir: "app", May: []string{"*"}, Modules: []string{"*"}, Why: "the wiring", Instead: "-"},
	}
	file := func(imports ...string) *fstest.MapFile {
		src := "package p\n"
		for _, i := range imports {
			src += "import _ \"" + i + "\"\n"
		}
		return &fstest.MapFile{Data: []byte(src)}
	}
	for _, tc := range []struct {
		name string
		tree fstest.MapFS
		want string // part of the only complaint; none if empty
	}{
		{"the standard library", fstest.MapFS{"a.go": file("net/http", "fmt")}, ""},
		{"inward", fstest.MapFS{"port/p.go": file("m"), "port/sql/s.go": file("m", "m/port", "example.org/db/v2")}, ""},
		{"the wiring", fstest.MapFS{"app/a.go": file("m/port/sql", "example.org/any")}, ""},
		{"root to contract", fstest.MapFS{"a.go": file("m/port")}, "a.go imports m/port, but the root package may import nothing of this module."},
		{"root to a module", fstest.MapFS{"a.go": file("example.org/db")}, "uses no other module"},
		{"sibling", fstest.MapFS{"port/sql/s.go": file("m/port/mem")}, "port/sql/s.go imports m/port/mem, but port/sql may import only the root package, port.\n\tport/sql is an adapter\n\tInstead: the wiring"},
		{"contract to adapter", fstest.MapFS{"port/p.go": file("m/port/sql")}, "port may import only the root package"},
		{"to the wiring", fstest.MapFS{"port/sql/s.go": file("m/app")}, "imports m/app"},
		{"a module of a similar name", fstest.MapFS{"port/sql/s.go": file("example.org/dbx")}, "only example.org/db"},
		{"a similar name of our own", fstest.MapFS{"port/sql/s.go": file("m/portal")}, "imports m/portal"},
		{"no row", fstest.MapFS{"new/n.go": file(), "new/o.go": file()}, "new has no row"},
		{"another platform", fstest.MapFS{"port/sql/s_windows.go": file("m/app")}, "imports m/app"},
		{"behind a build tag", fstest.MapFS{"a.go": {Data: []byte("//go:build never\n\npackage p\nimport _ \"m/app\"\n")}}, "imports m/app"},
		{"tests are free", fstest.MapFS{"port/sql/s_test.go": file("m/port/mem", "m/app")}, ""},
		{"not ours to look at", fstest.MapFS{
			"testdata/x.go": file("m/app"), ".hid/x.go": file("m/app"), "tools/go.mod": file(), "tools/x.go": file("m/app"), "bin/x.go": file("m/app"),
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			wrong, err := deptest.Check(tc.tree, "m", rows)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case tc.want == "" && len(wrong) > 0:
				t.Errorf("complains: %q", wrong)
			case tc.want != "" && (len(wrong) != 1 || !strings.Contains(wrong[0], tc.want)):
				t.Errorf("says %q, want one that has %q", wrong, tc.want)
			}
		})
	}
	if _, err := deptest.Check(fstest.MapFS{"a.go": {Data: []byte("no Go")}}, "m", rows); err == nil {
		t.Error("a file that cannot be read as Go is not reported")
	}
}
