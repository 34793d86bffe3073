package waybill

import (
	"context"
	"time"
)

// Stage is a part of the way of a change from its source to a cluster.
type Stage string

// The stages, in the order of the way. A flow without a repository of configuration
// has no config stage: what it builds goes straight into the repository of manifests.
const (
	StageBuild    Stage = "build"    // a source commit becomes an image
	StageConfig   Stage = "config"   // the configuration names the image for a ring
	StageManifest Stage = "manifest" // manifests are made of the configuration
	StageSync     Stage = "sync"     // a cluster takes the manifests
)

// Stages lists every stage once, in order.
func Stages() []Stage { return []Stage{StageBuild, StageConfig, StageManifest, StageSync} }

// ReportKind says what a report tells of.
type ReportKind string

// The kinds of report.
const (
	// ReportBuild: an image was built. Image (tag or digest); commonly commit, service, run.
	ReportBuild ReportKind = "build"
	// ReportConfig: the configuration of a ring names an image. Image, ring, config commit.
	ReportConfig ReportKind = "config"
	// ReportManifest: manifests were made. Either of a configuration (config commit or
	// pull request), or, in a flow without one, of an image for a ring.
	ReportManifest ReportKind = "manifest"
	// ReportRun: more about a run that others tell of: its status, the manifest commit
	// that came out of it. Stage and run.
	ReportRun ReportKind = "run"
	// ReportReview: the state of a pull request of the configuration.
	ReportReview ReportKind = "review"
	// ReportSync: a cluster has taken a revision of the manifests, or an image.
	ReportSync ReportKind = "sync"
	// ReportCommit: more about a commit: who wrote it, and when. Commit; SourceRepo is its
	// repository, whichever of the way it is.
	ReportCommit ReportKind = "commit"
	// ReportHistory: which commits of the repository of manifests came of which. History.
	ReportHistory ReportKind = "history"
	// ReportAttach: a person says that one row (Deployment) belongs to another (Target).
	ReportAttach ReportKind = "attach"
	// ReportPrune: rows that are not needed any more (Deployments) are forgotten. The events
	// stay, and making the rows again from them does not bring these back.
	ReportPrune ReportKind = "prune"
)

// ReviewState is the state of a pull request.
type ReviewState string

// The states of a pull request.
const (
	ReviewOpen   ReviewState = "open"
	ReviewMerged ReviewState = "merged"
	ReviewClosed ReviewState = "closed" // without being merged
)

// ClusterState is how far a deployment has come in a cluster.
type ClusterState string

// The states of a deployment in a cluster.
const (
	ClusterPending    ClusterState = "pending"    // the cluster knows of it
	ClusterApplied    ClusterState = "applied"    // its objects were written; whether they work is not known
	ClusterHealthy    ClusterState = "healthy"    // it works
	ClusterFailed     ClusterState = "failed"     // it does not
	ClusterSuperseded ClusterState = "superseded" // another deployment of the service and ring came after it
)

// Person is who wrote, merged or started something, as their provider tells of them.
type Person struct {
	Name     string `json:"name"`
	Username string `json:"username,omitempty"` // login or mail address
	URL      string `json:"url,omitempty"`      // page of the person
	Image    string `json:"image_url,omitempty"`
}

// Outcome is the canonical state of a stage, whatever its system calls it: queued,
// running, succeeded, failed, canceled or skipped; empty when nobody said.
type Outcome = Status

