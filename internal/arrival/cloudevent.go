package arrival

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/textproto"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
)

// CloudEvents 1.0 over HTTP, as its specification and the bindings to HTTP and JSON say
// (https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents): one event in headers
// and body (binary), one as a JSON document (structured), or several (batched).

const (
	typeStructured = "application/cloudevents+json"
	typeBatch      = "application/cloudevents-batch+json"
)

// maxBatch bounds the events of one request.
const maxBatch = 1000

// isCloudEvents reports whether a request says that it holds CloudEvents.
func isCloudEvents(header map[string][]string) bool {
	h := textproto.MIMEHeader(header)
	t, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return h.Get("Ce-Specversion") != "" || t == typeStructured || t == typeBatch
}

// ParseCloudEvents reads the events of a request. An event without time gets now. The
// data of an event that is no JSON is text, or with bytes that are no text the object
// {"base64": …}. KindMalformed: it is no CloudEvent. KindTooLarge: more than MaxEvent.
func ParseCloudEvents(header map[string][]string, body []byte, now time.Time) ([]waybill.Event, error) {
	h := textproto.MIMEHeader(header)
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && h.Get("Content-Type") != "" {
		return nil, waybill.E(waybill.KindMalformed, "the Content-Type cannot be read")
	}
	switch {
	case t == typeBatch:
		var list []json.RawMessage
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, waybill.E(waybill.KindMalformed, "the batch is no JSON list of events: %w", err)
		}
		if len(list) > maxBatch {
			return nil, waybill.E(waybill.KindTooLarge, "a batch holds at most %d events, this one %d", maxBatch, len(list))
		}
		out := make([]waybill.Event, 0, len(list))
		for i, x := range list {
			ev, err := structured(x, now)
			if err != nil {
				return nil, waybill.E(waybill.KindOf(err), "event %d: %w", i, err)
			}
			out = append(out, ev)
		}
		return out, nil
	case h.Get("Ce-Specversion") != "":
		ev, err := binary(h, t, body, now)
		return []waybill.Event{ev}, err
	case t == typeStructured, t == "application/json" || t == "":
		ev, err := structured(body, now)
		return []waybill.Event{ev}, err
	}
	return nil, waybill.E(waybill.KindMalformed, "content type %.80s is no CloudEvent", t).
		WithHint("send %s, or the headers ce-specversion, ce-id, ce-source and ce-type", typeStructured)
}

// binary reads an event whose attributes are headers.
func binary(h textproto.MIMEHeader, contentType string, body []byte, now time.Time) (waybill.Event, error) {
	attr := map[string]string{}
	for k, v := range h {
		if name, ok := strings.CutPrefix(k, "Ce-"); ok && len(v) > 0 {
			// Characters outside of ASCII are percent-encoded in headers.
			x, err := url.PathUnescape(v[0])
			if err != nil || !utf8.ValidString(x) {
				return waybill.Event{}, waybill.E(waybill.KindMalformed, "header %s cannot be read", k)
			}
			attr[strings.ToLower(name)] = x
		}
	}
	data, err := payload(contentType, body)
	if err != nil {
		return waybill.Event{}, err
	}
	return event(attr, data, now)
}

// structured reads an event that is a JSON document.
func structured(body []byte, now time.Time) (waybill.Event, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return waybill.Event{}, waybill.E(waybill.KindMalformed, "it is no JSON object: %w", err)
	}
	attr := map[string]string{}
	for k, raw := range doc {
		if k == "data" || k == "data_base64" || string(raw) == "null" {
			continue
		}
		var s string
		if json.Unmarshal(raw, &s) != nil {
			s = string(raw) // extensions may be numbers and truths
			if required(k) {
				return waybill.Event{}, waybill.E(waybill.KindMalformed, "attribute %s is no text", k)
			}
		}
		attr[k] = s
	}
	data := doc["data"]
	if raw, ok := doc["data_base64"]; ok {
		var b []byte
		if data != nil || json.Unmarshal(raw, &b) != nil {
			return waybill.Event{}, waybill.E(waybill.KindMalformed, "data_base64 is no base64, or data is there as well")
		}
		var err error
		if data, err = payload(attr["datacontenttype"], b); err != nil {
			return waybill.Event{}, err
		}
	}
	return event(attr, data, now)
}

func required(name string) bool {
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema":
		return true
	}
	return false
}

// maxAttribute bounds the text of an attribute.
const maxAttribute = 2048

var attributeName = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

func event(attr map[string]string, data json.RawMessage, now time.Time) (waybill.Event, error) {
	if v := attr["specversion"]; v != "1.0" {
		return waybill.Event{}, waybill.E(waybill.KindMalformed, "specversion %.20q is not supported, want 1.0", v)
	}
	for k, v := range attr {
		if len(v) > maxAttribute {
			return waybill.Event{}, waybill.E(waybill.KindTooLarge, "attribute %.64s has %d bytes, the limit is %d", k, len(v), maxAttribute)
		}
		if !attributeName.MatchString(k) {
			return waybill.Event{}, waybill.E(waybill.KindMalformed, "attribute %.64q: names are small letters and digits", k)
		}
	}
	for _, k := range []string{"id", "source", "type"} {
		if attr[k] == "" {
			return waybill.Event{}, waybill.E(waybill.KindMalformed, "attribute %s is missing", k)
		}
	}
	ev := waybill.Event{ID: attr["id"], Source: attr["source"], Type: attr["type"], Subject: attr["subject"], Time: now.UTC(), Traceparent: attr["traceparent"]}
	if t := attr["time"]; t != "" {
		at, err := time.Parse(time.RFC3339Nano, t)
		if err != nil {
			return waybill.Event{}, waybill.E(waybill.KindMalformed, "time %.40q is not like 2006-01-02T15:04:05Z", t)
		}
		ev.Time = at.UTC()
	}
	if len(data) > MaxEvent {
		return waybill.Event{}, tooLarge(len(data))
	}
	if len(data) > 0 && string(data) != "null" {
		ev.Data = compact(data)
	}
	return ev, nil
}

func tooLarge(n int) error {
	return waybill.E(waybill.KindTooLarge, "the event has %d bytes of data, the limit is %d", n, MaxEvent).
		WithHint("put large content into a bucket and name it in the event")
}

func compact(data []byte) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return data
	}
	return b.Bytes()
}

// payload is the content of an event as JSON.
func payload(contentType string, body []byte) (json.RawMessage, error) {
	if len(body) > MaxEvent {
		return nil, tooLarge(len(body))
	}
	if len(body) == 0 {
		return nil, nil
	}
	t, _, _ := mime.ParseMediaType(contentType)
	switch {
	case t == "application/json", strings.HasSuffix(t, "+json"):
		if !json.Valid(body) {
			return nil, waybill.E(waybill.KindMalformed, "the body is no JSON, though it says so")
		}
		return compact(body), nil
	case t == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		if err != nil || len(form) > 1000 {
			return nil, waybill.E(waybill.KindMalformed, "the form cannot be read")
		}
		values := make(map[string]any, len(form))
		for k, v := range form {
			if values[k] = v; len(v) == 1 {
				values[k] = v[0]
			}
		}
		return json.Marshal(values)
	case t == "" && json.Valid(body):
		return compact(body), nil
	case utf8.Valid(body):
		return json.Marshal(string(body))
	}
	return json.Marshal(map[string]string{"base64": base64.StdEncoding.EncodeToString(body)})
}
