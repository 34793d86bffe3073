// Package flux reads events of Flux's notification-controller (Provider types generic and
// generic-hmac, API notification.toolkit.fluxcd.io/v1beta3).
//
// An event names the object that was reconciled and the revision, and no cluster: that
// comes from the Alert's spec.eventMetadata, or from the source.
package flux

import (
	"net/http"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Format implements inbound.Format.
type Format struct{}

// Name implements inbound.Format.
func (Format) Name() string { return "flux" }

// Verify implements inbound.Format: Provider type generic-hmac signs the body.
func (Format) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Signature")
}

// event is what notification-controller posts. The metadata come without the prefix of
// their controller, or with it.
type event struct {
	Object struct {
		Kind      string `json:"kind"`
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"involvedObject"`
	Severity   string            `json:"severity"`
	Timestamp  string            `json:"timestamp"`
	Reason     string            `json:"reason"`
	Message    string            `json:"message"`
	Controller string            `json:"reportingController"`
	Metadata   map[string]string `json:"metadata"`
}

// meta looks a key of the metadata up, plain or with a prefix of Flux before it.
func (e *event) meta(names ...string) string {
	for _, name := range names {
		for k, v := range e.Metadata {
			if strings.EqualFold(k, name) && strings.TrimSpace(v) != "" {
				return strings.TrimSpace(v)
			}
		}
	}
	for _, name := range names {
		for k, v := range e.Metadata {
			prefix, key, ok := strings.Cut(k, "/")
			if ok && strings.HasSuffix(prefix, "toolkit.fluxcd.io") && strings.EqualFold(key, name) && strings.TrimSpace(v) != "" {
				return strings.TrimSpace(v)
			}
		}
	}
	return ""
}

const how = "name it in spec.eventMetadata of the Alert: {cluster: NAME}"

// Parse implements inbound.Format.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	var e event
	if err := inbound.Decode(r.Body, &e); err != nil {
		return inbound.Parsed{}, err
	}
	if e.Object.Kind == "" || e.Object.Name == "" || e.Reason == "" && e.Message == "" {
		return inbound.Parsed{}, waybill.E(waybill.KindMalformed, "it is no event of Flux: involvedObject.kind, involvedObject.name or reason is missing")
	}
	object := e.Object.Kind + "/" + e.Object.Namespace + "/" + e.Object.Name
	p := inbound.Parsed{Type: e.Reason, Subject: object}
	if e.Object.Kind != "Kustomization" && e.Object.Kind != "HelmRelease" {
		p.Reason = "events of kind " + inbound.Clip(e.Object.Kind, 60) + " say nothing of what a cluster runs"
		return p, nil
	}
	cluster, err := inbound.Cluster(r.Source, e.meta("cluster"), how)
	if err != nil {
		return p, err
	}
	state, ok := State(e.Reason, e.Severity, e.Message)
	if !ok {
		p.Reason = "reason " + inbound.Clip(e.Reason, 60) + " says nothing of how far the cluster is"
		return p, nil
	}
	// What the manifests were made of goes before the artifact that they lay in.
	said := inbound.First(e.meta("originRevision"), e.meta("revision"))
	if said == "" {
		p.Reason = "the event names no revision"
		return p, nil
	}
	rev, ok := ParseRevision(said)
	if !ok {
		return p, waybill.E(waybill.KindInvalid, "revision %.120q is of no form that is known", said).
			WithHint("known are branch@sha1:COMMIT, sha1:COMMIT, branch/COMMIT, tag@sha256:DIGEST and the version of a chart")
	}
	commit := inbound.First(rev.Commit, rev.Digest)
	if commit == "" {
		commit = "chart:" + e.Object.Name + "@" + rev.Version
	}
	p.Notes = []inbound.Note{{
		Object: object,
		Report: waybill.DeliveryReport{
			Kind: waybill.ReportSync, Time: inbound.Time(e.Timestamp), Cluster: cluster, ClusterState: state, ManifestCommit: commit,
			Ring: inbound.First(e.meta("ring", "env", "environment"), r.Source.Ring), Message: inbound.Clip(message(&e), 1000),
			Service: e.meta("service"), Deployment: e.meta("deployment", "deploymentID"), Partition: e.meta("partition"),
		},
	}}
	return p, nil
}

func message(e *event) string {
	if e.Message == "" {
		return e.Reason
	}
	if e.Severity == "error" && e.Reason != "" && !strings.Contains(e.Message, e.Reason) {
		return e.Reason + ": " + e.Message
	}
	return e.Message
}

// State is how far a cluster is by an event: its reason, severity and message.
//
// ReconciliationSucceeded says that objects were applied. Whether they work is said apart:
// by "Health check passed", and by the helm-controller, which waits for what it installs.
func State(reason, severity, message string) (waybill.ClusterState, bool) {
	switch {
	case strings.HasPrefix(strings.ToLower(strings.TrimSpace(message)), "health check passed"):
		return waybill.ClusterHealthy, true
	case strings.EqualFold(reason, "DependencyNotReady"):
		return waybill.ClusterPending, true
	case strings.EqualFold(severity, "error"), failures[strings.ToLower(reason)]:
		return waybill.ClusterFailed, true
	}
	s, ok := states[strings.ToLower(reason)]
	return s, ok
}

var failures = map[string]bool{
	"buildfailed": true, "reconciliationfailed": true, "healthcheckfailed": true, "validationfailed": true, "artifactfailed": true,
	"prunefailed": true, "installfailed": true, "upgradefailed": true, "testfailed": true, "rollbackfailed": true,
	// The release went back to the one before: this revision did not stay.
	"rollbacksucceeded": true, "uninstallfailed": true, "stalled": true, "retriesexceeded": true,
}

var states = map[string]waybill.ClusterState{
	"progressing": waybill.ClusterPending, "progressingwithretry": waybill.ClusterPending, "dependencynotready": waybill.ClusterPending,
	"reconciliationsucceeded": waybill.ClusterApplied,
	"installsucceeded":        waybill.ClusterHealthy, "upgradesucceeded": waybill.ClusterHealthy, "testsucceeded": waybill.ClusterHealthy,
}
