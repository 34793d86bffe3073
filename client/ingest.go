package client

import (
	"context"
	"net/url"
	"strconv"
)

// IngestSources lists the sources that tools can send deliveries to.
func (c *Client) IngestSources(ctx context.Context) (IngestSourceList, error) {
	return ask[IngestSourceList](ctx, c, c.get("/api/v1/deliveries/sources", nil))
}

// ReceivedList lists what a source (all, when empty) was sent, newest first.
func (c *Client) ReceivedList(ctx context.Context, source string, limit int, cursor string) (ReceivedList, error) {
	q := url.Values{}
	for k, v := range map[string]string{"source": source, "cursor": cursor} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return ask[ReceivedList](ctx, c, c.get("/api/v1/deliveries/received", q))
}

// Received shows something that was sent, with its body.
func (c *Client) Received(ctx context.Context, id string) (Received, error) {
	return ask[Received](ctx, c, c.get("/api/v1/deliveries/received/"+url.PathEscape(id), nil))
}
