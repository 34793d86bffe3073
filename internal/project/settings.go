package project

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
)

// Settings are those of a project, from waybill.yaml.
type Settings struct {
	Name      string
	Retention Retention
	Queue     Queue
	Units     Units
	Callback  Callback
	Secrets   Secrets
	HTTP      HTTP
	Telemetry Telemetry
	Auth      Auth
	Notify    []waybill.NotifyRule
	Buckets   []*Bucket           // those whose objects come from elsewhere, in the order of the file
	Sources   []*Source           // queues of other systems
	Ingest    []*Ingest           // what tools of deliveries send, in the order of the file
	Outbound  Outbound            // who is told of deliveries
	Providers []*DeliveryProvider // that are polled, in the order of the file
	Polling   Polling
	Manifests []*Manifests // repositories of manifests that are cloned, in the order of the file
	Alerts    DeliveryAlerts
	Runners   Runners // of containers
}

// Retention says how long what is finished is kept.
type Retention struct {
	Runs    Duration // finished runs with their logs and timelines
	Objects Duration // versions of objects after they were replaced; 0 keeps them
	Current Duration // current versions of objects; 0 keeps them
}

// Queue bounds what is accepted.
type Queue struct {
	HighWater int64 // messages in a topic above which new work is refused
}

// Units bounds what runs on this server.
type Units struct {
	Max     int      // at once
	LogCap  int64    // bytes of log kept of a unit
	BaseEnv []string // variables of the server that units get, besides PATH and LANG
	// Units that nobody owns are looked for every OrphanSweep, and removed when they have
	// had no owner for OrphanGrace.
	OrphanSweep, OrphanGrace Duration
}

// Callback is about units that report.
type Callback struct {
	Grace Duration // how long a callback may come after its unit's end
}

// Duration is a time.Duration that is written like "90s", "10m" or "30d".
type Duration time.Duration

// size is a number of bytes that is written like 1024, "64KiB" or "1GiB".
type size int64

// Default returns the settings of a project that has none.
func Default() Settings {
	const day = Duration(24 * time.Hour)
	return Settings{
		Retention: Retention{Runs: 30 * day, Objects: 30 * day},
		Queue:     Queue{HighWater: queue.HighWater},
		Units:     Units{Max: 16, LogCap: 64 << 20, OrphanSweep: Duration(5 * time.Minute), OrphanGrace: Duration(15 * time.Minute)},
		Callback:  Callback{Grace: Duration(30 * time.Second)},
		Secrets:   defaultSecrets(),
		HTTP:      defaultHTTP(),
		Telemetry: Telemetry{Pipelines: 100},
		Polling:   defaultPolling(),
	}
}

// fields are the places that values go to, by their path in the file.
func (s *Settings) fields() map[string]any {
	all := map[string]any{
		"name":               &s.Name,
		"retention.runs":     &s.Retention.Runs,
		"retention.objects":  &s.Retention.Objects,
		"retention.current":  &s.Retention.Current,
		"queue.high_water":   &s.Queue.HighWater,
		"units.max":          &s.Units.Max,
		"units.log_cap":      (*size)(&s.Units.LogCap),
		"units.base_env":     &s.Units.BaseEnv,
		"units.orphan_sweep": &s.Units.OrphanSweep,
		"units.orphan_grace": &s.Units.OrphanGrace,
		"callback.grace":     &s.Callback.Grace,

		"telemetry.otlp":      &s.Telemetry.OTLP,
		"telemetry.pipelines": &s.Telemetry.Pipelines,
		"notify":              notifyReader(&s.Notify),
		"auth.oidc":           oidcReader(&s.Auth.OIDC),
		"runners":             runnersReader(&s.Runners),
	}
	maps.Copy(all, s.HTTP.fields())
	maps.Copy(all, s.watched())
	maps.Copy(all, s.deliveries())
	maps.Copy(all, s.polled())
	maps.Copy(all, s.manifests())
	for name, field := range s.Secrets.fields() {
		all["secrets."+name] = field
	}
	return all
}

// Validate reports values that make no sense, as [pipeline.Problems].
func (s Settings) Validate() error {
	if ps := s.check(nil); len(ps) > 0 {
		return ps
	}
	return nil
}

