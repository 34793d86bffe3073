package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/backup"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/store"
)

// The names of a store in a backup.
const (
	storeFile = "store.db"
	storeText = "store.jsonl.zst"
)

// operations implements waybill.Operations for a running server.
type operations struct {
	s       *Server
	store   store.Store // as it was opened; the server's own counts what it does
	backing sync.Mutex  // held while a backup is made
	// sweeping is held by a sweep, and by a backup: what a snapshot refers to must
	// not go before it was saved.
	sweeping sync.Mutex
}

var _ waybill.Operations = (*operations)(nil)

// Backup implements waybill.Operations.
func (o *operations) Backup(ctx context.Context, opt waybill.BackupOptions, w io.Writer) error {
	if !o.backing.TryLock() {
		return &waybill.Error{Kind: waybill.KindConflict, Msg: "another backup is being made", RetryAfter: 10 * time.Second}
	}
	defer o.backing.Unlock()
	if err := backup.CheckKeys(opt.Keys); err != nil {
		return err
	}
	o.sweeping.Lock()
	defer o.sweeping.Unlock()
	s := o.s
	src := &backupSource{data: s.data, store: o.store, blobs: s.blobs, version: s.c.Version.Version, log: s.log, opt: opt}
	if opt.Project {
		src.project = s.c.Project
	}
	began := time.Now()
	m, err := src.write(ctx, w)
	if err != nil {
		s.log.Warn("backup not made", "who", opt.By.Name, "err", err)
		return err
	}
	s.log.Info("backup made", "id", m.ID, "who", opt.By.Name, "files", len(m.Files), "bytes", m.Bytes(), "missing", len(m.Missing),
		"took", time.Since(began).Round(time.Millisecond), "steps", src.stat.Steps, "longest_pause", src.stat.Longest.Round(time.Microsecond))
	return nil
}

// backupSource is what a backup is made of.
type backupSource struct {
	data    *dataDir
	store   store.Store
	blobs   *file.Store
	project string // folder, or empty
	version string
	log     *slog.Logger
	opt     waybill.BackupOptions

	stat store.SnapshotStat
}

// write writes the backup. The store comes first: content that it refers to was
// durable before.
func (b *backupSource) write(ctx context.Context, w io.Writer) (*backup.Manifest, error) {
	parent := b.data.join("backup")
	if err := os.RemoveAll(parent); err != nil { // of one that was broken off; there is one at a time
		return nil, err
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("make backup", "")
	}
	defer os.RemoveAll(parent) // what stays is removed by the next one
	instance, err := instanceOf(ctx, b.store)
	if err != nil {
		return nil, err
	}
	at := b.store.Now()
	info := b.store.Info()
	h := backup.Header{
		ID: waybill.NewID(at), Instance: instance, Node: b.data.node, At: at, Version: b.version, Engine: info.Engine, Schema: info.Schema, Keys: "none",
	}
	switch b.opt.Keys {
	case backup.KeysNone, "":
	case backup.KeysPlain:
		h.Keys = "plain"
	default:
		h.Keys = "encrypted"
	}
	path, name, err := b.saveStore(ctx, parent)
	if err != nil {
		return nil, err
	}
	fault.At("backup.snapshot")
	has := b.opt.Has
	if has == nil {
		has = func(string) bool { return false }
	}
	return backup.Write(ctx, w, h, b.files(ctx, path, name), has)
}

// saveStore makes a copy of the store in a file.
func (b *backupSource) saveStore(ctx context.Context, dir string) (path, name string, err error) {
	if s, ok := b.store.(store.Snapshotter); ok {
		path = filepath.Join(dir, storeFile)
		b.stat, err = s.Snapshot(ctx, path)
		return path, storeFile, err
	}
	path = filepath.Join(dir, storeText)
	err = backup.Pack(path, func(w io.Writer) error {
		_, err := store.WriteItems(w, b.store.Export(ctx))
		return err
	})
	return path, storeText, err
}

func opener(path string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, backup.Gone()
		}
		return f, err
	}
}

// files yields all files of the backup.
func (b *backupSource) files(ctx context.Context, storePath, storeName string) iter.Seq2[backup.File, error] {
	return func(yield func(backup.File, error) bool) {
		stopped := errors.New("stopped")
		give := func(f backup.File) error {
			if !yield(f, nil) {
				return stopped
			}
			return nil
		}
		err := give(backup.File{Entry: backup.Entry{Kind: backup.KindStore, Path: storeName}, Open: opener(storePath)})
		for _, part := range []func(context.Context, func(backup.File) error) error{b.keyFiles, b.objectFiles, b.logFiles, b.projectFiles} {
			if err == nil {
				err = part(ctx, give)
			}
		}
		if err != nil && err != stopped {
			yield(backup.File{}, err)
		}
	}
}

