// Package kubernetes runs units as Jobs of a Kubernetes cluster.
//
// # What is made
//
// A unit is a Job of its own name with one pod, which is never tried again: that is the
// engine's business. Secrets beside it hold the environment (NAME-env), the event and
// input files (NAME-files) and credentials of a registry (NAME-pull); they belong to the
// Job and go with it. Everything has the labels of package container, and what lacks
// those of this instance is never touched.
//
// # Files
//
// The unit finds its inputs below /waybill, carried by a Secret: no more than 1 MiB, and
// read-only. work/ and out/ are empty and writable. The file that WAYBILL_OUTPUT names is
// the container's termination message, so that a kubelet hands it on: less than 4096
// bytes, readable for everybody who may read pods. More is returned by the callback.
// Output files stay in the pod and are lost with it.
//
// # Ends
//
// A cluster keeps times in whole seconds, and tells of a signal only as the exit code 128
// + n; where Waybill has asked for the end these codes are shown as the signals they mean.
// A pod that was evicted, preempted, deleted by somebody else or lost with its node makes
// its unit lost. How a unit ended is kept as an annotation of its Job, because a pod that
// is stopped is a pod that is deleted.
//
// # Several servers
//
// Jobs are found by their names from everywhere, so any server can take up a unit that
// another one started.
package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Name is the name of this runner in definitions.
const Name = "kubernetes"

// callTimeout bounds a call of the cluster that is no stream.
const callTimeout = 30 * time.Second

// Options are the settings of a [Runner].
type Options struct {
	Config   Config
	Instance string // id of the store, for labels
	Logger   *slog.Logger
	// Client is how the cluster is reached, instead of what Config says. For tests.
	Client *rest.Config
}

// Runner implements [runner.Contained]. The zero value can check steps only.
type Runner struct {
	config    Config
	instance  string
	namespace string
	host      string
	log       *slog.Logger
	api       *api

	startWait    time.Duration // how long Start waits for the unit to run
	surePatience time.Duration // how long a pull may fail for a reason that will not pass
	recheck      time.Duration // how often the cluster is asked although it is watched

	open  context.Context // ends with Close
	close context.CancelFunc
	board *board

	mu     sync.Mutex
	units  map[string]*unit
	starts map[string]*turns  // one start of a unit at a time
	heard  map[types.UID]told // events of Jobs without pods
	live   sync.WaitGroup
}

var (
	_ runner.Contained = (*Runner)(nil)
	_ runner.Described = (*Runner)(nil)
)

// New returns a runner for the cluster that the configuration names, which need not
// answer now.
func New(o Options) (*Runner, error) {
	if err := o.Config.Check(); err != nil {
		return nil, err
	}
	o.Config.defaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	client, namespace := o.Client, o.Config.Namespace
	if client == nil {
		var err error
		if client, namespace, err = load(o.Config); err != nil {
			return nil, err
		}
	}
	if namespace == "" {
		namespace = "default"
	}
	client = rest.CopyConfig(client)
	client.QPS, client.Burst = 50, 100
	client.UserAgent, client.ContentType, client.AcceptContentTypes = "waybill", "application/json", "application/json"
	client.WarningHandler = rest.NoWarnings{}
	r := &Runner{
		config: o.Config, instance: o.Instance, namespace: namespace, host: client.Host, log: o.Logger,
		startWait: 30*time.Second + time.Duration(o.Config.PullPatience), surePatience: 5 * time.Second, recheck: 30 * time.Second,
		units: map[string]*unit{}, starts: map[string]*turns{},
	}
	var err error
	if r.api, err = newAPI(client); err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err)
	}
	r.open, r.close = context.WithCancel(context.Background())
	r.board = newBoard(r)
	return r, nil
}

