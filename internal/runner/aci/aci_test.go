package aci_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/aci"
	"github.com/waybill-run/waybill/internal/runner/aci/armtest"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
)

type token string

func (t token) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(t), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func open(t *testing.T, s *armtest.Server, more ...func(*aci.Options)) *aci.Runner {
	t.Helper()
	o := aci.Options{
		Config:   aci.Config{Subscription: armtest.Subscription, ResourceGroup: armtest.ResourceGroup, Location: "westeurope"},
		Instance: "store-1", Credential: token(armtest.Token), Endpoint: s.URL(), Transport: s.Client(),
		Pace: aci.Pace{First: 20 * time.Millisecond, Most: 100 * time.Millisecond, Start: 30 * time.Second, Sure: 100 * time.Millisecond, Retry: 5 * time.Millisecond},
	}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for _, f := range more {
		f(&o)
	}
	r, err := aci.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

const image = "registry.example/shell:1"

func TestConformance(t *testing.T) {
	spare := armtest.New(t) // its own goroutines are not the runner's
	runnertest.Run(t, runnertest.Options{
		Patience: 60 * time.Second, Many: 30, LongLine: 3 << 20, MemoryGrowth: 128 << 20, // no more than 4 MB are kept by Azure
		New: func(t *testing.T) runnertest.Harness {
			s := spare
			if !strings.HasSuffix(t.Name(), "/NoGoroutineLeft") {
				s = armtest.New(t)
			}
			r := open(t, s)
			return runnertest.Harness{
				Runner: plain{r},
				Program: func(p runnertest.Program) ([]string, json.RawMessage) {
					return runnertest.Shell(p), json.RawMessage(`{"image":"` + image + `"}`)
				},
				Restart: func(t *testing.T) runner.Runner {
					r.Close()
					r = open(t, s)
					return plain{r}
				},
				BadProgram: []string{"/none/program"},
				Contained:  &runnertest.Contained{Image: image, SignalAsCode: true, WholeSeconds: true},
			}
		},
	})
}

// plain takes the input files away that the suite puts into the working directory, which
// Azure has no way to carry and this runner refuses; see TestFiles.
type plain struct{ *aci.Runner }

func (p plain) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	os.Remove(s.Dir + "/work/input")
	return p.Runner.Start(ctx, s)
}
