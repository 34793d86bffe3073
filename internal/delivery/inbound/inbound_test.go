package inbound_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/inbound/native"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// lines is a format of tests: each line is "OBJECT STATE SECONDS REVISION".
type lines struct{}

func (lines) Name() string { return "lines" }

func (lines) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Signature")
}

func (lines) Parse(r inbound.Request) (inbound.Parsed, error) {
	var p inbound.Parsed
	for line := range strings.Lines(string(r.Body)) {
		var object, state, revision string
		var at int
		if _, err := fmt.Sscan(line, &object, &state, &at, &revision); err != nil {
			return p, waybill.E(waybill.KindMalformed, "%w", err)
		}
		p.Notes = append(p.Notes, inbound.Note{Object: object, Report: waybill.DeliveryReport{
			Kind: waybill.ReportSync, Cluster: "west", ClusterState: waybill.ClusterState(state), Time: begin.Add(time.Duration(at) * time.Second), ManifestCommit: revision, Message: object,
		}})
	}
	return p, nil
}

var begin = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

type world struct {
	*testing.T
	in  *inbound.Inbound
	d   *delivery.Service
	now time.Time
	mu  sync.Mutex
}

func newWorld(t *testing.T, sources ...inbound.Source) *world {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), slices.Concat(delivery.Tables(), inbound.Tables()), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{T: t, now: begin.Add(time.Hour)}
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	w.d = delivery.New(delivery.Options{Store: s, Now: clock})
	w.in = inbound.New(inbound.Options{
		Store: s, Deliveries: w.d, Formats: []inbound.Format{lines{}, native.Format{}}, Now: clock, Sources: func() []inbound.Source { return sources },
		Mask: func(s string) string { return strings.ReplaceAll(s, "hidden", "***") },
		Secret: func(_ context.Context, name string) (string, error) {
			if name == "THERE" {
				return "there-key", nil
			}
			return "", waybill.E(waybill.KindNotFound, "there is no secret %s", name)
		},
	})
	return w
}

func (w *world) send(source, body string, head ...string) (waybill.Received, error) {
	h := http.Header{}
	for i := 0; i+1 < len(head); i += 2 {
		h.Set(head[i], head[i+1])
	}
	return w.in.Ingest(w.Context(), waybill.IngestRequest{Source: source, Header: h, Body: []byte(body)})
}

func (w *world) takes(body string) waybill.Received {
	w.Helper()
	r, err := w.send("lines", body)
	if err != nil {
		w.Fatalf("%s: %v", body, err)
	}
	return r
}

// row makes a row with a manifest commit and returns how it is in the cluster.
func (w *world) row(revision string) func() waybill.ClusterState {
	w.Helper()
	res, err := w.d.Report(w.Context(), waybill.DeliveryReport{Kind: waybill.ReportManifest, Service: "web", ImageTag: "web:" + revision, Ring: "prod", ManifestCommit: revision}, waybill.Principal{})
	if err != nil {
		w.Fatal(err)
	}
	id := res.Deployments[0].ID
	return func() waybill.ClusterState {
		d, err := w.d.Deployment(w.Context(), "", id)
		if err != nil {
			w.Fatal(err)
		}
		if len(d.Clusters) == 0 {
			return ""
		}
		return d.Clusters[0].State
	}
}

