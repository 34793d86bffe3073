package client

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// runsQuery are the parameters of a list of runs.
func runsQuery(p ListRunsParams) url.Values {
	statuses := make([]string, len(p.Status))
	for i, s := range p.Status {
		statuses[i] = string(s)
	}
	when := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	q := values(
		"pipeline", p.Pipeline, "status", strings.Join(statuses, ","), "since", when(p.Since), "until", when(p.Until),
		"trigger", p.Trigger, "parent", p.Parent, "retry_of", p.RetryOf, "limit", strconv.Itoa(p.Limit), "cursor", p.Cursor,
	)
	for _, l := range p.Label {
		q.Add("label", l)
	}
	return q
}

// RunStats counts runs by day.
func (c *Client) RunStats(ctx context.Context, p GetRunStatsParams) (RunStats, error) {
	return ask[RunStats](ctx, c, c.get("/api/v1/stats/runs", values("days", strconv.Itoa(p.Days), "pipeline", p.Pipeline, "timezone", p.Timezone)))
}

// Notifications returns all rules of notifications.
func (c *Client) Notifications(ctx context.Context) (NotificationList, error) {
	return ask[NotificationList](ctx, c, c.get("/api/v1/notifications", nil))
}

// Notification returns one rule.
func (c *Client) Notification(ctx context.Context, name string) (Notification, error) {
	return ask[Notification](ctx, c, c.get(path("/api/v1/notifications/%s", name), nil))
}

// ApplyNotification stores a rule under its name.
func (c *Client) ApplyNotification(ctx context.Context, r NotifyRule) (Notification, error) {
	q, err := c.post(path("/api/v1/notifications/%s", r.Name), r, "")
	if err != nil {
		return Notification{}, err
	}
	q.method, q.again = http.MethodPut, true
	return ask[Notification](ctx, c, q)
}

// DeleteNotification deletes a rule.
func (c *Client) DeleteNotification(ctx context.Context, name string) error {
	return c.ask(ctx, &request{method: http.MethodDelete, path: path("/api/v1/notifications/%s", name)}, nil)
}

// TestNotification sends a sample of a rule at once. The error says why the
// receiver did not get it.
func (c *Client) TestNotification(ctx context.Context, name string) error {
	q, err := c.post(path("/api/v1/notifications/%s/test", name), struct{}{}, "")
	if err != nil {
		return err
	}
	return c.ask(ctx, q, nil)
}

// Metrics returns the metrics in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	res, err := c.open(ctx, c.get("/metrics", nil), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		return "", unreachable(c.base, err)
	}
	return b.String(), nil
}
