// Package provider is the contract of the systems whose runs, commits, pull requests and
// tags deliveries are made of: Azure DevOps, GitHub and GitLab implement it, each in a
// package of its own, and pass providertest.
//
// # Errors
//
// Every error is a *waybill.Error. KindNotFound: the provider says that there is no such
// thing, though the repository or project can be seen. KindUnauthorized: it does not take
// the token. KindForbidden: the token does not open this, or the repository cannot be
// seen with it. KindExhausted: it wants no more calls before RetryAfter. KindUnavailable:
// it cannot be reached, is too slow or answers 5xx. KindMalformed: what it answers cannot
// be understood. KindInvalid: the question makes no sense to this provider. No error holds
// a token.
package provider

import (
	"context"
	"time"

	"github.com/waybill-run/waybill"
)

// The kinds of providers.
const (
	AzureDevOps = "azure-devops"
	GitHub      = "github"
	GitLab      = "gitlab"
)

// Kinds lists them.
func Kinds() []string { return []string{AzureDevOps, GitHub, GitLab} }

// Run is one run of a pipeline, as its provider tells of it. Times are UTC.
type Run struct {
	ID         string
	Number     string // what people call it
	URL        string // page of the run
	Status     waybill.Outcome
	QueuedAt   time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ChangedAt  time.Time // when it last changed
	Branch     string
	Commit     string // full
	Repository string // address of the repository that it was of, empty when it is not told
	By         *waybill.Person
	Image      string // tag that a release deployed
	// Stages are the states of the stages of a run that is of several, in order; only
	// asked for when RunQuery.Shared, and only told when the run as a whole did not
	// succeed.
	Stages []waybill.Outcome
}

// RunQuery asks for a run.
type RunQuery struct {
	Repo  Repository // that the run is of; may be empty where a project is enough
	Stage waybill.Stage
	ID    string
	URL   string // of the run, where it was reported
	// Shared: the run makes image and configuration.
	Shared bool
}

// RunAnswer is a run, or why there is none.
type RunAnswer struct {
	Run *Run
	Err error
}

// Commit is a commit and who wrote it.
type Commit struct {
	ID     string // full
	Author waybill.Person
	At     time.Time
}

// PullRequest is a pull or merge request.
type PullRequest struct {
	ID                         string
	Title                      string
	SourceBranch, TargetBranch string
	URL                        string
	State                      waybill.ReviewState
	MergedBy                   *waybill.Person
	ApprovedBy                 string
	MergeCommit                string // once it is merged
	// At is when it came to that state.
	At time.Time
}

// Tag is an annotated tag on a commit.
type Tag struct {
	Name    string // without refs/tags/
	Commit  string // full
	At      time.Time
	Tagger  string
	Message string
}

// Comparison says how two commits lie to each other.
type Comparison struct {
	// Ancestor: base is head or an ancestor of it.
	Ancestor bool
	// Ahead are the commits of head that base lacks, Behind those of base that head lacks;
	// -1 where the provider does not count them.
	Ahead, Behind int
	MergeBase     string // empty where it is not told
}

// StatusUpdate is what is written back.
type StatusUpdate struct {
	Commit      string // full
	Name        string // the same name again replaces what was written
	Environment string
	State       waybill.DeploymentStatus
	Description string
	URL         string
	// Deployment: it is written as a deployment into the environment, not as a status of
	// the commit. KindUnsupported where there is no such thing.
	Deployment bool
}

// Provider looks things up. Safe for concurrent use.
type Provider interface {
	// Runs looks runs up, as many in one call as the provider allows. There is one answer
	// for each query, in their order; what is wrong with one hinders no other.
	Runs(ctx context.Context, qs []RunQuery) []RunAnswer
	// Commit finds a commit by at least seven digits of it.
	Commit(ctx context.Context, r Repository, sha string) (Commit, error)
	PullRequest(ctx context.Context, r Repository, id string) (PullRequest, error)
	// Tags lists annotated tags whose names begin with prefix, by name. Others are left out.
	Tags(ctx context.Context, r Repository, prefix string) ([]Tag, error)
	Compare(ctx context.Context, r Repository, base, head string) (Comparison, error)
	// TagsURL is the page that shows the tags of a repository, "" when it has none.
	TagsURL(r Repository) string
	// SetStatus writes a status. The same again changes nothing.
	SetStatus(ctx context.Context, r Repository, u StatusUpdate) error
	// Client is what makes its calls.
	Client() *Client
}
