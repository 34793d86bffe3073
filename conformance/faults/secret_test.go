//go:build linux

package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// The secrets of these tests. Nothing but the command that stores them, and units, ever
// has them.
const (
	password  = "c0rrect h0rse/battery+staple"
	multiline = "-----BEGIN TEST KEY-----\nMIIBVAIBADANBgkqhkiG9w0BAQEF\nAASCAT4wggE6AgEAAkEAq7BFUpkG\n-----END TEST KEY-----\n"
)

// leaks are the forms in which a secret could show, made here and not by the program.
func leaks() map[string]string {
	b := []byte(password)
	j, _ := json.Marshal(password + "<") // a string always marshals
	return map[string]string{
		"plain":           password,
		"base64":          base64.StdEncoding.EncodeToString(b),
		"base64, inside":  base64.StdEncoding.EncodeToString([]byte("user:" + password))[8:40],
		"base64 url":      base64.RawURLEncoding.EncodeToString(b),
		"query":           url.QueryEscape(password),
		"path":            url.PathEscape(password),
		"query, lower":    strings.ToLower(url.QueryEscape(password)),
		"json":            strings.Trim(strings.TrimSuffix(string(j), `\u003c"`), `"`),
		"hex":             hex.EncodeToString(b),
		"a line of a key": "AASCAT4wggE6AgEAAkEAq7BFUpkG",
		"another":         "MIIBVAIBADANBgkqhkiG9w0BAQEF",
	}
}

// noLeak fails when a text holds a form of the secrets.
func noLeak(t *testing.T, where, text string) {
	t.Helper()
	for form, leak := range leaks() {
		if i := strings.Index(text, leak); i >= 0 {
			t.Errorf("%s holds the secret (%s): …%s…", where, form, text[max(0, i-60):min(len(text), i+len(leak)+20)])
		}
	}
}

// setSecret stores a secret as a user does.
func (w *world) setSecret(name, value string) {
	w.t.Helper()
	cmd := w.Command("secret", "set", name, "--from-file", "/dev/stdin")
	cmd.Stdin = strings.NewReader(value)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("secret set: %v\n%s", err, out)
	}
}

const loud = `#!/bin/sh
echo "plain: $PASSWORD"
echo "base64: $(printf %s "$PASSWORD" | base64 -w0)"
echo "base64 of a header: $(printf %s "user:$PASSWORD" | base64 -w0)"
echo "hex: $(printf %s "$PASSWORD" | od -An -tx1 | tr -d ' \n')"
echo "query: $(printf %s "$PASSWORD" | sed 's,/,%2F,g; s,+,%2B,g; s, ,+,g')"
echo "path: $(printf %s "$PASSWORD" | sed 's,/,%2f,g; s,+,%2b,g; s, ,%20,g')"
printf 'two writes: %.9s' "$PASSWORD"
sleep 0.5
printf '%s\n' "${PASSWORD#?????????}"
echo "stderr: $PASSWORD" >&2
echo "$KEY"
echo "token: $WAYBILL_TOKEN"
echo "harmless: c0rrect h0rse"
printf '%s\n' "PLAIN=$PASSWORD" "CONFIG=url=postgres://u:$PASSWORD@host" "SAFE=nothing" >> "$WAYBILL_OUTPUT"
printf '{"___NESTED": {"list": ["%s"]}}\n' "$PASSWORD" >> "$WAYBILL_OUTPUT"
printf 'password = %s\n' "$PASSWORD" > config.ini
`

func secretProject() map[string]string {
	return map[string]string{
		"pipelines/loud.yaml": pipeline("loud", `
steps:
  - name: work
    run: [./loud.sh]
    env: {PASSWORD: "${secret:db.password}", KEY: "${secret:tls-key}"}
    outputs: {ini: {file: config.ini}}
  - name: next
    run: ["sh", "-c", "echo got $___NESTED"]
`),
		"pipelines/held.yaml": pipeline("held", `
steps:
  - name: work
    run: [./hold.sh]
    env: {PASSWORD: "${secret:db.password}", KEY: "${secret:tls-key}"}
`),
		"pipelines/broken.yaml": pipeline("broken", `
steps:
  - name: work
    runner: sim
    with: {log_text: ["cannot reach ${secret:db.password}"], exit: 3, callback: {status: failed, error: "login with ${secret:db.password} refused", variables: {v: "${secret:db.password}"}}}
`),
		"loud.sh": loud,
	}
}

