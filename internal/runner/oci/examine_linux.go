package oci

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
)

// Available reports whether there is a runtime to make containers with. It is a look
// only: whether it works is found out by the first unit, or by [Runner.Examine].
func (r *Runner) Available(context.Context) bool {
	names := runtimes
	if r.o.Runtime != "" {
		names = []string{r.o.Runtime}
	}
	for _, n := range names {
		if _, err := exec.LookPath(n); err == nil {
			return true
		}
	}
	return false
}

// Examine says what of this runner works here. It makes a container of nothing.
func (r *Runner) Examine(ctx context.Context) []waybill.Finding {
	add := func(out []waybill.Finding, check string, status waybill.FindingStatus, hint, detail string) []waybill.Finding {
		return append(out, waybill.Finding{Check: "oci." + check, Status: status, Detail: detail, Hint: hint})
	}
	var out []waybill.Finding
	if !r.Available(ctx) && !r.used() {
		return nil // nobody asked for containers
	}
	st, err := r.open()
	if err != nil {
		return add(out, "folder", waybill.FindingFail, "", err.Error())
	}
	rt, err := st.chooser.get(ctx)
	if err != nil {
		hint := ""
		if e, ok := err.(*waybill.Error); ok {
			hint = e.Hint
		}
		return add(out, "runtime", waybill.FindingFail, hint, err.Error())
	}
	how := "as root"
	if r.rootless {
		how = fmt.Sprintf("as user %d, with the network of the machine or none", os.Geteuid())
	}
	out = add(out, "runtime", waybill.FindingOK, "", rt.path+" makes containers "+how)
	var missing []string
	for _, c := range []string{"memory", "cpu", "pids"} {
		if st.limits.need(c, c) != nil {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		out = add(out, "limits", waybill.FindingWarn, "steps that ask for these limits fail; let the server run as root where control groups can be made", "cannot be enforced here: "+strings.Join(missing, ", "))
	} else {
		out = add(out, "limits", waybill.FindingOK, "", "memory, cpu and pids can be limited")
	}
	return append(out, usage(st.images.Usage()))
}

func usage(u image.Usage) waybill.Finding {
	f := waybill.Finding{Check: "oci.images", Status: waybill.FindingOK, Detail: fmt.Sprintf("%d layers take %d of %d MiB, %d of them in use", u.Layers, u.Bytes>>20, u.Quota>>20, u.Pinned>>20)}
	if u.Pinned > u.Quota/10*9 {
		f.Status, f.Hint = waybill.FindingWarn, "raise quota under runners: oci in waybill.yaml"
	}
	return f
}
