package kubernetes

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// board knows the Jobs and pods of this instance as the cluster last told of them. Two
// watches serve all units, however many there are. What was deleted stays on the board
// for as long as somebody follows its unit: the last that was heard of a pod says how it
// ended.
type board struct {
	r *Runner

	mu    sync.Mutex
	units map[string]*sighting
	begun bool
	wrong error         // why the cluster will never tell anything: a right that is missing
	never chan struct{} // closed then
	live  sync.WaitGroup
}

func newBoard(r *Runner) *board {
	return &board{r: r, units: map[string]*sighting{}, never: make(chan struct{})}
}

// deaf returns a channel that closes when the cluster will not tell anything. It may do so
// later, when somebody has given the right for it.
func (b *board) deaf() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.never
}

func (b *board) fault() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wrong
}

// heard notes whether the cluster tells something.
func (b *board) heard(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err != nil && b.wrong == nil:
		b.wrong = err
		close(b.never)
	case err == nil && b.wrong != nil:
		b.wrong, b.never = nil, make(chan struct{})
	}
}

// sighting is what is known of a unit.
type sighting struct {
	wake    chan struct{} // receives after something was heard
	job     *batchv1.Job
	jobGone bool // it was there and is not any more
	pod     *corev1.Pod
	podGone bool
}

// follow begins to keep what is heard of a unit. The channel receives after each change.
func (b *board) follow(unit string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.units[unit]
	if s == nil {
		s = &sighting{wake: make(chan struct{}, 1)}
		b.units[unit] = s
	}
	if !b.begun && b.r.open.Err() == nil {
		b.begun = true
		b.live.Go(b.watchJobs)
		b.live.Go(b.watchPods)
	}
	return s.wake
}

func (b *board) forget(unit string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.units, unit)
}

// look returns what is known.
func (b *board) look(unit string) sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.units[unit]; s != nil {
		return *s
	}
	return sighting{}
}

func (b *board) change(unit string, f func(*sighting)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.units[unit]
	if s == nil {
		return
	}
	f(s)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (b *board) sawJob(j *batchv1.Job, gone bool) {
	b.change(j.Labels[container.LabelUnit], func(s *sighting) { s.job, s.jobGone = j, gone })
}

func (b *board) sawPod(p *corev1.Pod, gone bool) {
	b.change(p.Labels[container.LabelUnit], func(s *sighting) {
		// A Job has one pod. Should a controller have made another one nevertheless, the
		// first that ran counts.
		if s.pod != nil && s.pod.UID != p.UID && (!s.podGone || started(s.pod)) && gone {
			return
		}
		s.pod, s.podGone = p, gone
	})
}

// kind is one of the two watched.
type kind struct {
	resource string
	list     func(context.Context, metav1.ListOptions) (version, next string, names map[string]bool, err error)
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	saw      func(o any, gone bool) string // version of the object, "" for another kind of object
	missing  func(names map[string]bool)   // what a list did not have any more is gone
}

func (b *board) watchJobs() {
	api := b.r.api.Jobs(b.r.namespace)
	b.run(kind{
		resource: "jobs", watch: api.Watch,
		list: func(ctx context.Context, o metav1.ListOptions) (string, string, map[string]bool, error) {
			l, err := api.List(ctx, o)
			if err != nil {
				return "", "", nil, err
			}
			names := map[string]bool{}
			for i := range l.Items {
				names[l.Items[i].Labels[container.LabelUnit]] = true
				b.sawJob(&l.Items[i], false)
			}
			return l.ResourceVersion, l.Continue, names, nil
		},
		saw: func(o any, gone bool) string {
			if j, ok := o.(*batchv1.Job); ok {
				b.sawJob(j, gone)
				return j.ResourceVersion
			}
			return ""
		},
		missing: func(names map[string]bool) {
			for unit, s := range b.all() {
				if s.job != nil && !names[unit] {
					b.change(unit, func(s *sighting) { s.jobGone = true })
				}
			}
		},
	})
}

func (b *board) watchPods() {
	api := b.r.api.Pods(b.r.namespace)
	b.run(kind{
		resource: "pods", watch: api.Watch,
		list: func(ctx context.Context, o metav1.ListOptions) (string, string, map[string]bool, error) {
			l, err := api.List(ctx, o)
			if err != nil {
				return "", "", nil, err
			}
			names := map[string]bool{}
			for i := range l.Items {
				names[l.Items[i].Labels[container.LabelUnit]] = true
				b.sawPod(&l.Items[i], false)
			}
			return l.ResourceVersion, l.Continue, names, nil
		},
		saw: func(o any, gone bool) string {
			if p, ok := o.(*corev1.Pod); ok {
				b.sawPod(p, gone)
				return p.ResourceVersion
			}
			return ""
		},
		missing: func(names map[string]bool) {
			for unit, s := range b.all() {
				if s.pod != nil && !names[unit] {
					b.change(unit, func(s *sighting) { s.podGone = true })
				}
			}
		},
	})
}

// all are the units that are followed, each with what was known when asked.
func (b *board) all() map[string]sighting {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]sighting, len(b.units))
	for unit, s := range b.units {
		out[unit] = *s
	}
	return out
}

