package project_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
)

func readSettings(text string) (project.Settings, error) {
	return project.ReadSettings(fstest.MapFS{"waybill.yaml": &fstest.MapFile{Data: []byte(text)}}, func(name string) (string, bool) {
		return "value-of-" + name, name == "KNOWN"
	})
}

func TestBucketsAndSources(t *testing.T) {
	t.Parallel()
	s, err := readSettings(`
buckets:
  inbox:
    url: file:///srv/inbox
  far:
    url: s3://${env:KNOWN}:${secret:S3}@name?region=x
    prefix: incoming/
    settle: 2s
    poll: 1m
    empty: take
    after: move:done/
    max_size: 1GiB
    ignore: ["*.part"]
sources:
  orders: {kind: rabbitmq, url: "amqp://localhost/", queue: orders, prefetch: 5}
  jobs: {kind: azure-queue, url: "https://account:key@account.queue.core.windows.net", queue: jobs, visibility: 2m, encoding: base64, max_deliveries: 3}
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Buckets) != 2 || len(s.Sources) != 2 {
		t.Fatalf("%d buckets and %d sources", len(s.Buckets), len(s.Sources))
	}
	inbox, far := *s.Buckets[0], *s.Buckets[1]
	if inbox.SettleTime() != 5*time.Second || inbox.Poll != project.Duration(30*time.Second) || inbox.After != "keep" || !inbox.Ignored("a/.hidden") || inbox.Ignored("a/shown") {
		t.Errorf("defaults of a folder: %+v", inbox)
	}
	if far.URL != "s3://value-of-KNOWN:${secret:S3}@name?region=x" || far.SettleTime() != 2*time.Second || far.MoveTo() != "done/" || far.MaxSize != 1<<30 || !far.Ignored("x.part") || far.Ignored(".x") {
		t.Errorf("%+v", far)
	}
	if jobs := s.Sources[1]; jobs.Visibility != project.Duration(2*time.Minute) || jobs.Encoding != "base64" || jobs.MaxDeliveries != 3 || jobs.Prefetch != 16 {
		t.Errorf("%+v", jobs)
	}
}

func TestMistakesInBucketsAndSources(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"buckets: [a]":                                                                "waybill.yaml:1:10: buckets: expected an object",
		"buckets: {Inbox: {url: file:///a}}":                                          "is no name",
		"buckets: {a: {}}":                                                            "buckets.a: it has no url",
		"buckets: {a: {url: /srv/inbox}}":                                             "buckets.a.url: expected file:///PATH",
		"buckets: {a: {url: ftp://x}}":                                                "buckets.a.url",
		"buckets: {a: {url: file:///a, pol: 1s}}":                                     "unknown key buckets.a.pol",
		"buckets: {a: {url: file:///a, poll: 0s}}":                                    "buckets.a.poll: expected 1s to 24h",
		"buckets: {a: {url: file:///a, empty: maybe}}":                                "buckets.a.empty",
		"buckets: {a: {url: file:///a, after: move:done}}":                            "buckets.a.after",
		"buckets: {a: {url: file:///a, after: burn}}":                                 "buckets.a.after",
		"buckets: {a: {url: file:///a, max_size: 0}}":                                 "buckets.a.max_size",
		"buckets: {a: {url: 's3://${env:UNKNOWN}@x'}}":                                "the environment has no variable UNKNOWN",
		"buckets: {a: {url: file:///a}, a: {url: file:/b}}":                           "",
		"sources: {a: {queue: q}}":                                                    "sources.a: it has no kind",
		"sources: {a: {kind: kafka, url: x, queue: q}}":                               "sources.a.kind",
		"sources: {a: {kind: rabbitmq, queue: q}}":                                    "sources.a: it has no url",
		"sources: {a: {kind: rabbitmq, url: 'http://x', queue: q}}":                   "sources.a.url: expected a URL of the scheme amqp or amqps",
		"sources: {a: {kind: rabbitmq, url: 'amqp://x'}}":                             "sources.a.queue",
		"sources: {a: {kind: rabbitmq, url: 'amqp://x', queue: q, prefetch: 0}}":      "sources.a.prefetch",
		"sources: {a: {kind: azure-queue, url: 'http://x', queue: q, encoding: rot}}": "sources.a.encoding",
	} {
		_, err := readSettings(text)
		var ps pipeline.Problems
		if !errors.As(err, &ps) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
