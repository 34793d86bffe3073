package project_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
)

func env(name string) (string, bool) {
	v, ok := map[string]string{"TEAM": "night shift", "MAX": "7", "DAYS": "9"}[name]
	return v, ok
}

func settings(src string) (project.Settings, error) {
	return project.ReadSettings(fstest.MapFS{"waybill.yaml": {Data: []byte(src)}}, env)
}

func TestDefaultSettings(t *testing.T) {
	t.Parallel()
	if err := project.Default().Validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if s, err := project.ReadSettings(fstest.MapFS{}, nil); err != nil || cmp.Diff(project.Default(), s) != "" {
		t.Errorf("a folder without settings has %+v, %v", s, err)
	}
	for _, src := range []string{"", "\n", "# nothing yet\n", "retention:\nqueue: {}\nunits: ~\n", "name:\n"} {
		s, err := settings(src)
		if err != nil {
			t.Errorf("%q: %v", src, err)
		}
		if diff := cmp.Diff(project.Default(), s); diff != "" {
			t.Errorf("%q changes defaults (-default +read):\n%s", src, diff)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s, err := settings(`
# A project.
name: "the ${env:TEAM}"
retention:
  runs: 1.5d
  objects: ${env:DAYS}d   # from outside
  current: 0
queue: {high_water: 5000}
units:
  max: ${env:MAX}
  log_cap: 8MiB
  base_env: [HOME_REGION, "TZ"]
callback:
  grace: 1m30s
secrets:
  providers: [file, store]
  env_prefix: APP_
  file_dir: /etc/app-secrets
`)
	if err != nil {
		t.Fatal(err)
	}
	const hour = project.Duration(time.Hour)
	want := project.Default() // what the file does not name
	want.Name = "the night shift"
	want.Retention = project.Retention{Runs: 36 * hour, Objects: 9 * 24 * hour}
	want.Queue = project.Queue{HighWater: 5000}
	want.Units = project.Units{Max: 7, LogCap: 8 << 20, BaseEnv: []string{"HOME_REGION", "TZ"}, OrphanSweep: project.Duration(5 * time.Minute), OrphanGrace: project.Duration(15 * time.Minute)}
	want.Callback = project.Callback{Grace: project.Duration(90 * time.Second)}
	want.Secrets = project.Secrets{Providers: []string{"file", "store"}, EnvPrefix: "APP_", FileDir: "/etc/app-secrets"}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("settings differ (-want +got):\n%s", diff)
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"nam: x":                              "waybill.yaml:1:1: unknown key nam (did you mean name?)",
		"retention:\n  objcts: 3d":            "waybill.yaml:2:3: unknown key retention.objcts (did you mean objects?)",
		"queue: {\n  wildly_wrong: 1\n}":      "waybill.yaml:2:3: unknown key queue.wildly_wrong (there are high_water)",
		"pools: {}":                           "waybill.yaml:1:1: unknown key pools (there are auth, buckets, callback, deliveries, http, name, notify, queue, retention, runners, secrets, sources, telemetry, units)",
		"units:\n  max: many":                 `waybill.yaml:2:8: units.max: expected a whole number, found "many"`,
		"units:\n  max: 1.5":                  `waybill.yaml:2:8: units.max: expected a whole number, found "1.5"`,
		"units:\n  max: 99999999999999999999": `waybill.yaml:2:8: units.max: expected a whole number, found "99999999999999999999"`,
		"secrets: {providers: [vault]}":       `waybill.yaml:1:22: secrets.providers: there is no provider "vault"; there are store, env, file`,
		"secrets: {providers: [env, env]}":    "waybill.yaml:1:22: secrets.providers: env is named twice",
		"secrets: {providers: []}":            "waybill.yaml:1:22: secrets.providers: expected at least one of store, env, file",
		"secrets: {env_prefix: ''}":           "waybill.yaml:1:23: secrets.env_prefix: expected at least three characters without blanks and =",
		"secrets: {file_dir: here}":           `waybill.yaml:1:21: secrets.file_dir: expected an absolute path, found "here"`,
		"units: {max: [1]}":                   "waybill.yaml:1:14: units.max: expected one value",
		"units: {max: 0}":                     "waybill.yaml:1:14: units.max: expected a number from 1 to 10000",
		"units: {log_cap: 12}":                "waybill.yaml:1:18: units.log_cap: expected at least 1024 bytes",
		"units: {log_cap: 99999999999GiB}":    `waybill.yaml:1:18: units.log_cap: expected a number of bytes such as 65536, 64KiB or 1GiB, found "99999999999GiB"`,
		"units: {base_env: HOME}":             "waybill.yaml:1:19: units.base_env: expected a list of names",
		"units: {base_env: [A=B]}":            `waybill.yaml:1:19: units.base_env: variable name "A=B": want letters, digits and _, not starting with a digit`,
		"units: {base_env: [[A]]}":            "waybill.yaml:1:20: units.base_env: expected one value",
		"retention: 3d":                       "waybill.yaml:1:12: retention: expected an object with current, objects, runs",
		"retention: {runs: soon}":             `waybill.yaml:1:19: retention.runs: expected a duration such as 90s, 10m or 30d, found "soon"`,
		"retention: {runs: -3h}":              `waybill.yaml:1:19: retention.runs: expected a duration such as 90s, 10m or 30d, found "-3h"`,
		"retention: {runs: 1e300d}":           `waybill.yaml:1:19: retention.runs: expected a duration such as 90s, 10m or 30d, found "1e300d"`,
		"retention: {runs: 0}":                "waybill.yaml:1:19: retention.runs: expected more than 0",
		"name: ${env:NOPE}":                   "waybill.yaml:1:7: name: the environment has no variable NOPE",
		"name: ${env:NOPE":                    "waybill.yaml:1:7: name: the environment has no variable NOPE",
		"name: a\nname: b":                    `waybill.yaml:2:1: mapping key "name" already defined at [1:1]`,
		"name: [":                             "waybill.yaml:1:7: sequence end token ']' not found",
		"- name":                              "waybill.yaml:1:1: waybill.yaml: expected an object with auth, buckets, callback, deliveries, http, name, notify, queue, retention, runners, secrets, sources, telemetry, units",
		"name: a\n---\nname: b":               "waybill.yaml:3:5: several documents in one file",
		"name: &n a\nqueue: {high_water: *n}": "waybill.yaml:1:7: name: expected one value\nwaybill.yaml:2:21: queue.high_water: expected one value",
		"name: " + strings.Repeat("x", 101):   "waybill.yaml:1:7: name: expected one line of up to 100 bytes",
		"name: " + strings.Repeat("x", 1<<17): "waybill.yaml: it has 131078 bytes; at most 65536 are allowed",
		"unist: {}\nunits: {max: x}\nqueue: {high_water: 0}": "waybill.yaml:1:1: unknown key unist (did you mean units?)\n" +
			"waybill.yaml:2:14: units.max: expected a whole number, found \"x\"\nwaybill.yaml:3:21: queue.high_water: expected more than 0",
	} {
		_, err := settings(src)
		if err == nil {
			t.Errorf("%.80q is accepted", src)
			continue
		}
		if err.Error() != want {
			t.Errorf("%.80q\n is refused with %s\n            want %s", src, err, want)
		}
		var ps pipeline.Problems
		if !errors.As(err, &ps) || !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%.80q: the error is no list of problems: %v", src, err)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("name: x\nretention: {runs: 3d}\n")
	f.Add("units: {base_env: [A, ${env:MAX}], log_cap: 1GiB}\n? [a]\n: &x *x\n")
	f.Fuzz(func(t *testing.T, src string) {
		s, err := settings(src)
		if err == nil && s.Validate() != nil {
			t.Errorf("accepted settings are not valid: %v", s.Validate())
		}
	})
}
