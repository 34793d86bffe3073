package pipeline_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

func TestDelivery(t *testing.T) {
	t.Parallel()
	const src = `
name: ship
vars: {___TAG: "shop:1"}
delivery:
  - {stage: build, step: build, service: team/shop, image: "${{ vars.___TAG }}", digest: "${{ steps.build.outputs.digest }}", commit: "${{ event.data.sha }}"}
  - {stage: config, image: "${{ vars.___TAG }}", ring: dev, config_commit: "${{ steps.push.outputs.commit }}", pull_request: 7, if: "${{ vars.___TAG != '' }}"}
steps:
  - {name: build, run: [x], outputs: {digest: string}}
  - {name: push, run: [x], outputs: {commit: string}}
`
	p, err := pipeline.Parse("x.yaml", []byte(src), pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Delivery) != 2 || p.Delivery[0].Stage != waybill.StageBuild || p.Delivery[0].Step != "build" || p.Delivery[1].Step != "" {
		t.Fatalf("%+v", p.Delivery)
	}
	sc := pipeline.Scope{Event: map[string]any{"data": map[string]any{"sha": "c0ffee1"}}}
	sc.Vars.Set("___TAG", waybill.Value(`"shop:1"`))
	known, why := p.Delivery[0].Fields(sc)
	if diff := cmp.Diff(map[string]string{"service": "team/shop", "image": "shop:1", "commit": "c0ffee1"}, known); diff != "" || len(why) != 1 || why["digest"] == nil {
		t.Errorf("before the end: %s %v", diff, why)
	}
	if yes, err := p.Delivery[1].Wanted(sc); !yes || err != nil {
		t.Error(yes, err)
	}
	var out waybill.Vars
	out.Set("digest", waybill.Value(`"sha256:12"`))
	sc.Steps = map[string]pipeline.StepResult{"build": {Status: waybill.StatusSucceeded, Outputs: out}}
	known, why = p.Delivery[0].Fields(sc)
	if known["digest"] != "sha256:12" || len(why) > 0 {
		t.Errorf("at the end: %v %v", known, why)
	}
	for _, bad := range []struct{ delivery, want string }{
		{`{service: x}`, "no stage"}, {`{stage: ship, image: x}`, "expected one of build, config, manifest, sync"}, {`{stage: build}`, "image"},
		{`{stage: config, image: x, ring: dev}`, "config_commit"}, {`{stage: build, image: x, step: nowhere}`, "no step nowhere"}, {`{stage: build, image: x, colour: red}`, "unknown key colour"},
		{`[{stage: build, image: x}, {stage: build, image: y}]`, "twice"}, {`{stage: build, image: "${{ steps.nowhere.outputs.x }}"}`, "no step nowhere"},
		{`{stage: build, image: x, state: healthy}`, "only a stage sync"}, {`{stage: build, image: "${secret:X}"}`, "secret"}, {`{stage: sync, image: x}`, "cluster"},
		{`{stage: build, image: [x]}`, "expected text"}, {`build`, "expected an object"},
	} {
		_, err := pipeline.Parse("x.yaml", []byte("name: a\ndelivery: "+bad.delivery+"\nsteps: [{name: one, run: [x]}]\n"), pipeline.Options{})
		if err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s is refused with %v, want %q", bad.delivery, err, bad.want)
		}
	}
}
