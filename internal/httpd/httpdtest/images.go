package httpdtest

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

type images struct{ *World }

// Images lists what was loaded. An archive of this world is any text but "bad".
func (i images) Images(context.Context) (waybill.ImageList, error) {
	unlock, err := i.lock()
	if err != nil {
		return waybill.ImageList{}, err
	}
	defer unlock()
	l := waybill.ImageList{Items: []waybill.Image{}, Quota: 20 << 30}
	for _, name := range slices.Sorted(maps.Keys(i.Loaded)) {
		l.Items = append(l.Items, i.Loaded[name])
		l.Bytes += i.Loaded[name].Size
	}
	return l, nil
}

// LoadImage takes a text for an archive.
func (i images) LoadImage(_ context.Context, r io.Reader, name string) ([]waybill.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	unlock, err := i.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if strings.HasPrefix(string(b), "bad") {
		return nil, waybill.E(waybill.KindInvalid, "the archive cannot be used: it has neither index.json nor manifest.json")
	}
	if name == "" {
		name = "index.docker.io/demo/crunch:v1"
	}
	one := waybill.Image{Name: name, Digest: "sha256:5e1f", Platform: "linux/amd64", Size: int64(len(b)), Layers: 1, At: i.Now(), Whole: true, InUse: name == "busy:v1"}
	if i.Loaded == nil {
		i.Loaded = map[string]waybill.Image{}
	}
	i.Loaded[name] = one
	return []waybill.Image{one}, nil
}

// RemoveImage forgets one.
func (i images) RemoveImage(_ context.Context, name string) (int64, error) {
	unlock, err := i.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	one, ok := i.Loaded[name]
	if !ok {
		return 0, waybill.E(waybill.KindNotFound, "there is no image %s here", name)
	}
	if one.InUse {
		return 0, waybill.E(waybill.KindConflict, "units run with the image %s", name)
	}
	delete(i.Loaded, name)
	return one.Size, nil
}

// PruneImages forgets all that are not in use and were loaded long enough ago.
func (i images) PruneImages(_ context.Context, unused time.Duration) (n int, freed int64, err error) {
	unlock, err := i.lock()
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	for name, one := range i.Loaded {
		if !one.InUse && i.Now().Sub(one.At) >= unused {
			n, freed = n+1, freed+one.Size
			delete(i.Loaded, name)
		}
	}
	return n, freed, nil
}
