package httpd

import (
	"net/http"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) GetMetrics(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		if v.Metrics == nil {
			return waybill.E(waybill.KindUnsupported, "this server has no metrics")
		}
		v.Metrics.ServeHTTP(w, r)
		return nil
	})
}

func (a api) GetRunStats(w http.ResponseWriter, r *http.Request, p openapi.GetRunStatsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		if r.URL.Query().Has("days") && p.Days < 1 {
			return waybill.E(waybill.KindInvalid, "days %d is not from 1 to 400", p.Days)
		}
		days, err := v.Stats.RunStats(r.Context(), waybill.RunStatsQuery{Pipeline: p.Pipeline, Days: p.Days, Timezone: p.Timezone})
		if err != nil {
			return err
		}
		out := openapi.RunStats{Timezone: p.Timezone, Items: convert(days, wireDay)}
		if out.Timezone == "" {
			out.Timezone = "UTC"
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

func wireDay(d waybill.RunDay) openapi.RunDay {
	ended := make(map[string]int64, len(d.Ended))
	for status, n := range d.Ended {
		ended[string(status)] = n
	}
	return openapi.RunDay{Day: d.Day, Started: d.Started, Ended: ended, P50Seconds: d.P50.Seconds(), P95Seconds: d.P95.Seconds()}
}

func (a api) ListNotifications(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		all, err := v.Notifications.Notifications(r.Context())
		if err != nil {
			return err
		}
		if all == nil {
			all = []waybill.Notification{}
		}
		return a.reply(w, r, http.StatusOK, openapi.NotificationList{Items: all})
	})
}

func (a api) GetNotification(w http.ResponseWriter, r *http.Request, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := v.Notifications.Notification(r.Context(), name)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, n)
	})
}

func (a api) ApplyNotification(w http.ResponseWriter, r *http.Request, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		var rule waybill.NotifyRule
		if err := a.decode(w, r, &rule, false); err != nil {
			return err
		}
		if rule.Name != "" && rule.Name != name {
			return waybill.E(waybill.KindInvalid, "the rule is called %.80q in the body and %.80q in the path", rule.Name, name)
		}
		rule.Name = name
		n, fresh, err := v.Notifications.ApplyNotification(r.Context(), rule, c.who)
		if err != nil {
			return err
		}
		code := http.StatusOK
		if fresh {
			code = http.StatusCreated
		}
		return a.reply(w, r, code, n)
	})
}

func (a api) DeleteNotification(w http.ResponseWriter, r *http.Request, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := v.Notifications.DeleteNotification(r.Context(), name, c.who); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (a api) TestNotification(w http.ResponseWriter, r *http.Request, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := v.Notifications.TestNotification(r.Context(), name); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

// runFilter is what the parameters of a list of runs ask for.
func runFilter(p openapi.ListRunsParams) (waybill.RunFilter, error) {
	f := waybill.RunFilter{
		Pipeline: p.Pipeline, Statuses: p.Status, Since: p.Since, Until: p.Until, Trigger: p.Trigger, Parent: p.Parent, RetryOf: p.RetryOf, Cursor: p.Cursor,
	}
	for _, s := range p.Status {
		if !slices.Contains(waybill.Statuses(), s) {
			return f, waybill.E(waybill.KindInvalid, "%q is not a status", shorten(string(s), 40)).WithHint("statuses are %s", joined(waybill.Statuses()))
		}
	}
	if len(p.Label) > 20 {
		return f, waybill.E(waybill.KindInvalid, "%d labels; at most 20 are looked for", len(p.Label))
	}
	for _, l := range p.Label {
		name, value, ok := strings.Cut(l, "=")
		if !ok || name == "" || strings.ContainsFunc(l, func(r rune) bool { return r < ' ' }) {
			return f, waybill.E(waybill.KindInvalid, "label %q is not NAME=VALUE", shorten(l, 80))
		}
		if f.Labels == nil {
			f.Labels = map[string]string{}
		}
		if v, twice := f.Labels[name]; twice && v != value {
			return f, waybill.E(waybill.KindInvalid, "label %q is given twice", shorten(name, 80))
		}
		f.Labels[name] = value
	}
	return f, nil
}

// traceparent is the W3C Trace Context of a request, empty when it has none that
// can be used: a broken one is left out, as the recommendation wants.
func traceparent(r *http.Request) string {
	if v := r.Header.Values("Traceparent"); len(v) == 1 && waybill.ValidTraceparent(v[0]) {
		return v[0]
	}
	return ""
}
