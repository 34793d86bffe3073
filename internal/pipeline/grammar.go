package pipeline

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// state says what this version does with a key or a word it knows.
type state uint8

const (
	runs  state = iota // read and acted upon
	later              // known, and refused until a later version acts upon it
)

type word struct {
	name  string
	state state
}

// The grammar: every object of a definition with the keys it knows, in the order
// in which they are usually written. A key that begins to run changes its state
// here and gets its reader in parse.go.
var (
	pipelineKeys = []word{
		{"name", runs}, {"description", runs}, {"version", later}, {"labels", runs},
		{"on", runs}, {"params", runs}, {"vars", runs}, {"prefix", runs}, {"env_case", runs},
		{"defaults", runs}, {"priority", runs}, {"concurrency", runs},
		{"steps", runs}, {"on_failure", runs}, {"always", runs}, {"outputs", runs},
		{"retention", runs}, {"delivery", runs}, {"notify", runs},
	}
	stepKeys = []word{
		{"name", runs}, {"description", runs}, {"needs", runs}, {"if", runs},
		{"runner", runs}, {"image", runs}, {"run", runs}, {"with", runs}, {"env", runs},
		{"timeout", runs}, {"heartbeat", runs}, {"retry", runs}, {"matrix", runs},
		{"inputs", runs}, {"inherit", runs}, {"outputs", runs}, {"callback", runs}, {"allow_failure", runs},
		{"strict_exit", runs}, {"cleanup", runs}, {"priority", runs}, {"notify", later},
	}
	onKeys       = []word{{"http", runs}, {"object", runs}, {"queue", runs}, {"schedule", runs}, {"webhook", runs}, {"event", runs}}
	httpKeys     = []word{}
	objectKeys   = []word{{"bucket", runs}, {"match", runs}, {"settle", runs}, {"events", runs}, {"filter", runs}, {"params", runs}, {"vars", runs}}
	queueKeys    = []word{{"source", runs}, {"filter", runs}, {"params", runs}, {"vars", runs}}
	scheduleKeys = []word{{"cron", runs}, {"every", runs}, {"timezone", runs}, {"catchup", runs}, {"overlap", runs}, {"start", runs}, {"end", runs}, {"filter", runs}, {"params", runs}, {"vars", runs}}
	webhookKeys  = []word{{"name", runs}, {"secret", runs}, {"signature", runs}, {"tolerance", runs}, {"filter", runs}, {"params", runs}, {"vars", runs}}
	eventKeys    = []word{{"type", runs}, {"source", runs}, {"filter", runs}, {"params", runs}, {"vars", runs}}
	defaultsKeys = []word{{"timeout", runs}, {"retry", runs}, {"runner", runs}}
	retryKeys    = []word{{"max", runs}, {"backoff", runs}, {"max_backoff", runs}, {"on", runs}}
	paramKeys    = []word{{"type", runs}, {"default", runs}, {"required", runs}, {"description", runs}, {"enum", runs}}
	outputKeys   = []word{{"type", runs}, {"file", runs}, {"bucket", runs}, {"key", runs}, {"optional", runs}, {"description", runs}}
	matrixKeys   = []word{{"values", runs}, {"exclude", runs}, {"max_parallel", runs}, {"fail_fast", runs}}
	cleanupKeys  = []word{{"keep_on_failure", runs}}

	deliveryKeys = []word{
		{"stage", runs}, {"step", runs}, {"if", runs}, {"partition", runs}, {"service", runs}, {"image", runs}, {"digest", runs}, {"ring", runs},
		{"commit", runs}, {"source_repo", runs}, {"build_run", runs}, {"config_commit", runs}, {"config_repo", runs}, {"pull_request", runs},
		{"manifest_commit", runs}, {"manifest_repo", runs}, {"cluster", runs}, {"state", runs}, {"deployment", runs}, {"url", runs},
	}
	concurrencyKeys = []word{{"key", runs}, {"limit", runs}, {"policy", runs}, {"scope", runs}}

	// knownRunners are the runners of the design; Options.Runners says which of
	// them this server has.
	knownRunners = []string{"process", "sim", "http", "oci", "docker", "kubernetes", "aci", "pool", "bundle", RunnerWait, RunnerApproval, RunnerPipeline}
)

