package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func flag(on bool) string {
	if on {
		return "true"
	}
	return ""
}

// ReportDelivery tells of a delivery. The same report again changes nothing, so the request
// is repeated when the server cannot be reached.
func (c *Client) ReportDelivery(ctx context.Context, r DeliveryReport) (ReportResult, error) {
	q, err := c.post("/api/v1/deliveries/reports", r, "")
	if err != nil {
		return ReportResult{}, err
	}
	q.again = true
	return ask[ReportResult](ctx, c, q)
}

// TestDeliveries has the server report to a partition of its own, read what follows and
// delete it again.
func (c *Client) TestDeliveries(ctx context.Context) (SelfTest, error) {
	return ask[SelfTest](ctx, c, &request{method: http.MethodPost, path: "/api/v1/deliveries/self-test", again: true})
}

// DeliveryPartitions lists the partitions that hold anything.
func (c *Client) DeliveryPartitions(ctx context.Context) (PartitionList, error) {
	return ask[PartitionList](ctx, c, c.get("/api/v1/deliveries/partitions", nil))
}

func deploymentsQuery(p ListDeploymentsParams) url.Values {
	statuses := make([]string, len(p.Status))
	for i, s := range p.Status {
		statuses[i] = string(s)
	}
	return values(
		"partition", p.Partition, "id", p.ID, "build", p.Build, "commit", p.Commit, "image_tag", p.ImageTag, "ring", p.Ring, "service", p.Service,
		"kind", string(p.Kind), "status", strings.Join(statuses, ","), "unlinked", flag(p.Unlinked), "since", instant(p.Since), "until", instant(p.Until),
		"sort", string(p.Sort), "asc", flag(p.Asc), "limit", strconv.Itoa(p.Limit), "cursor", p.Cursor,
	)
}

// Deployments returns a page of deployments, those with the newest news first.
func (c *Client) Deployments(ctx context.Context, p ListDeploymentsParams) (DeploymentList, error) {
	return ask[DeploymentList](ctx, c, c.get("/api/v1/deployments", deploymentsQuery(p)))
}

// Deployment returns a deployment and the events that it follows from. An empty partition
// is the default one.
func (c *Client) Deployment(ctx context.Context, partition, id string) (DeploymentDetail, error) {
	return ask[DeploymentDetail](ctx, c, c.get(path("/api/v1/deployments/%s", id), values("partition", partition)))
}

// DeliveryHealth asks whether what deliveries need works, and returns a line for each
// thing that does not. Err is for a server that cannot tell.
func (c *Client) DeliveryHealth(ctx context.Context) ([]string, error) {
	var answer SpektateHealth
	res, err := c.send(ctx, c.get("/spektate/api/health", nil))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		return nil, problem(res)
	}
	if err := decode(res.Body, &answer); err != nil {
		return nil, &Error{Kind: "unavailable", Status: res.StatusCode, Detail: "the answer cannot be read: " + err.Error(), Err: err}
	}
	var out []string
	for _, e := range answer.Errors {
		out = append(out, e.Message)
	}
	return out, nil
}
