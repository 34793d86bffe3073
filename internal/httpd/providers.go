package httpd

import (
	"context"
	"net/http"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) ListDeliveryProviders(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, _ *call) error {
		out := openapi.DeliveryProviderList{Items: []waybill.DeliveryProvider{}}
		if v.Providers != nil {
			all, err := v.Providers.DeliveryProviders(r.Context())
			if err != nil {
				return err
			}
			out.Items = append(out.Items, all...)
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

// freshness tells whether what is shown of deployments may be old, and how old, and what
// could not be looked up. It is the same between two rounds of polling, so that answers
// keep their ETags.
func (v *Services) freshness(ctx context.Context) (stale bool, age float32, notes []string, err error) {
	if v.Providers == nil {
		return false, 0, nil, nil
	}
	all, err := v.Providers.DeliveryProviders(ctx)
	if err != nil {
		return false, 0, nil, err
	}
	for _, p := range all {
		if p.Error != "" {
			notes = append(notes, p.Name+": "+p.Error)
		}
		for _, n := range p.Notes {
			notes = append(notes, p.Name+": "+n)
		}
		if !p.Stale {
			continue
		}
		stale = true
		if !p.FreshAt.IsZero() {
			age = max(age, float32(p.PolledAt.Sub(p.FreshAt).Seconds()))
		}
	}
	return stale, age, notes, nil
}
