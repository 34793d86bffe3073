package app

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/poll"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/azuredevops"
	"github.com/waybill-run/waybill/internal/delivery/provider/github"
	"github.com/waybill-run/waybill/internal/delivery/provider/gitlab"
	"github.com/waybill-run/waybill/internal/netguard"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
)

// polling is what asks providers for what deliveries lack.
type polling struct {
	poller *poll.Poller
	worker *queue.Worker
}

// stop lets go of the lane: another server polls.
func (p *polling) stop() {
	if p.worker != nil {
		p.worker.Stop()
	}
}

// check tells in the health of a server which providers cannot be asked. That is no reason
// to send nobody to it any more.
func (p *polling) check(ctx context.Context, checks map[string]string) {
	if p.poller == nil {
		return
	}
	list, err := p.poller.DeliveryProviders(ctx)
	if err != nil {
		return // the store is checked by itself
	}
	for _, x := range list {
		name := "provider " + x.Name
		switch {
		case x.Error != "":
			checks[name] = x.Error
		case x.Status == waybill.ProviderLimited:
			checks[name] = "it wants no calls until " + x.LimitedUntil.Format(time.RFC3339)
		case len(x.Notes) > 0:
			checks[name] = strings.Join(x.Notes, "; ")
		default:
			checks[name] = "ok"
		}
	}
}

// examine looks how the providers of deliveries fare.
func (p *polling) examine(e *examination) {
	list, err := p.poller.DeliveryProviders(e.ctx)
	if err != nil {
		e.problem("deliveries", err)
		return
	}
	for _, x := range list {
		check := "provider " + x.Name
		age := "it has not answered yet"
		if x.Age >= 0 {
			age = "it answered " + (time.Duration(x.Age) * time.Second).String() + " ago"
		}
		switch {
		case x.Error != "":
			e.add(check, waybill.FindingFail, "what is shown of its deployments is what it told last; waybill deployment providers tells more", "%s; %s", x.Error, age)
		case x.Stale || x.Status == waybill.ProviderLimited:
			e.add(check, waybill.FindingWarn, "raise deliveries.interval, or name fewer repositories", "%s, and calls are limited", age)
		case len(x.Notes) > 0:
			e.add(check, waybill.FindingWarn, "", "%s", strings.Join(x.Notes, "; "))
		default:
			e.add(check, waybill.FindingOK, "", "%s, with %d calls", age, x.Calls)
		}
	}
}

// pollConfig is what the settings say of polling.
func pollConfig(s project.Settings) poll.Config {
	c := poll.Config{Interval: time.Duration(s.Polling.Interval), Rows: s.Polling.Rows, Calls: s.Polling.Calls}
	for _, x := range s.Providers {
		src := poll.Source{
			Name: x.Name, Kind: x.Kind, Token: x.Token, Project: x.Project, Repositories: x.Repositories, Partitions: x.Partitions,
			SourceRepo: x.Source, ConfigRepo: x.Config, ManifestRepo: x.Manifest, TagPrefix: x.TagPrefix,
		}
		if x.Status != "off" {
			src.Status = x.Status
		}
		for _, stage := range x.Stages {
			src.Stages = append(src.Stages, waybill.Stage(stage))
		}
		// Both were checked when they were read.
		if u, err := url.Parse(strings.TrimRight(x.PageURL(), "/")); err == nil {
			src.URL = u
		}
		if u, err := url.Parse(strings.TrimRight(x.API, "/")); err == nil && u.Host != "" {
			src.API = u
		}
		c.Sources = append(c.Sources, src)
	}
	return c
}

// newProvider makes the provider of a source.
func (s *Server) newProvider(src poll.Source) (provider.Provider, error) {
	o := provider.Options{
		Name: src.Name, API: src.API, Agent: "waybill/" + s.c.Version.Version,
		Guard: func() netguard.Guard { return s.project.Settings().HTTP.Guard() },
		Token: func(ctx context.Context) (string, error) {
			if src.Token == "" {
				return "", nil
			}
			return s.secrets.Expand(ctx, src.Token)
		},
	}
	switch src.Kind {
	case provider.AzureDevOps:
		return azuredevops.New(src.URL, src.Project, o), nil
	case provider.GitHub:
		return github.New(src.URL, o), nil
	case provider.GitLab:
		return gitlab.New(src.URL, o), nil
	}
	return nil, waybill.E(waybill.KindUnsupported, "there are no providers of the kind %q", src.Kind)
}

// newPoller makes the poller of the settings.
func (s *Server) newPoller(settings project.Settings) {
	s.polling.poller = poll.New(poll.Options{
		Store: s.store, Deliveries: s.deliveries, New: s.newProvider, Config: pollConfig(settings), Node: s.data.node, Lease: s.c.Lease, Logger: s.log,
	})
}

// pollDeliveries lets this server poll, when its turn comes.
func (s *Server) pollDeliveries(ctx context.Context) error {
	var err error
	if s.polling.worker, err = queue.Start(ctx, s.polling.poller.Worker()); err != nil {
		return err
	}
	s.background.Go(func() { s.polling.poller.Keep(ctx) })
	return nil
}
