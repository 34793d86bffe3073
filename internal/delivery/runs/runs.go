// Package runs reports the stages of deliveries that runs of pipelines are (the key
// delivery of a definition): that they run, and how they ended.
//
// It reads the event log (package feed), so the engine knows nothing of it. What is to be
// reported becomes a message in the commit that moves the feed's place, and is reported by
// the handler of the message; a report has the id of its run, so that it counts once,
// however often servers are killed in between.
package runs

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Topic is that of reports to be made; their key is the run.
const Topic = "delivery-run"

// Plans finds definitions.
type Plans interface {
	Plan(ctx context.Context, name string, version int) (*pipeline.Plan, int, error)
}

// Runs tells of runs. waybill.Runs does.
type Runs interface {
	Run(ctx context.Context, id string) (waybill.RunDetail, error)
}

// Options of Reporter.
type Options struct {
	Store   store.Store
	Plans   Plans
	Runs    Runs
	Summary func(ctx context.Context, id string) (waybill.Run, error) // a run without its steps
	Report  func(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (waybill.ReportResult, error)
	URL     func() string // address of this server, for links; nil makes none
	Owner   string        // this server
	Lease   time.Duration
	Logger  *slog.Logger
	Pace    time.Duration // how soon a run is seen; 0 means 500 ms
}

// Reporter reads runs and reports them until it is stopped.
type Reporter struct {
	o      Options
	feed   *feed.Feed
	worker *queue.Worker

	// plain are runs of pipelines that are no deliveries, so that their steps need no
	// second look. Only the feed's goroutine uses it.
	plain map[string]bool
}

// Reports are tried for about a day.
const tries = 60

// Start begins to read and to report.
func Start(ctx context.Context, o Options) (*Reporter, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pace <= 0 {
		o.Pace = 500 * time.Millisecond
	}
	r := &Reporter{o: o, plain: map[string]bool{}}
	var err error
	if r.worker, err = queue.Start(ctx, queue.Options{
		Store: o.Store, Topic: Topic, Owner: o.Owner, Handler: r.report, Logger: o.Logger, Lease: o.Lease, MaxFails: tries, Patient: true,
	}); err != nil {
		return nil, err
	}
	r.feed = feed.Start(ctx, feed.Options{Store: o.Store, Name: "delivery-runs", Owner: o.Owner, Logger: o.Logger, Pace: o.Pace, Handle: r.handle})
	return r, nil
}

// Stop ends both. What is not reported yet is reported after the next start.
func (r *Reporter) Stop() {
	if r == nil {
		return
	}
	r.feed.Stop()
	r.worker.Stop()
}

// maxPlain bounds what is remembered.
const maxPlain = 10_000

// handle is the handler of the feed.
func (r *Reporter) handle(ctx context.Context, b feed.Batch) (feed.Effect, error) {
	var out feed.Effect
	for i := range b.Events {
		e := &b.Events[i]
		id, ok := strings.CutPrefix(e.Subject, "run/")
		if !ok || e.Tenant != store.DefaultTenant || r.plain[id] {
			continue
		}
		step, began := "", false
		switch e.Kind {
		case "run.started":
			began = true
		case "run.ended":
		case "step.started", "step.ended":
			var d struct {
				Step string `json:"step"`
			}
			if json.Unmarshal(e.Data, &d) != nil || d.Step == "" {
				continue
			}
			step, began = d.Step, e.Kind == "step.started"
		default:
			continue
		}
		if err := r.look(ctx, id, step, began, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// look makes messages of what has begun or ended.
func (r *Reporter) look(ctx context.Context, id, step string, began bool, out *feed.Effect) error {
	run, err := r.o.Summary(ctx, id)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return nil // forgotten since
	}
	if err != nil {
		return err
	}
	plan, _, err := r.o.Plans.Plan(ctx, run.Pipeline, run.Version)
	switch waybill.KindOf(err) {
	case "":
	case waybill.KindNotFound, waybill.KindGone, waybill.KindInvalid:
		return nil // it cannot be read any more
	default:
		return err
	}
	if len(plan.Delivery) == 0 {
		if len(r.plain) >= maxPlain {
			clear(r.plain)
		}
		r.plain[id] = true
		return nil
	}
	var d *waybill.RunDetail
	for i, stage := range plan.Delivery {
		if stage.Step != step {
			continue
		}
		if d == nil {
			x, err := r.o.Runs.Run(ctx, id)
			if waybill.IsKind(err, waybill.KindNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			d = &x
		}
		rep, why := r.make(d, i, stage, began)
		if why != "" {
			r.o.Logger.Warn("a run is not reported as a delivery", "run", id, "pipeline", run.Pipeline, "stage", string(stage.Stage), "why", why)
		}
		if rep == nil {
			continue
		}
		body, err := json.Marshal(rep)
		if err != nil {
			return err
		}
		out.Sends = append(out.Sends, store.Send{Topic: Topic, Key: id, Body: body})
	}
	return nil
}

// make is the report of a stage, nil when there is none; why says what is wrong, if
// something is.
func (r *Reporter) make(d *waybill.RunDetail, number int, y *pipeline.Delivery, began bool) (rep *waybill.DeliveryReport, why string) {
	status, started, finished := d.Status, d.StartedAt, d.FinishedAt
	if y.Step != "" {
		for i := range d.Steps {
			if d.Steps[i].Name == y.Step {
				status, started, finished = d.Steps[i].Status, d.Steps[i].StartedAt, d.Steps[i].FinishedAt
				if d.Steps[i].Reused != "" {
					return nil, "" // its result was taken over from another run, which told of it
				}
			}
		}
	}
	at, end := started, "ended"
	if began {
		status, end = waybill.StatusRunning, "started"
	} else {
		// The end is told after the beginning, however short the run was.
		at = finished
		if least := started.Add(2 * time.Millisecond); at.Before(least) {
			at = least
		}
	}
	switch status {
	case waybill.StatusTimedOut, waybill.StatusLost:
		status = waybill.StatusFailed
	case waybill.StatusSkipped:
		return nil, ""
	}
	sc := scope(d)
	if yes, err := y.Wanted(sc); !yes {
		if err != nil && !began && status == waybill.StatusSucceeded {
			why = err.Error()
		}
		return nil, why
	}
	known, unknown := y.Fields(sc)
	if !began && status == waybill.StatusSucceeded {
		for key, err := range unknown {
			why = strings.TrimPrefix(why+"; "+key+": "+err.Error(), "; ")
		}
	}
	rep = &waybill.DeliveryReport{
		ID: "run/" + d.ID + "/" + strconv.Itoa(number) + "/" + end, Provider: "waybill", Time: at.UTC(), Partition: known["partition"],
		Run: d.ID, URL: known["url"], Status: status, QueuedAt: queued(d, y, started), Service: known["service"], ImageDigest: known["digest"],
		Commit: known["commit"], SourceRepo: known["source_repo"], BuildRun: known["build_run"], Ring: known["ring"],
		ConfigCommit: known["config_commit"], ConfigRepo: known["config_repo"], PullRequest: known["pull_request"],
		ManifestCommit: known["manifest_commit"], ManifestRepo: known["manifest_repo"], Cluster: known["cluster"], Deployment: known["deployment"],
	}
	rep.ImageTag = known["image"]
	if name, digest, ok := strings.Cut(rep.ImageTag, "@"); ok {
		rep.ImageTag, rep.ImageDigest = name, cmp.Or(rep.ImageDigest, digest)
	}
	if rep.URL == "" && r.o.URL != nil {
		rep.URL = r.o.URL() + "/api/v1/runs/" + d.ID
	}
	if !began {
		rep.FinishedAt = finished.UTC()
		rep.Message = clip(d.Error)
	}
	return r.shape(rep, y, why)
}

// queued is when a stage began to be waited for.
func queued(d *waybill.RunDetail, y *pipeline.Delivery, started time.Time) time.Time {
	if y.Step == "" {
		return d.CreatedAt.UTC()
	}
	return started.UTC()
}

func clip(s string) string {
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "")
	}
	return s
}

// shape gives a report the kind of its stage, as far as what that needs is known; else it
// tells of the run alone, and is tied when the rest is told.
func (r *Reporter) shape(rep *waybill.DeliveryReport, y *pipeline.Delivery, why string) (*waybill.DeliveryReport, string) {
	image := rep.ImageTag != "" || rep.ImageDigest != ""
	complete := false
	switch y.Stage {
	case waybill.StageBuild:
		rep.Kind, complete = waybill.ReportBuild, image
	case waybill.StageConfig:
		rep.Kind, complete = waybill.ReportConfig, (image || rep.Deployment != "") && rep.Ring != "" && rep.ConfigCommit != ""
	case waybill.StageManifest:
		rep.Kind = waybill.ReportManifest
		if rep.ConfigCommit != "" {
			rep.ImageTag, rep.ImageDigest = "", "" // the image of a configuration is known
			complete = true
		} else {
			complete = rep.PullRequest != "" && !image || image && rep.Ring != ""
		}
	case waybill.StageSync:
		rep.Kind = waybill.ReportSync
		rep.ClusterState = map[waybill.Outcome]waybill.ClusterState{
			waybill.StatusRunning: waybill.ClusterPending, waybill.StatusSucceeded: y.State, waybill.StatusFailed: waybill.ClusterFailed,
		}[rep.Status]
		if rep.ClusterState == "" || rep.Cluster == "" || !image && rep.ManifestCommit == "" {
			return nil, why
		}
		if rep.ManifestCommit != "" {
			rep.ImageTag, rep.ImageDigest = "", ""
		}
		return rep, why
	}
	if !complete {
		return &waybill.DeliveryReport{
			ID: rep.ID, Provider: rep.Provider, Time: rep.Time, Partition: rep.Partition, Kind: waybill.ReportRun, Stage: y.Stage, Run: rep.Run,
			URL: rep.URL, Status: rep.Status, QueuedAt: rep.QueuedAt, FinishedAt: rep.FinishedAt, Deployment: rep.Deployment, Message: rep.Message,
		}, why
	}
	return rep, why
}

// scope is what expressions of a definition see of a run.
func scope(d *waybill.RunDetail) pipeline.Scope {
	sc := pipeline.Scope{
		Event: map[string]any{"id": d.Event.ID, "type": d.Event.Type, "source": d.Event.Source, "subject": d.Event.Subject, "time": d.Event.Time},
		Run: map[string]any{
			"id": d.ID, "pipeline": d.Pipeline, "version": int64(d.Version), "status": string(d.Status), "error": d.Error, "failed_step": d.Failed,
		},
		Params: d.Params, Vars: d.Vars, Steps: map[string]pipeline.StepResult{},
	}
	if len(d.Event.Data) > 0 {
		if data, err := waybill.Value(d.Event.Data).Decode(); err == nil {
			sc.Event["data"] = data
		}
	}
	if o := d.Event.Object; o != nil {
		sc.Event["object"] = map[string]any{"bucket": o.Bucket, "key": o.Key, "version": o.Version, "size": o.Size, "sha256": o.SHA256}
	}
	for i := range d.Steps {
		st := &d.Steps[i]
		if !st.Status.Terminal() || st.Cell != nil {
			continue
		}
		res := pipeline.StepResult{Status: st.Status, Outputs: st.Outputs, Error: st.Error}
		if st.ExitCode != nil {
			res.ExitCode = *st.ExitCode
		}
		sc.Steps[st.Name] = res
	}
	return sc
}

// report is the handler of the topic.
func (r *Reporter) report(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var rep waybill.DeliveryReport
	if err := json.Unmarshal(m.Body, &rep); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	_, err := r.o.Report(ctx, rep, waybill.Principal{Name: "run " + m.Key})
	if waybill.IsKind(err, waybill.KindNotFound) {
		return nil, queue.Bury("%v", err) // the deployment that it names
	}
	return nil, err
}
