//go:build !slim

package ancestry_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/ancestry"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// upstream is a repository of manifests.
type upstream struct {
	t    *testing.T
	dir  string
	tree *git.Worktree
	n    int
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{t: t, dir: t.TempDir()}
	r, err := git.PlainInit(u.dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if u.tree, err = r.Worktree(); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *upstream) commit() string {
	u.t.Helper()
	u.n++
	if err := os.WriteFile(filepath.Join(u.dir, "file"), fmt.Append(nil, u.n), 0o600); err != nil {
		u.t.Fatal(err)
	}
	if _, err := u.tree.Add("file"); err != nil {
		u.t.Fatal(err)
	}
	h, err := u.tree.Commit(fmt.Sprint("commit ", u.n), &git.CommitOptions{Author: &object.Signature{Name: "ann", When: noon}})
	if err != nil {
		u.t.Fatal(err)
	}
	return h.String()
}

func tell(t *testing.T, s *delivery.Service, reports ...waybill.DeliveryReport) {
	t.Helper()
	for _, r := range reports {
		if _, err := s.Report(t.Context(), r, waybill.Principal{}); err != nil {
			t.Fatal(err)
		}
	}
}

// row are the reports of a deployment to prod whose manifests are a commit.
func row(service, build, commit, repo string, minute int) []waybill.DeliveryReport {
	at := noon.Add(time.Duration(minute) * time.Minute)
	return []waybill.DeliveryReport{
		{Kind: "build", Run: "b" + service + build, ImageTag: service + ":" + build, Service: service, Commit: "c" + build, Time: at},
		{Kind: "manifest", Run: "m" + service + build, ImageTag: service + ":" + build, Ring: "prod", ManifestCommit: commit[:7], ManifestRepo: repo, Time: at},
	}
}

func at(cluster, commit string, minute int) waybill.DeliveryReport {
	return waybill.DeliveryReport{Kind: "sync", Cluster: cluster, ManifestCommit: commit, ClusterState: "healthy", Time: noon.Add(time.Duration(60+minute) * time.Minute)}
}

// where says which clusters have which images now, and how that is known.
func where(t *testing.T, s *delivery.Service) string {
	t.Helper()
	page, err := s.Deployments(t.Context(), waybill.DeploymentFilter{Sort: waybill.SortCreated, Asc: true})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range page.Items {
		x := d.ImageTag
		for _, c := range d.Clusters {
			x += fmt.Sprintf(" %s %s %s", c.Cluster, c.State, c.Match)
		}
		out = append(out, x)
	}
	return strings.Join(out, "; ")
}

func fold(s string) string { return strings.TrimSuffix(strings.ToLower(s), ".git") }

func look(t *testing.T, r *ancestry.Resolver, want int) {
	t.Helper()
	if n, err := r.Look(t.Context()); err != nil || n != want {
		t.Fatalf("%d revisions were resolved, want %d: %v", n, want, err)
	}
}

func TestF70_Clone(t *testing.T) {
	deliverytest.EveryStore(t, func() time.Time { return noon }, func(t *testing.T, s *delivery.Service) {
		u := newUpstream(t)
		m1, m2, m3 := u.commit(), u.commit(), ""
		clone := ancestry.NewClone(ancestry.CloneOptions{Dir: t.TempDir(), Repo: u.dir, Nameless: true, Fold: fold})
		var log bytes.Buffer
		r := ancestry.New(ancestry.Options{
			Deliveries: s, Sources: func() []ancestry.Source { return []ancestry.Source{clone} }, Now: func() time.Time { return noon },
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		tell(t, s, row("a", "1", m1, u.dir, 1)...)
		tell(t, s, row("b", "1", m2, u.dir, 2)...)
		tell(t, s, at("west", m2, 1), at("east", m1, 2))
		if got, want := where(t, s), "a:1 east healthy commit; b:1 west healthy commit"; got != want {
			t.Errorf("before: %s\nwant %s", got, want)
		}
		look(t, r, 2)
		if got, want := where(t, s), "a:1 east healthy commit west healthy ancestry; b:1 west healthy commit"; got != want {
			t.Errorf("%s\nwant %s\n%s", got, want, log.String())
		}
		m3 = u.commit()
		tell(t, s, row("a", "2", m3, u.dir, 3)...)
		tell(t, s, at("west", m3, 3))
		if got, want := where(t, s), "a:1 east healthy commit west superseded ancestry; b:1 west healthy commit; a:2 west healthy commit"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		look(t, r, 0) // fetched a moment ago: it is asked again a little later
		if !strings.Contains(log.String(), "has no commit "+m3) {
			t.Errorf("log: %s", log.String())
		}
		rebuilt, err := s.Rebuild(t.Context(), "")
		if err != nil || rebuilt.Fixed != 0 {
			t.Errorf("rebuild: %+v %v", rebuilt, err)
		}
		// Another server, without what this one remembers; it fetches at once.
		other := ancestry.NewClone(ancestry.CloneOptions{Dir: t.TempDir(), Repo: u.dir, Nameless: true, Fold: fold})
		look(t, ancestry.New(ancestry.Options{Deliveries: s, Sources: func() []ancestry.Source { return []ancestry.Source{other} }}), 1)
		look(t, ancestry.New(ancestry.Options{Deliveries: s, Sources: func() []ancestry.Source { return []ancestry.Source{other} }}), 0)
		if got, want := where(t, s), "a:1 east healthy commit west superseded ancestry; b:1 west healthy commit; a:2 west healthy commit"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// A provider that compares does as well as a clone, for what was deployed.
func TestF70_Compared(t *testing.T) {
	s := deliverytest.New(t, func() time.Time { return noon })
	const m1, m2, m3 = "1111111aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "2222222aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "3333333aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	order := map[string]int{m1[:7]: 1, m2[:7]: 2, m3[:7]: 3}
	asked := 0
	source := ancestry.Compared{
		Of:     func(string) bool { return true },
		Newest: s.ManifestCommits,
		Ancestor: func(_ context.Context, _, base, head string) (bool, error) {
			asked++
			if order[base[:7]] == 0 || order[head[:7]] == 0 {
				return false, waybill.E(waybill.KindNotFound, "no such commit")
			}
			return order[base[:7]] <= order[head[:7]], nil
		},
	}
	r := ancestry.New(ancestry.Options{Deliveries: s, Sources: func() []ancestry.Source { return []ancestry.Source{source} }})
	tell(t, s, row("a", "1", m1, "https://example.com/m", 1)...)
	tell(t, s, row("b", "1", m2, "https://example.com/m", 2)...)
	tell(t, s, row("a", "2", m3, "https://example.com/m", 3)...)
	tell(t, s, row("z", "1", "9999999", "https://example.com/other", 4)...)
	tell(t, s, at("west", m2, 1), at("east", m1, 2))
	look(t, r, 2)
	if got, want := where(t, s), "a:1 east healthy commit west healthy ancestry; b:1 west healthy commit; a:2; z:1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	tell(t, s, at("west", m3, 3))
	look(t, r, 1)
	if got, want := where(t, s), "a:1 east healthy commit west superseded ancestry; b:1 west healthy commit; a:2 west healthy commit; z:1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	before := asked
	look(t, r, 0)
	if asked != before {
		t.Errorf("what is known was asked %d times", asked-before)
	}
}

// What a host says is told without the token, and a host that says nothing is not waited for.
func TestCloneTellsNoCredentials(t *testing.T) {
	s := deliverytest.New(t, func() time.Time { return noon })
	tell(t, s, row("a", "1", "1111111", "", 1)...)
	tell(t, s, at("west", "2222222aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 1))
	hang := make(chan struct{})
	defer close(hang)
	for name, answer := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no: hunter2", http.StatusUnauthorized) },
		"broken":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusInternalServerError) },
		"silent": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello</html>") },
	} {
		ts := httptest.NewServer(answer)
		repo := strings.Replace(ts.URL, "http://", "http://ann:hunter2@", 1) + "/m.git"
		clone := ancestry.NewClone(ancestry.CloneOptions{
			Dir: t.TempDir(), Repo: repo, Nameless: true, Fold: fold,
			Auth: func(context.Context) (string, string, error) { return "", "hunter2", nil },
		})
		_, err := clone.History(timeout(t, 2*time.Second), "", "", "2222222aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", func(string) (bool, error) { return false, nil }, 10)
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "/m.git") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "refused" && !waybill.IsKind(err, waybill.KindUnauthorized) {
			t.Errorf("%s: %v", name, err)
		}
		var log bytes.Buffer
		r := ancestry.New(ancestry.Options{
			Deliveries: s, Sources: func() []ancestry.Source { return []ancestry.Source{clone} }, Timeout: time.Second, Now: func() time.Time { return noon },
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		look(t, r, 0)
		look(t, r, 0) // not again so soon
		if strings.Contains(log.String(), "hunter2") || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("%s: log: %s", name, log.String())
		}
		ts.Close()
	}
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