// load reads the address and the credentials of the cluster.
func load(c Config) (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	from := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	client, err := from.ClientConfig()
	if err != nil {
		return nil, "", waybill.E(waybill.KindInvalid, "%s", oneLine(err.Error())).WithHint("name the file with kubeconfig and its context with context; inside of a cluster neither is needed")
	}
	namespace := c.Namespace
	if namespace == "" {
		if namespace, _, err = from.Namespace(); err != nil {
			return nil, "", waybill.E(waybill.KindInvalid, "%w", err)
		}
	}
	return client, namespace, nil
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

func (r *Runner) selector() string { return container.LabelInstance + "=" + asLabel(r.instance) }

// starting lets one start of a unit at a time go on.
func (r *Runner) starting(unit string) func() {
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

// turns are those of the starts of a unit. waiting is guarded by the runner.
type turns struct {
	sync.Mutex
	waiting int
}

// handleData is what a handle holds besides its unit.
type handleData struct {
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
}

func (r *Runner) handle(job *batchv1.Job) runner.Handle {
	data, _ := json.Marshal(handleData{job.Namespace, string(job.UID)}) // two texts
	return runner.Handle{Runner: Name, Unit: job.Labels[container.LabelUnit], Data: data}
}

// Start implements [runner.Runner]. It returns when the unit runs, or when the cluster
// takes longer than pulling an image may: what becomes of it then is what Wait says.
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := runner.Handle{Runner: Name, Unit: s.Unit}
	if err := ctx.Err(); err != nil {
		return h, err
	}
	if !unitName.MatchString(s.Unit) {
		return h, waybill.E(waybill.KindInvalid, "%q is no name of a unit in a cluster", s.Unit).WithOp("start", s.Unit)
	}
	set, err := readSettings(s.With, false)
	if err != nil {
		return h, err
	}
	job, err := r.create(ctx, s, set)
	if err != nil {
		return h, err
	}
	h = r.handle(job)
	u, err := r.follow(s.Unit)
	if err != nil {
		return h, err
	}
	u.know(s)
	wait := time.NewTimer(r.startWait)
	defer wait.Stop()
	select {
	case <-u.begun:
	case <-r.board.deaf():
		// Nothing will ever be heard of the unit.
		err := r.board.fault()
		if e := r.Remove(ctx, h); e != nil {
			r.log.Warn("a unit that cannot be watched is not removed yet", "unit", s.Unit, "err", e)
		}
		return h, err
	case <-wait.C:
	case <-ctx.Done():
		return h, ctx.Err()
	}
	u.mu.Lock()
	h.Image = u.image
	u.mu.Unlock()
	select {
	case <-u.done:
		if fault := u.pullFault(set.Image); fault != nil {
			// Nothing was started. The name is free again, for when it is tried later.
			if err := r.Remove(ctx, h); err != nil {
				return h, err
			}
			return h, fault
		}
	default:
	}
	return h, nil
}

// pullFault is why the image of an ended unit could not be had, nil if it could.
func (u *unit) pullFault(image string) error {
	if u.err != nil || !isPull(u.exit.Reason) {
		return nil
	}
	return container.PullFault(image, &runner.PullError{Image: image, Reason: u.exit.Reason, Err: pullCause(u.exit)})
}

func pullCause(e runner.Exit) error {
	if runner.PullAgain(e.Reason) {
		return waybill.E(waybill.KindUnavailable, "%s", e.Message)
	}
	return waybill.E(waybill.KindInvalid, "%s", e.Message)
}

func isPull(reason string) bool {
	return slices.Contains([]string{runner.ReasonPullAuth, runner.ReasonPullNotFound, runner.ReasonPullQuota, runner.ReasonPullNetwork, runner.ReasonImage}, reason)
}

// create makes the objects of a unit, or finds them.
func (r *Runner) create(ctx context.Context, s runner.Spec, set Settings) (*batchv1.Job, error) {
	defer r.starting(s.Unit)()
	// A Job that is there was started, whatever became of it; its Secrets may be gone.
	job, err := r.getJob(ctx, s.Unit)
	if err == nil || !waybill.IsKind(err, waybill.KindLost) {
		return job, err
	}
	o, err := r.build(s, set, time.Now())
	if err != nil {
		return nil, err
	}
	for _, x := range o.secrets {
		if err := r.createSecret(ctx, x); err != nil {
			return nil, err
		}
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	job, err = r.api.Jobs(r.namespace).Create(call, o.job, metav1.CreateOptions{})
	cancel()
	if apierrors.IsAlreadyExists(err) {
		if job, err = r.getJob(ctx, s.Unit); waybill.IsKind(err, waybill.KindLost) {
			return nil, waybill.E(waybill.KindInvalid, "namespace %s has a Job %s that is not of this server", r.namespace, s.Unit).WithOp("start", s.Unit)
		}
		return job, err
	}
	if err != nil {
		err = apiError(ctx, err, "create", "jobs", r.namespace)
		if waybill.IsKind(err, waybill.KindInvalid) { // it will never be made, so its Secrets go
			err = errors.Join(err, r.deleteSecrets(ctx, s.Unit))
		}
		return nil, err
	}
	// From now on the Secrets go with the Job, whoever deletes it.
	owner, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []metav1.OwnerReference{{
		APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID,
	}}}})
	if err != nil {
		return nil, err
	}
	for _, x := range o.secrets {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := r.api.Secrets(r.namespace).Patch(call, x.Name, types.MergePatchType, owner, metav1.PatchOptions{})
		cancel()
		if err != nil {
			r.log.Warn("a Secret is not owned by its Job; Waybill removes it with its unit", "secret", x.Name, "err", apiError(ctx, err, "patch", "secrets", r.namespace))
		}
	}
	return job, nil
}

