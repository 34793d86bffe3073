//go:build linux

package harness_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestServer(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"sqlite", "postgres"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			s := harness.New(t, harness.Options{Store: store, Project: map[string]string{
				"pipelines/nap.yaml": "name: nap\non: {http: {}}\nsteps: [{name: nap, run: [./nap.sh]}]\n",
				"nap.sh":             "#!/bin/sh\nwhile [ ! -e {{dir}}/wake ]; do sleep 0.02; done\n",
			}})
			ctx := context.Background()
			run, err := s.Client().StartRun(ctx, "nap", client.StartRun{}, "")
			if err != nil {
				t.Fatal(err)
			}
			harness.Until(t, 20*time.Second, "the unit runs", func() error {
				if len(s.Units()) == 0 {
					return context.DeadlineExceeded
				}
				return nil
			})
			s.Kill()
			if len(s.Units()) == 0 || s.Running() {
				t.Fatal("the unit died with its server, or the server did not")
			}
			s.WriteProject(map[string]string{"../wake": ""})
			s.Start()
			harness.Until(t, 20*time.Second, "the run ends", func() error {
				got, err := s.Client().Run(ctx, run.ID)
				if err == nil && got.Status != "succeeded" {
					err = context.DeadlineExceeded
				}
				return err
			})
			s.Stop()
			if strings.Count(s.Log(), "--- start") != 2 {
				t.Error("the log is not that of both lives")
			}
		})
	}
}

func TestRefusedStart(t *testing.T) {
	t.Parallel()
	s := harness.New(t, harness.Options{Stopped: true, Args: []string{"--store", "nonsense"}})
	if err := s.TryStart(); err == nil || !strings.Contains(err.Error(), "the store must be") {
		t.Errorf("a bad store: %v", err)
	}
	if code := s.ExitCode(); code != 1 && code != 2 {
		t.Errorf("exit code %d", code)
	}
}
