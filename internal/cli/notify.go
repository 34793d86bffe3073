package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) notifyCmd() *cobra.Command {
	return group("notify", "Say who is told of failed runs", a.notifyListCmd(), a.notifyAddCmd(), a.notifyDeleteCmd(), a.notifyTestCmd())
}

func (a *app) notifyListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the rules", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Notifications(ctx)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				table(w, "name origin on pipeline to", func(row func(...any)) {
					for _, n := range l.Items {
						on := make([]string, len(n.On))
						for i, e := range n.On {
							on[i] = string(e)
						}
						to := ""
						switch {
						case n.Webhook != nil:
							to = n.Webhook.URL
						case n.Email != nil:
							to = strings.Join(n.Email.To, ",")
						}
						row(n.Name, n.Origin, strings.Join(on, ","), n.Pipeline, shorten(to, 80))
					}
				})
			})
		}),
	}
}

func (a *app) notifyAddCmd() *cobra.Command {
	var r waybill.NotifyRule
	var on, headers []string
	var hook waybill.NotifyWebhook
	var mail waybill.NotifyEmail
	var plain bool
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add or change a rule", Args: cobra.ExactArgs(1),
		Long: `Add or change a rule: either --webhook URL, or --email with --from and --smtp.

Keys and passwords are named, not given: set them with "waybill secret set NAME" and write ${secret:NAME}.`,
		Example: `  waybill notify add ops --on failed,timed_out,lost --webhook https://example.org/hook --secret '${secret:hook-key}'
  waybill notify add people --on failed,recovered --pipeline 'nightly-*' --email ops@example.org \
    --from waybill@example.org --smtp mail.example.org:587 --user waybill --password '${secret:mail}'`,
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			r.Name = args[0]
			for _, e := range on {
				r.On = append(r.On, waybill.NotifyEvent(e))
			}
			if hook.URL != "" {
				for _, h := range headers {
					name, value, ok := strings.Cut(h, ":")
					if !ok {
						return usage("--header %q is not NAME: VALUE", h)
					}
					if hook.Headers == nil {
						hook.Headers = map[string]string{}
					}
					hook.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
				}
				r.Webhook = &hook
			}
			if len(mail.To) > 0 {
				if plain {
					no := false
					mail.StartTLS = &no
				}
				r.Email = &mail
			}
			if err := r.Check(); err != nil {
				return usage("%s", err.Error())
			}
			n, err := c.ApplyNotification(ctx, r)
			if err != nil {
				return err
			}
			return a.print(n, func(w io.Writer) { fmt.Fprintln(w, clean(n.Name)) })
		}),
	}
	f := cmd.Flags()
	f.StringSliceVar(&on, "on", []string{"failed", "timed_out", "lost"}, "what it is about")
	f.StringVar(&r.Pipeline, "pipeline", "", "of pipelines whose names match this `pattern` only")
	f.StringVar(&hook.URL, "webhook", "", "`URL` that is told by POST")
	f.StringVar(&hook.Secret, "secret", "", "`key` of the signature, as ${secret:NAME}")
	f.StringArrayVar(&headers, "header", nil, "further header `NAME: VALUE`; repeatable")
	f.StringSliceVar(&mail.To, "email", nil, "`address` that is told by mail; repeatable")
	f.StringVar(&mail.From, "from", "", "`address` that mail comes from")
	f.StringVar(&mail.SMTP, "smtp", "", "`host:port` of the mail server")
	f.StringVar(&mail.User, "user", "", "name at the mail server")
	f.StringVar(&mail.Password, "password", "", "password at the mail server, as ${secret:NAME}")
	f.BoolVar(&plain, "no-starttls", false, "do not encrypt the connection to the mail server")
	words := make([]string, 0, 8)
	for _, e := range waybill.NotifyEvents() {
		words = append(words, string(e))
	}
	a.complete(cmd, "on", fixed(words...))
	a.complete(cmd, "pipeline", a.pipelineNames)
	return cmd
}

func (a *app) notifyDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a rule", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.first(a.ruleNames),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteNotification(ctx, args[0]); err != nil {
				return err
			}
			return a.print(map[string]any{"name": args[0], "deleted": true}, func(w io.Writer) { fmt.Fprintln(w, clean(args[0])) })
		}),
	}
}

func (a *app) notifyTestCmd() *cobra.Command {
	return &cobra.Command{
		Use: "test RULE", Short: "Send a sample at once and tell whether it arrived", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.first(a.ruleNames),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.TestNotification(ctx, args[0]); err != nil {
				return err
			}
			return a.print(json.RawMessage(`{"sent":true}`), func(w io.Writer) { fmt.Fprintln(w, "sent") })
		}),
	}
}
