package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) runListCmd() *cobra.Command {
	var p client.ListRunsParams
	var statuses []string
	var since, until string
	cmd := &cobra.Command{
		Use: "list", Short: "List runs, newest first", Args: cobra.NoArgs,
		Long: `List runs, newest first. Every condition that is given must be met.

--since and --until take a time such as 2026-03-02 or 2026-03-02T10:00:00Z, or how long ago: 90s, 24h, 7d.`,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			var err error
			if p.Since, err = a.instant("since", since); err != nil {
				return err
			}
			if p.Until, err = a.instant("until", until); err != nil {
				return err
			}
			for _, s := range statuses {
				p.Status = append(p.Status, waybill.Status(s))
			}
			l, err := c.Runs(ctx, p)
			if err != nil {
				return err
			}
			defer a.more(l.NextCursor)
			return a.print(l, func(w io.Writer) {
				table(w, "id pipeline status steps created took", func(row func(...any)) {
					for _, r := range l.Items {
						row(r.ID, r.Pipeline, r.Status, fmt.Sprintf("%d/%d", r.StepsDone, r.StepCount), a.when(r.CreatedAt), a.took(r.StartedAt, r.FinishedAt))
					}
				})
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&p.Pipeline, "pipeline", "", "of this pipeline only")
	f.StringSliceVar(&statuses, "status", nil, "with one of these statuses, separated by commas")
	f.StringVar(&since, "since", "", "created at this `time` or later, or not longer ago than that")
	f.StringVar(&until, "until", "", "created before this `time`, or longer ago than that")
	f.StringVar(&p.Trigger, "trigger", "", "started by this `type` of event: http, schedule, object, …")
	f.StringVar(&p.Parent, "parent", "", "started by a step of the run `ID`")
	f.StringVar(&p.RetryOf, "retry-of", "", "repeating the run `ID`")
	f.StringArrayVar(&p.Label, "label", nil, "with the label `NAME=VALUE`; repeatable")
	listFlags(cmd, &p.Limit, &p.Cursor)
	a.complete(cmd, "pipeline", a.pipelineNames)
	a.complete(cmd, "parent", a.runIDs)
	a.complete(cmd, "retry-of", a.runIDs)
	a.complete(cmd, "trigger", fixed("http", "schedule", "object", "webhook", "event", "pipeline"))
	words := make([]string, 0, 9)
	for _, s := range waybill.Statuses() {
		words = append(words, string(s))
	}
	a.complete(cmd, "status", fixed(words...))
	return cmd
}

var dayPart = regexp.MustCompile(`^([0-9]{1,6})d`)

// instant reads a time, or how long ago one was.
func (a *app) instant(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	rest, days := text, time.Duration(0)
	if m := dayPart.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err == nil && n <= 36500 {
			days, rest = time.Duration(n)*24*time.Hour, strings.TrimPrefix(text, m[0])
		}
	}
	ago := time.Duration(0)
	if rest != "" {
		var err error
		if ago, err = time.ParseDuration(rest); err != nil {
			return time.Time{}, usage("--%s %q: want a time such as 2026-03-02T10:00:00Z, or how long ago, such as 24h or 7d", flag, text)
		}
	}
	if ago < 0 {
		return time.Time{}, usage("--%s %q is in the future", flag, text)
	}
	return a.Now().Add(-days - ago), nil
}

func (a *app) runStatsCmd() *cobra.Command {
	var p client.GetRunStatsParams
	cmd := &cobra.Command{
		Use: "stats", Short: "Count runs by day", Args: cobra.NoArgs,
		Long: `Count runs by day: how many were accepted, how they ended, and the median and 95th percentile of how long
they took (within 5 %). The counts outlive the runs, and lag some seconds behind.`,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			if p.Days < 1 || p.Days > 400 {
				return usage("--days %d is not from 1 to 400", p.Days)
			}
			s, err := c.RunStats(ctx, p)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) {
				table(w, "day started succeeded failed timed_out canceled lost skipped p50 p95", func(row func(...any)) {
					for _, d := range s.Items {
						n := func(s waybill.Status) string {
							if d.Ended[string(s)] == 0 {
								return ""
							}
							return strconv.FormatInt(d.Ended[string(s)], 10)
						}
						took := func(seconds float64) string {
							if seconds == 0 {
								return ""
							}
							return span(time.Duration(seconds * float64(time.Second)))
						}
						row(d.Day, d.Started, n(waybill.StatusSucceeded), n(waybill.StatusFailed), n(waybill.StatusTimedOut),
							n(waybill.StatusCanceled), n(waybill.StatusLost), n(waybill.StatusSkipped), took(d.P50Seconds), took(d.P95Seconds))
					}
				})
			})
		}),
	}
	f := cmd.Flags()
	f.IntVar(&p.Days, "days", 30, "the last so many days, up to 400")
	f.StringVar(&p.Pipeline, "pipeline", "", "of this pipeline only")
	f.StringVar(&p.Timezone, "timezone", "", "in which days begin and end, such as Europe/Paris (default UTC)")
	a.complete(cmd, "pipeline", a.pipelineNames)
	return cmd
}
