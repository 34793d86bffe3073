package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/runner"
)

// Replay is the log of a unit whose platform keeps what the unit wrote and can be asked
// for it again from the beginning. It goes on where the file ends: what comes is masked
// and cut as in [runner.Log], which makes the same of the same bytes, and as much of the
// result as the file has already is compared with it and not written again. So a server
// that starts anew reads from the beginning, and no line is there twice or missing.
//
// For one goroutine.
type Replay struct {
	f       *os.File
	limit   int64
	total   int64 // bytes that the unit wrote
	kept    int64 // bytes of the result, those that the file had included
	dropped int64
	have    int64 // what the file had of this unit and has not come again yet
	at      int64 // where in the file that is
	last    byte
	differs bool // what came again is not what the file has
	err     error
	mask    *mask.Stream
	buf     []byte
}

// OpenReplay opens the log of a unit that keeps at most limit bytes; 0 means no cap. What
// the file holds from base on is this unit's, what is before is somebody else's and
// stays. secrets are those of Spec.Mask.
func OpenReplay(path string, base, limit int64, secrets ...[]byte) (*Replay, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Replay{
		f: f, limit: limit, at: base, have: max(0, info.Size()-base), last: '\n', mask: runner.Masker(secrets).Stream(),
	}, nil
}

// LogSize is the length of a log file, 0 if there is none: the base of a unit that has not
// started yet.
func LogSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Write implements io.Writer and returns no error: see [Replay.Err].
func (r *Replay) Write(b []byte) (int, error) {
	r.total += int64(len(b))
	r.keep(r.mask.Next(b))
	return len(b), nil
}

// Skip counts bytes that the unit wrote after all that came, and that the platform did
// not keep.
func (r *Replay) Skip(n int64) {
	r.total += n
	r.dropped += n
}

// Err is why the file could not be written.
func (r *Replay) Err() error { return r.err }

// Total is how many bytes of the unit have come.
func (r *Replay) Total() int64 { return r.total }

func (r *Replay) keep(b []byte) {
	all := len(b)
	if r.limit > 0 {
		b = b[:min(int64(len(b)), r.limit-r.kept)]
	}
	r.dropped += int64(all - len(b))
	r.put(b)
}

// put writes what the file does not have yet.
func (r *Replay) put(b []byte) {
	if len(b) == 0 {
		return
	}
	r.kept += int64(len(b))
	r.last = b[len(b)-1]
	b = r.known(b)
	if len(b) > 0 && r.err == nil {
		_, r.err = r.f.Write(b)
	}
}

// known takes from b what the file has, and returns the rest.
func (r *Replay) known(b []byte) []byte {
	for r.have > 0 && len(b) > 0 && r.err == nil {
		n := min(r.have, int64(len(b)), 64<<10)
		if r.buf == nil {
			r.buf = make([]byte, 64<<10)
		}
		if _, err := r.f.ReadAt(r.buf[:n], r.at); err != nil {
			r.err = fmt.Errorf("read the log again: %w", err)
			return nil
		}
		if !bytes.Equal(r.buf[:n], b[:n]) && !r.differs {
			// The platform does not have the beginning any more. What comes is kept,
			// behind a line that says so.
			r.differs, r.have = true, 0
			r.Note("the platform no longer has the beginning of this log: lines may be missing here, or be there twice")
			return b
		}
		r.at, r.have, b = r.at+n, r.have-n, b[n:]
	}
	return b
}

// Note writes a line of the server's own.
func (r *Replay) Note(text string) {
	nl := ""
	if info, err := r.f.Stat(); err == nil && info.Size() > 0 {
		end := make([]byte, 1)
		if _, err := r.f.ReadAt(end, info.Size()-1); err == nil && end[0] != '\n' {
			nl = "\n"
		}
	}
	if _, err := io.WriteString(r.f, nl+"[waybill] "+text+"\n"); err != nil && r.err == nil {
		r.err = err
	}
}

// Close ends the log of a unit that has ended and notes it in the exit. When some of it
// was dropped, its last line says so.
func (r *Replay) Close(e *runner.Exit) {
	r.keep(r.mask.End())
	if r.dropped > 0 {
		nl := ""
		if r.last != '\n' {
			nl = "\n"
		}
		// Like everything else it may be in the file already.
		r.put(fmt.Appendf(nil, "%s[waybill] the log was cut at %d bytes, %d more were dropped\n", nl, r.limit, r.dropped))
	}
	if err := r.f.Close(); r.err == nil {
		r.err = err
	}
	if r.err != nil {
		e.LogFault = r.err.Error()
	}
	if r.err != nil && e.Message == "" {
		e.Message = "the log is not complete: " + r.err.Error()
	}
	e.LogBytes, e.Truncated = r.total, r.dropped > 0
}

// Leave closes the file of a unit that goes on. What is held back because it might be
// the beginning of a secret comes again with the next Replay.
func (r *Replay) Leave() error { return r.f.Close() }
