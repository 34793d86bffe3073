// Package rehearsal tries pipelines out: a test names what arrives and what each step
// is to do, the real engine runs the pipeline with every unit simulated, and what came
// of it is held against what the test expects.
//
// Nothing of a step is executed. Expressions are evaluated, settings are checked by
// their runners, conditions, retries, outputs and variables work as they do on a
// server. Steps that wait, ask somebody or start another pipeline are simulated too.
// Time is not waited for: a step of two hours ends at once, and one that is longer
// than its timeout is timed out at once.
package rehearsal

import (
	"errors"
	"fmt"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/schema"
)

// File is a file of tests: one, or several under "tests" that share the pipeline.
type File struct {
	Case  `yaml:",inline"`
	Tests []Case `yaml:"tests" doc:"several tests of the pipeline in one file"`
}

// Case is one test.
type Case struct {
	Name     string             `yaml:"name" doc:"what the test shows, for people"`
	Pipeline string             `yaml:"pipeline" doc:"name of the pipeline, or path of its file in the project"`
	Params   map[string]any     `yaml:"params" doc:"parameters of the start"`
	Vars     map[string]any     `yaml:"vars" doc:"variables given with the start"`
	Event    Event              `yaml:"event" doc:"what arrives; a request if not set"`
	Secrets  map[string]string  `yaml:"secrets" doc:"values of secrets"`
	Env      map[string]string  `yaml:"env" doc:"variables of the server's environment, for ${env:NAME} in the pipeline"`
	Steps    map[string]Doubles `yaml:"steps" doc:"what steps do, by name; the cells of a matrix also by step.NUMBER. A step that is not here succeeds"`
	Expect   Expect             `yaml:"expect" doc:"what must come of it"`
}

// Event is what arrives.
type Event struct {
	Type    string  `yaml:"type" doc:"kind of the event" default:"http"`
	Source  string  `yaml:"source" doc:"where it comes from"`
	Subject string  `yaml:"subject" doc:"what it is about"`
	Time    string  `yaml:"time" doc:"when it happened, as 2006-01-02T15:04:05Z" default:"2026-01-01T00:00:00Z"`
	Data    any     `yaml:"data" doc:"what it holds"`
	Object  *Object `yaml:"object" doc:"the object that arrived"`
}

// Object is an object that arrived.
type Object struct {
	Bucket      string `yaml:"bucket" doc:"name of the bucket"`
	Key         string `yaml:"key" doc:"key of the object"`
	Content     string `yaml:"content" doc:"what is in it"`
	ContentType string `yaml:"content_type" doc:"its media type"`
}

// Doubles are what a step does, attempt after attempt; the last counts for all that
// follow.
type Doubles []Double

// UnmarshalYAML takes one in the place of a list.
func (d *Doubles) UnmarshalYAML(unmarshal func(any) error) error {
	var list []Double
	if err := unmarshal(&list); err == nil {
		*d = list
		return nil
	}
	var one Double
	if err := unmarshal(&one); err != nil {
		return err
	}
	*d = Doubles{one}
	return nil
}

// JSONSchema implements schema.Described.
func (Doubles) JSONSchema() map[string]any { return schema.OneOrList(schema.Of(Double{})) }

// Double is what a unit does instead of what it would.
type Double struct {
	Outputs  map[string]any    `yaml:"outputs" doc:"what it returns; declared outputs that are not here have the zero value of their type"`
	Files    map[string]string `yaml:"files" doc:"files in its folder; declared files that are not here are empty"`
	Exit     int               `yaml:"exit" doc:"its exit code" default:"0"`
	Signal   string            `yaml:"signal" doc:"it ends by this signal instead" example:"SIGKILL"`
	Reason   string            `yaml:"reason" doc:"reason of its failure, such as oom_killed, or of a runner's own"`
	Error    string            `yaml:"error" doc:"what its failure says"`
	Duration string            `yaml:"duration" doc:"how long it takes, such as 90m; longer than the step's timeout is a time-out" example:"90m"`
	Lost     bool              `yaml:"lost" doc:"it vanishes, and nobody knows its end"`
	Log      []string          `yaml:"log" doc:"lines that it prints"`
}

// Expect is what must come of a run. What is not named may be as it is.
type Expect struct {
	Status  string                `yaml:"status" doc:"how the run ends" enum:"succeeded,failed,timed_out,canceled,skipped" default:"succeeded"`
	Error   string                `yaml:"error" doc:"words that the run's error holds; also of a start that is refused"`
	Steps   map[string]ExpectStep `yaml:"steps" doc:"how steps end, by name: a status, or an object that says more"`
	Vars    map[string]any        `yaml:"vars" doc:"variables that the run has at its end; null for one that it does not have"`
	Outputs map[string]any        `yaml:"outputs" doc:"outputs of the pipeline"`
	Calls   map[string]Calls      `yaml:"calls" doc:"how the units of a step were started, by name: how often, or what with"`
}

// ExpectStep is what must come of a step.
type ExpectStep struct {
	Status   string         `yaml:"status" doc:"how the step ends" enum:"succeeded,failed,timed_out,canceled,skipped,lost,queued"`
	Attempts *int           `yaml:"attempts" doc:"attempts that were made"`
	Error    string         `yaml:"error" doc:"words that its error holds"`
	Reason   string         `yaml:"reason" doc:"reason of its last attempt"`
	Outputs  map[string]any `yaml:"outputs" doc:"outputs that it has, among others"`
}

