package app

import (
	"context"
	"os"
	"regexp"
	"slices"

	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/outbound/cdevents"
	"github.com/waybill-run/waybill/internal/delivery/outbound/otlp"
	"github.com/waybill-run/waybill/internal/project"
)

// deliverySinks are the systems that are told of deliveries, as far as they are set up.
func (s *Server) deliverySinks(settings project.Settings) ([]outbound.Sink, error) {
	var out []outbound.Sink
	guarded := outbound.Client(settings.HTTP.Guard().Control)
	if c := settings.Outbound.CDEvents; c.URL != "" {
		out = append(out, cdevents.New(cdevents.Options{
			URL: c.URL, Secret: c.Secret, Token: c.Token, Expand: s.expandSecrets, Client: guarded,
			Source: func() string {
				if c.Source != "" {
					return c.Source
				}
				return s.callbackURL()
			},
		}))
	}
	if settings.Outbound.Traces == "on" {
		t, err := otlp.New(otlp.Options{Endpoint: settings.Telemetry.OTLP, Env: os.LookupEnv, Version: s.c.Version.Version, Node: s.data.node})
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	if slices.ContainsFunc(settings.Providers, func(p *project.DeliveryProvider) bool { return p.Status != "off" }) {
		out = append(out, s.polling.poller.Writeback())
	}
	return out, nil
}

// tellDeliveries begins to tell the sinks.
func (s *Server) tellDeliveries(ctx context.Context, settings project.Settings) error {
	sinks, err := s.deliverySinks(settings)
	if err != nil {
		return err
	}
	s.told, err = outbound.Start(ctx, outbound.Options{Store: s.store, Log: s.deliveries, Sinks: sinks, Owner: s.data.node, Lease: s.c.Lease, Logger: s.log})
	return err
}

var secretRef = regexp.MustCompile(`\$\{secret:([A-Za-z_][A-Za-z0-9_.-]*)\}`)

// expandSecrets puts the values of secrets in the place of references to them.
func (s *Server) expandSecrets(ctx context.Context, text string) (string, error) {
	var first error
	out := secretRef.ReplaceAllStringFunc(text, func(ref string) string {
		v, err := s.secrets.Secret(ctx, secretRef.FindStringSubmatch(ref)[1])
		if err != nil && first == nil {
			first = err
		}
		return v
	})
	return out, first
}
