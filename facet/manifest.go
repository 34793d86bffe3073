package facet

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/waybill-run/waybill/facet/internal/disk"
	"github.com/waybill-run/waybill/facet/internal/segment"
)

const (
	manifestName = "MANIFEST"
	manifestTemp = "MANIFEST.tmp"
	lockName     = "LOCK"
	manifestV    = 1
)

// manifest says which files make up the index. It is one line of JSON and one with the checksum of the first.
type manifest struct {
	Format   int            `json:"format"`
	Schema   Schema         `json:"schema"`
	Seq      Seq            `json:"seq"`
	Next     uint64         `json:"next"` // number of the next file
	Segments []manifestPart `json:"segments"`
}

type manifestPart struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	CRC  uint32 `json:"crc"`
	Docs int    `json:"docs"`

	// What of it is deleted: all that is in the file, and the documents in Recent, as distances.
	Deleted *deleteFile `json:"deleted,omitempty"`
	Recent  []byte      `json:"recent,omitempty"`
}

// deleteFile is a file with a set of documents.
type deleteFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	CRC  uint32 `json:"crc"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m *manifest) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	return fmt.Appendf(b, "%08x\n", crc32.Checksum(b, castagnoli)), nil
}

func decodeManifest(b []byte) (*manifest, error) {
	bad := func(msg string) error { return &Error{Kind: ErrCorrupt, File: manifestName, Msg: msg} }
	line, sum, ok := bytes.Cut(b, []byte{'\n'})
	if !ok {
		return nil, bad("the file is cut off")
	}
	if string(sum) != fmt.Sprintf("%08x\n", crc32.Checksum(b[:len(line)+1], castagnoli)) {
		return nil, bad("it does not fit its checksum")
	}
	var m manifest
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, bad(err.Error())
	}
	if m.Format != manifestV {
		return nil, bad(fmt.Sprintf("format %d; this program knows %d", m.Format, manifestV))
	}
	if err := m.Schema.Check(); err != nil {
		return nil, bad(err.Error())
	}
	return &m, nil
}

// writeManifest puts a manifest in the place of the old one. sure is false if it is not known which
// of the two is there after a crash.
func writeManifest(fs disk.FS, b []byte) (sure bool, err error) {
	_ = fs.Remove(manifestTemp) // left by a crash
	f, err := fs.Create(manifestTemp)
	if err != nil {
		return true, err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return true, errors.Join(err, fs.Remove(manifestTemp))
	}
	// The entries of the new files are durable before the manifest that names them.
	if err := fs.Sync(); err != nil {
		return true, err
	}
	if err := fs.Rename(manifestTemp, manifestName); err != nil {
		return true, err
	}
	return false, fs.Sync()
}

// readManifest returns nil for a folder without index.
func readManifest(dir disk.FS) (*manifest, []byte, error) {
	b, err := dir.ReadFile(manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := decodeManifest(b)
	return m, b, err
}

// appendDocs appends documents as distances; they are in order.
func appendDocs(b []byte, docs []uint32) []byte {
	last := uint32(0)
	for _, d := range docs {
		b = binary.AppendUvarint(b, uint64(d-last))
		last = d + 1
	}
	return b
}

func addDocs(b []byte, set segment.Bits, n int) bool {
	next := uint64(0)
	for len(b) > 0 {
		x, k := binary.Uvarint(b)
		if k <= 0 || next+x >= uint64(n) {
			return false
		}
		next += x
		set.Set(uint32(next))
		next++
		b = b[k:]
	}
	return true
}

// readDeleted returns the set of a part's deleted documents, nil if there are none.
func (p *manifestPart) readDeleted(fs disk.FS) (segment.Bits, error) {
	if p.Deleted == nil && len(p.Recent) == 0 {
		return nil, nil
	}
	set := segment.NewBits(p.Docs)
	if d := p.Deleted; d != nil {
		b, err := fs.ReadFile(d.Name)
		if err != nil {
			return nil, &Error{Kind: ErrCorrupt, File: d.Name, Err: err}
		}
		if int64(len(b)) != d.Size || crc32.Checksum(b, castagnoli) != d.CRC || !addDocs(b, set, p.Docs) {
			return nil, &Error{Kind: ErrCorrupt, File: d.Name, Msg: "it does not fit its checksum"}
		}
	}
	if !addDocs(p.Recent, set, p.Docs) {
		return nil, &Error{Kind: ErrCorrupt, File: manifestName, Msg: "deletions of " + p.Name}
	}
	return set, nil
}

// writeFile writes a new file and makes it durable. On an error there is no such file.
func writeFile(fs disk.FS, name string, write func(io.Writer) error) (err error) {
	f, err := fs.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			_ = errors.Join(f.Close(), fs.Remove(name)) // the panic says more
			panic(p)
		}
		if err != nil {
			err = errors.Join(err, fs.Remove(name))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