// createSecret makes a Secret of a unit that has no Job yet, so that one which is there
// is of a start that was cut short, and used by nobody.
func (r *Runner) createSecret(ctx context.Context, x *corev1.Secret) error {
	for again := false; ; again = true {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := r.api.Secrets(r.namespace).Create(call, x, metav1.CreateOptions{})
		cancel()
		if !apierrors.IsAlreadyExists(err) || again {
			return apiError(ctx, err, "create", "secrets", r.namespace)
		}
		if gone, err := r.deleteSecret(ctx, x.Name); err != nil {
			return err
		} else if !gone {
			return waybill.E(waybill.KindInvalid, "namespace %s has a Secret %s that is not of this server", r.namespace, x.Name).WithOp("create secrets", r.namespace)
		}
	}
}

// Recover implements [runner.Runner].
func (r *Runner) Recover(ctx context.Context, h runner.Handle, s runner.Spec) error {
	job, err := r.getJob(ctx, h.Unit)
	if err != nil {
		return err
	}
	u, err := r.follow(h.Unit)
	if err != nil {
		return err
	}
	u.know(s)
	if e, ok := endOfJob(job); ok {
		return u.writeOutput(job, e)
	}
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
		if r.units[h.Unit] == u { // so that the next question is asked of the cluster
			delete(r.units, h.Unit)
		}
		r.mu.Unlock()
		return runner.Exit{}, u.err
	}
	return u.exit, nil
}

