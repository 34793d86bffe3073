package backup

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
)

// File is a file to be saved.
type File struct {
	Entry
	// Open opens the content. Where the entry has no checksum the content is read
	// twice, and the second time no more than the first: it may grow meanwhile.
	Open func() (io.ReadCloser, error)
}

// Write writes a backup to w as an archive: every file that has does not know, and
// the manifest. Files are read one after another as they are asked for. An archive
// without its manifest is no backup, so an error may come at any time.
func Write(ctx context.Context, w io.Writer, h Header, files iter.Seq2[File, error], has func(sha256 string) bool) (*Manifest, error) {
	h.Format = Format
	m := &Manifest{Header: h}
	buffered := bufio.NewWriterSize(w, 256<<10)
	out := tar.NewWriter(buffered)
	sent := map[string]bool{}
	for f, err := range files {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if err := f.measure(ctx); err != nil {
			if errors.Is(err, errGone) {
				if f.Kind == KindObject {
					m.Missing = append(m.Missing, f.Path)
				}
				continue
			}
			return nil, err
		}
		if err := f.check(); err != nil {
			return nil, waybill.E(waybill.KindInternal, "backup: %w", err)
		}
		if !sent[f.SHA256] && !has(f.SHA256) {
			err := f.send(ctx, out)
			if errors.Is(err, errGone) && f.Kind == KindObject {
				m.Missing = append(m.Missing, f.Path)
				continue
			}
			if err != nil {
				return nil, err
			}
			sent[f.SHA256] = true
		}
		m.Files = append(m.Files, f.Entry)
		fault.At("backup.file")
	}
	text, err := m.encode()
	if err != nil {
		return nil, err
	}
	if err := out.WriteHeader(&tar.Header{Name: ManifestName, Size: int64(len(text)), Mode: 0o600, ModTime: h.At}); err != nil {
		return nil, err
	}
	if _, err := out.Write(text); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return m, buffered.Flush()
}

// measure finds out checksum and size where they are not known.
func (f *File) measure(ctx context.Context) error {
	if f.SHA256 != "" {
		return nil
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close() // it was only read
	h := sha256.New()
	n, err := io.Copy(h, source{ctx, r})
	f.SHA256, f.Size = hex.EncodeToString(h.Sum(nil)), n
	return err
}

func (f *File) send(ctx context.Context, out *tar.Writer) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close() // it was only read
	if err := out.WriteHeader(&tar.Header{Name: "files/" + f.SHA256[:2] + "/" + f.SHA256[2:], Size: f.Size, Mode: 0o600}); err != nil {
		return err
	}
	if err := sum(out, io.LimitReader(source{ctx, r}, f.Size), &f.Entry); err != nil {
		return fmt.Errorf("save %s %s: %w", f.Kind, f.Path, err)
	}
	return nil
}