// UnmarshalYAML takes a status in the place of an object.
func (e *ExpectStep) UnmarshalYAML(unmarshal func(any) error) error {
	var status string
	if err := unmarshal(&status); err == nil {
		e.Status = status
		return nil
	}
	type plain ExpectStep
	return unmarshal((*plain)(e))
}

// JSONSchema implements schema.Described.
func (ExpectStep) JSONSchema() map[string]any {
	type plain ExpectStep
	s := schema.Of(plain{})
	return schema.Either(schema.Schema{"enum": []string{"succeeded", "failed", "timed_out", "canceled", "skipped", "lost", "queued"}}, s)
}

// Calls are the units of a step that must have been started, in their order.
type Calls struct {
	Count int
	List  []Call
}

// UnmarshalYAML takes a number in the place of a list.
func (c *Calls) UnmarshalYAML(unmarshal func(any) error) error {
	if err := unmarshal(&c.Count); err == nil {
		return nil
	}
	if err := unmarshal(&c.List); err != nil {
		return err
	}
	c.Count = len(c.List)
	return nil
}

// JSONSchema implements schema.Described.
func (Calls) JSONSchema() map[string]any {
	return schema.Either(schema.Schema{"type": "integer", "minimum": 0}, schema.List(schema.Of(Call{})))
}

// Call is how a unit was started.
type Call struct {
	Args []string          `yaml:"args" json:"args,omitempty" doc:"program and arguments, all of them"`
	Env  map[string]string `yaml:"env" json:"env,omitempty" doc:"variables of its environment, among others"`
	With map[string]any    `yaml:"with" json:"with,omitempty" doc:"settings of its runner, among others"`
}

// Schema is the JSON Schema of a file of tests.
func Schema() schema.Schema {
	one := schema.Of(Case{})
	props := one["properties"].(map[string]schema.Schema)
	props["tests"] = schema.List(schema.Ref("case")).With("minItems", 1).Doc("Several tests of the pipeline in one file.")
	one["required"] = []string{"pipeline"}
	inner := schema.Of(Case{})
	one["$defs"] = map[string]schema.Schema{"case": inner}
	one["$schema"], one["$id"], one["title"] = schema.Dialect, "https://waybill.run/schemas/test.json", "Tests of a pipeline of Waybill"
	return one
}

// Read reads a file of tests. The error is of type [pipeline.Problems].
func Read(name string, src []byte) ([]Case, error) {
	var f File
	if err := yaml.UnmarshalWithOptions(src, &f, yaml.Strict()); err != nil {
		p := pipeline.Problem{File: name, Msg: err.Error()}
		var y yaml.Error
		if errors.As(err, &y) {
			p.Msg = y.GetMessage()
			if t := y.GetToken(); t != nil && t.Position != nil {
				p.Line, p.Column = t.Position.Line, t.Position.Column
			}
		}
		return nil, pipeline.Problems{p}
	}
	cases := f.Tests
	if cases == nil {
		cases = []Case{f.Case}
	} else if !reflect.DeepEqual(f.Case, Case{Pipeline: f.Case.Pipeline, Name: f.Case.Name, Env: f.Case.Env, Secrets: f.Case.Secrets}) {
		return nil, pipeline.Problems{{File: name, Msg: "beside tests there can be name, pipeline, env and secrets only", Hint: "move the others into the tests"}}
	}
	var wrong pipeline.Problems
	seen := map[string]bool{}
	for i := range cases {
		c := &cases[i]
		if c.Pipeline == "" {
			c.Pipeline = f.Case.Pipeline
		}
		if c.Env == nil {
			c.Env = f.Case.Env
		}
		if c.Secrets == nil {
			c.Secrets = f.Case.Secrets
		}
		if c.Name == "" {
			c.Name = strings.TrimSuffix(strings.TrimSuffix(path.Base(name), ".yaml"), ".yml")
			if len(cases) > 1 {
				c.Name += fmt.Sprintf(" %d", i+1)
			}
		}
		bad := func(format string, args ...any) {
			wrong = append(wrong, pipeline.Problem{File: name, Msg: fmt.Sprintf("test %q: ", c.Name) + fmt.Sprintf(format, args...)})
		}
		if c.Pipeline == "" {
			bad("it names no pipeline")
		}
		if seen[c.Name] {
			bad("the name is there twice")
		}
		seen[c.Name] = true
		c.check(bad)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return cases, nil
}

var statuses = []string{"", "succeeded", "failed", "timed_out", "canceled", "skipped", "lost", "queued"}

func (c *Case) check(bad func(format string, args ...any)) {
	if c.Event.Time != "" {
		if _, err := time.Parse(time.RFC3339, c.Event.Time); err != nil {
			bad("event.time: %q is not a time like 2006-01-02T15:04:05Z", c.Event.Time)
		}
	}
	for step, list := range c.Steps {
		for _, d := range list {
			if d.Exit < 0 || d.Exit > 255 {
				bad("steps.%s.exit: %d is not between 0 and 255", step, d.Exit)
			}
			if d.Duration != "" {
				if _, err := duration(d.Duration); err != nil {
					bad("steps.%s.duration: %q is not a duration", step, d.Duration)
				}
			}
		}
	}
	if !slices.Contains(statuses, c.Expect.Status) {
		bad("expect.status: there is no status %q", c.Expect.Status)
	}
	for step, e := range c.Expect.Steps {
		if !slices.Contains(statuses, e.Status) {
			bad("expect.steps.%s: there is no status %q", step, e.Status)
		}
	}
}

// Paths are the files of tests in a folder: .yaml and .yml files in the order of their
// names, without subfolders.
func Paths(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if ext := path.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, dir+"/"+e.Name())
		}
	}
	return out, nil
}
