package providertest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/netguard"
)

// Setup is what the suite needs of an implementation.
type Setup struct {
	Kind  string
	Serve func(w *World) http.Handler
	// New makes a provider for a server; web is its address.
	New func(web *url.URL, o provider.Options) provider.Provider
	// Repo is the repository of the world, and its path in addresses.
	Repo, Path string
	// What a run that succeeded, failed and runs is called: state and result.
	Succeeded, Failed, Running, Queued [2]string
	// Page is part of the path of lists of tags.
	Page string
	// CannotDeploy: deployments are not written back.
	CannotDeploy bool
	// CannotCount: compared commits are not counted.
	CannotCount bool
	// Annotations are looked at one by one.
	Annotations bool
}

// Example is a world with one of everything.
func Example(s Setup) *World {
	w := NewWorld(s.Repo)
	w.Token = "s3cr3t-t0ken"
	add := func(id string, state [2]string, commit string) {
		r := Run{ID: id, Number: id, State: state[0], Result: state[1], Branch: "main", Commit: Digest(commit), Queued: Noon, Environment: "dev"}
		if state != s.Queued {
			r.Started = Noon.Add(10 * time.Second)
		}
		if state == s.Succeeded || state == s.Failed {
			r.Finished = Noon.Add(3*time.Minute + 42*time.Second)
		}
		w.Runs[id] = r
	}
	add("4711", s.Succeeded, "a")
	add("4712", s.Failed, "b")
	add("4713", s.Running, "c")
	add("4714", s.Queued, "d")
	for i, name := range []string{"a", "b", "c", "d"} {
		w.Commits = append(w.Commits, Commit{SHA: Digest(name), Name: "Ada Byron", Email: "ada@example.com", Login: "ada", At: Noon.Add(time.Duration(i) * time.Minute)})
		w.Order = append(w.Order, Digest(name))
	}
	w.Pulls[42] = Pull{Number: 42, Title: "Take app 1.2", Source: "deploy/app-1.2", Target: "main", State: "merged", By: "bob", ByName: "Bob", Merge: Digest("merge"), Created: Noon, Ended: Noon.Add(time.Hour)}
	w.Pulls[43] = Pull{Number: 43, Title: "Take app 1.3", Source: "deploy/app-1.3", Target: "main", State: "open", Created: Noon}
	w.Pulls[44] = Pull{Number: 44, Title: "Never", Source: "x", Target: "main", State: "closed", Created: Noon, Ended: Noon.Add(time.Minute)}
	w.Tags = []Tag{
		{Name: "flux-sync", Commit: Digest("a"), Tagger: "Flux", Message: "Sync pointer", At: Noon},
		{Name: "flux-alaska", Commit: Digest("b"), Tagger: "Flux", Message: "Sync pointer", At: Noon},
		{Name: "flux-light", Commit: Digest("c"), At: Noon, Lightweight: true},
		{Name: "v1.0.0", Commit: Digest("c"), Tagger: "Ada", Message: "One", At: Noon},
	}
	return w
}

// Bench is a provider before a server.
type Bench struct {
	World *World
	P     provider.Provider
	Repo  provider.Repository
	URL   *url.URL
	token string
}

// Open starts a server for a world and makes a provider for it.
func Open(t testing.TB, s Setup, w *World, change ...func(*provider.Options)) *Bench {
	t.Helper()
	srv := httptest.NewServer(s.Serve(w))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	web, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	b := &Bench{World: w, URL: web, token: w.Token}
	o := provider.Options{Name: "test", Token: func(context.Context) (string, error) { return b.token, nil }, Timeout: 10 * time.Second}
	for _, f := range change {
		f(&o)
	}
	b.P = s.New(web, o)
	t.Cleanup(b.P.Client().Close)
	if b.Repo, err = provider.ParseRepository(srv.URL+"/"+s.Path, provider.Host{Kind: s.Kind, Web: web}); err != nil {
		t.Fatal(err)
	}
	return b
}

