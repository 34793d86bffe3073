package process

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// protocol is the version spoken on the socket. A server meets a supervisor of
// another version after an upgrade with running units, so a change that an older
// side does not understand needs a new number.
const protocol = 1

// maxFrame bounds one message. The kernel allows a program 6 MiB of arguments
// and environment at most; the rest is for long lists.
const maxFrame = 64 << 20

// Files of the supervisor's folder.
const (
	socketName  = "supervisor.sock"
	lockName    = "supervisor.lock"
	logName     = "supervisor.log"
	journalName = "journal"
)

// hello is the first message of the supervisor on every connection.
type hello struct {
	Protocol int       `json:"protocol"`
	Instance string    `json:"instance"`
	PID      int       `json:"pid"`
	Start    uint64    `json:"start"` // start time of the process in clock ticks since boot
	Boot     string    `json:"boot"`
	Since    time.Time `json:"since"`
	Masks    bool      `json:"masks"` // it knows Spec.Mask
}

// Operations of a request.
const (
	opStart  = "start"
	opState  = "state"
	opWait   = "wait"
	opForget = "forget" // the request with the id in Of is no longer waited for; not answered
	opStop   = "stop"
	opRemove = "remove"
	opList   = "list"
)

// request is a message of a client. All of them may be repeated: a client that
// lost its connection sends them again.
type request struct {
	ID    uint64        `json:"id"`
	Op    string        `json:"op"`
	Of    uint64        `json:"of,omitempty"`
	Unit  string        `json:"unit,omitempty"`
	Grace time.Duration `json:"grace,omitempty"`
	Spec  *runner.Spec  `json:"spec,omitempty"`
}

// response answers the request of the same id. The answer to a wait is sent when
// the unit ends; all others follow at once, in any order.
type response struct {
	ID    uint64       `json:"id"`
	Kind  waybill.Kind `json:"kind,omitempty"` // of the error, if there was one
	Msg   string       `json:"msg,omitempty"`
	Exit  *runner.Exit `json:"exit,omitempty"`
	Units []string     `json:"units,omitempty"`
}

// frameWriter sends messages without ever blocking the sender: what is queued
// while a write is under way goes out together with the next one.
type frameWriter struct {
	c    net.Conn
	wake chan struct{}

	mu     sync.Mutex
	buf    []byte
	spare  []byte
	closed bool
}

func newFrameWriter(c net.Conn) *frameWriter {
	return &frameWriter{c: c, wake: make(chan struct{}, 1)}
}

// send queues v. A message that cannot be sent is dropped with its connection.
func (w *frameWriter) send(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxFrame {
		return waybill.E(waybill.KindTooLarge, "message of %d bytes is over the limit of %d", len(body), maxFrame)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(body)))
	w.buf = append(w.buf, body...)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// run writes until the connection fails or close is called.
func (w *frameWriter) run() {
	for range w.wake {
		w.mu.Lock()
		out := w.buf
		w.buf, w.spare = w.spare[:0], nil
		w.mu.Unlock()
		if len(out) > 0 {
			if _, err := w.c.Write(out); err != nil {
				w.c.Close() // the reader notices
				return
			}
		}
		if cap(out) <= 1<<20 { // do not keep what one long list needed
			w.mu.Lock()
			w.spare = out[:0]
			w.mu.Unlock()
		}
	}
}

func (w *frameWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.wake)
	}
}

// frameReader reads messages. The buffer is reused between them.
type frameReader struct {
	r   *bufio.Reader
	buf []byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 32<<10)}
}

func (f *frameReader) read(v any) error {
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > maxFrame {
		return fmt.Errorf("message of %d bytes is over the limit of %d", n, maxFrame)
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	body := f.buf[:n]
	if n > 1<<20 {
		f.buf = nil
	}
	if _, err := io.ReadFull(f.r, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}

// socketPath calls fn with a path of the socket in dir that fits into a socket
// address, which holds 107 bytes while data folders may be deeper.
func socketPath(dir string, fn func(path string) error) error {
	path := filepath.Join(dir, socketName)
	if len(path) < 108 {
		return fn(path)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return fn("/proc/self/fd/" + strconv.Itoa(fd) + "/" + socketName)
}

// samePeer reports an error unless the other end runs as this user.
func samePeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return fmt.Errorf("credentials of the other side: %w", cerr)
	}
	if int(cred.Uid) != os.Getuid() {
		return waybill.E(waybill.KindForbidden, "the other side runs as user %d, not %d", cred.Uid, os.Getuid())
	}
	return nil
}