// check reports values that make no sense, at the places they come from.
func (s Settings) check(at map[string]place) pipeline.Problems {
	var out pipeline.Problems
	add := func(path, format string, args ...any) {
		p := at[path]
		out = append(out, pipeline.Problem{File: settingsFile, Line: p.line, Column: p.col, Msg: path + ": " + fmt.Sprintf(format, args...)})
	}
	if len(s.Name) > 100 || strings.ContainsFunc(s.Name, unicode.IsControl) {
		add("name", "expected one line of up to 100 bytes")
	}
	if s.Retention.Runs <= 0 {
		add("retention.runs", "expected more than 0")
	}
	if s.Queue.HighWater <= 0 {
		add("queue.high_water", "expected more than 0")
	}
	if s.Units.Max <= 0 || s.Units.Max > 10_000 {
		add("units.max", "expected a number from 1 to 10000")
	}
	if s.Units.LogCap < 1024 {
		add("units.log_cap", "expected at least 1024 bytes")
	}
	if s.Units.OrphanSweep <= 0 {
		add("units.orphan_sweep", "expected more than 0")
	}
	if s.Units.OrphanGrace <= 0 {
		add("units.orphan_grace", "expected more than 0")
	}
	if s.Callback.Grace <= 0 {
		add("callback.grace", "expected more than 0")
	}
	s.Secrets.check(add)
	s.HTTP.check(add)
	s.Telemetry.check(add)
	s.checkWatched(add)
	s.checkDeliveries(add)
	s.checkManifests(add)
	s.checkPolled(add)
	for _, n := range s.Units.BaseEnv {
		if err := waybill.CheckName(n); err != nil {
			add("units.base_env", "%v", err)
		}
	}
	return out
}

const (
	settingsFile = "waybill.yaml"
	maxSettings  = 64 << 10 // bytes
)

// ReadSettings reads waybill.yaml of a project folder; without one the defaults
// count. env looks up ${env:NAME}. The error is of type [pipeline.Problems] and
// holds every mistake that was found.
func ReadSettings(folder fs.FS, env func(name string) (string, bool)) (Settings, error) {
	s := Default()
	b, err := fs.ReadFile(folder, settingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil && len(b) > maxSettings {
		err = fmt.Errorf("it has %d bytes; at most %d are allowed", len(b), maxSettings)
	}
	if err != nil {
		return s, pipeline.Problems{{File: settingsFile, Msg: err.Error()}}
	}
	r := &settingsReader{env: env, fields: s.fields(), at: map[string]place{}}
	r.file(b)
	r.problems = append(r.problems, s.check(r.at)...)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b pipeline.Problem) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return s, r.problems
	}
	return s, nil
}

// place is a place in the file.
type place struct{ line, col int }

func placeOf(n ast.Node) place {
	if n != nil && n.GetToken() != nil && n.GetToken().Position != nil {
		p := n.GetToken().Position
		return place{p.Line, p.Column}
	}
	return place{}
}

// settingsReader puts the values of a file where they belong.
type settingsReader struct {
	env      func(string) (string, bool)
	fields   map[string]any
	at       map[string]place // of the values that were read
	problems pipeline.Problems
}

func (r *settingsReader) add(at place, hint, format string, args ...any) {
	r.problems = append(r.problems, pipeline.Problem{File: settingsFile, Line: at.line, Column: at.col, Msg: fmt.Sprintf(format, args...), Hint: hint})
}

func (r *settingsReader) file(b []byte) {
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		var y yaml.Error
		if !errors.As(err, &y) {
			r.add(place{}, "", "%v", err)
			return
		}
		var at place
		if t := y.GetToken(); t != nil && t.Position != nil {
			at = place{t.Position.Line, t.Position.Column}
		}
		r.add(at, "", "%s", y.GetMessage())
		return
	}
	var body ast.Node
	for _, d := range f.Docs {
		switch {
		case d.Body == nil || d.Body.Type() == ast.CommentType:
		case body != nil:
			r.add(placeOf(d.Body), "", "several documents in one file")
			return
		default:
			body = d.Body
		}
	}
	if body != nil {
		r.section("", body)
	}
}

