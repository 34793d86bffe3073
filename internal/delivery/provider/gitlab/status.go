package gitlab

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// SetStatus implements provider.Provider: an external status of the commit's pipeline, or
// a deployment into an environment.
func (g *GitLab) SetStatus(ctx context.Context, r provider.Repository, u provider.StatusUpdate) error {
	state := map[waybill.DeploymentStatus]string{
		waybill.DeploymentComplete: "success", waybill.DeploymentFailed: "failed", waybill.DeploymentCanceled: "canceled",
		waybill.DeploymentInProgress: "running",
	}[u.State]
	if u.Deployment {
		if state == "" {
			state = "running"
		}
		return g.deploy(ctx, r, u, state)
	}
	if state == "" {
		state = "pending"
	}
	path, err := project(r, "statuses", u.Commit)
	if err != nil {
		return err
	}
	err = g.c.Send(ctx, http.MethodPost, path, map[string]string{
		"state": state, "name": u.Name, "target_url": u.URL, "description": provider.Cut(u.Description, 255),
	}, nil)
	var e *waybill.Error
	if errors.As(err, &e) && e.Kind == waybill.KindInvalid && strings.Contains(e.Msg, "Cannot transition status") {
		return nil // it has the state, or one that ends it: told before
	}
	return g.hidden(err, r)
}

func (g *GitLab) deploy(ctx context.Context, r provider.Repository, u provider.StatusUpdate, state string) error {
	path, err := project(r, "deployments")
	if err != nil {
		return err
	}
	var list []struct {
		ID     int64  `json:"id"`
		SHA    string `json:"sha"`
		Status string `json:"status"`
	}
	if _, err := g.c.Get(ctx, path, url.Values{"environment": {u.Environment}, "order_by": {"id"}, "sort": {"desc"}, "per_page": {"50"}}, &list); err != nil {
		return g.hidden(err, r)
	}
	for _, d := range list {
		if d.SHA != u.Commit {
			continue
		}
		if d.Status == state {
			return nil
		}
		return g.c.Send(ctx, http.MethodPut, path+"/"+strconv.FormatInt(d.ID, 10), map[string]string{"status": state}, nil)
	}
	var c struct {
		Refs []struct {
			Name string `json:"name"`
		}
	}
	// GitLab wants a branch as well: any that has the commit.
	refs, err := project(r, "repository", "commits", u.Commit, "refs")
	if err != nil {
		return err
	}
	if _, err := g.c.Get(ctx, refs, url.Values{"type": {"branch"}, "per_page": {"1"}}, &c.Refs); err != nil {
		return g.hidden(err, r)
	}
	ref := u.Commit
	if len(c.Refs) > 0 {
		ref = c.Refs[0].Name
	}
	return g.c.Send(ctx, http.MethodPost, path, map[string]any{
		"environment": u.Environment, "sha": u.Commit, "ref": ref, "tag": false, "status": state,
	}, nil)
}
