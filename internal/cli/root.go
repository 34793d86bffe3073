// Package cli is the command line: one file for each noun.
//
// Commands talk to a server through package client and nothing else, but for the
// few that work on files of this machine; those come in through [Deps].
//
// Results go to standard output, everything else to standard error. The exit
// code is 0 when it worked, 1 when it did not and 2 when the command was not
// understood.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli/delivery"
)

// Deps are what the command line needs from the rest of the program. Zero values
// are replaced by those of the process.
type Deps struct {
	Version client.Version
	// Commands are further commands, such as up and demo.
	Commands []*cobra.Command
	// PipelineCommands are further commands below pipeline.
	PipelineCommands []*cobra.Command
	// ImageCommands are further commands below image.
	ImageCommands []*cobra.Command
	// OpenImages opens the images in the data folder of a server that is stopped.
	OpenImages func(ctx context.Context, data string) (waybill.Images, io.Closer, error)
	// Validate checks the definitions in a file, or in all files of a project
	// folder. It returns what is wrong with them; err is for a path that cannot be
	// read.
	Validate func(path string) (problems []client.SourceProblem, err error)
	// Doubts returns what is not wrong in them and may yet be: warnings, and what only a
	// server knows. Nil has none.
	Doubts func(path string) []client.SourceProblem
	// OpenTokens opens the tokens in the data folder of a server that is stopped.
	OpenTokens func(ctx context.Context, data string) (waybill.Tokens, io.Closer, error)
	// OpenSecrets opens the secrets in the data folder of a server that is stopped. An empty
	// keyFile leaves the key to the environment or the folder.
	OpenSecrets func(ctx context.Context, data, keyFile string) (waybill.Secrets, io.Closer, error)

	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Getenv   func(string) string
	Now      func() time.Time
	Terminal func(w io.Writer) bool // whether w is one; nil asks the system
	// Legacy reads tables of the service that kept deployments before; nil where that is not
	// part of the program.
	Legacy delivery.LegacyReader
	HTTP   *http.Client
}

