// Package aci runs units as container groups of Azure Container Instances, through a thin
// client of Azure's resource manager.
//
// # What is made
//
// A unit is a group with one container and no restarts, whose name is that of the unit,
// in the resource group that the configuration names and nowhere else. Its tags are the
// labels of package container; what lacks those of this instance is never touched. No
// deployment is recorded. Everything in the environment is a secure value, which Azure
// shows to nobody.
//
// # Files
//
// Azure gives a container folders, not files, and only from what the request holds. The
// event is in /waybill/event/event.json, which WAYBILL_EVENT names, objects are in
// /waybill/in, both read-only and together no more than 1 MiB; work/ and out/ are empty
// and writable. What a unit writes there is lost with it: variables come back by the
// callback. The working directory is that of the image.
//
// # Ends
//
// The container's state is asked for, more seldom the longer it stays the same. Azure
// tells times in whole seconds and of a signal only as exit code 128 + n. It stops a
// container with a grace of its own, whatever is asked for. The hard stop is a liveness
// probe that fails when the time has come.
//
// # Logs
//
// Azure returns the newest 4 MB of a log and follows none. It is asked for again and
// again, and once more at the end, and what was had before is skipped. Should a unit write
// more than that between two questions, a line in the log says that some is missing.
package aci

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Name is the name of this runner in definitions.
const Name = "aci"

// Options are the settings of a [Runner].
type Options struct {
	Config   Config
	Profile  []byte // content of the file that Config.Profile names
	Instance string // id of the store, for tags
	Logger   *slog.Logger

	// For tests: how Azure is reached, and how often it is asked.
	Credential azcore.TokenCredential
	Endpoint   string
	Transport  policy.Transporter
	Pace       Pace
}

// Pace is how often Azure is asked, and for how long.
type Pace struct {
	First time.Duration // between the first two questions; default 1 s
	Most  time.Duration // between two questions at most; default 10 s
	Start time.Duration // how long Start waits; default 5 minutes more than pull_patience
	Sure  time.Duration // how long a pull may fail for a reason that will not pass; default 10 s
	Retry time.Duration // before a request that failed is sent again; default 800 ms
}

// Runner implements [runner.Contained]. The zero value can check steps only.
type Runner struct {
	config   Config
	profile  *group
	instance string
	log      *slog.Logger
	arm      *arm.Client
	retry    policy.RetryOptions
	pace     Pace
	idle     func() // closes connections that nobody uses

	open  context.Context // ends with Close
	close context.CancelFunc

	mu     sync.Mutex
	units  map[string]*unit
	starts map[string]*turns
	live   sync.WaitGroup
}

var (
	_ runner.Contained = (*Runner)(nil)
	_ runner.Described = (*Runner)(nil)
)

// New returns a runner; Azure need not answer now.
func New(o Options) (*Runner, error) {
	var profile *group
	if len(o.Profile) > 0 {
		var err error
		if profile, err = readProfile(o.Profile, o.Config.Parameters, o.Config.Location); err != nil {
			return nil, err
		}
	}
	if err := o.Config.Check(); err != nil {
		return nil, err
	}
	if profile != nil && first(o.Config.Location, profile.Location) == "" {
		return nil, waybill.E(waybill.KindInvalid, "location: neither the settings nor the profile have one")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{
		{&o.Pace.First, time.Second}, {&o.Pace.Most, 10 * time.Second}, {&o.Pace.Sure, 10 * time.Second}, {&o.Pace.Retry, 800 * time.Millisecond},
		{&o.Pace.Start, 5*time.Minute + time.Duration(o.Config.PullPatience)},
	} {
		if *d.at == 0 {
			*d.at = d.def
		}
	}
	where := map[string]cloud.Configuration{"": cloud.AzurePublic, "public": cloud.AzurePublic, "china": cloud.AzureChina, "government": cloud.AzureGovernment}[o.Config.Cloud]
	if o.Endpoint != "" {
		where = cloud.Configuration{ActiveDirectoryAuthorityHost: o.Endpoint, Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: o.Endpoint, Audience: o.Endpoint},
		}}
	}
	if o.Transport == nil {
		o.Transport = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	}
	base := policy.ClientOptions{Cloud: where, Transport: o.Transport}
	if o.Credential == nil {
		var err error
		if o.Credential, err = credential(o.Config, base); err != nil {
			return nil, waybill.E(waybill.KindInvalid, "%s", oneLine(err.Error()))
		}
	}
	r := &Runner{
		config: o.Config, profile: profile, instance: o.Instance, log: o.Logger, pace: o.Pace,
		retry: policy.RetryOptions{MaxRetries: 4, RetryDelay: o.Pace.Retry, MaxRetryDelay: time.Minute, TryTimeout: 30 * time.Second},
		units: map[string]*unit{}, starts: map[string]*turns{}, idle: func() {},
	}
	if c, ok := o.Transport.(interface{ CloseIdleConnections() }); ok {
		r.idle = c.CloseIdleConnections
	}
	var err error
	if r.arm, err = arm.NewClient("waybill", "v1.0.0", o.Credential, &arm.ClientOptions{ClientOptions: base, DisableRPRegistration: true}); err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err)
	}
	r.open, r.close = context.WithCancel(context.Background())
	return r, nil
}

