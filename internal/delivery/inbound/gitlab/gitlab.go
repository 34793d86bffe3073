// Package gitlab reads webhooks of GitLab: deployments, pipelines, merge requests, and the
// sync tags of Flux v1.
package gitlab

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Format implements inbound.Format.
type Format struct{}

// Name implements inbound.Format.
func (Format) Name() string { return "gitlab" }

// Verify implements inbound.Format: GitLab sends the secret itself.
func (Format) Verify(secret string, h http.Header, _ []byte) error {
	return inbound.VerifyToken(secret, h.Get("X-Gitlab-Token"), "X-Gitlab-Token")
}

type hook struct {
	Kind    string `json:"object_kind"`
	Project struct {
		Name string `json:"name"`
		Path string `json:"path_with_namespace"`
		URL  string `json:"web_url"`
	} `json:"project"`

	// of a deployment
	Status       string `json:"status"`
	ChangedAt    string `json:"status_changed_at"`
	DeploymentID int64  `json:"deployment_id"`
	DeployableID int64  `json:"deployable_id"`
	Deployable   string `json:"deployable_url"`
	Environment  string `json:"environment"`
	ShortSHA     string `json:"short_sha"`
	CommitURL    string `json:"commit_url"`
	CommitTitle  string `json:"commit_title"`

	// of a pipeline and of a merge request
	Attributes *struct {
		ID          int64  `json:"id"`
		IID         int    `json:"iid"`
		SHA         string `json:"sha"`
		Status      string `json:"status"`
		State       string `json:"state"`
		URL         string `json:"url"`
		CreatedAt   string `json:"created_at"`
		FinishedAt  string `json:"finished_at"`
		UpdatedAt   string `json:"updated_at"`
		MergeCommit string `json:"merge_commit_sha"`
	} `json:"object_attributes"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`

	// of a tag
	Ref      string `json:"ref"`
	After    string `json:"after"`
	Checkout string `json:"checkout_sha"`
}

// Parse implements inbound.Format.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	var kind struct {
		Kind string `json:"object_kind"`
	}
	if err := inbound.Decode(r.Body, &kind); err != nil {
		return inbound.Parsed{}, err
	}
	if kind.Kind == "" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "object_kind is missing: it is no webhook of GitLab")
	}
	p := inbound.Parsed{Type: kind.Kind}
	if id := inbound.First(r.Header.Get("Idempotency-Key"), r.Header.Get("X-Gitlab-Webhook-Uuid")+r.Header.Get("X-Gitlab-Event-Uuid")); id != "" {
		p.ID = "delivery " + inbound.Clip(id, 200)
	}
	switch kind.Kind {
	case "deployment", "pipeline", "merge_request", "tag_push":
	default:
		p.Reason = "events of this kind tell of no delivery"
		return p, nil
	}
	var h hook
	if err := inbound.Decode(r.Body, &h); err != nil {
		return p, err
	}
	p.Subject = h.Project.Path
	switch kind.Kind {
	case "deployment":
		return deployed(r.Source, &h, p)
	case "pipeline":
		return ran(r.Source, &h, p)
	case "merge_request":
		return reviewed(&h, p)
	}
	return tagged(r.Source, r.Now, &h, p)
}

func deployed(s inbound.Source, h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	p.Type = "deployment." + h.Status
	// The full commit is in the address only.
	sha := h.CommitURL[strings.LastIndex(h.CommitURL, "/")+1:]
	if !inbound.Hex(sha) {
		sha = h.ShortSHA
	}
	ring := inbound.First(s.Ring, h.Environment)
	if !inbound.Hex(sha) || ring == "" {
		return p, waybill.E(waybill.KindMalformed, "short_sha or environment is missing")
	}
	state, ok := map[string]waybill.ClusterState{
		"created": waybill.ClusterPending, "running": waybill.ClusterPending, "success": waybill.ClusterHealthy, "failed": waybill.ClusterFailed,
	}[strings.ToLower(h.Status)]
	if !ok {
		p.Reason = "status " + inbound.Clip(h.Status, 40) + " of a deployment changes nothing in its ring"
		return p, nil
	}
	p.Notes = []inbound.Note{{
		Begin: true, Commit: strings.ToLower(sha), Fallback: h.Project.Name + "@" + strings.ToLower(sha[:7]), Object: "deployment",
		Report: waybill.DeliveryReport{
			Kind: waybill.ReportSync, Time: inbound.Time(h.ChangedAt), Cluster: inbound.First(s.Cluster, ring), ClusterState: state, Ring: ring,
			Run: "deployment-" + strconv.FormatInt(h.DeploymentID, 10), Service: h.Project.Name, URL: inbound.Clip(h.Deployable, 2000),
			Message: inbound.Clip(h.CommitTitle, 1000), SourceRepo: h.Project.URL,
		},
	}}
	return p, nil
}

