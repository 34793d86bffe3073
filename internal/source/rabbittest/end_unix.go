//go:build unix

package rabbittest

import (
	"os/exec"
	"syscall"
)

// separate gives the node a group of its own: its script starts others.
func separate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func end(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // it may be gone