// Objects of a cluster that tell of themselves all at once are one state: the least of
// theirs.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	state := w.row("aaaaaaa1")
	var wg sync.WaitGroup
	for i := range 30 {
		said := "healthy"
		if i == 17 {
			said = "failed"
		}
		wg.Go(func() {
			if _, err := w.send("lines", fmt.Sprintf("o%d %s 5 aaaaaaa1", i, said)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := state(); got != waybill.ClusterFailed {
		t.Fatalf("with one that failed the cluster is %s", got)
	}
	w.takes("o17 healthy 6 aaaaaaa1")
	if got := state(); got != waybill.ClusterHealthy {
		t.Errorf("when all are healthy it is %s", got)
	}
	page, err := w.d.Deployment(t.Context(), "", func() string {
		p, err := w.d.Deployments(t.Context(), waybill.DeploymentFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return p.Items[0].ID
	}())
	if err != nil || len(page.Events) > 8 {
		t.Errorf("31 notes made %d events, %v", len(page.Events), err)
	}
}

// A cluster that returns to a revision is there as its objects say now; what they said
// the first time is over.
func TestReturns(t *testing.T) {
	w := newWorld(t)
	first, second := w.row("aaaaaaa1"), w.row("bbbbbbb2")
	w.takes("apps healthy 1 aaaaaaa1\ninfra failed 1 aaaaaaa1")
	if first() != waybill.ClusterFailed {
		t.Fatal(first())
	}
	w.takes("apps healthy 10 bbbbbbb2\ninfra healthy 10 bbbbbbb2")
	if second() != waybill.ClusterHealthy {
		t.Fatal(second())
	}
	r := w.takes("apps healthy 20 aaaaaaa1\ninfra healthy 20 aaaaaaa1")
	if first() != waybill.ClusterHealthy || len(r.Reports) == 0 {
		t.Errorf("it is back, and the row is %s: %+v", first(), r)
	}
	// What was under way before the return is late.
	if r := w.takes("apps failed 15 bbbbbbb2"); second() == waybill.ClusterPending {
		t.Errorf("%+v", r)
	}
	if first() != waybill.ClusterHealthy {
		t.Error(first())
	}
}

func TestRepetitionsAndBodies(t *testing.T) {
	w := newWorld(t)
	const body = `{"kind":"build","image_tag":"web:1","message":"hidden"}`
	a, err := w.send("native", body)
	if err != nil || !a.Fresh {
		t.Fatal(a, err)
	}
	w.now = w.now.Add(time.Hour)
	b, err := w.send("native", body)
	if err != nil || b.Fresh || b.ID != a.ID || !b.At.Equal(a.At) {
		t.Errorf("%+v, %v", b, err)
	}
	one, err := w.in.ReceivedOne(t.Context(), a.ID)
	if err != nil || strings.Contains(one.Body, "hidden") || !strings.Contains(one.Body, "web:1") {
		t.Errorf("%+v, %v", one, err)
	}
	// What was refused can be sent again when it is right.
	if _, err := w.send("native", `{"kind":"config","ring":"dev"}`); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Error(err)
	}
	list, err := w.in.ReceivedList(t.Context(), "", 10, "")
	if err != nil || len(list.Items) != 1 || list.Items[0].Body != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := w.in.Sweep(t.Context(), w.now.Add(29*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if list, _ := w.in.ReceivedList(t.Context(), "native", 10, ""); len(list.Items) != 1 {
		t.Error("it is forgotten too early")
	}
	if err := w.in.Sweep(t.Context(), w.now.Add(31*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if list, _ := w.in.ReceivedList(t.Context(), "native", 10, ""); len(list.Items) != 0 {
		t.Error("it is kept for ever")
	}
}

func TestWhoMaySend(t *testing.T) {
	w := newWorld(t,
		inbound.Source{Name: "both", Format: "native", Secret: "${secret:THERE}", Token: "a-token-1"},
		inbound.Source{Name: "lost", Format: "native", Token: "${secret:AWAY}"})
	const body = `{"kind":"build","image_tag":"web:1"}`
	const signature = "sha256=77b8a7fa8fa8bf16f5b6bd71e4b8b7c5f2e8cf1d1b8f3c2f6d1c1b9d9d6b8d7a" // of something else
	for name, x := range map[string]struct {
		source string
		head   []string
		want   waybill.Kind
	}{
		"nothing":           {"both", nil, waybill.KindUnauthorized},
		"the token alone":   {"both", []string{"Authorization", "Bearer a-token-1"}, waybill.KindUnauthorized},
		"a wrong signature": {"both", []string{"Authorization", "Bearer a-token-1", "X-Signature", signature}, waybill.KindUnauthorized},
		"md5":               {"both", []string{"Authorization", "Bearer a-token-1", "X-Signature", "md5=00"}, waybill.KindUnauthorized},
		"a secret is away":  {"lost", []string{"Authorization", "Bearer "}, waybill.KindUnavailable},
		"no source":         {"nobody", nil, waybill.KindNotFound},
	} {
		_, err := w.send(x.source, body, x.head...)
		if !waybill.IsKind(err, x.want) || strings.Contains(fmt.Sprint(err), "AWAY") {
			t.Errorf("%s: %v, want %s", name, err, x.want)
		}
	}
	if list, _ := w.in.ReceivedList(t.Context(), "", 10, ""); len(list.Items) != 0 {
		t.Error("something was taken")
	}
}
