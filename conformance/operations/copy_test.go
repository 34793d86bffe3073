//go:build linux

package operations

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// A stopped server's store moves to PostgreSQL and back; each time a server goes on
// with the open runs and the units that still run.
func TestStoreCopy(t *testing.T) {
	t.Parallel()
	s := harness.New(t, harness.Options{Project: project})
	c := s.Client()
	var ids []string
	for range 30 {
		r, err := c.StartRun(t.Context(), "sim", client.StartRun{}, "")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	finish(t, c, ids...)
	open, err := c.StartRun(t.Context(), "slow", client.StartRun{}, "same-key")
	if err != nil {
		t.Fatal(err)
	}
	harness.Until(t, soon, "the slow unit runs", func() error {
		r, err := c.Run(t.Context(), open.ID)
		if err == nil && (len(r.Attempts) == 0 || r.Attempts[0].Phase != waybill.PhaseRunning) {
			err = errors.New("it does not run")
		}
		return err
	})
	was := finished(t, c)
	from := "sqlite:" + s.DataDir()
	pg := pgSchema(t)
	if out, err := try(s.Command("store", "copy", "--from", from, "--to", pg)); err == nil || !strings.Contains(out, "already uses it") {
		t.Errorf("the store of a running server was copied: %v\n%s", err, out)
	}
	s.Stop()
	out := run(t, s.Command("store", "copy", "--from", from, "--to", pg))
	for _, want := range []string{"run ", "events", "copied and compared"} {
		if !strings.Contains(out, want) {
			t.Errorf("the copy does not tell of %q:\n%s", want, out)
		}
	}
	if out, err := try(s.Command("store", "copy", "--from", from, "--to", pg)); err == nil || !strings.Contains(out, "not empty") {
		t.Errorf("into a store that holds something: %v\n%s", err, out)
	}
	goOn := func(store string, c *client.Client) {
		same(t, c, was)
		again, err := c.StartRun(t.Context(), "slow", client.StartRun{}, "same-key")
		if err != nil || again.ID != open.ID {
			t.Errorf("%s: the idempotency key gives run %s, %v", store, again.ID, err)
		}
		r, err := c.StartRun(t.Context(), "sim", client.StartRun{}, "")
		if err != nil {
			t.Fatal(err)
		}
		finish(t, c, r.ID)
		was[r.ID] = waybill.StatusSucceeded
	}
	url, stop := restored(t, s, s.DataDir(), "--store", pg, "--blobs", s.BlobsDir())
	goOn("postgres", at(t, s, url))
	stop()
	back := filepath.Join(s.Dir(), "back")
	if err := os.Mkdir(back, 0o700); err != nil {
		t.Fatal(err)
	}
	// The unit is a thing of this node, whose name and supervisor go along.
	for _, name := range []string{"node", "secret"} {
		if err := os.WriteFile(filepath.Join(back, name), []byte(read(t, filepath.Join(s.DataDir(), name))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	harness.Until(t, soon, "the store is free", func() error {
		out, err := try(s.Command("store", "copy", "--from", pg, "--to", "sqlite:"+back))
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	if err := os.Rename(filepath.Join(back, "store.db"), filepath.Join(s.DataDir(), "store.db")); err != nil {
		t.Fatal(err)
	}
	url, stop = restored(t, s, s.DataDir(), "--blobs", s.BlobsDir())
	defer stop()
	c = at(t, s, url)
	goOn("sqlite", c)
	if err := os.WriteFile(filepath.Join(s.Dir(), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	finish(t, c, open.ID)
	r, err := c.Run(t.Context(), open.ID)
	if err != nil || len(r.Attempts) != 2 {
		t.Errorf("the open run has %d attempts, %v: its unit ran all the time", len(r.Attempts), err)
	}
}
