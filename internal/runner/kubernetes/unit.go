package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// unit is a Job that this server follows.
type unit struct {
	r    *Runner
	name string
	wake <-chan struct{} // the board has heard something
	ctx  context.Context
	cut  context.CancelFunc

	begun chan struct{} // closed when it runs, has ended or never will
	done  chan struct{} // closed when exit and err are set
	exit  runner.Exit
	err   error

	mu      sync.Mutex
	spec    runner.Spec // Dir and Log as far as they are known
	stopped bool
	image   string
	asked   chan struct{} // receives after spec or stopped has changed
	waiting string        // what it waits for, for people
}

// ended is how a unit ended, as its Job keeps it.
type ended struct {
	Exit   runner.Exit `json:"exit"`
	Output string      `json:"output,omitempty"`
	Log    bool        `json:"log,omitempty"` // the log is complete in its file
}

// endOfJob reads what a Job keeps of the end of its unit.
func endOfJob(j *batchv1.Job) (e ended, ok bool) {
	text := j.Annotations[noteEnd]
	return e, text != "" && json.Unmarshal([]byte(text), &e) == nil
}

// follow returns the unit of that name, which is followed from now on.
func (r *Runner) follow(name string) (*unit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open.Err() != nil {
		return nil, waybill.E(waybill.KindUnavailable, "the runner is closed").WithOp("follow", name)
	}
	if u := r.units[name]; u != nil {
		return u, nil
	}
	u := &unit{r: r, name: name, begun: make(chan struct{}), done: make(chan struct{}), asked: make(chan struct{}, 1)}
	u.ctx, u.cut = context.WithCancel(r.open)
	u.wake = r.board.follow(name)
	r.units[name] = u
	r.live.Go(u.live)
	return u, nil
}

// forget ends following a unit.
func (r *Runner) forget(name string) {
	r.mu.Lock()
	u := r.units[name]
	delete(r.units, name)
	r.mu.Unlock()
	if u != nil {
		u.cut()
		<-u.done
	}
	r.board.forget(name)
}

func (u *unit) tell(f func()) {
	u.mu.Lock()
	f()
	u.mu.Unlock()
	select {
	case u.asked <- struct{}{}:
	default:
	}
}

// know tells the unit where its files are.
func (u *unit) know(s runner.Spec) {
	u.tell(func() {
		if s.Dir != "" {
			u.spec.Dir = s.Dir
		}
		if u.spec.Log == "" && s.Log != "" {
			u.spec.Log, u.spec.LogCap, u.spec.Mask = s.Log, s.LogCap, s.Mask
		}
	})
}

func (u *unit) known() (runner.Spec, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.spec, u.stopped
}

func (u *unit) setWaiting(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.waiting = text
}

// live follows the unit to its end.
func (u *unit) live() {
	defer u.cut()
	defer close(u.done)
	var once sync.Once
	begun := func() { once.Do(func() { close(u.begun) }) }
	defer begun()
	end, err := u.watch(begun)
	if err != nil {
		if u.err = err; u.ctx.Err() != nil && u.r.open.Err() == nil {
			u.err = lost("follow", u.name, "the unit was removed")
		}
		return
	}
	u.exit = end.Exit
}

// reading is a log that is being read.
type reading struct {
	l     *logReader
	ended chan struct{}
	gone  chan struct{}
	over  chan struct{} // closed when it was read
	full  bool
	err   error
}

