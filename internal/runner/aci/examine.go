package aci

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-run/waybill"
)

// Examine looks whether Azure answers and knows us. Whether groups can be made there is
// known when one is.
func (r *Runner) Examine(ctx context.Context) []waybill.Finding {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	units, err := r.List(ctx)
	f := waybill.Finding{Check: "aci.groups", Status: waybill.FindingOK, Detail: fmt.Sprintf("resource group %s can be read and has %d units of this server", r.config.ResourceGroup, len(units))}
	if err != nil {
		f.Status, f.Detail = waybill.FindingFail, err.Error()
		if w := (*waybill.Error)(nil); errors.As(err, &w) {
			f.Hint = w.Hint
		}
	}
	return []waybill.Finding{f}
}
