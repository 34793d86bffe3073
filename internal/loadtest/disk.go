package loadtest

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// flushes measures how long this folder's disk takes to make a small write durable.
func flushes(ctx context.Context, dir string, n int) (times, error) {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, 4096)
	var t times
	for i := range n {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Over the same megabyte again and again, as a write-ahead log does.
		if _, err := f.WriteAt(block, int64(i%256)*int64(len(block))); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := datasync(f); err != nil {
			return nil, err
		}
		if i >= 256 || n < 512 {
			t = append(t, time.Since(began)) // the first round grows the file
		}
	}
	return t, nil
}