// Run asks for one run.
func (b *Bench) Run(t testing.TB, id string) provider.RunAnswer {
	t.Helper()
	out := b.P.Runs(t.Context(), []provider.RunQuery{{Repo: b.Repo, Stage: waybill.StageBuild, ID: id}})
	if len(out) != 1 {
		t.Fatalf("%d answers to one question", len(out))
	}
	return out[0]
}

func wantKind(t testing.TB, what string, err error, kind waybill.Kind) {
	t.Helper()
	if !waybill.IsKind(err, kind) {
		t.Errorf("%s: %v (kind %s), want kind %s", what, err, waybill.KindOf(err), kind)
	}
	if err != nil && strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("%s: the error holds the token: %v", what, err)
	}
}

// Test runs the suite.
func Test(t *testing.T, s Setup) {
	for name, f := range map[string]func(*testing.T, Setup){
		"runs": testRuns, "commits": testCommits, "pull requests": testPulls, "tags": testTags, "compare": testCompare,
		"paging": testPaging, "not modified": testETags, "rate limits": testLimits, "refusals": testRefusals,
		"broken answers": testBroken, "one of many": testIsolation, "guard": testGuard, "written back": testWritten,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, s) })
	}
}

func testRuns(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	for id, want := range map[string]waybill.Outcome{"4711": waybill.StatusSucceeded, "4712": waybill.StatusFailed, "4713": waybill.StatusRunning, "4714": waybill.StatusQueued} {
		a := b.Run(t, id)
		if a.Err != nil {
			t.Errorf("run %s: %v", id, a.Err)
			continue
		}
		if r := a.Run; r.Status != want || r.ID != id || !strings.Contains(r.URL, id) || r.Branch != "main" || r.QueuedAt.IsZero() || r.ChangedAt.IsZero() || len(r.Commit) != 40 ||
			r.FinishedAt.IsZero() == want.Terminal() || r.QueuedAt.Location() != time.UTC {
			t.Errorf("run %s: %+v", id, r)
		}
	}
	if r := b.Run(t, "4711").Run; !r.FinishedAt.Equal(Noon.Add(3*time.Minute+42*time.Second)) || !r.QueuedAt.Equal(Noon) {
		t.Errorf("times of a run: %+v", r)
	}
	wantKind(t, "a run that is gone", b.Run(t, "4799").Err, waybill.KindNotFound)
	wantKind(t, "a run that is no number", b.Run(t, "x/../y").Err, waybill.KindNotFound)
	if out := b.P.Runs(t.Context(), nil); len(out) != 0 {
		t.Error("answers without a question")
	}
	b.World.Forget()
	b.P.Runs(t.Context(), nil)
	if n := len(b.World.Calls()); n != 0 {
		t.Errorf("%d calls for nothing", n)
	}
	b.World.Change(func(w *World) { w.Hidden = true })
	if err := b.Run(t, "4711").Err; !waybill.IsKind(err, waybill.KindForbidden) && !waybill.IsKind(err, waybill.KindNotFound) || err == nil {
		t.Errorf("a repository that is not shown: %v", err)
	}
}

func testCommits(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	for _, sha := range []string{Digest("a"), Digest("a")[:7]} {
		c, err := b.P.Commit(t.Context(), b.Repo, sha)
		if err != nil || c.ID != Digest("a") || c.Author.Name != "Ada Byron" || c.Author.Username == "" || !c.At.Equal(Noon) {
			t.Errorf("commit %s: %+v, %v", sha, c, err)
		}
	}
	_, err := b.P.Commit(t.Context(), b.Repo, Digest("nothing"))
	wantKind(t, "a commit that is not there", err, waybill.KindNotFound)
	_, err = b.P.Commit(t.Context(), provider.Repository{}, Digest("a"))
	wantKind(t, "no repository", err, waybill.KindInvalid)
}

