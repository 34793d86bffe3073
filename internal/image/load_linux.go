package image

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// LoadImage implements waybill.Images. What is loaded is found under its name by units
// that pull missing images or none, until the name is pulled or loaded again.
func (s *Store) LoadImage(ctx context.Context, r io.Reader, as string) ([]waybill.Image, error) {
	f, err := os.CreateTemp(s.path(tmpDir), "load-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := spool(f, r, s.o.Largest); err != nil {
		return nil, err
	}
	a, err := openArchive(f)
	if err != nil {
		return nil, err
	}
	platform, err := parsePlatform("")
	if err != nil {
		return nil, err
	}
	all, err := a.images(platform)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, badArchive("there is no image in it")
	}
	if as != "" {
		if len(all) != 1 {
			return nil, badArchive("it has %d images, which cannot all be called %s", len(all), as)
		}
		all[0].names = []string{as}
	}
	var out []waybill.Image
	for _, one := range all {
		loaded, err := s.loadOne(ctx, one, platform)
		if err != nil {
			return out, err
		}
		out = append(out, loaded...)
	}
	return out, nil
}

func (s *Store) loadOne(ctx context.Context, one packed, platform v1.Platform) ([]waybill.Image, error) {
	if len(one.names) == 0 {
		return nil, badArchive("its image has no name").WithHint("give it one: waybill image load --tag NAME:TAG FILE")
	}
	slices.Sort(one.names)
	digest, err := one.image.Digest()
	if err != nil {
		return nil, badArchive("%v", err)
	}
	var refs []name.Reference
	for _, n := range slices.Compact(one.names) {
		ref, err := name.NewTag(strings.TrimPrefix(n, hubHost+"/"), name.WithDefaultTag("latest"))
		if err != nil {
			return nil, badArchive("%q is no name of an image", n)
		}
		// By its digest it is found, too, as a registry would have it.
		refs = append(refs, ref, ref.Context().Digest(digest.String()))
	}
	r, _, err := s.take(ctx, refs[0], platform, one.image, digest.String())
	if err != nil {
		if p, ok := runner.AsPullError(err); ok {
			return nil, badArchive("%w", p.Err)
		}
		return nil, err
	}
	var out []waybill.Image
	for _, ref := range refs {
		// The name as it is asked for, whether its registry is asked over TLS or not.
		if err := s.remember(s.refKey(ref, platform), ref, platform, r); err != nil {
			return nil, err
		}
		if _, ok := ref.(name.Tag); ok {
			out = append(out, s.describe(ref.Name(), platform.String(), r))
		}
	}
	return out, nil
}
