package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) runFileCmd() *cobra.Command {
	var attempt int
	cmd := &cobra.Command{
		Use: "file ID STEP OUTPUT [FILE]", Short: "Write a file that a step returned to a file or to standard output", Args: cobra.RangeArgs(3, 4),
		Long: `Write a file that a step returned to a file or to standard output. A step that failed has those of its
declared files that were there. A file appears under its name only when all of it has arrived and was checked.`,
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			in, err := c.OutputFile(ctx, args[0], args[1], args[2], attempt)
			if err != nil {
				return err
			}
			defer in.Close() // it was only read
			return a.save(args[3:], in)
		}),
	}
	cmd.Flags().IntVar(&attempt, "attempt", 0, "number of an attempt (default the last one)")
	return cmd
}
