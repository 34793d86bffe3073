package pipeline_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

func TestLabelsAndNotify(t *testing.T) {
	t.Parallel()
	const src = `
name: nightly
labels: {team: data, app.kubernetes.io/part-of: "reports ${env:STAGE}"}
notify:
  - {on: failed, webhook: {url: "https://example.org/${env:STAGE}", secret: "${secret:hook}", headers: {Authorization: "Bearer ${secret:token}"}}}
  - {on: [failed, recovered], email: {to: ops@example.org, from: w@example.org, smtp: mail.example.org, user: w, password: "${secret:mail}", starttls: false}}
steps: [{name: one, run: ["true"]}]
`
	p, err := pipeline.Parse("x.yaml", []byte(src), pipeline.Options{Env: func(string) (string, bool) { return "prod", true }})
	if err != nil {
		t.Fatal(err)
	}
	no := false
	if diff := cmp.Diff(map[string]string{"team": "data", "app.kubernetes.io/part-of": "reports prod"}, p.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]waybill.NotifyRule{
		{On: []waybill.NotifyEvent{waybill.NotifyFailed}, Webhook: &waybill.NotifyWebhook{URL: "https://example.org/prod", Secret: "${secret:hook}", Headers: map[string]string{"Authorization": "Bearer ${secret:token}"}}},
		{On: []waybill.NotifyEvent{waybill.NotifyFailed, waybill.NotifyRecovered}, Email: &waybill.NotifyEmail{
			To: []string{"ops@example.org"}, From: "w@example.org", SMTP: "mail.example.org", User: "w", Password: "${secret:mail}", StartTLS: &no,
		}},
	}, p.Notify); diff != "" {
		t.Error(diff)
	}
	one, err := pipeline.Parse("x.yaml", []byte("name: a\nnotify: {on: lost, webhook: {url: \"http://h/\"}}\nsteps: [{name: one, run: [x]}]\n"), pipeline.Options{})
	if err != nil || len(one.Notify) != 1 || one.Labels != nil {
		t.Errorf("a single rule: %+v, %v", one, err)
	}
}
