package httpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

const (
	maxDepth = 64     // of JSON
	maxNames = 20_000 // in all objects of one JSON body
)

// readBody reads a small body whole.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(s.opt.Limits.Read)) // not supported by writers of tests
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.opt.Limits.JSON))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, err
		}
		return nil, waybill.E(waybill.KindMalformed, "the body ended early: %w", err)
	}
	_ = rc.SetReadDeadline(time.Time{})
	return b, nil
}

// decode reads a JSON body into a struct of the contract, strictly. A body may
// be left out where the contract says so.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, v any, optional bool) error {
	b, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		if optional {
			return nil
		}
		return waybill.E(waybill.KindMalformed, "the request has no body, want JSON")
	}
	if err := wantType(r, "application/json"); err != nil {
		return err
	}
	if err := checkJSON(b, waybill.KindMalformed); err != nil {
		return err
	}
	if err := knownFields(b, v); err != nil {
		return err
	}
	return decodeError(json.Unmarshal(b, v))
}

// wantType refuses a body that says it is something else.
func wantType(r *http.Request, want ...string) error {
	given := r.Header.Get("Content-Type")
	t, _, err := mime.ParseMediaType(given)
	if given == "" {
		return nil
	}
	if err == nil {
		for _, x := range want {
			if t == x || x == "application/json" && strings.HasSuffix(t, "+json") {
				return nil
			}
		}
	}
	return &statusError{http.StatusUnsupportedMediaType,
		waybill.E(waybill.KindMalformed, "content type %s is not read here, want %s", shorten(given, 100), want[0])}
}

// decodeError says what is wrong with a value of JSON.
func decodeError(err error) error {
	var wrong *json.UnmarshalTypeError
	var ours *waybill.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &wrong) && wrong.Field != "":
		return waybill.E(waybill.KindInvalid, "field %s: got a JSON %s, want %s", wrong.Field, wrong.Value, typeName(wrong.Type))
	case errors.As(err, &wrong):
		return waybill.E(waybill.KindInvalid, "got a JSON %s, want %s", wrong.Value, typeName(wrong.Type))
	}
	return waybill.E(waybill.KindMalformed, "the JSON cannot be read: %w", err)
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a number"
}

// checkJSON refuses text that is not one JSON value, or one that two readers
// could understand differently or only with much effort: the same name twice in
// an object, deep nesting, very many names. Those are of the given kind.
func checkJSON(b []byte, strange waybill.Kind) error {
	if err := scanJSON(b, strange); err != nil {
		return err
	}
	if json.Valid(b) {
		return nil
	}
	// Only what is wrong is looked at again, to say where.
	var whole json.RawMessage
	var syntax *json.SyntaxError
	switch err := json.Unmarshal(b, &whole); {
	case errors.As(err, &syntax):
		return waybill.E(waybill.KindMalformed, "the JSON cannot be read at byte %d: %w", syntax.Offset, err)
	case err != nil:
		return waybill.E(waybill.KindMalformed, "the JSON cannot be read: %w", err)
	}
	return nil
}

// scanJSON looks for what is strange in one pass and leaves the syntax to others.
func scanJSON(b []byte, strange waybill.Kind) error {
	type level struct {
		object bool
		value  bool // in an object, a name was read and its value follows
		names  map[string]struct{}
	}
	var stack []level
	names := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if len(stack) == maxDepth {
				return waybill.E(strange, "the JSON is nested more than %d deep", maxDepth)
			}
			stack = append(stack, level{object: b[i] == '{'})
		case '}', ']':
			stack = stack[:max(0, len(stack)-1)]
		case ',':
			if len(stack) > 0 {
				stack[len(stack)-1].value = false
			}
		case '"':
			from := i
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if len(stack) == 0 || i >= len(b) {
				continue
			}
			top := &stack[len(stack)-1]
			if !top.object || top.value {
				continue
			}
			top.value = true
			name := string(b[from+1 : i])
			if strings.ContainsRune(name, '\\') && json.Unmarshal(b[from:i+1], &name) != nil {
				continue // the syntax is wrong
			}
			if names++; names > maxNames {
				return waybill.E(strange, "the JSON holds more than %d names", maxNames)
			}
			if _, twice := top.names[name]; twice {
				return waybill.E(strange, "the JSON names %q twice in one object", shorten(name, 100))
			}
			if top.names == nil {
				top.names = map[string]struct{}{}
			}
			top.names[name] = struct{}{}
		}
	}
	return nil
}

// knownFields refuses names that the struct v points to does not have.
func knownFields(b []byte, v any) error {
	t := reflect.TypeOf(v).Elem()
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(b, &given); err != nil {
		return waybill.E(waybill.KindInvalid, "the body is not a JSON object")
	}
	var known []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known = append(known, name)
		delete(given, name)
	}
	unknown := ""
	for name := range given {
		if unknown == "" || name < unknown {
			unknown = name
		}
	}
	if len(given) == 0 {
		return nil
	}
	err := waybill.E(waybill.KindInvalid, "unknown field %q", shorten(unknown, 100))
	if near := nearest(unknown, known); near != "" {
		return err.WithHint("did you mean %q?", near)
	}
	return err.WithHint("known fields are %s", strings.Join(known, ", "))
}

// nearest returns the word that is most like the given one, if any is.
func nearest(word string, words []string) string {
	best, least := "", min(len(word)/2, 3)+1
	if len(word) > 50 {
		return ""
	}
	for _, w := range words {
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance counts the bytes to insert, delete or change between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := min(row[j+1]+1, row[j]+1, diag+1)
			if a[i] == b[j] {
				next = min(next, diag)
			}
			diag, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// movingBody reads the content of an object: it may take long as a whole but not
// stand still. It remembers why reading failed, whatever becomes of the error in
// the hands of its reader.
type movingBody struct {
	r    io.Reader
	rc   *http.ResponseController
	idle time.Duration
	err  error
}

func (b *movingBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(b.idle)) // not supported by writers of tests
	n, err := b.r.Read(p)
	switch {
	case err == io.EOF:
		_ = b.rc.SetReadDeadline(time.Time{})
	case err != nil && b.err == nil:
		var tooLarge *http.MaxBytesError
		var ours *waybill.Error
		if errors.As(err, &tooLarge) || errors.As(err, &ours) {
			b.err = err
		} else {
			b.err = waybill.E(waybill.KindMalformed, "the content ended early: %w", err)
		}
		return n, fmt.Errorf("read content: %w", b.err)
	}
	return n, err
}
