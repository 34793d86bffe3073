package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/runner"
)

// logFile receives the output of a unit, masked, up to a cap.
type logFile struct {
	path    string
	f       *os.File // nil until there is something to write
	limit   int64    // 0 means none
	total   int64    // bytes the unit wrote
	kept    int64    // bytes in the file
	dropped int64    // bytes that did not fit
	last    byte     // the last one kept
	err     error    // why nothing is kept any more

	mask   [][]byte     // secret values
	stream *mask.Stream // nil until there is something to mask
}

// openLog prepares a log. Its file is made with the first byte: making one costs
// more than all else that starting a process takes, and many units are silent.
// That it can be made is checked here.
func openLog(path string, limit int64, secrets [][]byte) (*logFile, error) {
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &logFile{path: path, limit: limit, last: '\n', mask: secrets}, nil
}

// file returns the log's file, making it the first time.
func (l *logFile) file() (*os.File, error) {
	if l.f == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		l.f = f
	}
	return l.f, nil
}

// write takes what the unit wrote. The masker is made for the first byte: many units
// are silent.
func (l *logFile) write(b []byte) {
	l.total += int64(len(b))
	if len(l.mask) == 0 {
		l.keep(b)
		return
	}
	if l.limit > 0 && l.kept >= l.limit || l.err != nil {
		l.dropped += int64(len(b))
		return
	}
	if l.stream == nil {
		l.stream = runner.Masker(l.mask).Stream()
	}
	l.keep(l.stream.Next(b))
}

// keep writes to the file what fits.
func (l *logFile) keep(b []byte) {
	all := len(b)
	if l.limit > 0 {
		b = b[:min(int64(len(b)), l.limit-l.kept)]
	}
	l.dropped += int64(all - len(b))
	if len(b) == 0 || l.err != nil {
		return
	}
	f, err := l.file()
	if err != nil {
		l.err = err
		return
	}
	n, err := f.Write(b)
	l.kept += int64(n)
	if n > 0 {
		l.last = b[n-1]
	}
	l.err = err
}

// close ends the log. When some of it was dropped, its last line says so.
func (l *logFile) close() {
	if l.stream != nil {
		l.keep(l.stream.End())
	}
	if l.dropped > 0 && l.err == nil {
		nl := ""
		if l.last != '\n' {
			nl = "\n"
		}
		var f *os.File
		if f, l.err = l.file(); l.err != nil {
			return
		}
		_, l.err = fmt.Fprintf(f, "%s[waybill] the log was cut at %d bytes, %d more were dropped\n", nl, l.kept, l.dropped)
	}
	if l.f == nil {
		return
	}
	if err := l.f.Close(); l.err == nil {
		l.err = err
	}
}

// buffers are as large as a pipe. One is held only while there is something to
// read, so a thousand silent units need none.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// copy reads from the pipe until its end or its deadline.
func (l *logFile) copy(pipe syscall.RawConn) {
	var end bool
	read := func(fd uintptr) bool {
		buf := buffers.Get().(*[64 << 10]byte)
		defer buffers.Put(buf)
		n, err := readFD(fd, buf[:])
		if n > 0 {
			l.write(buf[:n])
			return true
		}
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		end = true
		return true
	}
	for !end {
		if err := pipe.Read(read); err != nil {
			return
		}
	}
}

// drain reads what is in the pipe now. All writers of the unit are gone; somebody
// outside its tree who was given the pipe must not keep us here.
func (l *logFile) drain(pipe syscall.RawConn) {
	pipe.Control(func(fd uintptr) {
		left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		if err != nil || left == 0 {
			return
		}
		buf := buffers.Get().(*[64 << 10]byte)
		defer buffers.Put(buf)
		for left > 0 {
			n, err := readFD(fd, buf[:min(left, len(buf))])
			if n <= 0 || err != nil {
				return
			}
			l.write(buf[:n])
			left -= n
		}
	})
}

func readFD(fd uintptr, b []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
