package enginetest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/runner/sim"
)

// plans are the pipelines of a world.
type plans map[string]*pipeline.Plan

// Plan implements engine.Plans.
func (p plans) Plan(_ context.Context, name string, _ int) (*pipeline.Plan, int, error) {
	if p[name] == nil {
		return nil, 0, waybill.E(waybill.KindNotFound, "there is no pipeline %s", name)
	}
	return p[name], 1, nil
}

// author writes random pipelines with all that the engine can do.
type author struct{ *rand.Rand }

func (r author) one(list ...string) string { return list[r.IntN(len(list))] }
func (r author) chance(one, of int) bool   { return r.IntN(of) < one }
func (r author) some(list ...string) string {
	return r.one(append(list, make([]string, len(list))...)...)
}

// world writes the pipelines of a world: two that others start, and some that are started.
func (r author) world(t *testing.T) (plans, string) {
	out, text := plans{}, ""
	add := func(src string) {
		text += src + "---\n"
		p := parse(t, src)
		out[p.Name] = p
	}
	add(r.pipeline("leaf", nil))
	add(r.pipeline("inner", []string{"leaf"}))
	for i := range 2 + r.IntN(3) {
		add(r.pipeline(fmt.Sprintf("p%d", i), []string{"leaf", "inner", "leaf", "nowhere"}))
	}
	return out, text
}

// parse reads a definition.
func parse(t *testing.T, src string) *pipeline.Plan {
	check := sim.New(sim.Options{})
	defer check.Close()
	p, err := pipeline.Parse("world.yaml", []byte(src), pipeline.Options{Check: func(runner string, args []string, with json.RawMessage) error {
		if runner != sim.Name {
			return nil
		}
		return check.Check(args, with)
	}})
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	return p
}

func (r author) pipeline(name string, others []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\nparams: {n: {type: int, default: 1}}\non: {http: {}}\n", name)
	if r.chance(1, 4) {
		fmt.Fprintf(&b, "priority: %d\n", r.IntN(5)-2)
	}
	if r.chance(1, 2) && name[0] == 'p' || r.chance(1, 6) {
		key := r.one("a", "a", "b", `"${{ string(params.n) }}"`)
		scope, limit := "", 1+r.IntN(2)
		if key == "a" && name[0] == 'p' { // what starts others must not wait for a place that it holds itself
			scope, limit = ", scope: global", 2
		}
		fmt.Fprintf(&b, "concurrency: {key: %s, limit: %d, policy: %s%s}\n", key, limit, r.one("queue", "queue", "skip", "cancel"), scope)
	}
	most := 4
	if others == nil {
		most = 2
	}
	first := r.group(&b, "steps", "s", 1+r.IntN(most), others)
	r.group(&b, "on_failure", "f", r.IntN(2), others)
	r.group(&b, "always", "z", r.IntN(3), others)
	if first != "" && r.chance(1, 3) {
		fmt.Fprintf(&b, "outputs: {n: \"${{ default(steps.%s.outputs.n, 0) }}\"}\n", first)
	}
	return b.String()
}

// group writes a group of steps and returns one that returns n.
func (r author) group(b *strings.Builder, key, prefix string, n int, others []string) (returns string) {
	if n == 0 {
		return ""
	}
	chain := r.chance(1, 2)
	fmt.Fprintf(b, "%s:\n", key)
	for i := range n {
		name := fmt.Sprintf("%s%d", prefix, i)
		fmt.Fprintf(b, "  - name: %s\n", name)
		if !chain {
			var needs []string
			for j := range i {
				if r.chance(1, 2) {
					needs = append(needs, fmt.Sprintf("%s%d", prefix, j))
				}
			}
			fmt.Fprintf(b, "    needs: [%s]\n", strings.Join(needs, ", "))
		}
		if r.chance(1, 6) {
			fmt.Fprintf(b, "    if: %s\n", r.one("false", "true", "params.n > 1"))
		}
		if r.chance(1, 5) {
			b.WriteString("    allow_failure: true\n")
		}
		if r.chance(1, 2) {
			fmt.Fprintf(b, "    retry: {max: %d, backoff: 500ms%s}\n", 1+r.IntN(2), r.some(", on: [timed_out]", `, on: ["exit:3", rejected]`))
		}
		cells := false
		if r.chance(1, 3) {
			cells = true
			fmt.Fprintf(b, "    matrix: {values: {v: %s}, max_parallel: %d, fail_fast: %v}\n",
				r.one("[]", "[1]", "[1, 2, 3]", "[1, 2, 3, 4, 5]", `"${{ [params.n, 2] }}"`), 1+r.IntN(3), r.chance(1, 2))
		}
		switch k := r.IntN(12); {
		case k == 0:
			fmt.Fprintf(b, "    runner: wait\n    with: {for: %ds}\n", 1+r.IntN(5))
		case k == 1 && !cells:
			fmt.Fprintf(b, "    runner: approval\n    with: {message: well, expires: %ds%s%s%s}\n", 5+r.IntN(10),
				r.some(", on_reject: continue"), r.some(", on_expiry: continue"), r.some(", form: {ticket: {type: string, required: true}}"))
		case k <= 3 && others != nil:
			fmt.Fprintf(b, "    runner: pipeline\n    timeout: %ds\n    with: {pipeline: %s, params: {n: %s}}\n", 3+r.IntN(30), r.one(others...), r.one("1", "2", "2", "many"))
		default:
			if r.unit(b, cells) && !cells {
				returns = name
			}
		}
	}
	return returns
}

