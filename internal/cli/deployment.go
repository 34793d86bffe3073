package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli/delivery"
)

func (a *app) deploymentCmd() *cobra.Command {
	cmd := delivery.Command(a.deliveryDeps())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return usage("deployment needs a command, see: %s --help", cmd.CommandPath())
	}
	return cmd
}

// deliveryDeps are what the command deployment needs of this command line.
func (a *app) deliveryDeps() delivery.Deps {
	return delivery.Deps{
		Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, Getenv: a.Getenv, Now: a.Now, Terminal: a.Terminal, HTTP: a.HTTP, Legacy: a.Legacy,
		Client: func(server, token string, retryFor time.Duration) (*client.Client, error) {
			a.server, a.token = first(a.namedServer(), server), first(a.namedToken(), token)
			return a.client(retryFor)
		},
		Server: a.namedServer, Token: a.namedToken,
		More: []*cobra.Command{},
	}
}

// namedServer is the server that flags and environment name.
func (a *app) namedServer() string {
	return first(a.server, a.Getenv("WAYBILL_SERVER"), originOf(a.Getenv("WAYBILL_CALLBACK")))
}

// namedToken is the token that flags and environment name.
func (a *app) namedToken() string {
	return first(a.token, a.Getenv("WAYBILL_API_TOKEN"), a.Getenv("WAYBILL_TOKEN"))
}
