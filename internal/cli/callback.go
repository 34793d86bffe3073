package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) callbackCmd() *cobra.Command {
	return group("callback", "Report from inside a unit to its attempt", a.callbackSetCmd(), a.callbackCompleteCmd(), a.callbackHeartbeatCmd())
}

// inUnit makes the function of a command that works inside a unit only.
func (a *app) inUnit(f func(ctx context.Context, u *client.UnitCallback, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		callback := a.Getenv("WAYBILL_CALLBACK")
		if callback == "" {
			return waybill.E(waybill.KindInvalid, "WAYBILL_CALLBACK is not set").WithHint("this command is for programs that Waybill started")
		}
		u, err := client.NewCallback(callback, first(a.token, a.Getenv("WAYBILL_TOKEN")), client.Options{HTTP: a.HTTP})
		if err != nil {
			return err
		}
		return f(cmd.Context(), u, args)
	}
}

func (a *app) accepted() error {
	return a.print(map[string]bool{"accepted": true}, func(io.Writer) {})
}

func (a *app) callbackSetCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set NAME=VALUE...", Short: "Add variables without completing", Args: cobra.MinimumNArgs(1),
		RunE: a.inUnit(func(ctx context.Context, u *client.UnitCallback, args []string) error {
			vars, err := assignments(args)
			if err != nil {
				return err
			}
			if err := u.SetVariables(ctx, vars); err != nil {
				return err
			}
			return a.accepted()
		}),
	}
}

func (a *app) callbackCompleteCmd() *cobra.Command {
	var o client.Outcome
	cmd := &cobra.Command{
		Use: "complete [NAME=VALUE]...", Short: "Report the outcome, with variables",
		Long: "Report the outcome, with variables. It is repeated while the server restarts; the same report again is no error.",
		RunE: a.inUnit(func(ctx context.Context, u *client.UnitCallback, args []string) (err error) {
			if o.Status != waybill.StatusSucceeded && o.Status != waybill.StatusFailed {
				return usage("status %q is not succeeded or failed", string(o.Status))
			}
			if o.Variables, err = assignments(args); err != nil {
				return err
			}
			if err := u.Complete(ctx, o); err != nil {
				return err
			}
			return a.accepted()
		}),
	}
	f := cmd.Flags()
	f.StringVar((*string)(&o.Status), "status", "succeeded", "succeeded or failed")
	f.StringVar(&o.Error, "error", "", "why it failed")
	f.StringVar(&o.Message, "message", "", "something to tell")
	return cmd
}

func (a *app) callbackHeartbeatCmd() *cobra.Command {
	return &cobra.Command{
		Use: "heartbeat [PROGRESS]", Short: "Say that the unit lives; prints stop when it should end itself", Args: cobra.MaximumNArgs(1),
		RunE: a.inUnit(func(ctx context.Context, u *client.UnitCallback, args []string) error {
			progress := ""
			if len(args) == 1 {
				progress = args[0]
			}
			stop, err := u.Heartbeat(ctx, progress)
			if err != nil {
				return err
			}
			return a.print(client.HeartbeatResult{Stop: stop}, func(w io.Writer) {
				if stop {
					fmt.Fprintln(w, "stop")
				}
			})
		}),
	}
}
