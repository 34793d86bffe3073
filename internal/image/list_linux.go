package image

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/waybill-run/waybill"
)

// kept is a name that stands for an image here.
type kept struct {
	key, file      string // of the name and of the image's record
	name, platform string
	r              *record
}

// names are all of them, those whose records cannot be read left out.
func (s *Store) names() ([]kept, error) {
	entries, err := os.ReadDir(s.path(refsDir))
	if err != nil {
		return nil, err
	}
	var out []kept
	for _, e := range entries {
		b, err := os.ReadFile(s.path(refsDir, e.Name()))
		if err != nil {
			continue
		}
		file, rest, _ := strings.Cut(string(b), "\n")
		k := kept{key: e.Name(), file: file}
		k.name, k.platform, _ = strings.Cut(strings.TrimSpace(rest), " ")
		if k.r, err = s.image(file); err != nil {
			continue
		}
		if k.name == "" {
			k.name = k.r.Digest
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b kept) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.platform, b.platform)) })
	return out, nil
}

// describe is an image for people.
func (s *Store) describe(name, platform string, r *record) waybill.Image {
	out := waybill.Image{Name: name, Digest: r.Digest, Platform: platform, Layers: len(r.DiffIDs), At: r.At, Whole: true, InUse: len(r.DiffIDs) > 0}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range r.DiffIDs {
		l := s.layers[dirName(d)]
		if l == nil {
			out.Whole, out.InUse = false, false
			continue
		}
		out.Size += l.Size
		out.InUse = out.InUse && l.pins > 0
		if i == 0 || l.used.Before(out.UsedAt) {
			out.UsedAt = l.used.UTC() // no earlier than this was its youngest layer used last
		}
	}
	return out
}

// Images implements waybill.Images. A name by digest is listed where no tag stands for
// the same.
func (s *Store) Images(context.Context) (waybill.ImageList, error) {
	out := waybill.ImageList{Items: []waybill.Image{}}
	all, err := s.names()
	if err != nil {
		return out, err
	}
	tagged := map[string]bool{}
	for _, k := range all {
		tagged[k.file] = tagged[k.file] || !strings.Contains(k.name, "@")
	}
	for _, k := range all {
		if !strings.Contains(k.name, "@") || !tagged[k.file] {
			out.Items = append(out.Items, s.describe(k.name, k.platform, k.r))
		}
	}
	u := s.Usage()
	out.Bytes, out.Quota = u.Bytes, u.Quota
	return out, nil
}

// RemoveImage implements waybill.Images.
func (s *Store) RemoveImage(_ context.Context, image string) (int64, error) {
	ref, err := name.ParseReference(strings.TrimPrefix(image, hubHost+"/"), name.WithDefaultTag("latest"))
	if err != nil {
		return 0, waybill.E(waybill.KindInvalid, "%q is no name of an image", image)
	}
	all, err := s.names()
	if err != nil {
		return 0, err
	}
	var gone []kept
	for _, k := range all {
		if k.name == ref.Name() || k.r.Digest == image {
			if s.describe(k.name, k.platform, k.r).InUse {
				return 0, waybill.E(waybill.KindConflict, "units run with the image %s", k.name)
			}
			gone = append(gone, k)
		}
	}
	if len(gone) == 0 {
		return 0, waybill.E(waybill.KindNotFound, "there is no image %s here", ref.Name())
	}
	return s.forget(gone, all)
}

// PruneImages implements waybill.Images.
func (s *Store) PruneImages(_ context.Context, unused time.Duration) (int, int64, error) {
	all, err := s.names()
	if err != nil {
		return 0, 0, err
	}
	var gone []kept
	count := map[string]bool{}
	for _, k := range all {
		d := s.describe(k.name, k.platform, k.r)
		if !d.InUse && time.Since(d.UsedAt) >= unused && time.Since(k.r.At) >= unused {
			gone = append(gone, k)
			count[k.file] = true
		}
	}
	freed, err := s.forget(gone, all)
	return len(count), freed, err
}

// forget removes names, by digest those that no tag is left of, and layers that nothing
// that stays needs.
func (s *Store) forget(gone, all []kept) (int64, error) {
	dropped := map[string]bool{}
	for _, k := range gone {
		dropped[k.key] = true
	}
	tagged := map[string]bool{}
	for _, k := range all {
		if !dropped[k.key] && !strings.Contains(k.name, "@") {
			tagged[k.file] = true
		}
	}
	var errs []error
	needed := map[string]bool{}
	records := map[string]bool{}
	for _, k := range all {
		hit := slices.ContainsFunc(gone, func(g kept) bool { return g.file == k.file })
		if dropped[k.key] || hit && strings.Contains(k.name, "@") && !tagged[k.file] {
			if err := os.Remove(s.path(refsDir, k.key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		records[k.file] = true
		for _, d := range k.r.DiffIDs {
			needed[dirName(d)] = true
		}
	}
	var freed int64
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range gone {
		if !records[k.file] {
			if err := os.Remove(s.path(imagesDir, k.file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		for _, d := range k.r.DiffIDs {
			dir := dirName(d)
			l := s.layers[dir]
			if l == nil || l.pins > 0 || needed[dir] {
				continue
			}
			if err := s.drop(dir); err != nil {
				errs = append(errs, err)
				continue
			}
			freed += l.Size
		}
	}
	return freed, errors.Join(errs...)
}
