package mask

import "io"

// Stream masks text that comes in pieces. It is not safe for concurrent use.
type Stream struct {
	m       *Masker
	held    []byte // the end of what came that may be the beginning of a form
	covered int    // so many bytes of held are part of a mask that was let through
	masks   int
	join    []byte // held and a new piece
	out     []byte
}

// Stream returns a stream for one text. That of a nil masker lets everything through.
func (m *Masker) Stream() *Stream { return &Stream{m: m} }

// Next takes a piece and returns what can be let through now. The result is valid until
// the next call and may be a part of b, which is not changed.
func (s *Stream) Next(b []byte) []byte {
	if s.m == nil || len(b) == 0 {
		return b
	}
	return s.push(b, false)
}

// End returns what was held back. The stream is empty then and may be used again.
func (s *Stream) End() []byte {
	if s.m == nil || len(s.held) == 0 {
		return nil
	}
	return s.push(nil, true)
}

// Masks is how often a secret was masked so far.
func (s *Stream) Masks() int { return s.masks }

// push masks held and b. Forms that overlap become one mask. What is let through ends
// where a form could still be going on.
func (s *Stream) push(b []byte, final bool) []byte {
	buf := b
	if len(s.held) > 0 {
		s.join = append(append(s.join[:0], s.held...), b...)
		buf = s.join
	}
	hold := len(buf)
	if !final {
		hold = s.m.tail(buf)
	}
	// Everything before end was let through or masked.
	end, masked, copied := s.covered, s.covered > 0, false
	for i := 0; ; {
		// One that begins at hold or later is found again with the next piece. One that
		// begins before has no longer one to wait for.
		start, stop := s.m.next(buf, i)
		if start < 0 || start >= hold {
			break
		}
		i = start + 1
		if masked && start < end {
			end = max(end, stop)
			continue
		}
		if !copied {
			s.out, copied = s.out[:0], true
		}
		s.out = append(append(s.out, buf[end:start]...), Text...)
		end, masked = stop, true
		s.masks++
	}
	var out []byte
	switch {
	case copied && end < hold:
		s.out = append(s.out, buf[end:hold]...)
		out = s.out
	case copied:
		out = s.out
	case end < hold:
		out = buf[end:hold]
	}
	s.covered = max(0, end-hold)
	s.held = append(s.held[:0], buf[hold:]...)
	return out
}

// Reader returns a reader of what r has, masked.
func (m *Masker) Reader(r io.Reader) *Reader {
	return &Reader{r: r, s: Stream{m: m}}
}

// Reader reads masked text. It is not safe for concurrent use.
type Reader struct {
	r    io.Reader
	s    Stream
	buf  []byte
	left []byte
	err  error
}

// Masks is how often a secret was masked in what was read.
func (r *Reader) Masks() int { return r.s.masks }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.s.m == nil {
		return r.r.Read(p)
	}
	for len(r.left) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.buf == nil {
			r.buf = make([]byte, 64<<10)
		}
		var n int
		n, r.err = r.r.Read(r.buf)
		r.left = r.s.push(r.buf[:n], r.err != nil)
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}