// section reads an object whose keys are the fields below a path.
func (r *settingsReader) section(path string, n ast.Node) {
	if n.Type() == ast.NullType {
		return
	}
	m, ok := n.(ast.MapNode)
	if !ok {
		what := strings.TrimSuffix(path, ".")
		if what == "" {
			what = settingsFile
		}
		r.add(placeOf(n), "", "%s: expected an object with %s", what, strings.Join(r.keys(path), ", "))
		return
	}
	for it := m.MapRange(); it.Next(); {
		key, at := it.Key().GetToken().Value, placeOf(it.Key())
		name := path + key
		switch field, leaf := r.fields[name]; {
		case leaf && it.Value().Type() == ast.NullType:
		case leaf:
			r.at[name] = placeOf(it.Value())
			r.value(name, it.Value(), field)
		case len(r.keys(name+".")) > 0:
			r.section(name+".", it.Value())
		default:
			hint := "there are " + strings.Join(r.keys(path), ", ")
			if n := nearest(key, r.keys(path)); n != "" {
				hint = "did you mean " + n + "?"
			}
			r.add(at, hint, "unknown key %.80s", name)
		}
	}
}

// keys are those that may stand below a path, sorted.
func (r *settingsReader) keys(path string) []string {
	var out []string
	for name := range r.fields {
		if rest, ok := strings.CutPrefix(name, path); ok {
			key, _, _ := strings.Cut(rest, ".")
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// value reads one value.
func (r *settingsReader) value(name string, n ast.Node, field any) {
	if read, ok := field.(func(*settingsReader, string, ast.Node)); ok {
		read(r, name, n)
		return
	}
	if list, ok := field.(*[]string); ok {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			r.add(placeOf(n), "", "%s: expected a list of names", name)
			return
		}
		*list = []string{}
		for _, x := range seq.Values {
			if text, ok := r.text(name, x); ok {
				*list = append(*list, text)
			}
		}
		return
	}
	text, ok := r.text(name, n)
	if !ok {
		return
	}
	want, err := "", error(nil)
	switch to := field.(type) {
	case *string:
		*to = text
	case *int:
		want, err = "a whole number", set(to, strconv.Atoi, text)
	case *int64:
		want, err = "a whole number", set(to, parseInt, text)
	case *size:
		want, err = "a number of bytes such as 65536, 64KiB or 1GiB", set(to, parseSize, text)
	case *Duration:
		want, err = "a duration such as 90s, 10m or 30d", set(to, parseDuration, text)
	default:
		panic(fmt.Sprintf("no reader for %T", field)) // see fields
	}
	if err != nil {
		r.add(placeOf(n), "", "%s: expected %s, found %.60q", name, want, text)
	}
}

// set stores what parse makes of a text, unless it fails.
func set[T any](to *T, parse func(string) (T, error), text string) error {
	v, err := parse(text)
	if err == nil {
		*to = v
	}
	return err
}

func parseInt(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) }

// text returns a plain value as it is written, with ${env:NAME} replaced.
func (r *settingsReader) text(name string, n ast.Node) (string, bool) {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
	default:
		r.add(placeOf(n), "", "%s: expected one value", name)
		return "", false
	}
	text := n.GetToken().Value
	if l, ok := n.(*ast.LiteralNode); ok {
		text = l.Value.Value
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${env:")
		out.WriteString(before)
		if !found {
			return out.String(), true
		}
		env, after, closed := strings.Cut(rest, "}")
		v, known := "", false
		if closed && r.env != nil {
			v, known = r.env(env)
		}
		if !known {
			r.add(placeOf(n), "", "%s: the environment has no variable %.80s", name, env)
			return "", false
		}
		out.WriteString(v)
		text = after
	}
}

func parseDuration(text string) (Duration, error) {
	if text == "0" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n <= 36500 {
			return Duration(n * 24 * float64(time.Hour)), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		err = errors.New("it is negative")
	}
	return Duration(d), err
}

func parseSize(text string) (size, error) {
	unit := int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(number), n
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 0 || n > math.MaxInt64/unit) {
		err = errors.New("it is out of range")
	}
	return size(n * unit), err
}

// nearest returns the name most like a wrong one, if any is near enough to be
// what was meant.
func nearest(wrong string, names []string) string {
	best, least := "", max(1, len(wrong)/3)+1
	for _, n := range names {
		if d := distance(strings.ToLower(wrong), n); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours
// that turn a into b. Long names are not compared.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	d := make([][]int, len(a)+1) // d[i][j] is the distance of a[:i] and b[:j]
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
			case a[i-1] == b[j-1]:
				d[i][j] = d[i-1][j-1]
			default:
				d[i][j] = 1 + min(d[i-1][j], d[i][j-1], d[i-1][j-1])
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], 1+d[i-2][j-2])
				}
			}
		}
	}
	return d[len(a)][len(b)]
}