// run lists and watches until the runner is closed. Whatever goes wrong, it lists anew
// after a pause.
func (b *board) run(k kind) {
	ctx := b.r.open
	for pause := 100 * time.Millisecond; ctx.Err() == nil; {
		began := time.Now()
		err := b.once(ctx, k)
		if ctx.Err() != nil {
			return
		}
		switch {
		case errors.Is(err, errExpired), errors.Is(err, io.EOF):
			// A watch ends from time to time.
		default:
			err = apiError(ctx, err, "watch", k.resource, b.r.namespace)
			if waybill.IsKind(err, waybill.KindInvalid) {
				b.heard(err)
			}
			b.r.log.Warn("the cluster is not heard, trying again", "resource", k.resource, "err", err, "wait", pause)
		}
		if time.Since(began) > time.Minute {
			pause = 100 * time.Millisecond
		}
		select {
		case <-time.After(pause + rand.N(pause)):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, 10*time.Second)
	}
}

var errExpired = errors.New("the watch is too old")

// once lists, and watches for as long as that goes on.
func (b *board) once(ctx context.Context, k kind) error {
	names := map[string]bool{}
	o := metav1.ListOptions{LabelSelector: b.r.selector(), Limit: 500}
	version := ""
	for {
		part, cancel := context.WithTimeout(ctx, callTimeout)
		v, next, some, err := k.list(part, o)
		cancel()
		if err != nil {
			return err
		}
		for n := range some {
			names[n] = true
		}
		if version, o.Continue = v, next; next == "" {
			break
		}
	}
	k.missing(names)
	for {
		seconds := int64(240 + rand.N(120))
		w, err := k.watch(ctx, metav1.ListOptions{LabelSelector: b.r.selector(), ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds})
		if err != nil {
			if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return errExpired
			}
			return err
		}
		began := time.Now()
		b.heard(nil)
		err = b.hear(ctx, w, k, &version)
		w.Stop()
		if err != nil {
			return err
		}
		if time.Since(began) < time.Second {
			return io.EOF // so that a server that hangs up at once is not asked in a loop
		}
	}
}

// hear takes in events until the watch ends.
func (b *board) hear(ctx context.Context, w watch.Interface, k kind, version *string) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			switch e.Type {
			case watch.Error:
				err := apierrors.FromObject(e.Object)
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					return errExpired
				}
				var s apierrors.APIStatus
				if errors.As(err, &s) && s.Status().Code == http.StatusInternalServerError {
					return io.EOF // the stream was cut
				}
				return err
			case watch.Bookmark:
				if m, ok := e.Object.(metav1.ObjectMetaAccessor); ok {
					*version = m.GetObjectMeta().GetResourceVersion()
				}
			default:
				if v := k.saw(e.Object, e.Type == watch.Deleted); v != "" {
					*version = v
				}
			}
		}
	}
}
