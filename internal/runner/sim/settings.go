package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// Settings are the keys of a step's "with". All are optional; without any, a
// unit ends at once as a success. Faults that happen a number of times are
// counted for fail_key.
type Settings struct {
	RunFor Duration `json:"run_for"` // how long the unit runs, such as "1.5s"
	Exit   int      `json:"exit"`    // its exit code
	Signal string   `json:"signal"`  // it ends by this signal instead, such as "SIGKILL"
	Reason string   `json:"reason"`  // reported with its end, such as "oom_killed"
	Hang   bool     `json:"hang"`    // it runs until it is killed, whatever is asked of it
	Vanish bool     `json:"vanish"`  // after run_for it is gone and its end is unknown

	FailFirst  int    `json:"fail_first"`  // so many units fail before one does as the rest says
	StartError int    `json:"start_error"` // so many starts are refused as unavailable
	LoseAnswer int    `json:"lose_answer"` // so many starts work but answer that they did not
	StartFail  bool   `json:"start_fail"`  // the unit can never be started: its end says start_failed
	FailKey    string `json:"fail_key"`    // what the counts are kept for; the step of the run if not set

	LogText   []string `json:"log_text"`   // lines printed first
	LogLines  int      `json:"log_lines"`  // then so many numbered lines
	LogRate   float64  `json:"log_rate"`   // of them a second; 0 means all at once
	LogBytes  int64    `json:"log_bytes"`  // then one line of so many bytes
	LogBinary int      `json:"log_binary"` // then so many zero bytes

	Outputs   map[string]json.RawMessage `json:"outputs"`   // written to the file WAYBILL_OUTPUT
	Callback  *Callback                  `json:"callback"`  // sent to WAYBILL_CALLBACK
	Heartbeat Duration                   `json:"heartbeat"` // sent that often while it runs; 0 means never
}

// Callback is what a unit tells the server about itself.
type Callback struct {
	Variables  map[string]json.RawMessage `json:"variables"`
	Status     string                     `json:"status"`      // "succeeded" if not set
	Error      string                     `json:"error"`       //
	After      Duration                   `json:"after"`       // since the start, even if it has ended or was removed by then; if not set: just before its end
	Twice      bool                       `json:"twice"`       // sent a second time
	WrongToken bool                       `json:"wrong_token"` // sent with a token that is not this attempt's
}

// Duration is a length of time, written as Go does: "90s", "1m30s".
type Duration time.Duration

// UnmarshalText reads a length of time that is not negative.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return err
	}
	if v < 0 {
		return errors.New("a length of time cannot be negative")
	}
	*d = Duration(v)
	return nil
}

// parse reads settings. Errors are of kind invalid and name the key.
func parse(with json.RawMessage) (Settings, error) {
	var s Settings
	with = bytes.TrimSpace(with)
	if len(with) == 0 {
		return s, nil
	}
	if err := fill(with, "with", reflect.ValueOf(&s).Elem()); err != nil {
		return s, err
	}
	if s.LogLines < 0 || s.LogRate < 0 || s.LogBytes < 0 || s.LogBinary < 0 || s.FailFirst < 0 || s.StartError < 0 || s.LoseAnswer < 0 {
		return s, waybill.E(waybill.KindInvalid, "with: a number cannot be negative")
	}
	if s.Exit < 0 || s.Exit > 255 {
		return s, waybill.E(waybill.KindInvalid, "with: exit: %d is not between 0 and 255", s.Exit)
	}
	return s, nil
}

// fill decodes an object field by field, so that an error names its key.
func fill(b json.RawMessage, at string, into reflect.Value) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return waybill.E(waybill.KindInvalid, "%s: not an object: %w", at, err)
	}
	fields := map[string]reflect.Value{}
	for i := range into.NumField() {
		fields[into.Type().Field(i).Tag.Get("json")] = into.Field(i)
	}
	keys := make([]string, 0, len(raw))
	for key := range raw {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		f, ok := fields[key]
		if !ok {
			err := waybill.E(waybill.KindInvalid, "%s: unknown key %q", at, key)
			if near := nearest(key, fields); near != "" {
				err = waybill.E(waybill.KindInvalid, "%s: unknown key %q; did you mean %q?", at, key, near)
			}
			return err
		}
		if bytes.Equal(raw[key], []byte("null")) {
			continue
		}
		if f.Type() == reflect.TypeFor[*Callback]() {
			f.Set(reflect.New(f.Type().Elem()))
			if err := fill(raw[key], at+": "+key, f.Elem()); err != nil {
				return err
			}
			continue
		}
		if err := json.Unmarshal(raw[key], f.Addr().Interface()); err != nil {
			return waybill.E(waybill.KindInvalid, "%s: %s: %w", at, key, err)
		}
	}
	return nil
}

// nearest returns the known key that needs the fewest changes, if that is few.
func nearest(key string, known map[string]reflect.Value) string {
	best, least := "", 1+max(1, len(key)/3)
	for k := range known {
		if d := distance(strings.ToLower(key), k); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, remove or replace between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
