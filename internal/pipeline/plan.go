// Package pipeline turns the YAML of a pipeline into a checked plan, and a plan
// plus what is known of a run into what the runner needs.
//
// [Parse] reads one definition, [Load] those of a project folder. Both report
// every mistake with its place. A [Plan] is immutable and safe for concurrent
// use. The package does no I/O of its own.
//
// # References
//
// ${{ … }} holds an expression, ${env:NAME} a variable of the server's
// environment, ${secret:NAME} a secret. One $ more in front ($${{, $${env:,
// $${secret:) makes them ordinary text. A text that is exactly one ${{ }} keeps
// the type of its result, anything else is text. In a YAML list or object
// written on one line, and wherever the expression holds ": " or " #", quote the
// text: ["./fetch", "${{ vars.DAY }}"].
//
// # Expressions
//
// Expressions are CEL with its string functions (lowerAscii, upperAscii, trim,
// split, join, replace, …) and
//
//	format(time, layout)   a time in a Go layout, such as '2006-01-02'
//	default(value, other)  other when value is missing or null
//	json(value)            the value as JSON text
//
// They know
//
//	event   id, type, source, time, subject, data, object{bucket, key, version, size, sha256}
//	run     id, pipeline, version; in on_failure and always also status, error, failed_step
//	params  the declared parameters
//	vars    the variables declared under vars and all that begin with the prefix, whatever their case
//	steps   NAME.outputs.NAME, NAME.status, NAME.exit_code, NAME.error of steps that ran before
//	matrix  the values of this cell, in a step with a matrix
//
// A step with dashes in its name is written steps.my-step or steps['my-step'].
// A name that begins with a digit needs the second form. Subtracting needs
// spaces around the minus only directly after such a name.
//
// Variables are set from top to bottom when a run starts and may use those above
// them; the value given with a start wins over the declared one.
package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
)

// Defaults of a definition.
const (
	DefaultPrefix     = "___"
	DefaultRunner     = "process"
	DefaultTimeout    = time.Hour
	DefaultBackoff    = time.Second
	DefaultMaxBackoff = time.Hour
)

// MaxSteps is how many steps a pipeline can have.
const MaxSteps = 10_000

// Options are what reading a definition depends on outside of it.
type Options struct {
	// Env looks up ${env:NAME}. Nil refuses such references, as for definitions
	// that come through the API.
	Env func(name string) (string, bool)
	// Check says what is wrong with the parts of a step that its runner reads. It
	// is called when the definition is read, with expressions as they are written,
	// and by Step.Build if there was any. Nil checks nothing. Must be safe for
	// concurrent use.
	Check func(runner string, args []string, with json.RawMessage) error
	// Now is where doubts about schedules begin to look ahead; nil is time.Now.
	Now func() time.Time
	// Runners are the runners that can be used; process, sim and http if empty.
	Runners []string
	// Images are those of them that make units of images, and ImageRunner is the one that
	// makes a step with an image that names no runner; empty if there is none.
	Images []string
	// NoFiles are those of which no output files come back, and what to do instead.
	NoFiles     map[string]string
	ImageRunner string
}

// Plan is a checked pipeline.
type Plan struct {
	Name        string
	Description string
	File        string // as given to Parse
	Source      []byte
	// Hash names the version: SHA-256 of the source in hex. If the source uses
	// ${env:…}, the names and values used are hashed after it, so that another
	// value is another version.
	Hash     string
	Env      map[string]string // what ${env:…} inserted; nil if nothing
	On       On
	Labels   map[string]string    // of its runs, by which they can be found; nil if none
	Notify   []waybill.NotifyRule // who is told of its runs
	Params   []Param
	Vars     []Var
	Steps    []*Step // in the order of the groups, and in each in that of the file
	Prefix   string
	Priority int // larger first; 0 unless set
	// Warnings tell of what is allowed and probably not meant, such as a cron
	// expression that fires far more often than it seems to.
	Warnings Problems
	// Concurrency bounds how many runs are open at once; nil is no bound.
	Concurrency *Concurrency
	Retention   time.Duration // how long ended runs are kept; 0 is as the server does
	Delivery    []*Delivery   // the stages of deliveries that its runs are
	EnvUpper    bool          // variables are also handed to units in capital letters

	results []result
	byName  map[string]*Step
	after   sync.Once
	waiters [][]*Step // by index of a step: those that need it
}

