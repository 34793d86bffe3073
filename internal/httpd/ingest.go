package httpd

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// maxIngest is how many bytes a tool of deliveries may send at once.
const maxIngest = 3 << 20

// IngestDelivery passes on what a tool sends. A source with a secret or token of its own
// is opened by them and by nothing else; any other by a token of the server, as is the
// rest of the API. Addresses that send many wrong ones must wait.
func (a api) IngestDelivery(w http.ResponseWriter, r *http.Request, source string) {
	a.do(w, r, func(v *Services, c *call) error {
		if wait := a.failures.wait(remote(r), ""); wait > 0 {
			return &waybill.Error{Kind: waybill.KindExhausted, RetryAfter: wait,
				Msg: "too many requests with wrong signatures came from this address"}
		}
		src, err := v.Ingest.IngestSource(r.Context(), source)
		if waybill.IsKind(err, waybill.KindNotFound) {
			a.failures.add(remote(r))
		}
		if err != nil {
			return err
		}
		op := operation{id: c.op.id, need: waybill.RoleReporter, unit: unitAny}
		c.who = waybill.Principal{Name: "ingest " + source, Tenant: defaultTenant}
		if src.Auth == "server" {
			who, err := a.authenticate(r, op, v)
			if err == nil {
				err = authorize(r, op, who)
			}
			c.who = who
			if err != nil {
				a.refused(r, c, v, err)
				return err
			}
		}
		body, err := a.readIngest(w, r)
		if err != nil {
			return err
		}
		got, err := v.Ingest.Ingest(r.Context(), waybill.IngestRequest{Source: source, Header: r.Header, Body: body, By: c.who})
		if waybill.IsKind(err, waybill.KindUnauthorized) {
			a.audit(r, v, waybill.AuditRecord{Who: "unknown", Action: "delivery.refused", Subject: shorten(source, 100), Result: string(waybill.KindUnauthorized)})
			a.failures.add(remote(r))
		}
		if err != nil {
			return err
		}
		if got.Reports == nil {
			got.Reports = []waybill.IngestReport{}
		}
		return a.reply(w, r, http.StatusAccepted, got)
	})
}

func (s *Server) readIngest(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(s.opt.Limits.Read)) // not supported by writers of tests
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxIngest))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil:
		return nil, waybill.E(waybill.KindMalformed, "the body ended early: %w", err)
	}
	_ = rc.SetReadDeadline(time.Time{})
	return b, nil
}

func (a api) ListIngestSources(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, _ *call) error {
		all, err := v.Ingest.IngestSources(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.IngestSourceList{Items: all})
	})
}

func (a api) ListReceived(w http.ResponseWriter, r *http.Request, p openapi.ListReceivedParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Ingest.ReceivedList(r.Context(), p.Source, n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.ReceivedList{Items: page.Items, NextCursor: nextCursor(page.Next)})
	})
}

func (a api) GetReceived(w http.ResponseWriter, r *http.Request, id string) {
	a.do(w, r, func(v *Services, _ *call) error {
		got, err := v.Ingest.ReceivedOne(r.Context(), id)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, got)
	})
}
