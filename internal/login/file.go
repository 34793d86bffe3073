package login

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
)

// A lock that is older was left behind by a process that ended.
const lockLife = 2 * timeout

// File keeps the login for one server. It is safe for concurrent use, also by several
// processes.
type File struct {
	path   string
	server string
	secret string // of the client, see Provider
	now    func() time.Time

	mu   sync.Mutex
	kept *Login
}

// Open returns the file of a server in a folder, which need not exist. secret is that of
// the client, if its issuer wants one. A nil now means time.Now.
func Open(folder, server, secret string, now func() time.Time) (*File, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return nil, waybill.E(waybill.KindInvalid, "server %.200q is not a URL", server)
	}
	if now == nil {
		now = time.Now
	}
	// Two spellings of one server would be two logins, which costs a login and no more. Two
	// servers must never share one.
	server = strings.ToLower(u.Scheme+"://"+u.Host) + strings.TrimRight(u.Path, "/")
	sum := sha256.Sum256([]byte(server))
	host := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, strings.ToLower(u.Host))
	name := host[:min(len(host), 100)] + "-" + hex.EncodeToString(sum[:6]) + ".json"
	return &File{path: filepath.Join(folder, "login", name), server: server, secret: secret, now: now}, nil
}

// Path is where the login is kept.
func (f *File) Path() string { return f.path }

// Read returns the login; ok is false when there is none.
func (f *File) Read() (l Login, ok bool, err error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, false, nil
	}
	if err != nil {
		return l, false, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return l, false, waybill.E(waybill.KindInvalid, "others may read it (%v)", info.Mode().Perm()).WithOp("read login", f.path).
			WithHint("if nobody did: chmod 600 %s; otherwise: waybill logout", f.path)
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return l, false, err
	}
	if err := json.Unmarshal(b, &l); err != nil || l.Server != f.server {
		return Login{}, false, waybill.E(waybill.KindInvalid, "it is damaged").WithOp("read login", f.path).
			WithHint("remove it with: waybill logout")
	}
	l.Secret = f.secret
	return l, true, nil
}

// Write keeps a login, readable for its owner alone.
func (f *File) Write(l Login) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.write(l)
}

func (f *File) write(l Login) error {
	l.Server = f.server
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".login-*") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(b, '\n'))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	f.kept = &l
	return nil
}

// Remove forgets the login and asks its issuer to do so, too; the error of the latter is
// for telling, the file is gone. It reports whether there was one.
func (f *File) Remove(ctx context.Context) (was bool, revoke, err error) {
	l, ok, rerr := f.Read()
	err = os.Remove(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil, nil
	}
	f.mu.Lock()
	f.kept = nil
	f.mu.Unlock()
	if ok && rerr == nil {
		revoke = l.revoke(ctx)
	}
	return err == nil, revoke, err
}

// Token returns the token for the server, empty when nobody is logged in. One that is
// about to expire is renewed first. While its issuer cannot be reached, one that still
// counts is used.
func (f *File) Token(ctx context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept != nil && !f.ending(*f.kept) {
		return f.kept.Token(), nil
	}
	l, ok, err := f.Read()
	if err != nil || !ok {
		return "", err
	}
	if f.ending(l) && l.Refresh != "" {
		if l, err = f.renew(ctx, l); err != nil && (waybill.KindOf(err) == waybill.KindUnauthorized || !f.now().Before(l.Expires())) {
			return "", err
		}
	}
	if end := l.Expires(); !end.IsZero() && !f.now().Before(end) {
		return "", ended("its token expired at %s", end.UTC().Format(time.RFC3339))
	}
	f.kept = &l
	return l.Token(), nil
}

// ending reports whether a token is about to expire.
func (f *File) ending(l Login) bool {
	end := l.Expires()
	return !end.IsZero() && !f.now().Before(end.Add(-soon))
}

// renew gets new tokens, or takes those that another process got meanwhile: a refresh
// token may count once only. f.mu is held.
func (f *File) renew(ctx context.Context, l Login) (Login, error) {
	unlock, err := f.lock(ctx)
	if err != nil {
		return l, err
	}
	defer unlock()
	if newer, ok, err := f.Read(); err == nil && ok {
		if l = newer; !f.ending(l) {
			return l, nil
		}
	}
	fresh, err := l.renewed(ctx)
	if err != nil {
		return l, err
	}
	return fresh, f.write(fresh)
}

// lock keeps other processes from renewing at the same time.
func (f *File) lock(ctx context.Context) (unlock func(), err error) {
	path := f.path + ".lock"
	for {
		x, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			x.Close()
			return func() { _ = os.Remove(path) }, nil // an old one is removed by the next
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > lockLife {
			_ = os.Remove(path) // whoever comes first makes the new one
			continue
		}
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}
