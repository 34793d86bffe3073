package client

import "context"

// Units returns what runs and what waits for its clean-up.
func (c *Client) Units(ctx context.Context) (UnitList, error) {
	return ask[UnitList](ctx, c, c.get("/api/v1/units", nil))
}
