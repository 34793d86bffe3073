// Package connector reads what the GitOps Connector (microsoft/gitops-connector) passes on
// to its subscribers: one status of one commit, from Flux or from Argo CD.
package connector

import (
	"net/http"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Format implements inbound.Format.
type Format struct{}

// Name implements inbound.Format.
func (Format) Name() string { return "connector" }

// Verify implements inbound.Format.
func (Format) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Signature", "X-Hub-Signature-256")
}

// status has the fields of a message in both of the spellings there are.
type status struct {
	Commit    string `json:"commit_id"`
	Commit2   string `json:"commitId"`
	Name      string `json:"status_name"`
	Name2     string `json:"statusName"`
	State     string `json:"state"`
	Message   string `json:"message"`
	URL       string `json:"callback_url"`
	URL2      string `json:"callbackUrl"`
	Operator  string `json:"gitops_operator"`
	Operator2 string `json:"gitOpsOperator"`
	Genre     string `json:"genre"`
}

// Parse implements inbound.Format.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	var s status
	if err := inbound.Decode(r.Body, &s); err != nil {
		return inbound.Parsed{}, err
	}
	commit := inbound.First(s.Commit, s.Commit2)
	operator := inbound.First(s.Operator, s.Operator2)
	if commit == "" || s.State == "" || operator == "" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "it is no message of the GitOps Connector: commit_id, state or gitops_operator is missing")
	}
	name := inbound.First(s.Name, s.Name2)
	p := inbound.Parsed{Type: s.State, Subject: operator + "/" + inbound.First(s.Genre, name)}
	if i := strings.LastIndexAny(commit, "/:"); i >= 0 && inbound.Hex(commit[i+1:]) {
		commit = commit[i+1:]
	}
	if !inbound.Hex(commit) {
		return p, waybill.E(waybill.KindInvalid, "commit_id %.80q is no commit", commit)
	}
	cluster, err := inbound.Cluster(r.Source, "", "its messages name none")
	if err != nil {
		return p, err
	}
	var state waybill.ClusterState
	var ok bool
	switch {
	case strings.EqualFold(operator, "Flux"):
		if s.Genre != "" && !strings.EqualFold(s.Genre, "Kustomization") && !strings.EqualFold(s.Genre, "HelmRelease") {
			p.Reason = "statuses of kind " + inbound.Clip(s.Genre, 60) + " say nothing of what a cluster runs"
			return p, nil
		}
		state, ok = fluxStates[strings.ToLower(s.State)]
		if strings.HasPrefix(strings.ToLower(s.Message), "health check passed") {
			state, ok = waybill.ClusterHealthy, true
		}
		if !ok && strings.HasSuffix(strings.ToLower(s.State), "failed") {
			state, ok = waybill.ClusterFailed, true
		}
	case strings.EqualFold(operator, "ArgoCD"), strings.EqualFold(operator, "Argo CD"):
		state, ok = argoState(s.State)
	default:
		return p, waybill.E(waybill.KindInvalid, "gitops_operator %.40q is not Flux or ArgoCD", operator)
	}
	if !ok {
		p.Reason = "state " + inbound.Clip(s.State, 60) + " says nothing of how far the cluster is"
		return p, nil
	}
	p.Notes = []inbound.Note{{
		// Which of several objects it is about is not said; the genre is all there is.
		Object: operator + "/" + s.Genre,
		Report: waybill.DeliveryReport{
			Kind: waybill.ReportSync, Time: r.Now, Cluster: cluster, ClusterState: state, ManifestCommit: strings.ToLower(commit),
			Ring: r.Source.Ring, Message: inbound.Clip(inbound.First(s.Message, s.State), 1000), URL: inbound.Clip(inbound.First(s.URL, s.URL2), 2000),
		},
	}}
	return p, nil
}

var fluxStates = map[string]waybill.ClusterState{
	"progressing": waybill.ClusterPending, "dependencynotready": waybill.ClusterPending, "reconciliationsucceeded": waybill.ClusterApplied,
	"installsucceeded": waybill.ClusterHealthy, "upgradesucceeded": waybill.ClusterHealthy,
}

// argoState reads phase, health and status of synchronisation in one word or several, such
// as "Succeeded" and "Succeeded, Healthy". The worst word decides.
func argoState(text string) (state waybill.ClusterState, ok bool) {
	rank := map[waybill.ClusterState]int{waybill.ClusterHealthy: 1, waybill.ClusterApplied: 2, waybill.ClusterPending: 3, waybill.ClusterFailed: 4}
	healthy := false
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r < 'a' || r > 'z' }) {
		s, known := argoStates[w]
		healthy = healthy || s == waybill.ClusterHealthy
		if known && rank[s] > rank[state] {
			state, ok = s, true
		}
	}
	// What was applied and is healthy is healthy.
	if state == waybill.ClusterApplied && healthy {
		state = waybill.ClusterHealthy
	}
	return state, ok
}

var argoStates = map[string]waybill.ClusterState{
	"healthy": waybill.ClusterHealthy, "succeeded": waybill.ClusterApplied, "synced": waybill.ClusterApplied, "suspended": waybill.ClusterApplied,
	"running": waybill.ClusterPending, "progressing": waybill.ClusterPending, "inconclusive": waybill.ClusterPending,
	"missing": waybill.ClusterPending, "outofsync": waybill.ClusterPending, "terminating": waybill.ClusterPending,
	"failed": waybill.ClusterFailed, "error": waybill.ClusterFailed, "degraded": waybill.ClusterFailed,
}
