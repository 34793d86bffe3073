// Package github reads webhooks of GitHub: deployments and their statuses, runs of Actions,
// pull requests, and the sync tags of Flux v1.
package github

import (
	"encoding/json"
	"net/http"
	"net/url"
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
func (Format) Name() string { return "github" }

// Verify implements inbound.Format.
func (Format) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Hub-Signature-256")
}

type repository struct {
	FullName string `json:"full_name"`
	Name     string `json:"name"`
	URL      string `json:"html_url"`
}

type user struct {
	Login string `json:"login"`
}

// hook has what is read of all kinds of events.
type hook struct {
	Action     string     `json:"action"`
	Repository repository `json:"repository"`

	Deployment *deployment `json:"deployment"`
	Status     *struct {
		State          string `json:"state"`
		Description    string `json:"description"`
		LogURL         string `json:"log_url"`
		TargetURL      string `json:"target_url"`
		EnvironmentURL string `json:"environment_url"`
		Environment    string `json:"environment"`
		CreatedAt      string `json:"created_at"`
		UpdatedAt      string `json:"updated_at"`
	} `json:"deployment_status"`

	Run *struct {
		ID         int64  `json:"id"`
		Attempt    int    `json:"run_attempt"`
		Name       string `json:"name"`
		HeadSHA    string `json:"head_sha"`
		Status     string `json:"status"`
		Conclusion string `json:"conclusion"`
		URL        string `json:"html_url"`
		CreatedAt  string `json:"created_at"`
		StartedAt  string `json:"run_started_at"`
		UpdatedAt  string `json:"updated_at"`
	} `json:"workflow_run"`

	PullRequest *struct {
		Number      int    `json:"number"`
		State       string `json:"state"`
		Merged      bool   `json:"merged"`
		MergeCommit string `json:"merge_commit_sha"`
		MergedBy    *user  `json:"merged_by"`
		URL         string `json:"html_url"`
		UpdatedAt   string `json:"updated_at"`
	} `json:"pull_request"`

	Ref    string `json:"ref"`
	After  string `json:"after"`
	Delete bool   `json:"deleted"`
	Head   *struct {
		ID string `json:"id"`
	} `json:"head_commit"`
}

type deployment struct {
	ID          int64           `json:"id"`
	SHA         string          `json:"sha"`
	Ref         string          `json:"ref"`
	Environment string          `json:"environment"`
	Payload     json.RawMessage `json:"payload"`
	CreatedAt   string          `json:"created_at"`
}

// Parse implements inbound.Format.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	body := r.Body
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, err := url.ParseQuery(string(body))
		if err != nil || form.Get("payload") == "" {
			return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "the form has no field payload")
		}
		body = []byte(form.Get("payload"))
	}
	event := r.Header.Get("X-Github-Event")
	if event == "" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "the header X-GitHub-Event is missing")
	}
	var h hook
	if err := inbound.Decode(body, &h); err != nil {
		return inbound.Parsed{}, err
	}
	p := inbound.Parsed{Type: strings.TrimSuffix(event+"."+h.Action, "."), Subject: h.Repository.FullName}
	if d := r.Header.Get("X-Github-Delivery"); d != "" {
		p.ID = "delivery " + inbound.Clip(d, 200)
	}
	switch {
	case event == "deployment_status" && h.Deployment != nil && h.Status != nil:
		return deployed(r.Source, &h, p)
	case event == "deployment" && h.Deployment != nil:
		p.Reason = "the statuses of the deployment tell what becomes of it"
	case event == "workflow_run" && h.Run != nil:
		return ran(r.Source, &h, p)
	case event == "pull_request" && h.PullRequest != nil:
		reviewed(&h, &p)
	case event == "push" && strings.HasPrefix(h.Ref, "refs/tags/"):
		return tagged(r.Source, r.Now, &h, p)
	default:
		p.Reason = "events of this kind tell of no delivery"
	}
	return p, nil
}

