package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/waybill-run/waybill"
)

// Recipe says what an image is made of. The same recipe makes the same bytes: nothing of
// the time, the user or the modes of the files it is made from is in them, but whether a
// file can be executed.
type Recipe struct {
	Program string   // file with a static program for Linux; the image's entrypoint is /bin/ and its name
	Files   []File   // further ones
	Args    []string // arguments of the entrypoint
	Env     []string // NAME=value
	User    string
	Workdir string
}

// File is a file or a folder of this machine and where it is in the image.
type File struct{ From, To string }

// Pack makes an image of one layer.
func Pack(r Recipe) (v1.Image, error) {
	arch, err := staticFor(r.Program)
	if err != nil {
		return nil, err
	}
	entry := "/bin/" + filepath.Base(r.Program)
	l := &layerWriter{seen: map[string]bool{}}
	l.w = tar.NewWriter(&l.b)
	l.dir("/tmp", 0o1777)
	l.dir("/etc", 0o755)
	l.dir("/bin", 0o755)
	for _, f := range r.Files {
		if err := l.copy(f.From, f.To); err != nil {
			return nil, err
		}
	}
	// Names of users are looked up here by much that is static, too.
	l.text("/etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
	l.text("/etc/group", "root:x:0:\nnobody:x:65534:\n")
	if err := l.copyAs(r.Program, entry, 0o755); err != nil {
		return nil, err
	}
	if err := errors.Join(l.err, l.w.Close()); err != nil {
		return nil, err
	}
	content := l.b.Bytes()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", arch
	if arch == "arm" {
		c.Variant = "v7"
	}
	c.Config = v1.Config{
		Entrypoint: []string{entry}, Cmd: r.Args, User: r.User, WorkingDir: r.Workdir,
		Env: append([]string{"PATH=/bin"}, r.Env...),
	}
	return mutate.ConfigFile(img, c)
}

var machines = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_386: "386", elf.EM_RISCV: "riscv64", elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x", elf.EM_LOONGARCH: "loong64",
}

// staticFor is the architecture of a program that needs nothing but itself.
func staticFor(file string) (string, error) {
	fail := func(format string, args ...any) (string, error) {
		return "", waybill.E(waybill.KindInvalid, format, args...).WithOp("pack", file).
			WithHint("an image of one program holds nothing else, so the program must be static and for Linux: with Go, CGO_ENABLED=0 GOOS=linux go build")
	}
	f, err := elf.Open(file)
	if err != nil {
		if bad := (*elf.FormatError)(nil); errors.As(err, &bad) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fail("it is no program for Linux")
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", waybill.E(waybill.KindNotFound, "%w", err).WithOp("pack", file)
		}
		return "", waybill.E(waybill.KindInvalid, "%w", err).WithOp("pack", file)
	}
	defer f.Close()
	arch, ok := machines[f.Machine]
	if !ok {
		return fail("it is for a processor that is not known here: %s", f.Machine)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fail("it is not a program but %s", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, _ := io.ReadAll(io.LimitReader(p.Open(), 200))
			return fail("it needs %s, which is not in the image", strings.TrimRight(string(b), "\x00"))
		}
	}
	return arch, nil
}

// layerWriter writes the archive of a layer: parents before what they hold, everything
// once, all of it root's and of the same time.
type layerWriter struct {
	b    bytes.Buffer
	w    *tar.Writer
	seen map[string]bool
	err  error
}

// add writes an entry if nothing has its name yet.
func (l *layerWriter) add(h *tar.Header, content io.Reader) {
	h.Name = path.Clean("/" + h.Name)
	if h.Name == "/" || l.seen[h.Name] {
		return
	}
	l.dir(path.Dir(h.Name), 0o755)
	l.seen[h.Name] = true
	h.Name = h.Name[1:]
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if l.err == nil {
		l.err = l.w.WriteHeader(h)
	}
	if content != nil && l.err == nil {
		_, l.err = io.Copy(l.w, content)
	}
}

func (l *layerWriter) dir(name string, mode int64) {
	l.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (l *layerWriter) text(name, text string) {
	l.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}, strings.NewReader(text))
}

