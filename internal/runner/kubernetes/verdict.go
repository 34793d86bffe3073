package kubernetes

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// phase is what can be said of a unit.
type phase int

const (
	pending phase = iota // nothing runs yet
	running
	over     // it has ended, and how is known
	vanished // it is gone, and how it ended cannot be known
)

// Reasons of an Exit that are this runner's own.
const (
	ReasonUnschedulable = "unschedulable" // no node had room for it
	ReasonNotCreated    = "not_created"   // the cluster made no pod of its Job: a quota, a policy
	ReasonOutputs       = "outputs_too_large"
)

// verdict is what follows from what is known of a unit.
type verdict struct {
	phase  phase
	exit   runner.Exit
	why    string // of pending and vanished, for people
	fault  string // while pending: the reason for which its image cannot be had
	sure   bool   // trying again will not help
	output string // what the unit wrote for Waybill
	seen   bool   // output was seen
}

// judge says what is known of a unit. stopped is whether Waybill asked it to stop.
func judge(s sighting, stopped bool) verdict {
	if s.pod != nil {
		if v, sure := judgePod(s.pod, s.podGone, stopped); sure {
			return v
		} else if s.podGone || s.jobGone {
			if stopped {
				return verdict{phase: over, exit: killed("it was stopped; how it ended was not heard")}
			}
			if hard, at := deadline(s.job); hard {
				return verdict{phase: over, exit: hardStop(at)}
			}
			return verdict{phase: vanished, why: orElse(v.why, "its pod was deleted by somebody else")}
		} else {
			return v
		}
	}
	switch {
	case s.job == nil:
		return verdict{phase: pending, why: "the cluster has not told of its Job yet"}
	case s.jobGone:
		return verdict{phase: vanished, why: "its Job was deleted by somebody else"}
	}
	for _, c := range s.job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch {
		case c.Type == batchv1.JobComplete:
			return verdict{phase: over, exit: runner.Exit{Message: "its pod is gone; the Job says that it succeeded", StartedAt: startOf(s.job), EndedAt: c.LastTransitionTime.UTC()}}
		case c.Type == batchv1.JobFailed && c.Reason == batchv1.JobReasonDeadlineExceeded:
			return verdict{phase: over, exit: hardStop(c.LastTransitionTime.UTC())}
		case c.Type == batchv1.JobFailed && stopped:
			return verdict{phase: over, exit: killed("it was stopped; how it ended was not heard")}
		case c.Type == batchv1.JobFailed:
			return verdict{phase: vanished, why: "its pod is gone: " + oneLine(c.Message)}
		}
	}
	return verdict{phase: pending, why: "the cluster has made no pod of its Job yet"}
}

// judgePod says what a pod tells. sure is whether that stands whatever becomes of the pod.
func judgePod(p *corev1.Pod, gone, stopped bool) (v verdict, sure bool) {
	var state corev1.ContainerState
	image := ""
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container1 {
			state, image = c.State, c.Image
		}
	}
	why := disrupted(p)
	if t := state.Terminated; t != nil {
		v = verdict{phase: over, exit: exitOf(t, stopped || p.DeletionTimestamp != nil), output: t.Message, seen: true}
		if p.Status.Reason == "DeadlineExceeded" {
			end := t.FinishedAt.UTC()
			v.exit = hardStop(end)
			v.exit.StartedAt = t.StartedAt.UTC()
		}
		if v.exit.OK() || stopped || v.exit.Reason == runner.ReasonHardStop {
			return v, true
		}
		if t.Reason == "ContainerStatusUnknown" {
			why = orElse(why, "its node no longer knows how it ended")
		}
		if why == "" && (p.DeletionTimestamp != nil || gone) {
			why = "its pod was deleted by somebody else"
		}
		if why != "" {
			return verdict{phase: vanished, why: why}, true
		}
		return v, true
	}
	switch p.Status.Phase {
	case corev1.PodFailed:
		switch {
		case p.Status.Reason == "DeadlineExceeded":
			return verdict{phase: over, exit: hardStop(ended1(p))}, true
		case stopped:
			return verdict{phase: over, exit: killed("it was stopped before it ran")}, true
		}
		return verdict{phase: vanished, why: orElse(why, strings.TrimSpace(p.Status.Reason+" "+oneLine(p.Status.Message)))}, true
	case corev1.PodSucceeded:
		return verdict{phase: over, exit: runner.Exit{EndedAt: ended1(p)}}, true
	}
	if why != "" && !stopped {
		return verdict{phase: vanished, why: why}, true
	}
	if state.Running != nil {
		return verdict{phase: running, why: why}, false
	}
	v = verdict{phase: pending, why: "its pod is " + strings.ToLower(string(p.Status.Phase))}
	if w := state.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
		text := oneLine(w.Message)
		v.why = strings.TrimSuffix(w.Reason+": "+text, ": ")
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError":
			if w.Reason != "ImagePullBackOff" || text != "" {
				v.fault, _ = container.Classify(errors.New(text))
			}
			v.sure = v.fault != "" && !runner.PullAgain(v.fault)
		case "InvalidImageName":
			v.fault, v.sure = runner.ReasonPullNotFound, true
		case "ErrImageNeverPull":
			v.fault, v.sure = runner.ReasonPullNotFound, true
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return verdict{phase: over, exit: runner.Exit{Code: 127, Reason: runner.ReasonStartFailed, Message: v.why, EndedAt: time.Now().UTC()}}, true
		}
		if image != "" && v.fault != "" && !strings.Contains(v.why, image) {
			v.why = image + ": " + v.why
		}
		return v, false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			v.why = "no node takes it: " + oneLine(c.Message)
		}
	}
	return v, false
}

