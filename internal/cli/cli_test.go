package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/httpd/httpdtest"
)

// now is the time of scripts, for the server and the commands alike.
func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// The test binary is the command line when scripts call it waybill.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"waybill": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(cli.Run(ctx, cli.Deps{
			Version:  client.Version{Version: "v1.2.3", Go: "go1", Platform: "linux/amd64"},
			Validate: validate,
			Now:      now,
			OpenTokens: func(_ context.Context, data string) (waybill.Tokens, io.Closer, error) {
				if _, err := os.Stat(data); err != nil {
					return nil, nil, waybill.E(waybill.KindNotFound, "there is no data folder %s", data)
				}
				return httpdtest.New(time.Now).Services().Tokens, io.NopCloser(nil), nil
			},
			Commands: []*cobra.Command{{Use: "up", Short: "Run a server", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
				return waybill.E(waybill.KindConflict, "the address is taken").WithOp("listen", "127.0.0.1:4040").WithHint("choose another with --listen")
			}}},
		}, os.Args[1:]))
	}})
}

func validate(path string) ([]client.SourceProblem, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte("name:")) {
		return []client.SourceProblem{{File: path, Line: 3, Column: 7, Msg: "unknown key \x1bstep", Hint: "did you mean steps?"}}, nil
	}
	return nil, nil
}

func TestScripts(t *testing.T) {
	t.Parallel()
	type world struct {
		*httpdtest.World
		server *httpd.Server
	}
	of := func(ts *testscript.TestScript) world { return ts.Value("world").(world) }
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			w := world{httpdtest.New(now), httpd.New(httpd.Options{Logger: slog.New(slog.DiscardHandler), Loopback: true, Problems: httpdtest.Problems,
				Version: httpd.Version{Version: "v9", Go: "go1", Platform: "linux/amd64"}})}
			w.server.SetReady(w.Services())
			w.Attempts["unit-token"] = "run-1/greet/1"
			s := httptest.NewServer(w.server.Handler())
			e.Defer(func() { w.server.Drain(); s.Close() })
			e.Values["world"] = w
			e.Setenv("WAYBILL_SERVER", s.URL)
			e.Setenv("SERVER", s.URL)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // with -race, each command would take a second to exit
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// started waits until a run is there.
			"started": func(ts *testscript.TestScript, _ bool, args []string) {
				for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
					there := false
					of(ts).Do(func() { _, there = of(ts).Details[args[0]] })
					if there {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("run %s does not start", args[0])
					}
				}
			},
			"end": func(ts *testscript.TestScript, _ bool, args []string) { of(ts).End(args[0], waybill.Status(args[1])) },
			"log": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).Write(args[0], args[1], strings.NewReplacer(`\n`, "\n", `\e`, "\x1b").Replace(args[2]))
			},
			// exits runs a command that ends with a code.
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				var exit *exec.ExitError
				if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
					ts.Fatalf("ended with %v, want exit code %s", err, args[0])
				}
			},
			"drain": func(ts *testscript.TestScript, _ bool, _ []string) { of(ts).server.Drain() },
			"stop-unit": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).Do(func() { of(ts).Stop[args[0]] = true })
			},
		},
	})
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// On a terminal the steps are drawn over, and an interrupt leaves the run going.
func TestWaitOnATerminal(t *testing.T) {
	t.Parallel()
	w := httpdtest.New(time.Now)
	server := httpd.New(httpd.Options{Logger: slog.New(slog.DiscardHandler), Loopback: true})
	server.SetReady(w.Services())
	ts := httptest.NewServer(server.Handler())
	t.Cleanup(func() { server.Drain(); ts.Close() })
	run := func(ctx context.Context, out, errs io.Writer, args ...string) int {
		return cli.Run(ctx, cli.Deps{Stdin: strings.NewReader(""), Stdout: out, Stderr: errs, Terminal: func(io.Writer) bool { return true },
			Getenv: func(string) string { return "" }}, append(args, "--server", ts.URL))
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no %s", what)
			}
		}
	}
	var out, errs buffer
	code := make(chan int, 1)
	go func() { code <- run(t.Context(), &out, &errs, "start", "hello", "--wait") }()
	until("live line", func() bool { return strings.Contains(errs.String(), "greet  running") })
	w.End("run-1", waybill.StatusSucceeded)
	if c := <-code; c != 0 || !strings.HasPrefix(out.String(), "run-1\tsucceeded") {
		t.Errorf("exit %d, %q", c, out.String())
	}
	if !strings.Contains(errs.String(), "\x1b[1A\x1b[2Kgreet  succeeded") {
		t.Errorf("the line is not drawn over: %q", errs.String())
	}

	ctx, interrupt := context.WithCancel(t.Context())
	var out2, errs2 buffer
	go func() { code <- run(ctx, &out2, &errs2, "start", "hello", "--wait") }()
	until("live line", func() bool { return strings.Contains(errs2.String(), "greet  running") })
	interrupt()
	if c := <-code; c != 1 || !strings.Contains(errs2.String(), "run run-2 goes on") || out2.String() != "" {
		t.Errorf("exit %d, %q", c, errs2.String())
	}
	w.Do(func() {
		if w.Details["run-2"].CancelBy != "" {
			t.Error("the interrupt canceled the run")
		}
	})
	var list buffer
	if c := run(t.Context(), &list, io.Discard, "run", "list"); c != 0 || !strings.Contains(list.String(), " ago") {
		t.Errorf("times are not relative: %s", list.String())
	}
}

func TestBrokenOutputIsAFailure(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	r.CloseWithError(errors.New("broken pipe"))
	if c := cli.Run(t.Context(), cli.Deps{Stdout: w, Stderr: io.Discard, Getenv: func(string) string { return "" }}, []string{"version"}); c != 1 {
		t.Errorf("exit %d", c)
	}
}
