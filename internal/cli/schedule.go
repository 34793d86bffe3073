package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cron"
)

func (a *app) scheduleCmd() *cobra.Command {
	return group("schedule", "Look at schedules, pause and explain them",
		a.scheduleListCmd(), a.scheduleShowCmd(), a.scheduleExplainCmd(), a.schedulePauseCmd(true), a.schedulePauseCmd(false))
}

func (a *app) scheduleListCmd() *cobra.Command {
	var p client.ListSchedulesParams
	cmd := &cobra.Command{
		Use: "list", Short: "List the schedules of all pipelines", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Schedules(ctx, p)
			if err != nil {
				return err
			}
			defer a.more(l.NextCursor)
			return a.print(l, func(w io.Writer) {
				table(w, "pipeline number schedule next last fired skipped", func(row func(...any)) {
					for _, s := range l.Items {
						next := moment(s.Next)
						if s.Paused {
							next = "paused"
						}
						row(s.Pipeline, s.Number, s.Text, next, moment(s.Last), s.Fired, s.Skipped)
					}
				})
			})
		}),
	}
	listFlags(cmd, &p.Limit, &p.Cursor)
	return cmd
}

// moment is a time in a table.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// scheduleNumber reads the argument after the pipeline's name; without it, it is 1.
func scheduleNumber(args []string) (int, error) {
	if len(args) < 2 {
		return 1, nil
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 1 {
		return 0, usage("%q is not the number of a schedule, they count from 1", args[1])
	}
	return n, nil
}

func (a *app) scheduleShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show PIPELINE [NUMBER]", Short: "Show a schedule and what became of its latest nominal times", Args: cobra.RangeArgs(1, 2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			n, err := scheduleNumber(args)
			if err != nil {
				return err
			}
			s, err := c.Schedule(ctx, args[0], n)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { printSchedule(w, s) })
		}),
	}
}

func printSchedule(w io.Writer, s client.Schedule) {
	line := func(name string, value any) { fmt.Fprintf(w, "%-9s %s\n", name, clean(fmt.Sprint(value))) }
	line("pipeline", s.Pipeline)
	line("schedule", fmt.Sprintf("%d: %s (%s)", s.Number, s.Text, s.Words))
	line("catchup", s.Catchup)
	line("overlap", s.Overlap)
	if s.Paused {
		line("paused", "by "+s.PausedBy)
	} else {
		line("next", moment(s.Next))
	}
	line("fired", s.Fired)
	line("skipped", s.Skipped)
	for _, x := range s.Warnings {
		line("warning", x)
	}
	if len(s.Recent) == 0 {
		return
	}
	fmt.Fprintln(w)
	table(w, "nominal decided what", func(row func(...any)) {
		for _, f := range s.Recent {
			what := "run " + f.Run
			switch {
			case f.Run == "" && f.Count > 1:
				what = fmt.Sprintf("left out, with %d before it: %s", f.Count-1, f.Reason)
			case f.Run == "":
				what = "no run: " + f.Reason
			case f.Catchup:
				what += ", made up for"
			}
			row(moment(f.Nominal), moment(f.At), what)
		}
	})
}

func (a *app) schedulePauseCmd(pause bool) *cobra.Command {
	use, short := "pause", "Stop a schedule until it is resumed; what passes meanwhile is not made up for"
	if !pause {
		use, short = "resume", "Let a schedule go on"
	}
	return &cobra.Command{
		Use: use + " PIPELINE [NUMBER]", Short: short, Args: cobra.RangeArgs(1, 2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			n, err := scheduleNumber(args)
			if err != nil {
				return err
			}
			s, err := c.PauseSchedule(ctx, args[0], n, pause)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) {
				if s.Paused {
					fmt.Fprintf(w, "%s\t%d\tpaused\n", clean(s.Pipeline), s.Number)
				} else {
					fmt.Fprintf(w, "%s\t%d\tnext %s\n", clean(s.Pipeline), s.Number, moment(s.Next))
				}
			})
		}),
	}
}

