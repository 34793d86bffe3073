package pipeline

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
)

const withSecrets = `name: s
params: {user: string}
steps:
  - name: one
    run: ["./x"]
    env:
      PLAIN: ${{ params.user }}
      TOKEN: ${secret:api-token}
      URL: postgres://${{ params.user }}:${secret:db.password}@host/$${secret:db.password}
  - name: two
    runner: sim
    with:
      log_text: ["${secret:api-token}", "${{ params.user }}", "a ${{ params.user }} ${secret:api-token}"]
      outputs: {n: 9007199254740993, t: "${secret:db.password}"}
`

func parsed(t *testing.T, source string, check func(string, []string, json.RawMessage) error) *Plan {
	t.Helper()
	p, err := Parse("s.yaml", []byte(source), Options{Check: check})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSecretsStayReferencesUntilResolved(t *testing.T) {
	t.Parallel()
	var checked []string
	p := parsed(t, withSecrets, func(_ string, _ []string, with json.RawMessage) error {
		checked = append(checked, string(with))
		return nil
	})
	sc := Scope{Params: vars(t, `{"user":"anna"}`)}
	values := map[string]string{"api-token": "t\"0k<en", "db.password": "pässword\n2"}
	value := func(name string) (string, error) { return values[name], nil }

	one, err := p.Step("one").Build(sc)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range one.Env {
		for _, v := range values {
			if strings.Contains(e, v) {
				t.Errorf("a value is in what was built: %q", e)
			}
		}
	}
	before := append([]string(nil), one.Env...)
	got, err := p.Step("one").Resolve(one, value)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PLAIN=anna", "TOKEN=t\"0k<en", "URL=postgres://anna:pässword\n2@host/${secret:db.password}"}
	if diff := cmp.Diff(want, got.Env); diff != "" {
		t.Errorf("env differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, one.Env); diff != "" {
		t.Errorf("resolving changed what was built:\n%s", diff)
	}

	two, err := p.Step("two").Build(sc)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = p.Step("two").Resolve(two, value); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"log_text":["t\"0k\u003cen","anna","a anna t\"0k\u003cen"],"outputs":{"n":9007199254740993,"t":"pässword\n2"}}`, string(got.With)); diff != "" {
		t.Errorf("with differs (-want +got):\n%s", diff)
	}
	for _, c := range checked {
		if strings.Contains(c, `\u0000`) {
			t.Errorf("a runner is asked about %s", c)
		}
	}
	if len(checked) == 0 || !strings.Contains(checked[len(checked)-1], "${secret:db.password}") {
		t.Errorf("runners were asked about %q", checked)
	}
}

// What somebody gives as a parameter is never taken for a reference.
func TestSecretsCannotBeInjected(t *testing.T) {
	t.Parallel()
	p := parsed(t, withSecrets, nil)
	asked := func(name string) (string, error) { return "value of " + name, nil }
	for _, user := range []string{"${secret:db.password}", "$${secret:api-token}", "\x00secret:api-token\x00"} {
		sc := Scope{}
		sc.Params.Set("user", waybill.StringValue(user))
		for _, name := range []string{"one", "two"} {
			b, err := p.Step(name).Build(sc)
			if err != nil {
				if !strings.ContainsRune(user, 0) || waybill.KindOf(err) != waybill.KindInvalid {
					t.Errorf("%q in step %s: %v", user, name, err)
				}
				continue
			}
			got, err := p.Step(name).Resolve(b, asked)
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got.Env, " ") + string(got.With); strings.Count(s, "value of api-token") > 2 || strings.Count(s, "value of db.password") > 1 {
				t.Errorf("%q in step %s becomes %s", user, name, s)
			}
		}
	}
	// Beside no secret a NUL character is data of "with", and stays that.
	only := parsed(t, "name: s\nparams: {user: string}\nsteps:\n- {name: a, runner: sim, env: {A: \"${secret:x}\"}, with: {log_text: [\"${{ params.user }}\"]}}\n", nil)
	sc := Scope{}
	sc.Params.Set("user", waybill.StringValue("\x00secret:x\x00"))
	b, err := only.Step("a").Build(sc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := only.Step("a").Resolve(b, asked)
	if err != nil || strings.Contains(string(got.With), "value of") {
		t.Errorf("with becomes %s, %v", got.With, err)
	}
}

func TestUnknownSecretsAreNamedWithTheirPlace(t *testing.T) {
	t.Parallel()
	p := parsed(t, withSecrets, nil)
	asked := 0
	problems, err := p.UnknownSecrets(func(name string) (bool, error) { asked++; return name == "api-token", nil })
	if err != nil || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	var got []string
	for _, x := range problems {
		got = append(got, x.String())
	}
	if diff := cmp.Diff([]string{
		"s.yaml:9:42: step one: there is no secret db.password (set it with: waybill secret set db.password)",
		"s.yaml:14:42: step two: there is no secret db.password (set it with: waybill secret set db.password)",
	}, got); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
	gone := waybill.E(waybill.KindNotFound, "there is no secret api-token")
	b, err := p.Step("one").Build(Scope{Params: vars(t, `{"user":"anna"}`)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Step("one").Resolve(b, func(string) (string, error) { return "", gone })
	if !errors.Is(err, gone) || !waybill.IsKind(err, waybill.KindNotFound) || !strings.HasPrefix(err.Error(), "s.yaml:8:14: ") {
		t.Errorf("resolving says %v", err)
	}
}
