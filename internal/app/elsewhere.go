package app

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/folder"
	"github.com/waybill-run/waybill/internal/cloud/s3"
	"github.com/waybill-run/waybill/internal/intake"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/source/rabbitmq"
	"github.com/waybill-run/waybill/internal/watch"
)

// elsewhere is what comes from other systems.
type elsewhere struct {
	watching   *queue.Worker // of buckets; nil without any
	watches    *watch.Watcher
	intake     *intake.Intake
	stopIntake func()
}

// stop ends what comes in, before what deals with it.
func (e *elsewhere) stop() {
	if e.stopIntake != nil {
		e.stopIntake()
	}
	if e.watching != nil {
		e.watching.Stop()
	}
}

// check tells in the health of a server what cannot be reached. That is no reason to
// send nobody to it any more.
func (e *elsewhere) check(ctx context.Context, checks map[string]string) {
	if e.watches != nil {
		list, err := e.watches.WatchedBuckets(ctx)
		for _, b := range list {
			if checks["bucket "+b.Name] = "ok"; b.Error != "" && err == nil {
				checks["bucket "+b.Name] = b.Error
			}
		}
	}
	if e.intake != nil {
		list, _ := e.intake.Sources(ctx) // it is in memory
		for _, q := range list {
			if checks["source "+q.Name] = "ok"; q.Error != "" {
				checks["source "+q.Name] = q.Error
			}
		}
	}
}

// clouds open buckets by the scheme of their URL.
func clouds() map[string]cloud.Opener {
	all := map[string]cloud.Opener{folder.Scheme: folder.Open, s3.Scheme: s3.Open}
	maps.Copy(all, moreClouds)
	return all
}

// expand puts secrets into a URL. One that is a reference as a whole is taken as it
// is; the secret in a part of it is written so that it stays that part.
func (s *Server) expand(ctx context.Context, text string) (string, error) {
	if strings.HasPrefix(text, "${secret:") && strings.HasSuffix(text, "}") && strings.Count(text, "${") == 1 {
		return s.secrets.Expand(ctx, text)
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${secret:")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", waybill.E(waybill.KindInvalid, "a reference to a secret is not closed with }")
		}
		v, err := s.secrets.Secret(ctx, name)
		if err != nil {
			return "", err
		}
		out.WriteString(strings.ReplaceAll(url.QueryEscape(v), "+", "%20"))
		text = after
	}
}

// openBucket opens a bucket that lies elsewhere.
func (s *Server) openBucket(ctx context.Context, text string) (cloud.Bucket, error) {
	text, err := s.expand(ctx, text)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		// The error of the parser shows the URL, and with it what is secret.
		return nil, waybill.E(waybill.KindInvalid, "its URL cannot be read").WithHint("characters that mean something in a URL are written as %%XX")
	}
	openers := clouds()
	open := openers[u.Scheme]
	if open == nil {
		return nil, waybill.E(waybill.KindUnsupported, "this program opens no buckets of the scheme %q, only %s", u.Scheme, strings.Join(slices.Sorted(maps.Keys(openers)), ", "))
	}
	return open(ctx, u)
}

// watchBuckets begins to watch the buckets of the settings.
func (s *Server) watchBuckets(ctx context.Context, objects *object.Objects, settings project.Settings) error {
	o := watch.Options{
		Store: s.store, Objects: objects, Open: s.openBucket, Settle: s.settle, Node: s.data.node, Logger: s.log,
	}
	for _, b := range settings.Buckets {
		o.Buckets = append(o.Buckets, watch.Bucket{
			Name: b.Name, URL: b.URL, Prefix: b.Prefix, Settle: b.SettleTime(), Poll: time.Duration(b.Poll), TakeEmpty: b.Empty == "take",
			Delete: b.After == "delete", MoveTo: b.MoveTo(), MaxSize: b.MaxSize, Ignore: b.Ignored,
		})
	}
	s.watches = watch.New(o)
	if len(o.Buckets) == 0 {
		return nil
	}
	worker := s.watches.Worker()
	worker.Lease = s.c.Lease
	var err error
	if s.watching, err = queue.Start(ctx, worker); err != nil {
		return err
	}
	s.background.Go(func() { s.watches.Keep(ctx) })
	return nil
}

// takeIn takes messages from the sources of the settings.
func (s *Server) takeIn(ctx context.Context, events *arrival.Events, admit func(context.Context, string) error, settings project.Settings) {
	o := intake.Options{
		Sink: events, Logger: s.log, Admit: func(ctx context.Context) error { return admit(ctx, queue.TopicRun) },
	}
	for _, q := range settings.Sources {
		shown, _, _ := strings.Cut(watch.Redact(q.URL), "?") // a signature may stand there
		f := intake.Feed{Name: q.Name, Kind: q.Kind, URL: shown, Queue: q.Queue, Max: q.Prefetch, MaxDeliveries: q.MaxDeliveries}
		address := func(ctx context.Context) (string, error) { return s.expand(ctx, q.URL) }
		switch q.Kind {
		case project.SourceRabbitMQ:
			f.Source = rabbitmq.New(rabbitmq.Options{URL: address, Queue: q.Queue, Prefetch: q.Prefetch})
		case project.SourceAzureQueue:
			f.Source = azureQueue(q, address)
		}
		o.Feeds = append(o.Feeds, f)
	}
	s.intake = intake.New(o)
	s.observer.metrics.Elsewhere(s.watches, s.intake)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	s.stopIntake = func() { cancel(); <-done }
	go func() {
		defer close(done)
		s.intake.Run(ctx)
	}()
}

// settle is how long the pipelines that an object starts want it to have settled.
func (s *Server) settle(ctx context.Context, bucket, key string) (time.Duration, error) {
	matches, err := s.project.Matching(ctx, bucket, key)
	longest := time.Duration(0)
	for _, m := range matches {
		for _, t := range m.Plan.On.Objects {
			if t.Matches(bucket, key) {
				longest = max(longest, t.Settle)
			}
		}
	}
	return longest, err
}
