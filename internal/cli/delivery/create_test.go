package delivery_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
)

func TestF22_CreateValidation(t *testing.T) {
	b := setup(t)
	connection := []string{"-n", "account", "-k", "key", "-t", "table", "-p", "harbour"}
	for name, x := range map[string]struct{ args, want string }{
		"only the connection":         {"", "no operation"},
		"only a commit":               {"--commit-id c1aaaaa", "no operation"},
		"p3 alone":                    {"--p3 200", "no operation"},
		"p1 without image":            {"--p1 100 --commit-id c1aaaaa --service app", "--image-tag"},
		"p1 without commit":           {"--p1 100 --image-tag app:1 --service app", "--commit-id"},
		"p1 without service":          {"--p1 100 --image-tag app:1 --commit-id c1aaaaa", "--service"},
		"p1 with a blank service":     {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service=", "--service"},
		"p2 without config commit":    {"--p2 101 --image-tag app:1 --env dev", "--hld-commit-id"},
		"p2 without ring":             {"--p2 101 --image-tag app:1 --hld-commit-id 706685f", "--env"},
		"p2 without image":            {"--p2 101 --env dev --hld-commit-id 706685f", "--image-tag"},
		"p1 and p2, where p1 lacks":   {"--p1 100 --p2 101 --image-tag app:1 --env dev --hld-commit-id 706685f", "--p1 needs"},
		"unknown status":              {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app --status great", "--status great"},
		"odd time":                    {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app --time yesterday", "--time yesterday"},
		"unknown output":              {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app -o wide", "text, json"},
		"a blank name of the account": {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app --name=", "--name"},
		"a blank key":                 {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app --access-key=", "--access-key"},
		"a blank table":               {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app --table-name=", "--table-name"},
		"a partition of blanks":       {"--p1 100 --image-tag app:1 --commit-id c1aaaaa --service app --partition-key=\u00a0", "--partition-key"},
	} {
		b.Run(name, func(t *testing.T) {
			c := *b
			c.T = t
			c.fails(append(append([]string{"create"}, connection...), strings.Fields(x.args)...), "code: 1001", x.want)
		})
	}
	b.http = nil // it is known to be against the contract
	b.fails([]string{"create", "--p1", "100", "--commit-id", "c1aaaaa", "--service", "app", "--image-tag", strings.Repeat("x", 600)}, "code: 1001", "image_tag")
	if names, err := b.service.DeliveryPartitions(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("partitions %q were written to, %v", names, err)
	}
	if code, _, errs := b.run("create", "--p7", "1"); code != 2 {
		t.Errorf("an unknown flag exits with %d: %s", code, errs)
	}
}

// The writes of T1, as a pipeline makes them, and again.
func TestF22_CreateReports(t *testing.T) {
	b := setup(t)
	chain := [][]string{
		{"create", "--p1", "100", "--image-tag", "app:1", "--commit-id", "c1aaaaa", "--service", "team/app", "--repository", "https://user:secret@git.example.org/app"},
		{"c", "--p2", "101", "--image-tag", "APP:1", "--hld-commit-id", "706685f", "--env", "Dev", "--pr", "7"},
		{"create", "--p3", "200", "--hld-commit-id", "bbbbbbb9", "--pr", "7"},
		{"create", "--p3", "200", "--manifest-commit-id", "b3a3345", "--status", "Succeeded", "--queue-time", "2026-03-01T08:00:00Z", "--start-time", "2026-03-01T08:00:10+00:00", "--finish-time", "2026-03-01T08:01:30Z"},
	}
	for range 3 {
		for _, args := range chain {
			b.ok(args...)
		}
	}
	rows := b.rows()
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	d := rows[0]
	if d.Ring != "dev" || d.ConfigCommit != "bbbbbbb9" || d.PullRequest != "7" || d.ManifestCommit != "b3a3345" || d.Status != waybill.DeploymentComplete || strings.Contains(d.SourceRepo, "secret") {
		t.Errorf("the row is %+v", d)
	}
	if row := b.list()[0]; row["duration"] != "1.50" {
		t.Errorf("it took %v minutes, want 1.50", row["duration"])
	}
	var res struct {
		Action      string
		Deployments []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(b.ok(append(chain[0], "-o", "json")...)), &res); err != nil || res.Action != "repeated" || len(res.Deployments) != 1 || res.Deployments[0].ID != d.ID {
		t.Errorf("a repetition says %+v, %v", res, err)
	}
	if out := b.ok("create", "--p2", "102", "--image-tag", "app:1", "--hld-commit-id", "aaaaaaa2", "--env", "prod"); !strings.HasPrefix(out, "copied ") || !strings.Contains(out, " app prod app:1") {
		t.Errorf("another ring says %q", out)
	}
	if out := b.ok("create", "--p2", "103", "--image-tag", "lost:1", "--hld-commit-id", "aaaaaaa3", "--env", "prod"); !strings.HasPrefix(out, "unlinked ") {
		t.Errorf("an orphan says %q", out)
	}
	before := len(b.rows())
	b.fails([]string{"create", "--p3", "999", "--manifest-commit-id", "fffffff"}, "code: 2000", "introspect-create-cmd-no-generation", "999")
	inbox, err := b.service.Unlinked(t.Context(), "", 50, "")
	if err != nil || len(b.rows()) != before {
		t.Errorf("%d rows, want %d; %v", len(b.rows()), before, err)
	}
	waits := false
	for _, x := range inbox.Items {
		waits = waits || strings.Contains(x.What, "999")
	}
	if !waits {
		t.Errorf("the inbox does not hold the run nobody told of: %+v", inbox.Items)
	}
	code, _, errs := b.run("create", "--p1", "300", "--p2", "301", "--image-tag", "both:1", "--commit-id", "c3aaaaa", "--service", "app", "--hld-commit-id", "aaaaaaa4", "--env", "dev")
	if code != 0 || !strings.Contains(errs, "--p1 and --p2") {
		t.Errorf("p1 and p2 together: exit %d, %q", code, errs)
	}
	if rows := b.list("-i", "both:1"); len(rows) != 1 || rows[0]["environment"] != nil {
		t.Errorf("p1 and p2 together made %v", rows)
	}
}

// Every word of every provider, at each stage.
func TestF38_CanonicalStatus(t *testing.T) {
	words := []struct{ provider, state, result, want string }{}
	add := func(want, provider string, pairs ...string) {
		for _, p := range pairs {
			state, result, _ := strings.Cut(p, "/")
			words = append(words, struct{ provider, state, result, want string }{provider, state, result, want})
		}
	}
	add("queued", "azdo", "notStarted", "postponed")
	add("running", "azdo", "inProgress", "cancelling")
	add("succeeded", "azdo", "completed/succeeded")
	add("failed", "azdo", "completed/failed", "completed/partiallySucceeded")
	add("canceled", "azdo", "completed/canceled")
	add("queued", "azdo-release", "notDeployed")
	add("running", "azdo-release", "inProgress")
	add("succeeded", "azdo-release", "succeeded")
	add("failed", "azdo-release", "failed", "partiallySucceeded")
	add("queued", "github", "queued", "requested", "waiting", "pending")
	add("running", "github", "in_progress")
	add("succeeded", "github", "completed/success", "completed/neutral")
	add("failed", "github", "completed/failure", "completed/timed_out", "completed/startup_failure", "completed/action_required")
	add("canceled", "github", "completed/cancelled", "completed/stale")
	add("skipped", "github", "completed/skipped")
	add("queued", "gitlab", "created", "waiting_for_resource", "preparing", "pending", "scheduled", "manual")
	add("running", "gitlab", "running", "canceling")
	add("succeeded", "gitlab", "success")
	add("failed", "gitlab", "failed")
	add("canceled", "gitlab", "canceled")
	add("skipped", "gitlab", "skipped")
	label := map[string]string{"queued": "In Progress", "running": "In Progress", "failed": "failed", "canceled": "canceled"}
	b := setup(t)
	n := 0
	for _, w := range words {
		outcome, ok := delivery.Outcome(w.provider, w.state, w.result)
		if !ok || string(outcome) != w.want {
			t.Errorf("%s %s/%s is %q, want %s", w.provider, w.state, w.result, outcome, w.want)
			continue
		}
		for position, stage := range []waybill.Stage{waybill.StageBuild, waybill.StageConfig, waybill.StageManifest} {
			n++
			tag := "app:" + itoa(n)
			status := func(i int) waybill.Outcome {
				if i == position {
					return outcome
				}
				return waybill.StatusSucceeded
			}
			chain := []waybill.DeliveryReport{
				{Kind: waybill.ReportBuild, Run: "b" + itoa(n), ImageTag: tag, Service: "app", Commit: "c1aaaaa", Status: status(0)},
				{Kind: waybill.ReportConfig, Run: "c" + itoa(n), ImageTag: tag, Ring: "dev", ConfigCommit: "commit-" + itoa(n), Status: status(1)},
				{Kind: waybill.ReportManifest, Run: "m" + itoa(n), ConfigCommit: "commit-" + itoa(n), Status: status(2)},
			}
			b.feed(chain[:position+1])
			rows, err := b.service.Deployments(context.Background(), waybill.DeploymentFilter{ImageTag: tag})
			if err != nil || len(rows.Items) != 1 {
				t.Fatalf("%s: %d rows, %v", tag, len(rows.Items), err)
			}
			want := label[w.want]
			if want == "" {
				want = "Incomplete" // it went well so far, and there is more to come
				if stage == waybill.StageManifest && w.want == "succeeded" {
					want = "Complete"
				}
			}
			if got := b.list("-i", tag)[0]["status"]; got != want {
				t.Errorf("%s %s/%s at %s: %v, want %s", w.provider, w.state, w.result, stage, got, want)
			}
		}
	}
	// A build that succeeded does not make a deployment complete whose manifests failed.
	github := func(conclusion string) waybill.Outcome {
		o, _ := delivery.Outcome("github", "completed", conclusion)
		return o
	}
	b.feed([]waybill.DeliveryReport{
		{Kind: waybill.ReportBuild, Provider: "github", Run: "1", ImageTag: "hub:1", Service: "hub", Commit: "c1aaaaa", Status: github("success")},
		{Kind: waybill.ReportConfig, Provider: "github", Run: "2", ImageTag: "hub:1", Ring: "dev", ConfigCommit: "7066850", Status: github("success")},
		{Kind: waybill.ReportManifest, Provider: "github", Run: "3", ConfigCommit: "7066850", Status: github("failure")},
	})
	if got := b.list("-i", "hub:1")[0]["status"]; got != "failed" {
		t.Errorf("GitHub with failed manifests is %v, want failed", got)
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}
