package facet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill/facet/internal/disk"
	"github.com/waybill-run/waybill/facet/internal/segment"
)

// Options are what can be chosen about an Engine. The zero Options are good.
type Options struct {
	// Workers is how many goroutines one search or merge uses at most, by default one a processor.
	// All searches together share as many, and each has at least its own.
	Workers int

	// ReadOnly opens the index as it is and never writes. Several processes may read
	// a folder that nobody writes.
	ReadOnly bool

	// Salvage opens what can be read of a damaged index, read-only: files that are refused are left out
	// and listed in Stats, and every answer lacks their documents.
	Salvage bool

	// MergeRate bounds the bytes a second that merging writes in the background, 0 for 64 MiB,
	// negative for no bound. Writers that outrun merging wait for it.
	MergeRate int

	// ScrubEvery is how often all files are compared with their checksums in the background: 0 for daily, and once
	// soon after opening; negative for never.
	ScrubEvery time.Duration

	// OnError is told of errors in the background. It must not call the engine's Close.
	OnError func(error)

	fs disk.FS // instead of the folder's, in tests
}

// Engine is an Index in a folder of files. Open makes one.
type Engine struct {
	opts   Options
	fs     disk.FS
	schema Schema
	fields []segment.Field
	byName map[string]int
	limits Limits
	lock   io.Closer
	tokens chan struct{} // for further goroutines of searches

	writing sync.Mutex // held by whoever makes a new state; guards man, failed
	man     manifest
	failed  error

	mu     sync.Mutex // guards what follows
	cur    *view
	files  map[string]*file
	closed bool
	calls  sync.WaitGroup

	background context.Context
	stop       context.CancelFunc
	workers    sync.WaitGroup
	wake       chan struct{}
	merged     chan struct{} // closed and replaced after each merge
	merging    atomic.Bool
	refused    []error
	scrubbed   atomic.Pointer[error]
}

var _ Index = (*Engine)(nil)

// file is a file of the index. Views count how often they refer to it.
type file struct {
	name string
	refs int
	r    *segment.Reader // nil for files of deletions
}

// Open opens the index in a folder, or makes one there. The schema must be that of the index; an
// index that is there can be opened with the zero Schema, too.
//
// Errors: ErrSchema, ErrLocked, ErrCorrupt naming the file, ErrReadOnly if there is
// nothing to read, or the operating system's.
func Open(dir string, s Schema, opts Options) (*Engine, error) {
	if opts.fs == nil {
		if opts.ReadOnly || opts.Salvage {
			opts.fs = disk.Dir(dir)
		} else {
			d, err := disk.Open(dir)
			if err != nil {
				return nil, err
			}
			opts.fs = d
		}
	}
	opts.ReadOnly = opts.ReadOnly || opts.Salvage
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	if opts.MergeRate == 0 {
		opts.MergeRate = 64 << 20
	}
	if opts.ScrubEvery == 0 {
		opts.ScrubEvery = 24 * time.Hour
	}
	e := &Engine{opts: opts, fs: opts.fs, limits: DefaultLimits(), files: map[string]*file{}, wake: make(chan struct{}, 1), merged: make(chan struct{})}
	e.tokens = make(chan struct{}, opts.Workers)
	e.background, e.stop = context.WithCancel(context.Background())
	if err := e.open(s); err != nil {
		e.stop()
		return nil, errors.Join(err, e.release())
	}
	if !opts.ReadOnly {
		e.workers.Go(e.mergeLoop)
		e.wakeMerger()
	}
	if opts.ScrubEvery > 0 {
		e.workers.Go(e.scrubLoop)
	}
	return e, nil
}

