// Package cdevents tells a receiver of CDEvents (https://cdevents.dev, specification 0.5)
// what becomes of deliveries: builds, artifacts, pipeline runs, changes, services and
// incidents, as CloudEvents 1.0 in structured mode over HTTP.
package cdevents

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
)

// SpecVersion is the version of CDEvents that is spoken; the types are of version 0.3.0
// in it.
const SpecVersion = "0.5.1"

// Options of a Sink.
type Options struct {
	URL    string // may refer to secrets, which Expand resolves
	Secret string // signs events in X-Signature, as sha256=HEX of the body; likewise
	Token  string // sent in Authorization: Bearer; likewise
	Source func() string
	Expand func(ctx context.Context, s string) (string, error) // nil changes nothing
	Client *http.Client
}

// Sink implements outbound.Sink.
type Sink struct{ o Options }

// New returns a sink that calls nobody until it is asked to.
func New(o Options) *Sink {
	if o.Expand == nil {
		o.Expand = func(_ context.Context, s string) (string, error) { return s, nil }
	}
	if o.Client == nil {
		o.Client = outbound.Client(nil)
	}
	if o.Source == nil {
		o.Source = func() string { return "" }
	}
	return &Sink{o}
}

// Name implements outbound.Sink.
func (*Sink) Name() string { return "cdevents" }

// fact is something that has become so.
type fact struct {
	id      []string // what makes it this fact and no other
	what    string   // subject.predicate
	subject string
	at      time.Time
	content map[string]any
	custom  map[string]any
}

// Plan implements outbound.Sink. What was learned from CDEvents is not told again: two
// servers that tell each other would go on for ever.
func (s *Sink) Plan(_ context.Context, c outbound.Change) ([]outbound.Message, error) {
	if c.Event.Report.Provider == "cdevents" {
		return nil, nil
	}
	var out []outbound.Message
	for i := range c.Deployments {
		d := &c.Deployments[i]
		for _, f := range facts(d) {
			id := hash(append([]string{c.Partition, f.what}, f.id...)...)
			context := map[string]any{
				"specversion": SpecVersion, "id": id, "type": "dev.cdevents." + f.what + ".0.3.0", "timestamp": f.at.UTC().Format(time.RFC3339Nano),
				"chainId": hash("chain", c.Partition, cmp.Or(d.ImageDigest, d.ImageTag), d.Service),
			}
			custom := map[string]any{"deployment": d.ID, "partition": c.Partition}
			for k, v := range f.custom {
				custom[k] = v
			}
			body, err := json.Marshal(map[string]any{
				"context": context, "subject": map[string]any{"id": f.subject, "content": f.content}, "customData": custom, "customDataContentType": "application/json",
			})
			if err != nil {
				return nil, err
			}
			out = append(out, outbound.Message{ID: id, Lane: c.Partition + "/" + d.ID, Body: body})
		}
	}
	return out, nil
}

// facts are what a row says, in the order of the way.
func facts(d *waybill.Deployment) []fact {
	var out []fact
	image := PURL(d)
	if d.Build != nil {
		for _, r := range d.Build.Runs {
			if f, ok := run(d, &r, "build", "build"); ok {
				if f.what == "build.finished" && image != "" && r.Status == waybill.StatusSucceeded {
					f.content["artifactId"] = image
				}
				out = append(out, f)
			}
		}
		if last := d.Build.Last(); image != "" && last != nil && last.Status == waybill.StatusSucceeded && d.Commit != "" {
			out = append(out, fact{
				id: []string{image, d.Commit}, what: "artifact.packaged", subject: image, at: ended(last),
				content: map[string]any{"change": trim(map[string]any{"id": d.Commit, "source": d.SourceRepo})}, custom: map[string]any{"service": d.Service},
			})
		}
	}
	for _, st := range []*waybill.DeploymentStage{d.Config, d.Manifest} {
		if st == nil {
			continue
		}
		for _, r := range st.Runs {
			if f, ok := run(d, &r, "pipelinerun", string(st.Stage)); ok {
				f.content["pipelineName"] = string(st.Stage)
				out = append(out, f)
			}
		}
	}
	if v := d.Review; v != nil && d.PullRequest != "" {
		predicate := map[waybill.ReviewState]string{waybill.ReviewOpen: "created", waybill.ReviewMerged: "merged", waybill.ReviewClosed: "abandoned"}[v.State]
		if predicate != "" {
			out = append(out, fact{
				id: []string{d.ConfigRepo, d.PullRequest}, what: "change." + predicate, subject: d.PullRequest, at: v.UpdatedAt,
				content: map[string]any{"repository": trim(map[string]any{"id": cmp.Or(d.ConfigRepo, "config"), "source": d.ConfigRepo})}, custom: trim(map[string]any{"merge_commit": v.MergeCommit}),
			})
		}
	}
	if image == "" || d.Ring == "" {
		return out
	}
	for _, c := range d.Clusters {
		place := map[string]any{"environment": trim(map[string]any{"id": d.Ring, "source": c.Cluster}), "artifactId": image}
		custom := map[string]any{"cluster": c.Cluster, "ring": d.Ring, "service": d.Service}
		service := cmp.Or(d.DisplayService(), image)
		at := func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
		if c.State == waybill.ClusterApplied || c.State == waybill.ClusterHealthy {
			out = append(out, fact{id: []string{d.ID, c.Cluster, at(c.Since)}, what: "service.deployed", subject: service, at: c.Since, content: place, custom: custom})
		}
		if !c.FailedAt.IsZero() {
			bad := map[string]any{"description": c.Message, "service": map[string]any{"id": service}, "environment": place["environment"], "artifactId": image}
			out = append(out, fact{id: []string{d.ID, c.Cluster, at(c.FailedAt)}, what: "incident.detected", subject: d.ID + "-" + c.Cluster, at: c.FailedAt, content: trim(bad), custom: custom})
			if c.State == waybill.ClusterHealthy && c.UpdatedAt.After(c.FailedAt) {
				out = append(out, fact{id: []string{d.ID, c.Cluster, at(c.FailedAt)}, what: "incident.resolved", subject: d.ID + "-" + c.Cluster, at: c.UpdatedAt, content: trim(bad), custom: custom})
			}
		}
		if !c.HealthyAt.IsZero() {
			out = append(out, fact{id: []string{d.ID, c.Cluster, at(c.HealthyAt)}, what: "service.published", subject: service, at: c.HealthyAt, content: place, custom: custom})
		}
	}
	return out
}

