package facet

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// Reading a segment panics if its file is not what was written: with *segment.Corrupt if a checksum says so, with
// a runtime error if the mapped file was cut short or the disk cannot read it. The guard turns
// both into ErrCorrupt where a call of the engine begins.

// guarded calls f on this goroutine with faults turned into errors.
func (e *Engine) guarded(v *view, f func()) (err error) {
	defer e.guard(v, &err)
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	f()
	return nil
}

// guard is deferred.
func (e *Engine) guard(v *view, err *error) {
	switch p := recover().(type) {
	case nil:
	case *segment.Corrupt:
		*err = &Error{Kind: ErrCorrupt, File: p.File, Msg: p.What}
	case runtime.Error:
		var fault interface{ Addr() uintptr }
		if errors.As(p, &fault) && v != nil {
			for _, part := range v.parts {
				if part.r.Contains(fault.Addr()) {
					*err = &Error{Kind: ErrCorrupt, File: part.file.name, Msg: "the file cannot be read where it could be when it was opened", Err: p}
					return
				}
			}
		}
		if !strings.Contains(p.Error(), "out of range") {
			panic(p) // a mistake of the program
		}
		*err = &Error{Kind: ErrCorrupt, Msg: fmt.Sprintf("what was read makes no sense%s", where()), Err: p}
	default:
		panic(p)
	}
}

// where names the first function below the guard, for those who look for the reason.
func where() string {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs)])
	for {
		f, more := frames.Next()
		if f.Line > 0 && f.Function != "" && f.Function[:min(8, len(f.Function))] != "runtime." {
			return fmt.Sprintf(" in %s:%d", f.Function, f.Line)
		}
		if !more {
			return ""
		}
	}
}

// each calls f for 0 to n-1, on further goroutines too if tokens are free. A panic in one becomes a panic here.
func (e *Engine) each(n int, parallel bool, f func(i int)) {
	if n <= 1 || !parallel || e.opts.Workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var at atomic.Int64
	var failed atomic.Pointer[any]
	work := func() {
		defer func() {
			if p := recover(); p != nil {
				failed.CompareAndSwap(nil, &p)
			}
		}()
		for failed.Load() == nil {
			i := int(at.Add(1) - 1)
			if i >= n {
				return
			}
			f(i)
		}
	}
	var wg sync.WaitGroup
	for range min(e.opts.Workers, n) - 1 {
		select {
		case e.tokens <- struct{}{}:
			wg.Go(func() {
				defer func() { <-e.tokens }()
				debug.SetPanicOnFault(true)
				work()
			})
			continue
		default:
		}
		break
	}
	work()
	wg.Wait()
	if p := failed.Load(); p != nil {
		panic(*p)
	}
}
