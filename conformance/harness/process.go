//go:build linux

package harness

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a process of this machine as it was when it was looked at.
type Process struct {
	PID  int
	Args []string
	Unit string // the unit it belongs to, from its environment; empty for others
}

// String shows the process in one line.
func (p Process) String() string {
	s := fmt.Sprintf("%d %s", p.PID, strings.Join(p.Args, " "))
	if p.Unit != "" {
		s += " (unit " + p.Unit + ")"
	}
	return s
}

// processes returns those that have a path in their command line or environment.
// Zombies have neither.
func processes(path string) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that is gone meanwhile reads as empty.
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		environ, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		if !bytes.Contains(cmdline, []byte(path)) && !bytes.Contains(environ, []byte(path)) {
			continue
		}
		p := Process{PID: pid, Args: strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")}
		for _, v := range strings.Split(string(environ), "\x00") {
			if name, ok := strings.CutPrefix(v, "WAYBILL_UNIT="); ok {
				p.Unit = name
			}
		}
		found = append(found, p)
	}
	return found
}

// end kills processes and waits until they are gone.
func end(path string) error {
	return Await(10*time.Second, func() error {
		left := processes(path)
		for _, p := range left {
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // it may have ended by itself
		}
		if len(left) > 0 {
			return fmt.Errorf("processes are left: %v", left)
		}
		return nil
	})
}
