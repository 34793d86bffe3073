package oci

import (
	"os"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/waybill-run/waybill/internal/runner/container"
)

// bundle is what the runtime is told of a unit.
type bundle struct {
	args     []string
	env      []string
	cwd      string
	who      account
	root     string
	settings *container.Settings
	network  string
	netns    string // file of a namespace to join; else one of its own, unless the network is the host's
	cgroup   string
	limits   controllers
	hostname string
	labels   map[string]string
	rootless bool
	binds    []specs.Mount
}

const (
	initPath       = "/dev/waybill-init"
	defaultTmpSize = 64 << 20
)

// masked are files of the kernel that say of the machine what no unit needs.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
	"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
}

var readOnly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// config is the configuration of the runtime. What the options leave open is closed.
func (b *bundle) config() *specs.Spec {
	s := b.settings
	caps := s.Capabilities()
	bounding := &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}
	if b.who.uid != 0 { // who is not root keeps nothing over an execve but what is ambient
		bounding.Inheritable, bounding.Ambient = caps, caps
	}
	tmp := int64(s.TmpSize)
	if tmp == 0 {
		tmp = defaultTmpSize
	}
	pts := []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}
	if b.rootless {
		pts = pts[:3] // there is one group only
	}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
	if b.rootless && b.network == container.NetworkHost {
		// A sysfs belongs to a network; that of the machine is not ours to mount.
		sys = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
	}
	out := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: b.args, Env: b.env, Cwd: b.cwd, NoNewPrivileges: true, Capabilities: bounding,
			User: specs.User{UID: b.who.uid, GID: b.who.gid, AdditionalGids: b.who.groups},
		},
		Root:        &specs.Root{Path: b.root, Readonly: !s.Writable},
		Hostname:    b.hostname,
		Annotations: b.labels,
		Mounts: append([]specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: append([]string{"nosuid", "noexec"}, pts...)},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			sys,
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=" + strconv.FormatInt(tmp, 10)}},
		}, b.binds...),
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
			MaskedPaths:   masked,
			ReadonlyPaths: readOnly,
			Seccomp:       seccompProfile(caps, s.Platform),
		},
	}
	if len(b.args) > 0 && len(initCode) > 0 {
		out.Process.Args = append([]string{initPath}, b.args...)
	}
	if b.network != container.NetworkHost {
		out.Linux.Namespaces = append(out.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: b.netns})
	}
	if b.rootless {
		out.Linux.Namespaces = append(out.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		out.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}}
		out.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}}
		return out
	}
	out.Linux.CgroupsPath = b.cgroup
	out.Linux.Resources = b.resources()
	return out
}

func (b *bundle) resources() *specs.LinuxResources {
	s := b.settings
	r := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if s.Memory > 0 {
		n := int64(s.Memory)
		r.Memory = &specs.LinuxMemory{Limit: &n}
		if b.limits.swap() {
			r.Memory.Swap = &n // memory and swap together: none of it is swap
		}
	}
	if s.CPU > 0 {
		period := uint64(100_000)
		quota := max(int64(s.CPU)*int64(period)/1000, 1000) // the kernel takes no less than a millisecond
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if s.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: int64(s.Pids)}
	}
	return r
}

// bind makes a mount of something of this machine.
func bind(from, to string, options ...string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: append([]string{"rbind", "rprivate", "nosuid", "nodev"}, options...)}
}

// environment is that of the image with that of the step over it.
func environment(image, step []string, home string) []string {
	var out []string
	at := map[string]int{}
	add := func(v string) {
		name, _, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return
		}
		if i, known := at[name]; known {
			out[i] = v
			return
		}
		at[name] = len(out)
		out = append(out, v)
	}
	for _, v := range image {
		add(v)
	}
	for _, v := range step {
		add(v)
	}
	if _, ok := at["PATH"]; !ok {
		add("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if _, ok := at["HOME"]; !ok {
		add("HOME=" + home)
	}
	return out
}

// hidden reports whether a path is below something that is only there while the unit runs.
func hidden(p string) bool {
	for _, dir := range []string{container.Home, "/tmp", "/proc", "/sys", "/dev"} {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}

// noProgram is why a unit's program cannot be started.
type noProgram struct {
	text string
	code int // as a shell says it
}

func (e *noProgram) Error() string { return e.text }

// program finds what is to be executed. A name without a slash is looked for in the
// folders of PATH inside the image; a path that only the running unit has is left to it.
func (r rootfs) program(name string, env []string, cwd, home string) (string, error) {
	if strings.Contains(name, "/") {
		full := name
		if !path.IsAbs(name) {
			full = path.Join(cwd, name)
		}
		if hidden(path.Clean(full)) {
			return name, nil
		}
		return name, r.executable(full)
	}
	search := ""
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			search = p
		}
	}
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		if !path.IsAbs(dir) {
			dir = path.Join(cwd, dir)
		}
		full := path.Join(dir, name)
		if rel, ok := strings.CutPrefix(full, container.Home+"/"); ok {
			if h, err := openRoot(home); err == nil {
				err = h.executable("/" + rel)
				h.close()
				if err == nil {
					return full, nil
				}
			}
			continue
		}
		if !hidden(full) && r.executable(full) == nil {
			return full, nil
		}
	}
	return "", &noProgram{"the image has no program " + strconv.Quote(name) + " in any folder of PATH (" + search + ")", 127}
}

func (r rootfs) executable(p string) error {
	st, err := r.stat(p)
	switch {
	case err != nil:
		return &noProgram{"the image has no file " + p, 127}
	case st.Mode&0o170000 != 0o100000:
		return &noProgram{p + " of the image is no file", 126}
	case st.Mode&0o111 == 0:
		return &noProgram{p + " of the image is not executable", 126}
	}
	return nil
}
