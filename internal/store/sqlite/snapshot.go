package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	sqlite "modernc.org/sqlite"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// A snapshot copies so many pages while commits wait, and then lets them have at
// least the same time.
const (
	snapshotPages = 48
	snapshotFlush = 16 << 20 // bytes after which the copy is flushed, outside of the pause
)

// Snapshot implements store.Snapshotter. The writer's own connection copies a few
// pages at a time between two transactions. What it writes meanwhile to pages that
// were copied goes to the copy as well, so the copy is never begun anew and no
// reader holds up the log; the result is the store as of the last step.
func (s *Store) Snapshot(ctx context.Context, path string) (stat store.SnapshotStat, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return stat, waybill.E(waybill.KindConflict, "%s is there already", filepath.Base(path)).WithOp("copy store", "")
	}
	defer func() {
		if err != nil {
			for _, end := range []string{"", "-journal", "-wal", "-shm"} {
				os.Remove(path + end) // nothing of it is worth keeping
			}
			err = unavailable(err)
		}
	}()
	var b *sqlite.Backup
	pause := func(f func(*writer) error) error {
		began := time.Now()
		err := s.aside(ctx, func(w *writer) error {
			began = time.Now() // it waited for its turn
			return f(w)
		})
		took := time.Since(began)
		stat.Longest, stat.Total, stat.Steps = max(stat.Longest, took), stat.Total+took, stat.Steps+1
		return err
	}
	finished := false
	finish := func() error {
		if b == nil || finished {
			return nil
		}
		finished = true
		return s.aside(context.WithoutCancel(ctx), func(w *writer) error {
			delete(w.snapshots, b)
			return b.Finish()
		})
	}
	defer func() {
		if ferr := finish(); err == nil {
			err = ferr
		}
	}()
	// The copy needs no flushes of its own: it is worth nothing before the last.
	to := dsn(path, "_pragma=synchronous(OFF)&_pragma=journal_mode(OFF)")
	if err := pause(func(w *writer) (err error) {
		b, err = w.conn.(interface {
			NewBackup(string) (*sqlite.Backup, error)
		}).NewBackup(to)
		if err == nil {
			w.snapshots[b] = true
		}
		return err
	}); err != nil {
		return stat, err
	}
	for more, copied := true, 0; more; {
		began := time.Now()
		if err := pause(func(*writer) (err error) {
			more, err = b.Step(snapshotPages)
			return err
		}); err != nil {
			return stat, err
		}
		if copied += snapshotPages * 4096; copied >= snapshotFlush {
			copied = 0
			if err := flush(path); err != nil {
				return stat, err
			}
		}
		if !more {
			break
		}
		t := time.NewTimer(time.Since(began))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return stat, ctx.Err()
		}
	}
	if err := finish(); err != nil {
		return stat, err
	}
	if err := settleCopy(ctx, path); err != nil {
		return stat, err
	}
	st, err := os.Stat(path)
	if err == nil {
		stat.Bytes = st.Size()
	}
	return stat, err
}

// settleCopy makes a copy of an open store one that was closed, durably.
func settleCopy(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", dsn(path, "_pragma=synchronous(FULL)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	for _, q := range []string{"PRAGMA journal_mode=DELETE", fmt.Sprintf("PRAGMA application_id=%d", closedID)} {
		if err == nil {
			_, err = db.ExecContext(ctx, q)
		}
	}
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err == nil {
		err = flush(path)
	}
	if err == nil {
		err = flush(filepath.Dir(path))
	}
	return err
}

func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// aside runs f on the writer's goroutine between two transactions. When ctx ends
// while f waits for its turn, f is not run.
func (s *Store) aside(ctx context.Context, f func(*writer) error) error {
	o := &op{run: f, done: make(chan struct{})}
	select {
	case s.asides <- o: // unbuffered: the writer has taken it
	case <-s.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	<-o.done
	return o.err
}

// saveBefore keeps a copy of the file as it was before a migration, so that the
// earlier version of the program can be had back.
func (s *Store) saveBefore(ctx context.Context, schema int) (string, error) {
	path := fmt.Sprintf("%s.schema-%d", s.path, schema)
	tmp := path + ".new"
	if err := ignoreAbsent(os.Remove(tmp)); err != nil {
		return "", err
	}
	_, err := s.wconn.ExecContext(ctx, "VACUUM INTO ?", tmp)
	if err == nil {
		err = settleCopy(ctx, tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = flush(filepath.Dir(path))
	}
	if err != nil {
		err = errors.Join(err, ignoreAbsent(os.Remove(tmp)))
		return "", waybill.E(waybill.KindUnavailable, "the store was not brought from schema %d to %d, because no copy of it could be made before: %w", schema, s.schemaVersion(), err).
			WithHint("make room for a second store.db in the data directory")
	}
	return path, nil
}
