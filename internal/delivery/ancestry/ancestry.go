// Package ancestry finds out which commits of manifests came of which, and reports it, so
// that a cluster has what the revision that it is at came of.
//
// What is known comes from clones (git.go) or from comparisons that a provider makes
// (compare.go), and becomes reports of kind "history". From then on it is an event like any
// other: making the rows again needs neither clone nor provider.
package ancestry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
)

// Limits of one look.
const (
	revisions = 50    // of a partition
	depth     = 5_000 // commits behind one revision
)

// Source tells the history of repositories.
type Source interface {
	// Has reports whether it knows a repository; an empty one is that of clusters that name
	// none.
	Has(repo string) bool
	// History returns commits and what they came of, beginning with a revision, until
	// known says that the rest is known, or a limit. KindNotFound: there is no such commit.
	// Its errors hold no credentials.
	History(ctx context.Context, partition, repo, revision string, known func(commit string) (bool, error), limit int) ([]waybill.CommitParents, error)
}

// Deliveries is what is needed of them. delivery.Service is that.
type Deliveries interface {
	DeliveryPartitions(ctx context.Context) ([]string, error)
	Unresolved(ctx context.Context, partition string, n int) ([]delivery.Revision, error)
	Known(ctx context.Context, partition, commit string) (bool, error)
	Report(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (waybill.ReportResult, error)
}

// Options of a Resolver.
type Options struct {
	Deliveries Deliveries
	Sources    func() []Source // as the settings have them now; the first that has a repository is asked
	Every      time.Duration   // pause between looks; 0 is 15 s
	Timeout    time.Duration   // of one question; 0 is a minute
	Now        func() time.Time
	Logger     *slog.Logger
}

// Resolver looks for revisions of clusters whose history is not known. Several servers may:
// what one has reported is not reported twice.
type Resolver struct {
	o Options

	mu    sync.Mutex
	again map[string]trouble // by partition, repository and revision
}

// trouble is when something that failed is tried again.
type trouble struct {
	at    time.Time
	pause time.Duration
}

// Pauses after failures.
const (
	firstPause = 15 * time.Second
	lastPause  = 15 * time.Minute
)

// New returns a resolver that looks when Run or Look is called.
func New(o Options) *Resolver {
	if o.Every == 0 {
		o.Every = 15 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Resolver{o: o, again: map[string]trouble{}}
}

// Run looks again and again until ctx ends.
func (r *Resolver) Run(ctx context.Context) {
	t := time.NewTicker(r.o.Every)
	defer t.Stop()
	for {
		if _, err := r.Look(ctx); err != nil && ctx.Err() == nil {
			r.o.Logger.Warn("history of manifests is not looked at", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Look resolves what is not known in every partition and returns how many revisions are
// known now that were not before. What fails is tried again later, with growing pauses.
func (r *Resolver) Look(ctx context.Context) (int, error) {
	sources := r.o.Sources()
	if len(sources) == 0 {
		return 0, nil
	}
	partitions, err := r.o.Deliveries.DeliveryPartitions(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range partitions {
		list, err := r.o.Deliveries.Unresolved(ctx, p, revisions)
		if err != nil {
			return n, err
		}
		for _, x := range list {
			if r.waits(p, x) {
				continue
			}
			ok, err := r.resolve(ctx, sources, p, x)
			if ctx.Err() != nil {
				return n, ctx.Err()
			}
			r.note(p, x, err)
			if err != nil {
				r.o.Logger.Warn("the history of a revision is not known", "partition", p, "repository", x.Repo, "revision", x.Commit, "error", err)
			}
			if ok {
				n++
			}
		}
	}
	return n, nil
}

func key(partition string, x delivery.Revision) string {
	return partition + "\x00" + x.Repo + "\x00" + x.Commit
}

func (r *Resolver) waits(partition string, x delivery.Revision) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.o.Now().Before(r.again[key(partition, x)].at)
}

func (r *Resolver) note(partition string, x delivery.Revision, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key(partition, x)
	if err == nil {
		delete(r.again, k)
		return
	}
	if len(r.again) > 10_000 {
		clear(r.again)
	}
	t := r.again[k]
	t.pause = min(max(2*t.pause, firstPause), lastPause)
	t.at = r.o.Now().Add(t.pause)
	r.again[k] = t
}

// resolve asks the sources that have a repository, and reports what the first one knows.
func (r *Resolver) resolve(ctx context.Context, sources []Source, partition string, x delivery.Revision) (bool, error) {
	known := func(commit string) (bool, error) { return r.o.Deliveries.Known(ctx, partition, commit) }
	var faults []error
	for _, s := range sources {
		if !s.Has(x.Repo) {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, r.o.Timeout)
		list, err := s.History(limited, partition, x.Repo, x.Commit, known, depth)
		cancel()
		if err != nil {
			faults = append(faults, err)
			continue
		}
		// The oldest first: should this be cut off, what is known is known to its end.
		for end := len(list); end > 0; {
			begin := max(0, end-delivery.MaxHistory)
			if _, err := r.o.Deliveries.Report(ctx, waybill.DeliveryReport{
				Kind: waybill.ReportHistory, Provider: "ancestry", Partition: partition, ManifestRepo: x.Repo, History: list[begin:end],
			}, waybill.Principal{Name: "ancestry"}); err != nil {
				return false, err
			}
			end = begin
		}
		return len(list) > 0, nil
	}
	return false, errors.Join(faults...)
}
