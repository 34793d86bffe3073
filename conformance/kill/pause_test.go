//go:build linux

package kill_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// TestPausedServer stops the only server for longer than its leases, as a
// suspended machine does. Nobody else could take its work, so it goes on with it:
// no unit is ended for that, and none is started again.
func TestPausedServer(t *testing.T) {
	t.Parallel()
	files := map[string]string{"pipelines/nap.yaml": `name: nap
on: {http: {}}
steps:
  - {name: a, run: [./unit.sh, slow, "6"]}
  - {name: b, run: [./unit.sh, quick]}
`}
	files["unit.sh"] = project["unit.sh"]
	s := harness.New(t, harness.Options{Project: files, Args: []string{"--lease", "500ms"}})
	ctx := context.Background()
	var runs []string
	for range 6 {
		r, err := s.Client().StartRun(ctx, "nap", client.StartRun{}, "")
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r.ID)
	}
	harness.Until(t, 30*time.Second, "units run", func() error {
		n := 0
		for _, id := range runs {
			d, err := s.Client().Run(ctx, id)
			if err != nil {
				return err
			}
			for _, a := range d.Attempts {
				if a.Phase == waybill.PhaseRunning {
					n++
				}
			}
		}
		if n < len(runs) {
			return fmt.Errorf("%d of %d", n, len(runs))
		}
		return nil
	})
	for range 4 {
		s.Signal(syscall.SIGSTOP)
		time.Sleep(900 * time.Millisecond) // longer than the leases
		s.Signal(syscall.SIGCONT)
		time.Sleep(300 * time.Millisecond) // long enough to find out
	}
	for _, id := range runs {
		harness.Until(t, 60*time.Second, "run "+id+" ends", func() error {
			d, err := s.Client().Run(ctx, id)
			if err == nil && !d.Status.Terminal() {
				err = errors.New(string(d.Status))
			}
			return err
		})
		d, err := s.Client().Run(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if d.Status != waybill.StatusSucceeded || len(d.Attempts) != 2 {
			for _, a := range d.Attempts {
				t.Errorf("run %s %s: attempt %s/%d %s: %s", id, d.Status, a.Step, a.Number, a.Status, a.Error)
			}
		}
	}
}
