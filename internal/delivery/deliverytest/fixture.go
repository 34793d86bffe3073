// Package deliverytest holds a data set of deliveries for tests, and what follows from it,
// calculated by plain loops that know nothing of package delivery.
//
// The set: 62 deployments over four months. 55 of them are regular, 13 of these of a service that
// is displayed as "ferry" and stored with its owner in front; seven are edits of the
// configuration by hand. There are three rings, five clusters, five providers, failures at
// every stage, pull requests that wait or were closed, rollbacks, clusters that fail and
// two images of which no build is known.
package deliverytest

import (
	"crypto/sha1" //nolint:gosec // commits are named by it
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// Numbers of the set.
const (
	Regular = 55 // deployments
	Manual  = 7  // edits of the configuration by hand
	Ferry   = 13 // deployments that are displayed as of service "ferry"
)

// Now is an instant after everything that the set tells of.
var Now = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

// story has a line for each build, with the rings that took it. A ring is
//
//	RING+HOURS[!WHAT][:CLUSTER=STATE+MINUTES,…]
//
// HOURS count from the build's end to the change of the configuration. WHAT stops the
// delivery: "open" and "closed" are states of its pull request, "config" and "manifest"
// are stages that failed, "running" and "canceled" say so of the run of manifests, "none"
// is all that was heard. MINUTES count from the manifests.
const story = `
quay/ferry 11 2026-01-05T08:00 dev+1:lab=healthy+5  qa+4:stage=healthy+6  prod+26:east=healthy+8,west=healthy+9,north=healthy+30
quay/ferry 12 2026-01-19T09:30 dev+1:lab=healthy+4  prod+30:east=healthy+7,west=healthy+8,north=failed+20
quay/ferry 13 2026-02-02T10:00 dev+2:lab=failed+9
quay/ferry 14 2026-02-03T07:45 dev+1:lab=healthy+5  qa+3:stage=healthy+5  prod+50:east=failed+6,west=failed+7
quay/ferry 11 again            prod+760:east=healthy+4,west=healthy+6,north=healthy+9
quay/ferry 15 2026-03-09T11:00 dev+1:lab=applied+5  qa+6!open
quay/ferry 16 2026-04-27T16:20 !running
ledger 201 2026-01-07T12:00 dev+1:lab=healthy+3  qa+2:stage=healthy+4  prod+20:east=healthy+5,west=healthy+5
ledger 202 2026-01-28T12:00 dev+1:lab=healthy+3  qa+2!closed
ledger 203 2026-02-11T12:00 dev+1:lab=healthy+3  prod+44:east=healthy+5,west=pending+5
ledger 204 2026-03-04T13:10 !failed
ledger 205 2026-03-05T08:05 dev+3:lab=healthy+2  qa+5:stage=failed+4  prod+70!manifest
ledger 206 2026-04-02T09:00 dev+1:lab=healthy+3  prod+24:east=healthy+5,west=healthy+7
tariff 31 2026-01-12T06:00 dev+1  qa+2  prod+12
tariff 32 2026-02-20T06:00 dev+1  qa+2  prod+13!canceled
tariff 33 2026-03-22T06:00 dev+1  qa+2!config
tariff 34 2026-04-22T06:00 dev+1  prod+8!none
quay/beacon 7 2026-01-15T15:00 dev+1:lab=healthy+7  prod+9:north=healthy+7
quay/beacon 8 2026-02-15T15:00 dev+1:lab=healthy+7  prod+9:north=healthy+7
quay/beacon 9 2026-03-15T15:00 dev+1:lab=healthy+7  prod+9:north=failed+7
quay/beacon 8 again            prod+690:north=healthy+7
quay/beacon 10 2026-04-15T15:00 dev+1!running
quay/beacon 11 2026-04-29T15:00
scale 901 2026-01-21T10:00 dev+1:lab=healthy+2  prod+5:east=healthy+3
scale 902 2026-02-25T10:00 dev+1:lab=healthy+2  prod+5:east=healthy+3
scale 903 2026-03-30T10:00 dev+1:lab=healthy+2  prod+5:east=failed+3
scale 904 2026-04-12T10:00 dev+1:lab=healthy+2  prod+5:east=healthy+3
- mirror/ledger:190 2026-01-03T10:00 qa+1
- mirror/ferry:9 2026-04-20T10:00 prod+1
`

// edits are the configurations that were edited by hand: when, and whether the manifests
// that were made of them are known.
const edits = `
2026-01-09T17:00 yes
2026-01-30T17:00 yes
2026-02-06T17:00 no
2026-02-27T17:00 yes
2026-03-13T17:00 yes
2026-04-03T17:00 failed
2026-04-24T17:00 yes
`

// How a service is delivered. Scale has no repository of configuration: its images go
// straight into manifests.
var systems = map[string]struct{ provider, repo, config, manifests string }{
	"quay/ferry":  {"github", "https://github.com/quay/ferry", "https://github.com/quay/config", "https://github.com/quay/manifests"},
	"quay/beacon": {"github", "git@github.com:quay/beacon.git", "https://github.com/quay/config", "https://github.com/quay/manifests"},
	"ledger":      {"azdo", "https://dev.azure.com/harbor/books/_git/ledger", "https://dev.azure.com/harbor/books/_git/config", "https://dev.azure.com/harbor/books/_git/manifests"},
	"tariff":      {"gitlab", "https://gitlab.example.com/harbor/tariff", "https://gitlab.example.com/harbor/config", "https://gitlab.example.com/harbor/manifests"},
	"scale":       {"native", "https://git.example.com/scale", "", "https://git.example.com/scale-manifests"},
	"-":           {"cdevents", "", "https://github.com/quay/config", "https://github.com/quay/manifests"},
}

// Reports is the set, in the order in which things happened to be told of: service by
// service, so that what belongs together in time is far apart. Every report has a time,
// and every call returns a list of its own.
func Reports() []waybill.DeliveryReport {
	var out []waybill.DeliveryReport
	number := 5000
	for line := range strings.Lines(story) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		out = append(out, lineReports(f, &number)...)
	}
	for line := range strings.Lines(edits) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		number++
		sys, at := systems["quay/ferry"], instant(f[0])
		r := waybill.DeliveryReport{
			Kind: waybill.ReportManifest, Provider: sys.provider, Run: fmt.Sprint(number), Time: at, QueuedAt: at.Add(-90 * time.Second), FinishedAt: at,
			ConfigCommit: commit("edit", number), ConfigRepo: sys.config, ManifestRepo: sys.manifests, Status: waybill.StatusSucceeded,
		}
		switch f[1] {
		case "yes":
			r.ManifestCommit = commit("manifest", number)
		case "failed":
			r.Status = waybill.StatusFailed
		}
		out = append(out, r)
	}
	return out
}

