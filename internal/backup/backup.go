// Package backup is the form of backups: how one is written, kept, checked and
// read back.
//
// A backup is a set of files, each named by its SHA-256, and a manifest that says
// what each of them is. In a folder it looks like this:
//
//	manifest.jsonl      written last, in one step; without it there is no backup
//	files/ab/cdef…      content
//
// and a file of it, NAME.tar.zst, is the same as an archive, the manifest at its
// end. A backup into a folder that holds one already adds what is new, puts the new
// manifest in the place of the old one, and then removes what only the old one
// named; whenever it ends, the folder holds one whole backup.
//
// The manifest is lines of JSON: a header, a line for each file, and a last line
// with the SHA-256 of the lines before it.
package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// Format is the version of the form. Others are refused.
const Format = 1

// ManifestName is the manifest's name in folder and archive.
const ManifestName = "manifest.jsonl"

// Header says what a backup is of.
type Header struct {
	Format   int       `json:"format"`
	ID       string    `json:"id"`
	Instance string    `json:"instance"` // of the store
	Node     string    `json:"node"`     // the server that made it
	At       time.Time `json:"at"`       // all that was finished before is in it
	Version  string    `json:"version"`  // of the program
	Engine   string    `json:"engine"`   // of the store: sqlite or postgres
	Schema   int       `json:"schema"`
	Keys     string    `json:"keys"` // none, plain or encrypted
	// Missing is content that the store refers to and that was not there.
	Missing []string `json:"missing,omitempty"`
}

// Kind says what a file of a backup is.
type Kind string

// The kinds.
const (
	KindStore   Kind = "store"   // store.db, or store.jsonl.zst: see store.WriteItems
	KindObject  Kind = "object"  // content of an object; the path is its SHA-256
	KindLog     Kind = "log"     // the path is that below logs/
	KindKey     Kind = "key"     // a file of the data directory, perhaps encrypted
	KindProject Kind = "project" // the path is that below the project folder
)

// Entry is a file of a backup.
type Entry struct {
	Kind   Kind   `json:"kind"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Exec   bool   `json:"exec,omitempty"` // may be executed
}

// Manifest is what a backup consists of.
type Manifest struct {
	Header
	Files []Entry
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, e := range m.Files {
		n += e.Size
	}
	return n
}

// Count is how many files of a kind there are.
func (m *Manifest) Count(k Kind) int {
	n := 0
	for _, e := range m.Files {
		if e.Kind == k {
			n++
		}
	}
	return n
}

func (e *Entry) check() error {
	sum, err := hex.DecodeString(e.SHA256)
	switch {
	case err != nil || len(sum) != sha256.Size || strings.ToLower(e.SHA256) != e.SHA256:
		return fmt.Errorf("%q is no SHA-256", e.SHA256)
	case e.Size < 0:
		return fmt.Errorf("a size of %d", e.Size)
	case !filepath.IsLocal(e.Path) || strings.Contains(e.Path, `\`):
		return fmt.Errorf("path %q", e.Path)
	}
	switch e.Kind {
	case KindStore, KindKey:
		if strings.ContainsRune(e.Path, '/') {
			return fmt.Errorf("path %q of a %s", e.Path, e.Kind)
		}
	case KindObject:
		if e.Path != e.SHA256 {
			return fmt.Errorf("object %q has the checksum %s", e.Path, e.SHA256)
		}
	case KindLog, KindProject:
	default:
		return fmt.Errorf("kind %q", e.Kind)
	}
	return nil
}

type trailer struct {
	End *struct {
		Files  int    `json:"files"`
		SHA256 string `json:"sha256"`
	} `json:"end"`
}

// encode writes the manifest.
func (m *Manifest) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m.Header); err != nil {
		return nil, err
	}
	for i := range m.Files {
		if err := enc.Encode(&m.Files[i]); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, `{"end":{"files":%d,"sha256":"%x"}}`+"\n", len(m.Files), sum)
	return b.Bytes(), nil
}

func damaged(format string, args ...any) error {
	return waybill.E(waybill.KindInvalid, "the manifest is damaged: "+format, args...).WithHint("use another backup")
}

// decode reads a manifest that is whole.
func decode(b []byte) (*Manifest, error) {
	last := bytes.LastIndexByte(bytes.TrimSuffix(b, []byte("\n")), '\n')
	if last < 0 || b[len(b)-1] != '\n' {
		return nil, damaged("it is cut off")
	}
	var t trailer
	if err := json.Unmarshal(b[last+1:], &t); err != nil || t.End == nil {
		return nil, damaged("it is cut off")
	}
	if sum := sha256.Sum256(b[:last+1]); hex.EncodeToString(sum[:]) != t.End.SHA256 {
		return nil, damaged("it differs from its checksum")
	}
	m := &Manifest{}
	lines := bufio.NewReader(bytes.NewReader(b[:last+1]))
	for n := 0; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if n == 0 {
			if err := json.Unmarshal(line, &m.Header); err != nil {
				return nil, damaged("line 1: %w", err)
			}
			if m.Format != Format {
				return nil, waybill.E(waybill.KindConflict, "the backup has format %d, this version of Waybill reads %d", m.Format, Format).
					WithHint("restore it with the version that made it, %s", m.Version)
			}
			continue
		}
		var e Entry
		err = json.Unmarshal(line, &e)
		if err == nil {
			err = e.check()
		}
		if err != nil {
			return nil, damaged("line %d: %w", n+1, err)
		}
		m.Files = append(m.Files, e)
	}
	if len(m.Files) != t.End.Files {
		return nil, damaged("it names %d files of %d", len(m.Files), t.End.Files)
	}
	return m, nil
}

// source ends reading with its context.
type source struct {
	ctx context.Context
	r   io.Reader
}

func (s source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// sum copies a file and checks that it is the one that an entry names.
func sum(w io.Writer, r io.Reader, e *Entry) error {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), r)
	if err != nil {
		return err
	}
	if n != e.Size || hex.EncodeToString(h.Sum(nil)) != e.SHA256 {
		return waybill.E(waybill.KindInvalid, "%s %s is damaged: %d bytes of %d, or others", e.Kind, e.Path, n, e.Size).WithHint("use another backup")
	}
	return nil
}

// errGone says that a file which was to be saved is not there any more.
var errGone = errors.New("gone")

// Gone marks the error of File.Open for a file that was deleted since it was
// listed; the backup goes on without it.
func Gone() error { return errGone }
