package pipeline

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
)

func TestPreview(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Check = nil
	p, err := Parse("p.yaml", []byte(`
name: p
params: {region: string}
vars: {___DAY: monday, ___SET: first}
steps:
  - name: fetch
    run: [fetch, "${{ vars.___DAY }}-${{ params.region }}", "${{ vars.___SET }}"]
    env: {TOKEN: "x${secret:API}", R: "${{ params.region }}"}
    outputs: {rows: int, ___SET: string}
  - name: use
    run: [use, "${{ vars.___SET }}", "${{ vars.___LATER }}", "${{ steps.fetch.outputs.rows + 1 }}", "${{ 'steps.x' }}", "${{ run.id }}/${{ run.pipeline }}"]
  - name: known
    if: params.region == 'us'
    run: [x]
  - name: unknown
    if: ${{ steps.fetch.outputs.rows > 1 && params.region == 'eu' }}
    run: [x]
  - name: cells
    runner: sim
    matrix: {values: {a: [1, 2], b: ["${{ params.region }}"]}}
    with: {log_text: ["${{ matrix.a }}${{ matrix.b }}"], n: "${{ matrix.a }}"}
  - name: later
    runner: sim
    matrix: {values: {a: "${{ steps.fetch.outputs.rows > 1 ? [1] : [2] }}"}}
  - name: wrong
    run: [x, "${{ event.data.nothing }}"]
on_failure: [{name: tell, run: [tell, "${{ run.error }}"]}]
always: [{name: tidy, run: [tidy]}]
`), o)
	if err != nil {
		t.Fatal(err)
	}
	var params, vars waybill.Vars
	params.Set("region", waybill.StringValue("eu"))
	vars.Set("___DAY", waybill.StringValue("monday"))
	vars.Set("___SET", waybill.StringValue("first"))
	steps := map[string]waybill.PlannedStep{}
	order := []string{}
	for _, s := range p.Preview(Scope{Params: params, Vars: vars, Event: map[string]any{"data": map[string]any{}}, Run: map[string]any{"id": "r", "pipeline": "p", "version": int64(1)}}) {
		steps[s.Name], order = s, append(order, s.Name)
	}
	if d := cmp.Diff([]string{"fetch", "use", "known", "unknown", "cells", "later", "wrong", "tell", "tidy"}, order); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
	fetch, use := steps["fetch"], steps["use"]
	if d := cmp.Diff([]string{"fetch", "monday-eu", "first"}, fetch.Args); d != "" || fetch.Unknown != nil {
		t.Errorf("fetch: unknown %v, args (-want +got):\n%s", fetch.Unknown, d)
	}
	if d := cmp.Diff(map[string]string{"TOKEN": "x${secret:API}", "R": "eu"}, fetch.Env); d != "" {
		t.Errorf("env (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"use", "${{ vars.___SET }}", "${{ vars.___LATER }}", "${{ steps.fetch.outputs.rows + 1 }}", "steps.x", "${{ run.id }}/p"}, use.Args); d != "" {
		t.Errorf("use (-want +got):\n%s", d)
	}
	if len(use.Unknown) != 4 || use.Problem != "" {
		t.Errorf("use: unknown %v, problem %q", use.Unknown, use.Problem)
	}
	for name, want := range map[string]string{"known": waybill.PlannedNo, "unknown": waybill.PlannedUnknown, "cells": waybill.PlannedYes, "tell": waybill.PlannedUnknown, "tidy": waybill.PlannedYes} {
		if got := steps[name].Runs; got != want {
			t.Errorf("%s runs: %s, want %s", name, got, want)
		}
	}
	cells := steps["cells"].Cells
	if len(cells) != 2 || string(cells[1].With) != `{"log_text":["2eu"],"n":2}` {
		t.Errorf("cells: %+v", cells)
	}
	if l := steps["later"]; l.CellsOf != waybill.PlannedUnknown || len(l.Cells) != 0 || len(l.Unknown) != 1 {
		t.Errorf("later: %+v", l)
	}
	if w := steps["wrong"]; !strings.Contains(w.Problem, "nothing") {
		t.Errorf("wrong: %+v", w)
	}
}
