// Package opensearch keeps a facet index in an OpenSearch cluster, version 2.4 or
// later.
//
// UNVERIFIED: it has been tested against a strict fake, which refuses every clause
// that it does not know and so proves what is asked, but not against a real cluster,
// which alone proves what is answered. Run "waybill facet conformance --engine
// opensearch --url URL" against yours before you rely on it.
//
// # Layout
//
// An index of the cluster holds the documents, and one more that says up to which
// sequence changes have been applied. Field number i of the schema is f<i>, since names
// of fields may have dots: a keyword, or a long for integers, dates (in microseconds) and
// numbers (by bits that sort as they do, because JSON knows no infinity). Beside it
// there can be w<i> for words, o<i> for the properties of objects, e<i> for ranges as
// they are, s<i> or p<i>, q<i>, r<i> for sums, which doubles alone would round. The field
// nulls lists the fields in which a document has null. The schema itself is in the
// mapping's _meta.
//
// # Exactness
//
// Counts are exact: with one shard, the first terms of a facet come from one terms
// aggregation; all other terms, distinct counts and sub-aggregations are walked through with
// composite aggregations, which are exact on any number of shards and take a request for
// every five thousand terms. All requests of a search see one point in time.
//
// A batch is not atomic: a search while one is applied may see a part of it, though never its
// sequence before all of it. What Apply returned for is durable by the cluster's translog
// and visible. Two processes should not write to one index; the later of two
// writes that cross is refused.
package opensearch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/waybill-run/waybill/facet"
)

const format = 1

// Options are the details of a connection. The zero value is one without login.
type Options struct {
	Client   *http.Client // http.DefaultClient if nil
	User     string       // of basic authentication, if not empty
	Password string
	Shards   int // of an index that is made; 1 if it is 0
}

// Index is an index in OpenSearch.
type Index struct {
	base   string
	name   string
	o      Options
	schema facet.Schema
	limits facet.Limits
	cols   []column
	shards int

	use    sync.RWMutex // held by calls, and by Close to wait for them
	closed bool
	writes sync.Mutex // one batch at a time
}

var _ facet.Index = (*Index)(nil)

