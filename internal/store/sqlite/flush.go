package sqlite

import "time"

// OnFlush makes f hear of every group of operations that became durable together,
// and of how long that took. It is called by the writer, so it must be quick. Nil
// ends it.
func (s *Store) OnFlush(f func(operations int, took time.Duration)) {
	if f == nil {
		f = func(int, time.Duration) {}
	}
	s.flushed.Store(&f)
}
