//go:build !slim

package facetcli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/memory"
	"github.com/waybill-run/waybill/facet/opensearch"
	"github.com/waybill-run/waybill/facet/postgres"
)

func (d Deps) conformanceCommand() *cobra.Command {
	var engine, url, prefix, only string
	var checks int
	var verbose bool
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Run the suite that every engine passes, on a server of yours too",
		Long: `Run the suite that every engine passes. For postgres and opensearch it makes indexes
with names of its own at the URL and removes them again; nothing else is touched.

Passing it is what "verified" means for OpenSearch: no cluster of it has been at hand
when this program was made.`,
		Example: `  waybill facet conformance --engine opensearch --url http://localhost:9200
  waybill facet conformance --engine postgres --url postgres://localhost/test`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := &conformance{url: url, prefix: prefix, names: map[facet.Index]string{}}
			config, err := c.config(engine)
			if err != nil {
				return err
			}
			config.Checks = checks
			dir, err := os.MkdirTemp("", "waybill-facet-")
			if err != nil {
				return err
			}
			c.dir = dir
			return c.run(cmd, engine, config, only, verbose)
		},
	}
	f := cmd.Flags()
	f.StringVar(&engine, "engine", "files", "files, memory, postgres or opensearch")
	f.StringVar(&url, "url", "", "`URL` of the server, for postgres and opensearch")
	f.StringVar(&prefix, "prefix", "waybill_conformance_", "what the names of indexes made for the test begin with")
	f.IntVar(&checks, "checks", 0, "random histories to try (default: some)")
	f.StringVar(&only, "run", "", "only parts whose name matches this")
	f.BoolVar(&verbose, "verbose", false, "tell of each part")
	return cmd
}

// conformance is one run of the suite.
type conformance struct {
	url, prefix, dir string

	mu    sync.Mutex
	n     int
	names map[facet.Index]string
}

// config says how the engine's indexes are made.
func (c *conformance) config(engine string) (facettest.Config, error) {
	ctx := context.Background()
	var open func(name string, s facet.Schema) (facet.Index, error)
	var drop func(name string) error
	switch engine {
	case "memory":
		return facettest.Config{New: func(t testing.TB, s facet.Schema) facet.Index {
			x, err := memory.New(s)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}}, nil
	case "files":
		open = func(name string, s facet.Schema) (facet.Index, error) {
			return facet.Open(filepath.Join(c.dir, name), s, facet.Options{})
		}
		drop = func(name string) error { return os.RemoveAll(filepath.Join(c.dir, name)) }
	case "postgres":
		open = func(name string, s facet.Schema) (facet.Index, error) { return postgres.Open(ctx, c.url, name, s) }
		drop = func(name string) error { return postgres.Drop(ctx, c.url, name) }
	case "opensearch":
		base, _, o, err := cluster(strings.Replace(c.url, "http", "opensearch", 1) + "/x")
		if err != nil && c.url != "" {
			return facettest.Config{}, invalid("--url %s: want http://HOST:9200", redact(c.url))
		}
		open = func(name string, s facet.Schema) (facet.Index, error) { return opensearch.Open(ctx, base, name, s, o) }
		drop = func(name string) error { return opensearch.Drop(ctx, base, name, o) }
	default:
		return facettest.Config{}, invalid("engine %q is not files, memory, postgres or opensearch", engine)
	}
	if engine != "files" && c.url == "" {
		return facettest.Config{}, invalid("--engine %s needs --url", engine)
	}
	return facettest.Config{
		New: func(t testing.TB, s facet.Schema) facet.Index {
			c.mu.Lock()
			c.n++
			name := c.prefix + strconv.Itoa(os.Getpid()) + "_" + strconv.Itoa(c.n)
			c.mu.Unlock()
			t.Cleanup(func() {
				if err := drop(name); err != nil {
					t.Error(err)
				}
			})
			x, err := open(name, s)
			if err != nil {
				t.Fatal(err)
			}
			c.remember(x, name)
			return x
		},
		Reopen: func(t testing.TB, x facet.Index) facet.Index {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			name := c.names[x]
			delete(c.names, x)
			c.mu.Unlock()
			again, err := open(name, facet.Schema{})
			if err != nil {
				t.Fatal(err)
			}
			c.remember(again, name)
			return again
		},
	}, nil
}

func (c *conformance) remember(x facet.Index, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[x] = name
}

// run runs the suite as "go test" would, and ends the process as it does: with 1 if
// something failed.
func (c *conformance) run(cmd *cobra.Command, engine string, config facettest.Config, only string, verbose bool) error {
	if flag.Lookup("test.v") == nil {
		testing.Init()
	}
	args := []string{"-rapid.nofailfile"} // no folder is left where the command was called
	if verbose {
		args = append(args, "-test.v")
	}
	if only != "" {
		args = append(args, "-test.run=^"+engine+"$/"+only)
	}
	if err := flag.CommandLine.Parse(args); err != nil {
		return err
	}
	suite := func(t *testing.T) {
		t.Cleanup(func() {
			if err := os.RemoveAll(c.dir); err != nil {
				t.Error(err)
			}
			verdict := "passes"
			if t.Failed() {
				verdict = "does not pass"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the engine %s %s the suite\n", engine, verdict)
		})
		facettest.Run(t, config)
	}
	testing.Main(func(pattern, name string) (bool, error) {
		return regexp.MatchString(pattern, name)
	}, []testing.InternalTest{{Name: engine, F: suite}}, nil, nil)
	return nil // testing.Main does not return
}
