package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rootfs is the root file system of a unit, seen from outside. Paths are resolved by the
// kernel as the unit would, and never lead out of it.
type rootfs struct{ fd int }

func openRoot(dir string) (rootfs, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return rootfs{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return rootfs{fd}, nil
}

func (r rootfs) close() { unix.Close(r.fd) }

func (r rootfs) open(path string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(r.fd, path, &unix.OpenHow{
			Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// stat follows links.
func (r rootfs) stat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := r.open(path, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return st, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st, nil
}

// file opens a regular file without being held up by what only looks like one.
func (r rootfs) file(path string) (*os.File, error) {
	fd, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// lines calls fn with the fields of each line of a file of accounts.
func (r rootfs) lines(path string, fn func(f []string) bool) error {
	f, err := r.file(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(io.LimitReader(f, 8<<20))
	for sc.Scan() {
		if !fn(strings.Split(sc.Text(), ":")) {
			return nil
		}
	}
	return sc.Err()
}

// account is who a unit runs as.
type account struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// noAccount is what is wrong with the user of a step or an image.
type noAccount struct{ text string }

func (e *noAccount) Error() string { return e.text }

// account finds a user and group, given as numbers or names of the image. The groups of a
// user that is named are its own, too.
func (r rootfs) account(text string) (account, error) {
	user, group, hasGroup := strings.Cut(text, ":")
	if user == "" {
		user = "0"
	}
	a := account{home: "/"}
	number, isNumber := parseID(user)
	found, name := false, user
	err := r.lines("/etc/passwd", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		uid, ok := parseID(f[2])
		if !ok || f[0] != user && (!isNumber || uid != number) {
			return true
		}
		gid, ok := parseID(f[3])
		if !ok {
			return true
		}
		found, name, a.uid, a.gid = true, f[0], uid, gid
		if len(f) > 5 && strings.HasPrefix(f[5], "/") {
			a.home = f[5]
		}
		return false
	})
	if err != nil {
		return account{}, &noAccount{fmt.Sprintf("the users of the image cannot be read: %v", err)}
	}
	if !found {
		if !isNumber {
			return account{}, &noAccount{fmt.Sprintf("the image has no user %q in /etc/passwd", user)}
		}
		a.uid = number
	}
	groupNumber, groupIsNumber := parseID(group)
	groupFound := false
	err = r.lines("/etc/group", func(f []string) bool {
		if len(f) < 3 {
			return true
		}
		gid, ok := parseID(f[2])
		if !ok {
			return true
		}
		switch {
		case hasGroup && !groupIsNumber && f[0] == group:
			groupNumber, groupFound = gid, true
		case !hasGroup && found && len(f) > 3 && len(a.groups) < 1024:
			for _, member := range strings.Split(f[3], ",") {
				if member == name && gid != a.gid {
					a.groups = append(a.groups, gid)
				}
			}
		}
		return true
	})
	if err != nil {
		return account{}, &noAccount{fmt.Sprintf("the groups of the image cannot be read: %v", err)}
	}
	if hasGroup {
		if !groupIsNumber && !groupFound {
			return account{}, &noAccount{fmt.Sprintf("the image has no group %q in /etc/group", group)}
		}
		a.gid = groupNumber
	}
	return a, nil
}

func parseID(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return uint32(n), err == nil
}
