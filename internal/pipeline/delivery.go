package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// Delivery says that runs of a pipeline, or one of their steps, are a stage of
// deliveries. What it says of them is known at the end at the latest.
type Delivery struct {
	Stage waybill.Stage
	Step  string // the step that is the stage; empty: the whole run
	// State is that of the cluster when a sync stage has succeeded.
	State waybill.ClusterState

	cond   *template
	fields []deliveryField
}

type deliveryField struct {
	name  string
	value *template
}

// Fields evaluates what is known of the delivery, by the keys of the definition: image,
// ring, commit and so on. A key whose expression cannot be evaluated yet, or gives
// nothing, is missing; why says why each is. Safe for concurrent use.
func (d *Delivery) Fields(sc Scope) (known map[string]string, why map[string]error) {
	in := &scope{Scope: sc}
	known, why = map[string]string{}, map[string]error{}
	for _, f := range d.fields {
		text, err := f.value.eval(in)
		if err != nil {
			why[f.name] = err
			continue
		}
		if text = strings.TrimSpace(text); text != "" {
			known[f.name] = text
		}
	}
	return known, why
}

// Wanted evaluates the condition. One that cannot be evaluated (yet) is not met.
func (d *Delivery) Wanted(sc Scope) (bool, error) {
	if d.cond == nil {
		return true, nil
	}
	v, err := d.cond.value(&scope{Scope: sc})
	if err != nil {
		return false, err
	}
	yes, ok := v.(bool)
	if !ok {
		text, _ := textOf(v)
		return false, waybill.E(waybill.KindInvalid, "delivery.if: expected true or false, found %s", clip(text))
	}
	return yes, nil
}

// deliveryFixed are the keys that hold no expressions.
var deliveryFixed = []string{"stage", "step", "state", "if"}

// readDelivery reads what stages of deliveries the runs are: one object or a list.
func (d *definition) readDelivery(n *node) {
	list := []*node{n}
	if n.kind == kindList {
		list = n.list
	}
	type part struct {
		stage waybill.Stage
		step  string
	}
	seen := map[part]bool{}
	for i, x := range list {
		what := "delivery"
		if n.kind == kindList {
			what = fmt.Sprintf("delivery[%d]", i)
		}
		if !d.object(what, x, deliveryKeys) {
			continue
		}
		y := &Delivery{State: waybill.ClusterApplied}
		stage := x.get("stage")
		if stage == nil {
			d.add(x.at, "add stage: build", "%s has no stage", what)
			continue
		}
		words := make([]string, 0, 4)
		for _, s := range waybill.Stages() {
			words = append(words, string(s))
		}
		y.Stage = waybill.Stage(d.oneOf(what+".stage", stage, words...))
		if s := x.get("step"); s != nil {
			y.Step, _ = d.str(what+".step", s)
			if d.steps[y.Step] == nil {
				d.add(s.at, didYouMean(y.Step, d.stepNames), "%s.step: there is no step %s", what, clip(y.Step))
			}
		}
		if s := x.get("state"); s != nil {
			y.State = waybill.ClusterState(d.oneOf(what+".state", s, string(waybill.ClusterApplied), string(waybill.ClusterHealthy)))
			if y.Stage != waybill.StageSync {
				d.add(s.at, "", "%s.state: only a stage sync has one", what)
			}
		}
		if s := x.get("if"); s != nil {
			y.cond = d.text(s, &where{what: what + ".if", final: true})
		}
		for _, f := range x.fields {
			if slices.Contains(deliveryFixed, f.key) || !slices.Contains(names(deliveryKeys), f.key) {
				continue
			}
			if t := d.text(f.val, &where{what: what + "." + f.key, final: true}); t != nil {
				y.fields = append(y.fields, deliveryField{f.key, t})
			}
		}
		d.checkDelivery(what, x, y)
		if p := (part{y.Stage, y.Step}); seen[p] {
			d.add(x.at, "", "%s: the stage %s is there twice", what, y.Stage)
		} else {
			seen[p] = true
		}
		d.plan.Delivery = append(d.plan.Delivery, y)
	}
}

// checkDelivery reports keys without which nothing could ever be told.
func (d *definition) checkDelivery(what string, n *node, y *Delivery) {
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return n.get(k) != nil })
	}
	lacks := func(hint string) {
		d.add(n.at, hint, "%s: a stage %s lacks what tells which delivery it is", what, y.Stage)
	}
	switch y.Stage {
	case waybill.StageBuild:
		if !has("image", "digest") {
			lacks("add image: REPOSITORY:TAG, known before the run if failures shall be seen")
		}
	case waybill.StageConfig:
		if !has("image", "digest", "deployment") || !has("ring") || !has("config_commit") {
			lacks("it needs image, ring and config_commit")
		}
	case waybill.StageManifest:
		if !has("config_commit", "pull_request") && (!has("image", "digest") || !has("ring")) {
			lacks("it needs config_commit or pull_request; or image and ring, where manifests are made straight of images")
		}
	case waybill.StageSync:
		if !has("cluster") || !has("manifest_commit", "image", "digest") {
			lacks("it needs cluster, and manifest_commit or image")
		}
	}
}
