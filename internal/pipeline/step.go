package pipeline

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// readSteps reads everything of the steps of all groups but their expressions.
func (d *definition) readSteps(root *node) {
	d.graphs = map[string]bool{}
	firstLine := map[string]int{}
	needs := []*node{}
	for _, group := range Groups() {
		key := group
		if group == GroupMain {
			key = "steps"
		}
		n := root.get(key)
		switch {
		case n == nil:
		case n.kind != kindList:
			d.wrong(key, "a list of steps", n)
		case len(d.plan.Steps)+len(n.list) > MaxSteps:
			d.add(n.list[max(MaxSteps-len(d.plan.Steps), 0)].at, "", "%d steps; a pipeline has at most %d", len(d.plan.Steps)+len(n.list), MaxSteps)
		default:
			needs = d.readGroup(group, key, n, firstLine, needs)
		}
	}
	for i, s := range d.plan.Steps {
		s.Index = i
		graph := d.graphs[s.Group]
		switch {
		case graph && needs[i] != nil:
			d.readNeeds(s, needs[i])
		case !graph && i > 0 && d.plan.Steps[i-1].Group == s.Group:
			s.Needs, s.Chain = []string{d.plan.Steps[i-1].Name}, true
		}
	}
	if cyclic := d.cycles(needs); cyclic {
		d.upstream = func(_, _ *Step) bool { return true }
		return
	}
	d.upstream = d.ancestors()
}

func (d *definition) readGroup(group, key string, n *node, firstLine map[string]int, needs []*node) []*node {
	for i, x := range n.list {
		s := d.defaults.step
		s.Line, s.Column, s.file, s.Group = x.at.line, x.at.col, d.file, group
		s.Callback, s.check, s.InheritAll = CallbackOptional, d.opts.Check, true
		what := fmt.Sprintf("%s[%d]", key, i)
		if !d.object(what, x, stepKeys) {
			continue
		}
		if nm := x.get("name"); nm == nil {
			d.add(x.at, "add name: my-step", "%s has no name", what)
			s.Name = what
		} else {
			name, ok := d.name(what+".name", nm, maxStepName)
			if s.Name = name; name == "" {
				s.Name = what
			}
			key := strings.ToLower(name)
			if line, dup := firstLine[key]; dup && ok {
				d.add(nm.at, "", "step %s is defined twice; the first is at line %d", name, line)
			} else {
				firstLine[key] = nm.at.line
			}
		}
		s.readSimple(d, stepLabel(s.Name), x)
		need := x.get("needs")
		d.graphs[group] = d.graphs[group] || need != nil
		needs = append(needs, need)
		d.plan.Steps = append(d.plan.Steps, &s)
		d.stepNodes = append(d.stepNodes, x)
		if d.steps[s.Name] == nil {
			d.steps[s.Name] = &s
			d.stepNames = append(d.stepNames, s.Name)
		}
	}
	return needs
}

func (s *Step) readSimple(d *definition, what string, n *node) {
	d.common(what, n, s)
	if image := n.get("image"); image != nil {
		d.readImage(s, what, n, image)
	}
	if x := n.get("description"); x != nil {
		s.Description, _ = d.str(what+".description", x)
	}
	if x := n.get("heartbeat"); x != nil {
		if v, ok := d.duration(what+".heartbeat", x); ok {
			if s.Heartbeat = v; v > s.Timeout {
				d.add(x.at, "", "%s.heartbeat is longer than the timeout (%s)", what, s.Timeout)
			}
		}
	}
	if x := n.get("callback"); x != nil {
		modes := []string{CallbackNone, CallbackOptional, CallbackRequired}
		if c, ok := d.str(what+".callback", x); ok && slices.Contains(modes, c) {
			s.Callback = c
		} else if ok {
			d.add(x.at, didYouMean(c, modes), "%s.callback: expected one of %s, found %s", what, strings.Join(modes, ", "), clip(c))
		}
	}
	if x := n.get("matrix"); x != nil {
		d.readMatrix(s, what+".matrix", x)
	}
	if x := n.get("allow_failure"); x != nil {
		s.AllowFailure = d.boolean(what+".allow_failure", x)
	}
	if x := n.get("strict_exit"); x != nil {
		s.StrictExit = d.boolean(what+".strict_exit", x)
	}
	if x := n.get("priority"); x != nil {
		s.Priority, _ = d.integer(what+".priority", x, -1000, 1000)
	}
	if x := n.get("inherit"); x != nil {
		d.readInherit(s, what, x)
	}
	if x := n.get("cleanup"); x != nil && d.object(what+".cleanup", x, cleanupKeys) {
		if k := x.get("keep_on_failure"); k != nil {
			s.KeepFailed, _ = d.duration(what+".cleanup.keep_on_failure", k)
		}
	}
	if x := n.get("outputs"); x != nil {
		before := len(d.list) + d.dropped
		d.readOutputs(s, what+".outputs", x)
		d.badOutputs[s.Name] = len(d.list)+d.dropped > before
	}
}