func testPulls(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	p, err := b.P.PullRequest(t.Context(), b.Repo, "42")
	if err != nil || p.State != waybill.ReviewMerged || p.MergedBy == nil || p.MergedBy.Username != "bob" || p.MergeCommit != Digest("merge") || p.Title != "Take app 1.2" ||
		p.SourceBranch != "deploy/app-1.2" || p.TargetBranch != "main" || !p.At.Equal(Noon.Add(time.Hour)) || !strings.Contains(p.URL, "/42") {
		t.Errorf("merged: %+v, %v", p, err)
	}
	p, err = b.P.PullRequest(t.Context(), b.Repo, "43")
	if err != nil || p.State != waybill.ReviewOpen || p.MergedBy != nil || p.MergeCommit != "" || !p.At.Equal(Noon) {
		t.Errorf("open: %+v, %v", p, err)
	}
	p, err = b.P.PullRequest(t.Context(), b.Repo, "44")
	if err != nil || p.State != waybill.ReviewClosed || p.MergeCommit != "" {
		t.Errorf("closed: %+v, %v", p, err)
	}
	_, err = b.P.PullRequest(t.Context(), b.Repo, "99")
	wantKind(t, "a pull request that is not there", err, waybill.KindNotFound)
	b.World.Forget()
	for _, id := range []string{"../../user", "42/../43", "", "x"} {
		_, err = b.P.PullRequest(t.Context(), b.Repo, id)
		wantKind(t, "pull request "+id, err, waybill.KindNotFound)
	}
	if len(b.World.Calls()) > 0 {
		t.Errorf("what is no number is asked for: %q", b.World.Calls())
	}
}

func testTags(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	list, err := b.P.Tags(t.Context(), b.Repo, "flux-")
	if err != nil || len(list) != 2 {
		t.Fatalf("tags: %+v, %v; want flux-alaska and flux-sync, no lightweight and no other ones", list, err)
	}
	if x := list[0]; x.Name != "flux-alaska" || x.Commit != Digest("b") || x.Tagger != "Flux" || x.Message != "Sync pointer" || !x.At.Equal(Noon) {
		t.Errorf("%+v", x)
	}
	b.World.Forget()
	if _, err := b.P.Tags(t.Context(), b.Repo, "flux-"); err != nil || len(b.World.Calls()) != 1 {
		t.Errorf("tags again: %v, calls %q; one is enough", err, b.World.Calls())
	}
	b.World.Change(func(w *World) { w.Tags[1].Commit = Digest("c") })
	if list, err = b.P.Tags(t.Context(), b.Repo, "flux-"); err != nil || len(list) != 2 || list[0].Commit != Digest("c") {
		t.Errorf("a tag that was moved: %+v, %v", list, err)
	}
	b.World.Change(func(w *World) { w.Tags = nil })
	if list, err := b.P.Tags(t.Context(), b.Repo, "flux-"); err != nil || len(list) != 0 {
		t.Errorf("no tags: %+v, %v", list, err)
	}
	if u := b.P.TagsURL(b.Repo); !strings.HasPrefix(u, b.URL.String()+"/") {
		t.Errorf("page of tags: %q", u)
	}
}

func testCompare(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	for _, c := range []struct {
		base, head    string
		ancestor      bool
		ahead, behind int
	}{{"a", "c", true, 2, 0}, {"c", "a", false, 0, 2}, {"b", "b", true, 0, 0}} {
		got, err := b.P.Compare(t.Context(), b.Repo, Digest(c.base), Digest(c.head))
		if err != nil || got.Ancestor != c.ancestor {
			t.Errorf("%s…%s: %+v, %v", c.base, c.head, got, err)
		}
		if !s.CannotCount && (got.Ahead != c.ahead || got.Behind != c.behind) {
			t.Errorf("%s…%s: %+v", c.base, c.head, got)
		}
	}
	if _, err := b.P.Compare(t.Context(), b.Repo, Digest("a"), Digest("nothing")); err == nil {
		t.Error("compared with what is not there")
	}
}

func testPaging(t *testing.T, s Setup) {
	w := Example(s)
	w.PerPage = 2
	w.Tags = nil
	for i := range 5 {
		w.Tags = append(w.Tags, Tag{Name: "flux-" + string(rune('a'+i)), Commit: Digest("a"), Tagger: "Flux", Message: "Sync", At: Noon})
	}
	b := Open(t, s, w)
	list, err := b.P.Tags(t.Context(), b.Repo, "flux-")
	if err != nil || len(list) != 5 {
		t.Errorf("%d tags, %v, calls %q", len(list), err, w.Calls())
	}
}

