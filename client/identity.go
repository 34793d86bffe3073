package client

import "context"

// Whoami returns who the server takes the holder of the client's token for.
func (c *Client) Whoami(ctx context.Context) (Whoami, error) {
	return ask[Whoami](ctx, c, c.get("/api/v1/whoami", nil))
}