func (d *definition) readOutputs(s *Step, what string, n *node) {
	if n.kind != kindMap {
		d.wrong(what, "an object", n)
		return
	}
	seen := caseless{}
	for _, f := range n.fields {
		if !d.varName("output", f) || !seen.check(d.document, "output", f) {
			continue
		}
		o := Output{Name: f.key}
		d.readOutput(s, what+"."+f.key, f.val, &o)
		s.Outputs = append(s.Outputs, o)
	}
}

func (d *definition) readOutput(step *Step, what string, n *node, o *Output) {
	if n.kind == kindString {
		if o.Type = d.valueType(what, n, valueTypes); o.Type == waybill.TypeFile {
			d.add(n.at, "write {file: path/in/the/step/folder}", "%s: a file output names its file", what)
		}
		return
	}
	if n.kind != kindMap {
		d.wrong(what, "a type or {file: path}", n)
		return
	}
	if !d.object(what, n, outputKeys) {
		return
	}
	t, file := n.get("type"), n.get("file")
	if t != nil {
		o.Type = d.valueType(what+".type", t, valueTypes)
	}
	if x := n.get("optional"); x != nil {
		o.Optional = d.boolean(what+".optional", x)
	}
	if x := n.get("description"); x != nil {
		d.str(what+".description", x)
	}
	switch {
	case file != nil:
		if t != nil && o.Type != waybill.TypeFile && o.Type != "" {
			d.add(t.at, "leave out type", "%s: a file output has the type file", what)
		}
		o.Type = waybill.TypeFile
		if s, ok := d.str(what+".file", file); ok {
			why := cleanPath(s)
			if path.IsAbs(s) && s == path.Clean(s) && slices.Contains(d.opts.Images, step.Runner) {
				why = "" // of a container's own file system
			}
			if why != "" {
				d.add(file.at, "", "%s.file: %s, found %s", what, why, clip(s))
			}
			if instead, lost := d.opts.NoFiles[step.Runner]; lost {
				d.add(file.at, instead, "%s: no output files come back from the runner %s", what, step.Runner)
			}
			o.File = s
		}
		b, k := n.get("bucket"), n.get("key")
		switch {
		case b == nil && k != nil:
			d.add(k.at, "add bucket:", "%s has a key and no bucket", what)
		case b != nil:
			o.Bucket, _ = d.name(what+".bucket", b, 63)
		}
	case o.Type == waybill.TypeFile:
		d.add(t.at, "add file: path/in/the/step/folder", "%s: a file output names its file", what)
	case t == nil:
		d.add(n.at, "add type: or file:", "%s has no type", what)
	}
}

func (d *definition) readNeeds(s *Step, n *node) {
	what := stepLabel(s.Name) + ".needs"
	if n.kind != kindList {
		if n.kind == kindString {
			d.add(n.at, "write ["+clip(n.text)+"]", "%s: expected a list of step names, found text (%s)", what, clip(n.text))
		} else {
			d.wrong(what, "a list of step names", n)
		}
		return
	}
	seen := make(map[string]bool, len(n.list))
	for i, x := range n.list {
		name, ok := d.str(fmt.Sprintf("%s[%d]", what, i), x)
		switch {
		case !ok:
		case d.steps[name] == nil:
			d.add(x.at, didYouMean(name, d.stepNames), "step %s needs %s, which is not a step", s.Name, clip(name))
		case name == s.Name:
			d.add(x.at, "", "step %s needs itself", s.Name)
		case d.steps[name].Group != s.Group:
			d.add(x.at, "steps, on_failure and always begin one after the other anyway", "step %s needs %s, which is in another list", s.Name, name)
		case seen[name]:
			d.add(x.at, "", "step %s needs %s twice", s.Name, name)
		default:
			seen[name] = true
			s.Needs = append(s.Needs, name)
		}
	}
}

