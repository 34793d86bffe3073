package postgres

import "time"

// OnFlush makes f hear of every group of commits that became durable together, and
// of how long that took. It is called by committers, several at once, so it must be
// quick. Nil ends it.
func (s *Store) OnFlush(f func(operations int, took time.Duration)) {
	if f == nil {
		f = func(int, time.Duration) {}
	}
	s.flushed.Store(&f)
}
