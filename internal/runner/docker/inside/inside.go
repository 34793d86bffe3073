// Package inside is what of this program runs inside a container: the first process,
// which starts the unit's own and watches over it.
//
// It is there because an engine cannot do what a unit is promised. What an engine is
// given in a container's environment, it stores and shows to everybody with its socket:
// here the environment comes over the standard input, and is nowhere but in memory. An
// engine tells of a signal as of a code of 128 and more, which a program can end with,
// too: the first process sees which it was. It writes both streams into one pipe, so
// that the log is in the order of writing. It reaps what a unit leaves behind, kills
// what a unit started when the unit ends, and ends it at its hard stop when no server
// is there to do so.
//
// Engines keep logs by lines, which is neither prompt nor exact: what has no newline yet
// they keep back, and long lines they cut, some without telling where. So a line that is
// long or waits is broken softly, with a mark that the server takes out again.
//
// What it has to tell it writes into the container's log, the one place that outlives
// servers and engines: a frame before the unit begins, and one after everything of it
// has ended. A frame has a word in front that only the server and this process know, so
// a unit cannot write one by accident.
package inside

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Order is what the first process is to do. The server sends it, when the container has
// begun, over its standard input.
type Order struct {
	Word     string    `json:"word"` // stands in front of frames
	Args     []string  `json:"args"`
	Env      []string  `json:"env"`              // over that of the image
	Output   int64     `json:"output,omitempty"` // bytes of output that are passed on; what follows is counted; 0 means all
	HardStop time.Time `json:"hard_stop,omitzero"`

	// Open are folders to be opened for all users, with everything below; nothing is run
	// then. It is asked of a container of its own, whose user is root, by a server that
	// is not.
	Open []string `json:"open,omitempty"`
}

// maxOrder is the longest order, above any environment that a kernel takes.
const maxOrder = 16 << 20

// Patience is how long the first process waits for its order.
const Patience = time.Minute

// CodeNoOrder is the exit code of a container whose first process got no order: nothing
// of the unit was executed. There is no frame in the log then.
const CodeNoOrder = 125

// SignalKill asks the first process to end the unit as SIGKILL does. SIGKILL itself would
// end the first process, which could not tell any more.
const SignalKill = 37

// Send writes an order.
func Send(w io.Writer, o Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if len(b) > maxOrder {
		return fmt.Errorf("environment and arguments have %d bytes, at most %d are possible", len(b), maxOrder)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// Receive reads an order, all of it or none.
func Receive(r io.Reader) (Order, error) {
	var o Order
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return o, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxOrder {
		return o, fmt.Errorf("an order of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return o, err
	}
	return o, json.Unmarshal(b, &o)
}

// Frame is what the first process tells.
type Frame struct {
	Began  time.Time `json:"began"`            // in both frames
	Ended  time.Time `json:"ended,omitzero"`   // in the last one
	Code   int       `json:"code,omitempty"`   //
	Signal string    `json:"signal,omitempty"` //
	Reason string    `json:"reason,omitempty"` // start_failed, hard_stop, oom_killed
	Text   string    `json:"text,omitempty"`   // for people
	Unsaid int64     `json:"unsaid,omitempty"` // bytes of output that were not passed on
}

// Last reports whether it is the frame after the end.
func (f Frame) Last() bool { return !f.Ended.IsZero() }

func mark(word string) []byte { return []byte("\x00waybill " + word + " ") }

func (f Frame) bytes(word string) []byte {
	b, _ := json.Marshal(f) // of strings, numbers and times
	return append(append(mark(word), b...), '\n')
}

// soft breaks a line of the container's log that is none of the unit's.
func soft(word string) []byte { return append(mark(word), '+', '\n') }

// maxFrame is the longest frame.
const maxFrame = 64 << 10

// Parser takes the frames out of a container's log. For one goroutine.
type Parser struct {
	// Frames receives what the first process tells, in order.
	Frames func(Frame)
	// Output receives what the unit wrote, in pieces that are valid during the call.
	Output func([]byte)

	mark []byte
	held []byte // may become a frame
}

// NewParser returns a parser of a log whose frames have this word.
func NewParser(word string, frames func(Frame), output func([]byte)) *Parser {
	return &Parser{Frames: frames, Output: output, mark: mark(word)}
}

// Write implements io.Writer; it returns no error.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	if len(p.held) > 0 {
		b = append(p.held, b...)
		p.held = nil
	}
	for len(b) > 0 {
		i := bytes.Index(b, p.mark)
		if i < 0 {
			keep := p.begun(b)
			p.output(b[:len(b)-keep])
			p.held = append([]byte(nil), b[len(b)-keep:]...)
			return n, nil
		}
		p.output(b[:i])
		b = b[i:]
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			if len(b) > maxFrame { // no frame after all
				p.output(b)
				return n, nil
			}
			p.held = append([]byte(nil), b...)
			return n, nil
		}
		var f Frame
		if text := b[len(p.mark):end]; string(text) == "+" {
			// a soft break
		} else if err := json.Unmarshal(text, &f); err != nil {
			p.output(b[:end+1])
		} else {
			p.Frames(f)
		}
		b = b[end+1:]
	}
	return n, nil
}

// begun is how many of the last bytes may be the beginning of a mark.
func (p *Parser) begun(b []byte) int {
	for k := min(len(b), len(p.mark)-1); k > 0; k-- {
		if bytes.HasPrefix(p.mark, b[len(b)-k:]) {
			return k
		}
	}
	return 0
}

// End lets go of what is held back: the log has ended.
func (p *Parser) End() {
	p.output(p.held)
	p.held = nil
}

func (p *Parser) output(b []byte) {
	if len(b) > 0 {
		p.Output(b)
	}
}
