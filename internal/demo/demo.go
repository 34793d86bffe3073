// Package demo is the command "waybill demo": a server on an example project in
// a temporary folder, files that arrive in it, and a running account of what
// becomes of them.
package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/examples/tour"
)

// Setup is what a server is started with.
type Setup struct {
	Project string // project folder
	Data    string // data directory
	Listen  string
	Log     io.Writer // what the server logs
}

// Server is a running server.
type Server interface {
	URL() string
	Stop() error
}

// Start starts a server.
type Start func(ctx context.Context, s Setup) (Server, error)

// Names in the example project.
const (
	inbox   = "inbox"
	results = "results"
	ingest  = "ingest"
	report  = "sales-report"
	seed    = 1
)

// Command returns the command "demo".
func Command(start Start) *cobra.Command {
	d := demo{start: start}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run an example with a server of its own",
		Long: `Run an example with a server of its own: order files arrive, each is checked, split, summed up and
published by a pipeline, and a second pipeline ranks what all of them sold.

Everything is in a temporary folder that is removed at the end, unless --data names another.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out = newAccount(cmd.OutOrStdout())
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&d.once, "once", false, "end when all is done; fail if a run did not succeed")
	cmd.Flags().StringVar(&d.listen, "listen", "127.0.0.1:4040", "address to serve on; port 0 picks a free one")
	cmd.Flags().StringVar(&d.dir, "data", "", "folder to work in, which is kept (default: a temporary one)")
	return cmd
}

// demo is one run of the command.
type demo struct {
	start  Start
	once   bool
	listen string
	dir    string
	out    *account
	c      *client.Client
}

func (d *demo) run(ctx context.Context) (err error) {
	keep := d.dir != ""
	if keep {
		if d.dir, err = filepath.Abs(d.dir); err != nil {
			return err
		}
	} else if d.dir, err = os.MkdirTemp("", "waybill-demo-"); err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, remove(d.dir)) }()
	}
	set := Setup{Project: filepath.Join(d.dir, "project"), Data: filepath.Join(d.dir, "data"), Listen: d.listen}
	if err := lay(set.Project); err != nil {
		return fmt.Errorf("copy the example project: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // its last line was written by the server's stop
	set.Log = log
	server, err := d.start(ctx, set)
	if errors.Is(err, syscall.EADDRINUSE) {
		return waybill.E(waybill.KindUnavailable, "the address %s is in use", d.listen).
			WithHint("choose another with --listen, for example: waybill demo --listen 127.0.0.1:0")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if d.c, err = client.New(client.Options{Server: server.URL()}); err != nil {
		return err
	}
	d.out.title("Waybill demo")
	d.out.facts("server", server.URL(), "project", set.Project, "log", log.Name())

	samples := Samples(seed)
	if err := d.show(ctx, samples); err != nil {
		return err
	}
	if d.once {
		if keep {
			d.out.title("To look around")
			d.out.commands("waybill up --project " + quote(set.Project) + " --data " + quote(set.Data))
		}
		return nil
	}
	d.hints(ctx, server.URL(), samples[0])
	d.out.text("The server goes on. Ctrl-C ends it.")
	<-ctx.Done()
	if keep {
		d.out.text("Stopped. All of it is kept in %s", d.dir)
	} else {
		d.out.text("Stopped. The folder is removed.")
	}
	return nil
}

// remove removes the folder. What was started there may still put away its last
// things.
func remove(dir string) error {
	var err error
	for range 20 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// lay copies the example project, unless it is there from another time: somebody
// may have changed it.
func lay(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "waybill.yaml")); err == nil {
		return nil
	}
	return fs.WalkDir(tour.Files, ".", func(name string, e fs.DirEntry, err error) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(path, 0o755)
		}
		b, err := tour.Files.ReadFile(name)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if bytes.HasPrefix(b, []byte("#!")) {
			mode = 0o755
		}
		return os.WriteFile(path, b, mode)
	})
}

// show lets the files arrive and tells what becomes of them.
func (d *demo) show(ctx context.Context, samples []Sample) error {
	d.out.title("%d files arrive in the bucket %s, and each starts the pipeline %s", len(samples), inbox, ingest)
	w := watcher{c: d.c, out: d.out, ours: map[string]string{}, told: map[string]bool{}}
	for _, s := range samples {
		o, err := d.c.PutObject(ctx, inbox, s.Key, "text/csv", bytes.NewReader(s.Content))
		if err != nil {
			return fmt.Errorf("put %s: %w", s.Key, err)
		}
		d.out.event("arrived", stem(s.Key), "%s rows, %s", count(int64(bytes.Count(s.Content, []byte("\n"))-1)), size(o.Size))
		w.ours[o.Version] = stem(s.Key)
	}
	if err := w.watch(ctx, ingest, len(samples)); err != nil {
		return err
	}

	d.out.title("The pipeline %s is started over HTTP", report)
	run, err := d.c.StartRun(ctx, report, client.StartRun{}, "")
	if err != nil {
		return fmt.Errorf("start %s: %w", report, err)
	}
	w.ours = map[string]string{run.ID: report}
	if err := w.watch(ctx, report, 1); err != nil {
		return err
	}
	if w.failed > 0 {
		return waybill.E(waybill.KindInternal, "%d of %d runs did not succeed", w.failed, len(samples)+1).
			WithHint("with --data DIR everything is kept to be looked at")
	}

	const key = "reports/sales-all.txt"
	d.out.title("What it published: %s/%s", results, key)
	in, err := d.c.Object(ctx, results, key, "")
	if err != nil {
		return fmt.Errorf("get the report: %w", err)
	}
	defer in.Close() // it was only read
	lines := bufio.NewScanner(in)
	for n := 0; n < 20 && lines.Scan(); n++ {
		d.out.quote(lines.Text())
	}
	return lines.Err()
}

// hints prints commands that show more.
func (d *demo) hints(ctx context.Context, url string, one Sample) {
	d.out.title("To look closer, in another terminal")
	var all []string
	if line := onPath(); line != "" {
		all = append(all, line)
	}
	if url != client.DefaultServer {
		all = append(all, "export WAYBILL_SERVER="+url)
	}
	id := "ID"
	if l, err := d.c.Runs(ctx, client.ListRunsParams{Pipeline: ingest, Limit: 1}); err == nil && len(l.Items) > 0 {
		id = l.Items[0].ID
	}
	d.out.commands(append(all,
		"waybill run list",
		"waybill run show "+id,
		"waybill run logs "+id,
		"waybill object list "+results,
		"waybill object get "+results+" reports/"+stem(one.Key)+".txt",
		"waybill start "+report+" --param region=north --wait",
		"waybill queue list",
		"curl -s "+quote(url+"/api/v1/runs?limit=2"),
	)...)
}

// onPath is the line that makes the commands below it work in a shell that does not
// find the program by its name; empty when it does.
func onPath() string {
	if _, err := exec.LookPath("waybill"); err == nil {
		return ""
	}
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	dir := filepath.Dir(exe)
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, dir); err == nil && filepath.IsLocal(rel) {
			return `export PATH="$PWD/` + rel + `:$PATH"`
		}
	}
	return "export PATH=" + quote(dir) + ":$PATH"
}

// watcher tells of runs as they go on.
type watcher struct {
	c      *client.Client
	out    *account
	ours   map[string]string // version of an object, or id of a run → what to call it
	told   map[string]bool   // run/step and run
	failed int
	news   time.Time // when there last was something to tell
}

const (
	pace     = 60 * time.Millisecond // how often runs are looked at
	patience = 2 * time.Minute       // how long nothing may happen
)

// watch tells of the runs that are ours until so many have ended.
func (w *watcher) watch(ctx context.Context, pipeline string, n int) error {
	ended := map[string]bool{}
	w.news = time.Now()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for len(ended) < n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		l, err := w.c.Runs(ctx, client.ListRunsParams{Pipeline: pipeline, Limit: 100})
		if err != nil {
			return fmt.Errorf("list runs: %w", err)
		}
		for _, r := range slices.Backward(l.Items) { // oldest first
			name := w.ours[r.ID]
			if name == "" {
				name = w.ours[r.Event.Object.Version]
			}
			if name == "" || ended[r.ID] {
				continue
			}
			detail, err := w.c.Run(ctx, r.ID)
			if err != nil {
				return fmt.Errorf("look at run %s: %w", r.ID, err)
			}
			if w.tell(name, detail) {
				ended[r.ID] = true
			}
		}
		if time.Since(w.news) > patience {
			return waybill.E(waybill.KindUnavailable, "nothing has happened for %s; %d of %d runs have ended", patience, len(ended), n).
				WithHint("what went wrong may stand in the server's log; with --data DIR it is kept")
		}
	}
	return nil
}

// tell says what is new about a run, and reports whether it has ended.
func (w *watcher) tell(name string, r client.RunDetail) bool {
	if !w.told[r.ID] {
		w.told[r.ID], w.news = true, time.Now()
		w.out.event("started", name, "run %s", r.ID)
	}
	for _, s := range r.Steps {
		if key := r.ID + "/" + s.Name; s.Status.Terminal() && !s.StartedAt.IsZero() && !w.told[key] {
			w.told[key], w.news = true, time.Now()
			if s.Status == waybill.StatusSucceeded {
				w.out.event(s.Name, name, "%s", figures(s))
			} else {
				w.out.failed(s.Name, name, strings.ReplaceAll(string(s.Status), "_", " ")+": "+s.Error)
			}
		}
	}
	if !r.Status.Terminal() {
		return false
	}
	if r.Status != waybill.StatusSucceeded {
		w.failed++
		w.out.failed(string(r.Status), name, r.Error)
	}
	return true
}

// figures is what a step of the example project returned, in words.
func figures(s client.Step) string {
	get := func(name string) string {
		v, _ := s.Outputs.Get(name)
		return v.Text()
	}
	number := func(name string) string { return thousands(get(name)) }
	switch s.Name {
	case "check":
		return fmt.Sprintf("%s good rows, %s refused", number("rows"), number("bad"))
	case "split":
		return fmt.Sprintf("%s sales, %s returns", number("sales"), number("returns"))
	case "sum", "rank":
		return number("revenue") + " EUR"
	case "collect":
		return number("files") + " summaries"
	case "publish":
		return get("published")
	}
	return string(s.Status)
}

// stem is the name of a file without its ending.
func stem(key string) string { return strings.TrimSuffix(key, ".csv") }
