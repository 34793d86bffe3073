package client

import (
	"context"
	"net/http"
)

// WatchedBucket returns how a watched bucket fares, and what was not taken.
func (c *Client) WatchedBucket(ctx context.Context, name string) (WatchedBucket, error) {
	return ask[WatchedBucket](ctx, c, c.get(path("/api/v1/buckets/%s", name), nil))
}

// ScanBucket asks for a listing of a watched bucket. It is done when Answered has
// reached the Asked of what is returned.
func (c *Client) ScanBucket(ctx context.Context, name string) (WatchedBucket, error) {
	return ask[WatchedBucket](ctx, c, &request{method: http.MethodPost, path: path("/api/v1/buckets/%s/scan", name)})
}

// Sources lists the queues of other systems that messages are taken from.
func (c *Client) Sources(ctx context.Context) (SourceList, error) {
	return ask[SourceList](ctx, c, c.get("/api/v1/sources", nil))
}
