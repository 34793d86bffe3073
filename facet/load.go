package facet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"sync"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// loadDocs and loadBytes bound what one goroutine collects before it writes a segment.
const (
	loadDocs  = 1 << 18
	loadBytes = 192 << 20
	loadBatch = 512
)

// Load applies one batch of any size: it puts all documents, in memory that does not grow with
// their number, and makes them durable and visible together when the sequence has ended. The last document of an id counts.
// Until then nothing of them is seen, and an error or a crash leaves the index as it was.
//
// The documents of the sequence may not be changed or used again after they have been yielded.
// A Seq that is not greater than the last applied changes nothing, and the sequence is not read.
func (e *Engine) Load(ctx context.Context, seq Seq, docs iter.Seq2[Doc, error]) (Seq, error) {
	if seq == 0 {
		return 0, &Error{Kind: ErrBadValue, Msg: "a batch has a sequence of 1 or more"}
	}
	if e.opts.ReadOnly {
		return 0, &Error{Kind: ErrReadOnly}
	}
	v, err := e.acquire()
	if err != nil {
		return 0, err
	}
	defer e.done(v)
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.failed != nil {
		return 0, &Error{Kind: ErrFailed, Err: e.failed}
	}
	if seq <= e.man.Seq {
		return e.man.Seq, nil
	}
	l := &loader{e: e, ctx: ctx, man: e.man}
	if err := l.load(seq, docs); err != nil {
		for _, p := range l.parts {
			err = errors.Join(err, p.r.Close())
		}
		e.removeNew(&l.man)
		return 0, err
	}
	return seq, nil
}

type loader struct {
	e   *Engine
	ctx context.Context

	mu     sync.Mutex
	man    manifest
	parts  []*part
	places [][]uint64 // of each part's documents in the sequence
	err    error
}

type loadChunk struct {
	at   uint64
	docs []Doc
}

func (l *loader) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

func (l *loader) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

func (l *loader) load(seq Seq, docs iter.Seq2[Doc, error]) error {
	chunks := make(chan loadChunk, 2)
	var working sync.WaitGroup
	for range l.e.opts.Workers {
		working.Go(func() { l.work(chunks) })
	}
	n := uint64(0)
	next := loadChunk{}
	send := func() {
		if len(next.docs) > 0 {
			chunks <- next
			next = loadChunk{at: n}
		}
	}
	for d, err := range docs {
		if err == nil {
			err = l.ctx.Err()
		}
		if err != nil {
			l.fail(err)
		}
		if l.failed() {
			break
		}
		next.docs = append(next.docs, d)
		if n++; len(next.docs) == loadBatch {
			send()
		}
	}
	send()
	close(chunks)
	working.Wait()
	if l.err != nil {
		return l.err
	}
	return l.finish(seq)
}

// work builds segments of some chunks.
func (l *loader) work(chunks <-chan loadChunk) {
	var b *segment.Builder
	var places []uint64
	for c := range chunks {
		if l.failed() {
			continue
		}
		if b == nil {
			b = segment.NewBuilder(l.e.fields)
		}
		for i := range c.docs {
			if err := l.e.schema.addChecked(b, &c.docs[i], l.e.limits); err != nil {
				l.fail(err)
				b, places = nil, nil
				break
			}
			places = append(places, c.at+uint64(i))
		}
		if b == nil {
			continue
		}
		if b.Len() >= loadDocs || b.Bytes() >= loadBytes {
			l.write(b, places)
			b, places = nil, nil
		}
	}
	if b != nil && b.Len() > 0 && !l.failed() {
		l.write(b, places)
	}
}

func (l *loader) write(b *segment.Builder, places []uint64) {
	l.mu.Lock()
	name := segmentName(l.man.Next)
	l.man.Next++
	l.mu.Unlock()
	again := b.LastOfEach()
	p, err := l.e.writePart(name, func(w io.Writer) (segment.Info, error) { return b.Write(w, 1) })
	if err != nil {
		l.fail(err)
		return
	}
	if again != nil {
		if p, err = l.drop(p, again); err != nil {
			l.fail(err)
			return
		}
		kept := places[:0]
		for d, place := range places {
			if _, gone := slices.BinarySearch(again, uint32(d)); !gone {
				kept = append(kept, place)
			}
		}
		places = kept
	}
	l.mu.Lock()
	l.parts = append(l.parts, p)
	l.places = append(l.places, places)
	l.mu.Unlock()
}