// cycles reports every cycle of needs that a depth-first walk closes.
func (d *definition) cycles(needs []*node) bool {
	const (
		white = iota
		grey
		black
	)
	color := make([]uint8, len(d.plan.Steps))
	type frame struct {
		step *Step
		next int
	}
	found := false
	for _, root := range d.plan.Steps {
		if color[root.Index] != white {
			continue
		}
		stack := []frame{{step: root}}
		color[root.Index] = grey
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if top.next == len(top.step.Needs) {
				color[top.step.Index] = black
				stack = stack[:len(stack)-1]
				continue
			}
			to := d.steps[top.step.Needs[top.next]]
			top.next++
			switch color[to.Index] {
			case white:
				color[to.Index] = grey
				stack = append(stack, frame{step: to})
			case grey:
				found = true
				i := slices.IndexFunc(stack, func(f frame) bool { return f.step == to })
				var loop []string
				for _, f := range stack[i:] {
					loop = append(loop, f.step.Name)
				}
				at := place{top.step.Line, top.step.Column}
				if n := needs[top.step.Index]; n != nil {
					at = n.at
				}
				if len(loop) > 10 {
					loop = append(loop[:9:9], "…")
				}
				d.add(at, "", "steps need each other in a circle: %s → %s", strings.Join(loop, " → "), to.Name)
			}
		}
	}
	return found
}

// ancestors returns the test whether a step runs only after another. The sets
// are made when the first expression asks.
func (d *definition) ancestors() func(s, of *Step) bool {
	var sets [][]uint64
	return func(s, of *Step) bool {
		if s.Group != of.Group || !d.graphs[s.Group] {
			return of.Index < s.Index
		}
		if slices.Contains(s.Needs, of.Name) {
			return true
		}
		if sets == nil {
			sets = d.ancestorSets()
		}
		return sets[s.Index][of.Index/64]&(1<<(of.Index%64)) != 0
	}
}

func (d *definition) ancestorSets() [][]uint64 {
	n := len(d.plan.Steps)
	sets := make([][]uint64, n)
	words := (n + 63) / 64
	for _, s := range d.plan.order() {
		set := make([]uint64, words)
		for _, name := range s.Needs {
			need := d.steps[name]
			set[need.Index/64] |= 1 << (need.Index % 64)
			for i, w := range sets[need.Index] {
				set[i] |= w
			}
		}
		sets[s.Index] = set
	}
	return sets
}

// order returns the steps so that each comes after all it needs, and otherwise
// in the order of the file.
func (p *Plan) order() []*Step {
	out := make([]*Step, 0, len(p.Steps))
	for _, level := range p.levels() {
		out = append(out, level...)
	}
	return out
}

// levels groups the steps by the length of the longest way to them.
func (p *Plan) levels() [][]*Step {
	depth := make([]int, len(p.Steps))
	missing := make([]int, len(p.Steps))
	after := make([][]*Step, len(p.Steps))
	var ready []*Step
	for _, s := range p.Steps {
		missing[s.Index] = len(s.Needs)
		for _, n := range s.Needs {
			i := p.byName[n].Index
			after[i] = append(after[i], s)
		}
		if len(s.Needs) == 0 {
			ready = append(ready, s)
		}
	}
	deepest := -1
	for i := 0; i < len(ready); i++ {
		s := ready[i]
		deepest = max(deepest, depth[s.Index])
		for _, t := range after[s.Index] {
			depth[t.Index] = max(depth[t.Index], depth[s.Index]+1)
			if missing[t.Index]--; missing[t.Index] == 0 {
				ready = append(ready, t)
			}
		}
	}
	levels := make([][]*Step, deepest+1)
	slices.SortFunc(ready, func(a, b *Step) int { return a.Index - b.Index })
	for _, s := range ready {
		levels[depth[s.Index]] = append(levels[depth[s.Index]], s)
	}
	return levels
}

