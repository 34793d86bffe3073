// Package cdevents reads CDEvents (https://cdevents.dev, specification 0.5) as they come
// over HTTP: in CloudEvents 1.0, binary, structured or batched, and bare.
package cdevents

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Format implements inbound.Format.
type Format struct{}

// Name implements inbound.Format.
func (Format) Name() string { return "cdevents" }

// Verify implements inbound.Format. CloudEvents know no signatures; those who sign do as
// for webhooks.
func (Format) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Signature", "X-Hub-Signature-256")
}

// minor is the newest minor version of event types that is read here.
const minor = 3

// event is a CDEvent.
type event struct {
	Context struct {
		ID        string `json:"id"`
		Source    string `json:"source"`
		Type      string `json:"type"`
		Timestamp string `json:"timestamp"`
		ChainID   string `json:"chainId"`
	} `json:"context"`
	Subject struct {
		ID      string  `json:"id"`
		Source  string  `json:"source"`
		Content content `json:"content"`
	} `json:"subject"`
	Custom json.RawMessage `json:"customData"`
}

type content struct {
	Change *struct {
		ID     string `json:"id"`
		Source string `json:"source"`
	} `json:"change"`
	Repository *struct {
		ID     string `json:"id"`
		Source string `json:"source"`
		URL    string `json:"url"`
		URI    string `json:"uri"`
	} `json:"repository"`
	Environment *struct {
		ID     string `json:"id"`
		Source string `json:"source"`
	} `json:"environment"`
	Service *struct {
		ID string `json:"id"`
	} `json:"service"`
	ArtifactID   string `json:"artifactId"`
	PipelineName string `json:"pipelineName"`
	TaskName     string `json:"taskName"`
	Outcome      string `json:"outcome"`
	Errors       string `json:"errors"`
	URI          string `json:"uri"`
	URL          string `json:"url"`
	Description  string `json:"description"`
}

// extra is what customData may say beside the specification.
type extra struct {
	Cluster     string        `json:"cluster"`
	Ring        string        `json:"ring"`
	Service     string        `json:"service"`
	Stage       waybill.Stage `json:"stage"`
	MergeCommit string        `json:"merge_commit"`
}

// envelope is a CloudEvent in JSON.
type envelope struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Data        json.RawMessage `json:"data"`
	Base64      []byte          `json:"data_base64"`
}

// Parse implements inbound.Format.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // one that cannot be read is none
	switch {
	case r.Header.Get("Ce-Specversion") != "" || r.Header.Get("Ce-Type") != "":
		for _, name := range []string{"Ce-Specversion", "Ce-Type", "Ce-Id", "Ce-Source"} {
			if r.Header.Get(name) == "" {
				return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "the header %s is missing", strings.ToLower(name))
			}
		}
		return one(r, envelope{SpecVersion: r.Header.Get("Ce-Specversion"), ID: r.Header.Get("Ce-Id"), Source: r.Header.Get("Ce-Source"), Type: r.Header.Get("Ce-Type"), Data: r.Body})
	case media == "application/cloudevents-batch+json" || bytes.HasPrefix(bytes.TrimSpace(r.Body), []byte("[")):
		var list []envelope
		if err := inbound.Decode(r.Body, &list); err != nil {
			return inbound.Parsed{}, err
		}
		out := inbound.Parsed{Type: "batch", Subject: strconv.Itoa(len(list)) + " events"}
		for _, e := range list {
			p, err := structured(r, e)
			if err != nil {
				return out, err
			}
			out.Notes = append(out.Notes, p.Notes...)
			if p.Reason != "" {
				out.Reason = p.Reason
			}
		}
		if len(out.Notes) > 0 {
			out.Reason = ""
		} else if out.Reason == "" {
			out.Reason = "the batch is empty"
		}
		return out, nil
	}
	var e envelope
	if err := inbound.Decode(r.Body, &e); err != nil {
		return inbound.Parsed{}, err
	}
	if e.SpecVersion == "" {
		return one(r, envelope{Data: r.Body}) // without CloudEvents around it
	}
	return structured(r, e)
}

func structured(r inbound.Request, e envelope) (inbound.Parsed, error) {
	if e.SpecVersion == "" || e.Type == "" || e.ID == "" || e.Source == "" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "specversion, type, id or source of the CloudEvent is missing")
	}
	if len(e.Data) == 0 {
		e.Data = e.Base64
	}
	return one(r, e)
}