var validName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,99}$`)

// Open opens the index of that name in the cluster at the URL, and makes it if it is
// not there. A schema without fields stands for that of the index, which has to be
// there then. An index that was made with another schema is refused with an error that
// wraps [facet.ErrSchema].
func Open(ctx context.Context, clusterURL, name string, schema facet.Schema, o Options) (*Index, error) {
	if !validName.MatchString(name) {
		return nil, &facet.Error{Kind: facet.ErrBadValue, Msg: fmt.Sprintf("the name of an index has up to 100 of a-z, 0-9, - and _, %q does not", name)}
	}
	u, err := url.Parse(clusterURL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("facet: open index %s: %q is no URL of a cluster", name, clusterURL)
	}
	if len(schema.Fields) > 0 {
		if err := schema.Check(); err != nil {
			return nil, err
		}
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	o.Shards = max(o.Shards, 1)
	x := &Index{base: strings.TrimSuffix(clusterURL, "/"), name: name, o: o, limits: limits()}
	if err := x.open(ctx, schema); err != nil {
		return nil, fmt.Errorf("facet: open index %s: %w", name, err)
	}
	return x, nil
}

var negInf, posInf = math.Inf(-1), math.Inf(1)

func limits() facet.Limits {
	l := facet.DefaultLimits()
	l.FilterValues = 65_536 // index.max_terms_count
	return l
}

func (x *Index) open(ctx context.Context, schema facet.Schema) error {
	err := x.read(ctx)
	if isStatus(err, http.StatusNotFound) {
		if len(schema.Fields) == 0 {
			return errors.New("there is no such index, and no schema to make one")
		}
		err = x.do(ctx, http.MethodPut, "/"+x.name, x.mapping(schema), nil)
		var e *statusError
		if err == nil || errors.As(err, &e) && strings.Contains(e.body, "resource_already_exists_exception") {
			err = x.read(ctx)
		}
	}
	if err != nil {
		return err
	}
	if len(schema.Fields) > 0 && !x.schema.Equal(schema) {
		return &facet.Error{Kind: facet.ErrSchema, Msg: "the index was made with another schema; make one of another name"}
	}
	x.cols = columns(x.schema)
	return nil
}

// meta is what the mapping says of us.
type meta struct {
	Format int          `json:"format"`
	Schema facet.Schema `json:"schema"`
}

func (x *Index) read(ctx context.Context) error {
	var answer map[string]struct {
		Mappings struct {
			Meta struct {
				Facet *meta `json:"waybill_facet"`
			} `json:"_meta"`
		} `json:"mappings"`
		Settings struct {
			Index struct {
				Shards int `json:"number_of_shards,string"`
			} `json:"index"`
		} `json:"settings"`
	}
	if err := x.do(ctx, http.MethodGet, "/"+x.name, nil, &answer); err != nil {
		return err
	}
	for _, a := range answer {
		m := a.Mappings.Meta.Facet
		if m == nil {
			return errors.New("an index of that name exists, but it is none of ours")
		}
		if m.Format != format {
			return fmt.Errorf("the index has format %d, this program knows %d; make it anew", m.Format, format)
		}
		x.schema, x.shards = m.Schema, a.Settings.Index.Shards
		return nil
	}
	return errors.New("the cluster's answer names no index")
}

// Drop removes the index from the cluster, if it is there.
func Drop(ctx context.Context, clusterURL, name string, o Options) error {
	if !validName.MatchString(name) {
		return &facet.Error{Kind: facet.ErrBadValue, Msg: fmt.Sprintf("no index can be called %q", name)}
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	x := &Index{base: strings.TrimSuffix(clusterURL, "/"), name: name, o: o}
	err := x.do(ctx, http.MethodDelete, "/"+name, nil, nil)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// object is a JSON object.
type object = map[string]any

// lines is a body of JSON lines.
type lines []any

// statusError is an answer that is none of success.
type statusError struct {
	status int
	what   string
	body   string
}

func (e *statusError) Error() string {
	body := e.body
	if len(body) > 500 {
		body = strings.ToValidUTF8(body[:500], "") + "…"
	}
	return fmt.Sprintf("%s: the cluster answered %d: %s", e.what, e.status, body)
}

func isStatus(err error, status int) bool {
	var e *statusError
	return errors.As(err, &e) && e.status == status
}

// maxAnswer is the longest answer that is read: a page of the largest sources would be
// longer than any memory.
const maxAnswer = 1 << 30

// do sends a request and reads the answer into out, unless that is nil.
func (x *Index) do(ctx context.Context, method, path string, body, out any) error {
	var b bytes.Buffer
	kind := "application/json"
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	switch body := body.(type) {
	case nil:
	case lines:
		kind = "application/x-ndjson"
		for _, l := range body {
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
	default:
		if err := enc.Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, x.base+path, &b)
	if err != nil {
		return err
	}
	if b.Len() > 0 {
		req.Header.Set("Content-Type", kind)
	}
	if x.o.User != "" {
		req.SetBasicAuth(x.o.User, x.o.Password)
	}
	resp, err := x.o.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &statusError{resp.StatusCode, method + " " + req.URL.Path, string(answer)}
	}
	if out == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(answer))
	dec.UseNumber()
	if err := dec.Decode(out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what is expected: %w", method, req.URL.Path, err)
	}
	return nil
}

// Schema implements [facet.Index].
func (x *Index) Schema() facet.Schema { return x.schema }

// Caps implements [facet.Index].
func (x *Index) Caps() facet.Caps {
	return facet.Caps{Engine: "opensearch", ReadYourWrites: true, Durable: true, Limits: x.limits}
}

// Snapshot is not supported: use the cluster's snapshots.
func (x *Index) Snapshot(ctx context.Context, _ facet.Sink) error {
	done, err := x.begin(ctx)
	if err != nil {
		return err
	}
	done()
	return &facet.Error{Kind: facet.ErrUnsupported, Msg: "snapshots; use those of the cluster"}
}

// Close implements [facet.Index].
func (x *Index) Close() error {
	x.use.Lock()
	defer x.use.Unlock()
	x.closed = true
	return nil
}

// begin notes that a call is under way.
func (x *Index) begin(ctx context.Context) (done func(), err error) {
	x.use.RLock()
	if x.closed {
		x.use.RUnlock()
		return nil, &facet.Error{Kind: facet.ErrClosed}
	}
	if err := ctx.Err(); err != nil {
		x.use.RUnlock()
		return nil, err
	}
	return x.use.RUnlock, nil
}

// failed says what could not be done. What the engine's contract knows stays as it is.
func (x *Index) failed(ctx context.Context, doing string, err error) error {
	if e := ctx.Err(); e != nil {
		err = e
	}
	var known *facet.Error
	if errors.As(err, &known) {
		return err
	}
	return fmt.Errorf("facet: index %s: %s: %w", x.name, doing, err)
}