// watch waits for the end of the unit and takes home what it left.
func (u *unit) watch(begun func()) (ended, error) {
	job, err := u.job(u.ctx)
	if err != nil {
		return ended{}, err
	}
	u.r.board.change(u.name, func(s *sighting) {
		if s.job == nil {
			s.job = job
		}
	})
	// What happened before the board was told to listen, it has not heard.
	u.lookForPod()
	if e, ok := endOfJob(job); ok {
		begun()
		return e, u.restore(job, e)
	}
	base, _ := strconv.ParseInt(job.Annotations[noteBase], 10, 64)
	if job.Annotations[noteStop] != "" {
		u.tell(func() { u.stopped = true })
	}
	var log *reading
	defer func() {
		if log != nil {
			u.cut()
			<-log.over
		}
	}()
	var pull patience // with an image that cannot be had
	since := job.CreationTimestamp.Time
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for asked := time.Now(); ; {
		s := u.r.board.look(u.name)
		if s.pod == nil && judge(s, false).phase != pending {
			// The two watches are not in step: what the Job knows of its pod may be heard
			// before the pod is.
			if !u.lookForPod() {
				select {
				case <-tick.C:
					continue
				case <-u.ctx.Done():
					return ended{}, u.ctx.Err()
				}
			}
			s = u.r.board.look(u.name)
		}
		spec, stopped := u.known()
		v := judge(s, stopped)
		if s.pod != nil && started(s.pod) {
			u.mu.Lock()
			u.image = imageOf(s.pod)
			u.mu.Unlock()
			if log == nil && spec.Log != "" {
				if log, err = u.read(spec, base, s.pod.Name); err != nil {
					return ended{}, err
				}
			}
		}
		u.setWaiting(v.why)
		switch v.phase {
		case over:
			return u.finish(job, s, v, log, begun)
		case vanished:
			begun()
			if log != nil {
				u.drain(log, s.podGone)
				if u.ctx.Err() == nil {
					log.l.out.Close(&runner.Exit{})
				}
			}
			return ended{}, lost("wait for", u.name, "%s", v.why)
		case running:
			begun()
			pull = patience{}
		case pending:
			if x := pull.judge(u.r, v); x != nil {
				return u.giveUp(job, *x, begun)
			}
			if x := u.overdue(v, since, s); x != nil && v.fault == "" {
				return u.giveUp(job, *x, begun)
			}
		}
		select {
		case <-u.wake:
		case <-u.asked:
		case <-tick.C:
			// Should the watch have been deaf, the cluster is asked from time to time.
			if time.Since(asked) > u.r.recheck {
				asked = time.Now()
				u.recheck()
			}
		case <-u.ctx.Done():
			return ended{}, u.ctx.Err()
		}
	}
}

// job asks for the unit's Job until the cluster answers.
func (u *unit) job(ctx context.Context) (*batchv1.Job, error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		j, err := u.r.getJob(ctx, u.name)
		if err == nil || !waybill.IsKind(err, waybill.KindUnavailable) {
			return j, err
		}
		u.setWaiting(err.Error())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lookForPod asks the cluster for the unit's pod. It reports whether the cluster answered.
func (u *unit) lookForPod() bool {
	call, cancel := context.WithTimeout(u.ctx, callTimeout)
	defer cancel()
	l, err := u.r.api.Pods(u.r.namespace).List(call, metav1.ListOptions{LabelSelector: u.r.selector() + "," + container.LabelUnit + "=" + u.name})
	if err != nil {
		return false
	}
	for i := range l.Items {
		u.r.board.sawPod(&l.Items[i], false)
	}
	return true
}

// recheck asks the cluster itself for what the board should know.
func (u *unit) recheck() {
	job, err := u.r.getJob(u.ctx, u.name)
	switch {
	case waybill.IsKind(err, waybill.KindLost):
		u.r.board.change(u.name, func(s *sighting) { s.jobGone = true })
	case err == nil:
		u.r.board.change(u.name, func(s *sighting) {
			if s.job == nil || s.jobGone {
				s.job, s.jobGone = job, false
			}
		})
		u.lookForPod()
	}
}

// read begins to read the log.
func (u *unit) read(spec runner.Spec, base int64, pod string) (*reading, error) {
	l, err := u.r.openLog(spec, base)
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "open the log: %w", err).WithOp("follow", u.name)
	}
	x := &reading{l: l, ended: make(chan struct{}), gone: make(chan struct{}), over: make(chan struct{})}
	u.r.live.Go(func() {
		defer close(x.over)
		x.full, x.err = l.run(u.ctx, pod, x.ended, x.gone)
		if u.ctx.Err() != nil {
			l.out.Leave() // what is in the file stays as it is
		}
	})
	return x, nil
}

// drain waits until a log was read whose container has ended.
func (u *unit) drain(x *reading, podGone bool) {
	close(x.ended)
	if podGone {
		close(x.gone)
	}
	<-x.over
}

