package delivery

import (
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// legacyProvider is who reports what was read out of a table.
const legacyProvider = "azure-table"

// legacyReports are the reports that a row of the older service stands for, whose columns
// are those of its table. A row that says too little has none.
//
// What a report says follows from the row alone, so that the same row makes the same
// reports, which change nothing when they come again.
func legacyReports(row map[string]string, partition string) []waybill.DeliveryReport {
	col := func(name string) string {
		v := strings.TrimSpace(row[name])
		if strings.EqualFold(v, "null") || strings.EqualFold(v, "undefined") {
			return "" // what some writers put for nothing
		}
		return v
	}
	at, err := time.Parse(time.RFC3339, row["Timestamp"])
	if err != nil {
		at = time.Time{}
	}
	base := waybill.DeliveryReport{Provider: legacyProvider, Partition: partition, Time: at}
	var out []waybill.DeliveryReport
	tag, p1, p2, p3 := col("imageTag"), col("p1"), col("p2"), col("p3")
	if tag != "" && (p1 != "" || col("commitId") != "") {
		r := base
		r.Kind, r.Run, r.ImageTag, r.Commit, r.Service, r.SourceRepo = waybill.ReportBuild, p1, tag, col("commitId"), col("service"), col("sourceRepo")
		out = append(out, r)
	}
	if tag != "" && col("env") != "" && col("hldCommitId") != "" {
		r := base
		r.Kind, r.Run, r.ImageTag, r.Service, r.BuildRun = waybill.ReportConfig, p2, tag, col("service"), p1
		r.Ring, r.ConfigCommit, r.ConfigRepo, r.PullRequest = col("env"), col("hldCommitId"), col("hldRepo"), col("pr")
		out = append(out, r)
	}
	switch {
	case p3 == "" && col("manifestCommitId") == "":
	case col("hldCommitId") != "" || col("pr") != "":
		r := base
		r.Kind, r.Run, r.ConfigCommit, r.ConfigRepo, r.PullRequest = waybill.ReportManifest, p3, col("hldCommitId"), col("hldRepo"), col("pr")
		r.ManifestCommit, r.ManifestRepo = col("manifestCommitId"), col("manifestRepo")
		out = append(out, r)
	case p3 != "" && col("manifestCommitId") != "":
		r := base
		r.Kind, r.Stage, r.Run = waybill.ReportRun, waybill.StageManifest, p3
		r.ManifestCommit, r.ManifestRepo = col("manifestCommitId"), col("manifestRepo")
		out = append(out, r)
	}
	return out
}
