package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) eventCmd() *cobra.Command {
	return group("event", "Publish events", a.eventSendCmd())
}

func (a *app) eventSendCmd() *cobra.Command {
	var e client.CloudEvent
	var data string
	cmd := &cobra.Command{
		Use:   "send TYPE",
		Short: "Publish a CloudEvent, which starts every pipeline that wants it",
		Long: `Publish a CloudEvent, which starts every pipeline that has a trigger for it.

An event is published once for each source and id: sending it again starts nothing.`,
		Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			e.Type = args[0]
			text := []byte(data)
			var err error
			if data == "-" {
				text, err = io.ReadAll(a.Stdin)
			} else if name, ok := strings.CutPrefix(data, "@"); ok {
				text, err = os.ReadFile(name)
			}
			if err != nil {
				return err
			}
			if e.Data = text; len(text) > 0 && !json.Valid(text) {
				if e.Data, err = json.Marshal(string(text)); err != nil {
					return err
				}
			}
			l, err := c.Publish(ctx, e)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				for _, d := range l.Items {
					for _, r := range d.Runs {
						fmt.Fprintf(w, "%s\t%s\n", clean(r.Pipeline), clean(r.Run))
					}
					for _, r := range d.Refused {
						a.note("%s", r.Reason)
					}
					switch {
					case !d.Fresh:
						a.note("event %s was published before", d.ID)
					case len(d.Runs)+len(d.Refused) == 0:
						a.note("no pipeline wants event %s", d.ID)
					}
				}
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&e.ID, "id", "", "id of the event (default a new one)")
	f.StringVar(&e.Source, "source", "/cli", "who tells it")
	f.StringVar(&e.Subject, "subject", "", "what it is about")
	f.StringVar(&data, "data", "", "its data: JSON or text, @FILE reads a file, - standard input")
	return cmd
}
