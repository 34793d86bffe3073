// Package kubetest is a small Kubernetes cluster for tests: an API server that speaks the
// HTTP of the real one for Jobs, pods, Secrets and events and refuses what that refuses, a
// controller of Jobs, and one node whose containers are processes of this machine.
//
// It shows what the real one shows and no more: times in whole seconds, signals as exit
// codes, watches that expire, a pod's log only as long as the pod is there.
package kubetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Namespace is the one that the cluster has.
const Namespace = "work"

// Cluster is a cluster of one node.
type Cluster struct {
	t   *testing.T
	srv *httptest.Server
	dir string

	mu      sync.Mutex
	changed chan struct{} // closed and made anew with each change
	version int64
	oldest  int64             // watches from before are expired
	objects map[string]object // by "resource/name"
	history []change          // since oldest
	pods    map[string]*runningPod
	images  map[string]Image
	faults  []Fault
	asked   map[string]int // requests by "verb resource"
	deny    map[string]string
	stop    chan struct{}
	stopped bool
	live    sync.WaitGroup
	node    bool // there is one with room
}

// object is something that the cluster keeps.
type object interface {
	metav1.Object
}

type change struct {
	version  int64
	typ      string // ADDED, MODIFIED, DELETED
	resource string
	obj      json.RawMessage
	labels   labels.Set
}

// Image is what becomes of a pull.
type Image struct {
	Fault string // the message that the kubelet shows; "" for an image that is there
	OOM   bool   // its container is killed for its memory as soon as it has printed something
}

// Fault is what becomes of requests.
type Fault struct {
	Verb, Resource string // of the requests; "" for any
	Status         int
	RetryAfter     int  // seconds
	Times          int  // so many requests; 0 means until Mend
	Lost           bool // the request is carried out and its answer is lost
}

// New starts a cluster that ends with the test.
func New(t *testing.T) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{
		t: t, dir: dir, changed: make(chan struct{}), version: 100, oldest: 100, objects: map[string]object{}, pods: map[string]*runningPod{},
		images: map[string]Image{}, asked: map[string]int{}, deny: map[string]string{}, stop: make(chan struct{}), node: true,
	}
	c.srv = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.close)
	return c
}

func (c *Cluster) close() {
	c.mu.Lock()
	c.stopped = true
	close(c.stop)
	for _, p := range c.pods {
		p.kill("", 0)
	}
	c.wake()
	c.mu.Unlock()
	c.srv.CloseClientConnections()
	c.srv.Close()
	c.live.Wait()
	os.RemoveAll(c.dir)
}

// Client is how the cluster is reached.
func (c *Cluster) Client() *rest.Config { return &rest.Config{Host: c.srv.URL} }

// SetImage says what becomes of pulls of an image. All others succeed.
func (c *Cluster) SetImage(name string, i Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.images[name] = i
	c.wake()
}

// Break makes requests fail.
func (c *Cluster) Break(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, f)
}

// Mend ends all faults.
func (c *Cluster) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults, c.deny = nil, map[string]string{}
}

// Deny takes the right to a verb on a resource away, with what the cluster says of it; ""
// says what it says of a missing rule.
func (c *Cluster) Deny(verb, resource, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == "" {
		text = fmt.Sprintf(`%s is forbidden: User "system:serviceaccount:%s:waybill" cannot %s resource "%s" in API group "" in the namespace "%s"`, resource, Namespace, verb, resource, Namespace)
	}
	c.deny[verb+" "+resource] = text
}

// Asked is how many requests there were.
func (c *Cluster) Asked(verb, resource string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[verb+" "+resource]
}

// Expire makes the cluster forget its history: watches end, and those that go on from what
// they have seen are told 410.
func (c *Cluster) Expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.oldest, c.history = c.version, nil
	c.wake()
}

// Cut ends all connections.
func (c *Cluster) Cut() { c.srv.CloseClientConnections() }

// Room says whether the node takes pods.
func (c *Cluster) Room(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node = yes
	c.wake()
}

