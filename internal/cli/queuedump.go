package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) queueDumpCmd() *cobra.Command {
	return &cobra.Command{
		Use: "dump TOPIC [FILE]", Short: "Write all messages and dead letters as lines of JSON", Args: cobra.RangeArgs(1, 2),
		Long: `Write all messages of a topic, in the order of their lanes, and its dead letters, as lines of JSON
to standard output or to a file. Pause the topic before, so that nothing moves meanwhile:

  waybill pause unit
  waybill queue dump unit saved.jsonl
  waybill queue purge unit
  … edit saved.jsonl …
  waybill queue feed unit saved.jsonl
  waybill resume unit`,
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 1 || args[1] == "-" {
				return c.DumpQueue(ctx, args[0], a.Stdout)
			}
			// The file has its name when it is whole.
			tmp := args[1] + ".part"
			f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
			if err != nil {
				return err
			}
			err = c.DumpQueue(ctx, args[0], f)
			if err == nil {
				err = f.Sync()
			}
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err == nil {
				err = os.Rename(tmp, args[1])
			}
			if err != nil {
				return errors.Join(err, os.Remove(tmp))
			}
			return nil
		}),
	}
}

func (a *app) queueFeedCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "feed TOPIC FILE", Short: "Put messages and dead letters of a dump into a topic", Args: cobra.ExactArgs(2),
		Long: `Put messages and dead letters of a dump into a topic; FILE - is standard input. The dump may be of
another server, and edited. All lines are checked before anything is done. Lines whose id was fed before,
or is there still, are skipped, so a feed can be repeated. A line of kind "message" with the id of a dead
letter takes its place: that sends an edited dead letter again.`,
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var lines []byte
			var err error
			if args[1] == "-" {
				lines, err = io.ReadAll(a.Stdin)
			} else {
				lines, err = os.ReadFile(args[1])
			}
			if err != nil {
				return err
			}
			res, err := c.FeedQueue(ctx, args[0], lines, dry)
			if err != nil {
				return err
			}
			return a.print(res, func(w io.Writer) {
				would := ""
				if dry {
					would = "would be "
				}
				fmt.Fprintf(w, "%d %ssent, %d %sburied, %d dead letters %schanged, %d skipped\n", res.Sent, would, res.Buried, would, res.Changed, would, res.Skipped)
			})
		}),
	}
	cmd.Flags().BoolVar(&dry, "dry", false, "only tell what would be done")
	return cmd
}