// DeliveryReport is what a tool, or a person, tells of a delivery. Fields that are not
// known are left empty: a report never clears what another one said.
//
// References are compared without regard to case and surrounding blanks. Commits
// match by prefix when both have at least seven hexadecimal digits, and else only when
// they are equal. Repositories match however they are written: with or without
// credentials, scheme or ".git".
type DeliveryReport struct {
	// ID makes repetitions harmless: the first report of a provider with an ID counts.
	// Without one, a report with the same content as another is a repetition of it.
	ID       string     `json:"id,omitempty"`
	Kind     ReportKind `json:"kind"`
	Provider string     `json:"provider,omitempty"` // "native", "flux", "cdevents", …
	// Partition separates projects that share a server; references mean nothing across.
	Partition string `json:"partition,omitempty"`
	// Time is when it happened; the server's time of receipt when it is zero. Of two
	// reports that contradict each other the later one counts.
	Time time.Time `json:"time,omitzero"`

	Stage      Stage     `json:"stage,omitempty"` // with ReportRun
	Run        string    `json:"run,omitempty"`
	Attempt    int       `json:"attempt,omitempty"`
	URL        string    `json:"url,omitempty"` // of the run
	Status     Outcome   `json:"status,omitempty"`
	QueuedAt   time.Time `json:"queued_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	Number     string    `json:"number,omitempty"`  // what people call the run: "20260830.3", "Release-174"
	Branch     string    `json:"branch,omitempty"`  // that the run was of
	Expired    bool      `json:"expired,omitempty"` // with ReportRun: its provider has deleted the run

	Service     string    `json:"service,omitempty"`
	ImageTag    string    `json:"image_tag,omitempty"`
	ImageDigest string    `json:"image_digest,omitempty"`
	Commit      string    `json:"commit,omitempty"` // of the source
	CommittedAt time.Time `json:"committed_at,omitzero"`
	SourceRepo  string    `json:"source_repo,omitempty"`
	BuildRun    string    `json:"build_run,omitempty"` // with ReportConfig: which build, where tags repeat

	Ring           string `json:"ring,omitempty"`
	ConfigCommit   string `json:"config_commit,omitempty"`
	ConfigRepo     string `json:"config_repo,omitempty"`
	PullRequest    string `json:"pull_request,omitempty"` // in ConfigRepo
	ManifestCommit string `json:"manifest_commit,omitempty"`
	ManifestRepo   string `json:"manifest_repo,omitempty"`

	Review      ReviewState `json:"review,omitempty"` // with ReportReview
	MergeCommit string      `json:"merge_commit,omitempty"`
	ApprovedBy  string      `json:"approved_by,omitempty"`
	MergedBy    string      `json:"merged_by,omitempty"`

	Author       *Person `json:"author,omitempty"` // with ReportCommit
	Merger       *Person `json:"merger,omitempty"` // more about MergedBy
	Title        string  `json:"title,omitempty"`  // with ReportReview, as the branches
	SourceBranch string  `json:"source_branch,omitempty"`
	TargetBranch string  `json:"target_branch,omitempty"`

	Cluster      string       `json:"cluster,omitempty"` // with ReportSync
	ClusterState ClusterState `json:"cluster_state,omitempty"`
	Message      string       `json:"message,omitempty"`

	// Deployment names the row that the report is about, where its sender knows it.
	Deployment string `json:"deployment,omitempty"`
	Target     string `json:"target,omitempty"` // with ReportAttach

	// History, with ReportHistory, are commits and what they came of, in any order: at
	// most 1000. Deployments, with ReportPrune, are ids of rows, at most 500.
	History     []CommitParents `json:"history,omitempty"`
	Deployments []string        `json:"deployments,omitempty"`
}

// CommitParents is a commit and those that it came of: none for the first of a
// repository, several for a merge.
type CommitParents struct {
	Commit  string   `json:"commit"`
	Parents []string `json:"parents,omitempty"`
}

// DeliveryEvent is a report as it was taken in. Events are only ever added; the
// deployments follow from them.
type DeliveryEvent struct {
	ID         string         `json:"id"`
	Seq        int64          `json:"seq"` // place among those of its partition, from 1
	ReceivedAt time.Time      `json:"received_at"`
	By         string         `json:"by,omitempty"`
	Report     DeliveryReport `json:"report"`
}

// ReportAction is what became of a report.
type ReportAction string

// The actions.
const (
	ActionInserted ReportAction = "inserted" // a new deployment began
	ActionUpdated  ReportAction = "updated"  // it completed deployments that were there
	ActionCopied   ReportAction = "copied"   // an image that was known goes to one more ring
	ActionUnlinked ReportAction = "unlinked" // it belongs to nothing that is known (yet): see the inbox
	ActionRepeated ReportAction = "repeated" // it was known already
	ActionNone     ReportAction = "none"     // it was noted and changed no deployment
)

// ReportResult tells what became of a report.
type ReportResult struct {
	Event       string       `json:"event"`
	Action      ReportAction `json:"action"`
	Deployments []Deployment `json:"deployments"` // those that it began or changed
	Warning     string       `json:"warning,omitempty"`
}

// Kinds of deployment rows.
const (
	DeploymentRegular = "deployment"
	DeploymentManual  = "manual" // the configuration was edited by hand: no image is known
)

// StageRun is one run of a stage: an attempt at it.
type StageRun struct {
	Run        string    `json:"run"`
	Attempt    int       `json:"attempt,omitempty"`
	URL        string    `json:"url,omitempty"`
	Status     Outcome   `json:"status,omitempty"`
	QueuedAt   time.Time `json:"queued_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	StatusAt   time.Time `json:"status_at,omitzero"` // when it was said to have the status
	SeenAt     time.Time `json:"seen_at"`            // when it was first told of
	UpdatedAt  time.Time `json:"updated_at"`
	// Commit is what came out of it: the manifest commit of this very run.
	Commit string `json:"commit,omitempty"`

	// What only its provider tells.
	StartedAt time.Time `json:"started_at,omitzero"`
	Number    string    `json:"number,omitempty"`
	Branch    string    `json:"branch,omitempty"`
	Source    string    `json:"source,omitempty"`  // commit that it was of
	Expired   bool      `json:"expired,omitempty"` // the provider has deleted it: this is its last known state
}