// Show is all that the cluster shows of its objects but the values of Secrets.
func (c *Cluster) Show() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for k, o := range c.objects {
		if !strings.HasPrefix(k, "secrets/") {
			j, err := json.MarshalIndent(o, "", " ")
			if err != nil {
				c.t.Error(err)
			}
			b.Write(j)
		}
	}
	return b.String()
}

// Names are the objects of a resource.
func (c *Cluster) Names(resource string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for k := range c.objects {
		if n, ok := strings.CutPrefix(k, resource+"/"); ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Job is a copy of a Job, nil if there is none.
func (c *Cluster) Job(name string) *batchv1.Job {
	c.mu.Lock()
	defer c.mu.Unlock()
	j, _ := c.objects["jobs/"+name].(*batchv1.Job)
	return j.DeepCopy()
}

// Pod is a copy of the pod of a unit, nil if there is none.
func (c *Cluster) Pod(unit string) *corev1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.podOf(unit).DeepCopy()
}

func (c *Cluster) podOf(job string) *corev1.Pod {
	for _, o := range c.objects {
		if p, ok := o.(*corev1.Pod); ok && p.Labels["batch.kubernetes.io/job-name"] == job {
			return p
		}
	}
	return nil
}

// Put adds an object as somebody else would.
func (c *Cluster) Put(o object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(o)
}

// Delete deletes an object as somebody else would.
func (c *Cluster) Delete(resource, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(resource, name, 0)
}

// Evict takes the pod of a unit off its node.
func (c *Cluster) Evict(unit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.podOf(unit); p != nil {
		c.update(p, func() {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting"})
		})
		c.deletePod(p, 1)
	}
}

// LoseNode makes the node of a unit's pod vanish: nothing more is heard of its container.
func (c *Cluster) LoseNode(unit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.podOf(unit); p != nil {
		c.pods[p.Name].kill("lost", 0)
		c.update(p, func() {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint"})
			now := metav1.Now()
			p.DeletionTimestamp = &now
		})
	}
}

// wake tells watches and the node that something has changed. c.mu is held.
func (c *Cluster) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func resourceOf(o object) string {
	switch o.(type) {
	case *batchv1.Job:
		return "jobs"
	case *corev1.Pod:
		return "pods"
	case *corev1.Secret:
		return "secrets"
	case *corev1.Event:
		return "events"
	}
	panic(fmt.Sprintf("%T", o))
}

// add makes an object. c.mu is held.
func (c *Cluster) add(o object) {
	o.SetNamespace(Namespace)
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", c.version)))
	}
	o.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	c.objects[resourceOf(o)+"/"+o.GetName()] = o
	c.note("ADDED", o)
}

// update changes an object. c.mu is held.
func (c *Cluster) update(o object, f func()) {
	f()
	if _, ok := c.objects[resourceOf(o)+"/"+o.GetName()]; ok {
		c.note("MODIFIED", o)
	}
}

func (c *Cluster) note(typ string, o object) {
	c.version++
	o.SetResourceVersion(strconv.FormatInt(c.version, 10))
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	// The kind is part of what is sent in a watch.
	kind := map[string]string{"jobs": `{"kind":"Job","apiVersion":"batch/v1",`, "pods": `{"kind":"Pod","apiVersion":"v1",`, "secrets": `{"kind":"Secret","apiVersion":"v1",`, "events": `{"kind":"Event","apiVersion":"v1",`}[resourceOf(o)]
	b = append([]byte(kind), b[1:]...)
	c.history = append(c.history, change{c.version, typ, resourceOf(o), b, labels.Set(o.GetLabels())})
	c.wake()
}

// drop forgets an object. c.mu is held.
func (c *Cluster) drop(o object) {
	key := resourceOf(o) + "/" + o.GetName()
	if c.objects[key] != o {
		return
	}
	delete(c.objects, key)
	c.note("DELETED", o)
	// The garbage collector.
	for _, x := range c.objects {
		for _, ref := range x.GetOwnerReferences() {
			if ref.UID == o.GetUID() {
				if p, ok := x.(*corev1.Pod); ok {
					c.deletePod(p, 1)
				} else {
					c.drop(x)
				}
			}
		}
	}
}

