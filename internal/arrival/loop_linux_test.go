package arrival_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/app"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/cli"
)

// TestMain lets this program be waybill: as the supervisor of units, and as the
// client inside of them.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "waybill" {
		os.Exit(cli.Run(context.Background(), app.CLI(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// TestLoopEnds runs a pipeline that writes into the bucket by which it is
// started, on a real server with real units.
func TestLoopEnds(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "waybill")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	definition := fmt.Sprintf(`
name: echo
on: {object: {bucket: inbox, match: "*.txt"}}
steps:
  - name: again
    run: [%q, object, put, inbox, "${{ event.object.key }}", "${{ vars.___FILE }}"]
vars: {___FILE: %q}
`, program, filepath.Join(dir, "project", "waybill.yaml"))
	for name, text := range map[string]string{"waybill.yaml": "name: loop\n", "pipelines/echo.yaml": definition} {
		path := filepath.Join(dir, "project", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := app.Start(ctx, app.Config{
		Project: filepath.Join(dir, "project"), Data: filepath.Join(dir, "data"), Listen: "127.0.0.1:0",
		Supervisor: []string{program, "supervise", "--dir"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	c, err := client.New(client.Options{Server: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutObject(ctx, "inbox", "a.txt", "", strings.NewReader("round and round")); err != nil {
		t.Fatal(err)
	}
	for {
		l, err := c.DeadLetters(ctx, "arrival", client.ListDeadLettersParams{})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Items) == 1 {
			if !strings.HasPrefix(l.Items[0].Reason, "loop") {
				t.Errorf("the arrival ended because of %q", l.Items[0].Reason)
			}
			break
		}
		select { // real processes run meanwhile
		case <-ctx.Done():
			t.Fatal("it does not end")
		case <-time.After(50 * time.Millisecond):
		}
	}
	runs, err := c.Runs(ctx, client.ListRunsParams{})
	if err != nil {
		t.Fatal(err)
	}
	if len(runs.Items) != arrival.MaxHops+1 {
		t.Errorf("%d runs, want %d", len(runs.Items), arrival.MaxHops+1)
	}
	for _, r := range runs.Items {
		if err := c.FollowEvents(ctx, r.ID, "", func(client.Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		r, err := c.Run(ctx, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != waybill.StatusSucceeded {
			t.Errorf("run %s ended as %s: %s", r.ID, r.Status, r.Error)
		}
	}
}
