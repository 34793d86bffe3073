package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// TraceDelivery finds every deployment that a reference leads to.
func (c *Client) TraceDelivery(ctx context.Context, partition, ref string) (DeliveryTraceList, error) {
	return ask[DeliveryTraceList](ctx, c, c.get("/api/v1/deliveries/trace", url.Values{"partition": {partition}, "ref": {ref}}))
}

// DeliveryMatrix tells what is where, of one service or ring where they are named.
func (c *Client) DeliveryMatrix(ctx context.Context, p GetDeliveryMatrixParams) (DeliveryMatrix, error) {
	return ask[DeliveryMatrix](ctx, c, c.get("/api/v1/deliveries/matrix", values("partition", p.Partition, "service", p.Service, "ring", p.Ring)))
}

// DiffRings lists the services that are not the same in two rings.
func (c *Client) DiffRings(ctx context.Context, partition, from, to string) (RingDifferenceList, error) {
	return ask[RingDifferenceList](ctx, c, c.get("/api/v1/deliveries/diff", values("partition", partition, "from", from, "to", to)))
}

// RingLag tells how far ring to is behind ring from, service by service.
func (c *Client) RingLag(ctx context.Context, partition, from, to string) (RingLagList, error) {
	return ask[RingLagList](ctx, c, c.get("/api/v1/deliveries/lag", values("partition", partition, "from", from, "to", to)))
}

// Rollbacks tells what to go back to, cluster by cluster.
func (c *Client) Rollbacks(ctx context.Context, p ListRollbacksParams) (RollbackList, error) {
	return ask[RollbackList](ctx, c, c.get("/api/v1/deliveries/rollbacks", values("partition", p.Partition, "ring", p.Ring, "service", p.Service)))
}

// MeasureDelivery measures the delivery to a ring.
func (c *Client) MeasureDelivery(ctx context.Context, p MeasureDeliveryParams) (DORA, error) {
	return ask[DORA](ctx, c, c.get("/api/v1/deliveries/dora", values(
		"partition", p.Partition, "ring", p.Ring, "service", p.Service, "from", instant(p.From), "until", instant(p.Until))))
}

// Unlinked returns a page of what belongs to nothing that is known.
func (c *Client) Unlinked(ctx context.Context, p ListUnlinkedParams) (UnlinkedList, error) {
	return ask[UnlinkedList](ctx, c, c.get("/api/v1/deliveries/unlinked", values("partition", p.Partition, "limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// DeliveryAlerts lists what somebody should look at. Zero durations are the server's defaults.
func (c *Client) DeliveryAlerts(ctx context.Context, partition string, stuck, silent time.Duration) (AlertList, error) {
	seconds := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return strconv.FormatInt(int64(d/time.Second), 10)
	}
	return ask[AlertList](ctx, c, c.get("/api/v1/deliveries/alerts", values("partition", partition, "stuck_seconds", seconds(stuck), "silent_seconds", seconds(silent))))
}

// PruneDeliveries forgets deployments that are old. Again it forgets what has become old
// meanwhile, so the request is repeated when the server cannot be reached.
func (c *Client) PruneDeliveries(ctx context.Context, p PruneRequest) (Pruned, error) {
	q, err := c.post("/api/v1/deliveries/prune", p, "")
	if err != nil {
		return Pruned{}, err
	}
	q.again = true
	return ask[Pruned](ctx, c, q)
}

// RebuildDeliveries makes everything that follows from the events of a partition again.
func (c *Client) RebuildDeliveries(ctx context.Context, partition string) (Rebuilt, error) {
	q, err := c.post("/api/v1/deliveries/rebuild", nil, "")
	if err != nil {
		return Rebuilt{}, err
	}
	q.query, q.again = values("partition", partition), true
	return ask[Rebuilt](ctx, c, q)
}