// synonyms are names other tools give to our keys.
var synonyms = map[string]string{
	"id": "name", "depends": "needs", "depends_on": "needs", "dependencies": "needs",
	"command": "run", "cmd": "run", "args": "run", "exec": "run", "script": "run",
	"environment": "env", "retries": "retry", "unit": "runner", "executor": "runner",
	"triggers": "on", "trigger": "on", "parameters": "params", "variables": "vars",
	"jobs": "steps", "tasks": "steps", "stages": "steps", "condition": "if", "when": "if",
	"glob": "match", "pattern": "match", "container": "bucket", "path": "file",
	"tz": "timezone", "zone": "timezone", "time_zone": "timezone", "interval": "every", "expression": "cron", "token": "secret",
	"vars_prefix": "prefix", "config": "with", "settings": "with", "continue_on_error": "allow_failure",
	"continue_on_failure": "allow_failure", "strategy": "matrix", "finally": "always", "foreach": "matrix",
}

func names(words []word) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w.name
	}
	return out
}

const notYet = "is not supported by this version yet"

// object checks that n is an object holding only known keys that run. It
// reports everything else and returns false when n is no object.
func (d *document) object(what string, n *node, words []word) bool {
	if n.kind != kindMap {
		d.wrong(what, "an object", n)
		return false
	}
	for _, f := range n.fields {
		i := slices.IndexFunc(words, func(w word) bool { return w.name == f.key })
		switch {
		case i < 0:
			hint := didYouMean(f.key, names(words))
			if s := synonyms[strings.ToLower(f.key)]; hint == "" && slices.Contains(names(words), s) {
				hint = "did you mean " + s + "?"
			}
			if hint == "" && len(words) > 0 {
				hint = "the keys here are " + strings.Join(names(words), ", ")
			}
			d.add(f.at, hint, "unknown key %s in %s", clip(f.key), what)
		case words[i].state == later:
			d.add(f.at, "", "%s %s", f.key, notYet)
		}
	}
	return true
}

func (d *document) wrong(what, want string, n *node) {
	found := n.kind.String()
	if n.text != "" && n.kind < kindMap {
		found += " (" + clip(n.text) + ")"
	}
	hint := ""
	if n.kind == kindMap && len(n.fields) > 0 && strings.Contains(n.fields[0].key, "${{") {
		hint = "put the expression between quotes: it holds a colon"
	}
	d.add(n.at, hint, "%s: expected %s, found %s", what, want, found)
}

// str reads a text. Numbers and truths are refused, so that a version 1.10 or a
// name 007 never changes on the way; quoting them makes them text.
func (d *document) str(what string, n *node) (string, bool) {
	if n.kind != kindString {
		d.wrong(what, "text", n)
		return "", false
	}
	return d.plain(what, n)
}

// plain returns the text of a scalar with its ${env:…} replaced. Expressions
// and secrets are refused: the value is needed when the definition is read.
func (d *document) plain(what string, n *node) (string, bool) {
	var b strings.Builder
	ok := true
	for _, p := range d.split(n) {
		switch p.kind {
		case partText:
			b.WriteString(p.text)
		case partExpr:
			d.add(p.at, "", "%s cannot hold an expression", what)
			ok = false
		case partBad:
			ok = false
		}
	}
	return b.String(), ok
}

func (d *document) integer(what string, n *node, low, high int) (int, bool) {
	text := n.text
	if n.kind == kindString && strings.Contains(text, "${env:") {
		t, ok := d.plain(what, n)
		if !ok {
			return 0, false
		}
		text = t
	} else if n.kind != kindInt {
		d.wrong(what, "a whole number", n)
		return 0, false
	}
	i, err := strconv.Atoi(text)
	if err != nil || i < low || i > high {
		d.add(n.at, "", "%s: expected a whole number from %d to %d, found %s", what, low, high, clip(text))
		return 0, false
	}
	return i, true
}

func (d *document) boolean(what string, n *node) bool {
	if n.kind == kindString && strings.Contains(n.text, "${env:") {
		t, ok := d.plain(what, n)
		if b := t == "true"; !ok || b || t == "false" {
			return b
		}
	}
	b, ok := n.val.(bool)
	if !ok {
		d.wrong(what, "true or false", n)
	}
	return b
}

const durationRule = `durations look like 90s, 10m, 2h or 7d`