// Stop implements [runner.Runner]: the pod is deleted, with that much grace. A grace of
// none is a second, because a pod that is deleted without any is forgotten by the cluster
// before it has ended.
func (r *Runner) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	_, err := r.getJob(ctx, h.Unit)
	if waybill.IsKind(err, waybill.KindLost) {
		return nil
	}
	if err != nil {
		return err
	}
	// What is written first tells a server that starts later why the pod is gone.
	err = r.annotate(ctx, h.Unit, map[string]string{noteStop: time.Now().UTC().Format(time.RFC3339)})
	if waybill.IsKind(err, waybill.KindLost) {
		return nil
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	u := r.units[h.Unit]
	r.mu.Unlock()
	if u != nil {
		u.tell(func() { u.stopped = true })
	}
	return r.deletePods(ctx, h.Unit, grace)
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	_, err := r.getJob(ctx, h.Unit)
	if err != nil && !waybill.IsKind(err, waybill.KindLost) {
		return err
	}
	if err == nil {
		if err := r.deletePods(ctx, h.Unit, time.Second); err != nil {
			return err
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := r.api.Jobs(r.namespace).Delete(call, h.Unit, metav1.DeleteOptions{PropagationPolicy: to(metav1.DeletePropagationBackground)})
		cancel()
		if err != nil && !apierrors.IsNotFound(err) {
			return apiError(ctx, err, "delete", "jobs", r.namespace)
		}
	}
	if err := r.deleteSecrets(ctx, h.Unit); err != nil {
		return err
	}
	// A finalizer of somebody else's may keep the Job.
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		_, err := r.getJob(ctx, h.Unit)
		if waybill.IsKind(err, waybill.KindLost) {
			break
		}
		if err != nil {
			return err
		}
		if pause == 2*time.Second {
			return waybill.E(waybill.KindUnavailable, "the Job is being deleted and not gone yet").WithOp("remove", h.Unit)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.forget(h.Unit)
	return nil
}

func (r *Runner) deleteSecrets(ctx context.Context, unit string) error {
	var errs []error
	for _, kind := range []string{"env", "files", "pull"} {
		_, err := r.deleteSecret(ctx, unit+"-"+kind)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// deleteSecret deletes a Secret if it is ours. It reports whether there is none of that
// name any more.
func (r *Runner) deleteSecret(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	api := r.api.Secrets(r.namespace)
	x, err := api.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, apiError(ctx, err, "get", "secrets", r.namespace)
	}
	if x.Labels[container.LabelInstance] != asLabel(r.instance) {
		return false, nil
	}
	err = api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &x.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil
	}
	return err == nil, apiError(ctx, err, "delete", "secrets", r.namespace)
}

// List implements [runner.Runner].
func (r *Runner) List(ctx context.Context) ([]runner.Handle, error) {
	var out []runner.Handle
	for o := (metav1.ListOptions{LabelSelector: r.selector(), Limit: 500}); ; {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		l, err := r.api.Jobs(r.namespace).List(call, o)
		cancel()
		if err != nil {
			return nil, apiError(ctx, err, "list", "jobs", r.namespace)
		}
		for i := range l.Items {
			if j := &l.Items[i]; j.DeletionTimestamp == nil && j.Labels[container.LabelUnit] == j.Name {
				out = append(out, r.handle(j))
			}
		}
		if o.Continue = l.Continue; o.Continue == "" {
			return out, nil
		}
	}
}

// Archive implements [runner.Contained].
func (r *Runner) Archive(ctx context.Context, h runner.Handle, s runner.Spec) error {
	job, err := r.getJob(ctx, h.Unit)
	if waybill.IsKind(err, waybill.KindLost) {
		return nil
	}
	if err != nil {
		return err
	}
	if e, ok := endOfJob(job); ok && e.Log {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pods, err := r.api.Pods(r.namespace).List(call, metav1.ListOptions{LabelSelector: r.selector() + "," + container.LabelUnit + "=" + h.Unit})
	if err != nil {
		return apiError(ctx, err, "list", "pods", r.namespace)
	}
	for i := range pods.Items {
		if started(&pods.Items[i]) {
			return r.archive(ctx, job, pods.Items[i].Name, s)
		}
	}
	if len(pods.Items) > 0 {
		return nil // it never ran
	}
	return lost("archive the log of", h.Unit, "its pod is gone, and its log with it")
}

// archive reads a log from its beginning to its end.
func (r *Runner) archive(ctx context.Context, job *batchv1.Job, pod string, s runner.Spec) error {
	if s.Log == "" {
		return nil
	}
	base := int64(0)
	if _, err := jsonInt(job.Annotations[noteBase], &base); err != nil {
		return err
	}
	l, err := r.openLog(s, base)
	if err != nil {
		return waybill.E(waybill.KindUnavailable, "open the log: %w", err).WithOp("archive the log of", s.Unit)
	}
	over := make(chan struct{})
	close(over)
	full, err := l.run(ctx, pod, over, make(chan struct{}))
	if err == nil && !full {
		err = lost("archive the log of", s.Unit, "its pod is gone, and its log with it")
	}
	if err != nil {
		return errors.Join(apiError(ctx, err, "get", "pods/log", r.namespace), l.out.Leave())
	}
	e, ok := endOfJob(job)
	l.out.Close(&e.Exit)
	if e.Log = true; ok {
		r.record(ctx, s.Unit, e)
	}
	return nil
}

func jsonInt(text string, into *int64) (bool, error) {
	if text = strings.TrimSpace(text); text == "" {
		return false, nil
	}
	return true, json.Unmarshal([]byte(text), into)
}

// CopyOut implements [runner.Contained]. The file system of a pod that has ended cannot be
// read.
func (r *Runner) CopyOut(context.Context, runner.Handle, string, io.Writer) error {
	return waybill.E(waybill.KindUnsupported, "the kubernetes runner cannot read files of a pod that has ended").
		WithHint("return variables by WAYBILL_OUTPUT or the callback, and have the unit itself put files where they belong")
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
	r.board.live.Wait()
	r.api.idle()
	return nil
}
