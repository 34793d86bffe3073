package client

import "context"

// DeliveryProviders lists the providers that are polled for what deployments lack, and how
// they fare.
func (c *Client) DeliveryProviders(ctx context.Context) (DeliveryProviderList, error) {
	return ask[DeliveryProviderList](ctx, c, c.get("/api/v1/deliveries/providers", nil))
}
