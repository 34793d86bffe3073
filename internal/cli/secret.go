package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// maxSecret is one byte more than the server accepts, so that it says why.
const maxSecret = 64<<10 + 1

func (a *app) secretCmd() *cobra.Command {
	c := group("secret", "Keep secrets for pipelines", a.secretSetCmd(), a.secretListCmd(), a.secretDeleteCmd(), a.secretRekeyCmd())
	c.Long = `Keep secrets for pipelines, which name them as ${secret:NAME}.

Values are encrypted before they are stored, handed to units when an attempt starts, and masked
wherever text leaves. No command and no path of the API reads one back.`
	return c
}

func (a *app) secretSetCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Store a secret, or a new version of one",
		Long: `Store a secret, or a new version of one. The value is read from a file, from standard input, or
typed without echo on a terminal. It is never an argument, which other users of the machine
could see.

Of standard input one newline at the end is not part of the value; of a file every byte is.`,
		Example: "  waybill secret set db-password\n  pass show db | waybill secret set db-password\n  waybill secret set tls-key --from-file key.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("the value is never an argument: type it when asked, or use --from-file or standard input")
			}
			if len(args) == 0 {
				return usage("set needs the name of a secret")
			}
			value, err := a.secretValue(args[0], file)
			if err != nil {
				return err
			}
			c, err := a.client(0)
			if err != nil {
				return err
			}
			s, err := c.SetSecret(cmd.Context(), args[0], value)
			if err != nil {
				return err
			}
			if !s.Masked {
				a.note("warning: %s is shorter than 4 bytes and is not masked in logs", s.Name)
			}
			return a.print(s, func(w io.Writer) { fmt.Fprintf(w, "%s\tversion %d\n", clean(s.Name), s.Version) })
		},
	}
	cmd.Flags().StringVar(&file, "from-file", "", "read the value from this file")
	return cmd
}

// secretValue reads a value from a file, a pipe, or a person.
func (a *app) secretValue(name, file string) (string, error) {
	if file != "" && file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret))
		return string(b), err
	}
	if f, ok := a.Stdin.(*os.File); ok && file == "" && term.IsTerminal(int(f.Fd())) {
		return a.typed(f, name)
	}
	b, err := io.ReadAll(io.LimitReader(a.Stdin, maxSecret))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}

// typed asks for a value twice, without echo.
func (a *app) typed(f *os.File, name string) (string, error) {
	ask := func(what string) ([]byte, error) {
		fmt.Fprintf(a.Stderr, "%s: ", what)
		defer fmt.Fprintln(a.Stderr)
		return term.ReadPassword(int(f.Fd()))
	}
	first, err := ask("value of " + clean(name))
	if err != nil {
		return "", err
	}
	again, err := ask("once more")
	if err != nil {
		return "", err
	}
	if !bytes.Equal(first, again) {
		return "", waybill.E(waybill.KindInvalid, "the two differ, so nothing was stored")
	}
	return string(first), nil
}

func (a *app) secretListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the names of secrets", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Secrets(ctx)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				table(w, "name version updated by masked", func(row func(...any)) {
					for _, s := range l.Items {
						masked := "yes"
						if !s.Masked {
							masked = "no, too short"
						}
						row(s.Name, s.Version, a.when(s.UpdatedAt), s.UpdatedBy, masked)
					}
				})
			})
		}),
	}
}

func (a *app) secretDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a secret with all its versions", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteSecret(ctx, args[0]); err != nil {
				return err
			}
			return a.print(map[string]any{"name": args[0], "deleted": true}, func(w io.Writer) { fmt.Fprintf(w, "%s\tdeleted\n", clean(args[0])) })
		}),
	}
}

func (a *app) secretRekeyCmd() *cobra.Command {
	var data, keyFile string
	cmd := &cobra.Command{
		Use:   "rekey",
		Short: "Encrypt all secrets with a new key",
		Long: `Encrypt all secrets with a new key.

A key that the server keeps in its data directory is replaced by a new one. A key that was given
(--secret-key-file, WAYBILL_SECRET_KEY) is yours: put the new identity in front of the old one, start
the servers again, rekey, and then take the old one away.

With --data the folder of a stopped server is opened instead of asking one that runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var n int64
			if data == "" {
				if keyFile != "" {
					return usage("--secret-key-file goes with --data; a server that runs has its key")
				}
				c, err := a.client(0)
				if err != nil {
					return err
				}
				if n, err = c.RekeySecrets(cmd.Context()); err != nil {
					return err
				}
			} else {
				if a.OpenSecrets == nil {
					return waybill.E(waybill.KindUnsupported, "this program cannot open a data folder")
				}
				s, closer, err := a.OpenSecrets(cmd.Context(), data, keyFile)
				if err != nil {
					return err
				}
				made, err := s.RekeySecrets(cmd.Context(), waybill.Principal{Name: "command line", Role: waybill.RoleAdmin})
				if err = errors.Join(err, closer.Close()); err != nil {
					return err
				}
				n = int64(made)
			}
			return a.print(map[string]any{"count": n}, func(w io.Writer) { fmt.Fprintf(w, "%d secrets encrypted anew\n", n) })
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data folder of a stopped server")
	cmd.Flags().StringVar(&keyFile, "secret-key-file", "", "with --data: file with the key (or WAYBILL_SECRET_KEY)")
	return cmd
}
