//go:build !unix

package rabbittest

import "os/exec"

func separate(*exec.Cmd) {}

func end(cmd *exec.Cmd) { _ = cmd.Process.Kill() } // it may be gone