// DeploymentStage is one stage of a deployment. Its runs stand in the order in which
// they were first told of; the last one counts.
type DeploymentStage struct {
	Stage     Stage      `json:"stage"`
	Status    Outcome    `json:"status,omitempty"`
	Runs      []StageRun `json:"runs"`
	UpdatedAt time.Time  `json:"updated_at,omitzero"`
}

// Last is the run that counts, nil when none is known.
func (s *DeploymentStage) Last() *StageRun {
	if s == nil || len(s.Runs) == 0 {
		return nil
	}
	return &s.Runs[len(s.Runs)-1]
}

// DeploymentReview is the pull request of a deployment.
type DeploymentReview struct {
	State       ReviewState `json:"state"`
	ApprovedBy  string      `json:"approved_by,omitempty"`
	MergedBy    string      `json:"merged_by,omitempty"`
	MergeCommit string      `json:"merge_commit,omitempty"`
	URL         string      `json:"url,omitempty"`
	UpdatedAt   time.Time   `json:"updated_at"`

	Merger       *Person `json:"merger,omitempty"`
	Title        string  `json:"title,omitempty"`
	SourceBranch string  `json:"source_branch,omitempty"`
	TargetBranch string  `json:"target_branch,omitempty"`
}

// DeploymentCluster is a deployment in one cluster.
type DeploymentCluster struct {
	Cluster   string       `json:"cluster"`
	State     ClusterState `json:"state"`
	Revision  string       `json:"revision,omitempty"` // of the cluster, when it had the deployment first
	Since     time.Time    `json:"since"`              // when it was first told to be there
	HealthyAt time.Time    `json:"healthy_at,omitzero"`
	FailedAt  time.Time    `json:"failed_at,omitzero"` // first failure there
	UpdatedAt time.Time    `json:"updated_at"`
	Message   string       `json:"message,omitempty"`
	// Match is how it was found: "commit" (the revision is its manifest commit), "ancestry"
	// (the revision came of its manifest commit), "image". Where the history of manifests
	// is not known only "commit" can be, and the cluster leaves the deployment when it goes on.
	Match string `json:"match"`
}

