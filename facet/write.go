package facet

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"slices"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// Deletions are kept in the manifest until they take this many bytes in it, then in a file of their own.
const maxRecent = 32 << 10

// Apply implements Index.
func (e *Engine) Apply(ctx context.Context, b Batch) (Seq, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := e.schema.CheckBatch(b, e.limits); err != nil {
		return 0, err
	}
	v, err := e.acquire()
	if err != nil {
		return 0, err
	}
	defer func() { e.done(v) }()
	if e.opts.ReadOnly {
		return 0, &Error{Kind: ErrReadOnly}
	}
	if err := e.waitForMerges(ctx); err != nil {
		return 0, err
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.failed != nil {
		return 0, &Error{Kind: ErrFailed, Err: e.failed}
	}
	if b.Seq <= e.man.Seq {
		return e.man.Seq, nil
	}
	if err := e.apply(ctx, b); err != nil {
		return 0, err
	}
	return b.Seq, nil
}

// apply writes a batch. e.writing is held.
func (e *Engine) apply(ctx context.Context, b Batch) (err error) {
	e.mu.Lock()
	cur := e.cur // stays current: only the holder of e.writing replaces it
	e.mu.Unlock()
	defer e.guard(cur, &err)

	last := make(map[string]int, len(b.Put))
	for i := range b.Put {
		last[b.Put[i].ID] = i
	}
	man := e.man
	man.Seq = b.Seq
	man.Segments = slices.Clone(man.Segments)
	build := e.buildPart(&man, b.Put, last)

	parts := slices.Clone(cur.parts)
	gone := make([][]uint32, len(parts))
	find := func(id string) {
		for i, p := range parts {
			if d, ok := p.r.Lookup([]byte(id)); ok && (p.deleted == nil || !p.deleted.Has(d)) {
				gone[i] = append(gone[i], d)
				return
			}
		}
	}
	err = e.guarded(cur, func() {
		for id := range last {
			find(id)
		}
		for _, id := range b.Del {
			if _, ok := last[id]; !ok {
				find(id)
			}
		}
	})
	added, err2 := build()
	if err = errors.Join(err, err2); err == nil {
		err = ctx.Err()
	}
	if err == nil {
		for i, docs := range gone {
			if len(docs) > 0 {
				slices.Sort(docs)
				if parts[i], err = e.deleteFrom(&man, parts[i], slices.Compact(docs)); err != nil {
					break
				}
			}
		}
	}
	if err != nil {
		if added != nil {
			err = errors.Join(err, added.r.Close(), e.fs.Remove(added.file.name))
		}
		e.removeNew(&man)
		return err
	}
	if added != nil {
		parts = append(parts, added)
	}
	return e.commit(man, parts)
}

// buildPart begins to write the batch's documents as a segment and returns a function that waits for it.
func (e *Engine) buildPart(man *manifest, docs []Doc, last map[string]int) func() (*part, error) {
	if len(last) == 0 {
		return func() (*part, error) { return nil, nil }
	}
	name := segmentName(man.Next)
	man.Next++
	var p *part
	var err error
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		b := segment.NewBuilder(e.fields)
		b.Aside()
		defer b.Stop() // where Write is not reached
		for i := range docs {
			if last[docs[i].ID] == i {
				e.schema.addDoc(b, &docs[i])
			}
		}
		p, err = e.writePart(name, func(w io.Writer) (segment.Info, error) { return b.Write(w, e.opts.Workers) })
	}()
	return func() (*part, error) {
		<-ready
		return p, err
	}
}

func (e *Engine) writePart(name string, write func(io.Writer) (segment.Info, error)) (*part, error) {
	var info segment.Info
	err := writeFile(e.fs, name, func(w io.Writer) (err error) {
		info, err = write(w)
		return err
	})
	if err != nil {
		return nil, err
	}
	man := &manifestPart{Name: name, Size: info.Size, CRC: info.CRC, Docs: info.Docs}
	p, err := e.openPart(man)
	if err != nil {
		return nil, errors.Join(err, e.fs.Remove(name))
	}
	return p, nil
}

// deleteFrom deletes documents, in order and none of them deleted before, from a part.
func (e *Engine) deleteFrom(man *manifest, p *part, docs []uint32) (*part, error) {
	q := p.without(docs)
	recent := segment.NewBits(p.n)
	addDocs(p.man.Recent, recent, p.n)
	for _, d := range docs {
		recent.Set(d)
	}
	q.man.Recent = appendDocs(nil, recent.Append(nil))
	if len(q.man.Recent) <= maxRecent {
		return q, nil
	}
	all := appendDocs(nil, q.deleted.Append(nil))
	d := &deleteFile{Name: deletesName(man.Next), Size: int64(len(all)), CRC: crc32.Checksum(all, castagnoli)}
	man.Next++
	if err := writeFile(e.fs, d.Name, func(w io.Writer) error { _, err := io.Copy(w, bytes.NewReader(all)); return err }); err != nil {
		return nil, err
	}
	q.man.Deleted, q.man.Recent, q.delFile = d, nil, &file{name: d.Name}
	return q, nil
}

// removeNew removes files of deletions that were written for a state that will not be.
func (e *Engine) removeNew(man *manifest) {
	names, err := e.fs.List()
	if err != nil {
		e.report(err)
		return
	}
	for n := e.man.Next; n < man.Next; n++ {
		for _, name := range []string{deletesName(n), segmentName(n)} {
			if slices.Contains(names, name) {
				e.report(e.fs.Remove(name))
			}
		}
	}
}

// commit makes a state durable and then visible. e.writing is held. Parts without documents are dropped.
func (e *Engine) commit(man manifest, parts []*part) error {
	var dropped []*part
	parts = slices.DeleteFunc(parts, func(p *part) bool {
		if p.live > 0 {
			return false
		}
		dropped = append(dropped, p)
		return true
	})
	man.Segments = nil
	for _, p := range parts {
		man.Segments = append(man.Segments, p.man)
	}
	raw, err := man.encode()
	if err != nil {
		return err
	}
	if sure, err := writeManifest(e.fs, raw); err != nil {
		known := map[string]bool{}
		for _, p := range e.man.Segments {
			known[p.Name] = true
		}
		if !sure {
			e.failed = err
			return &Error{Kind: ErrFailed, Err: err, Msg: "it is not known whether the batch is durable"}
		}
		for _, p := range append(parts, dropped...) {
			if !known[p.man.Name] {
				err = errors.Join(err, p.r.Close())
			}
		}
		e.removeNew(&man)
		return err
	}
	e.man = man
	v := e.newView(parts, man.Seq, raw)
	// A part that was new and is dropped at once has no state that would collect it.
	for _, p := range dropped {
		e.mu.Lock()
		_, old := e.files[p.file.name]
		e.mu.Unlock()
		if !old {
			e.collect([]*file{p.file})
		}
		if p.delFile != nil {
			e.mu.Lock()
			_, old := e.files[p.delFile.name]
			e.mu.Unlock()
			if !old {
				e.collect([]*file{p.delFile})
			}
		}
	}
	e.publish(v)
	if v.base != nil {
		v.base.forget(v)
	}
	e.wakeMerger()
	return nil
}
