package delivery

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
)

func (a *app) providersCmd() *cobra.Command {
	cmd := a.ask("providers", "List the providers that are polled, and how they fare; exits with 1 when one cannot be asked", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		l, err := q.client.DeliveryProviders(ctx)
		if err != nil {
			return asked(err)
		}
		q.none(len(l.Items), "no provider is polled; deliveries.providers in waybill.yaml names them")
		stale := false
		err = q.show(l, func(w io.Writer) {
			var rows [][]string
			for _, x := range l.Items {
				age := "never"
				if x.Age >= 0 {
					age = span(seconds(x.Age))
				}
				left := ""
				if x.Left >= 0 {
					left = strconv.Itoa(x.Left)
				}
				rows = append(rows, []string{
					x.Name, x.Kind, x.Status, age, a.when(x.PolledAt), a.when(x.NextAt), strconv.FormatInt(x.Calls, 10), strconv.FormatInt(x.CallsTotal, 10), left, strconv.Itoa(x.Rows), x.Node,
				})
			}
			grid(w, rows, "NAME", "KIND", "STATUS", "AGE", "POLLED", "NEXT", "CALLS", "TOTAL", "LEFT", "ROWS", "NODE")
			for _, x := range l.Items {
				if x.Error != "" {
					fmt.Fprintf(w, "\n%s: %s\n", clean(x.Name), clean(x.Error))
				}
				if x.Status == waybill.ProviderLimited {
					fmt.Fprintf(w, "\n%s: it wants no calls until %s\n", clean(x.Name), a.when(x.LimitedUntil))
				}
				for _, n := range x.Notes {
					fmt.Fprintf(w, "\n%s: %s\n", clean(x.Name), clean(n))
				}
			}
		})
		for _, x := range l.Items {
			stale = stale || x.Stale
		}
		if err == nil && stale {
			return quiet{}
		}
		return err
	})
	cmd.Aliases = []string{"sources", "provider"}
	cmd.Long = `List the providers that are polled for what deployments lack, and how they fare: when they answered last (AGE), how
many calls the last interval took and how many they still take. Exits with 1 when one cannot be asked: what is shown of
its deployments is what it told last.`
	return cmd
}
