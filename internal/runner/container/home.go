package container

import (
	"path"
	"path/filepath"
)

// Home is where a container finds its home; see runner.Contained.
const Home = "/waybill"

// What is in a home.
const (
	Work  = "work"       // working directory, inputs and output files
	Event = "event.json" // what arrived
	In    = "in"         // copies of objects
	Out   = "out"        // where WAYBILL_OUTPUT is
)

// WorkDir is the working directory of a unit, as it finds it.
func WorkDir() string { return path.Join(Home, Work) }

// Outside is the path on this machine of something in a unit's home.
func Outside(dir string, parts ...string) string {
	return filepath.Join(append([]string{dir}, parts...)...)
}

// Labels of everything that belongs to a unit, on every platform: containers, networks,
// Jobs, groups. What lacks ours is never touched.
const (
	LabelInstance = "waybill.instance" // id of the store: units of another are not ours
	LabelUnit     = "waybill.unit"     // name of the unit
	LabelRun      = "waybill.run"
	LabelStep     = "waybill.step"
	LabelAttempt  = "waybill.attempt"
	LabelPipeline = "waybill.pipeline"
	LabelStop     = "waybill.hard-stop" // RFC 3339, when it is killed at the latest
)

// Labels are those of a unit.
func Labels(unit string, meta map[string]string) map[string]string {
	out := map[string]string{LabelUnit: unit}
	for label, key := range map[string]string{
		LabelInstance: "instance", LabelRun: "run", LabelStep: "step", LabelAttempt: "attempt", LabelPipeline: "pipeline",
	} {
		if v := meta[key]; v != "" {
			out[label] = v
		}
	}
	return out
}
