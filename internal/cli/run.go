package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) runCmd() *cobra.Command {
	return group("run", "Look at runs, cancel and retry them",
		a.runListCmd(), a.runStatsCmd(), a.runShowCmd(), a.runLogsCmd(), a.runFileCmd(), a.runEventsCmd(), a.runCancelCmd(), a.runRetryCmd(), a.runPauseCmd(true), a.runPauseCmd(false),
		a.runAnswerCmd(waybill.Approved), a.runAnswerCmd(waybill.Rejected), a.runSlotsCmd(), a.runTraceCmd())
}

// listFlags are the flags of every list.
func listFlags(cmd *cobra.Command, limit *int, cursor *string) {
	cmd.Flags().IntVar(limit, "limit", 50, "at most so many, up to 1000")
	cmd.Flags().StringVar(cursor, "cursor", "", "where the page before ended")
}

func (a *app) runShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a run with its steps and variables", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Run(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { a.showRun(w, r) })
		}),
	}
}

func (a *app) showRun(w io.Writer, r client.RunDetail) {
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-10s%s\n", name, clean(value))
		}
	}
	field("run", r.ID)
	field("pipeline", fmt.Sprintf("%s, version %d", r.Pipeline, r.Version))
	field("status", string(r.Status))
	field("error", r.Error)
	field("event", strings.TrimSpace(r.Event.Type+" "+r.Event.Subject))
	field("created", a.when(r.CreatedAt))
	field("took", a.took(r.StartedAt, r.FinishedAt))
	field("canceled", r.CancelBy)
	field("retry of", r.RetryOf)
	field("paused by", r.PausedBy)
	var former []string
	for _, s := range r.Steps {
		if s.ReusedFrom != "" && !slices.Contains(former, s.ReusedFrom) {
			former = append(former, s.ReusedFrom)
		}
	}
	field("reused from", strings.Join(former, ", "))
	if r.Parent != nil {
		field("part of", fmt.Sprintf("run %s, step %s", r.Parent.Run, r.Parent.Step))
	}
	if len(r.Slots) > r.SlotsHeld && !r.Status.Terminal() {
		field("waits for", r.Slots[r.SlotsHeld].Key)
	}
	fmt.Fprintln(w)
	table(w, "step runner status attempts took exit error", func(row func(...any)) {
		for _, s := range r.Steps {
			exit, attempts := "", fmt.Sprint(s.Attempts)
			if s.ExitCode != nil {
				exit = fmt.Sprint(*s.ExitCode)
			}
			if c := s.Cells; c != nil {
				attempts = fmt.Sprintf("%d/%d cells", c.Succeeded, c.Total)
			}
			// Of a large matrix only what needs a look.
			if s.Cell != nil && len(r.Steps) > 40 && (s.Status == waybill.StatusSucceeded || s.Status == waybill.StatusQueued) {
				continue
			}
			name := s.Name
			if s.Group != "" {
				name = s.Group + ": " + name
			}
			if s.ReusedFrom != "" {
				attempts = "reused"
			}
			row(name, s.Runner, s.Status, attempts, a.took(s.StartedAt, s.FinishedAt), exit, shorten(s.Error, 80))
		}
	})
	for _, t := range r.Attempts {
		switch q := t.Approval; {
		case q != nil && q.Decision == "" && !t.Status.Terminal():
			fmt.Fprintf(w, "\n%s asks: %s\n", clean(t.Step), clean(q.Message))
			for _, f := range q.Form {
				fmt.Fprintf(w, "  --value %s=…  %s %s\n", clean(f.Name), f.Type, clean(f.Description))
			}
			fmt.Fprintf(w, "  waybill run approve %s %s\n", clean(r.ID), clean(t.Step))
		case q != nil && q.Decision != "":
			fmt.Fprintf(w, "\n%s was %s by %s %s\n", clean(t.Step), q.Decision, clean(q.By), clean(q.Comment))
		case t.Child != "":
			fmt.Fprintf(w, "\n%s is run %s\n", clean(t.Step), clean(t.Child))
		}
	}
	a.showVars(w, "param", r.Params)
	a.showVars(w, "variable", r.Vars)
	a.showVars(w, "output", r.Outputs)
	for _, t := range r.Attempts {
		switch {
		case t.Cleanup == waybill.CleanupFailed:
			fmt.Fprintf(w, "\nunit %s is not cleaned up, and that is no longer tried: %s\n", clean(t.Unit), clean(t.CleanupError))
		case t.CleanupError != "" && t.Cleanup != waybill.CleanupGone:
			fmt.Fprintf(w, "\nunit %s is not cleaned up yet: %s (waybill unit list --pending)\n", clean(t.Unit), clean(t.CleanupError))
		}
		if t.LogsLost != "" {
			fmt.Fprintf(w, "\nthe log of unit %s is not complete: %s\n", clean(t.Unit), clean(t.LogsLost))
		}
	}
}

