package httpd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) ReportDelivery(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		var body waybill.DeliveryReport
		if err := a.decode(w, r, &body, false); err != nil {
			return err
		}
		// Tools tell what they did. What belongs together against all appearance is said by
		// people, whose roles are others.
		if (body.Kind == waybill.ReportAttach || body.Kind == waybill.ReportPrune) && !c.who.Role.Allows(waybill.RoleOperator) {
			return waybill.E(waybill.KindForbidden, "a report of kind %s needs the role operator, the token has %s", body.Kind, c.who.Role)
		}
		res, err := v.Deliveries.Report(r.Context(), body, c.who)
		if err != nil {
			return err
		}
		if res.Deployments == nil {
			res.Deployments = []waybill.Deployment{}
		}
		return a.reply(w, r, http.StatusAccepted, res)
	})
}

func (a api) TestDeliveries(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		took, err := v.Deliveries.SelfTest(r.Context(), c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.SelfTest{TookMs: float32(took.Microseconds()) / 1000})
	})
}

func (a api) ListDeliveryPartitions(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		names, err := v.Deliveries.DeliveryPartitions(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.PartitionList{Items: list(names)})
	})
}

func (a api) ListDeployments(w http.ResponseWriter, r *http.Request, p openapi.ListDeploymentsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		f := waybill.DeploymentFilter{
			Partition: p.Partition, ID: p.ID, Build: p.Build, Commit: p.Commit, ImageTag: p.ImageTag, Ring: p.Ring, Service: p.Service,
			Kind: string(p.Kind), Statuses: p.Status, Unlinked: p.Unlinked, Since: p.Since, Until: p.Until,
			Sort: waybill.DeploymentSort(p.Sort), Asc: p.Asc, Limit: n, Cursor: p.Cursor,
		}
		if f.Kind != "" && f.Kind != waybill.DeploymentRegular && f.Kind != waybill.DeploymentManual {
			return waybill.E(waybill.KindInvalid, "kind %q is not deployment or manual", shorten(f.Kind, 40))
		}
		for _, s := range f.Statuses {
			if !slices.Contains(waybill.DeploymentStatuses(), s) {
				return waybill.E(waybill.KindInvalid, "%q is not a status of a deployment", shorten(string(s), 40)).WithHint("statuses are %s", joined(waybill.DeploymentStatuses()))
			}
		}
		page, err := v.Deliveries.Deployments(r.Context(), f)
		if err != nil {
			return err
		}
		out := openapi.DeploymentList{Items: page.Items, NextCursor: nextCursor(page.Next)}
		if out.Stale, out.Age, out.Notes, err = v.freshness(r.Context()); err != nil {
			return err
		}
		return a.replyTagged(w, r, out)
	})
}

func (a api) GetDeployment(w http.ResponseWriter, r *http.Request, id string, p openapi.GetDeploymentParams) {
	a.do(w, r, func(v *Services, c *call) error {
		d, err := v.Deliveries.Deployment(r.Context(), p.Partition, id)
		if err != nil {
			return err
		}
		return a.replyTagged(w, r, d)
	})
}

// replyTagged answers with JSON and its ETag, or that nothing has changed since the
// answer that the client knows.
func (s *Server) replyTagged(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return waybill.E(waybill.KindInternal, "the answer cannot be written: %w", err)
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	w.Header().Set("ETag", tag)
	// Whoever keeps the answer asks whether it still holds before using it.
	w.Header().Set("Cache-Control", "private, no-cache")
	if known(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.Header().Set("Content-Type", "application/json")
	s.write(w, r, http.StatusOK, json.RawMessage(body))
	return nil
}

// known reports whether If-None-Match names a tag. Tags are compared weakly, as RFC 9110
// wants for it.
func known(r *http.Request, tag string) bool {
	for _, line := range r.Header.Values("If-None-Match") {
		for x := range strings.SplitSeq(line, ",") {
			if x = strings.TrimPrefix(strings.TrimSpace(x), "W/"); x == tag || x == "*" {
				return true
			}
		}
	}
	return false
}
