package project

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

func settingsOf(text string) (Settings, error) {
	return ReadSettings(fstest.MapFS{"waybill.yaml": {Data: []byte(text)}}, func(name string) (string, bool) {
		v, ok := map[string]string{"HOST": "mail.example.org", "TLS": "false"}[name]
		return v, ok
	})
}

func TestNotifySettings(t *testing.T) {
	t.Parallel()
	s, err := settingsOf(`
telemetry: {otlp: "http://127.0.0.1:4318", pipelines: 7}
notify:
  - {on: [failed, dead_letter], pipeline: "a-*", webhook: {url: "https://example.org/x", secret: "${secret:key}", headers: {X-Team: a}}}
  - name: people
    on: failed
    email: {to: a@example.org, from: b@example.org, smtp: "${env:HOST}:25", starttls: "${env:TLS}"}
`)
	if err != nil {
		t.Fatal(err)
	}
	no := false
	if diff := cmp.Diff([]waybill.NotifyRule{
		{On: []waybill.NotifyEvent{waybill.NotifyFailed, waybill.NotifyDeadLetter}, Pipeline: "a-*", Webhook: &waybill.NotifyWebhook{
			URL: "https://example.org/x", Secret: "${secret:key}", Headers: map[string]string{"X-Team": "a"}}},
		{Name: "people", On: []waybill.NotifyEvent{waybill.NotifyFailed}, Email: &waybill.NotifyEmail{
			To: []string{"a@example.org"}, From: "b@example.org", SMTP: "mail.example.org:25", StartTLS: &no}},
	}, s.Notify); diff != "" {
		t.Error(diff)
	}
	if s.Telemetry != (Telemetry{OTLP: "http://127.0.0.1:4318", Pipelines: 7}) {
		t.Errorf("telemetry %+v", s.Telemetry)
	}
	if d := Default().Telemetry; d != (Telemetry{Pipelines: 100}) {
		t.Errorf("by default %+v", d)
	}
}

func TestBadNotifySettings(t *testing.T) {
	t.Parallel()
	_, err := settingsOf(`telemetry:
  otlp: collector:4318
  pipelines: 0
notify:
  - {on: [burnt], webhook: {url: "https://example.org/x"}}
  - {on: failed, webhok: {url: "https://example.org/x"}}
  - {name: a, on: failed, webhook: {url: "https://example.org/x"}}
  - {name: a, on: failed, webhook: {url: "https://example.org/x"}}
  - {on: failed, webhook: {url: "${env:NOBODY}"}}
`)
	var ps pipeline.Problems
	if !errors.As(err, &ps) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"waybill.yaml:2:9: telemetry.otlp: expected a URL", "waybill.yaml:3:14: telemetry.pipelines", "waybill.yaml:5:5: notify[0]: on: \"burnt\"",
		"waybill.yaml:6:5: notify[1]: unknown key \"webhok\"", "waybill.yaml:8:5: notify[3]: the name a is there twice", "the environment has no variable NOBODY",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if len(ps) != 6 {
		t.Errorf("%d problems, want 6", len(ps))
	}
	if _, err := settingsOf("notify: {on: failed}\n"); err == nil || !strings.Contains(err.Error(), "a list of rules") {
		t.Errorf("no list: %v", err)
	}
}
