package kubernetes

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// logReader brings the log of a pod's container into the file of its unit: every line
// once, whatever happens to the connections on the way.
//
// The first connection reads from the beginning, and container.Replay skips what the
// file has of an earlier life of the server. A later connection asks for what was written
// since the second before the newest line, as nodes throw the beginning of long logs
// away, and skips as many lines as were seen from then on.
type logReader struct {
	r     *Runner
	spec  runner.Spec
	out   *container.Replay
	pos   position
	clean bool // the newest connection ended as one does at the end of a log
}

func (r *Runner) openLog(s runner.Spec, base int64) (*logReader, error) {
	out, err := container.OpenReplay(s.Log, base, s.LogCap, s.Mask...)
	if err != nil {
		return nil, err
	}
	return &logReader{r: r, spec: s, out: out}, nil
}

// drained is how long a connection may go on after the container has ended, which the
// kubelet is to notice.
const drained = 10 * time.Second

// run reads until the log is complete or cannot be, and reports which. ended closes when
// the container has ended, gone when its pod is no more.
func (l *logReader) run(ctx context.Context, pod string, ended, gone <-chan struct{}) (complete bool, err error) {
	is := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	misses := 0
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		last := is(ended)
		before := l.out.Total()
		err := l.connect(ctx, pod, !last, ended)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil && last:
			return true, nil
		case apierrors.IsNotFound(err):
			// The pod is gone. What was read to its end is all there was.
			return l.clean, nil
		case last || is(gone):
			if misses++; misses > 6 {
				return false, err
			}
		}
		if l.out.Err() != nil {
			return false, nil // noted by Close
		}
		if l.out.Total() > before {
			pause = 100 * time.Millisecond
		}
		if err == nil && is(ended) {
			continue
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ended:
			if last {
				select {
				case <-t.C:
				case <-ctx.Done():
				}
			}
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// connect reads one connection to its end.
func (l *logReader) connect(ctx context.Context, pod string, follow bool, ended <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if follow {
		stop := context.AfterFunc(ctx, func() {})
		defer stop()
		go func() {
			select {
			case <-ctx.Done():
				return
			case <-ended:
			}
			t := time.NewTimer(drained)
			defer t.Stop()
			select {
			case <-ctx.Done():
			case <-t.C:
				cancel()
			}
		}()
	} else {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, 10*time.Minute)
		defer stop()
	}
	o := &corev1.PodLogOptions{Container: container1, Follow: follow, Timestamps: true}
	if since, ok := l.pos.again(); ok {
		t := metav1.NewTime(time.Unix(since, 0))
		o.SinceTime = &t
	}
	stream, err := l.r.api.Log(ctx, l.r.namespace, pod, o)
	if err != nil {
		l.clean = l.clean && apierrors.IsNotFound(err)
		return err
	}
	defer stream.Close()
	err = l.pos.copy(l.out, stream)
	l.clean = err == nil
	return err
}

// position is how far a log with timestamps was read.
type position struct {
	counts map[int64]int64 // complete lines, by the second they were written in
	line   int64           // second of the line that is not complete yet; 0 is none
	bytes  int64           // of that line
	newest int64           // second of the newest line

	skipLines, skipBytes int64 // of the connection
}

// again says from which second on the log is read by the next connection, and whether
// that is not simply from its beginning.
func (p *position) again() (int64, bool) {
	p.skipLines, p.skipBytes = 0, p.bytes
	if p.newest == 0 {
		return 0, false
	}
	since := p.newest - 1
	if p.line != 0 {
		since = min(since, p.line-1)
	}
	for at, n := range p.counts {
		if at >= since {
			p.skipLines += n
		} else if at < since-5 {
			delete(p.counts, at)
		}
	}
	return since, true
}

// maxStamp bounds the length of a timestamp.
const maxStamp = 48

// copy writes the lines of a connection without their timestamps and without what was
// read before.
func (p *position) copy(w io.Writer, r io.Reader) error {
	if p.counts == nil {
		p.counts = map[int64]int64{}
	}
	in := bufio.NewReaderSize(r, 64<<10)
	skipLines, skipBytes := p.skipLines, p.skipBytes
	for {
		stamp, err := peekStamp(in)
		if len(stamp) == 0 {
			return endOf(err)
		}
		n, second := cutStamp(stamp)
		if n == 0 && err != nil && endOf(err) != nil {
			return err // cut in the middle of a timestamp
		}
		if _, err := in.Discard(n); err != nil {
			return err
		}
		if second == 0 {
			second = max(p.newest, 1) // a line without: of the same time as the one before
		}
		old := skipLines > 0
		if !old {
			p.newest, p.line = max(p.newest, second), second
		}
		for {
			b, err := in.ReadSlice('\n')
			end := len(b) > 0 && b[len(b)-1] == '\n'
			if !old {
				if skip := min(skipBytes, int64(len(b))); skip > 0 {
					b, skipBytes = b[skip:], skipBytes-skip
				}
				if _, err := w.Write(b); err != nil {
					return err
				}
				p.bytes += int64(len(b))
			}
			if end {
				if old {
					skipLines--
				} else {
					p.counts[second]++
					p.line, p.bytes, skipBytes = 0, 0, 0
				}
				break
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return endOf(err)
			}
		}
	}
}

// peekStamp waits for so much of a line that its timestamp can be read, and no longer.
func peekStamp(in *bufio.Reader) ([]byte, error) {
	for n := 1; ; n = in.Buffered() + 1 {
		if n > maxStamp {
			return in.Peek(maxStamp)
		}
		if b, err := in.Peek(n); err != nil {
			return b, err
		}
		b, _ := in.Peek(min(in.Buffered(), maxStamp)) // it is there
		if bytes.ContainsAny(b, " \n") {
			return b, nil
		}
	}
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// cutStamp finds a timestamp and the blank behind it: its length and its second.
func cutStamp(b []byte) (int, int64) {
	for i, c := range b {
		if c == ' ' {
			t, err := time.Parse(time.RFC3339Nano, string(b[:i]))
			if err != nil {
				return 0, 0
			}
			return i + 1, t.Unix()
		}
		if c == '\n' {
			break
		}
	}
	return 0, 0
}