func (e *Engine) open(s Schema) error {
	if !e.opts.ReadOnly {
		lock, err := e.fs.Lock(lockName)
		if errors.Is(err, disk.ErrLocked) {
			return &Error{Kind: ErrLocked, Msg: e.fs.Path(""), Err: err}
		}
		if err != nil {
			return err
		}
		e.lock = lock
	}
	m, raw, err := readManifest(e.fs)
	if err != nil {
		return err
	}
	given := len(s.Fields) > 0
	switch {
	case m == nil && e.opts.ReadOnly:
		return &Error{Kind: ErrReadOnly, Msg: "there is no index in " + e.fs.Path("")}
	case m == nil:
		if err := s.Check(); err != nil {
			return err
		}
		m = &manifest{Format: manifestV, Schema: Schema{Fields: slices.Clone(s.Fields)}, Next: 1}
		if raw, err = m.encode(); err != nil {
			return err
		}
		if _, err := writeManifest(e.fs, raw); err != nil {
			return err
		}
	case given && !m.Schema.Equal(s):
		return &Error{Kind: ErrSchema, Msg: "the index was made with another; rebuild it to change the schema"}
	}
	e.man, e.schema, e.fields = *m, m.Schema, segmentFields(m.Schema)
	e.byName = map[string]int{}
	for i, f := range e.schema.Fields {
		e.byName[f.Name] = i
	}
	return e.openSegments(raw)
}

func (e *Engine) openSegments(raw []byte) error {
	var parts []*part
	for i := range e.man.Segments {
		p := &e.man.Segments[i]
		part, err := e.openPart(p)
		if err != nil {
			if !e.opts.Salvage {
				return err
			}
			e.refused = append(e.refused, err)
			continue
		}
		parts = append(parts, part)
	}
	if !e.opts.ReadOnly {
		if err := e.sweep(); err != nil {
			return err
		}
	}
	e.publish(e.newView(parts, e.man.Seq, raw))
	return nil
}

func (e *Engine) openPart(p *manifestPart) (*part, error) {
	r, err := segment.Open(e.fs, p.Name, segment.Info{Size: p.Size, CRC: p.CRC, Docs: p.Docs}, len(e.fields))
	if err != nil {
		return nil, corrupt(err, p.Name)
	}
	deleted, err := p.readDeleted(e.fs)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	f := &file{name: p.Name, r: r}
	return newPart(f, r, p, deleted), nil
}

// corrupt names the file that an error is about.
func corrupt(err error, name string) error {
	var c *segment.Corrupt
	if errors.As(err, &c) {
		return &Error{Kind: ErrCorrupt, File: c.File, Msg: c.What}
	}
	return &Error{Kind: ErrCorrupt, File: name, Err: err}
}

// sweep removes files that the manifest does not name: what a crash has left.
func (e *Engine) sweep() error {
	keep := map[string]bool{manifestName: true, lockName: true}
	for _, p := range e.man.Segments {
		keep[p.Name] = true
		if p.Deleted != nil {
			keep[p.Deleted.Name] = true
		}
	}
	names, err := e.fs.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !keep[name] && ours(name) {
			if err := e.fs.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// ours reports whether a name is one that the engine makes.
func ours(name string) bool {
	var n uint64
	var kind string
	if name == manifestTemp {
		return true
	}
	_, err := fmt.Sscanf(name, "%3s-%016x.facet", &kind, &n)
	return err == nil && (name == segmentName(n) || name == deletesName(n))
}

func segmentName(n uint64) string { return fmt.Sprintf("seg-%016x.facet", n) }
func deletesName(n uint64) string { return fmt.Sprintf("del-%016x.facet", n) }

// Schema implements Index.
func (e *Engine) Schema() Schema { return e.schema }

// Caps implements Index.
func (e *Engine) Caps() Caps {
	return Caps{Engine: "facet", AtomicBatch: true, ReadYourWrites: true, Durable: true, Snapshot: true, Limits: e.limits}
}

// Applied implements Index.
func (e *Engine) Applied(context.Context) (Seq, error) {
	v, err := e.acquire()
	if err != nil {
		return 0, err
	}
	defer e.done(v)
	return v.seq, nil
}

// acquire returns the current state, to be given to done.
func (e *Engine) acquire() (*view, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, &Error{Kind: ErrClosed}
	}
	e.calls.Add(1)
	e.cur.refs++
	return e.cur, nil
}

func (e *Engine) done(v *view) {
	defer e.calls.Done()
	e.mu.Lock()
	gone := e.unref(v)
	e.mu.Unlock()
	e.collect(gone)
}

// publish makes a state the current one.
func (e *Engine) publish(v *view) {
	e.mu.Lock()
	for _, f := range v.files {
		f.refs++
		e.files[f.name] = f
	}
	v.refs++
	var gone []*file
	if e.cur != nil {
		gone = e.unref(e.cur)
	}
	e.cur = v
	e.mu.Unlock()
	e.collect(gone)
}

// unref gives up a view and returns the files that nobody refers to any more. e.mu is held.
func (e *Engine) unref(v *view) []*file {
	v.refs--
	if v.refs > 0 {
		return nil
	}
	var gone []*file
	for _, f := range v.files {
		if f.refs--; f.refs == 0 {
			delete(e.files, f.name)
			gone = append(gone, f)
		}
	}
	return gone
}

// collect removes files that the last reader has let go. Every state that is not current has been replaced by
// a durable one, so none of them is needed again.
func (e *Engine) collect(gone []*file) {
	for _, f := range gone {
		if f.r != nil {
			e.report(f.r.Close())
		}
		if !e.opts.ReadOnly {
			e.report(e.fs.Remove(f.name))
		}
	}
}

func (e *Engine) report(err error) {
	if err != nil && e.opts.OnError != nil {
		e.opts.OnError(err)
	}
}

// Close implements Index. It waits for calls under way, and ends merging and scrubbing.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		e.workers.Wait()
		return nil
	}
	e.stop()
	e.closed = true
	e.mu.Unlock()
	e.calls.Wait()
	e.workers.Wait()
	return e.release()
}

