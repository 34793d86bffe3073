package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is a pool of leaf groups in a folder of ours. A leaf is used by one
// unit at a time and used again, because making and removing a group costs more
// than starting a process.
type cgroups struct {
	dir string

	mu   sync.Mutex
	n    int
	free []*leaf
}

// leaf is a control group that holds the tree of one unit.
type leaf struct {
	dir    string
	fd     int      // of the folder, for the fork
	events *os.File // cgroup.events, read again and again
	killed bool     // it must not be used again, see put
}

// newCgroups makes the folder of an instance below our own group and checks that
// a process can be started in a leaf of it.
func newCgroups(instance string) (*cgroups, error) {
	parent, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	c := &cgroups{dir: filepath.Join(parent, "waybill-"+instance)}
	if err := os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	c.tidy() // leaves of the supervisor before this one, which are empty by now
	l, err := c.get()
	if err != nil {
		c.tidy()
		return nil, err
	}
	// A fork that reaches the exec of nothing has passed all that can be forbidden.
	_, err = syscall.ForkExec("/proc/self/nothing", []string{"probe"}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: l.fd},
	})
	if !errors.Is(err, syscall.ENOENT) {
		c.put(l)
		c.close()
		if err == nil { // see put: it can also happen because of the group we are in
			err = errors.New("it was killed")
		}
		return nil, fmt.Errorf("start a process in a control group: %w", err)
	}
	c.put(l)
	return c, nil
}

// ownCgroup returns the folder of the group of cgroup v2 that this process is in.
func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	var mount string
	for l := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(l, " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			mount = f[4]
		}
	}
	if mount == "" {
		return "", errors.New("cgroup v2 is not mounted")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(l), "0::"); ok {
			return filepath.Join(mount, path), nil
		}
	}
	return "", errors.New("this process is in no group of cgroup v2")
}

func (c *cgroups) get() (*leaf, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.free); n > 0 {
		l := c.free[n-1]
		c.free = c.free[:n-1]
		return l, nil
	}
	c.n++
	dir := filepath.Join(c.dir, fmt.Sprintf("u%05d", c.n))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &leaf{dir: dir, fd: fd, events: events}, nil
}

// put gives an empty leaf back. One that was killed is removed: some kernels
// compare the count of kills of a group with that of the group the fork came
// from, and so kill whatever is started in it later.
func (c *cgroups) put(l *leaf) {
	if l.killed {
		l.close()
		os.Remove(l.dir)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, l)
}

func (l *leaf) close() {
	unix.Close(l.fd)
	l.events.Close()
}

// kill kills what is in the leaf now.
func (l *leaf) kill() {
	l.killed = true
	killCgroup(l.dir)
}

// close removes all leaves that are not in use, and the folder when it is empty.
func (c *cgroups) close() {
	c.mu.Lock()
	for _, l := range c.free {
		l.close()
	}
	c.free = nil
	c.mu.Unlock()
	c.tidy()
	os.Remove(c.dir)
}

func (c *cgroups) tidy() {
	old, err := filepath.Glob(filepath.Join(c.dir, "u*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		os.Remove(dir)
	}
}

// populated reports whether a process that is not a zombie is in the leaf.
func (l *leaf) populated() bool {
	var b [64]byte
	n, _ := l.events.ReadAt(b[:], 0)
	return bytes.Contains(b[:n], []byte("populated 1"))
}

// killCgroup sends SIGKILL to all processes of a group, as far as there are any
// now: a process that forks meanwhile needs another call where the kernel has no
// cgroup.kill.
func killCgroup(dir string) {
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, f := range bytes.Fields(b) {
		if pid, err := strconv.Atoi(string(f)); err == nil && pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// backoff calls step, which reports whether it is done, with growing pauses.
func backoff(step func() bool) {
	for pause := 50 * time.Microsecond; !step(); pause = min(2*pause, 50*time.Millisecond) {
		time.Sleep(pause)
	}
}

// proc is what /proc/PID/stat says of a process.
type proc struct {
	pid, parent, session int
	zombie               bool
	start                uint64
}

// statProc reads one process. It reports false when there is none.
func statProc(pid int) (proc, bool) {
	var b [1024]byte
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return proc{}, false
	}
	n, err := unix.Read(fd, b[:])
	unix.Close(fd)
	if err != nil || n <= 0 {
		return proc{}, false
	}
	// The name in brackets may hold anything, so count from the last bracket.
	i := bytes.LastIndexByte(b[:n], ')')
	if i < 0 {
		return proc{}, false
	}
	f := bytes.Fields(b[i+1 : n])
	if len(f) < 20 {
		return proc{}, false
	}
	p := proc{pid: pid, zombie: f[0][0] == 'Z' || f[0][0] == 'X'}
	p.parent, _ = strconv.Atoi(string(f[1]))
	p.session, _ = strconv.Atoi(string(f[3]))
	p.start, _ = strconv.ParseUint(string(f[19]), 10, 64)
	return p, true
}

// allPIDs lists the processes there are.
func allPIDs() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// children returns the direct children of this process that are not zombies.
func children() []proc {
	self := os.Getpid()
	var pids []int
	if _, err := os.Stat("/proc/thread-self/children"); err == nil {
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, path := range tasks {
			b, _ := os.ReadFile(path)
			for _, f := range bytes.Fields(b) {
				if pid, err := strconv.Atoi(string(f)); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	} else { // a kernel without these files
		pids = allPIDs()
	}
	var out []proc
	for _, pid := range pids {
		if p, ok := statProc(pid); ok && p.parent == self && !p.zombie {
			out = append(out, p)
		}
	}
	return out
}

// markerOf returns the value of the unit marker in the environment of a process.
func markerOf(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return ""
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if m, ok := bytes.CutPrefix(v, []byte(Marker+"=")); ok {
			return string(m)
		}
	}
	return ""
}

// sweepLeftovers kills what an earlier supervisor of the instance left behind and
// returns when it is gone: the processes in its control groups, those that carry
// the marker of the instance, and the recorded main processes. Nothing else is
// touched. It reports how many it found.
func sweepLeftovers(instance, cgroup string, mains []*record) int {
	found := map[int]bool{}
	backoff(func() bool {
		done := true
		kill := func(pid int) {
			// One that may not be killed, such as a setuid program, is not waited for.
			if unix.Kill(pid, unix.SIGKILL) == nil {
				found[pid] = true
				done = false
			}
		}
		if cgroup != "" {
			leaves, _ := filepath.Glob(filepath.Join(cgroup, "u*"))
			for _, dir := range leaves {
				b, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
				if bytes.Contains(b, []byte("populated 1")) {
					killCgroup(dir)
					done = false
				}
			}
		}
		for _, pid := range allPIDs() {
			if !strings.HasPrefix(markerOf(pid), instance+"/") {
				continue
			}
			if p, ok := statProc(pid); ok && !p.zombie && pid != os.Getpid() {
				kill(pid)
			}
		}
		for _, r := range mains {
			if p, ok := statProc(r.pid); ok && p.start == r.start && !p.zombie {
				kill(r.pid)
			}
		}
		return done
	})
	if cgroup != "" {
		leaves, _ := filepath.Glob(filepath.Join(cgroup, "u*"))
		for _, dir := range append(leaves, cgroup) {
			os.Remove(dir)
		}
	}
	return len(found)
}

// bootID identifies this boot of the machine: pids and start times of another
// one mean nothing.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