func ran(s inbound.Source, h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	x := h.Attributes
	if x == nil || x.ID == 0 {
		return p, waybill.E(waybill.KindMalformed, "object_attributes.id of the pipeline is missing")
	}
	status, ok := delivery.Outcome("gitlab", x.Status, "")
	if !ok {
		p.Reason = "status " + inbound.Clip(x.Status, 40) + " of a pipeline is not known"
		return p, nil
	}
	stage := s.Stage
	if stage == "" {
		stage = waybill.StageBuild
	}
	url := x.URL
	if url == "" && h.Project.URL != "" {
		url = h.Project.URL + "/-/pipelines/" + strconv.FormatInt(x.ID, 10)
	}
	rep := waybill.DeliveryReport{
		Kind: waybill.ReportRun, Stage: stage, Run: strconv.FormatInt(x.ID, 10), URL: url, Status: status,
		QueuedAt: inbound.Time(x.CreatedAt), FinishedAt: inbound.Time(x.FinishedAt),
	}
	rep.Time = rep.FinishedAt
	p.Notes = []inbound.Note{{Report: rep}}
	return p, nil
}

func reviewed(h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	x := h.Attributes
	if x == nil || x.IID == 0 {
		return p, waybill.E(waybill.KindMalformed, "object_attributes.iid of the merge request is missing")
	}
	rep := waybill.DeliveryReport{
		Kind: waybill.ReportReview, PullRequest: strconv.Itoa(x.IID), ConfigRepo: h.Project.URL, URL: x.URL, Time: inbound.Time(x.UpdatedAt), Review: waybill.ReviewOpen,
	}
	switch x.State {
	case "merged":
		rep.Review, rep.MergeCommit, rep.MergedBy = waybill.ReviewMerged, x.MergeCommit, h.User.Username
	case "closed":
		rep.Review = waybill.ReviewClosed
	case "opened", "locked":
	default:
		p.Reason = "state " + inbound.Clip(x.State, 40) + " of a merge request is not known"
		return p, nil
	}
	p.Notes = []inbound.Note{{Report: rep}}
	return p, nil
}

// tagged reads the push of a tag. Flux v1 moves an annotated tag flux-NAME to what the
// cluster has applied.
func tagged(s inbound.Source, now time.Time, h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	name, ok := strings.CutPrefix(h.Ref, "refs/tags/flux-")
	switch {
	case !ok || name == "":
		p.Reason = "the tag is none of Flux"
		return p, nil
	case !inbound.Hex(h.Checkout):
		p.Reason = "the tag was deleted"
		return p, nil
	case h.After == h.Checkout:
		p.Reason = "the tag is not annotated, as those of Flux are"
		return p, nil
	}
	cluster, err := inbound.Cluster(s, strings.ToUpper(name), "")
	if err != nil {
		return p, err
	}
	// No time is told of the tag, and it may go back to a commit it was at before.
	p.Notes = []inbound.Note{{Report: waybill.DeliveryReport{
		Kind: waybill.ReportSync, Time: now, Cluster: cluster, Ring: s.Ring, ClusterState: waybill.ClusterApplied, ManifestCommit: strings.ToLower(h.Checkout),
		ManifestRepo: h.Project.URL, Message: "tag " + strings.TrimPrefix(h.Ref, "refs/tags/"),
	}}}
	return p, nil
}
