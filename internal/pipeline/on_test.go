package pipeline

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
)

const onSteps = "\nsteps: [{name: one, run: [\"true\"]}]\n"

func january() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func parseOn(tb testing.TB, src string) (*Plan, error) {
	tb.Helper()
	o := testOptions()
	o.Now = january
	return Parse("on.yaml", []byte("name: p\n"+src+onSteps), o)
}

func TestSchedulesAreRead(t *testing.T) {
	t.Parallel()
	p, err := parseOn(t, `
on:
  schedule:
    - "0 2 * * *"
    - {cron: "30 2 * * *", timezone: Europe/Paris, catchup: all, overlap: queue}
    - {every: 15m, start: 2026-01-01T08:05:00Z, end: 2027-01-01, catchup: none, overlap: allow}
`)
	if err != nil {
		t.Fatal(err)
	}
	s := p.On.Schedules
	if len(s) != 3 {
		t.Fatalf("%d schedules", len(s))
	}
	type short struct{ Spec, Text, Catchup, Overlap string }
	var got []short
	for i := range s {
		if s[i].Number != i+1 {
			t.Errorf("schedule %d has number %d", i, s[i].Number)
		}
		got = append(got, short{s[i].Spec(), s[i].String(), s[i].Catchup, s[i].Overlap})
	}
	want := []short{
		{"0 2 * * * UTC", "0 2 * * *", "last", "skip"},
		{"30 2 * * * Europe/Paris", "30 2 * * * Europe/Paris", "all", "queue"},
		{"every 15m0s from 2026-01-01T08:05:00Z until 2027-01-01T00:00:00Z", "every 15 minutes", "none", "allow"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("schedules (-want +got):\n%s", d)
	}
	if n := s[1].Schedule.Next(january()); !n.Equal(time.Date(2026, 1, 1, 1, 30, 0, 0, time.UTC)) {
		t.Errorf("next in Paris %s", n)
	}
}

func TestFB32Warning(t *testing.T) {
	t.Parallel()
	p, err := parseOn(t, `on: {schedule: {cron: "0 * */10 * * *"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 2 || !strings.Contains(p.Warnings[0].Msg, "180 times a day, with gaps up to 541 minutes") || p.Warnings[0].Line != 2 {
		t.Errorf("warnings: %v", p.Warnings)
	}
}

func TestTriggersWithMistakes(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		`on: {schedule: {}}`:                                                     `on.yaml:2:16: on.schedule says neither cron nor every`,
		`on: {schedule: {cron: "61 * * * *"}}`:                                   `on.yaml:2:23: on.schedule.cron: minute "61": 61 is not from 0 to 59`,
		`on: {schedule: {cron: "@daily", every: 1h}}`:                            `both cron and every`,
		`on: {schedule: {every: 100ms}}`:                                         `whole seconds`,
		`on: {schedule: {every: 5}}`:                                             `write the unit: 5s`,
		`on: {schedule: {cron: "@daily", timezone: Mars/Base}}`:                  `there is no time zone Mars/Base`,
		`on: {schedule: {cron: "@daily", tz: UTC}}`:                              `did you mean timezone?`,
		`on: {schedule: {cron: "@daily", catchup: lots}}`:                        `expected one of none, last, all`,
		`on: {schedule: {cron: "@daily", overlap: skipp}}`:                       `did you mean skip?`,
		`on: {schedule: {cron: "@daily", start: soon}}`:                          `is not a date or a time`,
		`on: {schedule: {cron: "@daily", start: 2026-02-01, end: 2026-01-01}}`:   `end is not after its start`,
		`on: {schedule: []}`:                                                     `on.schedule is empty`,
		`on: {webhook: {}}`:                                                      `no secret to check signatures with`,
		`on: {webhook: {secret: hunter2}}`:                                       `expected a reference to a secret`,
		`on: {webhook: {secret: "${env:X}-${env:Y}"}}`:                           `expected a reference to a secret`,
		`on: {webhook: {signature: none, secret: "${env:X}"}}`:                   `has no secret`,
		`on: {webhook: {secret: "${env:X}", signature: hmac}}`:                   `expected one of waybill, github, gitlab, none`,
		`on: {webhook: {secret: "${env:X}", tolerance: 2d}}`:                     `expected 1s to 1h`,
		`on: {webhook: [{secret: "${env:X}"}, {secret: "${env:X}"}]}`:            `the same path`,
		`on: {event: {}}`:                                                        `neither type nor source`,
		`on: {queue: {}}`:                                                        `has no source`,
		`on: {object: {bucket: in, events: [gone]}}`:                             `unknown word gone`,
		`on: {object: {bucket: in, filter: "event.object.sise > 1"}}`:            `on.yaml:2:49: on.object.filter: event.object has no sise (did you mean size?)`,
		`on: {object: {bucket: in, filter: "event.object.size >"}}`:              `on.yaml:2:55: on.object.filter: expression: unexpected end`,
		`on: {object: {bucket: in, filter: "${{ vars.x == 1 }}"}}`:               `vars cannot be used here: only event is known`,
		`on: {object: {bucket: in, filter: "1 + 1"}}`:                            `true or false, found one of type int`,
		`on: {object: {bucket: in, filter: "a ${{ true }}"}}`:                    `expected one expression`,
		`on: {object: {bucket: in, filter: true}}`:                               `expected an expression`,
		`on: {object: {bucket: in, params: {nope: 1}}}`:                          `there is no parameter nope`,
		`on: {object: {bucket: in, vars: {nope: 1}}}`:                            `variable nope is not declared`,
		`on: {object: {bucket: in, vars: {___A: "${{ steps.one.outputs.x }}"}}}`: `steps cannot be used here`,
	} {
		p, err := parseOn(t, src)
		if err == nil || p != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  got  %v\n  want %s", src, err, want)
		}
	}
}

func TestSecretsAreReferences(t *testing.T) {
	t.Parallel()
	p, err := parseOn(t, `on: {webhook: [{secret: "${env:HOOK_SECRET}"}, {name: deploy, secret: "${secret:deploy-key}", signature: github}]}`)
	if err != nil {
		t.Fatal(err)
	}
	want := []SecretRef{{Env: true, Name: "HOOK_SECRET"}, {Name: "deploy-key"}}
	for i, w := range p.On.Webhooks {
		if w.Secret != want[i] {
			t.Errorf("secret %+v, want %+v", w.Secret, want[i])
		}
	}
	if len(p.Env) > 0 {
		t.Errorf("the plan holds %v", p.Env)
	}
	// A definition from the API cannot look into the server's environment.
	o := testOptions()
	o.Env = nil
	if _, err := Parse("", []byte("name: p\non: {webhook: {secret: \"${env:HOOK_SECRET}\"}}"+onSteps), o); err == nil || !strings.Contains(err.Error(), "project folder") {
		t.Errorf("from the API: %v", err)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	ev := EventData(waybill.Event{ID: "1", Type: "push", Source: "/x", Time: january(), Data: []byte(`{"ref":"refs/heads/main","n":3}`)})
	for filter, want := range map[string]any{
		`"event.data.ref == 'refs/heads/main'"`:            true,
		`"${{ event.data.ref == 'refs/heads/main' }}"`:     true,
		`"event.data.ref == 'refs/heads/other'"`:           false,
		`"event.type == 'push' && event.data.n > 2"`:       true,
		`"event.data.missing == 1"`:                        errors.New("there is no value"),
		`"event.data.n"`:                                   errors.New("a number, not true or false"),
		`"default(event.data.missing, 1) == 1"`:            true,
		`"event.time > timestamp('2025-01-01T00:00:00Z')"`: true,
		`"event.data.ref.startsWith('refs/')"`:             true,
	} {
		p, err := parseOn(t, `on: {event: {type: push, filter: `+filter+`}}`)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		got, err := p.On.Events[0].Accepts(ev)
		if fail, ok := want.(error); ok {
			if err == nil || got || !strings.Contains(err.Error(), fail.Error()) || !waybill.IsKind(err, waybill.KindInvalid) {
				t.Errorf("%s: %v, %v, want %v", filter, got, err, fail)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", filter, got, err, want)
		}
	}
}

func TestGivenByTheEvent(t *testing.T) {
	t.Parallel()
	p, err := parseOn(t, `
params: {ref: string, n: {type: int, required: true}, extra: {type: json, default: 1}}
on:
  event:
    type: push
    params: {ref: "${{ event.data.ref }}", N: "${{ event.data.n }}", extra: "${{ default(event.data.nothing, null) }}"}
    vars: {___WHO: "by ${{ event.subject }}", ___FIXED: [1, 2]}
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) > 0 {
		t.Errorf("warnings: %v", p.Warnings)
	}
	params, vars, err := p.On.Events[0].Given(EventData(waybill.Event{Subject: "ann", Data: []byte(`{"ref":"main","n":3}`)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in         waybill.Vars
		name, want string
	}{{params, "ref", `"main"`}, {params, "n", `3`}, {vars, "___WHO", `"by ann"`}, {vars, "___FIXED", `[1,2]`}} {
		if v, _ := c.in.Get(c.name); string(v) != c.want {
			t.Errorf("%s is %s, want %s", c.name, v, c.want)
		}
	}
	if _, ok := params.Get("extra"); ok {
		t.Error("a value that is null hides the default")
	}
	if _, _, err := p.On.Events[0].Given(EventData(waybill.Event{Data: []byte(`{}`)})); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("a value that is missing: %v", err)
	}
}

func TestRequiredParameterThatNobodyGives(t *testing.T) {
	t.Parallel()
	p, err := parseOn(t, "params: {region: {type: string, required: true}}\non: {schedule: \"@daily\", webhook: {secret: \"${secret:x}\", params: {region: eu}}}")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0].Msg, "on.schedule gives no value for the required parameter region") {
		t.Errorf("warnings: %v", p.Warnings)
	}
}

func TestWildPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"com.example.*", "com.example.order.made", true}, {"com.example.*", "com.example", false}, {"*", "", true},
		{"*.made", "a.b.made", true}, {"a*b*c", "a-b-b-c", true}, {"a*b*c", "acb", false}, {"ab*ba", "aba", false}, {"x", "x", true}, {"x", "xy", false},
		{strings.Repeat("*a", 500), strings.Repeat("a", 2000) + "b", false},
	} {
		if got := wild(c.pattern, c.text); got != c.want {
			t.Errorf("%.20s and %.20s: %v", c.pattern, c.text, got)
		}
	}
}
