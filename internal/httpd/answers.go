package httpd

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// Answers about deliveries.

func (a api) TraceDelivery(w http.ResponseWriter, r *http.Request, p openapi.TraceDeliveryParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		out, err := v.Deliveries.Trace(r.Context(), p.Partition, p.Ref)
		if err != nil {
			return err
		}
		return a.replyTagged(w, r, openapi.DeliveryTraceList{Items: listed(out)})
	})
}

func (a api) GetDeliveryMatrix(w http.ResponseWriter, r *http.Request, p openapi.GetDeliveryMatrixParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		m, err := v.Deliveries.Matrix(r.Context(), p.Partition)
		if err != nil {
			return err
		}
		m.Cells = slices.DeleteFunc(listed(m.Cells), func(c waybill.MatrixCell) bool {
			return p.Ring != "" && !sameWord(c.Ring, p.Ring) || p.Service != "" && !sameWord(c.Service, p.Service) && !sameWord(waybill.DisplayService(c.Service), p.Service)
		})
		return a.reply(w, r, http.StatusOK, m)
	})
}

func sameWord(a, b string) bool { return strings.EqualFold(a, strings.TrimSpace(b)) }

func (a api) DiffRings(w http.ResponseWriter, r *http.Request, p openapi.DiffRingsParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		out, err := v.Deliveries.Diff(r.Context(), p.Partition, p.From, p.To)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.RingDifferenceList{Items: listed(out)})
	})
}

func (a api) LagOfRing(w http.ResponseWriter, r *http.Request, p openapi.LagOfRingParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		out, err := v.Deliveries.Lag(r.Context(), p.Partition, p.From, p.To)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.RingLagList{Items: listed(out)})
	})
}

func (a api) ListRollbacks(w http.ResponseWriter, r *http.Request, p openapi.ListRollbacksParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		out, err := v.Deliveries.Rollbacks(r.Context(), p.Partition, p.Ring, p.Service)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.RollbackList{Items: listed(out)})
	})
}

// doraWindow is what is measured when nobody says from when.
const doraWindow = 30 * 24 * time.Hour

func (a api) MeasureDelivery(w http.ResponseWriter, r *http.Request, p openapi.MeasureDeliveryParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		q := waybill.DORAQuery{Partition: p.Partition, Ring: p.Ring, Service: p.Service, From: p.From, Until: p.Until}
		if q.Until.IsZero() {
			q.Until = time.Now()
		}
		if q.From.IsZero() {
			q.From = q.Until.Add(-doraWindow)
		}
		out, err := v.Deliveries.DORA(r.Context(), q)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

func (a api) ListUnlinked(w http.ResponseWriter, r *http.Request, p openapi.ListUnlinkedParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Deliveries.Unlinked(r.Context(), p.Partition, n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.UnlinkedList{Items: listed(page.Items), NextCursor: nextCursor(page.Next)})
	})
}

func (a api) ListDeliveryAlerts(w http.ResponseWriter, r *http.Request, p openapi.ListDeliveryAlertsParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		for name, n := range map[string]int64{"stuck_seconds": p.StuckSeconds, "silent_seconds": p.SilentSeconds} {
			if r.URL.Query().Has(name) && (n < 1 || n > 315360000) {
				return waybill.E(waybill.KindInvalid, "%s is from 1 to 315360000, found %d", name, n)
			}
		}
		out, err := v.Deliveries.Alerts(r.Context(), waybill.AlertQuery{
			Partition: p.Partition, Stuck: time.Duration(p.StuckSeconds) * time.Second, Silent: time.Duration(p.SilentSeconds) * time.Second,
		})
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.AlertList{Items: listed(out)})
	})
}

func (a api) PruneDeliveries(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.PruneRequest
		if err := a.decode(w, r, &body, false); err != nil {
			return err
		}
		if body.OlderThanSeconds < 1 || body.OlderThanSeconds > 3153600000 || body.Keep < 0 {
			return waybill.E(waybill.KindInvalid, "older_than_seconds is from 1 to 3153600000 and keep not negative, found %d and %d", body.OlderThanSeconds, body.Keep)
		}
		out, err := v.Deliveries.Prune(r.Context(), waybill.PruneQuery{
			Partition: body.Partition, OlderThan: time.Duration(body.OlderThanSeconds) * time.Second, Keep: body.Keep, DryRun: body.DryRun,
		}, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

func (a api) RebuildDeliveries(w http.ResponseWriter, r *http.Request, p openapi.RebuildDeliveriesParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		out, err := v.Deliveries.Rebuild(r.Context(), p.Partition)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, out)
	})
}

// listed is a list that is written as one where it is empty.
func listed[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
