package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) startCmd() *cobra.Command {
	var vars, params []string
	var wait, dry bool
	var key, delay string
	var priority int
	var cmd *cobra.Command
	cmd = &cobra.Command{
		Use:   "start PIPELINE",
		Short: "Start a run of a pipeline",
		Long: `Start a run of a pipeline and print its id.

With --wait the command lasts until the run has ended and fails if the run did
not succeed. Interrupting it leaves the run going.`,
		Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var s client.StartRun
			var err error
			if s.Vars, err = assignments(vars); err != nil {
				return err
			}
			if s.Params, err = assignments(params); err != nil {
				return err
			}
			s.Delay = delay
			if cmd.Flags().Changed("priority") {
				s.Priority = &priority
			}
			if dry {
				plan, err := c.PlanRun(ctx, args[0], s)
				if err != nil {
					return err
				}
				return a.print(plan, func(w io.Writer) { printPlan(w, plan) })
			}
			run, err := c.StartRun(ctx, args[0], s, key)
			if err != nil {
				return err
			}
			if wait {
				return a.watch(ctx, c, run.ID)
			}
			return a.print(run, func(w io.Writer) { fmt.Fprintln(w, clean(run.ID)) })
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&vars, "var", nil, "NAME=VALUE: a variable of the run (can be repeated)")
	f.StringArrayVar(&params, "param", nil, "NAME=VALUE: a parameter of the pipeline (can be repeated)")
	f.BoolVar(&dry, "dry-run", false, "start nothing and print what would be done")
	f.BoolVar(&wait, "wait", false, "wait until the run has ended")
	f.StringVar(&key, "idempotency-key", "", "the same key again answers the run that was started then")
	f.StringVar(&delay, "delay", "", "wait so long before the first step, such as 90s or 2h")
	f.IntVar(&priority, "priority", 0, "larger begins first, -1000 to 1000 (default that of the pipeline)")
	return cmd
}
