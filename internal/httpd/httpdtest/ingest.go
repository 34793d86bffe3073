package httpdtest

import (
	"context"
	"strings"

	"github.com/waybill-run/waybill"
)

// ingest has the sources native, which tokens of the server open, and signed, whose
// signature is "good".
type ingest struct{ *World }

func (w ingest) IngestSource(_ context.Context, name string) (waybill.IngestSource, error) {
	auth := map[string]string{"native": "server", "signed": "signature"}[name]
	if auth == "" {
		return waybill.IngestSource{}, waybill.E(waybill.KindNotFound, "there is no source of deliveries %q", name)
	}
	return waybill.IngestSource{Name: name, Format: "native", Auth: auth}, nil
}

func (w ingest) IngestSources(ctx context.Context) ([]waybill.IngestSource, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []waybill.IngestSource
	for _, name := range []string{"native", "signed"} {
		s, err := w.IngestSource(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Ingest takes the body for what was told.
func (w ingest) Ingest(_ context.Context, r waybill.IngestRequest) (waybill.Received, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Received{}, err
	}
	defer unlock()
	if v := r.Header["X-Signature"]; r.Source == "signed" && (len(v) != 1 || v[0] != "good") {
		return waybill.Received{}, waybill.E(waybill.KindUnauthorized, "the signature is wrong")
	}
	switch text := string(r.Body); {
	case text == "":
		return waybill.Received{}, waybill.E(waybill.KindMalformed, "the request has no body")
	case strings.Contains(text, "nowhere"):
		return waybill.Received{}, waybill.E(waybill.KindInvalid, "it does not say of which cluster it tells")
	}
	return waybill.Received{ID: "r1", Source: r.Source, Format: "native", At: w.Now(), Subject: r.By.Name, Fresh: true}, nil
}

func (w ingest) ReceivedList(_ context.Context, source string, _ int, _ string) (waybill.Page[waybill.Received], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.Received]{}, err
	}
	defer unlock()
	return waybill.Page[waybill.Received]{Items: []waybill.Received{w.received(source)}}, nil
}

func (w ingest) received(source string) waybill.Received {
	return waybill.Received{ID: "r1", Source: source, Format: "native", At: w.Now(), Fresh: true, Reports: []waybill.IngestReport{
		{Event: "e1", Kind: waybill.ReportBuild, Action: waybill.ActionInserted, Deployments: []string{"0123456789ab"}},
	}}
}

func (w ingest) ReceivedOne(_ context.Context, id string) (waybill.Received, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Received{}, err
	}
	defer unlock()
	if id != "r1" {
		return waybill.Received{}, waybill.E(waybill.KindNotFound, "nothing was received with id %q", id)
	}
	r := w.received("native")
	r.Body = "{}"
	return r, nil
}