// copy adds a file or a folder with all that is in it. Links are added as links.
func (l *layerWriter) copy(from, to string) error {
	if !path.IsAbs(to) {
		return waybill.E(waybill.KindInvalid, "a file's place in the image is an absolute path, not %q", to)
	}
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := path.Join(to, filepath.ToSlash(rel))
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case d.IsDir():
			l.dir(at, 0o755)
		case info.Mode()&fs.ModeSymlink != 0:
			dest, err := os.Readlink(p)
			if err != nil {
				return err
			}
			l.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: at, Linkname: filepath.ToSlash(dest), Mode: 0o777}, nil)
		case info.Mode().IsRegular():
			mode := int64(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			return l.copyAs(p, at, mode)
		default:
			return fmt.Errorf("%s is neither a file nor a folder", p)
		}
		return nil
	})
	if err != nil {
		return waybill.E(waybill.KindInvalid, "%w", err).WithOp("pack", from)
	}
	return nil
}

func (l *layerWriter) copyAs(from, to string, mode int64) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	l.add(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: mode, Size: int64(len(b))}, bytes.NewReader(b))
	return nil
}

// WriteArchive writes an image as an archive that both of the forms in use describe: the
// OCI image layout, and what docker save writes. So it is read by docker load, by podman,
// containerd and skopeo, and by [Store.LoadImage].
func WriteArchive(w io.Writer, img v1.Image, tags ...string) error {
	if len(tags) == 0 {
		return waybill.E(waybill.KindInvalid, "the image needs a name")
	}
	refs := make([]name.Tag, len(tags))
	for i, t := range tags {
		var err error
		if refs[i], err = name.NewTag(t, name.WithDefaultTag("latest")); err != nil {
			return waybill.E(waybill.KindInvalid, "%q is no name of an image: expected name:tag", t)
		}
	}
	return writeArchive(w, img, refs)
}

func writeArchive(w io.Writer, img v1.Image, refs []name.Tag) error {
	blobs := map[string]func() (io.ReadCloser, error){}
	sizes := map[string]int64{}
	blob := func(h v1.Hash, size int64, open func() (io.ReadCloser, error)) string {
		at := "blobs/" + h.Algorithm + "/" + h.Hex
		blobs[at], sizes[at] = open, size
		return at
	}
	bytesOf := func(b []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	var layerPaths []string
	for _, l := range layers {
		h, err1 := l.Digest()
		size, err2 := l.Size()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		layerPaths = append(layerPaths, blob(h, size, l.Compressed))
	}
	config, err1 := img.RawConfigFile()
	configName, err2 := img.ConfigName()
	manifest, err3 := img.RawManifest()
	digest, err4 := img.Digest()
	media, err5 := img.MediaType()
	file, err6 := img.ConfigFile()
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	configPath := blob(configName, int64(len(config)), bytesOf(config))
	blob(digest, int64(len(manifest)), bytesOf(manifest))

	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	docker := tarball.Manifest{{Config: configPath, Layers: layerPaths}}
	for _, r := range refs {
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: media, Digest: digest, Size: int64(len(manifest)), Platform: file.Platform(),
			Annotations: map[string]string{refAnnotation: r.TagStr(), nameAnnotation: dockerName(r)},
		})
		docker[0].RepoTags = append(docker[0].RepoTags, familiar(r))
	}
	out := tar.NewWriter(w)
	put := func(at string, size int64, content io.Reader) error {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: at, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(out, content)
		return err
	}
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		at string
		v  any
	}{{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}}, {"index.json", index}, {"manifest.json", docker}} {
		b, err := marshal(f.v)
		if err != nil {
			return err
		}
		if err := put(f.at, int64(len(b)), bytes.NewReader(b)); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(blobs))
	for at := range blobs {
		names = append(names, at)
	}
	slices.Sort(names)
	for _, at := range names {
		r, err := blobs[at]()
		if err != nil {
			return err
		}
		err = put(at, sizes[at], r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return out.Close()
}
