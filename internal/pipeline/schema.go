package pipeline

import (
	"fmt"
	"slices"

	"github.com/waybill-run/waybill/internal/schema"
)

// key says what a key of the grammar means and what it takes.
type key struct {
	doc   string
	shape func() schema.Schema
}

// keys describes the keys of an object of the grammar. A test holds them against the
// tables of grammar.go: each key is here, and each here is there.
type keys map[string]key

func is(s schema.Schema) func() schema.Schema { return func() schema.Schema { return s } }

const (
	durationDoc = " Such as 90s, 10m, 2h or 7d."
	exprDoc     = " May hold ${{ expressions }}."
)

func exprText() schema.Schema { return schema.Text() }

// objects are the objects of the grammar: their tables and what their keys mean.
func objects(runners []string) map[string]struct {
	words []word
	keys  keys
} {
	text, name, duration := is(schema.Text()), is(schema.Name(63)), is(schema.Duration())
	ref := func(n string) func() schema.Schema { return is(schema.Ref(n)) }
	values := is(schema.Map(schema.Any()))
	trigger := func(more keys) keys {
		out := keys{
			"filter": {"An expression over event that must be true for the run to start: ${{ event.data.kind == 'order' }}.", exprText},
			"params": {"Values of parameters, from the event." + exprDoc, values},
			"vars":   {"Values of variables, from the event." + exprDoc, values},
		}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	scripted := schema.Schema{"type": "array", "items": schema.Scalar(), "minItems": 1, "examples": []any{[]string{"./fetch.sh", "${{ vars.___DAY }}"}}}
	return map[string]struct {
		words []word
		keys  keys
	}{
		"pipeline": {pipelineKeys, keys{
			"name":        {"Name of the pipeline: small letters, digits and -.", is(schema.Name(maxPipelineName))},
			"description": {"What the pipeline is for, for people.", text},
			"labels":      {"Names and values that every run of the pipeline carries; runs can be listed by them.", is(schema.Map(schema.Text()))},
			"on":          {"What starts the pipeline. Without it, a request does.", ref("on")},
			"params":      {"Parameters that are given with a start: a type each, or an object that says more.", func() schema.Schema { return schema.Map(schema.Ref("param")) }},
			"vars":        {"Variables that are set when a run starts, from top to bottom." + exprDoc, values},
			"prefix":      {"Variables whose names begin with this are handed to the environment of every later step.", is(schema.Pattern(`[A-Za-z_][A-Za-z0-9_]*`).With("maxLength", 32).With("default", DefaultPrefix))},
			"env_case":    {"upper hands variables to units in capital letters as well.", is(schema.Words("keep", "upper").With("default", "keep"))},
			"defaults":    {"What steps have that do not say otherwise.", ref("defaults")},
			"priority":    {"Runs with a larger number go first.", is(schema.Int(-1000, 1000).With("default", 0))},
			"concurrency": {"How many runs may be open at once.", ref("concurrency")},
			"steps":       {"The steps. If none of them has needs, each begins after the one before it; otherwise a step without needs begins at once.", func() schema.Schema { return schema.List(schema.Ref("step")).With("minItems", 1) }},
			"on_failure":  {"Steps that run when one of steps has failed.", func() schema.Schema { return schema.List(schema.Ref("step")) }},
			"always":      {"Steps that run at the end of every run.", func() schema.Schema { return schema.List(schema.Ref("step")) }},
			"outputs":     {"Results of the pipeline, evaluated at its end." + exprDoc, values},
			"retention":   {"How long ended runs are kept; if not set, as waybill.yaml says." + durationDoc, duration},
			"delivery":    {"The stage of deliveries that runs of the pipeline, or some of its steps, are: they are reported by themselves.", func() schema.Schema { return schema.OneOrList(schema.Ref("delivery")) }},
			"notify":      {"Who is told of the pipeline's runs.", func() schema.Schema { return schema.OneOrList(schema.Ref("notify")) }},
		}},
		"delivery": {deliveryKeys, keys{
			"stage":           {"Which stage of a delivery it is.", is(schema.Words("build", "config", "manifest", "sync"))},
			"step":            {"The step that is the stage; without it the run is.", is(schema.Name(maxStepName))},
			"if":              {"Nothing is reported unless it is true." + exprDoc, exprText},
			"partition":       {"The partition of the report; default when left out." + exprDoc, is(schema.Scalar())},
			"service":         {"What is delivered." + exprDoc, is(schema.Scalar())},
			"image":           {"Image, with its tag, and its digest where that is known: NAME:TAG@sha256:…" + exprDoc, is(schema.Scalar())},
			"digest":          {"Digest of the image." + exprDoc, is(schema.Scalar())},
			"ring":            {"The environment that the image goes to." + exprDoc, is(schema.Scalar())},
			"commit":          {"Commit of the source." + exprDoc, is(schema.Scalar())},
			"source_repo":     {"Repository of the source." + exprDoc, is(schema.Scalar())},
			"build_run":       {"Run of the build, where tags repeat." + exprDoc, is(schema.Scalar())},
			"config_commit":   {"Commit of the configuration that names the image." + exprDoc, is(schema.Scalar())},
			"config_repo":     {"Repository of the configuration." + exprDoc, is(schema.Scalar())},
			"pull_request":    {"Pull request of the configuration." + exprDoc, is(schema.Scalar())},
			"manifest_commit": {"Commit of the manifests." + exprDoc, is(schema.Scalar())},
			"manifest_repo":   {"Repository of the manifests." + exprDoc, is(schema.Scalar())},
			"cluster":         {"The cluster that takes it, of a stage sync." + exprDoc, is(schema.Scalar())},
			"state":           {"What the cluster is when a stage sync has succeeded.", is(schema.Words("applied", "healthy").With("default", "applied"))},
			"deployment":      {"The row that it is about, where that is known." + exprDoc, is(schema.Scalar())},
			"url":             {"Where people can look at it; that of the run when left out." + exprDoc, is(schema.Scalar())},
		}},
		"step": {stepKeys, keys{
			"name":          {"Name of the step: small letters, digits and -.", is(schema.Name(maxStepName))},
			"description":   {"What the step does, for people.", text},
			"needs":         {"Steps that must have ended before this one begins.", is(schema.Strings())},
			"if":            {"The step is skipped if this expression is false: ${{ steps.fetch.outputs.rows > 0 }}.", is(schema.Schema{"type": []string{"string", "boolean"}})},
			"runner":        {"What makes the step.", is(schema.Words(runners...).With("default", DefaultRunner))},
			"image":         {"Image of the container that the step runs in, by tag or digest; without a runner, Docker runs it if it answers, else oci." + exprDoc, is(schema.Text().With("examples", []any{"ghcr.io/acme/crunch:1.4"}))},
			"run":           {"Program and arguments. Never given to a shell; a relative path is looked up in the project folder." + exprDoc, is(scripted)},
			"with":          {"Settings of the runner." + exprDoc, is(schema.Schema{"type": "object"})},
			"env":           {"Variables of the unit's environment." + exprDoc, is(schema.Map(schema.Scalar()))},
			"timeout":       {"The unit is ended when it has run that long." + durationDoc, is(schema.Duration().With("default", "1h"))},
			"heartbeat":     {"The unit is ended when it has not been heard for that long." + durationDoc, duration},
			"retry":         {"How often the step is tried again.", ref("retry")},
			"matrix":        {"Runs the step once for every combination of values.", ref("matrix")},
			"inputs":        {"Files that the unit finds in its folder: a path and what it holds each, a file of another step, an object, or a text." + exprDoc, values},
			"inherit":       {"Which variables of the run the unit's environment has.", is(schema.Either(schema.Words("all", "none"), schema.Strings()).With("default", "all"))},
			"outputs":       {"What the step returns: a type each, or an object that says more.", func() schema.Schema { return schema.Map(schema.Ref("output")) }},
			"callback":      {"Whether the unit reports by its callback.", is(schema.Words(CallbackNone, CallbackOptional, CallbackRequired).With("default", CallbackOptional))},
			"allow_failure": {"The run goes on, and may succeed, when the step has failed.", is(schema.Bool().With("default", false))},
			"strict_exit":   {"An exit code other than 0 fails the step, whatever its callback said.", is(schema.Bool().With("default", false))},
			"cleanup":       {"What becomes of the unit's folder.", ref("cleanup")},
			"priority":      {"Added to the priority of the run.", is(schema.Int(-1000, 1000).With("default", 0))},
		}},
		"on": {onKeys, keys{
			"http":     {"A request starts the pipeline: POST /api/v1/pipelines/NAME/runs, or waybill start NAME.", func() schema.Schema { return schema.Either(schema.Ref("http"), schema.Schema{"type": "null"}) }},
			"object":   {"An object that arrives in a bucket starts the pipeline.", func() schema.Schema { return schema.OneOrList(schema.Ref("object")) }},
			"queue":    {"A message of another system's queue starts the pipeline.", func() schema.Schema { return schema.OneOrList(schema.Ref("queue")) }},
			"schedule": {"A time starts the pipeline.", func() schema.Schema { return schema.OneOrList(schema.Ref("schedule")) }},
			"webhook":  {"A signed request of another system starts the pipeline: POST /hooks/PIPELINE.", func() schema.Schema { return schema.OneOrList(schema.Ref("webhook")) }},
			"event":    {"A published event starts the pipeline.", func() schema.Schema { return schema.OneOrList(schema.Ref("event")) }},
		}},
		"http": {httpKeys, keys{}},
		"object": {objectKeys, trigger(keys{
			"bucket": {"Name of the bucket.", name},
			"match":  {"Pattern for the key: * stands for any characters but /, ** for any, ? for one.", is(schema.Text().With("default", "**").With("examples", []any{"*.csv"}))},
			"settle": {"How long an object of a watched bucket must stay as it is before it is taken." + durationDoc, duration},
			"events": {"Kinds of change that start a run.", func() schema.Schema {
				return schema.OneOrList(schema.Words(objectEvents...)).With("default", []string{ObjectCreated, ObjectUpdated})
			}},
		})},
		"queue": {queueKeys, trigger(keys{
			"source": {"Name of a source of waybill.yaml.", name},
		})},
		"schedule": {scheduleKeys, trigger(keys{
			"cron":     {"When it fires, as a cron expression. waybill schedule explain tells what it means.", is(schema.Text().With("examples", []any{"0 2 * * *", "@daily"}))},
			"every":    {"It fires at this interval instead, in whole seconds." + durationDoc, duration},
			"timezone": {"Time zone of the expression.", is(schema.Text().With("default", "UTC").With("examples", []any{"Europe/Paris"}))},
			"catchup":  {"What becomes of times that passed while no server ran: none, the last, or all of them.", is(schema.Words(CatchupNone, CatchupLast, CatchupAll).With("default", DefaultCatchup))},
			"overlap":  {"What becomes of a run while the one before has not ended.", is(schema.Words(OverlapSkip, OverlapQueue, OverlapCancel, OverlapAllow).With("default", DefaultOverlap))},
			"start":    {"It does not fire before: a date or a time.", text},
			"end":      {"It does not fire after: a date or a time.", text},
		})},
		"webhook": {webhookKeys, trigger(keys{
			"name":      {"Last part of its path, when a pipeline has several.", name},
			"secret":    {"Reference to the secret that requests are signed with.", is(schema.Schema{"type": "string", "pattern": secretRule.String(), "examples": []any{"${secret:HOOK}"}})},
			"signature": {"How requests are signed.", is(schema.Words(SignatureWaybill, SignatureGitHub, SignatureGitLab, SignatureNone).With("default", SignatureWaybill))},
			"tolerance": {"How far the time of a signature may be from ours." + durationDoc, is(schema.Duration().With("default", "5m"))},
		})},
		"event": {eventKeys, trigger(keys{
			"type":   {"Pattern for the event's type: * stands for any characters.", text},
			"source": {"Pattern for the event's source: * stands for any characters.", text},
		})},
		"defaults": {defaultsKeys, keys{
			"timeout": {"Units are ended when they have run that long." + durationDoc, duration},
			"retry":   {"How often steps are tried again.", ref("retry")},
			"runner":  {"What makes the steps.", is(schema.Words(runners...))},
		}},
		"retry": {retryKeys, keys{
			"max":         {"Repeats after the first attempt.", is(schema.Int(0, 1000).With("default", 0))},
			"backoff":     {"Pause before the first repeat, doubled for each after it." + durationDoc, is(schema.Duration().With("default", "1s"))},
			"max_backoff": {"Longest pause." + durationDoc, is(schema.Duration().With("default", "1h"))},
			"on":          {"Failures after which it is tried again: failed, timed_out, exit:CODE, or the reason of a failed attempt. Without it, every one.", is(schema.List(schema.Schema{"type": []string{"string", "integer"}}).With("minItems", 1))},
		}},
		"param": {paramKeys, keys{
			"type":        {"Type of the value.", is(schema.Words(valueTypes[:len(valueTypes)-1]...).With("default", "string"))},
			"default":     {"Value if none is given.", is(schema.Any())},
			"required":    {"A start without it is refused.", is(schema.Bool().With("default", false))},
			"description": {"What it is for, for people.", text},
			"enum":        {"The values that are allowed.", is(schema.List(schema.Any()).With("minItems", 1))},
		}},
		"output": {outputKeys, keys{
			"type":        {"Type of the value.", is(schema.Words(valueTypes...))},
			"file":        {"Path of a file in the step's folder, which is stored.", text},
			"bucket":      {"Bucket into which the file is put as an object as well.", name},
			"key":         {"Key of the object." + exprDoc, text},
			"optional":    {"The step may return nothing for it.", is(schema.Bool().With("default", false))},
			"description": {"What it is, for people.", text},
		}},
		"matrix": {matrixKeys, keys{
			"values":       {"Names and lists of values, or expressions that give lists.", is(schema.Map(schema.Either(schema.List(schema.Any()), schema.Schema{"type": "string", "pattern": `^\s*\$\{\{`})).With("minProperties", 1))},
			"exclude":      {"Combinations that are left out.", is(schema.List(schema.Map(schema.Any()).With("minProperties", 1)))},
			"max_parallel": {"Cells at once.", is(schema.Int(1, MaxCells).With("default", DefaultParallel))},
			"fail_fast":    {"The first cell that fails ends the others.", is(schema.Bool().With("default", true))},
		}},
		"cleanup": {cleanupKeys, keys{
			"keep_on_failure": {"How long what is left of a failed attempt is kept." + durationDoc, duration},
		}},
		"concurrency": {concurrencyKeys, keys{
			"key":    {"Runs with the same key share the limit." + exprDoc, is(schema.Scalar())},
			"limit":  {"Runs that may be open at once.", is(schema.Int(1, 100_000).With("default", 1))},
			"policy": {"What becomes of a run that finds no place: it waits, ends as skipped, or the oldest is canceled.", is(schema.Words("queue", "skip", "cancel").With("default", "queue"))},
			"scope":  {"Whether the key is the pipeline's own or shared by all pipelines.", is(schema.Words("pipeline", "global").With("default", "pipeline"))},
		}},
	}
}

// required are keys without which an object is never right.
var required = map[string][]string{
	"pipeline": {"name", "steps"}, "step": {"name"}, "object": {"bucket"}, "queue": {"source"}, "delivery": {"stage"}, "matrix": {"values"},
}

// controls are the settings of steps that the engine makes itself.
func controls() map[string]schema.Schema {
	return map[string]schema.Schema{
		RunnerWait: schema.Object(map[string]schema.Schema{
			"for":   schema.Text().Doc("How long to wait." + durationDoc),
			"until": schema.Text().Doc("The time to wait for, as 2006-01-02T15:04:05Z."),
		}).With("minProperties", 1).With("maxProperties", 1),
		RunnerApproval: schema.Object(map[string]schema.Schema{
			"message":   schema.Text().Doc("What is asked." + exprDoc),
			"role":      schema.Words("operator", "admin").With("default", "operator").Doc("The role that who answers needs at least."),
			"approvers": schema.Either(schema.Strings(), schema.Text()).Doc("Names of the tokens that may answer; without it all with the role."),
			"form":      schema.Map(schema.Ref("param")).Doc("What is filled in with the answer: a type for each field, or an object that says more."),
			"expires":   schema.Text().Doc("How long there is time to answer." + durationDoc),
			"on_reject": schema.Words("fail", "continue").With("default", "fail").Doc("What a rejection does."),
			"on_expiry": schema.Words("fail", "continue").With("default", "fail").Doc("What it does when nobody answers in time."),
		}),
		RunnerPipeline: schema.Object(map[string]schema.Schema{
			"pipeline": schema.Text().Doc("Name of the pipeline that is started."),
			"params":   schema.Map(schema.Any()).Doc("Its parameters." + exprDoc),
			"vars":     schema.Map(schema.Any()).Doc("Variables that are given with the start." + exprDoc),
		}, "pipeline"),
	}
}

// Schema is the JSON Schema of a definition for a server with the given runners. with
// are the settings of runners that read some, by their names; notify is a rule of
// notifications.
func Schema(runners []string, with map[string]schema.Schema, notify schema.Schema) schema.Schema {
	defs := map[string]schema.Schema{"notify": notify}
	for name, o := range objects(append(slices.Clone(runners), RunnerWait, RunnerApproval, RunnerPipeline)) {
		defs[name] = grammarObject(name, o.words, o.keys)
	}
	// Short forms.
	types := schema.Words(valueTypes...)
	defs["param"] = schema.Either(schema.Words(valueTypes[:len(valueTypes)-1]...), defs["param"])
	defs["output"] = schema.Either(types, defs["output"])
	defs["schedule"] = schema.Either(schema.Text(), defs["schedule"])
	settings := controls()
	for name, s := range with {
		settings[name] = s
	}
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	slices.Sort(names)
	var cases []schema.Schema
	for _, name := range names {
		defs["with-"+name] = settings[name].Doc(fmt.Sprintf("Settings of the runner %s.", name))
		then := schema.Schema{"properties": map[string]schema.Schema{"with": schema.Ref("with-" + name)}}
		if name == RunnerWait || name == RunnerPipeline || name == "http" {
			then["required"] = []string{"with"}
		}
		cases = append(cases, schema.Schema{
			"if": schema.Schema{
				"properties": map[string]schema.Schema{"runner": {"const": name}}, "required": []string{"runner"},
			},
			"then": then,
		})
	}
	defs["step"]["allOf"] = cases
	defs["on"]["minProperties"] = 1
	out := defs["pipeline"]
	delete(defs, "pipeline")
	out["$schema"], out["$id"], out["title"] = schema.Dialect, "https://waybill.run/schemas/pipeline.json", "Pipeline of Waybill"
	out["$defs"] = defs
	return out
}

func grammarObject(name string, words []word, k keys) schema.Schema {
	props := map[string]schema.Schema{}
	for _, w := range words {
		if w.state != runs {
			continue
		}
		x, ok := k[w.name]
		if !ok {
			props[w.name] = schema.Any() // a test fails over it
			continue
		}
		s := schema.Schema{}
		for key, v := range x.shape() {
			s[key] = v
		}
		props[w.name] = s.Doc(x.doc)
	}
	return schema.Object(props, required[name]...)
}