// Param is a declared parameter.
type Param struct {
	Name        string
	Type        waybill.ValueType
	Default     waybill.Value // nil if there is none
	Required    bool
	Description string
	Enum        []waybill.Value // nil allows every value of the type
}

// Var is a variable that is set when a run starts.
type Var struct {
	Name  string
	value *tree
}

// The ways in which a step's callback counts.
const (
	CallbackNone     = "none"     // there is none
	CallbackOptional = "optional" // it may report before the unit ends
	CallbackRequired = "required" // a unit that ends well without it has failed
)

// Step is a step of a plan.
type Step struct {
	Name        string
	Description string
	Index       int      // in Plan.Steps
	Needs       []string // names of the steps it starts after; a chain made explicit
	Group       string   // GroupMain, GroupFailure or GroupAlways
	Chain       bool     // it needs the step before it only because the file is a chain
	Runner      string
	Timeout     time.Duration
	Heartbeat   time.Duration // 0 wants none
	Retry       Retry
	Outputs     []Output
	Callback    string
	Matrix      *Matrix // nil runs once
	// AllowFailure: the run goes on, and may succeed, when the step has failed.
	AllowFailure bool
	Priority     int           // added to that of the run
	StrictExit   bool          // an exit code other than 0 fails the step, whatever its callback said
	InheritAll   bool          // every prefixed variable is handed to the unit
	Inherit      []string      // else these
	KeepFailed   time.Duration // how long what is left of a failed attempt is kept
	Line         int
	Column       int

	cond    *template // nil is always
	inputs  []input
	args    []*template
	env     []envVar
	with    *tree
	dynamic bool // args or with hold expressions
	secrets []SecretUse
	file    string
	check   func(string, []string, json.RawMessage) error
}

type envVar struct {
	name  string
	value *template
}

// Output returns the declared output of a name, whatever its case, or nil.
func (s *Step) output(name string) *Output {
	for i := range s.Outputs {
		if strings.EqualFold(s.Outputs[i].Name, name) {
			return &s.Outputs[i]
		}
	}
	return nil
}

// Output is a declared output of a step.
type Output struct {
	Name     string
	Type     waybill.ValueType
	File     string // path in the step's folder, of TypeFile
	Bucket   string // into which the file is put as an object as well
	key      *template
	Optional bool
}

// Retry says how often a failed step is tried again.
type Retry struct {
	Max        int // repeats after the first attempt
	Backoff    time.Duration
	MaxBackoff time.Duration
	// On are the failures after which it is tried again; empty is every one. See Tries.
	On []string
}

// Delay is how long to wait after so many failures, from 1: Backoff, doubled with
// every failure after the first, at most MaxBackoff (an hour if that is 0).
func (r Retry) Delay(failures int) time.Duration {
	limit := r.MaxBackoff
	if limit <= 0 {
		limit = DefaultMaxBackoff
	}
	d := max(0, r.Backoff)
	for i := 1; i < failures && d < limit && d > 0; i++ {
		d *= 2
	}
	return min(d, limit)
}

// Step returns the step of a name, or nil.
func (p *Plan) Step(name string) *Step { return p.byName[name] }

// After returns the steps that need a step, in the order of the file. The list is the
// plan's own.
func (p *Plan) After(s *Step) []*Step {
	p.after.Do(func() {
		p.waiters = make([][]*Step, len(p.Steps))
		for _, q := range p.Steps {
			for _, n := range q.Needs {
				i := p.byName[n].Index
				p.waiters[i] = append(p.waiters[i], q)
			}
		}
	})
	return p.waiters[s.Index]
}

func (p *Plan) hash() {
	h := sha256.New()
	h.Write(p.Source)
	names := make([]string, 0, len(p.Env))
	for n := range p.Env {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(h, "\x00%s=%s", n, p.Env[n])
	}
	p.Hash = hex.EncodeToString(h.Sum(nil))
}

