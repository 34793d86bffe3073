package waybill

import (
	"context"
	"io"
	"time"
)

// Image is an image of containers that is kept on a server for its own runner of them.
type Image struct {
	Name     string    `json:"name"`             // with registry and tag or digest: "index.docker.io/demo/crunch:v1"
	Digest   string    `json:"digest"`           // what the name stood for when it was pulled or loaded
	Platform string    `json:"platform"`         // "linux/amd64"
	Size     int64     `json:"size"`             // bytes of its layers, unpacked; images that share a layer count it each
	Layers   int       `json:"layers"`           //
	At       time.Time `json:"at"`               // when it was pulled or loaded
	UsedAt   time.Time `json:"used_at,omitzero"` // when a unit was started with it
	InUse    bool      `json:"in_use"`           // its layers are those of units that run
	Whole    bool      `json:"whole"`            // all its layers are here; else it is pulled again when it is needed
}

// ImageList are the images that a server keeps.
type ImageList struct {
	Items []Image `json:"items"`
	Bytes int64   `json:"bytes"` // that all layers take, each counted once
	Quota int64   `json:"quota"` // that they may take
}

// Images are those that a server keeps for the runner that needs no daemon.
type Images interface {
	// Images lists them by name.
	Images(ctx context.Context) (ImageList, error)
	// LoadImage takes the images of an archive as docker save and "waybill image pack" write
	// it. A name is given to an archive of one image, and replaces those in it.
	LoadImage(ctx context.Context, r io.Reader, name string) ([]Image, error)
	// RemoveImage forgets what a name stands for, with the layers that nothing else needs.
	// KindNotFound; KindConflict while units run with it.
	RemoveImage(ctx context.Context, name string) (freed int64, err error)
	// PruneImages forgets all that no unit runs with and none was started with for so long,
	// and returns how many and how many bytes that gave.
	PruneImages(ctx context.Context, unused time.Duration) (count int, freed int64, err error)
}
