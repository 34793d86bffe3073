package sqlite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// logState is what a write-ahead log holds. SQLite itself reads one up to the last
// commit before the first frame that is not intact and does not tell whether there
// was more. There may be, rightly: the last transaction was being written when the
// power went. But a commit that others follow was durable before they were written,
// so when it cannot be read, something that was acknowledged is lost.
type logState struct {
	exists   bool
	size     int64
	readable bool  // its header is intact
	frames   int   // intact ones
	commits  int   // that can be read
	bad      int64 // where the first frame that is not intact begins
	torn     int64 // bytes of this log behind the last readable commit
	lost     int   // durable commits behind it
}

const (
	logHeader   = 32
	frameHeader = 24
)

// readLog reads the log of a store. Format: https://www.sqlite.org/fileformat.html §4.
func readLog(path string) (logState, error) {
	var l logState
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return l, err
	}
	l.exists, l.size = true, st.Size()
	r := bufio.NewReaderSize(f, 1<<20)
	var head [logHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return l, ignoreEOF(err)
	}
	sum := checksum{order: binary.LittleEndian}
	switch binary.BigEndian.Uint32(head[:]) {
	case 0x377f0682:
	case 0x377f0683:
		sum.order = binary.BigEndian
	default:
		return l, nil
	}
	page := int64(binary.BigEndian.Uint32(head[8:]))
	if page < 512 || page > 65536 || page&(page-1) != 0 {
		return l, nil
	}
	if sum.add(head[:24]); !sum.is(head[24:]) {
		return l, nil
	}
	l.readable = true

	salts := string(head[16:24])
	frame := make([]byte, frameHeader+page)
	intact := true
	unsettled := 0 // commits behind the damage that nothing has followed yet
	for at := int64(logHeader); ; at += int64(len(frame)) {
		n, err := io.ReadFull(r, frame)
		if n < frameHeader {
			if n > 0 && intact {
				l.torn += int64(n)
			}
			return l, ignoreEOF(err)
		}
		if string(frame[8:16]) != salts {
			// From here on the frames are those of an earlier round, or this one is
			// damaged where its salts are.
			if intact {
				l.bad, intact = at, false
			}
			continue
		}
		commit := binary.BigEndian.Uint32(frame[4:]) != 0
		if intact {
			sum.add(frame[:8])
			if err == nil {
				sum.add(frame[frameHeader:])
			}
			if intact = err == nil && sum.is(frame[16:24]); !intact {
				l.bad = at
			}
		}
		l.torn += int64(n)
		switch {
		case intact && commit:
			l.commits++
			l.frames++
			l.torn = 0
		case intact:
			l.frames++
		default:
			l.lost += unsettled
			unsettled = 0
			if commit {
				unsettled = 1
			}
		}
		if err != nil {
			return l, ignoreEOF(err)
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// checksum is the running sum of a log.
type checksum struct {
	order  binary.ByteOrder
	s1, s2 uint32
}

func (c *checksum) add(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		c.s1 += c.order.Uint32(b) + c.s2
		c.s2 += c.order.Uint32(b[4:]) + c.s1
	}
}

func (c *checksum) is(b []byte) bool {
	return c.s1 == binary.BigEndian.Uint32(b) && c.s2 == binary.BigEndian.Uint32(b[4:])
}
