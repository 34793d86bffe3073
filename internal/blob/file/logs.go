package file

import (
	"context"
	"io/fs"
	"path/filepath"
)

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.dir }

// WalkLogs calls f with the path of every log below the folder of logs, and its
// whole path, until f returns an error, which WalkLogs returns. A log may grow, or
// go, meanwhile.
func (s *Store) WalkLogs(ctx context.Context, f func(rel, path string) error) error {
	root := filepath.Join(s.dir, "logs")
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fault("list logs", unlessGone(err))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return f(filepath.ToSlash(rel), path)
	})
}
