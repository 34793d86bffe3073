package oci

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountOverlay mounts layers, the lowest first, with upper on top at target. The layers
// are named relative to their folder, because the kernel takes one page of text.
func mountOverlay(layersDir string, layers []string, upper, work, target string) error {
	lower := slices.Clone(layers)
	slices.Reverse(lower)
	upper, err := filepath.Rel(layersDir, upper)
	if err != nil {
		return err
	}
	if work, err = filepath.Rel(layersDir, work); err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	done := make(chan error, 1)
	go func() {
		// A thread with a working directory of its own, which ends with this goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(layersDir)
		}
		if err == nil {
			// What is not synced need not be: it does not outlive the unit.
			err = unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options+",volatile")
			if errors.Is(err, unix.EINVAL) {
				err = unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options)
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("mount the overlay of %d layers: %w", len(layers), err)
	}
	return nil
}

// unmount takes a mount away, if there is one.
func unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
			return nil // nothing of ours could be mounted
		case err != nil:
			return &os.PathError{Op: "unmount", Path: target, Err: err}
		}
	}
}

// flatten copies layers over each other, the lowest first. With share the content of files
// is that of the layers: only for a root that is not written.
func flatten(layersDir string, layers []string, target string, share bool) error {
	for _, l := range layers {
		if err := merge(filepath.Join(layersDir, l), target, share); err != nil {
			return fmt.Errorf("copy a layer: %w", err)
		}
	}
	return nil
}

// merge lays one layer over what is there.
func merge(from, to string, share bool) error {
	links := map[uint64]string{} // of this layer, so that hard links stay such
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		was, statErr := os.Lstat(dst)
		if d.IsDir() {
			if isOpaque(path) && rel != "." && statErr == nil {
				if err := os.RemoveAll(dst); err != nil {
					return err
				}
				statErr = fs.ErrNotExist
			}
			if statErr == nil && !was.IsDir() {
				if err := os.Remove(dst); err != nil {
					return err
				}
				statErr = fs.ErrNotExist
			}
			if statErr != nil {
				if err := os.Mkdir(dst, 0o700); err != nil {
					return err
				}
			}
			return own(dst, st)
		}
		if statErr == nil {
			if err := os.RemoveAll(dst); err != nil {
				return err
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
			if st.Rdev == 0 && st.Mode&unix.S_IFMT == unix.S_IFCHR {
				return nil // a whiteout
			}
			if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
				return nil // as in layers that are unpacked without privileges
			}
			return own(dst, st)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, dst); err != nil {
				return err
			}
			if os.Geteuid() == 0 {
				return os.Lchown(dst, int(st.Uid), int(st.Gid))
			}
			return nil
		}
		if share && os.Link(path, dst) == nil {
			return nil
		}
		if first, ok := links[st.Ino]; ok {
			return os.Link(first, dst)
		}
		if st.Nlink > 1 {
			links[st.Ino] = dst
		}
		if err := copyFile(path, dst); err != nil {
			return err
		}
		return own(dst, st)
	})
}

func isOpaque(dir string) bool {
	var b [1]byte
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if n, err := unix.Lgetxattr(dir, attr, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

func own(path string, st *syscall.Stat_t) error {
	if os.Geteuid() == 0 {
		if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return unix.Chmod(path, st.Mode&0o7777)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// give makes a unit's home that of the user it runs as.
func give(dir string, who account) error {
	if who.uid == 0 && who.gid == 0 || os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(who.uid), int(who.gid))
	})
}

// ungive makes sure that the owner of a home can remove everything in it.
func ungive(dir string) {
	if os.Geteuid() == 0 {
		return // root needs no permission
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
}