// release unmaps the files and unlocks the folder.
func (e *Engine) release() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, f := range e.files {
		if f.r != nil {
			errs = append(errs, f.r.Close())
		}
	}
	e.files = nil
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
		e.lock = nil
	}
	return errors.Join(errs...)
}

// Stats describes an index.
type Stats struct {
	Seq      Seq              `json:"seq"`
	Docs     int              `json:"docs"`    // that can be found
	Deleted  int              `json:"deleted"` // that still take space
	Bytes    int64            `json:"bytes"`   // of all files
	Parts    map[string]int64 `json:"parts"`   // bytes by what they are for; "source" is the documents themselves
	Fields   map[string]int64 `json:"fields"`  // bytes by field
	Segments []SegmentStats   `json:"segments"`
	Merging  bool             `json:"merging"`
	Refused  []string         `json:"refused,omitempty"` // damaged files that were left out
	Damage   string           `json:"damage,omitempty"`  // what the last scrub found
}

// SegmentStats describes a file of documents.
type SegmentStats struct {
	Name    string `json:"name"`
	Docs    int    `json:"docs"`
	Deleted int    `json:"deleted"`
	Bytes   int64  `json:"bytes"`
}

// Stats returns figures about the index as it is.
func (e *Engine) Stats() (Stats, error) {
	v, err := e.acquire()
	if err != nil {
		return Stats{}, err
	}
	defer e.done(v)
	s := Stats{Seq: v.seq, Bytes: int64(len(v.manifest)), Parts: map[string]int64{}, Fields: map[string]int64{}, Merging: e.merging.Load()}
	for _, p := range v.parts {
		s.Docs += p.live
		s.Deleted += p.n - p.live
		s.Bytes += p.r.Size()
		for k, n := range p.r.Parts() {
			s.Parts[k] += n
		}
		for i, f := range e.schema.Fields {
			s.Fields[f.Name] += p.r.FieldBytes(i)
		}
		if p.man.Deleted != nil {
			s.Bytes += p.man.Deleted.Size
		}
		s.Segments = append(s.Segments, SegmentStats{Name: p.file.name, Docs: p.n, Deleted: p.n - p.live, Bytes: p.r.Size()})
	}
	for _, err := range e.refused {
		s.Refused = append(s.Refused, err.Error())
	}
	if err := e.scrubbed.Load(); err != nil && *err != nil {
		s.Damage = (*err).Error()
	}
	return s, nil
}