// unit writes what a simulated unit does. It reports whether it returns n.
func (r author) unit(b *strings.Builder, cells bool) (returns bool) {
	var with []string
	say := func(format string, args ...any) { with = append(with, fmt.Sprintf(format, args...)) }
	timeout := 15
	if r.chance(2, 3) {
		say("run_for: %dms", 10+r.IntN(6000))
	}
	secret := r.chance(1, 2)
	switch r.IntN(16) {
	case 0:
		say("exit: %d", 1+r.IntN(4))
	case 1:
		say("vanish: true")
	case 2:
		say("hang: true")
		timeout = 4
	case 3, 4:
		say("fail_first: 1")
	case 5:
		say("start_error: %d", 1+r.IntN(3))
	case 6:
		say("lose_answer: 1")
	case 7:
		say("start_fail: true")
	case 8:
		say(`signal: SIGSEGV`)
	}
	var out []string
	if returns = r.chance(1, 2); returns {
		out = append(out, "n: 7", `___CELL: "x"`)
	}
	if secret {
		say(`log_text: ["the key is ${secret:alpha}", begin]`)
		out = append(out, `echo: "alpha is ${secret:alpha}."`, `___SECRET: "${secret:beta}"`)
	}
	if r.chance(1, 10) {
		out = append(out, `long: "`+strings.Repeat("x", waybill.MaxInline+1)+r.some("${secret:alpha}")+`"`)
		secret = secret || strings.Contains(out[len(out)-1], "secret")
	}
	callback := ""
	if r.chance(1, 3) {
		callback = "{" + strings.Join([]string{
			"variables: {" + strings.Join(out, ", ") + "}",
			"twice: " + r.one("true", "false"),
			"wrong_token: " + r.one("true", "false", "false", "false"),
			"after: " + r.one("0s", "0s", "0s", "2s", "9s"),
			"status: " + r.one("succeeded", "succeeded", "succeeded", "failed"),
		}, ", ")
		if secret {
			callback += `, error: "it did not take ${secret:beta}"`
		}
		say("callback: %s}", callback)
		out = nil
	}
	if len(out) > 0 {
		say("outputs: {%s}", strings.Join(out, ", "))
	}
	if r.chance(1, 5) {
		say("heartbeat: 1s")
	}
	if callback != "" && r.chance(1, 2) {
		b.WriteString("    callback: required\n")
	}
	if r.chance(1, 6) {
		b.WriteString("    heartbeat: 3s\n")
	}
	if r.chance(1, 12) {
		// An expression that cannot be evaluated.
		b.WriteString("    env: {BAD: \"${{ vars.___list[5] }}\"}\n")
	} else if cells && r.chance(1, 6) {
		// One that only some of the cells can.
		b.WriteString("    env: {PICK: \"${{ string([1, 2][matrix.v - 1]) }}\"}\n")
	} else if secret {
		b.WriteString("    env: {KEY: \"${secret:alpha}\", URL: \"x://u:${secret:beta}@h\"}\n")
	}
	if returns {
		b.WriteString("    outputs: {n: int}\n")
	}
	fmt.Fprintf(b, "    runner: sim\n    timeout: %ds\n    with: {%s}\n", timeout, strings.Join(with, ", "))
	return returns
}
