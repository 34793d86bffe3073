package deliverytest

import (
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// ten has a line for each of ten deployments of two services to one ring:
//
//	service build commit | change pull-request config-commit | manifests commit | cluster | seconds: build, change, manifests | end
//
// Two are of one build and one commit of the manifests. One failed to build and went on all
// the same, and one changed the configuration in the run that built.
const ten = `
hello-bedrock  6053 c626394 | 182  1123 a3dc9a7 | 6054 db26e17 | -          | 99.663 27.040 71.897  | 2026-02-20T21:50:19Z
hello-spektate 6042 a0bca78 | 178  1133 316abbc | 6043 0ede612 | WEST-US    | 105.384 27.876 80.940 | 2026-02-20T20:37:04Z
hello-bedrock  5977 c626394 | 174  1173 e4a2730 | 5978 2c21731 | -          | 125.714 28.831 62.655 | 2026-02-18T20:25:50Z
hello-bedrock  6074 5b54eb4 | 184  1125 18abc7a | 6076 e9bca18 | -          | 109.936 31.586 127.278 | 2026-03-10T20:25:46Z
hello-spektate 6049 a0bca78 | 181  1120 863d50f | 6052 7e538be | -          | 140.287 30.849 94.064 | 2026-02-20T21:46:09Z
hello-bedrock  6046 c626394 | 180  1119 706685f | 6047 b3a3345 | EUROPE     | 104.687 30.499 69.414 | 2026-02-20T21:08:06Z
hello-bedrock  6044 c626394 | 179  1118 bac890c | 6045 1fdd7c4 | EAST-US    | 119.191 43.814 70.395 | 2026-02-20T21:04:37Z
hello-spektate 6042 a0bca78 | 177  1115 316abbc | 6043 0ede612 | WEST-US    | 105.384 34.476 80.940 | 2026-02-20T20:37:04Z
hello-spektate 6009 8028a15 | 176  1111 0612e7a | 6010 efeeebe | CANADA     | 128.074 38.580 103.946 | 2026-02-19T20:42:36Z
hello-bedrock  5975 65d30ef | 5975 -    51feb51 | 5976 e9fb7d4 | CENTRAL-US | 109.472 34.200 68.199 | 2026-02-18T20:15:36Z
`

// TenDurations are the minutes that the deployments of Ten take, by the run that changed
// their configuration, calculated by hand.
var TenDurations = map[string]string{
	"182": "3.31", "178": "3.57", "174": "3.62", "184": "4.48", "181": "4.42", "180": "3.41", "179": "3.89", "177": "3.68", "176": "4.51", "5975": "0.57",
}

// TenClusters are where they run, by the same.
var TenClusters = map[string]string{"178": "WEST-US", "177": "WEST-US", "180": "EUROPE", "179": "EAST-US", "176": "CANADA", "5975": "CENTRAL-US"}

// Ten are the reports of ten deployments of two services to the ring dev, and of the five
// clusters that six of them are in.
func Ten() []waybill.DeliveryReport {
	var out []waybill.DeliveryReport
	const sources, config, manifests = "https://git.example.org/harbour/", "https://git.example.org/harbour/config", "https://git.example.org/harbour/manifests"
	built, synced := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(strings.TrimSpace(ten)) {
		f := strings.Fields(strings.ReplaceAll(line, "|", " "))
		service, build, source, change, pr, commit, run, manifest, cluster := f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8]
		tag := service + "-master-" + build
		end := second(f[12])
		took := func(text string) time.Duration {
			d, err := time.ParseDuration(text + "s")
			if err != nil {
				panic(err)
			}
			return d
		}
		stage := func(r waybill.DeliveryReport, end time.Time, seconds string) waybill.DeliveryReport {
			r.Provider, r.Time, r.FinishedAt, r.QueuedAt = "azuredevops", end, end, end.Add(-took(seconds))
			r.StartedAt = r.QueuedAt.Add(9 * time.Second)
			if r.Status == "" {
				r.Status = waybill.StatusSucceeded
			}
			return r
		}
		if !built[build] {
			built[build] = true
			status := waybill.StatusSucceeded
			if build == "6009" {
				status = waybill.StatusFailed
			}
			out = append(out,
				stage(waybill.DeliveryReport{Kind: waybill.ReportBuild, Run: build, ImageTag: tag, Commit: source, Service: service, SourceRepo: sources + service, Status: status, Number: "20260220." + build[2:]}, end.Add(-2*time.Minute), f[9]),
				waybill.DeliveryReport{Kind: waybill.ReportCommit, Commit: source, SourceRepo: sources + service, Author: &waybill.Person{Name: "Ada Quay", Username: "aquay"}, Time: end.Add(-time.Hour)})
		}
		configured := waybill.DeliveryReport{Kind: waybill.ReportConfig, Run: change, ImageTag: tag, Ring: "dev", ConfigCommit: commit, ConfigRepo: config}
		made := waybill.DeliveryReport{Kind: waybill.ReportManifest, Run: run, ConfigCommit: commit, ConfigRepo: config, ManifestCommit: manifest, ManifestRepo: manifests}
		if pr != "-" {
			// The change was a branch first; merging it made the commit that manifests were made of.
			configured.ConfigCommit, configured.PullRequest, made.PullRequest = commitOf(service, pr), pr, pr
		}
		out = append(out, stage(configured, end.Add(-time.Minute), f[10]), stage(made, end, f[11]))
		if pr != "-" {
			out = append(out, waybill.DeliveryReport{
				Kind: waybill.ReportReview, PullRequest: pr, ConfigRepo: config, Review: waybill.ReviewMerged, MergeCommit: commit, MergedBy: "Bo Pier", Merger: &waybill.Person{Name: "Bo Pier"},
				Time: end.Add(-50 * time.Second), SourceBranch: "DEPLOY/" + tag, TargetBranch: "master", Title: "Bring " + tag,
			})
		}
		if cluster != "-" && !synced[cluster] {
			synced[cluster] = true
			out = append(out, waybill.DeliveryReport{Kind: waybill.ReportSync, Cluster: cluster, ClusterState: waybill.ClusterApplied, ManifestCommit: manifest, ManifestRepo: manifests, Time: end.Add(10 * time.Minute)})
		}
	}
	return out
}

// commitOf is the commit of the branch of a pull request.
func commitOf(service, pr string) string { return commit(service+pr, 1)[:8] }

// second reads a time with seconds.
func second(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}
