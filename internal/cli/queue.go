package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) queueCmd() *cobra.Command {
	return group("queue", "Look at queues and repair them", a.queueListCmd(), a.queuePeekCmd(), a.queueRedriveCmd(), a.queuePurgeCmd(), a.queueDumpCmd(), a.queueFeedCmd())
}

func (a *app) queueListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List topics", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Queues(ctx)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				table(w, "topic depth lanes leased dead oldest paused", func(row func(...any)) {
					for _, q := range l.Items {
						oldest, paused := "", ""
						if q.OldestAgeSeconds > 0 {
							oldest = span(time.Duration(q.OldestAgeSeconds * float64(time.Second)))
						}
						if q.Paused {
							paused = "paused"
						}
						row(q.Topic, q.Depth, q.Lanes, q.Leased, q.Dead, oldest, paused)
					}
				})
			})
		}),
	}
}

func (a *app) queuePeekCmd() *cobra.Command {
	var dead bool
	var limit int
	var cursor string
	cmd := &cobra.Command{
		Use: "peek TOPIC", Short: "Show waiting messages, or dead letters", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var l client.MessageList
			var err error
			if dead {
				l, err = c.DeadLetters(ctx, args[0], client.ListDeadLettersParams{Limit: limit, Cursor: cursor})
			} else {
				l, err = c.Messages(ctx, args[0], client.ListMessagesParams{Limit: limit, Cursor: cursor})
			}
			if err != nil {
				return err
			}
			defer a.more(l.NextCursor)
			return a.print(l, func(w io.Writer) {
				if dead {
					table(w, "id lane dead fails reason body", func(row func(...any)) {
						for _, m := range l.Items {
							row(m.ID, m.Key, a.when(m.DeadAt), m.Fails, shorten(m.Reason, 60), shorten(m.Body, 60))
						}
					})
					return
				}
				table(w, "lane seq sent deliveries state body", func(row func(...any)) {
					for _, m := range l.Items {
						state := "waiting"
						if m.Leased {
							state = "held by " + first(m.Owner, "somebody")
						}
						row(m.Key, m.Seq, a.when(m.SentAt), m.Attempt, state, shorten(m.Body, 60))
					}
				})
			})
		}),
	}
	cmd.Flags().BoolVar(&dead, "dead", false, "show dead letters")
	listFlags(cmd, &limit, &cursor)
	return cmd
}

func (a *app) queueRedriveCmd() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "redrive TOPIC [ID]...", Short: "Send dead letters again", Args: cobra.MinimumNArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if all == (len(args) > 1) {
				return usage("name the ids of dead letters, or say --all")
			}
			n, err := c.Redrive(ctx, args[0], args[1:]...)
			if err != nil {
				return err
			}
			return a.count(n, "sent again")
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters of the topic")
	return cmd
}

func (a *app) count(n int64, what string) error {
	return a.print(client.Count{Count: n}, func(w io.Writer) { fmt.Fprintf(w, "%d %s\n", n, what) })
}

func (a *app) queuePurgeCmd() *cobra.Command {
	var dead bool
	cmd := &cobra.Command{
		Use: "purge TOPIC", Short: "Delete waiting messages, or dead letters", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			n, err := c.Purge(ctx, args[0], dead)
			if err != nil {
				return err
			}
			return a.count(n, "deleted")
		}),
	}
	cmd.Flags().BoolVar(&dead, "dead", false, "delete dead letters")
	return cmd
}

func (a *app) pauseCmd(pause bool) *cobra.Command {
	use, short, done := "pause TOPIC", "Stop handing out messages of a topic", "paused"
	if !pause {
		use, short, done = "resume TOPIC", "Hand out messages of a topic again", "resumed"
	}
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.Pause(ctx, args[0], pause); err != nil {
				return err
			}
			return a.print(map[string]any{"topic": args[0], "paused": pause}, func(w io.Writer) {
				fmt.Fprintf(w, "%s\t%s\n", clean(args[0]), done)
			})
		}),
	}
}
