package sqlite

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
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

func schemaVersion() int { return len(migrations()) }

// checkVersion refuses a schema that a newer version of the program made.
func checkVersion(have int) error {
	if have > schemaVersion() {
		return waybill.E(waybill.KindConflict, "the store has schema %d, this version of Waybill knows up to %d", have, schemaVersion()).
			WithHint("start it with the newer version that wrote it")
	}
	return nil
}

// migrate applies what is missing, all of it in one transaction.
func (s *Store) migrate(ctx context.Context) error {
	var have int
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	files := migrations()
	if have == len(files) {
		return nil
	}
	tx, err := s.wconn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit
	for _, name := range files[have:] {
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version=%d", len(files))); err != nil {
		return err
	}
	if have > 0 {
		s.log.Info("store migrated", "from", have, "to", len(files))
	}
	return tx.Commit()
}