// explained is the result of schedule explain.
type explained struct {
	Expression string           `json:"expression"`
	Timezone   string           `json:"timezone"`
	Words      string           `json:"words"`
	PerDay     int              `json:"per_day"`
	Shortest   float64          `json:"shortest_gap_seconds"`
	Longest    float64          `json:"longest_gap_seconds"`
	Next       []time.Time      `json:"next"`
	Warnings   []explainWarning `json:"warnings"`
}

type explainWarning struct {
	Msg  string `json:"msg"`
	Hint string `json:"hint,omitempty"`
}

func (a *app) scheduleExplainCmd() *cobra.Command {
	var zone string
	var count int
	var after string
	cmd := &cobra.Command{
		Use:   "explain EXPRESSION",
		Short: "Say what a cron expression means, when it fires next, and what may not be meant",
		Long: `Say what a cron expression means, when it fires next, and what may not be meant.

The expression is one argument or several: waybill schedule explain "0 2 * * *". An interval is
written "every 15m". No server is needed.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > 1000 {
				return usage("--count %d is not from 1 to 1000", count)
			}
			loc, err := time.LoadLocation(zone)
			if err != nil || zone == "" || zone == "Local" {
				return usage("there is no time zone %q; names look like Europe/Paris or UTC", zone)
			}
			now := a.Now()
			if after != "" {
				if now, err = time.Parse(time.RFC3339, after); err != nil {
					return usage("--after %q is not like 2006-01-02T15:04:05Z", after)
				}
			}
			text := strings.Join(args, " ")
			s := &cron.Schedule{Zone: loc}
			if rest, ok := strings.CutPrefix(text, "every "); ok {
				if s.Every, err = time.ParseDuration(strings.TrimSpace(rest)); err != nil || s.Every < time.Second {
					return usage("%q is not a duration of at least a second", rest)
				}
			} else if s.Expr, err = cron.Parse(text); err != nil {
				return usage("%v", err)
			}
			x := s.Explain(now, count)
			out := explained{Expression: text, Timezone: zone, Words: x.Words, PerDay: x.PerDay, Shortest: x.Shortest.Seconds(),
				Longest: x.Longest.Seconds(), Next: x.Next, Warnings: []explainWarning{}}
			if out.Next == nil {
				out.Next = []time.Time{}
			}
			for _, w := range x.Warnings {
				out.Warnings = append(out.Warnings, explainWarning(w))
			}
			return a.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "%s\n", clean(x.Words))
				fmt.Fprintf(w, "fires %s a day, %s\n", times(x.PerDay), gapWords(x))
				fmt.Fprintf(w, "\nnext in %s:\n", clean(zone))
				for _, t := range x.Next {
					fmt.Fprintf(w, "  %s\n", t.Format("Mon 2006-01-02 15:04:05 -07:00"))
				}
				if len(x.Next) == 0 {
					fmt.Fprintln(w, "  never")
				}
				if len(x.Warnings) > 0 {
					fmt.Fprintln(w)
				}
				for _, warn := range x.Warnings {
					fmt.Fprintf(w, "warning: %s\n", clean(warn.Msg))
					if warn.Hint != "" {
						fmt.Fprintf(w, "   hint: %s\n", clean(warn.Hint))
					}
				}
			})
		},
	}
	cmd.Flags().StringVar(&zone, "timezone", "UTC", "time zone, such as Europe/Paris")
	cmd.Flags().IntVar(&count, "count", 10, "how many times to show")
	cmd.Flags().StringVar(&after, "after", "", "show those after this `time` (default now)")
	return cmd
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func gapWords(x cron.Explanation) string {
	if x.Shortest == x.Longest {
		return cron.Spell(x.Longest) + " apart"
	}
	return fmt.Sprintf("%s to %s apart", minutes(x.Shortest), minutes(x.Longest))
}

// minutes spells gaps in the unit that they are compared in.
func minutes(d time.Duration) string {
	if d%time.Minute == 0 && d > time.Minute {
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return cron.Spell(d)
}