// DeploymentStatus is the state of a deployment as a whole.
type DeploymentStatus string

// The states of a deployment.
const (
	DeploymentComplete   DeploymentStatus = "complete"
	DeploymentInProgress DeploymentStatus = "in_progress"
	DeploymentWaiting    DeploymentStatus = "waiting" // for its pull request
	DeploymentFailed     DeploymentStatus = "failed"
	DeploymentCanceled   DeploymentStatus = "canceled"
	DeploymentIncomplete DeploymentStatus = "incomplete"
)

// DeploymentStatuses lists every state once.
func DeploymentStatuses() []DeploymentStatus {
	return []DeploymentStatus{DeploymentComplete, DeploymentInProgress, DeploymentWaiting, DeploymentFailed, DeploymentCanceled, DeploymentIncomplete}
}

// Deployment is one image on its way to one ring. It is derived: everything in it
// follows from delivery events.
type Deployment struct {
	ID        string   `json:"id"`               // 12 hexadecimal digits
	Former    []string `json:"former,omitempty"` // ids of rows that turned out to be this one; they find it
	Partition string   `json:"partition"`
	Kind      string   `json:"kind"`

	Service        string    `json:"service"`
	Ring           string    `json:"ring"`
	Commit         string    `json:"commit,omitempty"`
	CommittedAt    time.Time `json:"committed_at,omitzero"`
	Author         *Person   `json:"author,omitempty"` // of Commit; of ConfigCommit where it has none
	SourceRepo     string    `json:"source_repo,omitempty"`
	ImageTag       string    `json:"image_tag,omitempty"`
	ImageDigest    string    `json:"image_digest,omitempty"`
	ConfigCommit   string    `json:"config_commit,omitempty"`
	ConfigRepo     string    `json:"config_repo,omitempty"`
	PullRequest    string    `json:"pull_request,omitempty"`
	ManifestCommit string    `json:"manifest_commit,omitempty"`
	ManifestRepo   string    `json:"manifest_repo,omitempty"`
	Direct         bool      `json:"direct,omitempty"` // a flow without a repository of configuration

	Build    *DeploymentStage    `json:"build,omitempty"`
	Config   *DeploymentStage    `json:"config,omitempty"`
	Manifest *DeploymentStage    `json:"manifest,omitempty"`
	Review   *DeploymentReview   `json:"review,omitempty"`
	Clusters []DeploymentCluster `json:"clusters,omitempty"` // by name

	Status DeploymentStatus `json:"status"`
	Reason string           `json:"reason"` // why it has that status
	// Unlinked says why the row is not tied to what it should be, empty when it is.
	Unlinked string `json:"unlinked,omitempty"`

	CreatedAt time.Time `json:"created_at"` // the first that was heard of it
	UpdatedAt time.Time `json:"updated_at"` // its last stage's last news
}

// Duration is the time that the last run of each stage took, from when it was queued until
// it ended, or until now. A run that is of two stages counts once, and waiting for a
// pull request does not count.
func (d *Deployment) Duration(now time.Time) time.Duration {
	var sum time.Duration
	counted := map[string]bool{}
	for _, s := range []*DeploymentStage{d.Build, d.Config, d.Manifest} {
		r := s.Last()
		if r == nil || r.QueuedAt.IsZero() || s.Stage != StageManifest && counted[r.Run] {
			continue
		}
		counted[r.Run] = true
		end := r.FinishedAt
		if end.IsZero() {
			end = now
		}
		sum += max(0, end.Sub(r.QueuedAt))
	}
	return sum
}

// DisplayService is the service without an owner in front of it.
func (d *Deployment) DisplayService() string { return DisplayService(d.Service) }

