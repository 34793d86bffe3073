package kubernetes_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/kubernetes"
	"github.com/waybill-run/waybill/internal/runner/kubernetes/kubetest"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
)

func open(t *testing.T, c *kubetest.Cluster, more ...func(*kubernetes.Options)) *kubernetes.Runner {
	t.Helper()
	o := kubernetes.Options{Config: kubernetes.Config{Namespace: kubetest.Namespace}, Instance: "store-1", Client: c.Client()}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for _, f := range more {
		f(&o)
	}
	r, err := kubernetes.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

const image = "registry.example/shell:1"

func TestConformance(t *testing.T) {
	spare := kubetest.New(t) // its own goroutines are not the runner's
	runnertest.Run(t, runnertest.Options{
		Patience: 60 * time.Second, Many: 30,
		New: func(t *testing.T) runnertest.Harness {
			c := spare
			if !strings.HasSuffix(t.Name(), "/NoGoroutineLeft") {
				c = kubetest.New(t)
			}
			r := open(t, c)
			return runnertest.Harness{
				Runner: r,
				Program: func(p runnertest.Program) ([]string, json.RawMessage) {
					return runnertest.Shell(p), json.RawMessage(`{"image":"` + image + `"}`)
				},
				Restart: func(t *testing.T) runner.Runner {
					r.Close()
					r = open(t, c)
					return r
				},
				BadProgram: []string{"/none/program"},
				Contained:  &runnertest.Contained{Image: image, SignalAsCode: true, WholeSeconds: true},
			}
		},
	})
}
