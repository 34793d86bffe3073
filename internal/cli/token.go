package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) tokenCmd() *cobra.Command {
	return group("token", "Make, list and revoke API tokens", a.tokenCreateCmd(), a.tokenListCmd(), a.tokenRevokeCmd())
}

func (a *app) tokenCreateCmd() *cobra.Command {
	var role, data string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make an API token and print its secret, once",
		Long: `Make an API token and print its secret. The secret is not kept anywhere.

Without a name it is called by its role.

With --data the token is written into the data folder of a server that is
stopped: that is how the first token of a server is made.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := role
			if len(args) > 0 {
				name = args[0]
			}
			if ttl < 0 || ttl%time.Second != 0 {
				return usage("--ttl wants whole seconds")
			}
			t, err := a.createToken(cmd.Context(), data, client.CreateToken{Name: name, Role: waybill.Role(role), TTLSeconds: int64(ttl / time.Second)})
			if err != nil {
				return err
			}
			if a.format == "text" {
				a.note("token %s for %s, keep it safe, it is not shown again", t.Token.ID, t.Token.Role)
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Secret) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&role, "role", "viewer", "viewer, operator or admin; or reporter, which only tells of deliveries")
	f.DurationVar(&ttl, "ttl", 0, "how long it is valid (default for ever)")
	f.StringVar(&data, "data", "", "data folder of a stopped server")
	return cmd
}

func (a *app) createToken(ctx context.Context, data string, want client.CreateToken) (t client.NewToken, err error) {
	if data == "" {
		c, err := a.client(0)
		if err != nil {
			return t, err
		}
		return c.CreateToken(ctx, want, "")
	}
	if a.OpenTokens == nil {
		return t, waybill.E(waybill.KindUnsupported, "this program cannot open a data folder")
	}
	tokens, closer, err := a.OpenTokens(ctx, data)
	if err != nil {
		return t, err
	}
	defer func() {
		if cerr := closer.Close(); err == nil {
			err = cerr
		}
	}()
	made, secret, err := tokens.CreateToken(ctx, want.Name, want.Role, time.Duration(want.TTLSeconds)*time.Second, waybill.Principal{Name: "command line", Role: waybill.RoleAdmin})
	if err != nil {
		return t, err
	}
	t.Secret = secret
	t.Token = client.Token{ID: made.ID, Name: made.Name, Role: made.Role, CreatedAt: made.CreatedAt, CreatedBy: made.CreatedBy, ExpiresAt: made.ExpiresAt}
	return t, nil
}

func (a *app) tokenListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List API tokens", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Tokens(ctx)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				table(w, "id name role created expires state", func(row func(...any)) {
					for _, t := range l.Items {
						row(t.ID, t.Name, t.Role, a.when(t.CreatedAt), a.when(t.ExpiresAt), a.tokenState(t))
					}
				})
			})
		}),
	}
}

func (a *app) tokenState(t client.Token) string {
	switch {
	case !t.RevokedAt.IsZero():
		return "revoked"
	case !t.ExpiresAt.IsZero() && !a.Now().Before(t.ExpiresAt):
		return "expired"
	}
	return "valid"
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Make an API token useless for good", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.RevokeToken(ctx, args[0]); err != nil {
				return err
			}
			return a.print(map[string]any{"id": args[0], "revoked": true}, func(w io.Writer) { fmt.Fprintf(w, "%s\trevoked\n", clean(args[0])) })
		}),
	}
}
