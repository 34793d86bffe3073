package facetcli

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxLine is the longest line that is read.
const maxLine = 64 << 20

// line is one line and where it stands.
type line struct {
	text []byte
	file string
	no   int
}

// input is the lines of several files, one after the other.
type input struct {
	files  []string // "-" is standard input
	stdin  io.Reader
	name   string // of the file that is read
	line   int    // number of the last line in it
	bytes  int64
	r      *bufio.Reader
	closer io.Closer
	buf    []byte
}

func (in *input) open() error {
	in.name, in.line = in.files[0], 0
	in.files = in.files[1:]
	r := in.stdin
	in.closer = io.NopCloser(nil)
	if in.name == "-" {
		in.name = "standard input"
	} else {
		f, err := os.Open(in.name)
		if err != nil {
			return err
		}
		r, in.closer = f, f
		if strings.HasSuffix(in.name, ".gz") {
			z, err := gzip.NewReader(f)
			if err != nil {
				return fmt.Errorf("%s: %w", in.name, err)
			}
			r = z
		}
	}
	in.r = bufio.NewReaderSize(r, 1<<20)
	return nil
}

// next returns the next line that is not empty, in memory of its own, or io.EOF.
func (in *input) next() (line, error) {
	for {
		if in.r == nil {
			if len(in.files) == 0 {
				return line{}, io.EOF
			}
			if err := in.open(); err != nil {
				return line{}, err
			}
		}
		text, err := in.read()
		if len(text) > 0 {
			return line{text, in.name, in.line}, nil
		}
		if err == nil {
			continue
		}
		in.r = nil
		if e := in.closer.Close(); err == io.EOF {
			err = e
		}
		if err != nil {
			return line{}, fmt.Errorf("%s: after line %d: %w", in.name, in.line, err)
		}
	}
}

// read returns one line without its end and the blanks around it.
func (in *input) read() ([]byte, error) {
	in.buf = in.buf[:0]
	for {
		part, err := in.r.ReadSlice('\n')
		in.bytes += int64(len(part))
		in.buf = append(in.buf, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(in.buf) > maxLine {
				return nil, fmt.Errorf("line %d is longer than %s", in.line+1, bytesText(maxLine))
			}
			continue
		}
		if len(in.buf) > 0 {
			in.line++
		}
		line := trim(in.buf)
		if len(line) == 0 {
			return nil, err
		}
		return append([]byte(nil), line...), nil
	}
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r' || b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}
