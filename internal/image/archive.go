package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/waybill-run/waybill"
)

// Annotations of a manifest in an archive: its tag, and its whole name.
const (
	refAnnotation  = "org.opencontainers.image.ref.name"
	nameAnnotation = "io.containerd.image.name"
)

// hubHost is how Docker spells the registry that a name without one is of.
const hubHost = "docker.io"

// dockerName is the whole name of an image as Docker spells it.
func dockerName(r name.Tag) string {
	host := r.RegistryStr()
	if host == name.DefaultRegistry {
		host = hubHost
	}
	return host + "/" + r.RepositoryStr() + ":" + r.TagStr()
}

// familiar is the name as people and Docker write it.
func familiar(r name.Tag) string {
	text := strings.TrimPrefix(dockerName(r), hubHost+"/")
	return strings.TrimPrefix(text, "library/")
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

// packed is an image in an archive.
type packed struct {
	names []string // as they stand there
	image v1.Image
}

// archive is a file in one of the forms that images are handed on in.
type archive struct {
	f     *os.File
	parts map[string]part
}

type part struct{ at, size int64 }

const (
	maxParts   = 100_000 // entries of an archive
	maxIndexes = 4       // indexes within indexes
)

func badArchive(format string, args ...any) *waybill.Error {
	return waybill.E(waybill.KindInvalid, "the archive cannot be used: "+format, args...).
		WithHint("it is what docker save, or waybill image pack, writes")
}

// openArchive finds out where everything is. f stays the caller's.
func openArchive(f *os.File) (*archive, error) {
	a := &archive{f: f, parts: map[string]part{}}
	t := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badArchive("%v", err)
		}
		if n >= maxParts {
			return nil, badArchive("it has more than %d entries", maxParts)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		a.parts[path.Clean(h.Name)] = part{at, h.Size}
	}
	if _, ok := a.parts["index.json"]; ok {
		return a, nil
	}
	if _, ok := a.parts["manifest.json"]; ok {
		return a, nil
	}
	return nil, badArchive("it has neither index.json nor manifest.json")
}

func (a *archive) open(at string) (io.Reader, bool) {
	p, ok := a.parts[path.Clean(at)]
	if !ok {
		return nil, false
	}
	return io.NewSectionReader(a.f, p.at, p.size), true
}

func (a *archive) read(at string) ([]byte, error) {
	p, ok := a.parts[path.Clean(at)]
	if !ok {
		return nil, badArchive("%s is missing", at)
	}
	if p.size > maxRecordSize {
		return nil, badArchive("%s has %d bytes, the limit is %d", at, p.size, maxRecordSize)
	}
	b := make([]byte, p.size)
	if _, err := a.f.ReadAt(b, p.at); err != nil {
		return nil, err
	}
	return b, nil
}

// maxRecordSize bounds what is read into memory at once.
const maxRecordSize = 8 << 20

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// blob reads a small one and checks it.
func (a *archive) blob(h v1.Hash) ([]byte, error) {
	b, err := a.read(blobPath(h))
	if err != nil {
		return nil, err
	}
	if got, _, err := v1.SHA256(bytes.NewReader(b)); err != nil || got != h {
		return nil, badArchive("the content of %s is %s", blobPath(h), got)
	}
	return b, nil
}

