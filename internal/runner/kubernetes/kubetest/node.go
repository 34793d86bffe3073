package kubetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// runningPod is a pod on the node. Its fields are guarded by c.mu, those of its log by
// their own.
type runningPod struct {
	c    *Cluster
	pod  *corev1.Pod
	gone chan struct{} // closed when nothing of it runs
	cut  chan struct{} // receives when it shall end
	proc *os.Process
	over bool
	why  string // "deadline", "lost"
	hard *time.Timer

	log podLog
}

// podLog is what a container wrote, with the times of its lines.
type podLog struct {
	mu      sync.Mutex
	path    string
	size    int64
	lines   []stamped // where lines begin
	open    bool      // the newest line has no end yet
	closed  bool
	changed chan struct{}
}

type stamped struct {
	at   int64
	when time.Time
}

func (l *podLog) add(f *os.File, b []byte) {
	if _, err := f.Write(b); err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for i, x := range b {
		if !l.open {
			l.lines = append(l.lines, stamped{l.size + int64(i), now})
			l.open = true
		}
		if x == '\n' {
			l.open = false
		}
	}
	l.size += int64(len(b))
	l.wake()
}

func (l *podLog) wake() {
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

func (l *podLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.wake()
}

// stopIn asks the container to end, and ends it after a while. c.mu is held.
func (p *runningPod) stopIn(d time.Duration) {
	if p.proc != nil {
		syscall.Kill(p.proc.Pid, syscall.SIGTERM)
	} else {
		p.poke()
	}
	if p.hard != nil {
		p.hard.Stop()
	}
	p.hard = time.AfterFunc(d, func() {
		p.c.mu.Lock()
		defer p.c.mu.Unlock()
		p.kill("", 0)
	})
}

func (p *runningPod) poke() {
	select {
	case p.cut <- struct{}{}:
	default:
	}
}

// kill ends the container. c.mu is held.
func (p *runningPod) kill(why string, _ int) {
	if why != "" {
		p.why = why
	}
	if p.proc != nil && !p.over {
		syscall.Kill(-p.proc.Pid, syscall.SIGKILL)
	}
	p.poke()
}

// live is what a kubelet does with a pod.
func (p *runningPod) live() {
	c := p.c
	defer close(p.gone)
	state := p.run()
	c.mu.Lock()
	defer c.mu.Unlock()
	p.over = true
	if p.hard != nil {
		p.hard.Stop()
	}
	if p.why == "lost" {
		return // nobody hears of it
	}
	ok := state.Terminated != nil && state.Terminated.ExitCode == 0
	c.update(p.pod, func() {
		p.pod.Status.Phase = corev1.PodFailed
		if ok {
			p.pod.Status.Phase = corev1.PodSucceeded
		}
		if p.why == "deadline" {
			p.pod.Status.Reason, p.pod.Status.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
			p.pod.Status.Phase, ok = corev1.PodFailed, false
		}
		if state.Terminated != nil {
			p.status(state)
		}
	})
	if ok {
		c.succeeded(p.pod)
	} else {
		c.failed(p.pod, "")
	}
	if p.pod.DeletionTimestamp != nil {
		c.drop(p.pod)
	}
}

func (p *runningPod) status(s corev1.ContainerState) {
	image := p.pod.Spec.Containers[0].Image
	name, _, _ := strings.Cut(image, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	p.pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: p.pod.Spec.Containers[0].Name, Image: image, State: s, Ready: s.Running != nil,
	}}
	if s.Running != nil || s.Terminated != nil {
		p.pod.Status.ContainerStatuses[0].ImageID = name + "@sha256:" + strings.Repeat("a", 64)
	}
}

// wait lets the pod wait for a reason until ok. It reports false when it is ended before.
func (p *runningPod) wait(why string, ok func() bool, show func()) bool {
	c := p.c
	for shown := false; ; shown = true {
		c.mu.Lock()
		if p.pod.DeletionTimestamp != nil || c.stopped {
			c.mu.Unlock()
			return false
		}
		if ok() {
			c.mu.Unlock()
			return true
		}
		if !shown {
			c.update(p.pod, show)
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-p.cut:
			return false
		}
	}
}

