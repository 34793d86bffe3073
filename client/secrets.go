package client

import (
	"context"
	"net/http"

	"github.com/waybill-run/waybill"
)

// Secrets lists the secrets of the store by name. Their values cannot be read.
func (c *Client) Secrets(ctx context.Context) (SecretList, error) {
	return ask[SecretList](ctx, c, c.get("/api/v1/secrets", nil))
}

// SetSecret stores a value under a name, as a new version if there is one already.
func (c *Client) SetSecret(ctx context.Context, name, value string) (Secret, error) {
	q, err := c.post(path("/api/v1/secrets/%s", name), SetSecret{Value: value}, "")
	if err != nil {
		return Secret{}, err
	}
	q.method = http.MethodPut
	return ask[Secret](ctx, c, q)
}

// DeleteSecret forgets a secret with all its versions.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.ask(ctx, &request{method: http.MethodDelete, path: path("/api/v1/secrets/%s", name)}, nil)
}

// RekeySecrets encrypts all secrets with a new key and returns how many there are.
func (c *Client) RekeySecrets(ctx context.Context) (int64, error) {
	q, err := c.post("/api/v1/secrets/rekey", struct{}{}, waybill.NewSecret())
	if err != nil {
		return 0, err
	}
	n, err := ask[Count](ctx, c, q)
	return n.Count, err
}
