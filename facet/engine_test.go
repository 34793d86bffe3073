package facet_test

import (
	"testing"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
)

func open(t testing.TB, dir string, s facet.Schema, o facet.Options) *facet.Engine {
	t.Helper()
	o.OnError = func(err error) { t.Errorf("in the background: %v", err) }
	x, err := facet.Open(dir, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestEngine(t *testing.T) {
	dirs := map[facet.Index]string{}
	facettest.Run(t, facettest.Config{
		New: func(t testing.TB, s facet.Schema) facet.Index {
			dir := t.TempDir()
			x := open(t, dir, s, facet.Options{})
			dirs[x] = dir
			return x
		},
		Reopen: func(t testing.TB, x facet.Index) facet.Index {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			y := open(t, dirs[x], facet.Schema{}, facet.Options{})
			dirs[y] = dirs[x]
			return y
		},
	})
}