func (d *document) duration(what string, n *node) (time.Duration, bool) {
	if n.kind != kindString {
		if n.kind == kindInt {
			d.add(n.at, "write the unit: "+n.text+"s", "%s: expected a duration, found a whole number (%s)", what, clip(n.text))
		} else {
			d.wrong(what, "a duration", n)
		}
		return 0, false
	}
	text, ok := d.plain(what, n)
	if !ok {
		return 0, false
	}
	v, err := parseDuration(text)
	if err != nil {
		d.add(n.at, durationRule, "%s: %s", what, err)
		return 0, false
	}
	return v, true
}

var dayPart = regexp.MustCompile(`^([0-9]{1,6})d`)

// parseDuration reads Go's durations with days in front: "7d", "1d12h".
func parseDuration(s string) (time.Duration, error) {
	rest, days := s, time.Duration(0)
	if m := dayPart.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 36500 {
			return 0, fmt.Errorf("%q is longer than 100 years", clip(s))
		}
		days, rest = time.Duration(n)*24*time.Hour, s[len(m[0]):]
	}
	v := time.Duration(0)
	if rest != "" || days == 0 {
		var err error
		if v, err = time.ParseDuration(rest); err != nil {
			return 0, fmt.Errorf("%q is not a duration", clip(s))
		}
	}
	if v < 0 || v+days <= 0 {
		return 0, fmt.Errorf("%q must be longer than zero", clip(s))
	}
	return v + days, nil
}

// Names of pipelines and steps become parts of unit names, labels and paths.
const (
	maxPipelineName = 63
	maxStepName     = 40
)

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

func (d *document) name(what string, n *node, limit int) (string, bool) {
	if n.kind == kindInt {
		d.add(n.at, fmt.Sprintf("write it between quotes: %q", n.text), "%s: expected text, found a whole number (%s)", what, clip(n.text))
		return "", false
	}
	s, ok := d.str(what, n)
	if !ok {
		return "", false
	}
	if !nameRule.MatchString(s) || len(s) > limit {
		hint := ""
		if fixed := fixName(s, limit); fixed != "" && fixed != s {
			hint = "for example " + fixed
		}
		d.add(n.at, hint, "%s %q: a name has small letters a-z, digits and -, begins and ends with a letter or digit, and has at most %d characters", what, clip(s), limit)
		return s, false
	}
	return s, true
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

func fixName(s string, limit int) string {
	s = strings.Trim(notName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if len(s) > limit {
		s = strings.Trim(s[:limit], "-")
	}
	return s
}

// stepLabel names a step in messages; one without a usable name is called by its
// place in the list.
func stepLabel(name string) string {
	if strings.HasPrefix(name, "steps[") {
		return name
	}
	return "step " + name
}

// varName checks a name that becomes an environment variable. Names that begin
// with WAYBILL_ are the server's own.
func (d *document) varName(what string, f field) bool {
	if err := waybill.CheckName(f.key); err != nil {
		d.add(f.at, "", "%s", strings.Replace(err.Error(), "variable", what, 1))
		return false
	}
	if strings.HasPrefix(strings.ToUpper(f.key), "WAYBILL_") {
		d.add(f.at, "", "%s name %s: names that begin with WAYBILL_ are set by the server", what, f.key)
		return false
	}
	return true
}

// caseless reports a name that differs from an earlier one only in case.
type caseless map[string]string

func (c caseless) check(d *document, what string, f field) bool {
	k := strings.ToLower(f.key)
	if first, dup := c[k]; dup {
		d.add(f.at, "", "%s %s differs from %s only in case", what, f.key, first)
		return false
	}
	c[k] = f.key
	return true
}

var valueTypes = []string{
	string(waybill.TypeString), string(waybill.TypeInt), string(waybill.TypeNumber),
	string(waybill.TypeBool), string(waybill.TypeJSON), string(waybill.TypeFile),
}

func (d *document) valueType(what string, n *node, types []string) waybill.ValueType {
	s, ok := d.str(what, n)
	if !ok {
		return ""
	}
	if !slices.Contains(types, s) {
		hint := didYouMean(s, types)
		switch strings.ToLower(s) {
		case "integer", "long":
			hint = "did you mean int?"
		case "float", "double":
			hint = "did you mean number?"
		case "boolean":
			hint = "did you mean bool?"
		case "object", "map", "array", "list", "any":
			hint = "did you mean json?"
		case "text", "str":
			hint = "did you mean string?"
		}
		d.add(n.at, hint, "%s: expected one of %s, found %s", what, strings.Join(types, ", "), clip(s))
		return ""
	}
	return waybill.ValueType(s)
}
