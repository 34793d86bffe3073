// Package delivery is the command deployment: what became of a change on its way from its
// source to every cluster.
//
// The commands create, get, validate, onboard, dashboard, init and ci-vars take the flags,
// settings and environment variables of the introspection commands that teams have in
// their pipelines, so that those go on to work; docs/deliveries.md says what differs.
// All of them talk to a server through package client and nothing else.
package delivery

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

// Deps are what the commands need from the command line that they are part of.
type Deps struct {
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Getenv   func(string) string
	Now      func() time.Time
	Terminal func(io.Writer) bool
	HTTP     *http.Client // for other servers than ours; nil is the default one
	// Client returns a client for the server and with the token that flags and environment
	// name, else for these, else for the default. It repeats requests for retryFor: 0 is
	// some seconds, a negative value never.
	Client func(server, token string, retryFor time.Duration) (*client.Client, error)
	// Server is the URL that flags and environment name, empty when they name none.
	Server func() string
	// Token is the token that flags and environment name, empty when they name none.
	Token func() string
	// Legacy reads the rows of a table of the service that kept deployments before. Nil
	// where the program was built without.
	Legacy LegacyReader
	// Wait waits; nil waits as usual.
	Wait func(context.Context, time.Duration) error
	// More are further commands below deployment.
	More []*cobra.Command
}

// LegacyReader reads all rows of one partition of an Azure table, page by page. f is called
// with each row's columns.
type LegacyReader func(ctx context.Context, o LegacyTable, f func(row map[string]string) error) error

// LegacyTable names a table.
type LegacyTable struct {
	Account, Key, Table, Partition string
	Endpoint                       string // of the table service; empty is that of the public cloud
}

// app is one invocation.
type app struct {
	Deps
	config  string // file of settings
	verbose bool
}

// Command returns the command deployment with all below it.
func Command(d Deps) *cobra.Command {
	a := &app{Deps: d}
	if a.Wait == nil {
		a.Wait = wait
	}
	if a.HTTP == nil {
		a.HTTP = http.DefaultClient
	}
	cmd := &cobra.Command{
		Use: "deployment", Aliases: []string{"d", "deployments", "introspection"}, Short: "Follow changes from their source to every cluster", Args: cobra.NoArgs,
		Long: `Follow changes from their source to every cluster: report what tools did, and see what is where.

Settings come from flags, then from the environment, then from the file .env of the working folder, then from
~/.bedrock/config.yaml. In that file ${env:NAME} stands for the value of a variable.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&a.config, "config", "", "`file` of settings (default: ~/.bedrock/config.yaml)")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "tell more, on standard error")
	cmd.AddCommand(a.createCmd(), a.getCmd(), a.validateCmd(), a.onboardCmd(), a.dashboardCmd(), a.initCmd(), a.ciVarsCmd(), a.replayCmd())
	cmd.AddCommand(a.answers()...)
	cmd.AddCommand(a.Deps.More...)
	return cmd
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note tells something that is neither result nor error.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "waybill: %s\n", clean(fmt.Sprintf(format, args...)))
}

// detail tells something to those who want to know more.
func (a *app) detail(format string, args ...any) {
	if a.verbose {
		a.note(format, args...)
	}
}

// home is the folder of the person, empty when it is not known.
func (a *app) home() string {
	if h := a.Getenv("HOME"); h != "" {
		return h
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return h
}
