package httpd

import (
	"context"
	"net/http"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/spektate"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) GetHealthz(w http.ResponseWriter, r *http.Request) {
	_ = a.reply(w, r, http.StatusOK, openapi.Probe{Status: "ok"}) // it never fails
}

func (a api) GetReadyz(w http.ResponseWriter, r *http.Request) {
	h := a.health(r.Context())
	code := http.StatusOK
	if h.Status != "ok" {
		code = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	_ = a.reply(w, r, code, openapi.Probe{Status: h.Status}) // it never fails
}

// spektateMost is how many deployments one answer in the shape of the older dashboard has
// at most: it has no pages.
const spektateMost = 10_000

func (a api) ListSpektateDeployments(w http.ResponseWriter, r *http.Request, p openapi.ListSpektateDeploymentsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		left := 1000
		if r.URL.Query().Has("limit") {
			if left = p.Limit; left < 1 || left > spektateMost {
				return waybill.E(waybill.KindInvalid, "limit %d is not from 1 to %d", left, spektateMost)
			}
		}
		f := waybill.DeploymentFilter{Partition: p.Partition, Ring: p.Ring, Service: p.Service}
		var rows []waybill.Deployment
		for {
			f.Limit = min(left-len(rows), 1000)
			page, err := v.Deliveries.Deployments(r.Context(), f)
			if err != nil {
				return err
			}
			rows = append(rows, page.Items...)
			if f.Cursor = page.Next; f.Cursor == "" || len(rows) >= left {
				break
			}
		}
		now := a.opt.Now()
		stale, age, _, err := v.freshness(r.Context())
		if err != nil {
			return err
		}
		return a.replyTagged(w, r, struct {
			Stale       bool                  `json:"stale,omitempty"`
			Age         float32               `json:"age,omitempty"`
			Deployments []spektate.Deployment `json:"deployments"`
			ClusterSync *spektate.ClusterSync `json:"clusterSync,omitempty"`
		}{
			Stale: stale, Age: age,
			Deployments: convert(rows, func(d waybill.Deployment) spektate.Deployment { return spektate.Of(&d, now) }),
			ClusterSync: spektate.Sync(rows),
		})
	})
}

// spektateHealth is the answer of the health check of the older dashboard.
type spektateHealth struct {
	Errors    []spektateError   `json:"errors"`
	Variables map[string]string `json:"variables"`
}

type spektateError struct {
	Message string `json:"message"`
	Code    string `json:"code,omitempty"`
}

func (a api) GetSpektateHealth(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		out := spektateHealth{Errors: []spektateError{}, Variables: map[string]string{}}
		failed := func(err error) {
			text := err.Error()
			if a.opt.Mask != nil {
				text = a.opt.Mask(text)
			}
			out.Errors = append(out.Errors, spektateError{Message: shorten(text, 1000), Code: string(waybill.KindOf(err))})
		}
		if _, err := v.Deliveries.Deployments(ctx, waybill.DeploymentFilter{Limit: 1}); err != nil {
			failed(waybill.E(waybill.KindOf(err), "deployments cannot be read: %w", err))
		}
		if v.Providers != nil {
			all, err := v.Providers.DeliveryProviders(ctx)
			if err != nil {
				failed(waybill.E(waybill.KindOf(err), "what is known of providers cannot be read: %w", err))
			}
			for _, p := range all {
				if p.Error != "" {
					failed(waybill.E(waybill.KindUnavailable, "provider %s: %s", p.Name, p.Error))
				}
			}
		}
		if v.DeliveryChecks != nil {
			more, variables := v.DeliveryChecks(ctx)
			for _, err := range more {
				failed(err)
			}
			for name, value := range variables {
				out.Variables[name] = value
			}
		}
		code := http.StatusOK
		if len(out.Errors) > 0 {
			code = http.StatusServiceUnavailable
		}
		return a.reply(w, r, code, out)
	})
}

func (a api) GetSpektateVersion(w http.ResponseWriter, r *http.Request) {
	_ = a.reply(w, r, http.StatusOK, struct {
		Version string `json:"version"`
	}{a.opt.Version.Version}) // it never fails
}
