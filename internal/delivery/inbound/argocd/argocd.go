// Package argocd reads what Argo CD's notifications send with the template of
// examples/deliveries/argocd. It takes the body of the GitOps Connector's template as well.
package argocd

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Format implements inbound.Format.
type Format struct{}

// Name implements inbound.Format.
func (Format) Name() string { return "argocd" }

// Verify implements inbound.Format. Argo CD signs nothing: a proxy may, and else a token
// is the means.
func (Format) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Signature", "X-Hub-Signature-256")
}

// message is what the template makes of an application.
type message struct {
	App       string `json:"app"`
	Namespace string `json:"namespace"`
	Project   string `json:"project"`
	Cluster   string `json:"cluster"` // label waybill.run/cluster
	Ring      string `json:"ring"`    // label waybill.run/ring
	Service   string `json:"service"` // label waybill.run/service
	URL       string `json:"url"`

	Destination struct {
		Name      string `json:"name"`
		Server    string `json:"server"`
		Namespace string `json:"namespace"`
	} `json:"destination"`
	Source  *source  `json:"source"`
	Sources []source `json:"sources"`
	Sync    struct {
		Status    string   `json:"status"`
		Revision  string   `json:"revision"`
		Revisions []string `json:"revisions"`
	} `json:"sync"`
	Operation struct {
		Phase      string   `json:"phase"`
		StartedAt  string   `json:"startedAt"`
		FinishedAt string   `json:"finishedAt"`
		Message    string   `json:"message"`
		Revision   string   `json:"revision"`
		Revisions  []string `json:"revisions"`
	} `json:"operation"`
	Health struct {
		Status             string `json:"status"`
		Message            string `json:"message"`
		LastTransitionTime string `json:"lastTransitionTime"`
	} `json:"health"`
	Images []string `json:"images"`
}

type source struct {
	Repo  string `json:"repoURL"`
	Path  string `json:"path"`
	Chart string `json:"chart"`
}

// connector is the body of the GitOps Connector's template.
type connector struct {
	Commit  string `json:"commitid"`
	Phase   string `json:"phase"`
	Sync    string `json:"sync_status"`
	Health  string `json:"health"`
	Message string `json:"message"`
}

// Parse implements inbound.Format.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	var probe struct {
		Commit *string `json:"commitid"`
	}
	if err := inbound.Decode(r.Body, &probe); err != nil {
		return inbound.Parsed{}, err
	}
	if probe.Commit != nil {
		return parseConnector(r)
	}
	var m message
	if err := inbound.Decode(r.Body, &m); err != nil {
		return inbound.Parsed{}, err
	}
	if m.App == "" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "it is no message of our template for Argo CD: app is missing")
	}
	p := inbound.Parsed{Type: strings.TrimSuffix(m.Operation.Phase+" "+m.Health.Status, " "), Subject: m.Namespace + "/" + m.App}
	state, ok := State(m.Operation.Phase, m.Health.Status)
	if !ok {
		p.Reason = "neither phase nor health say how far the cluster is"
		return p, nil
	}
	if strings.EqualFold(m.Operation.Phase, "Running") && m.Operation.Revision == "" && len(m.Operation.Revisions) == 0 {
		// An operation that is under way may not say what it is about.
		m.Operation.Revision, m.Operation.Revisions = m.Sync.Revision, m.Sync.Revisions
	}
	cluster, err := inbound.Cluster(r.Source, inbound.First(m.Cluster, fallback(r.Source.Cluster, m.Destination.Name, host(m.Destination.Server))),
		"the application has no destination; label it with waybill.run/cluster")
	if err != nil {
		return p, err
	}
	text := m.Operation.Message
	if state == waybill.ClusterFailed && strings.EqualFold(m.Health.Status, "Degraded") {
		text = inbound.First(m.Health.Message, "degraded")
	}
	report := waybill.DeliveryReport{
		Kind: waybill.ReportSync, Cluster: cluster, ClusterState: state, Ring: inbound.First(m.Ring, r.Source.Ring), Service: m.Service,
		Message: inbound.Clip(text, 1000), URL: inbound.Clip(m.URL, 2000), Time: when(&m, state),
	}
	object := "Application/" + m.Namespace + "/" + m.App
	for _, x := range revisions(&m) {
		n := inbound.Note{Report: report, Object: object}
		n.Report.ManifestCommit, n.Report.ManifestRepo = x.revision, x.repo
		p.Notes = append(p.Notes, n)
	}
	// While an operation runs, the images are those of before.
	if report.Ring != "" && state != waybill.ClusterPending {
		for _, image := range m.Images {
			tag, digest := splitImage(image)
			n := inbound.Note{Report: report, Object: object}
			n.Report.ImageTag, n.Report.ImageDigest = tag, digest
			if tag != "" || digest != "" {
				p.Notes = append(p.Notes, n)
			}
		}
	}
	if len(p.Notes) == 0 {
		p.Reason = "the application names no revision"
	}
	return p, nil
}

