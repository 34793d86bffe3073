package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) bucketCmd() *cobra.Command {
	return group("bucket", "Show and list watched buckets, whose objects come from elsewhere", a.bucketListCmd(), a.bucketShowCmd(), a.bucketScanCmd())
}

func (a *app) bucketListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List watched buckets", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Buckets(ctx)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"items": orEmpty(l.Watched), "next_cursor": nil}, func(w io.Writer) {
				table(w, "name status taken pending failed skipped lag scanned url error", func(row func(...any)) {
					for _, b := range l.Watched {
						row(b.Name, b.Status, b.Taken, b.Pending, b.Failed, b.Skipped, seconds(b.Lag), a.when(b.ScannedAt), b.URL, b.Error)
					}
				})
			})
		}),
	}
}

func orEmpty[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func (a *app) bucketShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a watched bucket, and what was not taken from it", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			b, err := c.WatchedBucket(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(b, func(w io.Writer) { a.bucket(w, b) })
		}),
	}
}

func (a *app) bucket(w io.Writer, b client.WatchedBucket) {
	line := func(name string, value any) { fmt.Fprintf(w, "%-12s%s\n", name, clean(fmt.Sprint(value))) }
	line("name", b.Name)
	line("url", b.URL)
	if b.Prefix != "" {
		line("prefix", b.Prefix)
	}
	line("status", b.Status)
	if b.Error != "" {
		line("error", b.Error+" ("+a.when(b.ErrorAt)+")")
	}
	found := "by listings"
	if b.Told {
		found = "as they happen, and by listings"
	}
	line("changes", found)
	line("node", b.Node)
	if !b.ScannedAt.IsZero() {
		line("scanned", fmt.Sprintf("%s, %d objects in %s", a.when(b.ScannedAt), b.Listed, time.Duration(b.ScanTook*float64(time.Second)).Round(time.Millisecond)))
	}
	line("taken", fmt.Sprintf("%d (told of %d known ones)", b.Taken, b.Duplicates))
	line("waiting", fmt.Sprintf("%d pending, %d failed, %d finishing, lag %s", b.Pending, b.Failed, b.Finishing, seconds(b.Lag)))
	line("skipped", b.Skipped)
	if len(b.Problems) > 0 {
		fmt.Fprintln(w)
		table(w, "key state reason at next error", func(row func(...any)) {
			for _, p := range b.Problems {
				row(p.Key, p.State, p.Reason, a.when(p.At), a.when(p.Next), p.Error)
			}
		})
	}
}

func (a *app) bucketScanCmd() *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "scan NAME", Short: "List a watched bucket now", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			b, err := c.ScanBucket(ctx, args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			for asked := b.Asked; wait && b.Answered < asked; {
				if b.Status == "failing" && b.Error != "" {
					return &failed{"the bucket cannot be listed: " + b.Error}
				}
				select {
				case <-ctx.Done():
					return &failed{fmt.Sprintf("the listing is not done after %s; it goes on", timeout)}
				case <-time.After(200 * time.Millisecond):
				}
				if b, err = c.WatchedBucket(ctx, args[0]); err != nil {
					return err
				}
			}
			return a.print(b, func(w io.Writer) { a.bucket(w, b) })
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "until it is done")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait")
	return cmd
}

func (a *app) sourceCmd() *cobra.Command {
	return group("source", "Show the queues of other systems that messages are taken from", &cobra.Command{
		Use: "list", Short: "List sources, as the server that answers sees them", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Sources(ctx)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				table(w, "name kind status received accepted duplicates dead last queue url error", func(row func(...any)) {
					for _, q := range l.Items {
						row(q.Name, q.Kind, q.Status, q.Received, q.Accepted, q.Duplicates, q.Dead, a.when(q.LastAt), q.Queue, q.URL, q.Error)
					}
				})
			})
		}),
	})
}
