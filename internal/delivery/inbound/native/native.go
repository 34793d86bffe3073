// Package native reads reports as the API takes them: one object, or a list.
package native

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Format implements inbound.Format.
type Format struct{}

// Name implements inbound.Format.
func (Format) Name() string { return "native" }

// Verify implements inbound.Format.
func (Format) Verify(secret string, h http.Header, body []byte) error {
	return inbound.VerifyHMAC(secret, h, body, "X-Signature", "X-Hub-Signature-256")
}

// Parse implements inbound.Format. A field that is not known is an error: who writes
// reports for us means something by it.
func (Format) Parse(r inbound.Request) (inbound.Parsed, error) {
	var list []waybill.DeliveryReport
	body := bytes.TrimSpace(r.Body)
	var err error
	if bytes.HasPrefix(body, []byte("[")) {
		err = strict(body, &list)
	} else {
		list = make([]waybill.DeliveryReport, 1)
		err = strict(body, &list[0])
	}
	if err != nil {
		return inbound.Parsed{}, err
	}
	p := inbound.Parsed{Type: "report"}
	for _, x := range list {
		if x.Kind == waybill.ReportAttach {
			return p, waybill.E(waybill.KindForbidden, "reports of kind attach are not taken here").
				WithHint("what belongs together against all appearance is said by people: waybill deployment unlinked attach")
		}
		if p.Subject == "" {
			p.Subject = inbound.First(x.ImageTag, x.ImageDigest, x.ConfigCommit, x.ManifestCommit, x.Run, x.PullRequest)
		}
		if x.Kind == waybill.ReportSync && x.Cluster == "" {
			x.Cluster = r.Source.Cluster
		}
		x.Ring = inbound.First(x.Ring, ringOf(x.Kind, r.Source.Ring))
		p.Notes = append(p.Notes, inbound.Note{Report: x})
	}
	if len(list) == 0 {
		p.Reason = "the list is empty"
	}
	return p, nil
}

func ringOf(k waybill.ReportKind, ring string) string {
	switch k {
	case waybill.ReportConfig, waybill.ReportSync:
		return ring
	}
	return ""
}

func strict(body []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		return waybill.E(waybill.KindMalformed, "there is something behind the JSON")
	}
	// Other mistakes are told as everywhere.
	if told := inbound.Decode(body, to); told != nil {
		return told
	}
	return waybill.E(waybill.KindInvalid, "%s", err)
}