// fill reads the parts of a step that hold expressions.
func (d *definition) fill(s *Step, n *node) {
	what := stepLabel(s.Name)
	if x := n.get("if"); x != nil {
		d.condition(s, what, x)
	}
	if s.Matrix != nil {
		d.fillMatrix(s, what, n.get("matrix"))
	}
	if x := n.get("inputs"); x != nil {
		d.readInputs(s, what, x)
	}
	for i := range s.Outputs {
		o := &s.Outputs[i]
		if o.Bucket == "" {
			continue
		}
		if k := n.get("outputs").get(o.Name).get("key"); k != nil {
			o.key = d.scalar(what+": outputs."+o.Name+".key", k, s)
		} else {
			d.add(n.get("outputs").get(o.Name).at, "for example key: ${{ run.id }}/"+o.File, "%s.outputs.%s has a bucket and no key", what, o.Name)
		}
	}
	fixed, good := true, true
	before := len(d.list) + d.dropped
	run := n.get("run")
	switch {
	case run == nil:
		if s.Runner == DefaultRunner {
			d.add(n.at, `add run: ["./program", "argument"]`, "%s has no run", what)
			good = false
		}
	case run.kind != kindList:
		hint := ""
		if run.kind == kindString {
			hint = fmt.Sprintf("run is never given to a shell; write [%s]", quoteWords(run.text))
		}
		d.add(run.at, hint, "%s.run: expected a list of a program and its arguments, found %s", what, run.kind)
		good = false
	case len(run.list) == 0:
		d.add(run.at, "", "%s.run is empty: it begins with the program", what)
		good = false
	default:
		for i, x := range run.list {
			t := d.text(x, &where{what: fmt.Sprintf("%s: run[%d]", what, i), step: s, noSecrets: argumentHint})
			if t == nil {
				good = false
				continue
			}
			_, ok := t.static()
			s.args, fixed = append(s.args, t), fixed && ok
		}
		if good {
			if first, ok := s.args[0].static(); ok && first == "" {
				d.add(run.list[0].at, "", "%s.run: the program is empty", what)
			}
		}
	}
	if env := n.get("env"); env != nil {
		d.readEnv(s, what, env)
	}
	withFixed := true
	with := withImage(n)
	if with != nil {
		if with.kind != kindMap {
			d.wrong(what+".with", "an object", with)
			return
		}
		s.with, withFixed = d.tree(with, &where{what: what + ": with", step: s, secrets: !s.Control(), noSecrets: "this runner starts no unit, and its settings are stored"})
	}
	s.dynamic = !fixed || !withFixed
	if s.Runner == RunnerPipeline && with != nil && with.kind == kindMap {
		if p := with.get("pipeline"); p != nil && p.kind == kindString && p.text == d.plan.Name {
			d.add(p.at, "", "%s: pipeline %s starts itself", what, d.plan.Name)
		}
	}
	if s.check == nil || !slices.Contains(d.opts.Runners, s.Runner) || !withFixed && s.Control() || !good || len(d.list)+d.dropped > before {
		return
	}
	d.checkStatic(s, what, n)
}

// checkStatic asks the runner about a step, with expressions as they are written.
func (d *definition) checkStatic(s *Step, what string, n *node) {
	args := make([]string, len(s.args))
	for i, t := range s.args {
		args[i] = t.source()
	}
	b := Built{Args: args}
	if s.with != nil {
		raw, err := s.with.written()
		if err != nil {
			d.add(withImage(n).at, "", "%s.with: %v", what, err)
			return
		}
		b.With = raw
	}
	if err := s.check(s.Runner, b.Args, s.readable(b.With)); err != nil {
		at := n.at
		if x := n.get("with"); x != nil {
			at = x.at
		} else if x := n.get("image"); x != nil {
			at = x.at
		} else if x := n.get("run"); x != nil {
			at = x.at
		}
		d.add(at, "", "%s: %v", what, err)
	}
}

const argumentHint = "every process of the machine can see arguments: set it in env and read it there"

// scalar compiles a value that becomes text. Numbers and truths stand for the
// text they are written as.
func (d *definition) scalar(what string, n *node, s *Step) *template {
	return d.text(n, &where{what: what, step: s})
}

// text is scalar for a place that may say more of itself.
func (d *definition) text(n *node, w *where) *template {
	switch n.kind {
	case kindString:
		if strings.ContainsRune(n.text, 0) {
			d.add(n.at, "", "%s holds a NUL character", w.what)
			return nil
		}
		return d.template(n, w)
	case kindBool, kindInt, kindFloat:
		return &template{parts: []tpart{{text: n.text}}}
	}
	d.wrong(w.what, "text", n)
	return nil
}

func (d *definition) readEnv(s *Step, what string, n *node) {
	if n.kind != kindMap {
		d.wrong(what+".env", "an object", n)
		return
	}
	for _, f := range n.fields {
		if !d.varName("environment variable", f) {
			continue
		}
		if t := d.text(f.val, &where{what: what + ": env." + f.key, step: s, secrets: !s.Control()}); t != nil {
			s.env = append(s.env, envVar{f.key, t})
		}
	}
}

// quoteWords shows a command line as the list it was probably meant to be.
func quoteWords(s string) string {
	words := strings.Fields(s)
	if len(words) > 8 {
		words = append(words[:8:8], "…")
	}
	for i, w := range words {
		words[i] = fmt.Sprintf("%q", clip(w))
	}
	return strings.Join(words, ", ")
}
