package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/login"
)

// serverURL is the server that flags and environment name.
func (a *app) serverURL() string {
	return first(a.server, a.Getenv("WAYBILL_SERVER"), originOf(a.Getenv("WAYBILL_CALLBACK")), client.DefaultServer)
}

// loginFile is where the login for the server is kept.
func (a *app) loginFile() (*login.File, error) {
	dir := a.Getenv("WAYBILL_CONFIG_DIR")
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("find login", "").WithHint("name a folder with WAYBILL_CONFIG_DIR")
		}
		dir = filepath.Join(base, "waybill")
	}
	return login.Open(dir, a.serverURL(), a.Getenv("WAYBILL_OIDC_CLIENT_SECRET"), a.Now)
}

// loginToken is the token of whoever is logged in at the server. Without a place where
// logins are kept nobody is.
func (a *app) loginToken() func(context.Context) (string, error) {
	f, err := a.loginFile()
	if err != nil {
		return nil
	}
	return f.Token
}

// LoginToken returns what gives the token of whoever is logged in at a server, for
// commands that make a client of their own; nil when there is no place for logins.
func LoginToken(server string) func(context.Context) (string, error) {
	a := &app{server: server}
	a.defaults()
	return a.loginToken()
}

// loggedIn is the result of login.
type loggedIn struct {
	Server  string `json:"server"`
	Name    string `json:"name"`
	Role    string `json:"role"`
	Issuer  string `json:"issuer"`
	Expires string `json:"expires_at,omitempty"`
	Renewed bool   `json:"renewed"` // whether it is renewed by itself
}

func (a *app) loginCmd() *cobra.Command {
	var p login.Provider
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in at a server with an identity provider",
		Long: `Log in at a server with an identity provider that the server takes tokens of. The
command shows an address and a code to be entered there, in a browser on any
machine, and waits.

The token is kept for this server in a file that only you can read, and renewed
when the issuer allows it. --token and WAYBILL_API_TOKEN go before it.

Issuer and client are remembered: to log in again, "waybill login" is enough. An
issuer that wants a secret of its clients is told WAYBILL_OIDC_CLIENT_SECRET.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.loginFile()
			if err != nil {
				return err
			}
			if p.Issuer == "" {
				if old, ok, err := f.Read(); err == nil && ok {
					scopes := p.Scopes
					if p = old.Provider; cmd.Flags().Changed("scope") {
						p.Scopes = scopes
					}
				}
			}
			if p.Issuer == "" || p.ClientID == "" {
				return usage("login needs --issuer and --client-id the first time")
			}
			if !waybill.SafeIdentityURL(p.Issuer) {
				return usage("the issuer %.200q is not an https:// URL", p.Issuer)
			}
			if p.CAFile != "" {
				if p.CAFile, err = filepath.Abs(p.CAFile); err != nil {
					return err
				}
			}
			p.Secret = a.Getenv("WAYBILL_OIDC_CLIENT_SECRET")
			l, err := login.Device(cmd.Context(), p, a.serverURL(), func(q login.Prompt) {
				if q.Complete != "" {
					a.note("open %s", q.Complete)
					a.note("and check that it shows the code %s", q.Code)
				} else {
					a.note("open %s", q.URL)
					a.note("and enter the code %s", q.Code)
				}
				a.note("waiting for you to do so …")
			})
			if err != nil {
				return err
			}
			return a.finishLogin(cmd.Context(), f, l)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&p.Issuer, "issuer", "", "URL of the identity provider")
	fl.StringVar(&p.ClientID, "client-id", "", "id of this program at the identity provider")
	fl.StringSliceVar(&p.Scopes, "scope", []string{"openid", "profile", "email", "offline_access"}, "what is asked for; repeatable")
	fl.StringVar(&p.Audience, "audience", "", "audience to ask for, where the issuer wants that")
	fl.StringVar(&p.CAFile, "ca-file", "", "PEM certificates to check the issuer's with")
	return cmd
}

// finishLogin keeps a login with the token that the server takes.
func (a *app) finishLogin(ctx context.Context, f *login.File, l login.Login) error {
	who, err := a.whois(ctx, l.Token())
	if client.KindOf(err) == waybill.KindUnauthorized && !l.UseAccess && l.Access != "" {
		// Which of the two tokens is meant for the server depends on the issuer's set-up.
		l.UseAccess = true
		if other, oerr := a.whois(ctx, l.Token()); client.KindOf(oerr) != waybill.KindUnauthorized {
			who, err = other, oerr
		}
	}
	if client.KindOf(err) == waybill.KindUnauthorized {
		return err // of no use there
	}
	if werr := f.Write(l); werr != nil {
		return werr
	}
	if err != nil {
		a.note("the login is kept")
		return err
	}
	res := loggedIn{Server: a.serverURL(), Name: who.Name, Role: string(who.Role), Issuer: l.Issuer, Renewed: l.Refresh != ""}
	if end := l.Expires(); !end.IsZero() {
		res.Expires = end.UTC().Format("2006-01-02T15:04:05Z07:00")
	}
	return a.print(res, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\t%s\n", clean(res.Name), clean(res.Role), clean(res.Server)) })
}

func (a *app) whois(ctx context.Context, token string) (client.Whoami, error) {
	c, err := client.New(client.Options{Server: a.serverURL(), Token: token, HTTP: a.HTTP})
	if err != nil {
		return client.Whoami{}, err
	}
	return c.Whoami(ctx)
}

func (a *app) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the login at a server", Args: cobra.NoArgs,
		Long: "Forget the login at a server, here and, if it can do that, at the identity provider.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.loginFile()
			if err != nil {
				return err
			}
			was, revoke, err := f.Remove(cmd.Context())
			if err != nil {
				return err
			}
			if revoke != nil {
				a.note("the identity provider was not told: %v", revoke)
			}
			return a.print(map[string]any{"server": a.serverURL(), "logged_out": was}, func(w io.Writer) {
				word := "logged out"
				if !was {
					word = "nobody was logged in"
				}
				fmt.Fprintf(w, "%s\t%s\n", clean(a.serverURL()), word)
			})
		},
	}
}

func (a *app) whoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show whom the server takes you for", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			who, err := c.Whoami(ctx)
			if err != nil {
				return err
			}
			return a.print(who, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\n", clean(who.Name), clean(string(who.Role))) })
		}),
	}
}
