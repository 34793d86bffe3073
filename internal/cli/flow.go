package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) runPauseCmd(pause bool) *cobra.Command {
	use, short := "pause ID", "Keep new steps of a run from beginning; what runs goes on"
	if !pause {
		use, short = "resume ID", "Let the steps of a paused run begin again"
	}
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.PauseRun(ctx, args[0], pause)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\n", clean(r.ID), r.Status) })
		}),
	}
}

// runAnswerCmd answers an approval. The step can be left out when only one asks.
func (a *app) runAnswerCmd(d waybill.Decision) *cobra.Command {
	var comment string
	var fields []string
	use, short := "approve ID [STEP]", "Approve what a run asks"
	if d == waybill.Rejected {
		use, short = "reject ID [STEP]", "Reject what a run asks"
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.RangeArgs(1, 2),
		Long: short + ". Without STEP it is the one approval that is open. The first answer counts.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			values, err := assignments(fields)
			if err != nil {
				return err
			}
			step := ""
			if len(args) > 1 {
				step = args[1]
			} else if step, err = a.openApproval(ctx, c, args[0]); err != nil {
				return err
			}
			in := client.Answer{Decision: client.AnswerDecision(d), Comment: comment, Values: values}
			out, err := c.AnswerApproval(ctx, args[0], step, in)
			if err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\n", clean(out.Step), out.Approval.Decision) })
		}),
	}
	cmd.Flags().StringVar(&comment, "comment", "", "why, for the timeline and for later steps")
	if d == waybill.Approved {
		cmd.Flags().StringArrayVar(&fields, "value", nil, "NAME=VALUE: a field of the form (can be repeated)")
	}
	return cmd
}

// openApproval finds the one approval of a run that is open.
func (a *app) openApproval(ctx context.Context, c *client.Client, run string) (string, error) {
	r, err := c.Run(ctx, run)
	if err != nil {
		return "", err
	}
	var open []string
	for _, t := range r.Attempts {
		if t.Approval != nil && t.Approval.Decision == "" && !t.Status.Terminal() {
			open = append(open, t.Step)
		}
	}
	switch len(open) {
	case 1:
		return open[0], nil
	case 0:
		return "", fmt.Errorf("run %s asks for no approval", clean(run))
	}
	return "", usage("run %s asks for several approvals, name one of %s", clean(run), clean(strings.Join(open, ", ")))
}

func (a *app) runSlotsCmd() *cobra.Command {
	var p client.ListSlotsParams
	cmd := &cobra.Command{
		Use: "slots", Short: "List the slots of concurrency that runs hold", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Slots(ctx, p)
			if err != nil {
				return err
			}
			defer a.more(l.NextCursor)
			return a.print(l, func(w io.Writer) {
				table(w, "key limit waiting holders", func(row func(...any)) {
					for _, s := range l.Items {
						row(s.Key, s.Limit, s.Waiting, strings.Join(s.Holders, " "))
					}
				})
			})
		}),
	}
	listFlags(cmd, &p.Limit, &p.Cursor)
	return cmd
}