// F-A21: a secret is echoed plain, in base64, URL-encoded and split over two chunks. It
// is masked in the log, the outputs, the records and errors.
func TestFA21_SecretEchoed(t *testing.T) {
	w := serve(t, harness.Options{Project: secretProject()})
	w.setSecret("db.password", password)
	w.setSecret("tls-key", multiline)
	id := w.start("loud")
	r := w.ends(id, waybill.StatusSucceeded)

	log := w.log(id)
	noLeak(t, "the log", log)
	for _, want := range []string{"plain: ***\n", "base64: ***\n", "base64 of a header: ", "hex: ***\n", "query: ***\n", "path: ***\n", "two writes: ***\n", "stderr: ***\n", "\n***\ntoken: ***\n", "harmless: c0rrect h0rse\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not hold %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "wba_") {
		t.Errorf("the log holds the attempt's token:\n%s", log)
	}
	a := attempt(t, r, "work", 1)
	for name, want := range map[string]string{"PLAIN": "***", "CONFIG": "url=postgres://u:***@host", "SAFE": "nothing", "___NESTED": `{"list":["***"]}`} {
		if v, _ := a.Returned.Get(name); v.Text() != want {
			t.Errorf("output %s is %q, want %q", name, v.Text(), want)
		}
	}
	w.recorded(id, "output.masked", 1)
	if got := w.records(id, "output.masked"); len(got) == 1 && !strings.Contains(string(got[0].Data), `"names":["___NESTED","CONFIG","PLAIN","ini"]`) {
		t.Errorf("output.masked says %s", got[0].Data)
	}
	w.recorded(id, "attempt.secrets", 1)
	if log := w.log(id); !strings.Contains(log, `got {"list":["***"]}`) {
		t.Errorf("the next step sees something else:\n%s", log)
	}

	// What is reported, by callback and otherwise.
	id = w.start("held")
	u := w.held(id, "work", 1)
	w.post(u.verb("heartbeat"), u.token, "application/json", must(jsonText(map[string]string{"progress": "with " + password}))(t)).wants(t, "heartbeat", 200)
	w.post(u.verb("variables"), u.token, "application/json", must(jsonText(map[string]string{"___V": "is " + password}))(t)).wants(t, "variables", 204)
	for what, body := range map[string]string{
		"not JSON":     `{"variables": ` + password + `}`,
		"a bad status": must(jsonText(map[string]string{"status": password}))(t),
		"a bad name":   must(jsonText(map[string]any{"variables": map[string]int{"x": 1, password: 2}}))(t),
	} {
		a := u.complete(body)
		if a.Status < 400 {
			t.Errorf("%s: %s", what, a)
		}
		noLeak(t, "the answer to "+what, a.Body)
	}
	w.ask(http.MethodPut, "/api/v1/buckets/box/objects/config", u.token, strings.NewReader("a\n"+password+"\nb\n")).wants(t, "an object", 422, "holds the value of a secret")
	w.ask(http.MethodPut, "/api/v1/buckets/box/objects/config", u.token, strings.NewReader("harmless c0rrect h0rse")).wants(t, "a harmless object", 201)
	u.complete(must(jsonText(map[string]any{"status": "failed", "error": "no " + password, "message": multiline, "variables": map[string]string{"X": password}}))(t)).wants(t, "callback", 202)
	u.exit(1)
	failed := w.ends(id, waybill.StatusFailed)
	if failed.Error != "step work: no ***" {
		t.Errorf("the error of the run is %q", failed.Error)
	}
	broken := w.start("broken")
	w.ends(broken, waybill.StatusFailed)

	for _, id := range []string{r.ID, id, broken} {
		for _, path := range []string{"", "/logs", "/events?limit=1000"} {
			noLeak(t, path, w.ask(http.MethodGet, "/api/v1/runs/"+id+path, "", nil).Body)
		}
		w.cleaned(id)
	}
	noLeak(t, "the server's log", w.Log())
	w.scan()
}

func jsonText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// log is the log of a run.
func (w *world) log(id string) string {
	w.t.Helper()
	return w.ask(http.MethodGet, "/api/v1/runs/"+id+"/logs", "", nil).Body
}