// keyNames are the files of a data directory that are what this server is.
var keyNames = []string{"node", "secret", secretKeyFile}

func (b *backupSource) keyFiles(_ context.Context, give func(backup.File) error) error {
	if b.opt.Keys == backup.KeysNone || b.opt.Keys == "" {
		return nil
	}
	for _, name := range keyNames {
		text, err := os.ReadFile(b.data.join(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if b.opt.Keys != backup.KeysPlain {
			if text, err = backup.Encrypt(text, b.opt.Keys); err != nil {
				return err
			}
			name += backup.Encrypted
		}
		f := backup.File{Entry: backup.Entry{Kind: backup.KindKey, Path: name}, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(text)), nil
		}}
		if err := give(f); err != nil {
			return err
		}
	}
	return nil
}

func (b *backupSource) objectFiles(ctx context.Context, give func(backup.File) error) error {
	open := func(sha string) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) {
			r, err := b.blobs.Open(ctx, sha)
			if waybill.IsKind(err, waybill.KindNotFound) {
				return nil, backup.Gone()
			}
			return r, err
		}
	}
	seen := map[string]bool{}
	if err := b.blobs.Walk(ctx, func(ref blob.Ref, _ time.Time) error {
		seen[ref.SHA256] = true
		return give(backup.File{Entry: backup.Entry{Kind: backup.KindObject, Path: ref.SHA256, SHA256: ref.SHA256, Size: ref.Size}, Open: open(ref.SHA256)})
	}); err != nil {
		return err
	}
	// Content that came meanwhile, or is missing: the manifest shall say so.
	var more []string
	if err := references(ctx, b.store, func(sha string) {
		if !seen[sha] {
			seen[sha] = true
			more = append(more, sha)
		}
	}); err != nil {
		return err
	}
	for _, sha := range more {
		if err := give(backup.File{Entry: backup.Entry{Kind: backup.KindObject, Path: sha}, Open: open(sha)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *backupSource) logFiles(ctx context.Context, give func(backup.File) error) error {
	return b.blobs.WalkLogs(ctx, func(rel, path string) error {
		return give(backup.File{Entry: backup.Entry{Kind: backup.KindLog, Path: rel}, Open: opener(path)})
	})
}

// projectFiles are the regular files of the project folder, but for the data
// directory, which often lies in it, and what version control keeps.
func (b *backupSource) projectFiles(ctx context.Context, give func(backup.File) error) error {
	if b.project == "" {
		return nil
	}
	return filepath.WalkDir(b.project, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.IsDir() {
			if abs, err := filepath.Abs(path); err == nil && (abs == b.data.path || e.Name() == ".git") {
				return filepath.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(b.project, path)
		if err != nil {
			return err
		}
		return give(backup.File{Entry: backup.Entry{Kind: backup.KindProject, Path: filepath.ToSlash(rel), Exec: info.Mode()&0o100 != 0}, Open: opener(path)})
	})
}

// referring are the tables whose rows name content.
var referring = []string{"object_version", "run", "step", "attempt"}

// references calls each for the checksum of all content that rows of the store name.
func references(ctx context.Context, st store.Store, each func(sha string)) error {
	const mark = `"sha256":"`
	for _, table := range referring {
		for after := ""; ; {
			page, err := st.Query(ctx, store.Query{Table: table, Tenant: "*", Limit: 500, After: after})
			if err != nil {
				return err
			}
			for _, row := range page.Rows {
				for rest := string(row.Val); ; {
					_, found, ok := strings.Cut(rest, mark)
					if !ok {
						break
					}
					if rest = found; len(found) > 64 && found[64] == '"' && strings.Trim(found[:64], "0123456789abcdef") == "" {
						each(found[:64])
					}
				}
			}
			if after = page.Next; after == "" {
				break
			}
		}
	}
	return nil
}

// instanceOf is the id of a store; empty for one that no server has used.
func instanceOf(ctx context.Context, st store.Store) (string, error) {
	row, err := st.Get(ctx, "", tableMeta, "instance")
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var id string
	return id, json.Unmarshal(row.Val, &id)
}
