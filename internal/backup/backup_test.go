package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/backup"
)

func text(kind backup.Kind, path, content string) backup.File {
	f := backup.File{Entry: backup.Entry{Kind: kind, Path: path}, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
	if kind == backup.KindObject {
		sum := sha256.Sum256([]byte(content))
		f.SHA256, f.Size = hex.EncodeToString(sum[:]), int64(len(content))
		f.Path = f.SHA256
	}
	return f
}

func files(list ...backup.File) iter.Seq2[backup.File, error] {
	return func(yield func(backup.File, error) bool) {
		for _, f := range list {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func archive(t *testing.T, has map[string]bool, list ...backup.File) []byte {
	t.Helper()
	var b bytes.Buffer
	h := backup.Header{ID: "id", Instance: "instance", Node: "node", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v1", Engine: "sqlite", Schema: 1, Keys: "none"}
	if _, err := backup.Write(t.Context(), &b, h, files(list...), func(sha string) bool { return has[sha] }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample() []backup.File {
	return []backup.File{
		text(backup.KindStore, "store.db", "rows"), text(backup.KindKey, "node", "n1"), text(backup.KindObject, "", "object a"), text(backup.KindObject, "", "object b"),
		text(backup.KindLog, "ab/run~unit.log", "same"), text(backup.KindLog, "ab/run~other.log", "same"), text(backup.KindProject, "bin/x.sh", "#!/bin/sh"), text(backup.KindLog, "cd/empty.log", ""),
	}
}

func options(t *testing.T, data string) backup.Options {
	return backup.Options{Data: data, Note: t.Logf, Store: func(_ context.Context, m *backup.Manifest, name, path string) error {
		if m.Instance != "instance" || name != "store.db" {
			t.Errorf("store %s of %s", name, m.Instance)
		}
		return os.Rename(path, filepath.Join(data, name))
	}}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestFolderAndArchive(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "backup")
	keep := func(list ...backup.File) int {
		t.Helper()
		f, err := backup.OpenFolder(folder)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := backup.OpenFolder(folder); !waybill.IsKind(err, waybill.KindConflict) {
			t.Errorf("the folder is held by two: %v", err)
		}
		a := archive(t, f.Has(), list...)
		if _, err := f.Keep(t.Context(), bytes.NewReader(a)); err != nil {
			t.Fatal(err)
		}
		return len(a)
	}
	first := keep(sample()...)
	again := keep(sample()...)
	if again >= first {
		t.Errorf("the same again took %d bytes, at first %d", again, first)
	}
	// What nobody names any more goes.
	fewer := append(sample()[:3:3], sample()[4:]...)
	keep(fewer...)
	if left, err := filepath.Glob(filepath.Join(folder, "files", "*", "*")); err != nil || len(left) != 6 {
		t.Errorf("%d contents are kept, %v; want 6", len(left), err)
	}
	packed := filepath.Join(dir, "b.tar.zst")
	if _, err := backup.KeepArchive(t.Context(), bytes.NewReader(archive(t, nil, fewer...)), packed); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.KeepArchive(t.Context(), bytes.NewReader(archive(t, nil, fewer...)), packed); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("over an archive that exists: %v", err)
	}
	for _, from := range []string{folder, packed} {
		m, err := backup.Check(t.Context(), from)
		if err != nil || len(m.Files) != 7 || m.Count(backup.KindLog) != 3 || m.Node != "node" {
			t.Errorf("%s: %+v, %v", from, m, err)
		}
		data := filepath.Join(dir, "data-"+filepath.Base(from))
		o := options(t, data)
		o.Project = filepath.Join(dir, "project-"+filepath.Base(from))
		if _, err := backup.Restore(t.Context(), from, o); err != nil {
			t.Fatal(err)
		}
		a := sample()[2]
		for path, want := range map[string]string{
			"store.db": "rows", "node": "n1", "blobs/objects/" + a.SHA256[:2] + "/" + a.SHA256[2:]: "object a", "blobs/logs/ab/run~unit.log": "same",
			"blobs/logs/ab/run~other.log": "same", "blobs/logs/cd/empty.log": "",
		} {
			if got := content(t, filepath.Join(data, path)); got != want {
				t.Errorf("%s holds %q, want %q", path, got, want)
			}
		}
		if got := content(t, filepath.Join(o.Project, "bin/x.sh")); got != "#!/bin/sh" {
			t.Errorf("project: %q", got)
		}
		if _, err := os.Stat(filepath.Join(data, backup.Unfinished)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the mark is left: %v", err)
		}
		if _, err := backup.Restore(t.Context(), from, o); !waybill.IsKind(err, waybill.KindConflict) {
			t.Errorf("into a folder that is in use: %v", err)
		}
	}
	// Somebody else's folder is left alone.
	if err := os.WriteFile(filepath.Join(dir, "letter"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.OpenFolder(dir); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("a folder with other things in it: %v", err)
	}
}

// Wherever an archive is cut and whatever byte of it is changed, it is refused, and
// so is a restore of it.
func TestDamage(t *testing.T) {
	whole := archive(t, nil, sample()...)
	dir := t.TempDir()
	refused := func(what string, b []byte) {
		t.Helper()
		f, err := backup.OpenFolder(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Keep(t.Context(), bytes.NewReader(b))
		f.Close()
		if err == nil {
			t.Errorf("%s: it is kept", what)
		}
		if _, err := backup.ReadFolder(filepath.Join(dir, "f")); err == nil {
			t.Fatalf("%s: there is a manifest", what)
		}
	}
	manifest := bytes.Index(whole, []byte(backup.ManifestName))
	for n := 0; n < manifest+512+700; n += 97 {
		refused(fmt.Sprint("cut at ", n), whole[:n])
	}
	for _, what := range []string{"rows", "object a", "same", `"path":"node"`, `"files":8`, `"format":1`} {
		at := bytes.LastIndex(whole, []byte(what))
		if at < 0 {
			t.Fatalf("no %q in the archive", what)
		}
		b := bytes.Clone(whole)
		b[at+len(what)-1] ^= 1
		refused("changed in "+what, b)
	}
	// A damaged content in a folder.
	f, err := backup.OpenFolder(filepath.Join(dir, "g"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Keep(t.Context(), bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	a := sample()[2].SHA256
	if err := os.WriteFile(filepath.Join(dir, "g", "files", a[:2], a[2:]), []byte("object x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Check(t.Context(), filepath.Join(dir, "g")); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("a damaged content: %v", err)
	}
	data := filepath.Join(dir, "data")
	if _, err := backup.Restore(t.Context(), filepath.Join(dir, "g"), options(t, data)); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("restore of a damaged content: %v", err)
	}
	if _, err := os.Stat(filepath.Join(data, backup.Unfinished)); err != nil {
		t.Errorf("a restore that failed looks as if it had ended: %v", err)
	}
	// Once the backup is whole again, the same command works.
	if err := os.WriteFile(filepath.Join(dir, "g", "files", a[:2], a[2:]), []byte("object a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), filepath.Join(dir, "g"), options(t, data)); err != nil {
		t.Error(err)
	}
}

// A backup from elsewhere cannot write outside of its folders.
func TestHostilePaths(t *testing.T) {
	for _, e := range []backup.Entry{
		{Kind: backup.KindLog, Path: "../../etc/cron.d/x"}, {Kind: backup.KindLog, Path: "/etc/x"}, {Kind: backup.KindKey, Path: "a/b"}, {Kind: backup.KindStore, Path: "../store.db"},
		{Kind: backup.KindProject, Path: "..\\x"}, {Kind: "other", Path: "x"}, {Kind: backup.KindProject, Path: ""},
	} {
		f := text(e.Kind, e.Path, "x")
		f.Entry.Kind, f.Entry.Path = e.Kind, e.Path
		var b bytes.Buffer
		if _, err := backup.Write(t.Context(), &b, backup.Header{}, files(f), func(string) bool { return false }); err == nil {
			t.Errorf("%+v was written", e)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "files/../../x", Size: 1, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := backup.OpenFolder(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Keep(t.Context(), &b); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("a name that leaves the folder: %v", err)
	}
}

// Content that goes while it is saved is told; a log that grows is saved as it was
// when it was measured; keys are opened by their identity only.
func TestMovingFiles(t *testing.T) {
	gone := text(backup.KindObject, "", "swept")
	gone.Open = func() (io.ReadCloser, error) { return nil, backup.Gone() }
	reads := 0
	grows := backup.File{Entry: backup.Entry{Kind: backup.KindLog, Path: "x.log"}, Open: func() (io.ReadCloser, error) {
		reads++
		return io.NopCloser(strings.NewReader(strings.Repeat("line\n", reads))), nil
	}}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar.zst")
	a := archive(t, nil, append(sample(), gone, grows)...)
	m, err := backup.KeepArchive(t.Context(), bytes.NewReader(a), path)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Missing) != 1 || m.Missing[0] != gone.SHA256 || len(m.Files) != 9 {
		t.Errorf("missing %v of %d files", m.Missing, len(m.Files))
	}
	data := filepath.Join(dir, "data")
	if _, err := backup.Restore(t.Context(), path, options(t, data)); err != nil {
		t.Fatal(err)
	}
	if got := content(t, filepath.Join(data, "blobs/logs/x.log")); got != "line\n" {
		t.Errorf("the log that grew: %q", got)
	}
	stop, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := backup.Check(stop, path); !errors.Is(err, context.Canceled) {
		t.Errorf("a check that was given up: %v", err)
	}
}