func credential(c Config, base policy.ClientOptions) (azcore.TokenCredential, error) {
	if c.ClientID != "" {
		return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: base, ID: azidentity.ClientID(c.ClientID)})
	}
	return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: base, TenantID: c.TenantID})
}

// Name returns [Name].
func (r *Runner) Name() string { return Name }

// Home implements [runner.Contained].
func (r *Runner) Home() string { return container.Home }

// Reach implements [runner.Contained].
func (r *Runner) Reach() runner.Reach { return runner.ReachPublic }

// Settings implements [runner.Described].
func (r *Runner) Settings() any { return Settings{} }

// Check implements [runner.Runner].
func (r *Runner) Check(_ []string, with json.RawMessage) error {
	_, err := readSettings(with, true)
	return err
}

// turns let one start of a unit at a time go on. waiting is guarded by the runner.
type turns struct {
	sync.Mutex
	waiting int
}

func (r *Runner) turn(unit string) func() {
	r.mu.Lock()
	t := r.starts[unit]
	if t == nil {
		t = &turns{}
		r.starts[unit] = t
	}
	t.waiting++
	r.mu.Unlock()
	t.Lock()
	return func() {
		t.Unlock()
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(r.starts, unit)
		}
	}
}

func lost(op, unit, format string, args ...any) error {
	return waybill.E(waybill.KindLost, format, args...).WithOp(op, unit)
}

func (r *Runner) handle(g *group) runner.Handle {
	data, _ := json.Marshal(map[string]string{"id": g.ID}) // a text
	return runner.Handle{Runner: Name, Unit: g.Tags[container.LabelUnit], Data: data}
}

// get returns the group of a unit.
func (r *Runner) get(ctx context.Context, unit string) (*group, error) {
	g, ours, err := r.find(ctx, unit)
	if err == nil && !ours {
		return nil, lost("find", unit, "the container group %s is not of this server", g.Name)
	}
	return g, err
}

// find returns the group that has the name of a unit's, and whether it is ours.
func (r *Runner) find(ctx context.Context, unit string) (g *group, ours bool, err error) {
	if !unitName.MatchString(unit) {
		return nil, false, lost("find", unit, "no unit has such a name")
	}
	g = &group{}
	_, err = r.call(ctx, http.MethodGet, r.path(groupName(unit)), nil, nil, g, false)
	if err = r.armError(ctx, err, "find "+unit, ""); err != nil {
		return nil, false, err
	}
	return g, g.Tags[container.LabelUnit] == unit && g.Tags[container.LabelInstance] == r.instance, nil
}

// Start implements [runner.Runner]. It returns when the unit runs, or when Azure takes
// longer than pulling an image may.
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := runner.Handle{Runner: Name, Unit: s.Unit}
	if err := ctx.Err(); err != nil {
		return h, err
	}
	if !unitName.MatchString(s.Unit) {
		return h, waybill.E(waybill.KindInvalid, "%q is no name of a unit in Azure", s.Unit).WithOp("start", s.Unit)
	}
	with := r.withProfile(s.With)
	set, err := readSettings(with, false)
	if err != nil {
		return h, err
	}
	g, err := r.create(ctx, s, set)
	if err != nil {
		return h, err
	}
	h = r.handle(g)
	u, err := r.follow(s.Unit)
	if err != nil {
		return h, err
	}
	u.know(s)
	wait := time.NewTimer(r.pace.Start)
	defer wait.Stop()
	select {
	case <-u.begun:
	case <-wait.C:
	case <-ctx.Done():
		return h, ctx.Err()
	}
	select {
	case <-u.done:
		if u.err == nil && isPull(u.exit.Reason) {
			if err := r.Remove(ctx, h); err != nil {
				return h, err
			}
			kind := waybill.KindInvalid
			if runner.PullAgain(u.exit.Reason) {
				kind = waybill.KindUnavailable
			}
			return h, &runner.PullError{Image: set.Image, Reason: u.exit.Reason, Err: waybill.E(kind, "%s", u.exit.Message)}
		}
	default:
	}
	return h, nil
}