func (a *app) showVars(w io.Writer, head string, v waybill.Vars) {
	if v.Len() == 0 {
		return
	}
	fmt.Fprintln(w)
	table(w, head+" value", func(row func(...any)) {
		for _, name := range v.Names() {
			x, _ := v.Get(name)
			row(name, shorten(x.Text(), 100))
		}
	})
}

func (a *app) runLogsCmd() *cobra.Command {
	var p client.GetRunLogsParams
	cmd := &cobra.Command{
		Use: "logs ID", Short: "Print what the units of a run wrote, as they wrote it", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			return c.Log(ctx, args[0], p, a.Stdout)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&p.Follow, "follow", "f", false, "go on until the run has ended")
	f.StringVar(&p.Step, "step", "", "of this step only")
	f.IntVar(&p.Attempt, "attempt", 0, "of this attempt only (default the last); needs --step")
	return cmd
}

func (a *app) runEventsCmd() *cobra.Command {
	var p client.GetRunEventsParams
	var follow bool
	cmd := &cobra.Command{
		Use: "events ID", Short: "Print the timeline of a run, oldest first", Args: cobra.ExactArgs(1),
		Long: "Print the timeline of a run, oldest first. With -o json each record is one line.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			show := func(r client.Record) error {
				if a.format == "json" {
					return a.line(r)
				}
				_, err := fmt.Fprintf(a.Stdout, "%s  %-24s %s\n", a.when(r.At), clean(r.Kind), clean(string(r.Data)))
				return err
			}
			if follow {
				return c.FollowEvents(ctx, args[0], p.Cursor, show)
			}
			l, err := c.Events(ctx, args[0], p)
			if err != nil {
				return err
			}
			for _, r := range l.Items {
				if err := show(r); err != nil {
					return err
				}
			}
			a.more(l.NextCursor)
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	listFlags(cmd, &p.Limit, &p.Cursor)
	return cmd
}

func (a *app) runCancelCmd() *cobra.Command {
	var reason string
	var force bool
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Ask a run to end", Args: cobra.ExactArgs(1),
		Long: "Ask a run to end. Its units are stopped, then the steps of always run; with --force\nthey are stopped too, or do not begin.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.CancelRun(ctx, args[0], reason, force)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\n", clean(r.ID), r.Status) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the timeline")
	cmd.Flags().BoolVar(&force, "force", false, "end the steps of always too")
	return cmd
}

func (a *app) runRetryCmd() *cobra.Command {
	var from, key string
	var wait bool
	cmd := &cobra.Command{
		Use: "retry ID", Short: "Start a new run like one that ended", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.RetryRun(ctx, args[0], from, key)
			if err != nil {
				return err
			}
			if wait {
				return a.watch(ctx, c, r.ID)
			}
			return a.print(r, func(w io.Writer) { fmt.Fprintln(w, clean(r.ID)) })
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "the first step to run again; steps before it keep their results")
	cmd.Flags().StringVar(&key, "idempotency-key", "", "the same key again answers the run that was started then")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the new run has ended")
	return cmd
}
