package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// badLayer is what is wrong with an archive.
type badLayer struct{ text string }

func (e *badLayer) Error() string { return e.text }

func bad(format string, args ...any) error { return &badLayer{fmt.Sprintf(format, args...)} }

var errNotArchive = errors.New("a layer is no archive that is known: neither tar nor tar compressed by gzip or zstd")

// decompress finds out how a layer is compressed.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 128<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, bad("gzip: %v", err)
		}
		return z, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, bad("zstd: %v", err)
		}
		return z.IOReadCloser(), nil
	case len(head) == 0, head[0] != 0 || bytes.Equal(head, []byte{0, 0, 0, 0}):
		return io.NopCloser(b), nil
	}
	return nil, errNotArchive
}

// unpacker unpacks one layer into a folder. Every entry is made by a call relative to the
// open folder that is to hold it, and that one is opened by the kernel with the promise
// that no component of its path leads out: neither through "..", nor through a link that
// an earlier entry made.
type unpacker struct {
	dir      string
	userOnly bool
	charge   func(total int64) error // asked before more room is taken

	root  int
	size  int64 // room taken, counted like a disk does
	paid  int64
	files int64
	times []dirTime

	parent   string // the folder that was opened last
	parentFD int
}

type dirTime struct {
	path string
	at   time.Time
}

// step is how much room is asked for at once.
const step = 4 << 20

func (u *unpacker) take(n int64) error {
	u.size += n
	if u.size <= u.paid {
		return nil
	}
	u.paid = u.size + step
	return u.charge(u.paid)
}

func (u *unpacker) unpack(ctx context.Context, r io.Reader) error {
	var err error
	if u.root, err = unix.Open(u.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: u.dir, Err: err}
	}
	defer unix.Close(u.root)
	u.parentFD = -1
	defer u.leave()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return archiveError(err)
		}
		if u.files++; u.files > maxEntries {
			return bad("it has more than %d entries", maxEntries)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.take(overhead); err != nil {
			return err
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
	u.leave()
	// Last, as making entries changes the times of their folders.
	for i := len(u.times) - 1; i >= 0; i-- {
		fd, err := u.open(u.times[i].path)
		if err != nil {
			continue // it was replaced by a later entry
		}
		setTime(fd, "", u.times[i].at)
		unix.Close(fd)
	}
	return u.charge(u.size)
}

// drain reads what follows the end of the archive.
func (u *unpacker) drain(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<30))
	if err != nil {
		return archiveError(err)
	}
	if n == 1<<30 {
		return bad("more than 1 GiB follows the end of the archive")
	}
	return nil
}

// archiveError says which errors of reading are those of the archive. Those of the stream
// below are known to whoever watches it.
func archiveError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return bad("%v", err)
}

