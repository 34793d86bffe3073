package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) TraceObject(w http.ResponseWriter, r *http.Request, bucket, key string, p openapi.TraceObjectParams) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := checkObjectKey(key); err != nil {
			return err
		}
		q, err := lineageQuery(r, string(p.Direction), p.Depth, p.Limit)
		if err != nil {
			return err
		}
		out, err := v.Lineages.TraceObject(r.Context(), bucket, key, p.Version, q)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

func (a api) TraceRun(w http.ResponseWriter, r *http.Request, run string, p openapi.TraceRunParams) {
	a.do(w, r, func(v *Services, c *call) error {
		q, err := lineageQuery(r, string(p.Direction), p.Depth, p.Limit)
		if err != nil {
			return err
		}
		out, err := v.Lineages.TraceRun(r.Context(), run, q)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

// lineageQuery reads the parameters of a trace. The service knows their bounds; that 0 is
// not within them cannot be seen there, where it stands for none.
func lineageQuery(r *http.Request, direction string, depth, limit int) (waybill.LineageQuery, error) {
	q := waybill.LineageQuery{Depth: depth, Limit: limit}
	switch direction {
	case "", "both":
		q.Up, q.Down = true, true
	case "up":
		q.Up = true
	case "down":
		q.Down = true
	default:
		return q, waybill.E(waybill.KindInvalid, "direction %.20q is none of up, down and both", direction)
	}
	for name, n := range map[string]int{"depth": depth, "limit": limit} {
		if n == 0 && r.URL.Query().Has(name) {
			return q, waybill.E(waybill.KindInvalid, "%s is at least 1", name)
		}
	}
	return q, nil
}