// deployed reads a status of a deployment: a state of a ring.
func deployed(s inbound.Source, h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	d, st := h.Deployment, h.Status
	ring := inbound.First(s.Ring, st.Environment, d.Environment)
	if !inbound.Hex(d.SHA) || ring == "" {
		return p, waybill.E(waybill.KindMalformed, "deployment.sha or deployment.environment is missing")
	}
	state, ok := map[string]waybill.ClusterState{
		"queued": waybill.ClusterPending, "pending": waybill.ClusterPending, "in_progress": waybill.ClusterPending, "waiting": waybill.ClusterPending,
		"success": waybill.ClusterHealthy, "failure": waybill.ClusterFailed, "error": waybill.ClusterFailed,
	}[strings.ToLower(st.State)]
	p.Type = strings.TrimSuffix("deployment_status."+st.State, ".")
	if strings.EqualFold(st.State, "inactive") {
		p.Reason = "another deployment has taken its place, which its own statuses tell"
		return p, nil
	}
	if !ok {
		p.Reason = "state " + inbound.Clip(st.State, 40) + " of a deployment is not known"
		return p, nil
	}
	tag, digest := imageOf(d.Payload)
	n := inbound.Note{
		Begin: true, Commit: strings.ToLower(d.SHA), Fallback: h.Repository.Name + "@" + strings.ToLower(d.SHA[:7]),
		Report: waybill.DeliveryReport{
			Kind: waybill.ReportSync, Time: inbound.Time(inbound.First(st.UpdatedAt, st.CreatedAt)), Cluster: inbound.First(s.Cluster, ring), ClusterState: state,
			Ring: ring, ImageTag: tag, ImageDigest: digest, Run: "deployment-" + strconv.FormatInt(d.ID, 10), Service: h.Repository.Name,
			URL: inbound.Clip(inbound.First(st.LogURL, st.TargetURL, st.EnvironmentURL), 2000), Message: inbound.Clip(st.Description, 1000), SourceRepo: h.Repository.URL,
		},
		Object: "deployment",
	}
	p.Notes = []inbound.Note{n}
	return p, nil
}

// imageOf is the image that who made the deployment wrote into its payload, as image_tag
// or image, and image_digest.
func imageOf(raw json.RawMessage) (tag, digest string) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	var x struct {
		Image  string `json:"image"`
		Tag    string `json:"image_tag"`
		Digest string `json:"image_digest"`
	}
	if json.Unmarshal(raw, &x) != nil {
		return "", "" // the payload is whatever its author likes
	}
	tag, digest = inbound.First(x.Tag, x.Image), x.Digest
	if name, sum, ok := strings.Cut(tag, "@"); ok {
		tag, digest = name, inbound.First(digest, sum)
	}
	return tag, digest
}

// ran reads a run of Actions.
func ran(s inbound.Source, h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	x := h.Run
	status, ok := delivery.Outcome("github", x.Status, x.Conclusion)
	if !ok || x.ID == 0 {
		p.Reason = "the state of the run is not known"
		return p, nil
	}
	stage := s.Stage
	if stage == "" {
		stage = waybill.StageBuild
	}
	rep := waybill.DeliveryReport{
		Kind: waybill.ReportRun, Stage: stage, Run: strconv.FormatInt(x.ID, 10), Attempt: x.Attempt, URL: x.URL, Status: status,
		Time: inbound.Time(x.UpdatedAt), QueuedAt: inbound.Time(inbound.First(x.StartedAt, x.CreatedAt)),
	}
	if status.Terminal() {
		rep.FinishedAt = rep.Time
	}
	p.Notes = []inbound.Note{{Report: rep}}
	return p, nil
}

func reviewed(h *hook, p *inbound.Parsed) {
	x := h.PullRequest
	rep := waybill.DeliveryReport{
		Kind: waybill.ReportReview, PullRequest: strconv.Itoa(x.Number), ConfigRepo: h.Repository.URL, URL: x.URL, Time: inbound.Time(x.UpdatedAt),
		Review: waybill.ReviewOpen,
	}
	switch {
	case x.Merged:
		rep.Review, rep.MergeCommit = waybill.ReviewMerged, x.MergeCommit
		if x.MergedBy != nil {
			rep.MergedBy = x.MergedBy.Login
		}
	case x.State == "closed":
		rep.Review = waybill.ReviewClosed
	}
	p.Notes = []inbound.Note{{Report: rep}}
}

// tagged reads the push of a tag. Flux v1 moves an annotated tag flux-NAME to what the
// cluster has applied.
func tagged(s inbound.Source, now time.Time, h *hook, p inbound.Parsed) (inbound.Parsed, error) {
	name, ok := strings.CutPrefix(h.Ref, "refs/tags/flux-")
	switch {
	case !ok || name == "":
		p.Reason = "the tag is none of Flux"
		return p, nil
	case h.Delete || h.Head == nil:
		p.Reason = "the tag was deleted"
		return p, nil
	case h.After == h.Head.ID:
		p.Reason = "the tag is not annotated, as those of Flux are"
		return p, nil
	}
	// The name of the tag is that of the cluster, in capitals as it always was shown.
	cluster, err := inbound.Cluster(s, strings.ToUpper(name), "")
	if err != nil {
		return p, err
	}
	// No time is told of the tag, and it may go back to a commit it was at before.
	p.Notes = []inbound.Note{{Report: waybill.DeliveryReport{
		Kind: waybill.ReportSync, Time: now, Cluster: cluster, Ring: s.Ring, ClusterState: waybill.ClusterApplied, ManifestCommit: strings.ToLower(h.Head.ID),
		ManifestRepo: h.Repository.URL, Message: "tag " + strings.TrimPrefix(h.Ref, "refs/tags/"),
	}}}
	return p, nil
}
