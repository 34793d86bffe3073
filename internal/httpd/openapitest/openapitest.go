// Package openapitest checks in tests that what a server answers, and what a
// client asks, is what api/openapi.yaml says. Nothing else imports it, so that
// the program does not carry a validator.
package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/waybill-run/waybill/api"
)

var load = sync.OnceValues(func() (*openapi3.T, error) {
	l := openapi3.NewLoader()
	doc, err := l.LoadFromData(api.Spec)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(l.Context)
})

// Doc returns the contract, which all callers share and none may change.
func Doc(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := load()
	if err != nil {
		t.Fatalf("api/openapi.yaml is not valid: %v", err)
	}
	return doc
}

// Transport is an http.RoundTripper that checks every answer.
type Transport struct {
	T    testing.TB
	Next http.RoundTripper // nil means http.DefaultTransport
	// Requests checks what is asked as well. Tests of bad requests leave it off.
	Requests bool
}

// RoundTrip implements http.RoundTripper. A difference is an error of the test;
// the answer is handed on all the same. Paths outside of the contract are let
// through when they answer a problem document or are the first page.
func (tr Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	next := tr.Next
	if next == nil {
		next = http.DefaultTransport
	}
	doc := Doc(tr.T)
	route, params := find(doc, r)
	if route != nil && tr.Requests {
		if err := tr.request(r, route, params); err != nil {
			tr.T.Errorf("%s %s: the request is not as in the contract: %v", r.Method, r.URL.Path, err)
		}
	}
	res, err := next.RoundTrip(r)
	if err != nil || route == nil {
		return res, err
	}
	if err := Response(r, res, route, params); err != nil {
		tr.T.Errorf("%s %s: the answer %d is not as in the contract: %v", r.Method, r.URL.Path, res.StatusCode, err)
	}
	return res, nil
}

func options() *openapi3filter.Options {
	o := &openapi3filter.Options{
		IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
	}
	o.WithCustomSchemaErrorFunc(func(err *openapi3.SchemaError) string {
		return strings.Join(err.JSONPointer(), "/") + ": " + err.Reason
	})
	return o
}

func (tr Transport) request(r *http.Request, route *routers.Route, params map[string]string) error {
	o := options()
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	o.ExcludeRequestBody = t != "application/json"
	return openapi3filter.ValidateRequest(r.Context(), &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route, Options: o,
	})
}

// Response checks one answer. The bodies of streams and content are not read;
// other bodies are read and put back.
func Response(r *http.Request, res *http.Response, route *routers.Route, params map[string]string) error {
	o := options()
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: o},
		Status:                 res.StatusCode, Header: res.Header, Options: o,
	}
	t, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if r.Method == http.MethodHead || (t != "application/json" && t != "application/problem+json") {
		o.ExcludeResponseBody = true
		if res.StatusCode >= 400 && r.Method != http.MethodHead && res.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			return fmt.Errorf("a problem has the content type %q", t)
		}
		return openapi3filter.ValidateResponse(r.Context(), in)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	in.SetBodyBytes(body)
	if err := openapi3filter.ValidateResponse(r.Context(), in); err != nil {
		return err
	}
	return undeclared(route.Operation, res.StatusCode, t, body)
}

// undeclared reports members of an answer that the contract does not name.
// Clients must live with them, but the server is to declare what it says.
func undeclared(op *openapi3.Operation, status int, kind string, body []byte) error {
	ref := op.Responses.Status(status)
	if ref == nil {
		ref = op.Responses.Default()
	}
	media := ref.Value.Content.Get(kind)
	if media == nil {
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	var found []string
	walk(media.Schema.Value, v, "", &found)
	if len(found) > 0 {
		sort.Strings(found)
		return fmt.Errorf("undeclared members: %s", strings.Join(slices.Compact(found), ", "))
	}
	return nil
}

func walk(s *openapi3.Schema, v any, at string, found *[]string) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			if s.Items != nil {
				walk(s.Items.Value, x, at+"[]", found)
			}
		}
	case map[string]any:
		props := openapi3.Schemas{}
		free := gather(s, props)
		for name, x := range v {
			switch p, ok := props[name]; {
			case ok:
				walk(p.Value, x, at+"."+name, found)
			case !free:
				*found = append(*found, at+"."+name)
			}
		}
	}
}

// gather collects the declared members of an object, and reports whether it may
// have any others, as maps and free values do.
func gather(s *openapi3.Schema, into openapi3.Schemas) (free bool) {
	for name, p := range s.Properties {
		into[name] = p
	}
	free = len(s.Properties) == 0 && len(s.AllOf) == 0 || s.AdditionalProperties.Schema != nil
	for _, part := range s.AllOf {
		free = gather(part.Value, into) || free
	}
	return free
}

// find returns the route of a request, nil for paths outside of the contract.
// The key of an object is the rest of its path.
func find(doc *openapi3.T, r *http.Request) (*routers.Route, map[string]string) {
	got := strings.Split(r.URL.EscapedPath(), "/")
	best, literal := "", -1
	var bestParams map[string]string
	for _, path := range doc.Paths.InMatchingOrder() {
		want := strings.Split(path, "/")
		parts := got
		if strings.HasSuffix(path, "/{key}") && len(got) > len(want) {
			parts = append(slices.Clone(got[:len(want)-1]), strings.Join(got[len(want)-1:], "/"))
		}
		if len(parts) != len(want) || doc.Paths.Value(path).GetOperation(r.Method) == nil {
			continue
		}
		params, n, ok := match(want, parts)
		if ok && n > literal {
			best, literal, bestParams = path, n, params
		}
	}
	if best == "" {
		return nil, nil
	}
	item := doc.Paths.Value(best)
	return &routers.Route{Spec: doc, Path: best, PathItem: item, Method: r.Method, Operation: item.GetOperation(r.Method)}, bestParams
}

func match(want, got []string) (params map[string]string, literal int, ok bool) {
	params = map[string]string{}
	for i, w := range want {
		if strings.HasPrefix(w, "{") {
			params[strings.Trim(w, "{}")] = got[i]
			continue
		}
		if w != got[i] {
			return nil, 0, false
		}
		literal++
	}
	return params, literal, true
}
