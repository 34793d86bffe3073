package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
)

// line is one line of the journal.
type line struct {
	Op     string       `json:"op"`
	Unit   string       `json:"unit,omitempty"`
	At     time.Time    `json:"at,omitzero"`
	PID    int          `json:"pid,omitempty"`
	Start  uint64       `json:"start,omitempty"` // start time of the process in clock ticks since boot
	Exit   *runner.Exit `json:"exit,omitempty"`
	Boot   string       `json:"boot,omitempty"`
	Cgroup string       `json:"cgroup,omitempty"`
}

// Operations of a line.
const (
	lineHead   = "head"   // a supervisor began: boot and cgroup folder
	lineIntent = "intent" // the unit is about to be started
	lineVoid   = "void"   // it was not: the machine had no room for it
	lineStart  = "start"  // it runs as this process
	lineExit   = "exit"   // it ended
	lineRemove = "remove" // it is forgotten
)

// record is what the journal knows of a unit. Without an exit the unit runs, or
// is lost when the supervisor that started it is gone.
type record struct {
	at    time.Time
	pid   int
	start uint64
	exit  *runner.Exit
}

// compactAt is the size from which the journal is written anew without what was
// forgotten.
const compactAt = 8 << 20

// journal is the memory of the supervisors of one folder. Every line is written
// with one write, before anybody is told what it says.
type journal struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	f       *os.File
	size    int64
	limit   int64 // size at which it is compacted next
	head    line
	records map[string]*record
	buf     bytes.Buffer
}

// openJournal reads the journal in dir. It returns the head of the supervisor
// before this one and takes a torn last line for what it is: not written.
func openJournal(dir string, log *slog.Logger) (j *journal, previous line, err error) {
	j = &journal{path: filepath.Join(dir, journalName), log: log, records: map[string]*record{}}
	b, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, line{}, err
	}
	for n := 1; len(b) > 0; n++ {
		text, rest, whole := bytes.Cut(b, []byte{'\n'})
		b = rest
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			if whole {
				log.Warn("a line of the journal cannot be read and is left out", "line", n, "error", err)
			}
			continue
		}
		if l.Op == lineHead {
			previous = l
		}
		j.apply(l)
	}
	return j, previous, nil
}

// begin writes the journal anew with the head of this supervisor. From then on
// lines can be added.
func (j *journal) begin(head line) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.head = head
	return j.compact()
}

func (j *journal) apply(l line) {
	switch l.Op {
	case lineIntent:
		j.records[l.Unit] = &record{at: l.At}
	case lineStart:
		if r := j.records[l.Unit]; r != nil {
			r.pid, r.start = l.PID, l.Start
		}
	case lineExit:
		r := j.records[l.Unit]
		if r == nil {
			r = &record{at: l.At}
			j.records[l.Unit] = r
		}
		r.exit = l.Exit
	case lineVoid, lineRemove:
		delete(j.records, l.Unit)
	}
}

// add writes a line. After an error the file is as it was; an end that could not
// be written is kept in memory and written with the next line that can be.
func (j *journal) add(l line) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf.Reset()
	if err := json.NewEncoder(&j.buf).Encode(l); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	n, err := j.f.Write(j.buf.Bytes())
	if err != nil {
		// What was written of the line must not spoil the next one.
		if n > 0 {
			if terr := j.f.Truncate(j.size); terr != nil {
				err = errors.Join(err, terr)
			}
		}
		if l.Op == lineExit || l.Op == lineRemove {
			j.apply(l)
			j.limit = 0
		}
		return fmt.Errorf("journal: %w", err)
	}
	j.size += int64(n)
	j.apply(l)
	if j.size >= j.limit {
		if err := j.compact(); err != nil {
			j.limit = j.size + compactAt // the old file is complete: go on with it
			j.log.Warn("the journal could not be made smaller", "error", err)
		}
	}
	return nil
}

// compact replaces the file by one that holds only what is still known.
func (j *journal) compact() error {
	tmp := j.path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	size, err := j.snapshot(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return fmt.Errorf("journal: %w", err)
	}
	if j.f != nil {
		j.f.Close()
	}
	j.f, j.size, j.limit = f, size, max(compactAt, 2*size)
	return nil
}

func (j *journal) snapshot(w io.Writer) (int64, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	if err := enc.Encode(j.head); err != nil {
		return 0, err
	}
	for unit, r := range j.records {
		lines := []line{{Op: lineIntent, Unit: unit, At: r.at}}
		if r.exit != nil {
			lines = []line{{Op: lineExit, Unit: unit, At: r.at, Exit: r.exit}}
		} else if r.pid != 0 {
			lines = append(lines, line{Op: lineStart, Unit: unit, PID: r.pid, Start: r.start})
		}
		for _, l := range lines {
			if err := enc.Encode(l); err != nil {
				return 0, err
			}
		}
	}
	n, err := w.Write(b.Bytes())
	return int64(n), err
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	return j.f.Close()
}
