package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
)

// Limits of a report.
const (
	// MaxField is how many bytes a field can have.
	MaxField = 512
	// MaxPartition is how many bytes the name of a partition can have.
	MaxPartition = 128
	// MaxMessage is how many bytes a message, a URL or an ID can have.
	MaxMessage = 4096
	// MaxHistory is how many commits a report of history can have.
	MaxHistory = 1000
	// MaxPruned is how many rows a report can have forgotten.
	MaxPruned = 500
)

// DefaultPartition is the partition of a report that names none.
const DefaultPartition = "default"

// folded is a report with its references in the form in which they are compared. Tag and
// service keep the form in which they are shown beside it.
type folded struct {
	waybill.DeliveryReport
	showTag, showName string
}

// check returns the report with blanks trimmed and defaults filled in, or says what it
// lacks.
func check(r waybill.DeliveryReport) (waybill.DeliveryReport, error) {
	for _, f := range []struct {
		name  string
		value *string
		limit int
	}{
		{"id", &r.ID, MaxMessage}, {"provider", &r.Provider, MaxField}, {"partition", &r.Partition, MaxPartition},
		{"run", &r.Run, MaxField}, {"url", &r.URL, MaxMessage}, {"service", &r.Service, MaxField},
		{"image_tag", &r.ImageTag, MaxField}, {"image_digest", &r.ImageDigest, MaxField}, {"commit", &r.Commit, MaxField},
		{"source_repo", &r.SourceRepo, MaxField}, {"build_run", &r.BuildRun, MaxField}, {"ring", &r.Ring, MaxField},
		{"config_commit", &r.ConfigCommit, MaxField}, {"config_repo", &r.ConfigRepo, MaxField},
		{"pull_request", &r.PullRequest, MaxField}, {"manifest_commit", &r.ManifestCommit, MaxField},
		{"manifest_repo", &r.ManifestRepo, MaxField}, {"merge_commit", &r.MergeCommit, MaxField},
		{"approved_by", &r.ApprovedBy, MaxField}, {"merged_by", &r.MergedBy, MaxField},
		{"cluster", &r.Cluster, MaxField}, {"message", &r.Message, MaxMessage},
		{"deployment", &r.Deployment, MaxField}, {"target", &r.Target, MaxField},
		{"number", &r.Number, MaxField}, {"branch", &r.Branch, MaxField}, {"title", &r.Title, MaxMessage},
		{"source_branch", &r.SourceBranch, MaxField}, {"target_branch", &r.TargetBranch, MaxField},
	} {
		*f.value = strings.TrimSpace(*f.value)
		if len(*f.value) > f.limit {
			return r, waybill.E(waybill.KindTooLarge, "%s has %d bytes, at most %d are taken", f.name, len(*f.value), f.limit)
		}
		if strings.ContainsRune(*f.value, 0) {
			return r, waybill.E(waybill.KindInvalid, "%s holds a NUL byte", f.name)
		}
		if !utf8.ValidString(*f.value) {
			return r, waybill.E(waybill.KindInvalid, "%s is no UTF-8", f.name)
		}
	}
	for _, p := range []**waybill.Person{&r.Author, &r.Merger} {
		if err := checkPerson(p); err != nil {
			return r, err
		}
	}
	if r.Partition == "" {
		r.Partition = DefaultPartition
	}
	r.SourceRepo, r.ConfigRepo, r.ManifestRepo = plainRepo(r.SourceRepo), plainRepo(r.ConfigRepo), plainRepo(r.ManifestRepo)
	r.URL, r.Message, r.Title = plainURL(r.URL), plainText(r.Message), plainText(r.Title)
	image := r.ImageTag != "" || r.ImageDigest != ""
	var lacks []string
	need := func(ok bool, what string) {
		if !ok {
			lacks = append(lacks, what)
		}
	}
	switch r.Kind {
	case waybill.ReportBuild:
		need(image, "image_tag or image_digest")
	case waybill.ReportConfig:
		need(image || r.Deployment != "", "image_tag or image_digest")
		need(r.Ring != "", "ring")
		need(r.ConfigCommit != "", "config_commit")
	case waybill.ReportManifest:
		switch {
		case image: // straight from an image
			need(r.Ring != "", "ring")
			need(r.ManifestCommit != "" || r.Run != "", "manifest_commit or run")
			if r.ConfigCommit != "" {
				return r, waybill.E(waybill.KindInvalid, "a manifest report names either a config_commit or an image, this one has both").
					WithHint("the image of a config commit is known from the report of the config stage")
			}
		default:
			need(r.ConfigCommit != "" || r.PullRequest != "", "config_commit, pull_request or an image")
		}
	case waybill.ReportRun:
		need(r.Run != "", "run")
		need(slices.Contains([]waybill.Stage{waybill.StageBuild, waybill.StageConfig, waybill.StageManifest}, r.Stage), "stage (build, config or manifest)")
		need(r.Status != "" || r.ManifestCommit != "" || r.URL != "" || !r.FinishedAt.IsZero() || r.Expired, "status, manifest_commit, url, finished_at or expired")
	case waybill.ReportCommit:
		need(r.Commit != "", "commit")
		need(r.Author != nil || !r.CommittedAt.IsZero(), "author or committed_at")
	case waybill.ReportReview:
		need(r.PullRequest != "", "pull_request")
		need(slices.Contains([]waybill.ReviewState{waybill.ReviewOpen, waybill.ReviewMerged, waybill.ReviewClosed}, r.Review), "review (open, merged or closed)")
	case waybill.ReportSync:
		need(r.Cluster != "", "cluster")
		need(image || r.ManifestCommit != "", "manifest_commit, image_tag or image_digest")
		need(slices.Contains([]waybill.ClusterState{waybill.ClusterPending, waybill.ClusterApplied, waybill.ClusterHealthy, waybill.ClusterFailed}, r.ClusterState),
			"cluster_state (pending, applied, healthy or failed)")
	case waybill.ReportHistory:
		need(len(r.History) > 0, "history")
		if err := checkHistory(r.History); err != nil {
			return r, err
		}
	case waybill.ReportPrune:
		need(len(r.Deployments) > 0, "deployments")
		if len(r.Deployments) > MaxPruned {
			return r, waybill.E(waybill.KindTooLarge, "a prune report has %d deployments, at most %d are taken", len(r.Deployments), MaxPruned)
		}
	case waybill.ReportAttach:
		need(r.Deployment != "", "deployment")
		need(r.Target != "", "target")
	default:
		return r, waybill.E(waybill.KindInvalid, "kind %.40q of a report is not known; want build, config, manifest, run, review, commit, sync, history, attach or prune", r.Kind)
	}
	if len(lacks) > 0 {
		return r, waybill.E(waybill.KindInvalid, "a %s report needs %s", r.Kind, strings.Join(lacks, " and "))
	}
	switch r.Status {
	case "", queued, running, succeeded, failed, canceled, skipped:
	default:
		return r, waybill.E(waybill.KindInvalid, "status %.40q is not known; want queued, running, succeeded, failed, canceled or skipped", r.Status)
	}
	return r, nil
}

