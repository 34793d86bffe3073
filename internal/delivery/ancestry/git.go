//go:build !slim

package ancestry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/waybill-run/waybill"
)

// Clone is the history of one repository from a bare clone of it on this machine. Only
// what is new is fetched, when a revision is not known yet. Credentials go into no file,
// message or log. Safe for concurrent use.
type Clone struct {
	dir  string
	repo string
	name func(string) string // the form in which repositories are compared
	auth func(ctx context.Context) (user, token string, err error)
	all  bool // also of clusters that name no repository

	mu      sync.Mutex
	token   string // of the last fetch: a host may repeat it
	git     *git.Repository
	fetched time.Time
}

// pause is the least time between two fetches: a commit that is not there is not asked for
// all the time.
const pause = 5 * time.Second

// WithGit says that this program can clone.
const WithGit = true

// NewClone returns a clone that is made when it is first needed.
func NewClone(o CloneOptions) *Clone {
	sum := sha256.Sum256([]byte(o.Fold(o.Repo)))
	return &Clone{dir: filepath.Join(o.Dir, hex.EncodeToString(sum[:8])), repo: o.Repo, name: o.Fold, auth: o.Auth, all: o.Nameless}
}

// Has implements Source.
func (c *Clone) Has(repo string) bool {
	return repo == "" && c.all || repo != "" && c.name(repo) == c.name(c.repo)
}

// History implements Source.
func (c *Clone) History(ctx context.Context, _, _, revision string, known func(string) (bool, error), limit int) ([]waybill.CommitParents, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return nil, c.plain("open the clone of", err)
	}
	start, err := c.find(revision)
	if errors.Is(err, plumbing.ErrObjectNotFound) || errors.Is(err, plumbing.ErrReferenceNotFound) {
		if err := c.fetch(ctx); err != nil {
			return nil, c.plain("fetch", err)
		}
		start, err = c.find(revision)
	}
	if errors.Is(err, plumbing.ErrObjectNotFound) || errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, waybill.E(waybill.KindNotFound, "repository %s has no commit %.40s", c.shown(), revision)
	}
	if err != nil {
		return nil, c.plain("read", err)
	}
	var out []waybill.CommitParents
	seen := map[plumbing.Hash]bool{start: true}
	todo := []plumbing.Hash{start}
	for len(todo) > 0 && len(out) < limit {
		if err := ctx.Err(); err != nil {
			return nil, waybill.E(waybill.KindUnavailable, "the history of %s takes too long: %w", c.shown(), err)
		}
		h := todo[0]
		todo = todo[1:]
		if h != start {
			if ok, err := known(h.String()); err != nil {
				return nil, err
			} else if ok {
				continue
			}
		}
		commit, err := object.GetCommit(c.git.Storer, h)
		if err != nil {
			return nil, c.plain("read", err)
		}
		x := waybill.CommitParents{Commit: h.String()}
		for _, p := range commit.ParentHashes {
			x.Parents = append(x.Parents, p.String())
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
		out = append(out, x)
	}
	return out, nil
}

// find is the commit that a revision names, in full or by its first digits.
func (c *Clone) find(revision string) (plumbing.Hash, error) {
	if len(revision) == 40 {
		h := plumbing.NewHash(revision)
		_, err := object.GetCommit(c.git.Storer, h)
		return h, err
	}
	h, err := c.git.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return plumbing.ZeroHash, plumbing.ErrObjectNotFound
	}
	// A branch may be named like a commit.
	if !strings.HasPrefix(h.String(), strings.ToLower(revision)) {
		return plumbing.ZeroHash, plumbing.ErrObjectNotFound
	}
	return *h, nil
}

// open opens the clone, or makes an empty one. One that is broken is made anew.
func (c *Clone) open() error {
	if c.git != nil {
		return nil
	}
	g, err := git.PlainOpen(c.dir)
	if err != nil {
		if err := os.RemoveAll(c.dir); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(c.dir), 0o700); err != nil {
			return err
		}
		if g, err = git.PlainInit(c.dir, true); err != nil {
			return err
		}
	}
	c.git = g
	return nil
}

// fetch brings what is new of all branches.
func (c *Clone) fetch(ctx context.Context) error {
	if time.Since(c.fetched) < pause {
		return nil
	}
	o := &git.FetchOptions{
		RemoteURL: c.repo, RefSpecs: []config.RefSpec{"+refs/heads/*:refs/heads/*"}, Tags: git.NoTags, Force: true,
	}
	if c.auth != nil {
		user, token, err := c.auth(ctx)
		if err != nil {
			return err
		}
		if c.token = token; token != "" {
			if user == "" {
				user = "waybill" // hosts look at the token only
			}
			o.Auth = &http.BasicAuth{Username: user, Password: token}
		}
	}
	remote := git.NewRemote(c.git.Storer, &config.RemoteConfig{Name: "origin", URLs: []string{c.repo}})
	err := remote.FetchContext(ctx, o)
	c.fetched = time.Now()
	if errors.Is(err, git.NoErrAlreadyUpToDate) || errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return nil
	}
	return err
}

// shown is the address without credentials.
func (c *Clone) shown() string {
	u, err := url.Parse(c.repo)
	if err != nil || u.Host == "" {
		return c.repo
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

var userinfo = regexp.MustCompile(`://[^/@\s]+@`)

// plain is an error of git without what may hold credentials.
func (c *Clone) plain(verb string, err error) error {
	kind := waybill.KindUnavailable
	var hint string
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		kind, hint = waybill.KindUnauthorized, "set deliveries.manifests.NAME.token to one that may read the repository"
	case errors.Is(err, transport.ErrRepositoryNotFound):
		kind = waybill.KindNotFound
	}
	text := userinfo.ReplaceAllString(strings.ReplaceAll(err.Error(), c.repo, c.shown()), "://")
	if c.token != "" {
		text = strings.ReplaceAll(text, c.token, "***")
	}
	if u, err := url.Parse(c.repo); err == nil && u.User != nil {
		if p, ok := u.User.Password(); ok && p != "" {
			text = strings.ReplaceAll(text, p, "***")
		}
	}
	e := waybill.E(kind, "cannot %s repository %s: %s", verb, c.shown(), text)
	if hint != "" {
		return e.WithHint("%s", hint)
	}
	return e
}

var _ Source = (*Clone)(nil)
