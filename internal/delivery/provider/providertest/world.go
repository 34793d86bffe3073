// Package providertest is the suite that every provider passes, servers that answer as
// Azure DevOps, GitHub and GitLab do, and a provider in memory for tests of what uses one.
package providertest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
)

// Run is a run of a world. Times that are zero were not yet.
type Run struct {
	ID, Number, Branch, Commit string
	// State and Result are in the words of the provider; Result empty: none yet.
	State, Result             string
	Queued, Started, Finished time.Time
	Release                   bool     // a classic release of Azure DevOps
	Environment, Image        string   // of a release
	Stages                    []string // results of the stages of a build of Azure DevOps, in order
	Job                       bool     // a job of GitHub Actions, which its run knows by another number
	SourceRepo                string   // of a build of Azure DevOps: owner/name on GitHub
}

// Commit is a commit of a world.
type Commit struct {
	SHA, Name, Email, Login string
	At                      time.Time
}

// Pull is a pull request of a world.
type Pull struct {
	Number                int
	Title, Source, Target string
	State                 string // open, merged or closed
	By                    string // login of who merged it
	ByName                string
	Merge                 string // commit
	Created, Ended        time.Time
}

// Tag is a tag of a world.
type Tag struct {
	Name, Commit, Tagger, Message string
	At                            time.Time
	Lightweight                   bool
}

// Object is the id of the tag object.
func (t Tag) Object() string { return Digest("tag " + t.Name + t.Commit) }

// Digest is 40 digits made of a text, for commits of tests.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:20])
}

// Written is a status that was written back.
type Written struct {
	Path string
	Body map[string]any
}

// World is what a server knows of one repository. Its methods, and those of the servers
// made of it, are safe for concurrent use; fields are changed with Change.
type World struct {
	mu       sync.Mutex
	Repo     string // owner/name, group/name or org/project/name
	Project  int    // number of a project of GitLab
	Token    string // that calls must be made with; empty takes all
	PerPage  int    // of lists; 0 is 100
	Runs     map[string]Run
	Commits  []Commit
	Pulls    map[int]Pull
	Tags     []Tag
	Order    []string // commits, the first is the ancestor of all others
	Hidden   bool     // the repository is not shown
	Avatars  map[string]string
	NoETags  bool
	faults   map[string]Fault
	calls    []string
	modified int
	written  []Written
}

// NewWorld returns one without anything in it.
func NewWorld(repo string) *World {
	return &World{Repo: repo, Project: 21000123, Runs: map[string]Run{}, Pulls: map[int]Pull{}, Avatars: map[string]string{}, faults: map[string]Fault{}}
}

// Change changes a world.
func (w *World) Change(f func(w *World)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// Fault is what goes wrong with a call.
type Fault struct {
	Status int // answered instead; 0 answers as always
	Header map[string]string
	Body   string
	Stall  bool // it is never answered
	Cut    bool // the connection is cut within the answer
	Times  int  // for how many calls; 0 is until it is taken away
}

// Break lets calls whose path holds a text go wrong; "" is of all. A zero Fault mends it.
func (w *World) Break(path string, f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.Status == 0 && !f.Stall && !f.Cut {
		delete(w.faults, path)
		return
	}
	w.faults[path] = f
}

// Calls are the paths that were asked for, with what was asked, in order.
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Forget forgets calls.
func (w *World) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls, w.modified = nil, 0
}

// NotModified is how many calls were answered so.
func (w *World) NotModified() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.modified
}

// Written are the statuses that were written back, in order.
func (w *World) Written() []Written {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.written)
}

// server wraps what a provider answers: calls are counted, the token is looked at, faults
// and ETags are dealt with.
func (w *World) server(token func(*http.Request) string, refuse func(http.ResponseWriter), answer http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.calls = append(w.calls, r.Method+" "+r.URL.RequestURI())
		var fault Fault
		for _, path := range slices.Sorted(maps.Keys(w.faults)) {
			if f := w.faults[path]; strings.Contains(r.URL.RequestURI(), path) {
				fault = f
				if f.Times == 1 {
					delete(w.faults, path)
				} else if f.Times > 1 {
					f.Times--
					w.faults[path] = f
				}
				break
			}
		}
		want := w.Token
		w.mu.Unlock()
		switch {
		case fault.Stall:
			<-r.Context().Done()
			return
		case fault.Status != 0:
			for k, v := range fault.Header {
				rw.Header().Set(k, v)
			}
			if rw.Header().Get("Content-Type") == "" {
				rw.Header().Set("Content-Type", "application/json")
			}
			rw.WriteHeader(fault.Status)
			fmt.Fprint(rw, fault.Body)
			return
		case want != "" && token(r) != want:
			refuse(rw)
			return
		}
		rec := &recorder{header: http.Header{}, code: 200}
		answer.ServeHTTP(rec, r)
		sum := sha256.Sum256(rec.body)
		etag := `W/"` + hex.EncodeToString(sum[:8]) + `"`
		maps.Copy(rw.Header(), rec.header)
		w.mu.Lock()
		plain := w.NoETags || fault.Cut || rec.code != 200 || r.Method != http.MethodGet
		if !plain {
			rw.Header().Set("ETag", etag)
			if r.Header.Get("If-None-Match") == etag {
				w.modified++
				w.mu.Unlock()
				rw.WriteHeader(http.StatusNotModified)
				return
			}
		}
		w.mu.Unlock()
		if rw.Header().Get("Content-Type") == "" {
			rw.Header().Set("Content-Type", "application/json; charset=utf-8")
		}
		if fault.Cut {
			rw.Header().Set("Content-Length", fmt.Sprint(len(rec.body)+100))
			rw.WriteHeader(rec.code)
			_, _ = rw.Write(rec.body[:len(rec.body)/2])
			panic(http.ErrAbortHandler)
		}
		rw.WriteHeader(rec.code)
		_, _ = rw.Write(rec.body)
	})
}

type recorder struct {
	header http.Header
	code   int
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(c int)   { r.code = c }
func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return len(b), nil
}

// paged cuts a list to a page, counted from 1, and says whether there are more.
func paged[T any](list []T, page, per int) ([]T, bool) {
	from := min(max(page-1, 0)*per, len(list))
	to := min(from+per, len(list))
	return list[from:to], to < len(list)
}

func (w *World) perPage() int {
	if w.PerPage > 0 {
		return w.PerPage
	}
	return 100
}

// commit finds a commit by a prefix.
func (w *World) commit(sha string) (Commit, bool) {
	for _, c := range w.Commits {
		if len(sha) >= 7 && strings.HasPrefix(c.SHA, sha) {
			return c, true
		}
	}
	return Commit{}, false
}

// lie says how head lies to base: commits ahead, behind, and the merge base.
func (w *World) lie(base, head string) (ahead, behind int, common string, ok bool) {
	at := func(sha string) int {
		return slices.IndexFunc(w.Order, func(c string) bool { return len(sha) >= 7 && strings.HasPrefix(c, sha) })
	}
	b, h := at(base), at(head)
	if b < 0 || h < 0 {
		return 0, 0, "", false
	}
	return max(h-b, 0), max(b-h, 0), w.Order[min(b, h)], true
}

// Noon is a time for tests.
var Noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// Person is a person of tests.
func Person(name string) waybill.Person { return waybill.Person{Name: name} }