// run is the container from its image to its end.
func (p *runningPod) run() corev1.ContainerState {
	c := p.c
	if !p.wait("Unschedulable", func() bool { return c.node }, func() {
		p.pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient memory."}}
	}) {
		return corev1.ContainerState{}
	}
	spec := p.pod.Spec.Containers[0]
	c.mu.Lock()
	c.update(p.pod, func() {
		now := metav1.Now()
		p.pod.Spec.NodeName, p.pod.Status.StartTime = "node-1", &now
		p.pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
		p.status(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}})
	})
	c.mu.Unlock()
	if s := p.pod.Spec.ActiveDeadlineSeconds; s != nil {
		t := time.AfterFunc(time.Duration(*s)*time.Second, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			p.kill("deadline", 0)
		})
		defer t.Stop()
	}
	if !p.wait("ErrImagePull", func() bool { return c.images[spec.Image].Fault == "" }, func() {
		p.status(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: c.images[spec.Image].Fault}})
	}) {
		return corev1.ContainerState{}
	}
	return p.execute(spec)
}

// execute runs the program of a container.
func (p *runningPod) execute(spec corev1.Container) corev1.ContainerState {
	c := p.c
	home := filepath.Join(c.dir, p.pod.Name)
	fail := func(reason string, err error) corev1.ContainerState {
		now := metav1.Now()
		p.log.close()
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 128, Reason: reason, Message: err.Error(), StartedAt: metav1.NewTime(time.Unix(0, 0)), FinishedAt: now}}
	}
	env, err := p.mounts(spec, home)
	if err != nil {
		return fail("StartError", err)
	}
	// Paths are below the folder of the pod; a real container has a root of its own.
	inside := strings.NewReplacer("/waybill/", home+"/waybill/")
	var args []string
	for _, a := range append(append([]string{}, spec.Command...), spec.Args...) {
		args = append(args, inside.Replace(expand(a, env)))
	}
	if len(args) == 0 {
		args = []string{"/bin/true"}
	}
	f, err := os.OpenFile(filepath.Join(home, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail("StartError", err)
	}
	p.log.mu.Lock()
	p.log.path = f.Name()
	p.log.mu.Unlock()
	r, w, err := os.Pipe()
	if err != nil {
		return fail("StartError", err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = home, w, w, &syscall.SysProcAttr{Setpgid: true}
	if spec.WorkingDir != "" {
		cmd.Dir = home + spec.WorkingDir
	}
	cmd.Env = []string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "HOSTNAME=" + p.pod.Name}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+inside.Replace(v))
	}
	c.mu.Lock()
	if p.pod.DeletionTimestamp != nil || p.why != "" || c.stopped {
		c.mu.Unlock()
		w.Close()
		r.Close()
		return corev1.ContainerState{}
	}
	began := metav1.Now()
	if err := cmd.Start(); err != nil {
		c.mu.Unlock()
		w.Close()
		r.Close()
		return fail("StartError", fmt.Errorf("failed to create containerd task: exec: %w", err))
	}
	p.proc = cmd.Process
	c.update(p.pod, func() {
		p.pod.Status.Phase = corev1.PodRunning
		p.status(corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}})
	})
	oom := c.images[spec.Image].OOM
	c.mu.Unlock()
	w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Read(buf)
			p.log.add(f, buf[:n])
			if n > 0 && oom {
				c.mu.Lock()
				p.kill("oom", 0)
				c.mu.Unlock()
			}
			if err != nil {
				return
			}
		}
	}()
	err = cmd.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it started ends with it
	<-read
	r.Close()
	f.Close()
	p.log.close()
	end := &corev1.ContainerStateTerminated{StartedAt: began, FinishedAt: metav1.Now(), Reason: "Completed", ContainerID: "containerd://" + p.pod.Name}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status := exit.Sys().(syscall.WaitStatus)
		end.Reason, end.ExitCode = "Error", int32(status.ExitStatus())
		if status.Signaled() {
			end.ExitCode = 128 + int32(status.Signal())
		}
	}
	c.mu.Lock()
	if p.why == "oom" {
		end.Reason = "OOMKilled"
	}
	c.mu.Unlock()
	if path := spec.TerminationMessagePath; path != "" {
		b, _ := os.ReadFile(home + path) // it may be absent
		end.Message = string(b[max(0, len(b)-4096):])
	}
	return corev1.ContainerState{Terminated: end}
}

