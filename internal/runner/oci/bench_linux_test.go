package oci_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// BenchmarkUnit measures a unit that does nothing, from Start to the answer of Wait, with
// an image that is here; and beside it what "runc run" alone takes for the same program
// with the configuration that "runc spec" makes. The rounds alternate, so that both meet
// the same machine. Reported are medians.
func BenchmarkUnit(b *testing.B) {
	need(b)
	img := baseImage(b)
	for _, network := range []string{container.NetworkNone, container.NetworkBridge} {
		b.Run(network, func(b *testing.B) {
			r, s := newRunner(b, setup{})
			dir := b.TempDir()
			with, _ := json.Marshal(map[string]any{"image": img, "network": network})
			unit := func(i int) (time.Duration, time.Duration) {
				name := fmt.Sprintf("bench-%d", i)
				home := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Join(home, container.Work), 0o755); err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				h, err := r.Start(b.Context(), runner.Spec{Unit: name, Args: []string{"/bin/true"}, With: with, Dir: home, Log: home + ".log"})
				if err != nil {
					b.Fatal(err)
				}
				e, err := r.Wait(b.Context(), h)
				if err != nil || !e.OK() {
					b.Fatal(e, err)
				}
				took := time.Since(began)
				began = time.Now()
				if err := r.Remove(b.Context(), h); err != nil {
					b.Fatal(err)
				}
				return took, time.Since(began)
			}
			unit(-1)
			bare := bareBundle(b, s)
			var units, removals, alone []time.Duration
			for i := range b.N {
				u, gone := unit(i)
				units, removals = append(units, u), append(removals, gone)
				began := time.Now()
				if out, err := exec.Command("runc", "--root", filepath.Join(dir, "state"), "run", "--bundle", bare, fmt.Sprintf("waybill-bench-%d-%d", os.Getpid(), i)).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				alone = append(alone, time.Since(began))
			}
			b.ReportMetric(p50(units), "ms/unit")
			b.ReportMetric(p50(alone), "ms/runc")
			b.ReportMetric(p50(removals), "ms/remove")
			b.ReportMetric(p50(units)/p50(alone), "ratio")
		})
	}
}

func p50(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

// bareBundle is the layer of the image as a bundle.
func bareBundle(b *testing.B, s setup) string {
	b.Helper()
	layers, err := filepath.Glob(filepath.Join(s.dir, "oci", "images", "layers", "*", "bin"))
	if err != nil || len(layers) != 1 {
		b.Fatal(layers, err)
	}
	dir := b.TempDir()
	cmd := exec.Command("runc", "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("cp", "-a", filepath.Dir(layers[0]), filepath.Join(dir, "rootfs")).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`"terminal": true`), []byte(`"terminal": false`), 1)
	text = bytes.Replace(text, []byte(`"sh"`), []byte(`"/bin/true"`), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}
