package waybill

import (
	"context"
	"time"
)

// IngestRequest is what a tool sent to POST /ingest/{source}.
type IngestRequest struct {
	Source string
	Header map[string][]string
	Body   []byte
	By     Principal // of a source that is opened by tokens of the server
}

// IngestSource is a way in for what the tools of deliveries send.
type IngestSource struct {
	Name   string `json:"name"`
	Format string `json:"format"` // "native", "flux", "argocd", "cdevents", "github", "gitlab" or "connector"
	// Auth is what a request must bring: "signature", "token" (the source's own), both as
	// "signature and token", or "server", a token of the server with the role reporter.
	Auth      string `json:"auth"`
	Partition string `json:"partition,omitempty"`
	Cluster   string `json:"cluster,omitempty"` // the one that it speaks for
	Ring      string `json:"ring,omitempty"`
	Stage     Stage  `json:"stage,omitempty"` // of runs that do not say
}

// Received is something that was sent to a source, and what came of it.
type Received struct {
	ID      string         `json:"id"`
	Source  string         `json:"source"`
	Format  string         `json:"format"`
	At      time.Time      `json:"at"`
	Type    string         `json:"type,omitempty"` // what its sender calls it
	Subject string         `json:"subject,omitempty"`
	Reports []IngestReport `json:"reports"`
	// Reason says why it made no report, where it made none.
	Reason string `json:"reason,omitempty"`
	// Fresh: it was not received before.
	Fresh bool `json:"fresh"`
	// Body is what was sent, without secrets that the server knows and cut at 16 KiB; in
	// lists it is left out.
	Body string `json:"body,omitempty"`
}

// IngestReport is a report that was made of something received.
type IngestReport struct {
	Event       string       `json:"event"`
	Kind        ReportKind   `json:"kind"`
	Action      ReportAction `json:"action"`
	Deployments []string     `json:"deployments"` // their ids
	Warning     string       `json:"warning,omitempty"`
}

// Ingest takes in what the tools of deliveries send by themselves.
type Ingest interface {
	// IngestSource finds a source by its name. KindNotFound.
	IngestSource(ctx context.Context, name string) (IngestSource, error)
	// IngestSources lists them by name.
	IngestSources(ctx context.Context) ([]IngestSource, error)
	// Ingest checks signature and token as the source wants it, makes reports of what was
	// sent and returns when they are durable. The same again is answered the same and
	// changes nothing. What is understood and tells of nothing is kept with the reason.
	// KindUnauthorized: signature or token are missing or wrong. KindMalformed: it cannot
	// be read. KindInvalid: something that is needed is not in it, such as the cluster.
	Ingest(ctx context.Context, r IngestRequest) (Received, error)
	// ReceivedList lists what a source (all, when empty) was sent, newest first. It is kept for
	// 30 days.
	ReceivedList(ctx context.Context, source string, limit int, cursor string) (Page[Received], error)
	// ReceivedOne finds one with its body. KindNotFound.
	ReceivedOne(ctx context.Context, id string) (Received, error)
}
