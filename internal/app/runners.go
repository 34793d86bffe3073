package app

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/schema"
)

// platform is a kind of place where containers run.
type platform struct {
	name string
	// config is the zero value of the struct that its settings in waybill.yaml (runners:)
	// are decoded into.
	config any
	// check returns a runner that can check steps and describe their settings, and starts
	// nothing.
	check func() runner.Runner
	// open returns the runner of a server, nil when it shall have none. raw are its
	// settings, nil when it has none. It is quick, and no error when the platform
	// does not answer now: Start says that.
	open func(ctx context.Context, s *Server, raw json.RawMessage) (runner.Runner, error)
}

// platforms are all there are, in the order in which they are asked who runs a step that
// has an image and names no runner.
var platforms = []platform{platformDocker, platformOCI, platformKubernetes, platformACI}

// openRunners makes the runners of containers. The settings are read before the project
// is opened, which needs the runners to check its definitions.
func (s *Server) openRunners(ctx context.Context) error {
	var set project.Settings
	if s.c.Project != "" {
		var err error
		if set, err = project.ReadSettings(os.DirFS(s.c.Project), os.LookupEnv); err != nil {
			if errors.As(err, new(pipeline.Problems)) || errors.Is(err, fs.ErrNotExist) {
				return nil // opening the project says so, with everything else that is wrong
			}
			return err
		}
	}
	for _, p := range platforms {
		r, err := p.open(ctx, s, set.Runners[p.name])
		if err != nil {
			return waybill.E(waybill.KindInvalid, "waybill.yaml: %w", err)
		}
		if r != nil {
			s.runners[p.name] = r
		}
	}
	return nil
}

// runnerConfig decodes the settings of a runner into a Config.
func runnerConfig(name string, raw json.RawMessage, into any) error {
	return runner.DecodeAs("runners: "+name, raw, into)
}

// configSchemas describe the settings of runners in waybill.yaml.
func configSchemas() map[string]schema.Schema {
	out := map[string]schema.Schema{}
	for _, p := range platforms {
		out[p.name] = schema.Of(p.config)
	}
	return out
}

// imageRunner is who runs a step that has an image and names no runner: the first
// platform that answers, of those that run containers on this machine.
func imageRunner(ctx context.Context, runners map[string]runner.Runner) string {
	for _, p := range platforms {
		if a, ok := runners[p.name].(interface{ Available(context.Context) bool }); ok && a.Available(ctx) {
			return p.name
		}
	}
	return ""
}

// parseOptions are those by which this server reads definitions.
func (s *Server) parseOptions(ctx context.Context) pipeline.Options {
	o := ParseOptions(s.runners)
	o.ImageRunner = imageRunner(ctx, s.runners)
	return o
}