// mounts makes the files of a container, and returns its environment.
func (p *runningPod) mounts(spec corev1.Container, home string) (map[string]string, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	volumes := map[string]corev1.Volume{}
	for _, v := range p.pod.Spec.Volumes {
		volumes[v.Name] = v
	}
	secret := func(name string) (*corev1.Secret, error) {
		s, ok := c.objects["secrets/"+name].(*corev1.Secret)
		if !ok {
			return nil, fmt.Errorf("secret %q not found", name)
		}
		return s, nil
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	for _, m := range spec.VolumeMounts {
		v := volumes[m.Name]
		switch {
		case v.EmptyDir != nil:
			if err := os.MkdirAll(home+m.MountPath, 0o777); err != nil {
				return nil, err
			}
		case v.Secret != nil:
			s, err := secret(v.Secret.SecretName)
			if err != nil {
				return nil, err
			}
			found := false
			for _, i := range v.Secret.Items {
				if i.Path == m.SubPath {
					found = true
					if err := os.MkdirAll(filepath.Dir(home+m.MountPath), 0o755); err != nil {
						return nil, err
					}
					if err := os.WriteFile(home+m.MountPath, s.Data[i.Key], os.FileMode(*i.Mode)); err != nil {
						return nil, err
					}
				}
			}
			if !found {
				return nil, fmt.Errorf("subPath %q is not in the volume", m.SubPath)
			}
		}
	}
	if spec.WorkingDir != "" {
		if err := os.MkdirAll(home+spec.WorkingDir, 0o755); err != nil {
			return nil, err
		}
	}
	env := map[string]string{}
	for _, from := range spec.EnvFrom {
		s, err := secret(from.SecretRef.Name)
		if err != nil {
			return nil, err
		}
		for k, v := range s.Data {
			if !envNames.MatchString(k) {
				continue // a kubelet leaves them out
			}
			env[k] = string(v)
		}
	}
	return env, nil
}

// expand does with an argument what a kubelet does.
func expand(a string, env map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(a); i++ {
		if a[i] != '$' || i+1 == len(a) {
			b.WriteByte(a[i])
			continue
		}
		switch a[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(a[i:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := a[i+2 : i+end]
			if v, ok := env[name]; ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// log answers a request for the log of a pod.
func (c *Cluster) log(w http.ResponseWriter, q *http.Request, pod string) {
	c.mu.Lock()
	_, there := c.objects["pods/"+pod]
	p := c.pods[pod]
	c.mu.Unlock()
	if !there || p == nil {
		answer(w, 404, metav1.StatusReasonNotFound, "pods %q not found", pod)
		return
	}
	l := &p.log
	l.mu.Lock()
	path, closed := l.path, l.closed
	l.mu.Unlock()
	if path == "" {
		if closed {
			w.WriteHeader(200)
			return
		}
		answer(w, 400, metav1.StatusReasonBadRequest, "container \"unit\" in pod %q is waiting to start: ContainerCreating", pod)
		return
	}
	var since time.Time
	if s := q.URL.Query().Get("sinceTime"); s != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, s); err != nil {
			answer(w, 400, metav1.StatusReasonBadRequest, "%v", err)
			return
		}
	}
	stamps := q.URL.Query().Get("timestamps") == "true"
	follow := q.URL.Query().Get("follow") == "true"
	f, err := os.Open(path)
	if err != nil {
		answer(w, 500, metav1.StatusReasonInternalError, "%v", err)
		return
	}
	defer f.Close()
	w.WriteHeader(200)
	out := bufio.NewWriterSize(w, 32<<10)
	flush := w.(http.Flusher)
	var at int64
	line := 0
	for {
		l.mu.Lock()
		lines, size, closed, changed := l.lines, l.size, l.closed, l.changed
		l.mu.Unlock()
		for at < size {
			end := size
			for line < len(lines) && lines[line].at <= at {
				if lines[line].at == at {
					if lines[line].when.Before(since) {
						next := size
						if line+1 < len(lines) {
							next = lines[line+1].at
						}
						at = next
						line++
						continue
					}
					if stamps {
						out.WriteString(lines[line].when.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " ")
					}
				}
				line++
			}
			if line < len(lines) {
				end = lines[line].at
			}
			if at >= end {
				continue
			}
			n, err := io.Copy(out, io.NewSectionReader(f, at, end-at))
			if at += n; err != nil {
				return
			}
		}
		if out.Flush() != nil {
			return
		}
		flush.Flush()
		if closed || !follow {
			return
		}
		if changed == nil {
			l.mu.Lock()
			if l.changed == nil {
				l.changed = make(chan struct{})
			}
			changed = l.changed
			l.mu.Unlock()
		}
		select {
		case <-changed:
		case <-c.stop:
			return
		case <-q.Context().Done():
			return
		}
	}
}
