package client

import "context"

// PlanRun answers what a start would do, and starts nothing.
func (c *Client) PlanRun(ctx context.Context, pipeline string, s StartRun) (RunPlan, error) {
	q, err := c.post(path("/api/v1/pipelines/%s/runs", pipeline), s, "")
	if err != nil {
		return RunPlan{}, err
	}
	q.query = values("dry_run", "true")
	q.again = true
	return ask[RunPlan](ctx, c, q)
}

// ReloadProject makes the server take up what has changed in its project folder.
func (c *Client) ReloadProject(ctx context.Context) (Reloaded, error) {
	q, err := c.post("/api/v1/project/reload", nil, "")
	if err != nil {
		return Reloaded{}, err
	}
	q.again = true
	return ask[Reloaded](ctx, c, q)
}

// Schema returns the JSON Schema of a kind of file of a project.
func (c *Client) Schema(ctx context.Context, kind string) (map[string]any, error) {
	return ask[map[string]any](ctx, c, c.get(path("/api/v1/schemas/%s", kind), nil))
}