// DeploymentFilter selects deployments. Empty fields select all; those that are given
// must all be met. Values are compared as references are (see DeliveryReport).
type DeploymentFilter struct {
	Partition string
	ID        string
	Build     string // run of the build
	Commit    string // of the source; a prefix of seven or more digits will do
	ImageTag  string
	Ring      string
	Service   string // as stored, or as displayed
	Kind      string
	Statuses  []DeploymentStatus // one of these
	Unlinked  bool               // only those that are not tied to what they should be
	Since     time.Time          // updated at or after
	Until     time.Time          // updated before

	Sort   DeploymentSort // empty is by time of update
	Asc    bool           // oldest (first of the alphabet) first
	Limit  int            // 1 to 1000; 0 means 50
	Cursor string
}

// DeploymentSort is the order of a list of deployments; the id decides among equals.
type DeploymentSort string

// The orders.
const (
	SortUpdated DeploymentSort = "updated"
	SortCreated DeploymentSort = "created"
	SortService DeploymentSort = "service"
	SortRing    DeploymentSort = "ring"
)

// DeploymentDetail is a deployment and the events that it follows from, oldest first.
type DeploymentDetail struct {
	Deployment
	Events []DeliveryEvent `json:"events"`
}

// Hop is one line of a trace.
type Hop struct {
	Stage  Stage     `json:"stage"`
	What   string    `json:"what"` // "commit c626394", "image app:1", …
	Status string    `json:"status,omitempty"`
	Run    string    `json:"run,omitempty"`
	URL    string    `json:"url,omitempty"`
	Time   time.Time `json:"time,omitzero"`
}

// Trace is the way of one deployment that a reference leads to.
type Trace struct {
	Deployment Deployment `json:"deployment"`
	Found      string     `json:"found"` // what the reference is: "commit", "image_tag", …
	Hops       []Hop      `json:"hops"`
}

// MatrixCell is what is of a service in a ring and cluster. Cluster is empty for what
// the newest manifests of the ring say.
type MatrixCell struct {
	Service    string       `json:"service"`
	Ring       string       `json:"ring"`
	Cluster    string       `json:"cluster"`
	Deployment string       `json:"deployment"`
	ImageTag   string       `json:"image_tag"`
	State      ClusterState `json:"state"` // empty for what the manifests say
	Since      time.Time    `json:"since"`
}

// Matrix is what is where. Cells stand in the order of service, ring and cluster.
type Matrix struct {
	At    time.Time    `json:"at"`
	Cells []MatrixCell `json:"cells"`
}

// RingDifference is a service that is not the same in two rings.
type RingDifference struct {
	Service    string `json:"service"`
	From       string `json:"from,omitempty"` // image tag there; empty: it is not there
	To         string `json:"to,omitempty"`
	FromCommit string `json:"from_commit,omitempty"`
	ToCommit   string `json:"to_commit,omitempty"`
	SourceRepo string `json:"source_repo,omitempty"`
	Compare    string `json:"compare,omitempty"` // where the commits between the two are shown
	// Behind is how many deployments came to the first ring after the one whose image is
	// in the second; -1 when that image is not among the newest 24 of the first.
	Behind int `json:"behind"`
}

// Lag is how far a ring is behind another, for one service.
type Lag struct {
	Service string  `json:"service"`
	Behind  int     `json:"behind"`  // as RingDifference.Behind
	Seconds float64 `json:"seconds"` // since the first deployment that is missing, at least; 0 when none is
	From    string  `json:"from"`    // newest image tag of the first ring
	To      string  `json:"to,omitempty"`
}

// Rollback says what to go back to.
type Rollback struct {
	Service        string    `json:"service"`
	Ring           string    `json:"ring"`
	Cluster        string    `json:"cluster"`
	Current        string    `json:"current"`    // deployment
	Deployment     string    `json:"deployment"` // the last healthy one before it with another image
	ImageTag       string    `json:"image_tag"`
	ImageDigest    string    `json:"image_digest,omitempty"`
	ManifestCommit string    `json:"manifest_commit,omitempty"`
	HealthyAt      time.Time `json:"healthy_at"`
	// RolledBack: the current deployment is itself such a return to an earlier image.
	RolledBack bool `json:"rolled_back,omitempty"`
}

