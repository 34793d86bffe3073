//go:build linux

// Command engine runs a command with an engine of Docker of its own, which tests find by
// WAYBILL_TEST_DOCKER_HOST, and ends with it. Where an engine cannot be started, or there
// is one already, it runs the command alone: tests say what they lack.
//
//	go run ./conformance/engine go test ./...
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/waybill-run/waybill/internal/runner/dockertest"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "engine: a command is needed")
		os.Exit(2)
	}
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	const variable = "WAYBILL_TEST_DOCKER_HOST"
	if os.Getenv(variable) == "" && dockertest.Missing() == "" {
		d, serr := dockertest.Start()
		if serr != nil {
			return 1, serr
		}
		defer func() { err = errors.Join(err, d.Stop()) }()
		if err := os.Setenv(variable, d.Host()); err != nil {
			return 1, err
		}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	if err := cmd.Wait(); err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return max(exit.ExitCode(), 1), nil
		}
		return 1, err
	}
	return 0, nil
}
