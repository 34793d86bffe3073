package client

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Images returns the images that the server keeps for its runner oci.
func (c *Client) Images(ctx context.Context) (ImageList, error) {
	return ask[ImageList](ctx, c, c.get("/api/v1/images", nil))
}

// LoadImage loads the images of an archive as docker save or "waybill image pack" writes
// it. A name is given to an archive of one image, instead of those in it. A reader that
// can seek is read again when the request is repeated.
func (c *Client) LoadImage(ctx context.Context, r io.Reader, name string) ([]Image, error) {
	q := &request{method: http.MethodPost, path: "/api/v1/images", query: values("name", name), header: http.Header{}, body: r, size: -1}
	q.header.Set("Content-Type", "application/x-tar")
	if s, ok := r.(io.ReadSeeker); ok {
		if size, err := remaining(s); err == nil {
			q.size, q.again = size, true // loading twice changes nothing
		}
	}
	out, err := ask[struct {
		Items []Image `json:"items"`
	}](ctx, c, q)
	return out.Items, err
}

// RemoveImage removes an image, and the layers that nothing else needs.
func (c *Client) RemoveImage(ctx context.Context, name string) (ImagesRemoved, error) {
	return ask[ImagesRemoved](ctx, c, &request{method: http.MethodDelete, path: "/api/v1/images", query: values("name", name), header: http.Header{}})
}

// PruneImages removes the images that no unit runs with, and that were not used for so
// long.
func (c *Client) PruneImages(ctx context.Context, unused time.Duration) (ImagesRemoved, error) {
	q, err := c.post("/api/v1/images/prune", map[string]any{"unused_seconds": int64(unused / time.Second)}, "")
	if err != nil {
		return ImagesRemoved{}, err
	}
	q.again = true
	return ask[ImagesRemoved](ctx, c, q)
}
