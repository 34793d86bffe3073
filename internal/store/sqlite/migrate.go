package sqlite

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"

	"github.com/waybill-run/waybill"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations returns the embedded files in order; the version of a database is how
// many of them it has seen.
func migrations() []string {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is fixed
	}
	sort.Strings(names)
	return names
}

// schemaVersion is the version that this program makes.
func (s *Store) schemaVersion() int { return len(migrations()) + len(s.later) }

// checkVersion refuses a schema that a newer version of the program made.
func (s *Store) checkVersion(have int) error {
	if have > s.schemaVersion() {
		return waybill.E(waybill.KindConflict, "the store has schema %d, this version of Waybill knows up to %d", have, s.schemaVersion()).
			WithHint("start it with the newer version that wrote it, or put %s.schema-%d back, which was kept when it was migrated, and lose what came after", filepath.Base(s.path), s.schemaVersion())
	}
	return nil
}

// migrate applies what is missing, all of it in one transaction. A copy of the file
// as it was stays beside it.
func (s *Store) migrate(ctx context.Context) error {
	var have int
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	files := migrations()
	want := s.schemaVersion()
	if have == want {
		return nil
	}
	kept := ""
	if have > 0 {
		var err error
		if kept, err = s.saveBefore(ctx, have); err != nil {
			return err
		}
	}
	tx, err := s.wconn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit
	for i := have; i < want; i++ {
		name, text := "for a test", ""
		if i < len(files) {
			b, err := migrationFiles.ReadFile(files[i])
			if err != nil {
				return err
			}
			name, text = files[i], string(b)
		} else {
			text = s.later[i-len(files)]
		}
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version=%d", want)); err != nil {
		return err
	}
	if have > 0 {
		s.log.Info("store migrated", "from", have, "to", want, "copy_of_before", kept)
	}
	return tx.Commit()
}
