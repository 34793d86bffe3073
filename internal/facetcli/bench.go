package facetcli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facetbench"
)

// bench is what "bench" is told.
type bench struct {
	docs     []int
	rounds   int
	check    string
	lucene   string
	recorded string
	record   string
	plot     string
	keep     string

	cmd  *cobra.Command
	plan []facetbench.Query
	dir  string
}

func (d Deps) benchCommand() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the engine on generated documents, and Lucene beside it",
		Long: `Measure the engine on generated documents: how long an index of them takes to build, and
how long queries of each class take, of the wall clock and of the processors. Every
answer is compared with one that was found without an index.

With --lucene DIR, the folder bench/lucene of the source tree, Lucene indexes the same
documents and answers the same queries in the same run. Figures that were recorded
before are compared with. The command fails when a figure misses what is promised.`,
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.cmd = cmd
			return b.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&b.docs, "docs", []int{100_000, 1_000_000}, "numbers of documents to measure at")
	f.IntVar(&b.rounds, "rounds", 10, "how often each query is asked")
	f.StringVar(&b.check, "check", "auto", "yes, no or auto: compare every answer with the oracle (auto: up to a million documents)")
	f.StringVar(&b.lucene, "lucene", "", "`DIR` with run.sh, to measure Lucene too")
	f.StringVar(&b.recorded, "recorded", "docs/performance-facet.json", "`FILE` with figures to compare with")
	f.StringVar(&b.record, "record", "", "`FILE` to record these figures in")
	f.StringVar(&b.plot, "plot", "", "`FILE` to draw cost over documents in, as SVG")
	f.StringVar(&b.keep, "keep", "", "`DIR` for the indexes, which are kept there and used again")
	return cmd
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.rounds < 1 || len(b.docs) == 0 {
		return invalid("at least one round and one number of documents are needed")
	}
	b.dir = b.keep
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "waybill-facet-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
	}
	b.plan = facetbench.NewPlan()
	var reports []facetbench.Report
	for _, n := range b.docs {
		if n < 20_000 {
			return invalid("%d documents are too few to measure, 20,000 is the least", n)
		}
		r, err := b.measure(ctx, n)
		if err != nil {
			return err
		}
		reports = append(reports, r)
	}
	recorded, err := b.readRecorded()
	if err != nil {
		return err
	}
	if b.record != "" {
		if err := writeJSON(b.record, reports); err != nil {
			return err
		}
	}
	if b.plot != "" {
		if err := os.WriteFile(b.plot, facetbench.Plot(reports), 0o644); err != nil {
			return err
		}
	}
	if asJSON(b.cmd) {
		return printJSON(b.cmd.OutOrStdout(), reports)
	}
	missed := facetbench.Print(b.cmd.OutOrStdout(), reports, recorded)
	if missed > 0 {
		return fmt.Errorf("%s missed", plural(missed, "bar is", "bars are"))
	}
	return nil
}

func writeJSON(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func (b *bench) readRecorded() (r []facetbench.Report, err error) {
	text, err := os.ReadFile(b.recorded)
	if os.IsNotExist(err) && !b.cmd.Flags().Changed("recorded") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", b.recorded, err)
	}
	return r, nil
}

func (b *bench) tell(format string, args ...any) { note(b.cmd, format, args...) }

// measure measures at one number of documents.
func (b *bench) measure(ctx context.Context, n int) (r facetbench.Report, err error) {
	r.Docs = n
	dir := filepath.Join(b.dir, strconv.Itoa(n))
	there, err := hasIndex(dir)
	if err != nil {
		return r, err
	}
	if !there {
		b.tell("%s: building the index", thousands(n))
		if r.Build, err = b.build(ctx, dir, n); err != nil {
			return r, err
		}
	}
	var want []string
	if b.check == "yes" || b.check == "auto" && n <= 1_000_000 {
		b.tell("%s: looking for the right answers", thousands(n))
		want = facetbench.Answers(b.plan, n, runtime.GOMAXPROCS(0))
	}
	if err := b.ask(ctx, dir, want, &r); err != nil {
		return r, err
	}
	if b.lucene != "" {
		b.tell("%s: Lucene", thousands(n))
		r.Lucene, err = b.runLucene(ctx, n, want)
	}
	return r, err
}

