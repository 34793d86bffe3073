package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) unitCmd() *cobra.Command {
	return group("unit", "Look at what was made for attempts", a.unitListCmd())
}

func (a *app) unitListCmd() *cobra.Command {
	var pending, orphans bool
	var kind string
	cmd := &cobra.Command{
		Use: "list", Short: "List what runs and what waits for its clean-up", Args: cobra.NoArgs,
		Long: `List the processes, containers and Jobs that there are: those that run, those whose clean-up
is not done, with when it is tried next and why it failed, and orphans, which no attempt owns.`,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Units(ctx)
			if err != nil {
				return err
			}
			l.Items = slices.DeleteFunc(l.Items, func(u waybill.Unit) bool {
				return pending && u.Cleanup == "" || orphans && !u.Orphan || kind != "" && u.Runner != kind
			})
			for _, name := range slices.Sorted(maps.Keys(l.Silent)) {
				a.note("%s does not say which units it knows: %s", name, clean(l.Silent[name]))
			}
			if l.More {
				a.note("there are more units than can be shown")
			}
			return a.print(l, func(w io.Writer) {
				table(w, "unit runner state run step attempt since next image", func(row func(...any)) {
					for _, u := range l.Items {
						since, next := "", ""
						if !u.StartedAt.IsZero() {
							since = a.when(u.StartedAt)
						}
						if !u.NextTry.IsZero() && u.Cleanup == waybill.CleanupPending {
							next = "in " + span(max(0, u.NextTry.Sub(l.At)).Round(time.Second))
						}
						row(u.Unit, u.Runner, unitState(u), u.Run, u.Step, u.Attempt, since, next, shorten(u.Image, 60))
					}
				})
				for _, u := range l.Items {
					if u.CleanupError != "" {
						fmt.Fprintf(w, "\n%s is not cleaned up after %d tries: %s\n", clean(u.Unit), u.Tries, clean(u.CleanupError))
					}
				}
			})
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&pending, "pending", false, "only those whose clean-up is not done")
	f.BoolVar(&orphans, "orphans", false, "only those that no attempt owns")
	f.StringVar(&kind, "runner", "", "only those of a runner")
	return cmd
}

// unitState says in a word how it is with a unit.
func unitState(u waybill.Unit) string {
	switch {
	case u.Orphan:
		return "orphan"
	case u.Cleanup == waybill.CleanupFailed:
		return "clean-up failed"
	case u.Cleanup == waybill.CleanupDeleting && u.Tries > 0, u.Tries > 0:
		return "clean-up retried"
	case u.Cleanup != "":
		return "clean-up"
	case u.Phase != "":
		return string(u.Phase)
	}
	return "unknown"
}
