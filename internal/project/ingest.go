package project

import (
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// Ingest is a source of what tools of deliveries send, under deliveries.ingest.
type Ingest struct {
	Name      string
	Format    string
	Secret    string // references to secrets still stand in it
	Token     string // and here
	Partition string
	Cluster   string
	Ring      string
	Stage     string
}

// IngestFormats are the formats that sources of deliveries have.
var IngestFormats = []string{"native", "flux", "argocd", "cdevents", "github", "gitlab", "connector"}

// Outbound says who is told of deliveries.
type Outbound struct {
	CDEvents CDEvents
	// Traces: the collector of telemetry.otlp is sent one trace for each deployment.
	Traces string // "off" or "on"
}

// CDEvents is a receiver of CDEvents.
type CDEvents struct {
	URL    string // references to secrets still stand in it; empty tells nobody
	Secret string // and here
	Token  string // and here
	Source string // context.source of the events; empty is the server's address
}

// outbound are the fields of what is sent out and taken in of deliveries.
func (s *Settings) deliveries() map[string]any {
	return map[string]any{
		"deliveries.ingest": named(func(name string) map[string]any {
			x := &Ingest{Name: name}
			s.Ingest = append(s.Ingest, x)
			return map[string]any{
				"format": &x.Format, "secret": &x.Secret, "token": &x.Token, "partition": &x.Partition, "cluster": &x.Cluster, "ring": &x.Ring, "stage": &x.Stage,
			}
		}),
		"deliveries.cdevents.url":    &s.Outbound.CDEvents.URL,
		"deliveries.cdevents.secret": &s.Outbound.CDEvents.Secret,
		"deliveries.cdevents.token":  &s.Outbound.CDEvents.Token,
		"deliveries.cdevents.source": &s.Outbound.CDEvents.Source,
		"deliveries.traces":          &s.Outbound.Traces,
	}
}

func (s Settings) checkDeliveries(add func(path, format string, args ...any)) {
	for _, x := range s.Ingest {
		at := "deliveries.ingest." + x.Name
		if x.Format == "" && slices.Contains(IngestFormats, x.Name) {
			x.Format = x.Name // the name says it
		}
		if !slices.Contains(IngestFormats, x.Format) {
			add(at+".format", "expected one of %s", strings.Join(IngestFormats, ", "))
		}
		if x.Stage != "" && !slices.Contains([]string{string(waybill.StageBuild), string(waybill.StageConfig), string(waybill.StageManifest)}, x.Stage) {
			add(at+".stage", "expected build, config or manifest")
		}
		for key, v := range map[string]string{"partition": x.Partition, "cluster": x.Cluster, "ring": x.Ring} {
			if len(v) > 128 {
				add(at+"."+key, "expected at most 128 bytes")
			}
		}
		for key, v := range map[string]string{"secret": x.Secret, "token": x.Token} {
			if v != "" && len(v) < 8 {
				add(at+"."+key, "expected ${secret:NAME}, or at least 8 bytes")
			}
		}
	}
	if u := s.Outbound.CDEvents.URL; u != "" && !strings.HasPrefix(u, "${secret:") && !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
		add("deliveries.cdevents.url", "expected a URL such as https://events.example.com/cdevents")
	}
	if t := s.Outbound.Traces; t != "" && t != "on" && t != "off" {
		add("deliveries.traces", "expected on or off")
	}
}