// remove deletes an object as a request asks. c.mu is held.
func (c *Cluster) remove(resource, name string, grace int64) bool {
	o := c.objects[resource+"/"+name]
	if o == nil {
		return false
	}
	if p, ok := o.(*corev1.Pod); ok {
		c.deletePod(p, grace)
	} else {
		c.drop(o)
	}
	return true
}

func (c *Cluster) deletePod(p *corev1.Pod, grace int64) {
	run := c.pods[p.Name]
	if grace == 0 || run == nil || run.over {
		if run != nil {
			run.kill("", 0)
		}
		c.drop(p)
		c.failed(p, "")
		return
	}
	at := time.Now().Add(time.Duration(grace) * time.Second)
	if p.DeletionTimestamp != nil && !at.Before(p.DeletionTimestamp.Time) {
		return // a later one changes nothing
	}
	c.update(p, func() {
		t := metav1.NewTime(at)
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &t, &grace
	})
	run.stopIn(time.Duration(grace) * time.Second)
}

// failed lets the controller of Jobs see that a pod has ended without success.
func (c *Cluster) failed(p *corev1.Pod, reason string) {
	job, ok := c.objects["jobs/"+p.Labels["batch.kubernetes.io/job-name"]].(*batchv1.Job)
	if !ok || len(job.Status.Conditions) > 0 {
		return
	}
	if reason == "" {
		reason = batchv1.JobReasonBackoffLimitExceeded
	}
	c.update(job, func() {
		job.Status.Failed, job.Status.Active = 1, 0
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason, Message: "Job has reached the specified backoff limit", LastTransitionTime: metav1.Now(),
		})
	})
}

func (c *Cluster) succeeded(p *corev1.Pod) {
	job, ok := c.objects["jobs/"+p.Labels["batch.kubernetes.io/job-name"]].(*batchv1.Job)
	if !ok || len(job.Status.Conditions) > 0 {
		return
	}
	c.update(job, func() {
		now := metav1.Now()
		job.Status.Succeeded, job.Status.Active, job.Status.CompletionTime = 1, 0, &now
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: now})
	})
}

// control makes the pod of a new Job. c.mu is held.
func (c *Cluster) control(job *batchv1.Job) {
	if text := c.deny["create pods"]; text != "" {
		c.update(job, func() { now := metav1.Now(); job.Status.StartTime = &now })
		c.add(&corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: job.Name + ".1"}, InvolvedObject: corev1.ObjectReference{Kind: "Job", Name: job.Name, UID: job.UID},
			Reason: "FailedCreate", Message: "Error creating: " + text, LastTimestamp: metav1.Now(), Type: corev1.EventTypeWarning,
		})
		return
	}
	marks := map[string]string{"batch.kubernetes.io/job-name": job.Name, "batch.kubernetes.io/controller-uid": string(job.UID)}
	for k, v := range job.Spec.Template.Labels {
		marks[k] = v
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%05d", job.Name, c.version%100000), Labels: marks, Annotations: job.Spec.Template.Annotations,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID}},
		},
		Spec:   *job.Spec.Template.Spec.DeepCopy(),
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	c.update(job, func() { now := metav1.Now(); job.Status.StartTime, job.Status.Active = &now, 1 })
	run := &runningPod{c: c, pod: pod, gone: make(chan struct{}), cut: make(chan struct{}, 8)}
	c.pods[pod.Name] = run
	c.add(pod)
	if c.stopped {
		return
	}
	c.live.Go(run.live)
	if s := job.Spec.ActiveDeadlineSeconds; s != nil {
		c.live.Go(func() {
			t := time.NewTimer(time.Duration(*s) * time.Second)
			defer t.Stop()
			select {
			case <-t.C:
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.objects["pods/"+pod.Name] == object(pod) && !run.over {
					c.failed(pod, batchv1.JobReasonDeadlineExceeded)
					c.deletePod(pod, 1)
				}
			case <-run.gone:
			case <-c.stop:
			}
		})
	}
}