func (d *Deps) defaults() {
	if d.Stdin == nil {
		d.Stdin = os.Stdin
	}
	if d.Stdout == nil {
		d.Stdout = os.Stdout
	}
	if d.Stderr == nil {
		d.Stderr = os.Stderr
	}
	if d.Getenv == nil {
		d.Getenv = os.Getenv
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Terminal == nil {
		d.Terminal = func(w io.Writer) bool {
			f, ok := w.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		}
	}
}

// app is one invocation.
type app struct {
	Deps
	server string
	token  string
	format string
	parsed bool // the command and its flags were understood
}

// Run executes a command line without its program name, reports an error and
// returns the exit code.
func Run(ctx context.Context, d Deps, args []string) int {
	a := &app{Deps: d}
	a.defaults()
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	a.report(err)
	if !a.parsed || errors.As(err, new(*usageError)) {
		return 2
	}
	return 1
}

// New returns the root command. Its errors are for [Run] to report.
func New(d Deps) *cobra.Command {
	a := &app{Deps: d}
	a.defaults()
	return a.root()
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "waybill",
		Short: "Run work on compute that exists only while it is needed",
		Long: `Waybill runs work on compute that exists only while it is needed, and remembers everything.

Exit codes: 0 it worked, 1 it did not, 2 the command was not understood.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if known := cmd.Annotations[Formats]; a.format != "text" && a.format != "json" && (a.format != known || known == "") {
				if known != "" {
					return usage("output %q is not text, json or %s", a.format, known)
				}
				return usage("output %q is not text or json", a.format)
			}
			a.parsed = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = a.Version.Version
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", "", "URL of the server (WAYBILL_SERVER; default "+client.DefaultServer+")")
	f.StringVar(&a.token, "token", "", "API token, or one of an identity provider (WAYBILL_API_TOKEN; inside a unit WAYBILL_TOKEN; default: that of waybill login)")
	f.StringVarP(&a.format, "output", "o", "text", "text or json")
	root.AddCommand(a.startCmd(), a.runCmd(), a.pipelineCmd(), a.objectCmd(), a.bucketCmd(), a.sourceCmd(), a.scheduleCmd(), a.eventCmd(), a.queueCmd(), a.unitCmd(), a.pauseCmd(true), a.pauseCmd(false),
		a.tokenCmd(), a.secretCmd(), a.callbackCmd(), a.healthCmd(), a.versionCmd())
	root.AddCommand(a.notifyCmd(), a.imageCmd())
	root.AddCommand(a.loginCmd(), a.logoutCmd(), a.whoamiCmd())
	root.AddCommand(a.deploymentCmd())
	root.AddCommand(a.Commands...)
	a.completions(root)
	return root
}

// group makes a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return usage("%s needs a command, see: %s --help", cmd.Name(), cmd.CommandPath())
	}}
	c.AddCommand(subs...)
	return c
}

// client returns a client for the server that flags and environment name. Inside
// a unit that is the server of its callback.
func (a *app) client(retryFor time.Duration) (*client.Client, error) {
	o := client.Options{
		Server: a.serverURL(), Token: first(a.token, a.Getenv("WAYBILL_API_TOKEN"), a.Getenv("WAYBILL_TOKEN")), HTTP: a.HTTP, RetryFor: retryFor,
	}
	if o.Token == "" {
		o.TokenSource = a.loginToken()
	}
	return client.New(o)
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

func originOf(callback string) string {
	u, err := url.Parse(callback)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// with makes the function of a command that needs a client.
func (a *app) with(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client(0)
		if err != nil {
			return err
		}
		return f(cmd.Context(), c, args)
	}
}

// usageError is a command line that was not understood.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// failed is an end that was reported already, or that needs no words.
type failed struct{ msg string }

func (e *failed) Error() string { return e.msg }

// report tells an error and what to do about it.
func (a *app) report(err error) {
	var quiet *failed
	if errors.As(err, &quiet) && quiet.msg == "" {
		return
	}
	var told interface{ Quiet() bool }
	if errors.As(err, &told) && told.Quiet() {
		return
	}
	var chain *delivery.Error
	if errors.As(err, &chain) {
		chain.Write(a.Stderr)
		return
	}
	msg, hint := err.Error(), ""
	var ours *waybill.Error
	var theirs *client.Error
	switch {
	case errors.As(err, &theirs):
		hint = theirs.Hint
		for _, p := range theirs.Problems {
			fmt.Fprintln(a.Stderr, problemLine(p))
		}
		if n := len(theirs.Problems); n > 0 {
			msg = found(n) // the detail tells them once more
		}
		if theirs.Kind == waybill.KindInternal && theirs.RequestID != "" && hint == "" {
			hint = "look in the server's log for request " + theirs.RequestID
		}
	case errors.As(err, &ours):
		hint = ours.Hint
	case errors.Is(err, context.Canceled):
		msg = "interrupted"
	}
	if !a.parsed && hint == "" {
		hint = "see waybill --help"
	}
	// An error may list several problems, one a line.
	for line := range strings.Lines(msg) {
		fmt.Fprintf(a.Stderr, "waybill: error: %s\n", clean(strings.TrimSuffix(line, "\n")))
	}
	if hint != "" {
		fmt.Fprintf(a.Stderr, "waybill: hint: %s\n", clean(hint))
	}
}

// note tells something that is neither result nor error.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "waybill: %s\n", clean(fmt.Sprintf(format, args...)))
}

// assignments reads NAME=VALUE words. Values are strings; the server reads them
// as the declared type.
func assignments(words []string) (waybill.Vars, error) {
	var vars waybill.Vars
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return vars, usage("%q is not NAME=VALUE", w)
		}
		if err := waybill.CheckName(name); err != nil {
			return vars, usage("%v", err)
		}
		if _, twice := vars.Get(name); twice {
			return vars, usage("%s is given twice", name)
		}
		vars.Set(name, waybill.StringValue(value))
	}
	return vars, nil
}
