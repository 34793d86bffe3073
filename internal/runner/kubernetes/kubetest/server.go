package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

var route = regexp.MustCompile(`^/(api/v1|apis/batch/v1)/namespaces/([^/]+)/(jobs|pods|secrets|events)(?:/([^/]+))?(?:/(log))?$`)

// answer is a status of the API.
func answer(w http.ResponseWriter, code int, reason metav1.StatusReason, format string, args ...any) {
	s := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: fmt.Sprintf(format, args...),
	}
	if code < 300 {
		s.Status = metav1.StatusSuccess
	}
	send(w, code, s)
}

func send(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) // a client that went away is its own fault
}

func (c *Cluster) serve(w http.ResponseWriter, q *http.Request) {
	m := route.FindStringSubmatch(q.URL.Path)
	if m == nil || (m[1] == "apis/batch/v1") != (m[3] == "jobs") || m[5] == "log" && m[3] != "pods" {
		answer(w, 404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	resource, name := m[3], m[4]
	watching := q.URL.Query().Get("watch") == "true"
	verb := map[string]string{"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}[q.Method]
	switch {
	case watching:
		verb = "watch"
	case verb == "get" && name == "":
		verb = "list"
	}
	if m[5] == "log" {
		resource = "pods/log"
	}
	c.mu.Lock()
	c.asked[verb+" "+resource]++
	fault := c.fault(verb, resource)
	denied := c.deny[verb+" "+resource]
	c.mu.Unlock()
	switch {
	case fault != nil && !fault.Lost:
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
		answer(w, fault.Status, map[int]metav1.StatusReason{429: metav1.StatusReasonTooManyRequests, 500: metav1.StatusReasonInternalError, 401: metav1.StatusReasonUnauthorized, 503: metav1.StatusReasonServiceUnavailable}[fault.Status], "a fault of the test")
		return
	case denied != "":
		answer(w, 403, metav1.StatusReasonForbidden, "%s", denied)
		return
	case m[2] != Namespace && verb == "create":
		answer(w, 404, metav1.StatusReasonNotFound, "namespaces %q not found", m[2])
		return
	case fault != nil: // carried out, and not answered
		inner := &discard{h: http.Header{}}
		c.handle(inner, q, verb, resource, name)
		panic(http.ErrAbortHandler)
	}
	c.handle(w, q, verb, resource, name)
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func (c *Cluster) fault(verb, resource string) *Fault {
	for i := range c.faults {
		f := &c.faults[i]
		if (f.Verb != "" && f.Verb != verb) || (f.Resource != "" && f.Resource != resource) || f.Times < 0 {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1
			}
		}
		x := *f
		return &x
	}
	return nil
}

func (c *Cluster) handle(w http.ResponseWriter, q *http.Request, verb, resource, name string) {
	switch verb {
	case "create":
		c.create(w, q, resource)
	case "list":
		c.list(w, q, resource)
	case "watch":
		c.watch(w, q, resource)
	case "patch":
		c.patch(w, q, resource, name)
	case "delete":
		c.delete(w, q, resource, name)
	case "get":
		if resource == "pods/log" {
			c.log(w, q, name)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if o := c.objects[resource+"/"+name]; o != nil {
			send(w, 200, o)
		} else {
			answer(w, 404, metav1.StatusReasonNotFound, "%s %q not found", resource, name)
		}
	default:
		answer(w, 405, metav1.StatusReasonMethodNotAllowed, "%s is not supported", verb)
	}
}

func (c *Cluster) create(w http.ResponseWriter, q *http.Request, resource string) {
	var o object
	switch resource {
	case "jobs":
		o = &batchv1.Job{}
	case "secrets":
		o = &corev1.Secret{}
	default:
		answer(w, 405, metav1.StatusReasonMethodNotAllowed, "not here")
		return
	}
	d := json.NewDecoder(io.LimitReader(q.Body, 3<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		answer(w, 400, metav1.StatusReasonBadRequest, "%v", err)
		return
	}
	if wrong := validate(o); len(wrong) > 0 {
		answer(w, 422, metav1.StatusReasonInvalid, "%s %q is invalid: %s", resource, o.GetName(), strings.Join(wrong, "; "))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.objects[resource+"/"+o.GetName()] != nil {
		answer(w, 409, metav1.StatusReasonAlreadyExists, "%s %q already exists", resource, o.GetName())
		return
	}
	if q.URL.Query().Get("dryRun") == "All" {
		send(w, 201, o)
		return
	}
	c.add(o)
	send(w, 201, o)
	if j, ok := o.(*batchv1.Job); ok {
		c.control(j)
	}
}

var envNames = regexp.MustCompile(`^[-._a-zA-Z][-._a-zA-Z0-9]*$`)

// validate says what a real API server would not take.
func validate(o object) []string {
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	marks := func(where string, m map[string]string) {
		for k, v := range m {
			for _, e := range append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...) {
				bad("%s: %s", where, e)
			}
		}
	}
	for _, e := range validation.IsDNS1123Subdomain(o.GetName()) {
		bad("metadata.name: %s", e)
	}
	marks("metadata.labels", o.GetLabels())
	for k := range o.GetAnnotations() {
		for _, e := range validation.IsQualifiedName(k) {
			bad("metadata.annotations: %s", e)
		}
	}
	switch x := o.(type) {
	case *corev1.Secret:
		size := 0
		for k, v := range x.Data {
			size += len(v)
			for _, e := range validation.IsConfigMapKey(k) {
				bad("data: %s", e)
			}
		}
		if size > corev1.MaxSecretSize {
			bad("data: Too long: may not be more than %d bytes", corev1.MaxSecretSize)
		}
		if x.Type == corev1.SecretTypeDockerConfigJson && !json.Valid(x.Data[corev1.DockerConfigJsonKey]) {
			bad("data[.dockerconfigjson]: Invalid value")
		}
	case *batchv1.Job:
		for _, e := range validation.IsDNS1123Label(x.Name) { // the names of pods are made of it
			bad("metadata.name: %s", e)
		}
		p := x.Spec.Template.Spec
		marks("spec.template.labels", x.Spec.Template.Labels)
		if p.RestartPolicy != corev1.RestartPolicyNever && p.RestartPolicy != corev1.RestartPolicyOnFailure {
			bad(`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`)
		}
		for _, s := range []*int64{p.ActiveDeadlineSeconds, x.Spec.ActiveDeadlineSeconds} {
			if s != nil && *s < 1 {
				bad("activeDeadlineSeconds: must be greater than 0")
			}
		}
		volumes := map[string]bool{}
		for _, v := range p.Volumes {
			if volumes[v.Name] {
				bad("volumes: Duplicate value: %q", v.Name)
			}
			volumes[v.Name] = true
		}
		if len(p.Containers) == 0 {
			bad("spec.template.spec.containers: Required value")
		}
		for _, t := range p.Tolerations {
			if t.Operator == corev1.TolerationOpExists && t.Value != "" {
				bad("tolerations: value must be empty when operator is 'Exists'")
			}
		}
		for _, k := range p.Containers {
			if k.Image == "" {
				bad("containers.image: Required value")
			}
			paths := map[string]bool{}
			for _, m := range k.VolumeMounts {
				if !volumes[m.Name] {
					bad("volumeMounts.name: Not found: %q", m.Name)
				}
				if paths[m.MountPath] {
					bad("volumeMounts.mountPath: Invalid value: %q: must be unique", m.MountPath)
				}
				paths[m.MountPath] = true
			}
			for name, limit := range k.Resources.Limits {
				if r := k.Resources.Requests[name]; r.Cmp(limit) > 0 {
					bad("resources.requests: must be less than or equal to %s limit", name)
				}
			}
		}
	}
	return wrong
}

func (c *Cluster) patch(w http.ResponseWriter, q *http.Request, resource, name string) {
	if q.Header.Get("Content-Type") != "application/merge-patch+json" {
		answer(w, 415, metav1.StatusReasonUnsupportedMediaType, "the body of the request was in an unknown format")
		return
	}
	var p struct {
		Metadata struct {
			Annotations     map[string]string       `json:"annotations"`
			OwnerReferences []metav1.OwnerReference `json:"ownerReferences"`
		} `json:"metadata"`
	}
	d := json.NewDecoder(q.Body)
	d.DisallowUnknownFields() // nothing else is patched
	if err := d.Decode(&p); err != nil {
		answer(w, 400, metav1.StatusReasonBadRequest, "%v", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.objects[resource+"/"+name]
	if o == nil {
		answer(w, 404, metav1.StatusReasonNotFound, "%s %q not found", resource, name)
		return
	}
	c.update(o, func() {
		notes := map[string]string{}
		for k, v := range o.GetAnnotations() {
			notes[k] = v
		}
		for k, v := range p.Metadata.Annotations {
			notes[k] = v
		}
		o.SetAnnotations(notes)
		if p.Metadata.OwnerReferences != nil {
			o.SetOwnerReferences(p.Metadata.OwnerReferences)
		}
	})
	send(w, 200, o)
}

func (c *Cluster) delete(w http.ResponseWriter, q *http.Request, resource, name string) {
	var o metav1.DeleteOptions
	if b, err := io.ReadAll(q.Body); err != nil || len(b) > 0 && json.Unmarshal(b, &o) != nil {
		answer(w, 400, metav1.StatusReasonBadRequest, "no DeleteOptions")
		return
	}
	grace := int64(30)
	if o.GracePeriodSeconds != nil {
		grace = *o.GracePeriodSeconds
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.objects[resource+"/"+name]
	switch {
	case x == nil:
		answer(w, 404, metav1.StatusReasonNotFound, "%s %q not found", resource, name)
	case o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != x.GetUID():
		answer(w, 409, metav1.StatusReasonConflict, "the UID in the precondition does not match")
	default:
		c.remove(resource, name, grace)
		answer(w, 200, "", "deleted")
	}
}

func (c *Cluster) list(w http.ResponseWriter, q *http.Request, resource string) {
	sel, err := labels.Parse(q.URL.Query().Get("labelSelector"))
	if err != nil {
		answer(w, 400, metav1.StatusReasonBadRequest, "%v", err)
		return
	}
	uid, byUID := strings.CutPrefix(q.URL.Query().Get("fieldSelector"), "involvedObject.uid=")
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []object
	for k, o := range c.objects {
		e, _ := o.(*corev1.Event)
		if strings.HasPrefix(k, resource+"/") && sel.Matches(labels.Set(o.GetLabels())) && (!byUID || e != nil && string(e.InvolvedObject.UID) == uid) {
			found = append(found, o)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].GetName() < found[j].GetName() })
	// Pages, as a client that does not read on would be a fault.
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatInt(c.version, 10)}
	from, _ := strconv.Atoi(q.URL.Query().Get("continue"))
	limit, _ := strconv.Atoi(q.URL.Query().Get("limit"))
	found = found[min(from, len(found)):]
	if limit > 0 && len(found) > min(limit, 50) {
		found = found[:min(limit, 50)]
		meta.Continue = strconv.Itoa(from + len(found))
	}
	if found == nil {
		found = []object{}
	}
	kind := map[string]string{"jobs": "JobList", "pods": "PodList", "secrets": "SecretList", "events": "EventList"}[resource]
	version := "v1"
	if resource == "jobs" {
		version = "batch/v1"
	}
	send(w, 200, map[string]any{"kind": kind, "apiVersion": version, "metadata": meta, "items": found})
}

func (c *Cluster) watch(w http.ResponseWriter, q *http.Request, resource string) {
	sel, err := labels.Parse(q.URL.Query().Get("labelSelector"))
	version := q.URL.Query().Get("resourceVersion")
	if version == "" { // from now on, as far as a test can tell
		c.mu.Lock()
		version = strconv.FormatInt(c.version, 10)
		c.mu.Unlock()
	}
	from, verr := strconv.ParseInt(version, 10, 64)
	if err != nil || verr != nil {
		answer(w, 400, metav1.StatusReasonBadRequest, "no selector or version: %v %v", err, verr)
		return
	}
	seconds, _ := strconv.Atoi(q.URL.Query().Get("timeoutSeconds"))
	if seconds == 0 {
		seconds = 1800
	}
	end := time.NewTimer(time.Duration(seconds) * time.Second)
	defer end.Stop()
	w.Header().Set("Content-Type", "application/json")
	flush := w.(http.Flusher)
	out := json.NewEncoder(w)
	for first := true; ; first = false {
		c.mu.Lock()
		if from < c.oldest {
			c.mu.Unlock()
			gone := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "too old resource version"}
			if first {
				send(w, 410, gone)
				return
			}
			out.Encode(map[string]any{"type": "ERROR", "object": gone})
			return
		}
		var news []change
		for _, h := range c.history {
			if h.version > from && h.resource == resource && sel.Matches(h.labels) {
				news = append(news, h)
			}
		}
		from = c.version
		changed, stopped := c.changed, c.stopped
		c.mu.Unlock()
		for _, h := range news {
			if out.Encode(map[string]any{"type": h.typ, "object": h.obj}) != nil {
				return
			}
		}
		flush.Flush()
		if stopped {
			return
		}
		select {
		case <-changed:
		case <-end.C:
			return
		case <-q.Context().Done():
			return
		}
	}
}
