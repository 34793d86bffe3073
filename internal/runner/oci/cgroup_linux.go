package oci

import (
	"bytes"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
)

// controllers says which limits this machine can enforce, and where.
type controllers struct {
	unified bool              // control groups of version 2 only
	root    string            // of version 2
	mounts  map[string]string // of version 1: controller to folder
	why     string            // why there are none
}

const cgroupMount = "/sys/fs/cgroup"

// findControllers looks at how control groups are mounted. A hybrid machine, with both
// versions, has its controllers in version 1, as the runtimes see it.
func findControllers() controllers {
	c := controllers{mounts: map[string]string{}}
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil {
		c.why = cgroupMount + " is not mounted"
		return c
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		c.unified, c.root = true, cgroupMount
		if os.Geteuid() != 0 {
			c.why = "control groups need root"
		} else if unix.Access(cgroupMount, unix.W_OK) != nil {
			c.why = cgroupMount + " cannot be written"
		}
		return c
	}
	if os.Geteuid() != 0 {
		c.why = "control groups need root"
		return c
	}
	for _, name := range []string{"memory", "cpu", "pids"} {
		dir := filepath.Join(cgroupMount, name)
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP_SUPER_MAGIC && unix.Access(dir, unix.W_OK) == nil {
			c.mounts[name] = dir
		}
	}
	return c
}

// need reports an error unless a limit can be enforced.
func (c controllers) need(controller, setting string) error {
	why := c.why
	if why == "" && c.unified {
		b, _ := os.ReadFile(filepath.Join(c.root, "cgroup.controllers"))
		if !bytes.Contains(append([]byte(" "), append(bytes.TrimSpace(b), ' ')...), []byte(" "+controller+" ")) {
			why = "the controller " + controller + " is not available"
		}
	} else if why == "" && c.mounts[controller] == "" {
		why = "the controller " + controller + " is not mounted"
	}
	if why == "" {
		return nil
	}
	return waybill.E(waybill.KindInvalid, "%s: this limit cannot be enforced here: %s", setting, why).
		WithHint("leave the setting out, or let the server run where control groups can be made")
}

// swap reports whether memory can be limited together with swap.
func (c controllers) swap() bool {
	if c.unified {
		return true
	}
	_, err := os.Stat(filepath.Join(c.mounts["memory"], "memory.memsw.limit_in_bytes"))
	return c.mounts["memory"] != "" && err == nil
}

// oomKills counts the processes of a group that were killed for its memory.
func (c controllers) oomKills(group string) int {
	file, key := "memory.events", "oom_kill "
	dir := c.root
	if !c.unified {
		file, dir = "memory.oom_control", c.mounts["memory"]
	}
	if dir == "" || group == "" {
		return 0
	}
	b, err := os.ReadFile(filepath.Join(dir, group, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(v))
			return n
		}
	}
	return 0
}

// prune kills what is left in a group, which is what a runtime that was killed may leave,
// and removes the group from every hierarchy.
func (c controllers) prune(group string) error {
	if group == "" || path.Clean(group) == "/" {
		return nil
	}
	dirs := []string{filepath.Join(cgroupMount, group)}
	if !c.unified {
		mounts, _ := os.ReadDir(cgroupMount)
		for _, d := range mounts {
			dirs = append(dirs, filepath.Join(cgroupMount, d.Name(), group))
		}
	}
	var last error
	for pause := time.Millisecond; pause < time.Second; pause *= 2 {
		last = nil
		for _, d := range dirs {
			err := unix.Rmdir(d)
			if err == nil || !errors.Is(err, unix.EBUSY) {
				continue // removed, or none
			}
			last = &os.PathError{Op: "rmdir", Path: d, Err: err}
			b, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 1 && pid != os.Getpid() {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		if last == nil {
			return nil
		}
		time.Sleep(pause)
	}
	return last
}

// forget removes the group that holds those of all units, if it is empty.
func (c controllers) forget(group string) {
	unix.Rmdir(filepath.Join(cgroupMount, group))
	if c.unified {
		return
	}
	mounts, _ := os.ReadDir(cgroupMount)
	for _, d := range mounts {
		unix.Rmdir(filepath.Join(cgroupMount, d.Name(), group))
	}
}
