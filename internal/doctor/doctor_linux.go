package doctor

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
)

// remote are file systems on which locks or flushes cannot be relied on, by their
// magic numbers (statfs(2)).
var remote = map[int64]string{
	0x6969: "NFS", 0x517b: "SMB", 0xff534d42: "CIFS", 0xfe534d42: "SMB2", 0x65735546: "FUSE", 0x01021997: "9P", 0x00c36400: "Ceph", 0x5346414f: "AFS",
}

// fleeting are file systems in memory.
var fleeting = map[int64]string{0x01021994: "tmpfs", 0x858458f6: "ramfs"}

func space(name, dir string) []waybill.Finding {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return []waybill.Finding{F(name+".space", waybill.FindingFail, "", "%v", err)}
	}
	var out []waybill.Finding
	free, all := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	status := waybill.FindingOK
	switch {
	case free < freeFail:
		status = waybill.FindingFail
	case free < freeWarn:
		status = waybill.FindingWarn
	}
	out = append(out, F(name+".space", status, "make room, or keep less (retention in waybill.yaml)", "%.1f GiB of %.1f GiB are free", float64(free)/(1<<30), float64(all)/(1<<30)))
	if st.Files > 0 {
		status = waybill.FindingOK
		if st.Ffree < 10000 {
			status = waybill.FindingWarn
		}
		out = append(out, F(name+".inodes", status, "remove small files, or make the file system anew with more inodes", "%d of %d inodes are free", st.Ffree, st.Files))
	}
	kind := int64(st.Type) & 0xffffffff
	switch {
	case remote[kind] != "":
		out = append(out, F(name+".filesystem", waybill.FindingWarn, "put the data directory on a local disk; blobs may stay with --blobs",
			"the file system is %s: a SQLite store on it can be damaged", remote[kind]))
	case fleeting[kind] != "":
		out = append(out, F(name+".filesystem", waybill.FindingWarn, "put the data directory on a disk", "the file system is %s: all of it is gone after a restart of the machine", fleeting[kind]))
	default:
		out = append(out, F(name+".filesystem", waybill.FindingOK, "", "a local file system (type %#x)", kind))
	}
	return out
}

// synchronized asks the kernel whether somebody keeps the clock.
func synchronized() []waybill.Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return nil // not to be known here
	}
	const timeError, unsync = 5, 0x40
	status, detail := waybill.FindingOK, "the clock is synchronized"
	if state == timeError || t.Status&unsync != 0 {
		status, detail = waybill.FindingWarn, "the clock is not synchronized"
	}
	return []waybill.Finding{F("clock.sync", status, "run a time service such as chrony or systemd-timesyncd", "%s", detail)}
}

// Limits looks at what the system lets this process have.
func Limits() []waybill.Finding {
	var out []waybill.Finding
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil {
		status := waybill.FindingOK
		if r.Cur < 4096 {
			status = waybill.FindingWarn
		}
		out = append(out, F("limits.files", status, "raise it: ulimit -n 65536, or LimitNOFILE= of the service", "%d open files, at most %d", r.Cur, r.Max))
	}
	return append(out, groups()...)
}

// groups looks at control groups, by which units and all that they start are ended.
func groups() []waybill.Finding {
	const check = "cgroups"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		return []waybill.Finding{F(check, waybill.FindingWarn, "boot with cgroup v2", "no cgroup v2: units are ended by process group and by a mark in their environment")}
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	_, path, _ := strings.Cut(strings.TrimSpace(string(text)), "::")
	dir := "/sys/fs/cgroup" + path
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return []waybill.Finding{F(check, waybill.FindingWarn, "let the service manager delegate one: Delegate=yes",
			"control group %s cannot be written: units are ended by process group and by a mark in their environment", path)}
	}
	return []waybill.Finding{F(check, waybill.FindingOK, "", "control group %s is ours, %d processors", path, runtime.NumCPU())}
}