// drop writes a part again without some documents, so that each id is in it once.
func (l *loader) drop(p *part, docs []uint32) (*part, error) {
	l.mu.Lock()
	name := segmentName(l.man.Next)
	l.man.Next++
	l.mu.Unlock()
	gone := segment.NewBits(p.n)
	for _, d := range docs {
		gone.Set(d)
	}
	q, err := l.e.writePart(name, func(w io.Writer) (segment.Info, error) {
		return segment.Merge(w, l.e.fields, []segment.Input{{R: p.r, Deleted: gone}}, 1)
	})
	return q, errors.Join(err, p.r.Close(), l.e.fs.Remove(p.file.name))
}

// finish finds documents that are replaced, among the new ones and the old, and commits.
func (l *loader) finish(seq Seq) error {
	e := l.e
	e.mu.Lock()
	cur := e.cur
	e.mu.Unlock()
	parts := slices.Clone(cur.parts)
	old := len(parts)
	order := make([]int, len(l.parts)) // new parts by their first documents
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(int64(l.places[a][0]) - int64(l.places[b][0])) })
	places := make([][]uint64, old, old+len(order))
	for _, i := range order {
		parts = append(parts, l.parts[i])
		places = append(places, l.places[i])
	}
	gone := make([][]uint32, len(parts))
	err := e.guarded(cur, func() {
		inputs := make([]segment.Input, len(parts))
		for i, p := range parts {
			inputs[i] = segment.Input{R: p.r, Deleted: p.deleted}
		}
		segment.SameIDs(inputs, func(at []int, docs []uint32) {
			last, where := -1, uint64(0)
			for k, i := range at {
				place := uint64(0)
				if i >= old {
					place = places[i][docs[k]] + 1
				}
				if last < 0 {
					last, where = k, place
					continue
				}
				loser := k
				if place > where {
					loser, last, where = last, k, place
				}
				gone[at[loser]] = append(gone[at[loser]], docs[loser])
			}
		})
	})
	if err != nil {
		return err
	}
	for i := range parts {
		if len(gone[i]) == 0 {
			continue
		}
		slices.Sort(gone[i])
		if parts[i], err = e.deleteFrom(&l.man, parts[i], gone[i]); err != nil {
			return err
		}
	}
	l.man.Seq = seq
	l.parts = nil // the commit has them
	return e.commit(l.man, parts)
}

// DecodeLines reads documents from JSON, one on each line, on several goroutines, and yields them in order. Empty lines
// are passed over. An error names the line and ends the sequence. See [NewDecoder].
func DecodeLines(r io.Reader, s Schema, id string) iter.Seq2[Doc, error] {
	return func(yield func(Doc, error) bool) {
		type chunk struct {
			first int
			lines [][]byte
			docs  []Doc
			err   error
			done  chan struct{}
		}
		ctx, cancel := context.WithCancel(context.Background())
		var working sync.WaitGroup
		defer working.Wait()
		defer cancel()
		workers := runtime.GOMAXPROCS(0)
		todo := make(chan *chunk)
		order := make(chan *chunk, 2*workers)
		working.Go(func() {
			defer close(order)
			defer close(todo)
			lines := bufio.NewReaderSize(r, 1<<20)
			c := &chunk{first: 1, done: make(chan struct{})}
			send := func() bool {
				if len(c.lines) == 0 && c.err == nil {
					return true
				}
				for _, to := range []chan *chunk{order, todo} {
					select {
					case to <- c:
					case <-ctx.Done():
						return false
					}
				}
				return true
			}
			for n := 1; ; n++ {
				line, err := lines.ReadBytes('\n')
				c.lines = append(c.lines, bytes.TrimSpace(line))
				if err != nil && err != io.EOF {
					c.lines, c.err = nil, err
				}
				if err != nil {
					send()
					return
				}
				if len(c.lines) == 256 {
					if !send() {
						return
					}
					c = &chunk{first: n + 1, done: make(chan struct{})}
				}
			}
		})
		for range workers {
			working.Go(func() {
				d := NewDecoder(s, id)
				for c := range todo {
					for i, line := range c.lines {
						if len(line) == 0 {
							continue
						}
						doc, err := d.Decode(line)
						if err != nil {
							c.err = fmt.Errorf("line %d: %w", c.first+i, err)
							break
						}
						c.docs = append(c.docs, doc)
					}
					close(c.done)
				}
			})
		}
		for c := range order {
			<-c.done
			for _, d := range c.docs {
				if !yield(d, nil) {
					return
				}
			}
			if c.err != nil {
				yield(Doc{}, c.err)
				return
			}
		}
	}
}