func testETags(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	one := b.Run(t, "4711").Run
	two := b.Run(t, "4711").Run
	if b.World.NotModified() != 1 || b.P.Client().Unchanged() != 1 || one == nil || two == nil || *one.By != *two.By && one.Status != two.Status {
		t.Errorf("%d answers that nothing has changed, calls %q", b.World.NotModified(), b.World.Calls())
	}
	b.World.Change(func(w *World) {
		r := w.Runs["4713"]
		r.State, r.Result, r.Finished = s.Succeeded[0], s.Succeeded[1], Noon.Add(time.Hour)
		w.Runs["4713"] = r
	})
	if r := b.Run(t, "4713"); r.Err != nil || r.Run.Status != waybill.StatusSucceeded {
		t.Errorf("what has changed: %+v", r)
	}
	// An answer "not modified" to what was never asked is no answer.
	c := Open(t, s, Example(s))
	c.World.Break("", Fault{Status: 304})
	wantKind(t, "304 for nothing", c.Run(t, "4711").Err, waybill.KindMalformed)
}

func testLimits(t *testing.T, s Setup) {
	now := Noon
	clock := func(o *provider.Options) { o.Now = func() time.Time { return now } }
	for name, f := range map[string]Fault{
		"429":              {Status: 429, Header: map[string]string{"Retry-After": "60"}},
		"429 with a date":  {Status: 429, Header: map[string]string{"Retry-After": Noon.Add(time.Minute).Format(http.TimeFormat)}},
		"403 and no calls": {Status: 403, Header: map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": strconv.FormatInt(Noon.Add(time.Minute).Unix(), 10)}, Body: `{"message":"API rate limit exceeded"}`},
		"403 secondary":    {Status: 403, Header: map[string]string{"Retry-After": "60"}, Body: `{"message":"You have exceeded a secondary rate limit"}`},
		"503 for a minute": {Status: 503, Header: map[string]string{"Retry-After": "60"}},
	} {
		now = Noon
		b := Open(t, s, Example(s), clock)
		f.Times = 1
		b.World.Break("", f)
		_, err := b.P.Commit(t.Context(), b.Repo, Digest("a"))
		var e *waybill.Error
		if !errors.As(err, &e) || e.RetryAfter != time.Minute || e.Kind != waybill.KindExhausted && e.Kind != waybill.KindUnavailable {
			t.Errorf("%s: %v, again after %v", name, err, e)
		}
		b.World.Forget()
		now = Noon.Add(59 * time.Second)
		_, err = b.P.Commit(t.Context(), b.Repo, Digest("a"))
		wantKind(t, name+": too early", err, waybill.KindExhausted)
		if n := len(b.World.Calls()); n != 0 {
			t.Errorf("%s: %d calls although none are wanted", name, n)
		}
		if until, _ := b.P.Client().Limit(); !until.Equal(Noon.Add(time.Minute)) {
			t.Errorf("%s: until %s", name, until)
		}
		now = Noon.Add(61 * time.Second)
		if _, err = b.P.Commit(t.Context(), b.Repo, Digest("a")); err != nil {
			t.Errorf("%s: in time: %v", name, err)
		}
	}
}

func testRefusals(t *testing.T, s Setup) {
	for _, c := range []struct {
		name string
		f    Fault
		want waybill.Kind
	}{
		{"401", Fault{Status: 401, Body: `{"message":"Bad credentials s3cr3t-t0ken"}`}, waybill.KindUnauthorized},
		{"403", Fault{Status: 403, Body: `{"message":"s3cr3t-t0ken lacks the scope"}`}, waybill.KindForbidden},
		{"500", Fault{Status: 500, Body: `oh no`}, waybill.KindUnavailable},
		{"502 as a page", Fault{Status: 502, Body: `<html>`, Header: map[string]string{"Content-Type": "text/html"}}, waybill.KindUnavailable},
		{"elsewhere", Fault{Status: 301, Header: map[string]string{"Location": "http://127.0.0.1:1/x"}}, waybill.KindUnavailable},
	} {
		b := Open(t, s, Example(s))
		b.World.Break("", c.f)
		wantKind(t, c.name+" for a run", b.Run(t, "4711").Err, c.want)
		_, err := b.P.Commit(t.Context(), b.Repo, Digest("a"))
		wantKind(t, c.name+" for a commit", err, c.want)
		_, err = b.P.PullRequest(t.Context(), b.Repo, "42")
		wantKind(t, c.name+" for a pull request", err, c.want)
		_, err = b.P.Tags(t.Context(), b.Repo, "flux-")
		wantKind(t, c.name+" for tags", err, c.want)
		_, err = b.P.Compare(t.Context(), b.Repo, Digest("a"), Digest("b"))
		wantKind(t, c.name+" for a comparison", err, c.want)
	}
	// A token that has expired, as this provider says it.
	b := Open(t, s, Example(s))
	b.token = "an-0ld-s3cr3t"
	err := b.Run(t, "4711").Err
	wantKind(t, "a token that has expired", err, waybill.KindUnauthorized)
	if err == nil || !strings.Contains(err.Error(), "deliveries.providers.test.token") || strings.Contains(err.Error(), "0ld") {
		t.Errorf("an expired token: %v; it must name the setting and not the token", err)
	}
	// A new one counts at once.
	b.token = b.World.Token
	if a := b.Run(t, "4711"); a.Err != nil {
		t.Errorf("a new token: %v", a.Err)
	}
	c := Open(t, s, Example(s), func(o *provider.Options) {
		o.Token = func(context.Context) (string, error) {
			return "", waybill.E(waybill.KindNotFound, "there is no secret PAT")
		}
	})
	err = c.Run(t, "4711").Err
	wantKind(t, "a secret that is not there", err, waybill.KindUnauthorized)
	if err == nil || !strings.Contains(err.Error(), "PAT") || len(c.World.Calls()) > 0 {
		t.Errorf("a secret that is not there: %v, calls %q", err, c.World.Calls())
	}
}

func testBroken(t *testing.T, s Setup) {
	for name, f := range map[string]Fault{
		"garbage": {Status: 200, Body: "\x00\xff not json"}, "another shape": {Status: 200, Body: `"text"`}, "numbers": {Status: 200, Body: `{"id":"x","sha":5,"value":7,"number":[],"iid":{},"pullRequestId":"y","commitId":3,"status":9,"aheadCount":"z"}`},
		"a page": {Status: 200, Body: "<html>hello", Header: map[string]string{"Content-Type": "text/html"}},
		"cut":    {Cut: true},
	} {
		b := Open(t, s, Example(s))
		b.World.Break("", f)
		check := func(what string, err error) {
			if k := waybill.KindOf(err); err == nil || k != waybill.KindMalformed && k != waybill.KindUnavailable && k != waybill.KindUnauthorized {
				t.Errorf("%s for %s: %v (%s)", name, what, err, k)
			}
		}
		check("a run", b.Run(t, "4711").Err)
		_, err := b.P.Commit(t.Context(), b.Repo, Digest("a"))
		check("a commit", err)
		_, err = b.P.PullRequest(t.Context(), b.Repo, "42")
		check("a pull request", err)
		_, err = b.P.Tags(t.Context(), b.Repo, "flux-")
		check("tags", err)
		_, err = b.P.Compare(t.Context(), b.Repo, Digest("a"), Digest("b"))
		check("a comparison", err)
	}
	// Objects without anything in them are no commits and no pull requests.
	b := Open(t, s, Example(s))
	b.World.Break("", Fault{Status: 200, Body: `{}`})
	_, err := b.P.Commit(t.Context(), b.Repo, Digest("a"))
	wantKind(t, "an empty commit", err, waybill.KindMalformed)
	_, err = b.P.PullRequest(t.Context(), b.Repo, "42")
	wantKind(t, "an empty pull request", err, waybill.KindMalformed)

	slow := Open(t, s, Example(s), func(o *provider.Options) { o.Timeout = 50 * time.Millisecond })
	slow.World.Break("", Fault{Stall: true})
	wantKind(t, "a server that does not answer", slow.Run(t, "4711").Err, waybill.KindUnavailable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.P.Commit(ctx, b.Repo, Digest("a"))
	wantKind(t, "a call that nobody waits for", err, waybill.KindCanceled)

	away := Open(t, s, Example(s), func(o *provider.Options) { o.API = nil })
	u := *away.URL
	u.Host = "127.0.0.1:1"
	gone := s.New(&u, provider.Options{Name: "test"})
	_, err = gone.Commit(t.Context(), b.Repo, Digest("a"))
	wantKind(t, "no server", err, waybill.KindUnavailable)
}

func testIsolation(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	ids := []string{"4711", "4799", "x", "4712", "4711"}
	var qs []provider.RunQuery
	for _, id := range ids {
		qs = append(qs, provider.RunQuery{Repo: b.Repo, Stage: waybill.StageBuild, ID: id})
	}
	out := b.P.Runs(t.Context(), qs)
	if len(out) != len(ids) {
		t.Fatalf("%d answers to %d questions", len(out), len(ids))
	}
	for i, id := range ids {
		good := id == "4711" || id == "4712"
		if good != (out[i].Err == nil) || good != (out[i].Run != nil) || good && out[i].Run.ID != id {
			t.Errorf("%s: %+v, %v", id, out[i].Run, out[i].Err)
		}
	}
}

func testGuard(t *testing.T, s Setup) {
	g, err := netguard.New([]string{"loopback"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := Open(t, s, Example(s), func(o *provider.Options) { o.Guard = func() netguard.Guard { return g } })
	err = b.Run(t, "4711").Err
	wantKind(t, "an address that is denied", err, waybill.KindUnavailable)
	if err == nil || !strings.Contains(err.Error(), "http.deny") || len(b.World.Calls()) > 0 {
		t.Errorf("an address that is denied: %v, calls %q", err, b.World.Calls())
	}
}

func testWritten(t *testing.T, s Setup) {
	b := Open(t, s, Example(s))
	u := provider.StatusUpdate{Commit: Digest("a"), Name: "waybill/dev", Environment: "dev", State: waybill.DeploymentInProgress, Description: strings.Repeat("it runs ", 50), URL: "https://waybill.example.com/x"}
	for _, state := range []waybill.DeploymentStatus{waybill.DeploymentInProgress, waybill.DeploymentWaiting, waybill.DeploymentComplete} {
		if u.State = state; state == waybill.DeploymentComplete {
			u.Description = "it is there"
		}
		if err := b.P.SetStatus(t.Context(), b.Repo, u); err != nil {
			t.Errorf("commit status %s: %v", state, err)
		}
	}
	list := b.World.Written()
	if len(list) != 3 || !strings.Contains(list[0].Path, "/statuses/"+Digest("a")) {
		t.Fatalf("written: %+v", list)
	}
	if last := list[2].Body["state"]; last != "success" && last != "succeeded" {
		t.Errorf("complete is written as %v", last)
	}
	u.Deployment = true
	err := b.P.SetStatus(t.Context(), b.Repo, u)
	if s.CannotDeploy {
		wantKind(t, "a deployment", err, waybill.KindUnsupported)
	} else {
		if err != nil {
			t.Fatalf("a deployment: %v", err)
		}
		n := len(b.World.Written())
		if err := b.P.SetStatus(t.Context(), b.Repo, u); err != nil || len(b.World.Written()) != n {
			t.Errorf("a deployment written twice: %v, %+v", err, b.World.Written()[n:])
		}
		u.State = waybill.DeploymentFailed
		if err := b.P.SetStatus(t.Context(), b.Repo, u); err != nil || len(b.World.Written()) != n+1 {
			t.Errorf("another state of a deployment: %v, %+v", err, b.World.Written())
		}
		if !slices.ContainsFunc(b.World.Written(), func(x Written) bool { return x.Body["environment"] == "dev" }) {
			t.Errorf("no environment: %+v", b.World.Written())
		}
	}
	b.World.Break("", Fault{Status: 500})
	wantKind(t, "a server in trouble", b.P.SetStatus(t.Context(), b.Repo, u), map[bool]waybill.Kind{true: waybill.KindUnsupported, false: waybill.KindUnavailable}[s.CannotDeploy])
}