// scan looks at every byte that the server has stored.
func (w *world) scan() {
	w.t.Helper()
	files := 0
	for _, dir := range []string{w.DataDir(), w.BlobsDir()} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // it went away meanwhile, or is a socket
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			files++
			noLeak(w.t, path, string(b))
			if bytes.Contains(b, []byte("AGE-SECRET-KEY")) {
				if st, err := d.Info(); err != nil || filepath.Base(path) != "secret-key" || st.Mode().Perm() != 0o600 {
					w.t.Errorf("%s holds the key", path)
				}
			}
			return nil
		})
		if err != nil {
			w.t.Error(err)
		}
	}
	if files < 8 {
		w.t.Errorf("only %d files were looked at", files)
	}
}

// I6: no secret value in any stored byte outside of the secret store, nor in the
// arguments of a process of ours. It is looked at while units run, after a kill -9 in
// the middle, and after all is over.
func TestI6_NoSecretIsStored(t *testing.T) {
	w := serve(t, harness.Options{Project: secretProject()})
	w.setSecret("db.password", "an earlier value")
	w.setSecret("db.password", password)
	w.setSecret("tls-key", multiline)
	id, loudID := w.start("held"), w.start("loud")
	u := w.held(id, "work", 1)

	processes := func(when string) {
		t.Helper()
		seen := 0
		for _, p := range w.Processes() {
			noLeak(t, when+": the arguments of "+p.String(), strings.Join(p.Args, " "))
			if strings.Contains(strings.Join(p.Args, " "), u.token) {
				t.Errorf("%s: the token is in the arguments of %s", when, p)
			}
			if p.Unit != "" {
				continue // a unit has its environment, which nobody else may read
			}
			seen++
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID)); err == nil {
				noLeak(t, when+": the environment of "+p.String(), string(b))
			}
		}
		if seen < 2 {
			t.Errorf("%s: %d processes of ours were looked at", when, seen)
		}
	}
	w.ends(loudID, waybill.StatusSucceeded)
	w.cleaned(loudID)
	processes("while a unit runs")
	w.scan()

	w.Kill()
	w.scan()
	w.Start()
	// Its attempt is adopted; what it was given is known again.
	w.post(u.verb("variables"), u.token, "application/json", must(jsonText(map[string]string{"___V": "is " + password}))(t)).wants(t, "variables", 204)
	u.complete(must(jsonText(map[string]any{"variables": map[string]string{"X": "an earlier value or " + password}}))(t)).wants(t, "callback", 202)
	u.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if got := variable(r, "___V"); got != "is ***" {
		t.Errorf("___V is %q", got)
	}
	if v, _ := attempt(t, r, "work", 1).Returned.Get("X"); v.Text() != "*** or ***" {
		t.Errorf("X is %q", v.Text())
	}
	w.cleaned(id)
	processes("after all")
	w.scan()
	w.Stop()
	w.scan()

	// Nothing of the command line reads a value back, and the audit log has names only.
	w.Start()
	audit := must(w.Client().Audit(w.ctx, client.ListAuditRecordsParams{Limit: 1000}))(t)
	var used, set int
	for _, rec := range audit.Items {
		text := must(json.Marshal(rec))(t)
		noLeak(t, "the audit log", string(text))
		switch rec.Kind {
		case "secret.use":
			used++
		case "secret.set":
			set++
		}
	}
	if set != 3 || used != 4 {
		t.Errorf("the audit log tells of %d values set and %d used, want 3 and 4", set, used)
	}
}

// A secret that nobody has fails the attempt, naming file, line and secret.
func TestSecretUnknown(t *testing.T) {
	w := serve(t, harness.Options{Project: secretProject()})
	w.setSecret("tls-key", multiline)
	id := w.start("held")
	r := w.ends(id, waybill.StatusFailed)
	a := attempt(t, r, "work", 1)
	if a.Reason != "secret" || !strings.Contains(a.Error, "held.yaml:6:22: there is no secret db.password (looked for in store, env, file)") {
		t.Errorf("the attempt failed for %q: %q", a.Reason, a.Error)
	}
	bad := w.ask(http.MethodPost, "/api/v1/pipelines/validate", "", strings.NewReader(strings.Replace(w.source("held"), "name: held", "name: other", 1)), "Content-Type", "application/yaml")
	bad.wants(t, "validating", 422, "there is no secret db.password")
	w.setSecret("db.password", password)
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	if _, err := w.Client().ValidatePipeline(ctx, []byte(w.source("loud"))); err != nil {
		t.Errorf("with all its secrets: %v", err)
	}
}

