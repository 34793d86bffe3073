package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
)

// The bars of deliveries.
const (
	getP99        = 50     // ms
	matrixTime    = 100    // ms
	ingestRate    = 2_000  // reports a second
	rebuildRate   = 20_000 // events a second
	deliveryHours = 24 * 365
)

// fleet are the sizes of what is reported.
type fleet struct {
	deployments, events, services, rings, clusters, asks int
}

func deliveriesCommand(d Deps) *cobra.Command {
	o := options{Deps: d, callers: 64, seconds: 1}
	var x fleet
	cmd := &cobra.Command{
		Use: "deliveries", Short: "Measure deliveries: reports a second, lists, the matrix, making rows again", Args: cobra.NoArgs,
		Long: `Measure deliveries on a store of its own: how many reports a second are taken in durably, how long a list takes
with every filter, order and page, how long the matrix of all services takes, and how fast the rows are
made again from the events. The sizes are those of a large company; give smaller ones for a first look.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if x.deployments < 10 || x.services < 1 || x.rings < 1 || x.clusters < 1 || x.asks < 1 || x.events < 4*x.deployments {
				return waybill.E(waybill.KindInvalid, "there are at least 10 deployments, one service, ring, cluster and list, and four events of each deployment")
			}
			return measure(cmd, &o, func(ctx context.Context, o *options, s *sheet) error { return deliveries(ctx, o, &x, s) })
		},
	}
	common(cmd, &o)
	f := cmd.Flags()
	f.IntVar(&x.deployments, "deployments", 200_000, "how many deployments are reported")
	f.IntVar(&x.events, "events", 1_000_000, "how many reports tell of them, four of each at least; the rest is what clusters tell")
	f.IntVar(&x.services, "services", 300, "of so many services")
	f.IntVar(&x.rings, "rings", 5, "for so many rings")
	f.IntVar(&x.clusters, "clusters", 20, "in so many clusters of each ring")
	f.IntVar(&x.asks, "asks", 2_000, "how many lists are asked for")
	return cmd
}

var ringNames = []string{"dev", "test", "qa", "stage", "prod"}

func (x *fleet) ring(i int) string {
	if i < len(ringNames) {
		return ringNames[i]
	}
	return fmt.Sprintf("ring%d", i)
}

func hexCommit(kind, n int) string {
	return fmt.Sprintf("%08x%08x%024x", uint32(n)*2654435761+uint32(kind), uint32(kind*7919+n), n)
}

// reports calls f with the reports of one deployment, in order. Deployments of one place
// follow each other over a year; the last of each place is in all clusters.
func (x *fleet) reports(n int, f func(waybill.DeliveryReport)) {
	places := x.services * x.rings
	place := n % places
	service, ring := place%x.services, place/x.services
	build := n / places
	name := fmt.Sprintf("team%02d/service%03d", service%40, service)
	tag := fmt.Sprintf("registry.example.com/service%03d:%d", service, build)
	when := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(float64(n) / float64(x.deployments) * deliveryHours * float64(time.Hour))).Truncate(time.Millisecond)
	base := waybill.DeliveryReport{Provider: "native"}
	r := base
	r.Kind, r.Run, r.ImageTag, r.Service, r.Commit = waybill.ReportBuild, fmt.Sprintf("b%d-%d", service, build), tag, name, hexCommit(1, service*1_000_003+build)
	r.SourceRepo, r.Status = fmt.Sprintf("https://github.com/team%02d/service%03d", service%40, service), waybill.StatusSucceeded
	r.Time = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(build) * time.Hour)
	if ring == 0 {
		f(r) // one build for all rings
	}
	r = base
	r.Kind, r.Run, r.ImageTag, r.Ring, r.Status, r.Time = waybill.ReportConfig, fmt.Sprintf("c%d", n), tag, x.ring(ring), waybill.StatusSucceeded, when
	r.ConfigCommit, r.ConfigRepo, r.PullRequest = hexCommit(2, n), "https://github.com/ops/config", fmt.Sprint(n)
	f(r)
	r = base
	r.Kind, r.Run, r.Time = waybill.ReportManifest, fmt.Sprintf("m%d", n), when.Add(2*time.Minute)
	r.ConfigCommit, r.ConfigRepo, r.Status = hexCommit(2, n)[:8], "https://github.com/ops/config", waybill.StatusRunning
	f(r)
	r = base
	r.Kind, r.Stage, r.Run, r.Time = waybill.ReportRun, waybill.StageManifest, fmt.Sprintf("m%d", n), when.Add(3*time.Minute)
	r.Status, r.ManifestCommit, r.ManifestRepo = waybill.StatusSucceeded, hexCommit(3, n), "https://github.com/ops/manifests"
	if n%50 == 7 {
		r.Status, r.ManifestCommit = waybill.StatusFailed, ""
	}
	f(r)
	clusters := (x.events - 4*x.deployments + x.deployments - 1) / x.deployments
	if n >= x.deployments-places {
		clusters = x.clusters
	}
	for c := range min(clusters, x.clusters) {
		r = base
		r.Kind, r.Cluster, r.Ring, r.ClusterState = waybill.ReportSync, fmt.Sprintf("%s-%02d", x.ring(ring), c), x.ring(ring), waybill.ClusterHealthy
		r.Time, r.ManifestCommit, r.ManifestRepo = when.Add(time.Duration(5+c)*time.Minute), hexCommit(3, n), "https://github.com/ops/manifests"
		if n%50 != 7 {
			f(r)
		}
	}
}

func deliveries(ctx context.Context, o *options, x *fleet, s *sheet) (err error) {
	if o.Deliveries == nil {
		return errors.New("this program was built without deliveries")
	}
	dir, err := os.MkdirTemp("", "waybill-loadtest-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	where, drop, err := o.scratch(ctx)
	if err != nil {
		return err
	}
	defer drop()
	st, err := o.OpenStore(ctx, where, dir, o.DeliverySchema)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	d := o.Deliveries(st)

	// Callers follow the order closely, as tools that report at the same time do.
	o.note("%d deployments are reported by %d callers", x.deployments, o.callers)
	var told atomic.Int64
	next := atomic.Int64{}
	errs := make([]error, o.callers)
	lats := make([]times, o.callers)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range o.callers {
		wg.Go(func() {
			for errs[i] == nil && ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= x.deployments {
					return
				}
				x.reports(n, func(r waybill.DeliveryReport) {
					t := time.Now()
					if _, err := d.Report(ctx, r, waybill.Principal{Name: "loadtest"}); err != nil && errs[i] == nil {
						errs[i] = err
					}
					lats[i] = append(lats[i], time.Since(t))
					if c := told.Add(1); c%100_000 == 0 {
						o.note("%d reports after %s", c, time.Since(began).Round(time.Second))
					}
				})
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return err
	}
	var all times
	for _, l := range lats {
		all = append(all, l...)
	}
	events := int(told.Load())
	s.add("reports", float64(events)/took.Seconds(), "/s", atLeast(ingestRate), "%d durable reports of %d deployments, %d callers", events, x.deployments, o.callers)
	s.add("report p50", all.at(.5), "ms", bar{}, "under that load; each waits until it is durable")
	s.add("report p99", all.at(.99), "ms", bar{}, "")

	o.note("%d lists", x.asks)
	slowest := map[string]times{}
	all = nil
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same questions every time
	for i := range x.asks {
		name, f := x.question(rnd, i)
		t := time.Now()
		page, err := d.Deployments(ctx, f)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took := time.Since(t)
		all, slowest[name] = append(all, took), append(slowest[name], took)
		if f.Cursor = page.Next; f.Cursor != "" {
			t = time.Now()
			if _, err := d.Deployments(ctx, f); err != nil {
				return fmt.Errorf("%s, second page: %w", name, err)
			}
			all, slowest[name] = append(all, time.Since(t)), append(slowest[name], time.Since(t))
		}
	}
	worst := ""
	for name, l := range slowest {
		if p := l.at(.99); p > getP99/2 {
			o.note("%s: p50 %.1f ms, p99 %.1f ms", name, l.at(.5), p)
		}
		if worst == "" || l.at(.99) > slowest[worst].at(.99) {
			worst = name
		}
	}
	s.add("list p50", all.at(.5), "ms", bar{}, "50 rows; %d kinds of filter, order and page", len(slowest))
	s.add("list p99", all.at(.99), "ms", atMost(getP99), "")
	s.add("slowest list p99", slowest[worst].at(.99), "ms", atMost(getP99), "%s", worst)

	o.note("the matrix")
	var mats times
	cells := 0
	for range 20 {
		t := time.Now()
		m, err := d.Matrix(ctx, "")
		if err != nil {
			return err
		}
		mats, cells = append(mats, time.Since(t)), len(m.Cells)
	}
	s.add("matrix p50", mats.at(.5), "ms", atMost(matrixTime), "%d cells: %d services, %d rings, %d clusters of each", cells, x.services, x.rings, x.clusters)

	o.note("making the rows again")
	began = time.Now()
	r, err := d.Rebuild(ctx, "")
	if err != nil {
		return err
	}
	if r.Fixed != 0 {
		return fmt.Errorf("making %d rows again corrected %d values", r.Rows, r.Fixed)
	}
	s.add("rebuild", float64(r.Events)/time.Since(began).Seconds(), "/s", atLeast(rebuildRate), "%d events, %d rows, nothing to correct", r.Events, r.Rows)
	return nil
}

// question is a list that somebody may ask for.
func (x *fleet) question(rnd *rand.Rand, i int) (string, waybill.DeploymentFilter) {
	n := rnd.IntN(x.deployments)
	place := n % (x.services * x.rings)
	service := place % x.services
	f := waybill.DeploymentFilter{Limit: 50}
	var name []string
	add := func(what string) { name = append(name, what) }
	kinds := []func(){
		func() {},
		func() { f.Service = fmt.Sprintf("service%03d", service); add("service") },
		func() { f.Service = fmt.Sprintf("team%02d/service%03d", service%40, service); add("stored service") },
		func() { f.Ring = x.ring(place / x.services); add("ring") },
		func() {
			f.ImageTag = fmt.Sprintf("registry.example.com/service%03d:%d", service, n/(x.services*x.rings))
			add("tag")
		},
		func() { f.Commit = hexCommit(1, service*1_000_003+n/(x.services*x.rings))[:8]; add("commit") },
		func() { f.Build = fmt.Sprintf("b%d-%d", service, n/(x.services*x.rings)); add("build") },
		func() { f.Statuses = []waybill.DeploymentStatus{waybill.DeploymentFailed}; add("status") },
		func() { f.Statuses = []waybill.DeploymentStatus{waybill.DeploymentWaiting}; add("status of none") },
		func() { f.Kind = waybill.DeploymentManual; add("kind of none") },
		func() { f.Unlinked = true; add("unlinked") },
		func() {
			f.Since = time.Date(2025, 1, 1+rnd.IntN(300), 0, 0, 0, 0, time.UTC)
			f.Until = f.Since.AddDate(0, 0, 1)
			add("window")
		},
		func() {
			f.Service, f.Ring, f.Statuses = fmt.Sprintf("service%03d", service), x.ring(place/x.services), []waybill.DeploymentStatus{waybill.DeploymentFailed}
			add("service, ring and status")
		},
		func() {
			f.Ring, f.Statuses = x.ring(place/x.services), []waybill.DeploymentStatus{waybill.DeploymentWaiting, waybill.DeploymentCanceled}
			add("ring and statuses of none")
		},
		func() { f.Service, f.Ring = fmt.Sprintf("service%03d", service), "nowhere"; add("ring of none") },
	}
	kinds[i%len(kinds)]()
	sorts := []waybill.DeploymentSort{waybill.SortUpdated, waybill.SortUpdated, waybill.SortCreated, waybill.SortService, waybill.SortRing}
	f.Sort = sorts[i/len(kinds)%len(sorts)]
	f.Asc = i/len(kinds)/len(sorts)%2 == 1
	add("by " + string(f.Sort))
	return strings.Join(name, " "), f
}
