package oci

import (
	"context"
	"io"
	"time"

	"github.com/waybill-run/waybill"
)

// Images are those that this runner keeps.
func (r *Runner) Images() waybill.Images { return kept{r} }

// kept opens the images when they are asked for.
type kept struct{ r *Runner }

// Images implements waybill.Images.
func (k kept) Images(ctx context.Context) (waybill.ImageList, error) {
	s, err := k.r.open()
	if err != nil {
		return waybill.ImageList{}, err
	}
	return s.images.Images(ctx)
}

// LoadImage implements waybill.Images.
func (k kept) LoadImage(ctx context.Context, in io.Reader, name string) ([]waybill.Image, error) {
	s, err := k.r.open()
	if err != nil {
		return nil, err
	}
	return s.images.LoadImage(ctx, in, name)
}

// RemoveImage implements waybill.Images.
func (k kept) RemoveImage(ctx context.Context, name string) (int64, error) {
	s, err := k.r.open()
	if err != nil {
		return 0, err
	}
	return s.images.RemoveImage(ctx, name)
}

// PruneImages implements waybill.Images.
func (k kept) PruneImages(ctx context.Context, unused time.Duration) (int, int64, error) {
	s, err := k.r.open()
	if err != nil {
		return 0, 0, err
	}
	return s.images.PruneImages(ctx, unused)
}