// build makes the index as a user would, in a process of its own.
func (b *bench) build(ctx context.Context, dir string, n int) (f facetbench.BuildFigures, err error) {
	schema := dir + ".schema"
	if err := writeJSON(schema, facetbench.Schema()); err != nil {
		return f, err
	}
	exe, err := os.Executable()
	if err != nil {
		return f, err
	}
	cmd := exec.CommandContext(ctx, exe, "facet", "build", dir, "--schema", schema)
	cmd.Stderr = b.cmd.ErrOrStderr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return f, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return f, err
	}
	stop := make(chan struct{})
	most := make(chan int64)
	go func() { most <- watchMemory(cmd.Process.Pid, stop) }()
	werr := writeDocuments(in, n, func(d *facetbench.Document, line []byte) []byte { return append(d.AppendJSON(line), '\n') })
	err = cmd.Wait()
	f.Wall = time.Since(start)
	close(stop)
	f.Memory = <-most
	if err != nil {
		return f, fmt.Errorf("build the index: %w", err)
	}
	f.CPU, f.RSS = childUsage(cmd.ProcessState)
	return f, werr
}

func writeDocuments(w io.WriteCloser, n int, format func(*facetbench.Document, []byte) []byte) error {
	out := bufio.NewWriterSize(w, 1<<20)
	var line []byte
	for d := range facetbench.Documents(n) {
		line = format(d, line[:0])
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return w.Close()
}

// watchMemory returns the most memory that a process had that is no file's, where that
// can be seen.
func watchMemory(pid int, stop <-chan struct{}) (most int64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil {
			for line := range strings.Lines(string(text)) {
				if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
					kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
					if err == nil {
						most = max(most, kb<<10)
					}
				}
			}
		}
		select {
		case <-stop:
			return most
		case <-tick.C:
		}
	}
}

// timed measures f.
func timed(f func() error) (s facetbench.Sample, err error) {
	cpu, wall := cpuTime(), time.Now()
	err = f()
	return facetbench.Sample{Wall: time.Since(wall), CPU: cpuTime() - cpu}, err
}

