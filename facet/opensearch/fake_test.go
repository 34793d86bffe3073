package opensearch_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fake answers as a cluster is documented to, as far as it goes. Whatever goes further
// (a path, a parameter, a clause, an option of a clause, a field that the mapping lacks, a
// clause that does not suit the field's type) is refused with 400, so nothing is ignored.
type fake struct {
	mu      sync.Mutex
	indices map[string]*fakeIndex
	pits    map[string][]*fakeDoc
	n       int
	// log is told of each request. Optional.
	log func(method, path string, body []byte)
}

type fakeIndex struct {
	mapping map[string]any // as it was sent
	types   map[string]string
	shards  int
	docs    map[string]*fakeDoc
	visible []*fakeDoc // since the last refresh
	seqNo   int64
}

type fakeDoc struct {
	id     string
	seqNo  int64
	source map[string]any
	index  *fakeIndex
}

func newFake(t testing.TB) (*fake, string) {
	f := &fake{indices: map[string]*fakeIndex{}, pits: map[string][]*fakeDoc{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s.URL
}

type refused struct {
	status int
	kind   string
	msg    string
}

func (r refused) Error() string { return r.msg }

func refuse(format string, args ...any) error {
	return refused{400, "illegal_argument_exception", "the fake does not know " + fmt.Sprintf(format, args...)}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log != nil {
		f.log(r.Method, r.URL.RequestURI(), body)
	}
	answer, status, err := f.serve(r, body)
	if err != nil {
		e := refused{500, "fake", err.Error()}
		errors.As(err, &e)
		status, answer = e.status, map[string]any{"error": map[string]any{"type": e.kind, "reason": e.msg}, "status": e.status}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

func (f *fake) serve(r *http.Request, body []byte) (any, int, error) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	known := map[string]bool{}
	query := func(name string) string { known[name] = true; return r.URL.Query().Get(name) }
	x := f.indices[parts[0]]
	missing := refused{404, "index_not_found_exception", "no such index [" + parts[0] + "]"}
	route := r.Method + " " + strings.Join(parts[1:], "/")
	var answer any
	status := 200
	var err error
	switch {
	case parts[0] == "_search" && route == "POST ":
		answer, err = f.search(body)
	case parts[0] == "_search" && route == "DELETE point_in_time":
		var b struct {
			ID []string `json:"pit_id"`
		}
		err = strict(body, &b)
		for _, id := range b.ID {
			delete(f.pits, id)
		}
		answer = map[string]any{"pits": []any{}}
	case route == "PUT ":
		answer, err = f.create(parts[0], body)
	case x == nil:
		err = missing
	case route == "GET ":
		answer = map[string]any{parts[0]: map[string]any{"aliases": map[string]any{}, "mappings": x.mapping,
			"settings": map[string]any{"index": map[string]any{"number_of_shards": strconv.Itoa(x.shards)}}}}
	case route == "DELETE ":
		delete(f.indices, parts[0])
		answer = map[string]any{"acknowledged": true}
	case route == "POST _refresh":
		x.visible = slices.SortedFunc(maps.Values(x.docs), func(a, b *fakeDoc) int { return cmp.Compare(a.id, b.id) })
		answer = map[string]any{"_shards": map[string]any{"failed": 0}}
	case route == "POST _bulk":
		answer, err = x.bulk(body)
	case route == "POST _search/point_in_time":
		if query("keep_alive") == "" {
			err = refuse("a point in time without keep_alive")
		}
		f.n++
		id := fmt.Sprint("pit", f.n)
		f.pits[id] = x.visible
		answer = map[string]any{"pit_id": id, "_shards": map[string]any{"failed": 0}}
	case len(parts) == 3 && parts[1] == "_doc" && r.Method == "GET":
		d := x.docs[parts[2]]
		if d == nil {
			return map[string]any{"_id": parts[2], "found": false}, 404, nil
		}
		answer = map[string]any{"_id": d.id, "found": true, "_seq_no": d.seqNo, "_primary_term": 1, "_source": d.source}
	case len(parts) == 3 && parts[1] == "_doc" && r.Method == "PUT":
		var source map[string]any
		if err = strict(body, &source); err == nil {
			d := x.docs[parts[2]]
			no, term, op := query("if_seq_no"), query("if_primary_term"), query("op_type")
			if op == "create" && d != nil || no != "" && (d == nil || no != fmt.Sprint(d.seqNo) || term != "1") {
				return nil, 0, refused{409, "version_conflict_engine_exception", "version conflict"}
			}
			if op != "" && op != "create" {
				return nil, 0, refuse("op_type %s", op)
			}
			err = x.put(parts[2], source)
			answer, status = map[string]any{"result": "created"}, 201
		}
	default:
		err = refuse("%s %s", r.Method, r.URL.Path)
	}
	for name := range r.URL.Query() {
		if !known[name] && err == nil {
			err = refuse("the parameter %s", name)
		}
	}
	return answer, status, err
}

// strict reads JSON that has nothing beyond what out has.
func strict(text []byte, out any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(out); err != nil {
		return refuse("%s: %v", text, err)
	}
	return nil
}

func (f *fake) create(name string, body []byte) (any, error) {
	if f.indices[name] != nil {
		return nil, refused{400, "resource_already_exists_exception", "index [" + name + "] already exists"}
	}
	var b struct {
		Settings struct {
			Index struct {
				Shards int `json:"number_of_shards"`
			} `json:"index"`
		} `json:"settings"`
		Mappings map[string]any `json:"mappings"`
	}
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	x := &fakeIndex{mapping: b.Mappings, types: map[string]string{}, shards: b.Settings.Index.Shards, docs: map[string]*fakeDoc{}}
	if b.Mappings["dynamic"] != "strict" {
		return nil, refuse("mappings that are not strict")
	}
	if err := x.properties("", b.Mappings["properties"].(map[string]any)); err != nil {
		return nil, err
	}
	f.indices[name] = x
	return map[string]any{"acknowledged": true, "index": name}, nil
}

func (x *fakeIndex) properties(path string, props map[string]any) error {
	for name, p := range props {
		p := p.(map[string]any)
		typ := p["type"].(string)
		allowed := []string{"type"}
		switch typ {
		case "keyword", "double_range", "binary":
		case "long", "double":
			allowed = append(allowed, "index")
		case "nested":
			allowed = append(allowed, "properties")
			if err := x.properties(name+".", p["properties"].(map[string]any)); err != nil {
				return err
			}
		default:
			return refuse("the type %s", typ)
		}
		for option := range p {
			if !slices.Contains(allowed, option) {
				return refuse("the option %s of a field of type %s", option, typ)
			}
		}
		if p["index"] == false {
			typ += " unindexed"
		}
		x.types[path+name] = typ
	}
	return nil
}

func (x *fakeIndex) put(id string, source map[string]any) error {
	if len(id) > 513 {
		return refuse("an id of %d bytes", len(id))
	}
	for name, v := range source {
		typ, ok := x.types[name]
		if !ok {
			return refused{400, "strict_dynamic_mapping_exception", "there is no field " + name}
		}
		for _, v := range list(v) {
			good := false
			switch typ = strings.TrimSuffix(typ, " unindexed"); typ {
			case "keyword", "binary":
				s, ok := v.(string)
				good = ok && (typ == "binary" || len(s) <= 32766)
			case "long":
				n, ok := v.(json.Number)
				if ok {
					_, err := n.Int64()
					good = err == nil
				}
			case "double":
				_, good = v.(json.Number)
			case "double_range", "nested":
				_, good = v.(map[string]any)
			}
			if !good {
				return refuse("the value %v in field %s of type %s", v, name, typ)
			}
		}
	}
	x.seqNo++
	x.docs[id] = &fakeDoc{id, x.seqNo, source, x}
	return nil
}

func list(v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{v}
}

func (x *fakeIndex) bulk(body []byte) (any, error) {
	if len(body) > 0 && body[len(body)-1] != '\n' {
		return nil, refuse("a bulk request that does not end with a line feed")
	}
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	items := []any{}
	for i := 0; i < len(lines); i++ {
		var op map[string]struct {
			ID string `json:"_id"`
		}
		if err := strict(lines[i], &op); err != nil {
			return nil, err
		}
		for name, o := range op {
			status := 200
			switch name {
			case "delete":
				if x.docs[o.ID] == nil {
					status = 404
				}
				delete(x.docs, o.ID)
			case "index":
				i++
				var source map[string]any
				if err := strict(lines[i], &source); err != nil {
					return nil, err
				}
				if err := x.put(o.ID, source); err != nil {
					return nil, err
				}
			default:
				return nil, refuse("the operation %s", name)
			}
			items = append(items, map[string]any{name: map[string]any{"_id": o.ID, "status": status}})
		}
	}
	return map[string]any{"errors": false, "items": items}, nil
}

func (f *fake) search(body []byte) (any, error) {
	var b struct {
		PIT *struct {
			ID        string `json:"id"`
			KeepAlive string `json:"keep_alive"`
		} `json:"pit"`
		Query          json.RawMessage              `json:"query"`
		Size           *int                         `json:"size"`
		TrackTotalHits *bool                        `json:"track_total_hits"`
		Sort           []map[string]fakeSort        `json:"sort"`
		After          []any                        `json:"search_after"`
		Source         *struct{ Includes []string } `json:"_source"`
		Aggs           map[string]json.RawMessage   `json:"aggs"`
	}
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	if b.PIT == nil || b.Size == nil || b.TrackTotalHits == nil || *b.TrackTotalHits {
		return nil, refuse("a search without pit or size, or with total hits")
	}
	docs, ok := f.pits[b.PIT.ID]
	if !ok {
		return nil, refused{404, "search_context_missing_exception", "no point in time " + b.PIT.ID}
	}
	if *b.Size > 10_000 {
		return nil, refused{400, "illegal_argument_exception", "Result window is too large"}
	}
	var found []*fakeDoc
	for _, d := range docs {
		ok, err := matches(d, b.Query)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, d)
		}
	}
	answer := map[string]any{"pit_id": b.PIT.ID, "timed_out": false, "_shards": map[string]any{"failed": 0}}
	buckets := 0
	if b.Aggs != nil {
		aggs, err := aggregate(found, docs, b.Aggs, &buckets)
		if err != nil {
			return nil, err
		}
		if buckets > 65_535 {
			return nil, refused{400, "too_many_buckets_exception", "too many buckets"}
		}
		answer["aggregations"] = aggs
	}
	hits, err := sorted(found, b.Sort, b.After, *b.Size)
	if err != nil {
		return nil, err
	}
	for _, h := range hits {
		source := map[string]any{}
		d := h["doc"].(*fakeDoc)
		delete(h, "doc")
		for _, name := range b.Source.Includes {
			if v, ok := d.source[name]; ok {
				source[name] = v
			}
		}
		h["_id"], h["_source"] = d.id, source
	}
	answer["hits"] = map[string]any{"hits": hits}
	return answer, nil
}

type fakeSort struct {
	Order string `json:"order"`
	Mode  string `json:"mode"`
}

func sorted(docs []*fakeDoc, by []map[string]fakeSort, after []any, size int) ([]map[string]any, error) {
	out := []map[string]any{}
	if size == 0 {
		return out, nil
	}
	type key struct {
		doc    *fakeDoc
		values []any
	}
	var keys []key
	dirs := make([]int, len(by))
	for _, d := range docs {
		k := key{doc: d}
		for i, s := range by {
			for field, o := range s {
				if typ := d.index.types[field]; typ != "keyword" && typ != "long" || o.Mode != "" && o.Mode != "min" {
					return nil, refuse("sorting by %s %+v of type %q", field, o, typ)
				}
				dirs[i] = map[string]int{"asc": 1, "desc": -1}[o.Order]
				values := list(d.source[field])
				if len(values) == 0 || dirs[i] == 0 {
					return nil, refuse("sorting by %s a document without it, or in order %q", field, o.Order)
				}
				if len(values) > 1 && o.Mode != "min" && dirs[i] < 0 {
					return nil, refuse("sorting by %s with several values and no mode", field)
				}
				k.values = append(k.values, slices.MinFunc(values, compare))
			}
		}
		keys = append(keys, k)
	}
	order := func(a, b []any) int {
		for i := range a {
			if c := compare(a[i], b[i]); c != 0 {
				return c * dirs[i]
			}
		}
		return 0
	}
	slices.SortFunc(keys, func(a, b key) int { return order(a.values, b.values) })
	for _, k := range keys {
		if len(after) > 0 && order(k.values, after) <= 0 {
			continue
		}
		if len(out) < size {
			out = append(out, map[string]any{"doc": k.doc, "sort": k.values})
		}
	}
	return out, nil
}

// compare orders strings by bytes and numbers by value.
func compare(a, b any) int {
	x, xs := a.(string)
	y, ys := b.(string)
	if xs != ys {
		panic(fmt.Sprintf("%v and %v cannot be compared", a, b))
	}
	if xs {
		return strings.Compare(x, y)
	}
	i, err1 := a.(json.Number).Int64()
	j, err2 := b.(json.Number).Int64()
	if err1 == nil && err2 == nil {
		return cmp.Compare(i, j)
	}
	return cmp.Compare(float(a), float(b))
}

func float(v any) float64 {
	f, err := v.(json.Number).Float64()
	if err != nil {
		panic(err)
	}
	return f
}
