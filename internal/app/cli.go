package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/demo"
	"github.com/waybill-run/waybill/internal/facetcli"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/runner"
	httprunner "github.com/waybill-run/waybill/internal/runner/http"
	"github.com/waybill-run/waybill/internal/runner/process"
	"github.com/waybill-run/waybill/internal/runner/sim"
)

// version is set when the program is built for release.
var version = "dev"

func buildVersion() httpd.Version {
	v := httpd.Version{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	return v
}

// CLI is what the command line needs from the program: the commands that work on
// this machine instead of talking to a server.
func CLI() cli.Deps {
	return cli.Deps{
		Version:  client.Version(buildVersion()),
		Commands: []*cobra.Command{upCommand(), backupCommand(), restoreCommand(), storeCommand(), doctorCommand(), loadtestCommand(), schemaCommand(), demo.Command(startDemo), facetcli.Command(facetcli.Deps{}), superviseCommand(), insideProcess(os.Exit)},
		Validate: validate, PipelineCommands: []*cobra.Command{pipelineTestCommand()},
		Doubts:        doubts,
		Legacy:        readLegacy,
		ImageCommands: []*cobra.Command{imagePackCommand()}, OpenImages: openImages,
		OpenTokens: func(ctx context.Context, data string) (waybill.Tokens, io.Closer, error) {
			t, closer, err := OpenTokens(ctx, data, os.Getenv("WAYBILL_STORE"))
			return t, closeFunc(closer), err
		},
		OpenSecrets: func(ctx context.Context, data, keyFile string) (waybill.Secrets, io.Closer, error) {
			s, closer, err := OpenSecrets(ctx, data, os.Getenv("WAYBILL_STORE"), keyFile)
			return s, closeFunc(closer), err
		},
	}
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// serverFlags are those of every command that runs a server.
func serverFlags(cmd *cobra.Command, c *Config) {
	f := cmd.Flags()
	f.StringVar(&c.Listen, "listen", "127.0.0.1:4040", "address to serve on; port 0 picks a free one")
	f.StringVar(&c.Store, "store", envOr("WAYBILL_STORE", "sqlite"), "sqlite, or a postgres:// URL (WAYBILL_STORE)")
	f.StringVar(&c.Blobs, "blobs", "", "folder of objects and logs (default: in the data directory); servers with one store share it")
	f.StringVar(&c.SecretKeyFile, "secret-key-file", "", "file with the age key of the store's secrets (or WAYBILL_SECRET_KEY; default: a key of its own in the data directory)")
	f.StringVar(&c.TLSCert, "tls-cert", "", "file with the certificate to serve with")
	f.StringVar(&c.TLSKey, "tls-key", "", "file with the certificate's key")
	f.StringSliceVar(&c.Hosts, "host", nil, "further host `name` by which clients may call; repeatable")
	f.StringVar(&c.URL, "url", "", "address by which units call back (default: the one served on)")
	f.StringVar(&c.CallbackListen, "callback-listen", "auto", "address at which containers of this machine call back, and which serves nothing else: host:port, auto (on their network), or none")
	f.StringVar(&c.PublicURL, "public-url", "", "address by which units on other machines call back")
	f.IntVar(&c.Units, "max-units", 0, "units at once (default: the project's units.max, or 16)")
	f.DurationVar(&c.Lease, "lease", 0, "how long this server may be silent before others take over its work (default 15s)")
	f.Lookup("lease").Hidden = true // shorter is for tests, longer for nobody
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func upCommand() *cobra.Command {
	var c Config
	var level, format string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a server",
		Long: `Run a server: the API, the runs and their units.

On a loopback address no login is needed. On any other the server refuses to start until there
is an API token; make the first one with "waybill token create --role admin --data DIR". Or
waybill.yaml names an identity provider (auth.oidc) whose tokens the server takes.

SIGTERM and SIGINT end it in order. Units go on and are taken up at the next start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Known = &mask.Known{}
			logger, err := newLogger(c.Known.Writer(cmd.ErrOrStderr()), level, format)
			if err != nil {
				return err
			}
			if (c.TLSCert == "") != (c.TLSKey == "") {
				return waybill.E(waybill.KindInvalid, "--tls-cert and --tls-key go together").WithOp("start server", "")
			}
			if c.Lease != 0 && c.Lease < 500*time.Millisecond {
				return waybill.E(waybill.KindInvalid, "--lease %s is shorter than 500ms", c.Lease).WithOp("start server", "")
			}
			if c.Project, err = filepath.Abs(c.Project); err != nil {
				return err
			}
			if err := fault.Arm(os.Getenv(fault.Variable)); err != nil {
				return err
			}
			c.Logger, c.Version = logger, buildVersion()
			if c.Supervisor, err = supervisor(); err != nil {
				return err
			}
			c.Ready = func(url string) { fmt.Fprintf(cmd.ErrOrStderr(), "waybill: serving on %s\n", url) }
			tuneMemory()
			return Run(cmd.Context(), c)
		},
	}
	serverFlags(cmd, &c)
	cmd.Flags().StringVar(&c.Project, "project", ".", "project folder: waybill.yaml and pipelines/*.yaml")
	cmd.Flags().StringVar(&c.Data, "data", ".waybill", "data directory")
	cmd.Flags().StringVar(&level, "log-level", envOr("WAYBILL_LOG_LEVEL", "info"), "debug, info, warn or error")
	cmd.Flags().StringVar(&format, "log-format", envOr("WAYBILL_LOG_FORMAT", "text"), "text or json")
	return cmd
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, waybill.E(waybill.KindInvalid, "log level %q: want debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, waybill.E(waybill.KindInvalid, "log format %q: want text or json", format)
}

// supervisor is the command by which this program runs as a supervisor.
func supervisor() ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []string{exe, "supervise", "--dir"}, nil
}

func superviseCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    "supervise",
		Short:  "Keep the processes of a server (started by the server itself)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			err := process.Supervise(cmd.Context(), dir, process.SupervisorOptions{Logger: logger})
			if waybill.IsKind(err, waybill.KindConflict) {
				return nil // another one was faster
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the supervisor")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag was just made
	}
	return cmd
}

// localRunners can check steps without a server.
func localRunners() map[string]runner.Runner {
	all := map[string]runner.Runner{"process": &process.Runner{}, "sim": sim.New(sim.Options{}), "http": httprunner.New(httprunner.Options{})}
	for _, p := range platforms {
		all[p.name] = p.check()
	}
	return all
}