// images are those of a platform; where the archive has some for others, these are not
// returned.
func (a *archive) images(platform v1.Platform) ([]packed, error) {
	tags := map[string][]string{} // by path of the configuration
	var docker tarball.Manifest
	if _, ok := a.parts["manifest.json"]; ok {
		b, err := a.read("manifest.json")
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(b, &docker); err != nil {
			return nil, badArchive("manifest.json: %v", err)
		}
		for _, d := range docker {
			tags[path.Base(d.Config)] = d.RepoTags
		}
	}
	if _, ok := a.parts["index.json"]; ok {
		return a.layout(platform, tags)
	}
	var out []packed
	for _, d := range docker {
		one, err := a.docker(d)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// layout reads the form of OCI.
func (a *archive) layout(platform v1.Platform, tags map[string][]string) ([]packed, error) {
	b, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	byDigest := map[v1.Hash]int{}
	var out []packed
	var others []string
	var walk func(b []byte, names []string, depth int) error
	walk = func(b []byte, names []string, depth int) error {
		var index v1.IndexManifest
		if err := json.Unmarshal(b, &index); err != nil {
			return badArchive("index: %v", err)
		}
		for _, d := range index.Manifests {
			these := append(named(d.Annotations), names...)
			if d.MediaType.IsIndex() {
				if depth >= maxIndexes {
					return badArchive("it has indexes in indexes in indexes")
				}
				b, err := a.blob(d.Digest)
				if err == nil {
					err = walk(b, these, depth+1)
				}
				if err != nil {
					return err
				}
				continue
			}
			if !d.MediaType.IsImage() || d.Annotations["vnd.docker.reference.type"] != "" {
				continue // what is told about an image
			}
			if p := d.Platform; p != nil && (p.OS != platform.OS || p.Architecture != platform.Architecture) {
				others = append(others, p.String())
				continue
			}
			if i, ok := byDigest[d.Digest]; ok {
				out[i].names = append(out[i].names, these...)
				continue
			}
			m, err := a.blob(d.Digest)
			if err != nil {
				return err
			}
			x := &laid{a: a, manifest: m, media: d.MediaType}
			img, err := partial.CompressedToImage(x)
			if err != nil {
				return badArchive("%v", err)
			}
			c, err := img.ConfigName()
			if err != nil {
				return badArchive("%v", err)
			}
			if len(these) == 0 {
				these = append(these, append(tags[c.Hex], tags[c.Hex+".json"]...)...)
			}
			byDigest[d.Digest] = len(out)
			out = append(out, packed{these, img})
		}
		return nil
	}
	if err := walk(b, nil, 0); err != nil {
		return nil, err
	}
	if len(out) == 0 && len(others) > 0 {
		return nil, badArchive("its image is for %s, wanted is %s", strings.Join(others, ", "), platform.String())
	}
	return out, nil
}

// named are the names that the annotations of a manifest give it.
func named(annotations map[string]string) []string {
	if n := annotations[nameAnnotation]; n != "" {
		return []string{n}
	}
	if n := annotations[refAnnotation]; strings.ContainsAny(n, ":/") {
		return []string{n}
	}
	return nil
}

// docker reads the form of docker save.
func (a *archive) docker(d tarball.Descriptor) (packed, error) {
	for _, at := range append([]string{d.Config}, d.Layers...) {
		if _, ok := a.parts[path.Clean(at)]; !ok {
			return packed{}, badArchive("%s is missing", at)
		}
	}
	if a.parts[path.Clean(d.Config)].size > maxRecordSize {
		return packed{}, badArchive("its configuration has more than %d bytes", maxRecordSize)
	}
	// The library reads archives of one image, so that is what it is given.
	one, err := marshal(tarball.Manifest{d})
	if err != nil {
		return packed{}, err
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return a.only(d, one), nil }, nil)
	if err != nil {
		return packed{}, badArchive("%v", err)
	}
	return packed{d.RepoTags, img}, nil
}

// only is an archive of one of the images.
func (a *archive) only(d tarball.Descriptor, manifest []byte) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		put := func(at string, size int64, content io.Reader) error {
			err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: at, Mode: 0o644, Size: size})
			if err == nil {
				_, err = io.Copy(t, content)
			}
			return err
		}
		err := put("manifest.json", int64(len(manifest)), bytes.NewReader(manifest))
		done := map[string]bool{}
		for _, at := range append([]string{d.Config}, d.Layers...) {
			content, _ := a.open(at)
			if err == nil && !done[at] {
				err = put(at, a.parts[path.Clean(at)].size, content)
			}
			done[at] = true
		}
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// laid is an image of an OCI layout.
type laid struct {
	a        *archive
	manifest []byte
	media    types.MediaType
}

// RawManifest implements partial.CompressedImageCore.
func (l *laid) RawManifest() ([]byte, error) { return l.manifest, nil }

// MediaType implements partial.CompressedImageCore.
func (l *laid) MediaType() (types.MediaType, error) { return l.media, nil }

// RawConfigFile implements partial.CompressedImageCore.
func (l *laid) RawConfigFile() ([]byte, error) {
	m, err := v1.ParseManifest(bytes.NewReader(l.manifest))
	if err != nil {
		return nil, err
	}
	return l.a.blob(m.Config.Digest)
}

// LayerByDigest implements partial.CompressedImageCore.
func (l *laid) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := v1.ParseManifest(bytes.NewReader(l.manifest))
	if err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if d.Digest == h {
			return &laidLayer{l.a, d}, nil
		}
	}
	return nil, fmt.Errorf("there is no layer %s", h)
}

type laidLayer struct {
	a *archive
	d v1.Descriptor
}

// Digest implements partial.CompressedLayer.
func (l *laidLayer) Digest() (v1.Hash, error) { return l.d.Digest, nil }

// Size implements partial.CompressedLayer.
func (l *laidLayer) Size() (int64, error) { return l.d.Size, nil }

// MediaType implements partial.CompressedLayer.
func (l *laidLayer) MediaType() (types.MediaType, error) { return l.d.MediaType, nil }

// Compressed implements partial.CompressedLayer.
func (l *laidLayer) Compressed() (io.ReadCloser, error) {
	r, ok := l.a.open(blobPath(l.d.Digest))
	if !ok {
		return nil, badArchive("%s is missing", blobPath(l.d.Digest))
	}
	return io.NopCloser(r), nil
}

// spool writes an archive to a file, where it can be read in any order, of at most limit
// bytes. One that is compressed by gzip is written plain.
func spool(f *os.File, r io.Reader, limit int64) error {
	head := make([]byte, 2)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	if bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return badArchive("gzip: %v", err)
		}
		defer z.Close()
		r = z
	}
	written, err := io.Copy(f, io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if written > limit {
		return waybill.E(waybill.KindTooLarge, "the archive has more than the %d bytes that an image may", limit)
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
