package runner

import (
	"fmt"
	"os"

	"github.com/waybill-run/waybill/internal/mask"
)

// Masker returns what masks the secrets of a unit, nil if it has none.
func Masker(secrets [][]byte) *mask.Masker {
	values := make([]string, len(secrets))
	for i, v := range secrets {
		values[i] = string(v)
	}
	return mask.New(values...)
}

// Log is the log of a unit that lives in this process: it masks what comes, keeps what
// fits under a cap and counts the rest. Writing never fails, as a unit does not notice
// what becomes of its log. For one goroutine.
type Log struct {
	f       *os.File
	limit   int64
	total   int64
	kept    int64
	dropped int64
	last    byte
	err     error
	mask    *mask.Stream
}

// OpenLog opens a log file for appending at most limit bytes; 0 means no cap. secrets
// are those of Spec.Mask.
func OpenLog(path string, limit int64, secrets ...[]byte) (*Log, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &Log{f: f, limit: limit, last: '\n', mask: Masker(secrets).Stream()}, nil
}

// Write implements io.Writer and returns no error.
func (c *Log) Write(b []byte) (int, error) {
	c.total += int64(len(b))
	c.keep(c.mask.Next(b))
	return len(b), nil
}

func (c *Log) keep(b []byte) {
	all := len(b)
	if c.limit > 0 {
		b = b[:min(int64(len(b)), c.limit-c.kept)]
	}
	c.dropped += int64(all - len(b))
	if len(b) > 0 && c.err == nil {
		var k int
		k, c.err = c.f.Write(b)
		c.kept += int64(k)
		if k > 0 {
			c.last = b[k-1]
		}
	}
}

// Close ends the log and notes it in the exit. When some of it was dropped, its
// last line says so.
func (c *Log) Close(e *Exit) {
	c.keep(c.mask.End())
	if c.dropped > 0 && c.err == nil {
		nl := ""
		if c.last != '\n' {
			nl = "\n"
		}
		_, c.err = fmt.Fprintf(c.f, "%s[waybill] the log was cut at %d bytes, %d more were dropped\n", nl, c.kept, c.dropped)
	}
	if err := c.f.Close(); c.err == nil {
		c.err = err
	}
	if c.err != nil {
		e.LogFault = c.err.Error()
		e.Message = "the log is not complete: " + e.LogFault
	}
	e.LogBytes, e.Truncated = c.total, c.dropped > 0
}