func lineReports(f []string, number *int) []waybill.DeliveryReport {
	var out []waybill.DeliveryReport
	service, build := f[0], f[1]
	sys := systems[service]
	tag := service[strings.Index(service, "/")+1:] + ":" + build
	again := f[2] == "again"
	var at time.Time
	if again {
		at = began(service, build)
	} else {
		at = instant(f[2])
	}
	if service == "-" {
		tag, again = build, true // nobody tells of the build
	}
	run := func() string { *number++; return fmt.Sprint(*number) }
	if !again {
		r := waybill.DeliveryReport{
			Kind: waybill.ReportBuild, Provider: sys.provider, Run: run(), ImageTag: tag, ImageDigest: "sha256:" + digest(tag), Service: service,
			Commit: commit(service, atoi(build)), CommittedAt: at.Add(-40 * time.Minute), SourceRepo: sys.repo,
			URL: "https://ci.example.com/builds/" + fmt.Sprint(*number), Status: waybill.StatusSucceeded,
			Time: at, QueuedAt: at.Add(-6 * time.Minute), FinishedAt: at,
		}
		if len(f) > 3 && strings.HasPrefix(f[3], "!") {
			r.Status = waybill.Outcome(f[3][1:])
			if r.Status == waybill.StatusRunning {
				r.FinishedAt = time.Time{}
			}
			return append(out, r)
		}
		out = append(out, r)
	}
	for _, ring := range f[3:] {
		out = append(out, ringReports(sys.provider, sys.config, sys.manifests, tag, at, ring, run)...)
	}
	return out
}

