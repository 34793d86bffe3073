package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) pipelineCmd() *cobra.Command {
	return group("pipeline", "Look at definitions, check and store them",
		append([]*cobra.Command{a.pipelineListCmd(), a.pipelineShowCmd(), a.pipelineValidateCmd(), a.pipelineGraphCmd(), a.pipelineApplyCmd(), a.pipelineReloadCmd()},
			a.PipelineCommands...)...)
}

func (a *app) pipelineListCmd() *cobra.Command {
	var p client.ListPipelinesParams
	cmd := &cobra.Command{
		Use: "list", Short: "List pipelines by name", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Pipelines(ctx, p)
			if err != nil {
				return err
			}
			defer a.more(l.NextCursor)
			return a.print(l, func(w io.Writer) {
				table(w, "name version origin starts steps", func(row func(...any)) {
					for _, p := range l.Items {
						row(p.Name, p.Version, p.Origin, strings.Join(p.Triggers, ", "), len(p.Steps))
					}
				})
				for _, p := range l.Items {
					if p.Problem != "" {
						fmt.Fprintf(w, "\n%s stays at version %d: %s\n", clean(p.Name), p.Version, clean(p.Problem))
					}
				}
			})
		}),
	}
	listFlags(cmd, &p.Limit, &p.Cursor)
	return cmd
}

func (a *app) pipelineShowCmd() *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Print a definition", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Pipeline(ctx, args[0], version)
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) {
				fmt.Fprintf(w, "# %s, version %d, of the %s\n", clean(p.Name), p.Version, clean(first(p.File, string(p.Origin))))
				for line := range strings.Lines(p.Source) {
					fmt.Fprintln(w, clean(strings.TrimRight(line, "\n")))
				}
			})
		}),
	}
	cmd.Flags().IntVar(&version, "version", 0, "the version (default the newest)")
	return cmd
}

func found(problems int) string {
	if problems == 1 {
		return "one problem found"
	}
	return fmt.Sprintf("%d problems found", problems)
}

func (a *app) pipelineGraphCmd() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "graph NAME", Short: "Draw the steps of a pipeline", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			text, err := c.PipelineGraph(ctx, args[0], format)
			if err != nil {
				return err
			}
			return a.print(map[string]string{"format": format, "graph": text}, func(w io.Writer) {
				for line := range strings.Lines(text) {
					fmt.Fprintln(w, clean(strings.TrimRight(line, "\n")))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&format, "format", "text", "text, dot or mermaid")
	return cmd
}

func (a *app) pipelineApplyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "apply FILE", Short: "Store a definition on the server (- reads standard input)", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var src []byte
			var err error
			if args[0] == "-" {
				src, err = io.ReadAll(a.Stdin)
			} else {
				src, err = os.ReadFile(args[0])
			}
			if err != nil {
				return err
			}
			p, err := c.ApplyPipeline(ctx, src)
			var wrong *client.Error
			if errors.As(err, &wrong) && args[0] != "-" {
				for i := range wrong.Problems {
					wrong.Problems[i].File = args[0] // the server does not know its name
				}
			}
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) { fmt.Fprintf(w, "%s\tversion %d\n", clean(p.Name), p.Version) })
		}),
	}
}