// source is the YAML of a pipeline.
func (w *world) source(name string) string {
	w.t.Helper()
	return must(w.Client().Pipeline(w.ctx, name, 0))(w.t).Source
}

// Servers that share a store and a key: what one has set the other hands out, and a
// report that comes in at one for a unit of the other is masked. A server with another
// key says so and changes nothing.
func TestSecretsOfSharedStore(t *testing.T) {
	key := must(age.GenerateX25519Identity())(t)
	one := serve(t, harness.Options{Store: "postgres", Project: secretProject(), Env: []string{"WAYBILL_SECRET_KEY=" + key.String()}})
	two := wrap(t, one.Sibling())
	two.setSecret("db.password", password)
	one.setSecret("tls-key", multiline)
	id := one.start("held")
	u := one.held(id, "work", 1)
	path := u.callback[strings.Index(u.callback, "/api/"):]
	body := must(jsonText(map[string]string{"___V": "is " + password}))(t)
	for _, w := range []*world{one, two} {
		w.post(strings.TrimSuffix(path, "callback")+"variables", u.token, "application/json", body).wants(t, "variables", 204)
	}
	two.post(path, u.token, "application/json", must(jsonText(map[string]any{"variables": map[string]string{"X": password}}))(t)).wants(t, "callback", 202)
	u.exit(0)
	r := one.ends(id, waybill.StatusSucceeded)
	if x, _ := attempt(t, r, "work", 1).Returned.Get("X"); x.Text() != "***" || variable(r, "___V") != "is ***" {
		t.Errorf("X is %q and ___V %q", x.Text(), variable(r, "___V"))
	}
	one.cleaned(id)
	for _, w := range []*world{one, two} {
		noLeak(t, "the server's log", w.Log())
	}
	noLeak(t, "the store", one.rows())

	other := must(age.GenerateX25519Identity())(t)
	two.Stop()
	if err := two.Launch("WAYBILL_SECRET_KEY=" + other.String()); err != nil {
		t.Fatal(err)
	}
	if err := two.Healthy(); err != nil {
		t.Fatal(err)
	}
	a := two.ask(http.MethodPut, "/api/v1/secrets/db.password", "", strings.NewReader(`{"value":"another one"}`), "Content-Type", "application/json")
	a.wants(t, "setting with another key", 409, key.Recipient().String(), other.Recipient().String(), "--secret-key-file")
	if !strings.Contains(two.Log(), "secrets of the store cannot be used") {
		t.Error("the server does not say that its key does not fit")
	}
	list := must(one.Client().Secrets(one.ctx))(t)
	if len(list.Items) != 2 || list.Items[0].Version != 1 {
		t.Errorf("secrets are %+v", list.Items)
	}
}

// rows is everything that the tables of a PostgreSQL store hold, as text.
func (w *world) rows() string {
	w.t.Helper()
	db := must(pgx.Connect(w.ctx, w.Store()))(w.t)
	defer db.Close(w.ctx)
	tables := must(pgx.CollectRows(must(db.Query(w.ctx, "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()"))(w.t), pgx.RowTo[string]))(w.t)
	var b strings.Builder
	for _, name := range tables {
		for _, row := range must(pgx.CollectRows(must(db.Query(w.ctx, "SELECT x::text FROM "+name+" x"))(w.t), pgx.RowTo[string]))(w.t) {
			b.WriteString(row + "\n")
			// Bytes are shown in hexadecimal.
			for _, field := range strings.Split(row, "\\x")[1:] {
				end := strings.IndexFunc(field, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) })
				if end < 0 {
					end = len(field)
				}
				if raw, err := hex.DecodeString(field[:end]); err == nil {
					b.Write(raw)
					b.WriteByte('\n')
				}
			}
		}
	}
	if !strings.Contains(b.String(), "db.password") || len(tables) < 5 {
		w.t.Fatalf("the store cannot be looked at: %v", tables)
	}
	return b.String()
}