func isPull(reason string) bool {
	return slices.Contains([]string{runner.ReasonPullAuth, runner.ReasonPullNotFound, runner.ReasonPullQuota, runner.ReasonPullNetwork, runner.ReasonImage}, reason)
}

// withProfile gives a step without an image that of the profile.
func (r *Runner) withProfile(with json.RawMessage) json.RawMessage {
	var m map[string]json.RawMessage
	if r.profile == nil || len(with) > 0 && json.Unmarshal(with, &m) != nil || m["image"] != nil {
		return with
	}
	if m == nil {
		m = map[string]json.RawMessage{}
	}
	m["image"], _ = json.Marshal(r.profile.Properties.Containers[0].Properties.Image) // a text
	b, err := json.Marshal(m)
	if err != nil {
		return with
	}
	return b
}

// create asks Azure to make the group of a unit, or finds it. Asking again for a group that
// exists would change it, so Azure is asked once, and looked at before that: a request
// whose answer was lost is found by the next call.
func (r *Runner) create(ctx context.Context, s runner.Spec, set Settings) (*group, error) {
	defer r.turn(s.Unit)()
	g, ours, err := r.find(ctx, s.Unit)
	switch {
	case err != nil && !waybill.IsKind(err, waybill.KindLost):
		return nil, err
	case err != nil:
	case !ours:
		return nil, waybill.E(waybill.KindInvalid, "resource group %s has a container group %s that is not of this server", r.config.ResourceGroup, g.Name).WithOp("start", s.Unit)
	case g.Properties.ProvisioningState == "Deleting":
		return nil, waybill.E(waybill.KindUnavailable, "an earlier group of this name is being deleted").WithOp("start", s.Unit)
	default:
		return g, nil
	}
	want, err := r.build(s, set, time.Now())
	if err != nil {
		return nil, err
	}
	var made group
	_, err = r.call(ctx, http.MethodPut, r.path(groupName(s.Unit)), nil, want, &made, true)
	if err != nil {
		return nil, r.armError(ctx, err, "create "+s.Unit, set.Image)
	}
	if made.ID == "" {
		made.ID = r.path(groupName(s.Unit))
	}
	if made.Tags == nil {
		made.Tags = want.Tags
	}
	return &made, nil
}

// Recover implements [runner.Runner].
func (r *Runner) Recover(ctx context.Context, h runner.Handle, s runner.Spec) error {
	g, err := r.get(ctx, h.Unit)
	if err != nil {
		return err
	}
	if g.Properties.ProvisioningState == "Deleting" {
		return lost("recover", h.Unit, "its group is being deleted")
	}
	u, err := r.follow(h.Unit)
	if err != nil {
		return err
	}
	u.know(s)
	return nil
}

// Wait implements [runner.Runner].
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	if err := ctx.Err(); err != nil {
		return runner.Exit{}, err
	}
	u, err := r.follow(h.Unit)
	if err != nil {
		return runner.Exit{}, err
	}
	select {
	case <-u.done:
	case <-ctx.Done():
		return runner.Exit{}, ctx.Err()
	}
	if u.err != nil {
		if r.open.Err() != nil {
			return runner.Exit{}, waybill.E(waybill.KindUnavailable, "the runner is closed").WithOp("wait for", h.Unit)
		}
		r.mu.Lock()
		if r.units[h.Unit] == u { // the next question is asked of Azure
			delete(r.units, h.Unit)
		}
		r.mu.Unlock()
		return runner.Exit{}, u.err
	}
	return u.exit, nil
}

