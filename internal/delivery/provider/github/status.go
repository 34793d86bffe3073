package github

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// task tells our deployments from those of others.
const task = "deploy:waybill"

// SetStatus implements provider.Provider: a status of the commit, or of a deployment of
// it, which is made when there is none yet.
func (g *GitHub) SetStatus(ctx context.Context, r provider.Repository, u provider.StatusUpdate) error {
	if !u.Deployment {
		path, err := repo(r, "statuses", u.Commit)
		if err != nil {
			return err
		}
		state := map[waybill.DeploymentStatus]string{
			waybill.DeploymentComplete: "success", waybill.DeploymentFailed: "failure", waybill.DeploymentCanceled: "error",
		}[u.State]
		if state == "" {
			state = "pending"
		}
		return g.c.Send(ctx, http.MethodPost, path, map[string]string{
			"state": state, "target_url": u.URL, "description": provider.Cut(u.Description, 140), "context": u.Name,
		}, nil)
	}
	id, err := g.deployment(ctx, r, u)
	if err != nil {
		return err
	}
	state := map[waybill.DeploymentStatus]string{
		waybill.DeploymentComplete: "success", waybill.DeploymentFailed: "failure", waybill.DeploymentCanceled: "inactive",
		waybill.DeploymentWaiting: "pending", waybill.DeploymentIncomplete: "queued",
	}[u.State]
	if state == "" {
		state = "in_progress"
	}
	path, err := repo(r, "deployments", strconv.FormatInt(id, 10), "statuses")
	if err != nil {
		return err
	}
	var newest []struct {
		State       string `json:"state"`
		Description string `json:"description"`
	}
	text := provider.Cut(u.Description, 140)
	if _, err := g.c.Get(ctx, path, url.Values{"per_page": {"1"}}, &newest); err == nil && len(newest) > 0 && newest[0].State == state && newest[0].Description == text {
		return nil // told before, and the answer was lost
	}
	return g.c.Send(ctx, http.MethodPost, path, map[string]any{
		"state": state, "log_url": u.URL, "description": text, "environment": u.Environment, "auto_inactive": true,
	}, nil)
}

// deployment finds the deployment of a commit into an environment, or makes it.
func (g *GitHub) deployment(ctx context.Context, r provider.Repository, u provider.StatusUpdate) (int64, error) {
	path, err := repo(r, "deployments")
	if err != nil {
		return 0, err
	}
	var list []struct {
		ID int64 `json:"id"`
	}
	if _, err := g.c.Get(ctx, path, url.Values{"sha": {u.Commit}, "environment": {u.Environment}, "task": {task}, "per_page": {"1"}}, &list); err != nil {
		return 0, g.missing(ctx, r, err)
	}
	if len(list) > 0 {
		return list[0].ID, nil
	}
	var made struct {
		ID int64 `json:"id"`
	}
	err = g.c.Send(ctx, http.MethodPost, path, map[string]any{
		"ref": u.Commit, "environment": u.Environment, "task": task, "auto_merge": false, "required_contexts": []string{},
		"description": provider.Cut(u.Name, 140),
	}, &made)
	if err == nil && made.ID == 0 {
		err = waybill.E(waybill.KindMalformed, "GitHub made a deployment without a number")
	}
	return made.ID, err
}
