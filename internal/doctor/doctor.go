// Package doctor looks at the machine that a server runs on: its disk, its clock and
// its limits.
package doctor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
)

// F makes a finding. A hint is told only when something is wrong.
func F(check string, status waybill.FindingStatus, hint, format string, args ...any) waybill.Finding {
	if status == waybill.FindingOK {
		hint = ""
	}
	return waybill.Finding{Check: check, Status: status, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

// Worst is the worst status of findings.
func Worst(found []waybill.Finding) waybill.FindingStatus {
	worst := waybill.FindingOK
	for _, f := range found {
		if f.Status == waybill.FindingFail || f.Status == waybill.FindingWarn && worst == waybill.FindingOK {
			worst = f.Status
		}
	}
	return worst
}

// Bounds of the checks.
const (
	freeFail  = 64 << 20 // bytes below which commits are about to fail
	freeWarn  = 1 << 30
	flushes   = 20
	flushWarn = 50 * time.Millisecond
)

// Disk looks at a folder: whose it is, how much room it has, what kind of file
// system it is on and how long a flush takes there. It writes a small file and
// removes it. name is the first part of the checks' names.
func Disk(name, dir string) []waybill.Finding {
	st, err := os.Stat(dir)
	if err != nil {
		return []waybill.Finding{F(name+".folder", waybill.FindingFail, "name the data directory with --data", "%v", err)}
	}
	if !st.IsDir() {
		return []waybill.Finding{F(name+".folder", waybill.FindingFail, "", "%s is not a folder", dir)}
	}
	var out []waybill.Finding
	if open := st.Mode().Perm() & 0o077; open != 0 {
		out = append(out, F(name+".folder", waybill.FindingWarn, "chmod 700 "+dir, "%s is open to others (%v): it holds keys", dir, st.Mode().Perm()))
	} else {
		out = append(out, F(name+".folder", waybill.FindingOK, "", "%s, for its owner only", dir))
	}
	out = append(out, space(name, dir)...)
	return append(out, flush(name, dir))
}

// flush measures how long a small write takes until it is on the disk.
func flush(name, dir string) waybill.Finding {
	check := name + ".flush"
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return F(check, waybill.FindingFail, "the server's user must be able to write there", "%v", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	for range flushes {
		began := time.Now()
		if _, err = f.WriteString("waybill\n"); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return F(check, waybill.FindingFail, "", "cannot write: %v", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	mid, top := took[len(took)/2], took[len(took)-1]
	status := waybill.FindingOK
	if mid > flushWarn {
		status = waybill.FindingWarn
	}
	return F(check, status, "every commit waits for a flush: use a faster disk", "a flush takes %v, at most %v", mid.Round(10*time.Microsecond), top.Round(10*time.Microsecond))
}

// Permissions looks at files that only their owner may read.
func Permissions(dir string, names ...string) []waybill.Finding {
	var out []waybill.Finding
	for _, name := range names {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			continue // who needs it says so
		}
		if st.Mode().Perm()&0o077 != 0 {
			out = append(out, F("data.keys", waybill.FindingFail, "chmod 600 "+filepath.Join(dir, name), "%s can be read by others (%v)", name, st.Mode().Perm()))
		}
	}
	if len(out) == 0 {
		out = append(out, F("data.keys", waybill.FindingOK, "", "keys can be read by their owner only"))
	}
	return out
}

// Port looks whether an address can be listened on.
func Port(address string) waybill.Finding {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return F("port", waybill.FindingWarn, "is a server running? stop it, or choose another address with --listen", "%s is not free: %v", address, err)
	}
	ln.Close()
	return F("port", waybill.FindingOK, "", "%s is free", address)
}

// Clock compares the wall clock with the monotonic one since a moment, and asks the
// system whether somebody sets it.
func Clock(since time.Time) []waybill.Finding {
	now := time.Now()
	drift := now.Round(0).Sub(since.Round(0)) - now.Sub(since)
	status := waybill.FindingOK
	if drift.Abs() > 2*time.Second {
		status = waybill.FindingWarn
	}
	out := []waybill.Finding{F("clock.jump", status, "see to it that the clock is set slowly; schedules follow it",
		"the wall clock has moved by %v against the monotonic one in %v", drift.Round(time.Millisecond), now.Sub(since).Round(time.Second))}
	return append(out, synchronized()...)
}