// Load reads every .yaml and .yml file in the folder pipelines of a project, in
// the order of their names. It returns the plans of the files without mistakes
// together with the problems of all the others. A missing folder holds no plans.
func Load(fsys fs.FS, opts Options) ([]*Plan, error) {
	const dir = "pipelines"
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		if _, serr := fs.Stat(fsys, dir); serr != nil {
			return nil, nil
		}
		return nil, Problems{{File: dir, Msg: "cannot be read: " + err.Error()}}
	}
	var plans []*Plan
	var problems Problems
	first := map[string]string{}
	for _, e := range entries {
		ext := path.Ext(e.Name())
		if e.IsDir() || ext != ".yaml" && ext != ".yml" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		file := path.Join(dir, e.Name())
		src, err := readLimited(fsys, file)
		if err != nil {
			problems = append(problems, Problem{File: file, Msg: "cannot be read: " + err.Error()})
			continue
		}
		p, at, err := parse(file, src, opts)
		if err != nil {
			problems = append(problems, err.(Problems)...)
		}
		if p == nil || p.Name == "" {
			continue
		}
		if other, dup := first[p.Name]; dup {
			problems = append(problems, Problem{File: file, Line: at.line, Column: at.col,
				Msg: fmt.Sprintf("pipeline %s is defined in %s too", p.Name, other)})
			continue
		}
		first[p.Name] = file
		if err == nil {
			plans = append(plans, p)
		}
	}
	if len(problems) > 0 {
		return plans, problems
	}
	return plans, nil
}

// readLimited reads a file up to just over the size limit, which parse reports.
func readLimited(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSource {
		return make([]byte, maxSource+1), nil
	}
	return fs.ReadFile(fsys, name)
}

// BindParams checks the parameters given with a start against the declared ones
// and fills in defaults. An error lists everything that is wrong.
func (p *Plan) BindParams(given map[string]waybill.Value) (waybill.Vars, error) {
	var out, in waybill.Vars
	var wrong []string
	declared := make([]string, len(p.Params))
	for i, q := range p.Params {
		declared[i] = q.Name
	}
	keys := make([]string, 0, len(given))
	for k := range given {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if !slices.ContainsFunc(declared, func(d string) bool { return strings.EqualFold(d, k) }) {
			msg := fmt.Sprintf("there is no parameter %s", clip(k))
			if h := didYouMean(k, declared); h != "" {
				msg += " (" + h + ")"
			}
			wrong = append(wrong, msg)
			continue
		}
		if _, dup := in.Get(k); dup {
			wrong = append(wrong, fmt.Sprintf("parameter %s is given twice, in different case", k))
		}
		in.Set(k, given[k])
	}
	for _, q := range p.Params {
		v, ok := in.Get(q.Name)
		if !ok || string(v) == "null" && q.Type != waybill.TypeJSON {
			switch {
			case q.Default != nil:
				out.Set(q.Name, q.Default)
			case q.Required:
				wrong = append(wrong, fmt.Sprintf("parameter %s is required", q.Name))
			}
			continue
		}
		v, err := q.bind(v)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("parameter %s: %v", q.Name, err))
			continue
		}
		out.Set(q.Name, v)
	}
	if len(wrong) > 0 {
		return waybill.Vars{}, &waybill.Error{Kind: waybill.KindInvalid, Op: "parameters of pipeline", Subject: p.Name, Msg: strings.Join(wrong, "; ")}
	}
	return out, nil
}

// bind returns the value as the parameter's type, if it may have it.
func (q Param) bind(v waybill.Value) (waybill.Value, error) {
	if !json.Valid(v) {
		return nil, waybill.E(waybill.KindInvalid, "not JSON")
	}
	v, err := v.Coerce(q.Type)
	if err != nil {
		return nil, err
	}
	if q.Enum == nil {
		return v, nil
	}
	allowed := make([]string, len(q.Enum))
	for i, e := range q.Enum {
		if string(e) == string(v) {
			return v, nil
		}
		allowed[i] = e.Text()
	}
	msg := fmt.Sprintf("%s is not one of %s", clip(v.Text()), strings.Join(allowed, ", "))
	if h := didYouMean(v.Text(), allowed); h != "" {
		msg += " (" + h + ")"
	}
	return nil, waybill.E(waybill.KindInvalid, "%s", msg)
}