// UnlinkedItem is an entry of the inbox: something that was reported and belongs to
// nothing that is known.
type UnlinkedItem struct {
	ID         string     `json:"id"` // of a row, or of what waits for one
	Kind       ReportKind `json:"kind"`
	Reason     string     `json:"reason"`
	What       string     `json:"what"`                 // "image app:1 for dev", "run 200"
	Deployment string     `json:"deployment,omitempty"` // the row it has, if it has one
	Since      time.Time  `json:"since"`
}

// PruneQuery selects rows to be forgotten: those that are older than some time (by their
// last news) and not among the newest of their service and ring. What a cluster runs
// now, or what the newest manifests of a ring say, stays whatever its age.
type PruneQuery struct {
	Partition string
	OlderThan time.Duration
	Keep      int // of each service and ring
	DryRun    bool
}

// PrunedDeployment is a row that was, or would be, forgotten.
type PrunedDeployment struct {
	ID        string    `json:"id"`
	Service   string    `json:"service"`
	Ring      string    `json:"ring"`
	ImageTag  string    `json:"image_tag,omitempty"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Pruned tells what was forgotten.
type Pruned struct {
	Before      time.Time          `json:"before"` // what is older was looked at
	DryRun      bool               `json:"dry_run"`
	Live        int                `json:"live"` // rows that stay because they are somewhere now
	Deployments []PrunedDeployment `json:"deployments"`
}

// AlertKind says what is wrong.
type AlertKind string

// The kinds of alerts.
const (
	AlertStuck    AlertKind = "stuck"    // the next stage of a deployment has not been told of for long
	AlertUnsynced AlertKind = "unsynced" // a cluster has not taken the newest manifests of its ring for long
	AlertDrift    AlertKind = "drift"    // a cluster is at a revision that no deployment is known of
	AlertSilent   AlertKind = "silent"   // a cluster has not been heard of for long
)

// AlertQuery selects alerts. Zero durations are the defaults: an hour, and a day.
type AlertQuery struct {
	Partition string
	Stuck     time.Duration // without news for so long is stuck, and not taken for so long is unsynced
	Silent    time.Duration // not heard of for so long is silent
}

// Alert is something about deliveries that somebody should look at. It lasts as long as
// what it says is so.
type Alert struct {
	ID         string    `json:"id"` // the same as long as it lasts
	Kind       AlertKind `json:"kind"`
	Partition  string    `json:"partition"`
	Deployment string    `json:"deployment,omitempty"`
	Service    string    `json:"service,omitempty"`
	Ring       string    `json:"ring,omitempty"`
	Cluster    string    `json:"cluster,omitempty"`
	Revision   string    `json:"revision,omitempty"`
	Since      time.Time `json:"since"`
	Text       string    `json:"text"` // one line for people
}

// Rebuilt tells what came of making deployments again from their events.
type Rebuilt struct {
	Events int64 `json:"events"`      // that were applied
	Rows   int   `json:"deployments"` // that there are
	Fixed  int   `json:"corrected"`   // stored values that were not what the events say
}

// DORAQuery selects what the delivery metrics are made of.
type DORAQuery struct {
	Partition string
	Ring      string // the one that counts as production
	Service   string // as displayed; empty: all of them
	From      time.Time
	Until     time.Time
}

// DORA are the five metrics of software delivery (dora.dev/guides/dora-metrics), of the
// deployments that reached the ring within the window: when the first cluster said that
// it is healthy there, or failed. In a ring of which no cluster says either, it is when the
// manifests were made (Approximate says so).
type DORA struct {
	Ring        string    `json:"ring"`
	Service     string    `json:"service,omitempty"`
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
	Deployments int       `json:"deployments"`

	// From the time of the source commit (of its build's first report, when the time of
	// the commit is not known) until the ring was reached. Median and 90th percentile by
	// the nearest rank, of the deployments of Timed; an image that was there before does
	// not count again.
	LeadTime    float64 `json:"lead_time_seconds"`
	LeadTimeP90 float64 `json:"lead_time_p90_seconds"`
	Timed       int     `json:"timed"`
	// Deployments for each day of the window.
	Frequency float64 `json:"frequency_per_day"`
	// The share of deployments that failed in a cluster, or that were taken back.
	FailRate float64 `json:"fail_rate"`
	Failed   int     `json:"failed"`
	// From the first sign of failure until a deployment of the service was healthy there
	// again, the median over those that recovered.
	Recovery  float64 `json:"recovery_seconds"`
	Recovered int     `json:"recovered"`
	// The share of deployments that were made to repair: the first of a service after one that
	// failed or, where it was taken back, the one that took it back.
	ReworkRate float64 `json:"rework_rate"`
	Rework     int     `json:"rework"`

	// Approximate lists what the numbers stand on where it is not what the definition asks for.
	Approximate []string `json:"approximate"`
}

// Deliveries follows changes from their source to every cluster.
type Deliveries interface {
	// Report takes in a report and returns once it is durable, with what it changed.
	// The same report again changes nothing. KindInvalid: it lacks what its kind needs,
	// or its ID was used with another content. KindTooLarge: a field is too long.
	// KindNotFound: it names a deployment that does not exist. KindExhausted: thousands of
	// others carry the same reference.
	Report(ctx context.Context, r DeliveryReport, by Principal) (ReportResult, error)
	// Deployment finds a row by its id or by one that it had before.
	Deployment(ctx context.Context, partition, id string) (DeploymentDetail, error)
	Deployments(ctx context.Context, f DeploymentFilter) (Page[Deployment], error)
	// Trace finds every deployment that a reference leads to: a commit of any of the
	// repositories, an image tag or digest, a pull request, a run or an id. KindNotFound:
	// none.
	Trace(ctx context.Context, partition, ref string) ([]Trace, error)
	// Matrix tells what is where.
	Matrix(ctx context.Context, partition string) (Matrix, error)
	// Diff lists the services that differ between two rings, in the order of their names.
	Diff(ctx context.Context, partition, from, to string) ([]RingDifference, error)
	// Lag tells for every service of the first ring how far the second is behind.
	Lag(ctx context.Context, partition, from, to string) ([]Lag, error)
	// Rollbacks tells what to go back to, for the services of a ring (all when service is
	// empty) in each cluster.
	Rollbacks(ctx context.Context, partition, ring, service string) ([]Rollback, error)
	// Unlinked lists what belongs to nothing that is known, newest first.
	Unlinked(ctx context.Context, partition string, limit int, cursor string) (Page[UnlinkedItem], error)
	// Prune forgets rows; the events that they follow from stay.
	Prune(ctx context.Context, q PruneQuery, by Principal) (Pruned, error)
	// Alerts lists what somebody should look at, the longest lasting first.
	Alerts(ctx context.Context, q AlertQuery) ([]Alert, error)
	// Rebuild makes everything that follows from the events of a partition again, and
	// corrects what is stored where it differs. Reports go on meanwhile. KindUnavailable:
	// they come in faster than that can be done.
	Rebuild(ctx context.Context, partition string) (Rebuilt, error)
	// SelfTest reports to a partition of its own, reads what follows and deletes it again. It
	// tells how long reporting and reading took.
	SelfTest(ctx context.Context, by Principal) (time.Duration, error)
	// DORA measures a ring.
	DORA(ctx context.Context, q DORAQuery) (DORA, error)
	// DeliveryPartitions lists the partitions that hold anything.
	DeliveryPartitions(ctx context.Context) ([]string, error)
}

// DisplayService is the name of a service without an owner in front of it: "owner/app"
// is "app". A name with more than one slash is left as it is.
func DisplayService(name string) string {
	slash := -1
	for i := range len(name) {
		if name[i] == '/' {
			if slash >= 0 {
				return name
			}
			slash = i
		}
	}
	return name[slash+1:]
}