// Stop implements [runner.Runner]. Azure has a grace of its own; a grace that is shorter
// than half a minute is not kept.
func (r *Runner) Stop(ctx context.Context, h runner.Handle, _ time.Duration) error {
	g, err := r.get(ctx, h.Unit)
	if waybill.IsKind(err, waybill.KindLost) {
		return nil
	}
	if err != nil {
		return err
	}
	if v := viewOf(g); v != nil && v.Current != nil && v.Current.State == "Terminated" {
		return nil
	}
	r.mu.Lock()
	u := r.units[h.Unit]
	r.mu.Unlock()
	if u != nil {
		u.tell(func() { u.stopped = true })
	}
	if g.Tags[tagStop] == "" {
		// A server that starts later is to know why the unit ended.
		g.Tags[tagStop] = time.Now().UTC().Format(time.RFC3339)
		_, err = r.call(ctx, http.MethodPatch, r.path(groupName(h.Unit)), nil, map[string]any{"tags": g.Tags}, nil, false)
		if err = r.armError(ctx, err, "stop "+h.Unit, ""); err != nil && !waybill.IsKind(err, waybill.KindLost) {
			return err
		}
	}
	_, err = r.call(ctx, http.MethodPost, r.path(groupName(h.Unit), "stop"), nil, nil, nil, false)
	if err = r.armError(ctx, err, "stop "+h.Unit, ""); waybill.IsKind(err, waybill.KindLost) {
		return nil
	}
	if u != nil {
		u.tell(func() {})
	}
	return err
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	for pause := r.pace.First / 4; ; pause = min(2*pause, r.pace.Most) {
		g, err := r.get(ctx, h.Unit)
		if waybill.IsKind(err, waybill.KindLost) {
			r.forget(h.Unit)
			return nil
		}
		if err != nil {
			return err
		}
		if g.Properties.ProvisioningState != "Deleting" {
			_, err := r.call(ctx, http.MethodDelete, r.path(groupName(h.Unit)), nil, nil, nil, false)
			err = r.armError(ctx, err, "remove "+h.Unit, "")
			if err != nil && !waybill.IsKind(err, waybill.KindLost) {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// List implements [runner.Runner].
func (r *Runner) List(ctx context.Context) ([]runner.Handle, error) {
	var out []runner.Handle
	for at := r.path(); at != ""; {
		var page struct {
			Value []group `json:"value"`
			Next  string  `json:"nextLink"`
		}
		_, err := r.call(ctx, http.MethodGet, at, nil, nil, &page, false)
		if err = r.armError(ctx, err, "list", ""); err != nil {
			return nil, err
		}
		for i := range page.Value {
			g := &page.Value[i]
			if g.Tags[container.LabelInstance] == r.instance && g.Tags[container.LabelUnit] != "" && g.Properties.ProvisioningState != "Deleting" {
				out = append(out, r.handle(g))
			}
		}
		at = page.Next
	}
	return out, nil
}

// Archive implements [runner.Contained].
func (r *Runner) Archive(ctx context.Context, h runner.Handle, s runner.Spec) error {
	r.mu.Lock()
	u := r.units[h.Unit]
	r.mu.Unlock()
	if u != nil && u.archived() {
		return nil
	}
	g, err := r.get(ctx, h.Unit)
	if waybill.IsKind(err, waybill.KindLost) {
		return nil
	}
	if err != nil {
		return err
	}
	if v := viewOf(g); s.Log == "" || v == nil || v.Current == nil || v.Current.State == "Waiting" {
		return nil // it never ran
	}
	l, err := r.openLog(h.Unit, g, s)
	if err != nil {
		return err
	}
	if err := l.fetch(ctx); err != nil {
		return errors.Join(r.armError(ctx, err, "read the log of "+h.Unit, ""), l.out.Leave())
	}
	l.out.Close(&runner.Exit{})
	return nil
}

// CopyOut implements [runner.Contained]. The file system of a container that has ended
// cannot be read.
func (r *Runner) CopyOut(context.Context, runner.Handle, string, io.Writer) error {
	return waybill.E(waybill.KindUnsupported, "the aci runner cannot read files of a container that has ended").
		WithHint("return variables by the callback, and have the unit itself put files where they belong")
}

// LosesFiles says what to do, as the files that a unit writes are lost with it.
func (r *Runner) LosesFiles() string {
	return "have the unit put its files where they belong, such as a bucket, and return their names as variables"
}

// Close implements [runner.Runner].
func (r *Runner) Close() error {
	if r.close == nil {
		return nil
	}
	r.mu.Lock() // nothing is followed from now on
	r.close()
	r.mu.Unlock()
	r.live.Wait()
	r.idle()
	return nil
}

// logs returns what Azure has of a container's log.
func (r *Runner) logs(ctx context.Context, unit string) (string, error) {
	var answer struct {
		Content string `json:"content"`
	}
	_, err := r.call(ctx, http.MethodGet, r.path(groupName(unit), "containers", theContainer, "logs"), url.Values{}, nil, &answer, false)
	return answer.Content, err
}

func viewOf(g *group) *containerView {
	for i := range g.Properties.Containers {
		if c := &g.Properties.Containers[i]; c.Name == theContainer {
			return c.Properties.View
		}
	}
	return nil
}

func eventText(events []event, names ...string) string {
	text, at := "", time.Time{}
	for _, e := range events {
		if slices.Contains(names, e.Name) && !e.Last.Before(at) {
			text, at = strings.TrimSpace(e.Message), e.Last
		}
	}
	return oneLine(text)
}