func fallback(pinned string, names ...string) string {
	if pinned != "" {
		return "" // the source says which cluster; the destination is Argo CD's name for it
	}
	return inbound.First(names...)
}

// host is the name in the address of a cluster's API.
func host(server string) string {
	if u, err := url.Parse(server); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return server
}

// State is how far a cluster is by the phase of the last operation and by the health.
func State(phase, health string) (waybill.ClusterState, bool) {
	health = strings.ToLower(health)
	switch strings.ToLower(phase) {
	case "running", "terminating", "inconclusive":
		return waybill.ClusterPending, true
	case "failed", "error":
		return waybill.ClusterFailed, true
	case "succeeded", "":
		switch health {
		case "healthy":
			return waybill.ClusterHealthy, true
		case "degraded":
			return waybill.ClusterFailed, true
		}
		if phase == "" {
			return "", false
		}
		return waybill.ClusterApplied, true
	}
	return "", false
}

// when is when it came to be so; zero when it is not said. The end of the operation says
// nothing of health that changed since, and older versions do not say when it did.
func when(m *message, state waybill.ClusterState) time.Time {
	finished, health := inbound.Time(m.Operation.FinishedAt), inbound.Time(m.Health.LastTransitionTime)
	switch {
	case state == waybill.ClusterPending:
		return inbound.Time(m.Operation.StartedAt)
	case strings.EqualFold(m.Operation.Phase, "Failed"), strings.EqualFold(m.Operation.Phase, "Error"), state == waybill.ClusterApplied:
		return finished
	case health.IsZero():
		return time.Time{}
	case health.After(finished):
		return health
	}
	return finished
}

type revisionOf struct{ revision, repo string }

// revisions are what was deployed, one for each source.
func revisions(m *message) []revisionOf {
	list := m.Operation.Revisions
	if len(list) == 0 && m.Operation.Revision == "" {
		list = m.Sync.Revisions
	}
	sources := m.Sources
	if len(list) == 0 {
		list = []string{inbound.First(m.Operation.Revision, m.Sync.Revision)}
		if m.Source != nil {
			sources = []source{*m.Source}
		}
	}
	var out []revisionOf
	for i, rev := range list {
		if rev = strings.TrimSpace(rev); rev == "" {
			continue
		}
		x := revisionOf{revision: strings.ToLower(rev)}
		if i < len(sources) {
			x.repo = sources[i].Repo
			if sources[i].Chart != "" {
				x.revision = "chart:" + sources[i].Chart + "@" + rev
			}
		}
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// splitImage takes an image reference apart into what deployments are told of: the tag
// with its repository's name, and the digest.
func splitImage(ref string) (tag, digest string) {
	ref, digest, _ = strings.Cut(strings.TrimSpace(ref), "@")
	if digest != "" && !strings.Contains(digest, ":") {
		digest = ""
	}
	if strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") {
		tag = ref
	}
	return tag, digest
}

func parseConnector(r inbound.Request) (inbound.Parsed, error) {
	var c connector
	if err := inbound.Decode(r.Body, &c); err != nil {
		return inbound.Parsed{}, err
	}
	p := inbound.Parsed{Type: strings.TrimSpace(c.Phase + " " + c.Health), Subject: c.Commit}
	if !inbound.Hex(c.Commit) {
		return p, waybill.E(waybill.KindInvalid, "commitid %.80q is no commit", c.Commit)
	}
	state, ok := State(c.Phase, c.Health)
	if !ok {
		p.Reason = "neither phase nor health say how far the cluster is"
		return p, nil
	}
	cluster, err := inbound.Cluster(r.Source, "", "the connector's messages name none")
	if err != nil {
		return p, err
	}
	p.Notes = []inbound.Note{{Object: "Application", Report: waybill.DeliveryReport{
		Kind: waybill.ReportSync, Time: r.Now, Cluster: cluster, Ring: r.Source.Ring, ClusterState: state,
		ManifestCommit: strings.ToLower(c.Commit), Message: inbound.Clip(c.Message, 1000),
	}}}
	return p, nil
}