// finish takes home the log, the variables and the end of a unit that has ended.
func (u *unit) finish(job *batchv1.Job, s sighting, v verdict, log *reading, begun func()) (ended, error) {
	begun()
	e := ended{Exit: v.exit, Output: v.output}
	spec, stopped := u.known()
	if log != nil {
		u.drain(log, s.podGone)
		if u.ctx.Err() != nil {
			return ended{}, u.ctx.Err()
		}
		if !log.full {
			log.l.out.Note("the log may not be complete: " + orElse(errText(log.err), "its pod is gone"))
		}
		log.l.out.Close(&e.Exit)
		e.Log = true
	} else if s.pod == nil || !started(s.pod) {
		e.Log = spec.Log != ""
	}
	if len(e.Output) >= maxMessage && e.Exit.OK() {
		e.Exit.Reason = ReasonOutputs
		e.Exit.Message = "the output variables take 4096 bytes or more, which is all that a cluster keeps of them; return larger ones with: waybill callback set, or a request to WAYBILL_CALLBACK"
	}
	if e.Exit.Message == "" && e.Exit.Signal != "" && s.pod != nil && !started(s.pod) {
		e.Exit.Message = "it never ran: " + v.why
	}
	if stopped && s.pod == nil {
		e.Exit.Message = orElse(e.Exit.Message, "it was stopped before a pod was made of it")
	}
	if err := u.writeOutput(job, e); err != nil {
		return ended{}, err
	}
	u.r.record(u.ctx, u.name, e)
	return e, nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return statusText(err)
}

// giveUp ends a unit that waits for what will not come.
func (u *unit) giveUp(job *batchv1.Job, exit runner.Exit, begun func()) (ended, error) {
	exit.Code, exit.EndedAt = -1, time.Now().UTC().Truncate(time.Second)
	exit.StartedAt = exit.EndedAt
	e := ended{Exit: exit, Log: true}
	u.r.record(u.ctx, u.name, e)
	if err := u.r.deletePods(u.ctx, u.name, time.Second); err != nil {
		u.r.log.Warn("the pod of a unit that never ran is not deleted yet", "unit", u.name, "err", err)
	}
	begun()
	return e, nil
}

// patience is how long something has been wrong.
type patience struct {
	since time.Time
	fault string
	why   string
	sure  bool
}

// judge returns the end of a unit whose image cannot be had for longer than the
// configuration allows.
func (p *patience) judge(r *Runner, v verdict) *runner.Exit {
	if v.fault == "" {
		return nil // pulled again, perhaps
	}
	now := time.Now()
	if p.since.IsZero() {
		p.since = now
	}
	// Of older clusters, the pause between two tries tells nothing of what is wrong.
	if p.fault == "" || v.sure || !strings.HasPrefix(v.why, "ImagePullBackOff: Back-off pulling image") || strings.Contains(v.why, "ErrImagePull") {
		p.fault, p.why, p.sure = v.fault, v.why, v.sure
	}
	limit := time.Duration(r.config.PullPatience)
	if p.sure {
		limit = min(limit, r.surePatience)
	}
	if now.Sub(p.since) < limit {
		return nil
	}
	return &runner.Exit{Reason: p.fault, Message: p.why}
}

// overdue returns the end of a unit for which no node is found in time.
func (u *unit) overdue(v verdict, since time.Time, s sighting) *runner.Exit {
	if s.pod != nil && (s.pod.Spec.NodeName != "" || s.pod.Status.StartTime != nil) {
		return nil
	}
	limit := time.Duration(u.r.config.SchedulePatience)
	age := time.Since(since)
	if s.pod == nil && s.job != nil && age > 5*time.Second {
		if why := u.r.eventsOf(u.ctx, s.job.UID, "FailedCreate"); why != "" {
			v.why = "the cluster makes no pod: " + why
			u.setWaiting(v.why)
		}
	}
	if age < limit {
		return nil
	}
	reason := ReasonUnschedulable
	if s.pod == nil {
		reason = ReasonNotCreated
	}
	return &runner.Exit{Reason: reason, Message: v.why}
}