// cleanName returns the path of an entry below the root of the layer; "." is the root.
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) || len(name) > unix.PathMax {
		return "", bad("an entry has a name that no file can have")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", bad("the entry %q leads out of the layer", name)
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return bad("the entry %q is of the unknown type %q", name, h.Typeflag)
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return bad("the root is no folder")
		}
		return u.settle(u.root, ".", h)
	}
	dir, base := path.Split(name)
	parent, err := u.enter(path.Clean(dir))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return u.whiteout(parent, base, name)
	}
	if err := u.clear(parent, name, base, h.Typeflag); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(parent, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return pathErr("mkdir", name, err)
		}
		fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return pathErr("open", name, err)
		}
		defer unix.Close(fd)
		u.times = append(u.times, dirTime{name, h.ModTime})
		return u.settle(fd, name, h)
	case tar.TypeReg:
		return u.file(parent, base, name, h, content)
	case tar.TypeLink:
		return u.link(parent, base, name, h.Linkname)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax || strings.ContainsRune(h.Linkname, 0) {
			return bad("the link %q leads nowhere", name)
		}
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return pathErr("symlink", name, err)
		}
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		mode, dev := uint32(unix.S_IFIFO), 0
		if h.Typeflag != tar.TypeFifo {
			if u.userOnly {
				return nil // as everybody does who unpacks without privileges
			}
			if mode = unix.S_IFCHR; h.Typeflag == tar.TypeBlock {
				mode = unix.S_IFBLK
			}
			if h.Devmajor < 0 || h.Devmajor > 1<<20 || h.Devminor < 0 || h.Devminor > 1<<20 {
				return bad("the device %q has no numbers that a device can have", name)
			}
			dev = int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
			if dev == 0 && h.Typeflag == tar.TypeChar {
				return bad("the device %q would hide what is below it", name)
			}
		}
		if err := unix.Mknodat(parent, base, mode|0o600, dev); err != nil {
			return pathErr("mknod", name, err)
		}
		if err := unix.Fchmodat(parent, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return pathErr("chmod", name, err)
		}
	}
	// Neither symlinks nor devices are opened.
	if !u.userOnly {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathErr("chown", name, err)
		}
		if h.Typeflag != tar.TypeSymlink { // chown takes the setuid bits away
			if err := unix.Fchmodat(parent, base, uint32(h.Mode)&0o7777, 0); err != nil {
				return pathErr("chmod", name, err)
			}
		}
	}
	setTime(parent, base, h.ModTime)
	return nil
}

func (u *unpacker) file(parent int, base, name string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return pathErr("create", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for left := h.Size; left > 0; { // paid for piece by piece: the header is only a claim
		n := min(left, step)
		if err := u.take(n); err != nil {
			return err
		}
		if _, err := io.CopyN(f, content, n); err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) {
				return err
			}
			return archiveError(fmt.Errorf("%s: %w", name, err))
		}
		left -= n
	}
	if err := u.settle(int(f.Fd()), name, h); err != nil {
		return err
	}
	setTime(int(f.Fd()), "", h.ModTime)
	return f.Close()
}

func (u *unpacker) link(parent int, base, name, target string) error {
	to, err := cleanName(target)
	if err != nil {
		return bad("the hard link %q leads out of the layer", name)
	}
	if to == "." || to == name {
		return bad("the hard link %q leads to no file", name)
	}
	dir, file := path.Split(to)
	from, err := u.open(path.Clean("./" + dir))
	if err != nil {
		return bad("the hard link %q leads to %q, which is not in the layer", name, to)
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstatat(from, file, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return bad("the hard link %q leads to %q, which is no file of the layer", name, to)
	}
	if err := unix.Linkat(from, file, parent, base, 0); err != nil {
		return pathErr("link", name, err)
	}
	return nil
}

// whiteout notes that something of a lower layer is not there any more, in the way the
// kernel's overlay does.
func (u *unpacker) whiteout(parent int, base, name string) error {
	if base == opaque {
		attr := "trusted.overlay.opaque"
		if u.userOnly {
			attr = "user.overlay.opaque"
		}
		return setAttr(parent, attr, []byte("y"))
	}
	if strings.HasPrefix(base, ".wh..wh.") {
		return nil // notes of another file system to itself
	}
	gone := strings.TrimPrefix(base, whiteout)
	if gone == "" || gone == "." || gone == ".." {
		return bad("the entry %q removes nothing", name)
	}
	var st unix.Stat_t
	if unix.Fstatat(parent, gone, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return nil // what the layer itself has is not meant
	}
	if err := unix.Mknodat(parent, gone, unix.S_IFCHR, 0); err != nil {
		return pathErr("whiteout", name, err)
	}
	return nil
}

// clear removes what an earlier entry made of the same name, but for a folder that is
// to be one again.
func (u *unpacker) clear(parent int, name, base string, kind byte) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return pathErr("remove", name, unix.Unlinkat(parent, base, 0))
	}
	if kind == tar.TypeDir {
		return nil
	}
	if err := unix.Unlinkat(parent, base, unix.AT_REMOVEDIR); err == nil {
		return nil
	}
	root, err := os.OpenRoot(u.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// settle gives an open file or folder its owner, mode and attributes.
func (u *unpacker) settle(fd int, name string, h *tar.Header) error {
	at := fmt.Sprintf("/proc/self/fd/%d", fd)
	if !u.userOnly {
		if err := os.Chown(at, h.Uid, h.Gid); err != nil {
			return pathErr("chown", name, err)
		}
	}
	mode := uint32(h.Mode) & 0o7777
	if u.userOnly {
		mode |= 0o600 // it must stay readable for its owner, who is not root
		if h.Typeflag == tar.TypeDir {
			mode |= 0o700
		}
	}
	if err := unix.Chmod(at, mode); err != nil {
		return pathErr("chmod", name, err)
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !u.attrAllowed(attr) {
			continue
		}
		if err := unix.Setxattr(at, attr, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return pathErr("setxattr "+attr, name, err)
		}
	}
	return nil
}

// attrAllowed leaves out what means something to this machine and not to the image:
// labels, and marks of the overlay that would show other content than that of the image.
func (u *unpacker) attrAllowed(attr string) bool {
	if attr == "security.capability" {
		return !u.userOnly
	}
	return strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
}

func setAttr(fd int, attr string, value []byte) error {
	if err := unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), attr, value, 0); err != nil {
		return fmt.Errorf("set %s: %w", attr, err)
	}
	return nil
}

