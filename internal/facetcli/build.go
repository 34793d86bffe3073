package facetcli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/waybill-run/waybill/facet"
)

// build is what "build" is told, and how far it has come.
type build struct {
	schemaFile, id string
	skip, remove   bool
	sample, batch  int

	cmd      *cobra.Command
	head     []line // read already, to guess the schema
	in       *input
	index    facet.Index
	seq      facet.Seq
	docs     int
	skipped  int
	started  time.Time
	told     time.Time
	progress bool
}

func (d Deps) buildCommand() *cobra.Command {
	var b build
	cmd := &cobra.Command{
		Use:   "build INDEX [FILE...]",
		Short: "Put JSON lines into an index, which is made if need be",
		Long: `Put JSON lines into an index: one document a line, from the files (also .gz) or from
standard input. An index that is not there is made; documents of an id that is there
are replaced. In a folder all documents become durable and visible together at the end, so a
build that is interrupted or fails changes nothing; elsewhere they do so in batches, and
the same command can be repeated.

The schema is guessed from the first documents unless --schema gives one. "waybill facet
schema" prints the guess, to be edited. Fields inside of objects are called a.b.`,
		Example: `  waybill facet build films films.jsonl --id title
  zcat events.gz | waybill facet build events
  waybill facet build films more.jsonl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b.cmd = cmd
			b.progress = d.Width(cmd.ErrOrStderr()) > 0
			return b.run(cmd.Context(), args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.StringVar(&b.schemaFile, "schema", "", "`FILE` with the schema of a new index, as JSON")
	f.StringVar(&b.id, "id", "id", "`NAME` under which documents have their id")
	f.IntVar(&b.sample, "sample", 10_000, "documents to guess the schema from")
	f.IntVar(&b.batch, "batch", 20_000, "documents of a batch, where the index is not in a folder")
	f.BoolVar(&b.skip, "skip-bad", false, "pass over lines that are no documents, and say how many")
	f.BoolVar(&b.remove, "delete", false, "remove the documents of these ids instead; nothing else of a line counts")
	return cmd
}

func (b *build) run(ctx context.Context, place string, files []string) (err error) {
	if b.batch < 1 || b.batch > facet.DefaultLimits().Batch || b.sample < 1 {
		return invalid("a batch has 1 to %d documents, a sample 1 or more", facet.DefaultLimits().Batch)
	}
	if len(files) == 0 {
		files = []string{"-"}
	}
	b.in = &input{files: files, stdin: b.cmd.InOrStdin()}
	b.started = time.Now()
	if b.index, err = b.open(ctx, place); err != nil {
		return err
	}
	defer closing(b.index, &err)
	if b.seq, err = b.index.Applied(ctx); err != nil {
		return err
	}
	if err := b.feed(ctx); err != nil {
		if b.docs > 0 {
			note(b.cmd, "%s before that are in the index", plural(b.docs, "document", "documents"))
		}
		return err
	}
	return b.report(ctx, place)
}

// open opens the index, or makes one with the schema of the file, or with one guessed
// from the first lines.
func (b *build) open(ctx context.Context, place string) (facet.Index, error) {
	if b.schemaFile != "" {
		s, err := readSchema(b.schemaFile)
		if err != nil {
			return nil, err
		}
		return open(ctx, place, s, true)
	}
	x, err := open(ctx, place, facet.Schema{}, true)
	if !absent(err) || b.remove {
		return x, err
	}
	s, err := b.guess()
	if err != nil {
		return nil, err
	}
	return open(ctx, place, s, true)
}

// guess reads the first lines and guesses their schema.
func (b *build) guess() (facet.Schema, error) {
	g := newInference(b.id)
	for len(b.head) < b.sample {
		l, err := b.in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return facet.Schema{}, err
		}
		if err := g.see(l.text); err != nil && !b.skip {
			return facet.Schema{}, fmt.Errorf("%s:%d: %w", l.file, l.no, err)
		}
		b.head = append(b.head, l)
	}
	s, left := g.schema()
	if len(s.Fields) == 0 {
		return s, invalid("no field can be told from %s", plural(len(b.head), "line", "lines")).WithHint("give documents as JSON objects, one a line, or a schema by --schema")
	}
	if len(left) > 0 {
		note(b.cmd, "not indexed, but kept in the documents: %s", strings.Join(left, ", "))
	}
	return s, nil
}

func readSchema(file string) (s facet.Schema, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, invalid("%s: %v", file, err).WithHint(`a schema is {"fields":[{"name":"size","kind":"int"},…]}; waybill facet schema prints one`)
	}
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// chunk is lines that are made documents together.
type chunk struct {
	lines []line
	out   chan decoded
}

type decoded struct {
	docs    []facet.Doc
	skipped int
	err     error
}

// chunkLines is how many lines a goroutine decodes at once.
const chunkLines = 1000

// feed reads, decodes and applies, each while the others do.
func (b *build) feed(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := runtime.GOMAXPROCS(0)
	work, order := make(chan chunk), make(chan chan decoded, 2*workers)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.read(ctx, work, order) })
	for range workers {
		group.Go(func() error {
			dec := facet.NewDecoder(b.index.Schema(), b.id)
			for c := range work {
				c.out <- b.decode(dec, c.lines)
			}
			return nil
		})
	}
	group.Go(func() error { return b.write(ctx, order) })
	return group.Wait()
}

// read gives chunks to the decoders, and their answers to the writer in order.
func (b *build) read(ctx context.Context, work chan<- chunk, order chan<- chan decoded) error {
	defer close(work)
	defer close(order)
	for {
		c := chunk{out: make(chan decoded, 1)}
		var err error
		for len(c.lines) < chunkLines && err == nil {
			var l line
			if len(b.head) > 0 {
				l, b.head = b.head[0], b.head[1:]
			} else if l, err = b.in.next(); err != nil {
				break
			}
			c.lines = append(c.lines, l)
		}
		if len(c.lines) > 0 {
			for _, send := range []func() bool{
				func() bool {
					select {
					case order <- c.out:
						return true
					case <-ctx.Done():
						return false
					}
				},
				func() bool {
					select {
					case work <- c:
						return true
					case <-ctx.Done():
						return false
					}
				},
			} {
				if !send() {
					return ctx.Err()
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			// What came before is written: the answer goes the way of the others.
			failed := make(chan decoded, 1)
			failed <- decoded{err: err}
			select {
			case order <- failed:
			case <-ctx.Done():
			}
			return nil
		}
	}
}

func (b *build) decode(dec *facet.Decoder, lines []line) (d decoded) {
	for _, l := range lines {
		doc, err := dec.Decode(l.text)
		if err != nil && b.skip {
			d.skipped++
			continue
		}
		if err != nil {
			d.err = b.bad(l, err)
			return d
		}
		d.docs = append(d.docs, doc)
	}
	return d
}

// bad says where the line is that is no document.
func (b *build) bad(l line, err error) error {
	e := invalid("%s:%d: %s", l.file, l.no, strings.TrimPrefix(err.Error(), "facet: "))
	if strings.Contains(err.Error(), "without an id") {
		return e.WithHint("--id NAME says under which name documents have their id")
	}
	return e.WithHint("--skip-bad passes over such lines")
}

// write applies the documents: all as one batch where the engine can, else in batches.
func (b *build) write(ctx context.Context, order <-chan chan decoded) error {
	if e, ok := b.index.(*facet.Engine); ok && !b.remove {
		n := 0
		_, err := e.Load(ctx, b.seq+1, func(yield func(facet.Doc, error) bool) {
			for out := range order {
				d := <-out
				b.skipped += d.skipped
				for _, doc := range d.docs {
					if !yield(doc, nil) {
						return
					}
				}
				n += len(d.docs)
				b.tell(n)
				if d.err != nil {
					yield(facet.Doc{}, d.err)
					return
				}
			}
			if err := ctx.Err(); err != nil {
				yield(facet.Doc{}, err)
			}
		})
		if err == nil {
			b.seq, b.docs = b.seq+1, n
		}
		return err
	}
	var docs []facet.Doc
	apply := func() error {
		if len(docs) == 0 {
			return nil
		}
		b.seq++
		batch := facet.Batch{Seq: b.seq, Put: docs}
		if b.remove {
			batch = facet.Batch{Seq: b.seq}
			for _, d := range docs {
				batch.Del = append(batch.Del, d.ID)
			}
		}
		if _, err := b.index.Apply(ctx, batch); err != nil {
			return err
		}
		b.docs += len(docs)
		docs = docs[:0]
		b.tell(b.docs)
		return nil
	}
	for out := range order {
		var d decoded
		select {
		case d = <-out:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.skipped += d.skipped
		docs = append(docs, d.docs...)
		if d.err != nil {
			return errors.Join(apply(), d.err)
		}
		if len(docs)+chunkLines > b.batch {
			if err := apply(); err != nil {
				return err
			}
		}
	}
	return apply()
}

// tell shows the progress, on terminals.
func (b *build) tell(n int) {
	if b.progress && time.Since(b.told) > 200*time.Millisecond {
		b.told = time.Now()
		fmt.Fprintf(b.cmd.ErrOrStderr(), "\r\x1b[K%s, %s a second", plural(n, "document", "documents"), thousands(int(float64(n)/time.Since(b.started).Seconds())))
	}
}

// built is the result of build as JSON.
type built struct {
	Documents int       `json:"documents"` // of this call
	Skipped   int       `json:"skipped"`
	Total     int       `json:"total"` // in the index
	Seq       facet.Seq `json:"seq"`
	Seconds   float64   `json:"seconds"`
}

func (b *build) report(ctx context.Context, place string) error {
	if b.progress {
		fmt.Fprint(b.cmd.ErrOrStderr(), "\r\x1b[K")
	}
	total, err := documents(ctx, b.index)
	if err != nil {
		return err
	}
	took := time.Since(b.started)
	if asJSON(b.cmd) {
		return printJSON(b.cmd.OutOrStdout(), built{b.docs, b.skipped, total, b.seq, took.Seconds()})
	}
	verb := "indexed"
	if b.remove {
		verb = "removed, if they were there"
	}
	if b.skipped > 0 {
		note(b.cmd, "passed over %s that could not be read as documents", plural(b.skipped, "line", "lines"))
	}
	_, err = fmt.Fprintf(b.cmd.OutOrStdout(), "%s %s in %s (%s a second); %s holds %s\n", plural(b.docs, "document", "documents"), verb,
		took.Round(time.Millisecond), thousands(int(float64(b.docs)/took.Seconds())), redact(place), plural(total, "document", "documents"))
	return err
}