// checkHistory says what is wrong with the commits of a report of history.
func checkHistory(list []waybill.CommitParents) error {
	if len(list) > MaxHistory {
		return waybill.E(waybill.KindTooLarge, "a history report has %d commits, at most %d are taken", len(list), MaxHistory)
	}
	for _, c := range list {
		if len(c.Parents) > 64 {
			return waybill.E(waybill.KindTooLarge, "commit %.40q came of %d commits, at most 64 are taken", c.Commit, len(c.Parents))
		}
		for _, name := range append([]string{c.Commit}, c.Parents...) {
			switch {
			case len(name) > MaxField:
				return waybill.E(waybill.KindTooLarge, "a commit of history has %d bytes, at most %d are taken", len(name), MaxField)
			case fold(name) == "" || strings.ContainsRune(name, 0) || !utf8.ValidString(name):
				return waybill.E(waybill.KindInvalid, "history names the commit %.40q", name)
			}
		}
	}
	return nil
}

// checkPerson replaces a person by one with blanks trimmed, or by none where nothing is
// said of them.
func checkPerson(p **waybill.Person) error {
	if *p == nil {
		return nil
	}
	c := **p
	for _, f := range []*string{&c.Name, &c.Username, &c.URL, &c.Image} {
		*f = strings.TrimSpace(*f)
		switch {
		case len(*f) > MaxMessage:
			return waybill.E(waybill.KindTooLarge, "what is said of a person has %d bytes, at most %d are taken", len(*f), MaxMessage)
		case strings.ContainsRune(*f, 0) || !utf8.ValidString(*f):
			return waybill.E(waybill.KindInvalid, "what is said of a person is no UTF-8, or holds a NUL byte")
		}
	}
	c.URL, c.Image = plainURL(c.URL), plainURL(c.Image)
	if *p = &c; c == (waybill.Person{}) {
		*p = nil
	}
	return nil
}

// eventID is what makes a report the same as another: its provider's ID for it, or all
// that it says. A hash, so that it can be a key.
func eventID(r *waybill.DeliveryReport) string {
	h := sha256.New()
	if r.ID != "" {
		h.Write([]byte("id\x00" + fold(r.Provider) + "\x00" + r.ID))
	} else {
		h.Write([]byte("content\x00"))
		h.Write(content(r))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// content is all that a report says.
func content(r *waybill.DeliveryReport) []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and times; the years of the latter are checked when they are read
	}
	return text
}

// foldReport brings references into the form in which they are compared.
func foldReport(r waybill.DeliveryReport) *folded {
	f := &folded{DeliveryReport: r, showTag: r.ImageTag, showName: r.Service}
	for _, s := range []*string{
		&f.ImageTag, &f.ImageDigest, &f.Commit, &f.Service, &f.Ring, &f.ConfigCommit, &f.PullRequest, &f.ManifestCommit, &f.MergeCommit,
		&f.Run, &f.BuildRun, &f.Deployment, &f.Target,
	} {
		*s = fold(*s)
	}
	return f
}
