package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) healthCmd() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Show whether the server can work", Args: cobra.NoArgs,
		Long: "Show whether the server can work. Fails unless it is ok.",
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			h, err := c.Health(ctx)
			if err != nil {
				return err
			}
			err = a.print(h, func(w io.Writer) {
				fmt.Fprintf(w, "%s\tup for %s\n", clean(string(h.Status)), span(time.Duration(h.UptimeSeconds*float64(time.Second))))
				var parts []string
				for part := range h.Checks {
					parts = append(parts, part)
				}
				slices.Sort(parts)
				for _, part := range parts {
					fmt.Fprintf(w, "%s\t%s\n", clean(part), clean(h.Checks[part]))
				}
			})
			if err == nil && h.Status != client.HealthStatusOk {
				err = &failed{fmt.Sprintf("the server is %s", h.Status)}
			}
			return err
		}),
	}
}

// versions is the result of the version command.
type versions struct {
	Client client.Version  `json:"client"`
	Server *client.Version `json:"server"` // null unless a server was named
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show which program this is, and which the server is if one is named", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: a.Version}
			if first(a.server, a.Getenv("WAYBILL_SERVER")) != "" {
				c, err := a.client(-1)
				if err != nil {
					return err
				}
				s, err := c.Version(cmd.Context())
				if err != nil {
					return err
				}
				v.Server = &s
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintln(w, versionLine("waybill", v.Client))
				if v.Server != nil {
					fmt.Fprintln(w, versionLine("server", *v.Server))
				}
			})
		},
	}
}

func versionLine(what string, v client.Version) string {
	line := fmt.Sprintf("%s %s", what, first(v.Version, "unknown"))
	if v.Commit != "" {
		line += " " + v.Commit
	}
	return clean(fmt.Sprintf("%s (%s, %s)", line, v.Go, v.Platform))
}