// disrupted says why a pod was ended that did nothing wrong, "" if it was not.
func disrupted(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return fmt.Sprintf("the cluster took its pod away: %s: %s", c.Reason, oneLine(c.Message))
		}
	}
	switch p.Status.Reason {
	case "Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "Preempted", "NodeAffinity", "OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError":
		return strings.TrimSuffix(fmt.Sprintf("the cluster took its pod away: %s: %s", p.Status.Reason, oneLine(p.Status.Message)), ": ")
	}
	return ""
}

// exitOf reads the end of a container. cut is whether somebody asked for it, which makes
// the usual codes of signals mean these.
func exitOf(t *corev1.ContainerStateTerminated, cut bool) runner.Exit {
	e := runner.Exit{Code: int(t.ExitCode), StartedAt: t.StartedAt.UTC(), EndedAt: t.FinishedAt.UTC()}
	switch {
	case t.Reason == "OOMKilled":
		e.Code, e.Signal, e.Reason, e.Message = -1, "SIGKILL", runner.ReasonOOM, "it took more memory than its limit"
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		e.Code, e.Reason, e.Message = 127, runner.ReasonStartFailed, oneLine(t.Message)
		e.StartedAt = e.EndedAt
	case t.Signal > 0:
		e.Code, e.Signal = -1, signalName(int(t.Signal))
	case cut && (t.ExitCode == 128+int32(syscall.SIGTERM) || t.ExitCode == 128+int32(syscall.SIGKILL)):
		e.Code, e.Signal = -1, signalName(int(t.ExitCode)-128)
	}
	return e
}

func signalName(n int) string {
	if s, ok := map[int]string{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}[n]; ok {
		return s
	}
	return fmt.Sprintf("signal %d", n)
}

func hardStop(at time.Time) runner.Exit {
	return runner.Exit{Code: -1, Signal: "SIGKILL", Reason: runner.ReasonHardStop, Message: "it ran past the last moment at which it may run", EndedAt: at}
}

func killed(message string) runner.Exit {
	return runner.Exit{Code: -1, Signal: "SIGKILL", Message: message, EndedAt: time.Now().UTC().Truncate(time.Second)}
}

func deadline(j *batchv1.Job) (bool, time.Time) {
	if j != nil {
		for _, c := range j.Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue && c.Reason == batchv1.JobReasonDeadlineExceeded {
				return true, c.LastTransitionTime.UTC()
			}
		}
	}
	return false, time.Time{}
}

func startOf(j *batchv1.Job) time.Time {
	if j.Status.StartTime == nil {
		return j.CreationTimestamp.UTC()
	}
	return j.Status.StartTime.UTC()
}

// ended1 is when a pod without states of containers ended, as well as it is known.
func ended1(p *corev1.Pod) time.Time {
	var at time.Time
	for _, c := range p.Status.Conditions {
		if t := c.LastTransitionTime.UTC(); t.After(at) {
			at = t
		}
	}
	if at.IsZero() {
		at = time.Now().UTC().Truncate(time.Second)
	}
	return at
}

// started reports whether the unit of a pod has begun to run.
func started(p *corev1.Pod) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container1 && (c.State.Running != nil || c.State.Terminated != nil) {
			return true
		}
	}
	return false
}

// imageOf is what the container of a pod was made of: name and digest.
func imageOf(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name != container1 || c.ImageID == "" {
			continue
		}
		id := c.ImageID
		if _, rest, ok := strings.Cut(id, "://"); ok {
			id = rest
		}
		at, digest, ok := strings.Cut(id, "@")
		if !ok {
			return ""
		}
		for _, x := range p.Spec.Containers {
			if x.Name == container1 {
				at, _, _ = strings.Cut(x.Image, "@")
			}
		}
		return at + "@" + digest
	}
	return ""
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
