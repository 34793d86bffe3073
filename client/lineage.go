package client

import (
	"context"
	"net/url"
	"strconv"
	"strings"
)

// TraceObject follows an object to what it came of and to what came of it.
func (c *Client) TraceObject(ctx context.Context, bucket, key string, p TraceObjectParams) (Lineage, error) {
	at := path("/api/v1/buckets/%s/trace", bucket) + strings.TrimPrefix(objectPath(bucket, key), path("/api/v1/buckets/%s/objects", bucket))
	return ask[Lineage](ctx, c, c.get(at, traceValues(string(p.Direction), p.Depth, p.Limit, p.Version)))
}

// TraceRun follows a run to what it came of and to what came of it.
func (c *Client) TraceRun(ctx context.Context, id string, p TraceRunParams) (Lineage, error) {
	return ask[Lineage](ctx, c, c.get(path("/api/v1/runs/%s/trace", id), traceValues(string(p.Direction), p.Depth, p.Limit, "")))
}

func traceValues(direction string, depth, limit int, version string) url.Values {
	return values("direction", direction, "depth", number(depth), "limit", number(limit), "version", version)
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
