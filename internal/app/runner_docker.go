package app

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/docker"
	"github.com/waybill-run/waybill/internal/runner/docker/inside"
)

// insideCommand is how this program is called as the first process of a container.
const insideCommand = "inside"

// platformDocker runs containers of an engine, which is asked for nothing before a unit
// needs it.
var platformDocker = platform{
	name:   docker.Name,
	config: docker.Config{},
	check:  func() runner.Runner { return docker.Definition{} },
	open: func(ctx context.Context, s *Server, raw json.RawMessage) (runner.Runner, error) {
		var c docker.Config
		if err := runnerConfig(docker.Name, raw, &c); err != nil {
			return nil, err
		}
		instance, err := s.instance(ctx)
		if err != nil {
			return nil, err
		}
		return docker.New(docker.Options{
			Config: c, Instance: instance, ProgramArgs: []string{insideCommand}, Logger: s.log.With("runner", docker.Name),
		})
	},
}

// insideProcess is the command of the first process of a container. It says what there is
// to say in the container's log, and its code is the container's.
func insideProcess(exit func(code int)) *cobra.Command {
	return &cobra.Command{
		Use:    insideCommand,
		Short:  "Be the first process of a container (started by a server's engine)",
		Hidden: true,
		Args:   cobra.NoArgs,
		Run:    func(*cobra.Command, []string) { exit(inside.Main()) },
	}
}