// one reads an event.
func one(r inbound.Request, env envelope) (inbound.Parsed, error) {
	if env.SpecVersion != "" && env.SpecVersion != "1.0" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "CloudEvents %.20q are not read, only 1.0", env.SpecVersion)
	}
	if env.Type != "" && !strings.HasPrefix(env.Type, "dev.cdevents.") && !strings.HasPrefix(env.Type, "cd.") {
		return inbound.Parsed{ID: env.Source + "\x00" + env.ID, Type: env.Type, Reason: "it is no CDEvent"}, nil
	}
	var e event
	if err := inbound.Decode(env.Data, &e); err != nil {
		return inbound.Parsed{}, err
	}
	c := &e.Context
	switch {
	case c.ID == "" || c.Source == "" || c.Type == "" || e.Subject.ID == "":
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "it is no CDEvent: context.id, context.source, context.type or subject.id is missing")
	case env.Type != "" && env.Type != c.Type:
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "the CloudEvent says type %.80q, the CDEvent in it %.80q", env.Type, c.Type)
	}
	p := inbound.Parsed{ID: c.Source + "\x00" + c.ID, Type: c.Type, Subject: e.Subject.ID}
	parts := strings.SplitN(c.Type, ".", 5)
	if len(parts) != 5 || parts[0] != "dev" || parts[1] != "cdevents" {
		p.Reason = "type " + inbound.Clip(c.Type, 100) + " is not known"
		return p, nil
	}
	what, version := parts[2]+"."+parts[3], strings.Split(parts[4], ".")
	read, ok := readers[what]
	if !ok {
		p.Reason = "events of this type tell of no delivery"
		return p, nil
	}
	if m, err := strconv.Atoi(strings.Join(version[min(1, len(version)):min(2, len(version))], "")); err != nil || version[0] != "0" || m > minor {
		p.Reason = "version " + inbound.Clip(parts[4], 30) + " is newer than what is read here, 0." + strconv.Itoa(minor)
		return p, nil
	}
	var x extra
	_ = json.Unmarshal(e.Custom, &x) // whatever its author likes
	return read(r.Source, &e, x, parts[3], p)
}

type reader func(s inbound.Source, e *event, x extra, predicate string, p inbound.Parsed) (inbound.Parsed, error)

// readers are those of the types that tell of deliveries.
var readers = map[string]reader{
	"artifact.packaged": packaged, "artifact.published": packaged,
	"build.queued": ran, "build.started": ran, "build.finished": built,
	"pipelinerun.queued": ran, "pipelinerun.started": ran, "pipelinerun.finished": ran,
	"taskrun.started": ran, "taskrun.finished": ran,
	"change.created": changed, "change.merged": changed, "change.abandoned": changed,
	"service.deployed": served, "service.upgraded": served, "service.rolledback": served, "service.published": served,
	"incident.detected": incident, "incident.reported": incident, "incident.resolved": incident,
}

func artifact(id string) (Artifact, error) {
	a, ok := ParsePURL(id)
	if !ok {
		return a, waybill.E(waybill.KindInvalid, "%.200q names no artifact with digest or tag", id).WithHint("artifacts are named by package URLs: pkg:oci/NAME@sha256:DIGEST?tag=TAG")
	}
	return a, nil
}

func packaged(_ inbound.Source, e *event, x extra, _ string, p inbound.Parsed) (inbound.Parsed, error) {
	a, err := artifact(e.Subject.ID)
	if err != nil {
		return p, err
	}
	r := waybill.DeliveryReport{
		Kind: waybill.ReportBuild, Time: inbound.Time(e.Context.Timestamp), Service: inbound.First(x.Service, a.Name), ImageTag: a.Tag, ImageDigest: a.Digest,
		Status: waybill.StatusSucceeded,
	}
	if ch := e.Subject.Content.Change; ch != nil {
		r.Commit, r.SourceRepo = inbound.Clip(ch.ID, 200), inbound.Clip(ch.Source, 500)
	}
	p.Notes = []inbound.Note{{Report: r}}
	return p, nil
}

// outcome is the state of a run by the predicate and, of one that has finished, by the
// outcome.
func outcome(e *event, predicate string) (waybill.Outcome, error) {
	word := predicate
	if predicate == "finished" {
		word = e.Subject.Content.Outcome
	}
	o, ok := delivery.Outcome("cdevents", word, "")
	if !ok {
		return "", waybill.E(waybill.KindInvalid, "outcome %.40q is not success, failure, error or cancel", word)
	}
	return o, nil
}

// ran reads what happened to a run: of which stage, the source says, or the event in its
// customData, or the name of the pipeline.
func ran(s inbound.Source, e *event, x extra, predicate string, p inbound.Parsed) (inbound.Parsed, error) {
	o, err := outcome(e, predicate)
	if err != nil {
		return p, err
	}
	c := &e.Subject.Content
	stage := waybill.StageBuild
	for _, st := range []waybill.Stage{x.Stage, s.Stage, waybill.Stage(c.PipelineName), waybill.Stage(c.TaskName)} {
		if slices.Contains([]waybill.Stage{waybill.StageBuild, waybill.StageConfig, waybill.StageManifest}, st) {
			stage = st
			break
		}
	}
	r := waybill.DeliveryReport{
		Kind: waybill.ReportRun, Time: inbound.Time(e.Context.Timestamp), Stage: stage, Run: inbound.Clip(e.Subject.ID, 500), Status: o,
		URL: inbound.Clip(inbound.First(c.URI, c.URL), 2000), Message: inbound.Clip(c.Errors, 1000),
	}
	switch predicate {
	case "queued":
		r.QueuedAt = r.Time
	case "finished":
		r.FinishedAt = r.Time
	}
	p.Notes = []inbound.Note{{Report: r}}
	return p, nil
}

