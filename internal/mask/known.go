package mask

import (
	"io"
	"slices"
	"sync"
)

// maxKnown bounds the values that a [Known] remembers; the oldest go first.
const maxKnown = 2000

// Known masks the values that it was told of so far. It is safe for concurrent use, and
// its zero value knows none. Nil masks nothing.
type Known struct {
	mu     sync.Mutex
	values []string
	masker *Masker
	stale  bool
}

// Add remembers values.
func (k *Known) Add(values ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, v := range values {
		if Maskable(v) && !slices.Contains(k.values, v) {
			k.values, k.stale = append(k.values, v), true
		}
	}
	if over := len(k.values) - maxKnown; over > 0 {
		k.values = slices.Delete(k.values, 0, over)
	}
}

func (k *Known) current() *Masker {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stale {
		k.masker, k.stale = New(k.values...), false
	}
	return k.masker
}

// String masks a text.
func (k *Known) String(s string) string { return k.current().String(s) }

// Writer returns a writer to w that masks what is written. Every write is a text of
// its own, as those of a logger are.
func (k *Known) Writer(w io.Writer) io.Writer { return knownWriter{k, w} }

type knownWriter struct {
	k *Known
	w io.Writer
}

func (w knownWriter) Write(b []byte) (int, error) {
	out, n := w.k.current().Bytes(b)
	if n == 0 {
		return w.w.Write(b)
	}
	if _, err := w.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
