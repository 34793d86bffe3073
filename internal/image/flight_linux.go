package image

import (
	"context"
	"sync"
)

// flights lets many ask for the same thing at once while it is done once. The work goes
// on for as long as one of those who asked still waits.
type flights struct {
	mu      sync.Mutex
	under   map[string]*flight
	running sync.WaitGroup
	closed  bool
}

type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int
	value   any
	err     error
}

// do returns what fn does for key. ctx ends the waiting of this caller.
func (f *flights) do(ctx context.Context, key string, fn func(context.Context) (any, error)) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, context.Canceled
	}
	x := f.under[key]
	if x == nil {
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		x = &flight{done: make(chan struct{}), cancel: cancel}
		if f.under == nil {
			f.under = map[string]*flight{}
		}
		f.under[key] = x
		f.running.Go(func() {
			defer cancel()
			x.value, x.err = fn(work)
			f.mu.Lock()
			if f.under[key] == x {
				delete(f.under, key)
			}
			f.mu.Unlock()
			close(x.done)
		})
	}
	x.waiters++
	f.mu.Unlock()
	select {
	case <-x.done:
		return x.value, x.err
	case <-ctx.Done():
		f.mu.Lock()
		if x.waiters--; x.waiters == 0 {
			x.cancel()
			if f.under[key] == x { // whoever comes now begins anew
				delete(f.under, key)
			}
		}
		f.mu.Unlock()
		return nil, ctx.Err()
	}
}

// close ends all work and waits for it.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	for _, x := range f.under {
		x.cancel()
	}
	f.mu.Unlock()
	f.running.Wait()
}
