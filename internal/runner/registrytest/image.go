package registrytest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is something in an image.
type File struct {
	Path string // absolute
	Mode int64  // 0 means 0644, of a directory 0755
	Text string
	Link string // what a symbolic link leads to
	Dir  bool
	UID  int
}

// Image says what an image is made of.
type Image struct {
	Files  []File
	Config v1.Config // of its os and architecture only what differs from linux/amd64 is said with Arch
	Arch   string
}

// Build makes the image of one layer. The same description makes the same digest.
func (i Image) Build(t testing.TB) v1.Image {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive(t, i.Files))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", "amd64", i.Config
	if i.Arch != "" {
		cf.Architecture = i.Arch
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func archive(t testing.TB, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Uid: f.UID, Gid: f.UID, Typeflag: tar.TypeReg, Size: int64(len(f.Text))}
		switch {
		case f.Dir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
			if h.Mode == 0 {
				h.Mode = 0o755
			}
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case h.Mode == 0:
			h.Mode = 0o644
		}
		err := w.WriteHeader(h)
		if err == nil {
			_, err = io.WriteString(w, f.Text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Broken makes an image whose digests are right and whose layer is no archive.
func Broken(t testing.TB) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(strings.Repeat("this is no archive. ", 100)), types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// Programs are those of [Base], all in /bin, which is also /usr/bin.
var Programs = []string{
	"awk", "base64", "cat", "chmod", "cp", "cut", "date", "dd", "echo", "env", "expr", "false", "grep", "head", "hostname", "id", "ip",
	"kill", "ln", "ls", "mkdir", "mkfifo", "mv", "nc", "od", "printf", "ps", "pwd", "readlink", "rm", "sed", "seq", "setsid", "sh",
	"sha256sum", "sleep", "sort", "stat", "tail", "test", "touch", "tr", "true", "wc", "wget", "yes",
}

// Base is an image with a POSIX shell and its tools, the users root and worker (1000),
// the folder /data that everybody may write to, and PATH. Where there is no static
// busybox the test is skipped, or fails if WAYBILL_REQUIRE_ALL is 1.
func Base(t testing.TB) Image {
	t.Helper()
	box := busybox(t)
	i := Image{
		Files: []File{
			{Path: "/bin", Dir: true}, {Path: "/bin/busybox", Mode: 0o755, Text: box},
			{Path: "/usr", Dir: true}, {Path: "/usr/bin", Link: "../bin"},
			{Path: "/tmp", Dir: true, Mode: 0o1777}, {Path: "/etc", Dir: true},
			{Path: "/etc/passwd", Text: "root:x:0:0:root:/:/bin/sh\nworker:x:1000:1000:worker:/data:/bin/sh\n"},
			{Path: "/etc/group", Text: "root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n"},
			{Path: "/data", Dir: true, Mode: 0o777}, {Path: "/data/hello", Text: "hello of the image\n"},
		},
		Config: v1.Config{Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "FROM_IMAGE=yes"}},
	}
	names := append([]string(nil), Programs...)
	sort.Strings(names)
	for _, n := range names {
		i.Files = append(i.Files, File{Path: path.Join("/bin", n), Link: "busybox"})
	}
	return i
}

var readBox = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/bin/busybox")
	return string(b), err
})

func busybox(t testing.TB) string {
	t.Helper()
	box, err := readBox()
	switch {
	case err == nil:
		return box
	case os.Getenv("WAYBILL_REQUIRE_ALL") == "1":
		t.Fatalf("no static busybox, of which images for tests are made: %v; install the package busybox-static", err)
	default:
		t.Skipf("no static busybox, of which images for tests are made: %v", err)
	}
	return ""
}