// ringReports are those of an image on its way to a ring.
func ringReports(provider, config, manifests, tag string, built time.Time, text string, run func() string) []waybill.DeliveryReport {
	text, clusters, _ := strings.Cut(text, ":")
	text, what, _ := strings.Cut(text, "!")
	ring, hours, _ := strings.Cut(text, "+")
	at := built.Add(time.Duration(atoi(hours)) * time.Hour)
	p2 := run()
	n := atoi(p2)
	made := at.Add(15 * time.Minute)
	manifest := commit("manifest", n)
	var out []waybill.DeliveryReport
	base := waybill.DeliveryReport{Provider: provider}
	if config == "" {
		r := base
		r.Kind, r.Run, r.ImageTag, r.Ring, r.ManifestCommit, r.ManifestRepo = waybill.ReportManifest, p2, tag, ring, manifest, manifests
		r.Status, r.Time, r.QueuedAt, r.FinishedAt = waybill.StatusSucceeded, made, made.Add(-time.Minute), made
		out = append(out, r)
	} else {
		pr := fmt.Sprint(n % 1000)
		c := base
		c.Kind, c.Run, c.ImageTag, c.Ring, c.ConfigCommit, c.ConfigRepo, c.PullRequest = waybill.ReportConfig, p2, tag, ring, commit("config", n), config, pr
		c.Status, c.Time, c.QueuedAt, c.FinishedAt = waybill.StatusSucceeded, at, at.Add(-2*time.Minute), at
		if what == "config" {
			c.Status = waybill.StatusFailed
			return append(out, c)
		}
		out = append(out, c)
		review := base
		review.Kind, review.PullRequest, review.ConfigRepo, review.ApprovedBy, review.Time = waybill.ReportReview, pr, config, "ann", at.Add(10*time.Minute)
		switch what {
		case "none":
			return out
		case "open", "closed":
			review.Review, review.ApprovedBy = waybill.ReviewState(what), ""
			return append(out, review)
		}
		review.Review, review.MergedBy, review.MergeCommit = waybill.ReviewMerged, "bob", commit("merge", n)
		m := base
		m.Kind, m.Run, m.ConfigCommit, m.ConfigRepo, m.PullRequest = waybill.ReportManifest, run(), commit("merge", n)[:7+n%3], config, pr
		m.Status, m.Time, m.QueuedAt = waybill.StatusRunning, made.Add(-3*time.Minute), made.Add(-4*time.Minute)
		if what == "running" {
			return append(out, review, m)
		}
		end := base
		end.Kind, end.Stage, end.Run, end.Time, end.FinishedAt, end.Status = waybill.ReportRun, waybill.StageManifest, m.Run, made, made, waybill.StatusSucceeded
		switch what {
		case "manifest":
			end.Status = waybill.StatusFailed
		case "canceled":
			end.Status = waybill.StatusCanceled
		default:
			end.ManifestCommit, end.ManifestRepo = manifest, manifests
		}
		out = append(out, review, m, end)
	}
	for part := range strings.SplitSeq(clusters, ",") {
		if part == "" {
			continue
		}
		name, state, _ := strings.Cut(part, "=")
		state, minutes, _ := strings.Cut(state, "+")
		y := base
		y.Kind, y.Cluster, y.ManifestCommit, y.ManifestRepo = waybill.ReportSync, name, manifest, manifests
		y.ClusterState, y.Time = waybill.ClusterState(state), made.Add(time.Duration(atoi(minutes))*time.Minute)
		if state == "healthy" {
			first := y
			first.ClusterState, first.Time = waybill.ClusterApplied, y.Time.Add(-time.Minute)
			out = append(out, first)
		}
		if state == "failed" {
			y.Message = "health check failed: deployment is not ready"
		}
		out = append(out, y)
	}
	return out
}

// began is when a build ended that another line tells of.
func began(service, build string) time.Time {
	for line := range strings.Lines(story) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == service && f[1] == build && f[2] != "again" {
			return instant(f[2])
		}
	}
	panic("no build " + build + " of " + service)
}

func instant(text string) time.Time {
	t, err := time.ParseInLocation("2006-01-02T15:04", text, time.UTC)
	if err != nil {
		panic(err)
	}
	return t
}

func atoi(text string) int {
	n := 0
	if _, err := fmt.Sscan(text, &n); err != nil {
		panic(text + " is no number")
	}
	return n
}

func commit(of string, n int) string {
	sum := sha1.Sum(fmt.Appendf(nil, "%s %d", of, n)) //nolint:gosec // a name, not a safeguard
	return hex.EncodeToString(sum[:])
}

func digest(of string) string { return commit(of, 0) + commit(of, 1)[:24] }