// built reads the end of a build, which may say what came out.
func built(s inbound.Source, e *event, x extra, predicate string, p inbound.Parsed) (inbound.Parsed, error) {
	if e.Subject.Content.Outcome == "" {
		e.Subject.Content.Outcome = "success" // older events of builds have none
	}
	p, err := ran(s, e, x, predicate, p)
	if err != nil || e.Subject.Content.ArtifactID == "" {
		return p, err
	}
	a, err := artifact(e.Subject.Content.ArtifactID)
	if err != nil {
		return p, err
	}
	r := p.Notes[0].Report
	r.Kind, r.Stage, r.Service, r.ImageTag, r.ImageDigest = waybill.ReportBuild, "", inbound.First(x.Service, a.Name), a.Tag, a.Digest
	p.Notes = []inbound.Note{{Report: r}}
	return p, nil
}

func changed(_ inbound.Source, e *event, x extra, predicate string, p inbound.Parsed) (inbound.Parsed, error) {
	repo := ""
	if r := e.Subject.Content.Repository; r != nil {
		repo = inbound.First(r.URL, r.URI, strings.TrimSuffix(r.Source, "/")+"/"+strings.TrimPrefix(r.ID, "/"))
	}
	p.Notes = []inbound.Note{{Report: waybill.DeliveryReport{
		Kind: waybill.ReportReview, Time: inbound.Time(e.Context.Timestamp), PullRequest: inbound.Clip(e.Subject.ID, 200), ConfigRepo: inbound.Clip(strings.Trim(repo, "/"), 500),
		Review:      map[string]waybill.ReviewState{"created": waybill.ReviewOpen, "merged": waybill.ReviewMerged, "abandoned": waybill.ReviewClosed}[predicate],
		MergeCommit: x.MergeCommit,
	}}}
	return p, nil
}

// served reads what became of a service in an environment. That it was deployed does not
// say that it works; that it was published, so that it can be reached, does.
func served(s inbound.Source, e *event, x extra, predicate string, p inbound.Parsed) (inbound.Parsed, error) {
	c := &e.Subject.Content
	if predicate == "published" && c.ArtifactID == "" {
		p.Reason = "the event does not say which artifact was published"
		return p, nil
	}
	state := waybill.ClusterApplied
	if predicate == "published" {
		state = waybill.ClusterHealthy
	}
	return environment(s, e, x, state, p)
}

// incident reads that a service does not work in an environment, or works again.
func incident(s inbound.Source, e *event, x extra, predicate string, p inbound.Parsed) (inbound.Parsed, error) {
	if e.Subject.Content.ArtifactID == "" {
		p.Reason = "the incident does not say which artifact is to blame"
		return p, nil
	}
	state := waybill.ClusterFailed
	if predicate == "resolved" {
		state = waybill.ClusterHealthy
	}
	if e.Subject.Content.Service != nil {
		x.Service = inbound.First(x.Service, e.Subject.Content.Service.ID)
	}
	return environment(s, e, x, state, p)
}

// environment makes the state of an artifact in an environment, which is a ring.
func environment(s inbound.Source, e *event, x extra, state waybill.ClusterState, p inbound.Parsed) (inbound.Parsed, error) {
	c := &e.Subject.Content
	ring := inbound.First(s.Ring, x.Ring)
	if ring == "" && c.Environment != nil {
		ring = c.Environment.ID
	}
	if ring == "" {
		return p, waybill.E(waybill.KindInvalid, "content.environment.id is missing: it does not say where")
	}
	a, err := artifact(c.ArtifactID)
	if err != nil {
		return p, err
	}
	cluster := inbound.First(x.Cluster, s.Cluster, ring)
	if cluster, err = inbound.Cluster(s, cluster, ""); err != nil {
		return p, err
	}
	p.Notes = []inbound.Note{{
		Begin: true, Object: "service",
		Report: waybill.DeliveryReport{
			Kind: waybill.ReportSync, Time: inbound.Time(e.Context.Timestamp), Cluster: cluster, ClusterState: state, Ring: ring,
			ImageTag: a.Tag, ImageDigest: a.Digest, Service: inbound.First(x.Service, a.Name), Message: inbound.Clip(inbound.First(c.Description, p.Type), 1000),
		},
	}}
	return p, nil
}
