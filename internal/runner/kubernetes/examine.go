package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// Examine looks whether the cluster answers and lets us do what units need. Nothing is
// made: the cluster is asked to try.
func (r *Runner) Examine(ctx context.Context) []waybill.Finding {
	var out []waybill.Finding
	add := func(check string, err error, ok string) bool {
		f := waybill.Finding{Check: "kubernetes." + check, Status: waybill.FindingOK, Detail: ok}
		if err != nil {
			f.Status, f.Detail = waybill.FindingFail, err.Error()
			if w := (*waybill.Error)(nil); errors.As(err, &w) {
				f.Hint = w.Hint
			}
		}
		out = append(out, f)
		return err == nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	units, err := r.List(ctx)
	if !add("cluster", err, fmt.Sprintf("%s answers; namespace %s has %d units of this server", r.host, r.namespace, len(units))) {
		return out
	}
	try := func(check, verb, resource string, f func() error) {
		add(check, apiError(ctx, f(), verb, resource, r.namespace), "may "+verb+" "+resource)
	}
	o, err := r.build(runner.Spec{Unit: "waybill-doctor", Args: []string{"true"}, Env: []string{"A=b"}, HardStop: time.Now().Add(time.Minute)}, Settings{}, time.Now())
	if err != nil {
		add("objects", err, "")
		return out
	}
	o.job.Spec.Template.Spec.Containers[0].Image = "waybill.invalid/doctor:1"
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	try("secrets", "create", "secrets", func() error {
		_, err := r.api.Secrets(r.namespace).Create(ctx, o.secrets[0], dry)
		return err
	})
	try("jobs", "create", "jobs", func() error {
		_, err := r.api.Jobs(r.namespace).Create(ctx, o.job, dry)
		return err
	})
	try("pods", "list", "pods", func() error {
		_, err := r.api.Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: r.selector(), Limit: 1})
		return err
	})
	one := int64(1)
	try("watches", "watch", "pods", func() error {
		w, err := r.api.Pods(r.namespace).Watch(ctx, metav1.ListOptions{LabelSelector: r.selector(), TimeoutSeconds: &one})
		if err == nil {
			w.Stop()
		}
		return err
	})
	return out
}