// open opens a folder of the layer. The kernel refuses a path that leads out of it.
func (u *unpacker) open(dir string) (int, error) {
	return openBeneath(u.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
}

func openBeneath(root int, name string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

// enter opens the folder of an entry, made where the archive forgot it.
func (u *unpacker) enter(dir string) (int, error) {
	if dir == "" || dir == "." {
		u.leave()
		u.parent, u.parentFD = ".", -1
		fd, err := u.open(".")
		if err != nil {
			return -1, pathErr("open", ".", err)
		}
		u.parentFD = fd
		return fd, nil
	}
	if u.parentFD >= 0 && u.parent == dir {
		return u.parentFD, nil
	}
	u.leave()
	fd, err := u.open(dir)
	if errors.Is(err, unix.ENOENT) {
		if err = u.makeAll(dir); err != nil {
			return -1, err
		}
		fd, err = u.open(dir)
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
		return -1, bad("the folder %q is behind a link that leads out of the layer", dir)
	case errors.Is(err, unix.ENOTDIR):
		return -1, bad("%q has entries below it and is no folder", dir)
	default:
		return -1, pathErr("open", dir, err)
	}
	u.parent, u.parentFD = dir, fd
	return fd, nil
}

func (u *unpacker) leave() {
	if u.parentFD >= 0 {
		unix.Close(u.parentFD)
		u.parentFD = -1
	}
	u.parent = ""
}

func (u *unpacker) makeAll(dir string) error {
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		part := dir[:i]
		up, base := path.Split(part)
		fd, err := u.open(path.Clean("./" + up))
		if err != nil {
			if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
				return bad("the folder %q is behind a link that leads out of the layer", part)
			}
			return pathErr("open", up, err)
		}
		err = unix.Mkdirat(fd, base, 0o755)
		if err == nil {
			// Whatever the mask of this process is.
			err = unix.Fchmodat(fd, base, 0o755, 0)
			if terr := u.take(overhead); err == nil {
				err = terr
			}
		} else if errors.Is(err, unix.EEXIST) {
			err = nil
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

func setTime(fd int, base string, at time.Time) {
	if at.IsZero() || at.Unix() < 0 {
		at = time.Unix(0, 0)
	}
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	if base == "" {
		unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), ts, 0)
		return
	}
	unix.UtimesNanoAt(fd, base, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// pathErr names an entry. What a file system refuses because of a name is the archive's
// fault.
func pathErr(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return bad("%s %s: %v", op, name, err)
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