// run is the state of a run.
func run(d *waybill.Deployment, r *waybill.StageRun, subject, stage string) (fact, bool) {
	f := fact{
		id: []string{stage, r.Run, strconv.Itoa(r.Attempt), string(r.Status)}, subject: r.Run, at: r.StatusAt, content: trim(map[string]any{"uri": r.URL}),
		custom: trim(map[string]any{"stage": stage, "service": d.Service, "ring": d.Ring}),
	}
	if r.Run == "" {
		return f, false
	}
	if subject == "build" {
		delete(f.custom, "ring") // the same build goes to several
		f.content = map[string]any{}
	}
	switch r.Status {
	case waybill.StatusQueued:
		f.what = subject + ".queued"
	case waybill.StatusRunning:
		f.what = subject + ".started"
	case waybill.StatusSucceeded, waybill.StatusFailed, waybill.StatusCanceled:
		f.what, f.at = subject+".finished", ended(r)
		f.content["outcome"] = map[waybill.Outcome]string{waybill.StatusSucceeded: "success", waybill.StatusFailed: "failure", waybill.StatusCanceled: "cancel"}[r.Status]
	default:
		return f, false
	}
	return f, true
}

func ended(r *waybill.StageRun) time.Time {
	if !r.FinishedAt.IsZero() {
		return r.FinishedAt
	}
	return r.StatusAt
}

// trim leaves out what is empty.
func trim(m map[string]any) map[string]any {
	for k, v := range m {
		if v == "" {
			delete(m, k)
		}
	}
	return m
}

// PURL is the package URL of a row's image, empty when it has none.
func PURL(d *waybill.Deployment) string {
	tag := d.ImageTag
	if tag == "" && d.ImageDigest == "" {
		return ""
	}
	repo := tag
	if i := strings.LastIndex(tag, ":"); i > strings.LastIndex(tag, "/") {
		repo, tag = tag[:i], tag[i+1:]
	} else {
		tag = ""
	}
	repo = cmp.Or(repo, d.DisplayService(), "image")
	name := strings.ToLower(repo[strings.LastIndex(repo, "/")+1:])
	out := "pkg:oci/" + url.PathEscape(name)
	if d.ImageDigest != "" {
		out += "@" + strings.Replace(d.ImageDigest, ":", "%3A", 1)
	}
	q := url.Values{}
	if tag != "" {
		q.Set("tag", tag)
	}
	if strings.Contains(repo, "/") {
		q.Set("repository_url", repo)
	}
	if len(q) > 0 {
		out += "?" + q.Encode()
	}
	return out
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// Send implements outbound.Sink.
func (s *Sink) Send(ctx context.Context, m outbound.Message) error {
	var e struct {
		Context map[string]any  `json:"context"`
		Subject json.RawMessage `json:"subject"`
		Custom  json.RawMessage `json:"customData"`
		Type    string          `json:"customDataContentType"`
	}
	if err := json.Unmarshal(m.Body, &e); err != nil {
		return waybill.E(waybill.KindMalformed, "the message is no CDEvent: %w", err)
	}
	source := cmp.Or(s.o.Source(), "waybill")
	e.Context["source"] = source
	data, err := json.Marshal(map[string]any{"context": e.Context, "subject": e.Subject, "customData": e.Custom, "customDataContentType": e.Type})
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": e.Context["id"], "source": source, "type": e.Context["type"], "time": e.Context["timestamp"], "datacontenttype": "application/json",
		"data": json.RawMessage(data),
	})
	if err != nil {
		return err
	}
	to, err := s.o.Expand(ctx, s.o.URL)
	if err != nil {
		return err
	}
	h := http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}
	if s.o.Token != "" {
		token, err := s.o.Expand(ctx, s.o.Token)
		if err != nil {
			return err
		}
		h.Set("Authorization", "Bearer "+token)
	}
	if s.o.Secret != "" {
		secret, err := s.o.Expand(ctx, s.o.Secret)
		if err != nil {
			return err
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		h.Set("X-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	return outbound.Post(ctx, s.o.Client, http.MethodPost, to, h, body)
}