// ask measures queries, then updates.
func (b *bench) ask(ctx context.Context, dir string, want []string, r *facetbench.Report) (err error) {
	var opens []facetbench.Sample
	var x *facet.Engine
	for range 5 {
		if x != nil {
			if err := x.Close(); err != nil {
				return err
			}
		}
		s, err := timed(func() (err error) {
			x, err = facet.Open(dir, facet.Schema{}, facet.Options{ScrubEvery: -1})
			return err
		})
		if err != nil {
			return err
		}
		opens = append(opens, s)
	}
	defer closing(x, &err)
	r.Open = facetbench.Summarize(opens)
	if err := b.settle(ctx, x); err != nil {
		return err
	}
	if err := x.Compact(ctx); err != nil { // one segment, as Lucene has
		return err
	}
	st, err := x.Stats()
	if err != nil {
		return err
	}
	if st.Docs != r.Docs {
		return fmt.Errorf("%s holds %d documents, want %d", dir, st.Docs, r.Docs)
	}
	source := st.Parts["source"]
	r.IndexBytes, r.DocBytes = float64(st.Bytes-source)/float64(st.Docs), float64(source)/float64(st.Docs)
	b.tell("%s: %s", thousands(r.Docs), plural(len(st.Segments), "segment", "segments"))

	samples := map[facetbench.Class][]facetbench.Sample{}
	for round := -1; round < b.rounds; round++ { // the first one warms up, and is checked
		for i := range b.plan {
			q := b.plan[i].Facet()
			var res facet.Result
			s, err := timed(func() (err error) {
				res, err = x.Search(ctx, q)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", b.plan[i].Name, err)
			}
			if round < 0 && want != nil {
				if err := facetbench.Check(&b.plan[i], want[i], facetbench.ResultDigest(res)); err != nil {
					return err
				}
				r.Checked++
			}
			if round >= 0 {
				samples[b.plan[i].Class] = append(samples[b.plan[i].Class], s)
			}
		}
	}
	r.Classes = map[facetbench.Class]facetbench.Figures{}
	for c, s := range samples {
		r.Classes[c] = facetbench.Summarize(s)
	}
	return b.update(ctx, x, want, r)
}

// settle waits until merging has nothing more to do, so that queries are measured and
// not merges.
func (b *bench) settle(ctx context.Context, x *facet.Engine) error {
	for quiet := 0; quiet < 5; {
		st, err := x.Stats()
		if err != nil {
			return err
		}
		if quiet++; st.Merging {
			quiet = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// updates is how often a thousand documents are written again.
const updates = 20

// update measures writing documents again, from JSON until they are durable and
// visible, with and without the decoding.
func (b *bench) update(ctx context.Context, x *facet.Engine, want []string, r *facetbench.Report) error {
	seq, err := x.Applied(ctx)
	if err != nil {
		return err
	}
	var lines [][]byte
	for d := range facetbench.Documents(updates * 1000) {
		lines = append(lines, d.AppendJSON(nil))
	}
	dec := facet.NewDecoder(x.Schema(), "id")
	var samples, applied []facetbench.Sample
	for i := range updates {
		seq++
		batch := facet.Batch{Seq: seq}
		decode, err := timed(func() error {
			for _, l := range lines[i*1000 : (i+1)*1000] {
				d, err := dec.Decode(l)
				if err != nil {
					return err
				}
				batch.Put = append(batch.Put, d)
			}
			return nil
		})
		if err != nil {
			return err
		}
		apply, err := timed(func() error {
			_, err := x.Apply(ctx, batch)
			return err
		})
		if err != nil {
			return err
		}
		applied = append(applied, apply)
		samples = append(samples, facetbench.Sample{Wall: decode.Wall + apply.Wall, CPU: decode.CPU + apply.CPU})
	}
	r.Update, r.Apply = facetbench.Summarize(samples), facetbench.Summarize(applied)
	if n, err := documents(ctx, x); err != nil || n != r.Docs {
		return fmt.Errorf("after updates the index holds %d documents, want %d: %w", n, r.Docs, err)
	}
	// The documents are as they were, but now in many segments and with deletions.
	for i := range want {
		res, err := x.Search(ctx, b.plan[i].Facet())
		if err == nil {
			err = facetbench.Check(&b.plan[i], want[i], facetbench.ResultDigest(res))
		}
		if err != nil {
			return fmt.Errorf("after updates: %w", err)
		}
		r.Checked++
	}
	return nil
}

// runLucene measures Lucene. Its answers have to be ours.
func (b *bench) runLucene(ctx context.Context, n int, want []string) (_ *facetbench.LuceneReport, err error) {
	dir, err := os.MkdirTemp(b.dir, "lucene-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	planFile := filepath.Join(dir, "plan")
	f, err := os.Create(planFile)
	if err != nil {
		return nil, err
	}
	if err := facetbench.WritePlan(f, b.plan); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.lucene, "run.sh"), planFile, filepath.Join(dir, "index"), strconv.Itoa(max(b.rounds/2, 3)))
	cmd.Stderr = b.cmd.ErrOrStderr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	wrote := make(chan error, 1)
	go func() {
		wrote <- writeDocuments(in, n, func(d *facetbench.Document, line []byte) []byte { return d.AppendLine(line) })
	}()
	r, err := facetbench.ReadLucene(out, b.plan, want)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	werr := <-wrote
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("measure Lucene: %w", err)
	}
	if werr != nil {
		return nil, werr
	}
	_, r.Build.RSS = childUsage(cmd.ProcessState)
	return r, nil
}
