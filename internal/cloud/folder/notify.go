package folder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
)

// maxKeys is how many changes are told one by one.
const maxKeys = 1000

// changes are what the kernel tells of a folder and all below it.
type changes struct {
	b      *Bucket
	prefix string
	w      *fsnotify.Watcher
}

// Notify implements cloud.Notifier. Folders that cannot be watched, because they
// are too many or may not be read, make it fail: then only listings tell.
func (b *Bucket) Notify(ctx context.Context, prefix string) (cloud.Changes, error) {
	w, err := fsnotify.NewBufferedWatcher(maxKeys)
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "watch folder %s: %w", b.dir, err)
	}
	c := &changes{b, prefix, w}
	if _, _, err := c.add(ctx, ""); err != nil {
		return nil, errors.Join(kind(err, "folder "+b.dir), w.Close())
	}
	return c, nil
}

func (c *changes) Close() error { return c.w.Close() }

// add watches a folder and all below it that may hold keys with the prefix, and
// returns the keys that are there.
func (c *changes) add(ctx context.Context, key string) (keys []string, more bool, err error) {
	if err := c.w.Add(filepath.Join(c.b.dir, filepath.FromSlash(key))); err != nil {
		return nil, false, err
	}
	r, err := os.OpenRoot(c.b.dir)
	if err != nil {
		return nil, false, err
	}
	defer r.Close() // it was only read
	names, err := readDir(r, strings.TrimSuffix(key, "/"))
	for _, d := range names {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		k := key + d.Name()
		if !d.IsDir() {
			if more = more || len(keys) >= maxKeys; !more && strings.HasPrefix(k, c.prefix) {
				keys = append(keys, k)
			}
			continue
		}
		if k += "/"; !strings.HasPrefix(k, c.prefix) && !strings.HasPrefix(c.prefix, k) {
			continue
		}
		below, m, err := c.add(ctx, k)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, errNotDir):
		case err != nil:
			return nil, false, err
		}
		keys, more = append(keys, below...), more || m || len(keys)+len(below) > maxKeys
	}
	return keys, more, err
}

// Wait implements cloud.Changes.
func (c *changes) Wait(ctx context.Context) ([]string, bool, error) {
	seen, more := map[string]bool{}, false
	take := func(ev fsnotify.Event) error {
		rel, err := filepath.Rel(c.b.dir, ev.Name)
		if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			return nil
		}
		if rel == "." {
			if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
				return waybill.E(waybill.KindNotFound, "folder %s is gone", c.b.dir)
			}
			return nil
		}
		key := path.Clean(filepath.ToSlash(rel))
		if ev.Has(fsnotify.Create) {
			if info, err := os.Lstat(ev.Name); err == nil && info.IsDir() {
				keys, m, err := c.add(ctx, key+"/")
				for _, k := range keys {
					seen[k] = true
				}
				more = more || m || err != nil
				return nil
			}
		}
		if ev.Op != fsnotify.Chmod && strings.HasPrefix(key, c.prefix) {
			seen[key] = true
		}
		return nil
	}
	for first := true; ; first = false {
		var ev fsnotify.Event
		var err error
		ok := true
		if first || len(seen) == 0 && !more {
			select {
			case <-ctx.Done():
				return nil, false, ctx.Err()
			case ev, ok = <-c.w.Events:
			case err, ok = <-c.w.Errors:
			}
		} else {
			select {
			case <-ctx.Done():
				return nil, false, ctx.Err()
			case ev, ok = <-c.w.Events:
			case err, ok = <-c.w.Errors:
			default:
				return told(seen, more)
			}
		}
		switch {
		case !ok:
			return nil, false, waybill.E(waybill.KindUnavailable, "folder %s is no longer watched", c.b.dir)
		case errors.Is(err, fsnotify.ErrEventOverflow):
			more = true
		case err != nil:
			return nil, false, waybill.E(waybill.KindUnavailable, "watch folder %s: %w", c.b.dir, err)
		default:
			if err := take(ev); err != nil {
				return nil, false, err
			}
		}
		if len(seen) > maxKeys {
			return told(seen, true)
		}
	}
}

func told(seen map[string]bool, more bool) ([]string, bool, error) {
	keys := make([]string, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	return keys, more, nil
}
