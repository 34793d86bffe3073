package app

import (
	"context"
	"encoding/json"
	"runtime"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/oci"
	"github.com/waybill-run/waybill/internal/runner/process"
)

// platformOCI runs containers without a daemon. Its units are kept alive by a supervisor
// of their own, so that one for processes never has to deal with them.
var platformOCI = platform{
	name:   oci.Name,
	config: oci.Config{},
	check:  func() runner.Runner { return oci.Definition{} },
	open: func(_ context.Context, s *Server, raw json.RawMessage) (runner.Runner, error) {
		if runtime.GOOS != "linux" || len(s.c.Supervisor) == 0 {
			return nil, nil
		}
		var c oci.Config
		if err := runnerConfig(oci.Name, raw, &c); err != nil {
			return nil, err
		}
		dir := s.data.join("oci-supervisor")
		inner, err := process.New(process.Options{
			Dir: dir, Command: append(append([]string{}, s.c.Supervisor...), dir), Env: supervisorEnv(), Logger: s.log, Handover: true,
		})
		if err != nil {
			return nil, err
		}
		return oci.New(oci.Options{Config: c, Dir: s.data.join("oci"), Inner: inner, Logger: s.log.With("runner", oci.Name)})
	},
}
