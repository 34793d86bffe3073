package project

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/waybill-run/waybill"
)

// A change is taken up when nothing has changed for settleTime: editors and copies
// write in several steps. The folder is looked at every lookEvery besides, as not every
// file system tells of changes.
const (
	settleTime = 150 * time.Millisecond
	lookEvery  = 2 * time.Second
)

// Watch reloads the project whenever something has changed in its folder, or somebody
// sends to again, until ctx ends. done is told of each reload. What was there at Open
// is taken as read.
func (p *Project) Watch(ctx context.Context, again <-chan struct{}, done func(waybill.Reloaded, error)) {
	if p.dir == "" {
		return
	}
	events := make(<-chan fsnotify.Event)
	var failures <-chan error
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close()
		events, failures = w.Events, w.Errors
		p.watchDirs(w)
	} else {
		p.log.Info("the project folder is looked at every two seconds, as its changes are not told", "err", err)
	}
	seen := p.opened
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var settle <-chan time.Time
	last := seen
	for {
		forced := false
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			settle = time.After(settleTime)
			continue
		case _, ok := <-failures:
			if !ok {
				failures = nil
			}
			continue // the ticker finds what was not told
		case <-again:
			forced = true
		case <-look.C:
		case <-settle:
		}
		settle = nil
		now := fingerprint(os.DirFS(p.dir))
		switch {
		case forced:
		case now == seen:
			last = now
			continue
		case now != last:
			// It changes still, or was seen for the first time: once more in a moment.
			last = now
			settle = time.After(settleTime)
			continue
		}
		seen, last = now, now
		if w != nil {
			p.watchDirs(w)
		}
		r, err := p.Reload(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.Error("project not reloaded, trying again", "err", err)
			seen = "" // as if it had changed again
		}
		done(r, err)
	}
}

// watchDirs asks to be told of changes. A folder that was made anew is asked for again.
func (p *Project) watchDirs(w *fsnotify.Watcher) {
	for _, dir := range []string{p.dir, filepath.Join(p.dir, "pipelines")} {
		if err := w.Add(dir); err != nil && !os.IsNotExist(err) {
			p.log.Debug("folder is not watched", "dir", dir, "err", err)
		}
	}
}

// fingerprint tells whether the files that Read reads have changed.
func fingerprint(folder fs.FS) string {
	var b strings.Builder
	add := func(name string) {
		if info, err := fs.Stat(folder, name); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", name, info.Size(), info.ModTime().UnixNano())
		}
	}
	add(settingsFile)
	entries, err := fs.ReadDir(folder, "pipelines")
	if err != nil {
		fmt.Fprintf(&b, "pipelines %v\n", err)
	}
	for _, e := range entries {
		if ext := path.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
			add("pipelines/" + e.Name())
		}
	}
	return b.String()
}