// writeOutput puts the variables of a unit where the engine looks for them.
func (u *unit) writeOutput(job *batchv1.Job, e ended) error {
	spec, _ := u.known()
	file := job.Annotations[noteOutput]
	if file == "" || spec.Dir == "" || e.Output == "" || filepath.Base(file) != file {
		return nil
	}
	dir := container.Outside(spec.Dir, container.Out)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, file), []byte(e.Output), 0o600)
	}
	if err != nil {
		return waybill.E(waybill.KindUnavailable, "write the outputs of the unit: %w", err).WithOp("wait for", u.name)
	}
	return nil
}

// restore brings what a Job keeps of an ended unit into its folder. Where that is may
// become known a moment later, by Recover.
func (u *unit) restore(job *batchv1.Job, e ended) error { return u.writeOutput(job, e) }

// record lets the Job keep how its unit ended. That its pod still tells it is as good, so
// a failure changes nothing but what a server knows that starts after the pod is gone.
func (r *Runner) record(ctx context.Context, unit string, e ended) {
	note, err := json.Marshal(e)
	if err == nil {
		err = r.annotate(ctx, unit, map[string]string{noteEnd: string(note)})
	}
	if err != nil && ctx.Err() == nil && !waybill.IsKind(err, waybill.KindLost) {
		r.log.Warn("the end of a unit is not kept by its Job", "unit", unit, "err", err)
	}
}

func (r *Runner) annotate(ctx context.Context, unit string, notes map[string]string) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": notes}})
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err = r.api.Jobs(r.namespace).Patch(call, unit, types.MergePatchType, body, metav1.PatchOptions{})
		cancel()
		if err = apiError(ctx, err, "patch", "jobs", r.namespace); err == nil || !waybill.IsKind(err, waybill.KindUnavailable) || try == 3 {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond << try):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Runner) getJob(ctx context.Context, unit string) (*batchv1.Job, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	j, err := r.api.Jobs(r.namespace).Get(call, unit, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, lost("find", unit, "no Job of this name is in namespace %s", r.namespace)
	case err != nil:
		return nil, apiError(ctx, err, "get", "jobs", r.namespace)
	case j.Labels[container.LabelUnit] != unit || j.Labels[container.LabelInstance] != asLabel(r.instance):
		return nil, lost("find", unit, "the Job %s in namespace %s is not of this server", unit, r.namespace)
	}
	return j, nil
}

// told is what a cluster last said of an object.
type told struct {
	at   time.Time
	text string
}

// eventsOf is what the cluster last said of an object, for one reason. It is asked every
// few seconds.
func (r *Runner) eventsOf(ctx context.Context, uid types.UID, reason string) string {
	r.mu.Lock()
	last := r.heard[uid]
	r.mu.Unlock()
	if time.Since(last.at) < 5*time.Second {
		return last.text
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := r.api.Events(r.namespace).List(call, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(uid), Limit: 50})
	if err != nil {
		return last.text // only to be told; the right to list events may be missing
	}
	now := told{at: time.Now()}
	var newest time.Time
	for _, e := range l.Items {
		if e.Reason == reason && !e.LastTimestamp.Time.Before(newest) {
			now.text, newest = oneLine(e.Message), e.LastTimestamp.Time
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.heard) > 1000 || r.heard == nil {
		r.heard = map[types.UID]told{}
	}
	r.heard[uid] = now
	return now.text
}

func (r *Runner) deletePods(ctx context.Context, unit string, grace time.Duration) error {
	seconds := max(1, int64((grace+time.Second-1)/time.Second))
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pods, err := r.api.Pods(r.namespace).List(call, metav1.ListOptions{LabelSelector: r.selector() + "," + container.LabelUnit + "=" + unit})
	if err != nil {
		return apiError(ctx, err, "list", "pods", r.namespace)
	}
	var errs []error
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		if left := p.DeletionGracePeriodSeconds; p.DeletionTimestamp != nil && left != nil && *left <= seconds && time.Until(p.DeletionTimestamp.Time) <= time.Duration(seconds)*time.Second {
			continue // it has less time than that
		}
		err := r.api.Pods(r.namespace).Delete(call, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &seconds, Preconditions: &metav1.Preconditions{UID: &p.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, apiError(ctx, err, "delete", "pods", r.namespace))
		}
	}
	return errors.Join(errs...)
}
