package ancestry

import (
	"context"

	"github.com/waybill-run/waybill"
)

// Compared is the history that a provider knows without a clone: it is asked of the newest
// deployments whether a revision came of them. What lies between is not known, and need
// not be.
type Compared struct {
	Of func(repo string) bool
	// Newest are manifest commits of a repository, the newest first.
	Newest func(ctx context.Context, partition, repo string) ([]string, error)
	// Ancestor asks whether head came of base.
	Ancestor func(ctx context.Context, repo, base, head string) (bool, error)
}

// most is how many commits a revision is compared with.
const most = 20

// Has implements Source.
func (c Compared) Has(repo string) bool { return c.Of(repo) }

// History implements Source. It stops at the first commit whose own history is known.
func (c Compared) History(ctx context.Context, partition, repo, revision string, known func(string) (bool, error), _ int) ([]waybill.CommitParents, error) {
	list, err := c.Newest(ctx, partition, repo)
	if err != nil {
		return nil, err
	}
	out := waybill.CommitParents{Commit: revision}
	for i, base := range list {
		if i == most {
			break
		}
		if base == revision {
			continue
		}
		came, err := c.Ancestor(ctx, repo, base, revision)
		if waybill.IsKind(err, waybill.KindNotFound) {
			continue // it is of another repository, or gone
		}
		if err != nil {
			return nil, err
		}
		if !came {
			continue
		}
		out.Parents = append(out.Parents, base)
		if ok, err := known(base); err != nil {
			return nil, err
		} else if ok {
			break
		}
	}
	return []waybill.CommitParents{out}, nil
}

var _ Source = Compared{}
