//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// relay is a held step, and one after it that notes each of its starts with the
// variable it was given.
func relay(name, step string) map[string]string {
	return map[string]string{
		"pipelines/" + name + ".yaml": pipeline(name, `
steps:
  - {name: work, run: [./hold.sh]`+step+`}
  - {name: next, run: [./note.sh]}
`),
		"note.sh": "#!/bin/sh\necho \"$___X\" >> {{dir}}/noted.$WAYBILL_RUN\n",
	}
}

// noted is what the step after the held one wrote.
func (w *world) noted(id string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.path("noted", id))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(b)
}

// Of equal callbacks one counts, however many come at once.
func TestFA05_SameCallbackAgain(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", ", callback: required")})
	id := w.start("relay")
	u := w.held(id, "work", 1)
	const body = `{"status":"succeeded","variables":{"___X":"first"}}`
	statuses := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a, err := w.try(http.MethodPost, u.callback, u.token, strings.NewReader(body), "Content-Type", "application/json")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			statuses[a.Status]++
		})
	}
	wg.Wait()
	if statuses[202] != 1 || statuses[200] != 49 {
		t.Errorf("answers by status: %v, want 1 of 202 and 49 of 200", statuses)
	}
	u.complete(body).wants(t, "once more, by itself", 200)
	u.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if got := w.noted(id); got != "first\n" {
		t.Errorf("the step after it noted %q, want one start", got)
	}
	if attempts(r, "next") != 1 {
		t.Errorf("the step after it has %d attempts", attempts(r, "next"))
	}
	w.recorded(id, "attempt.callback", 1)
	w.recorded(id, "step.started", 2)
	u.complete(body).wants(t, "after the end", 410)
}

// A second callback that says something else is refused and noted.
func TestFA06_OtherCallback(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", "")})
	id := w.start("relay")
	u := w.held(id, "work", 1)
	u.complete(`{"variables":{"___X":"first"}}`).wants(t, "the first", 202)
	u.complete(`{"variables":{"___X":"second","___Y":1}}`).wants(t, "another", 409, "another callback was accepted before")
	u.complete(`{"status":"failed","error":"changed my mind"}`).wants(t, "a third", 409)
	w.post(u.verb("variables"), u.token, "application/json", `{"___X":"third"}`).wants(t, "variables after it", 409)
	w.recorded(id, "attempt.callback_refused", 1)
	u.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if got := w.noted(id) + variable(r, "___Y"); got != "first\n" {
		t.Errorf("the step after it saw %q, want the first values", got)
	}
}

// A callback after the time-out finds its attempt closed, and the one that runs
// instead does not notice.
func TestFA07_CallbackAfterTimeout(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", ", timeout: 5s, retry: {max: 1, backoff: 10ms}")})
	id := w.start("relay")
	late := w.held(id, "work", 1)
	u := w.held(id, "work", 2)
	late.complete(`{"variables":{"___X":"late","___LATE":1}}`).wants(t, "late", 410, "attempt 1 of step work has ended as timed_out")
	w.post(late.verb("variables"), late.token, "application/json", `{"___LATE":1}`).wants(t, "late variables", 410)
	w.post(late.verb("heartbeat"), late.token, "application/json", `{}`).wants(t, "late heartbeat", 410)
	u.complete(`{"variables":{"___X":"in time"}}`).wants(t, "in time", 202)
	u.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if got := w.noted(id) + variable(r, "___LATE"); got != "in time\n" {
		t.Errorf("the step after it saw %q", got)
	}
	if a := attempt(t, r, "work", 1); a.Status != waybill.StatusTimedOut || a.Callback.Status != "" {
		t.Errorf("attempt 1 is %s with callback %+v", a.Status, a.Callback)
	}
	w.recorded(id, "attempt.late_callback", 1)
}

// The time-out closes an attempt while its unit still takes its time to end: what
// it reports then is not accepted first and thrown away later.
func TestFA07_CallbackDuringStop(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/deaf.yaml": pipeline("deaf", "steps: [{name: work, run: [./deaf.sh], timeout: 2s}]\n"),
		"deaf.sh":             "#!/bin/sh\ntrap 'touch {{dir}}/asked' TERM\n" + strings.TrimPrefix(hold, "#!/bin/sh\n"),
	}})
	id := w.start("deaf")
	u := w.held(id, "work", 1)
	harness.Until(t, soon, "the unit is asked to end", func() error {
		_, err := os.Stat(w.path("asked"))
		return err
	})
	a := u.complete(`{"variables":{"___X":"late"}}`)
	u.exit(0)
	harness.Until(t, soon, "the run ends", func() error {
		if s := w.run(id).Status; !s.Terminal() {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	r := w.run(id)
	switch {
	case a.Status == 202 && r.Status == waybill.StatusSucceeded && variable(r, "___X") == "late":
	case a.Status == 410 && r.Status == waybill.StatusTimedOut && variable(r, "___X") == "":
		w.recorded(id, "attempt.late_callback", 1)
	default:
		t.Errorf("answer %v, and the run ended as %s with %q", a, r.Status, variable(r, "___X"))
	}
}

// An attempt's token opens nothing once another attempt runs.
func TestFA08_FirstAttemptCallsDuringSecond(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", ", retry: {max: 1, backoff: 10ms}")})
	id := w.start("relay")
	first := w.held(id, "work", 1)
	first.exit(9)
	second := w.held(id, "work", 2)
	const body = `{"variables":{"___X":"from the first"}}`
	first.complete(body).wants(t, "token 1 at attempt 1", 410)
	w.post(second.callback, first.token, "application/json", body).wants(t, "token 1 at attempt 2", 410)
	w.post(first.callback, second.token, "application/json", body).wants(t, "token 2 at attempt 1", 403, "another attempt")
	second.complete(`{"variables":{"___X":"from the second"}}`).wants(t, "token 2 at attempt 2", 202)
	second.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if got := w.noted(id); got != "from the second\n" {
		t.Errorf("the step after it saw %q", got)
	}
	if a := attempt(t, r, "work", 1); a.Status != waybill.StatusFailed || a.Returned.Len() > 0 {
		t.Errorf("attempt 1 is %s and returned %v", a.Status, a.Returned.Names())
	}
	w.recorded(id, "attempt.late_callback", 1)
}

// While the server is away units work, call back and end; none is held to a
// time in which nobody could hear it, and none lives for ever for it.
func TestFA11_ServerAwayBeyondTimeout(t *testing.T) {
	curl := "true"
	if _, err := exec.LookPath("curl"); err == nil {
		curl = `curl -sS --fail --retry 60 --retry-delay 1 --retry-connrefused -d '{"___X":"by curl"}' "$___NextStageFunctionUrl"`
	} else if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
		t.Fatal(err)
	}
	const wait = "#!/bin/sh\ntouch {{dir}}/up.$WAYBILL_STEP\nwhile [ ! -e {{dir}}/down ]; do sleep 0.05; done\n"
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/away.yaml": pipeline("away", `
defaults: {timeout: 6s}
steps:
  - {name: calls, needs: [], run: [./calls.sh], callback: required}
  - {name: curls, needs: [], run: [./curls.sh]}
  - {name: ends, needs: [], run: [./ends.sh]}
`),
		"pipelines/forever.yaml": pipeline("forever", "steps: [{name: forever, run: [./forever.sh], timeout: 6s}]\n"),
		"calls.sh":               wait + "touch {{dir}}/calling\nwaybill callback complete ___CALLED=yes\n",
		"curls.sh":               wait + curl + "\n",
		"ends.sh":                wait + "echo ___ENDED=yes >> $WAYBILL_OUTPUT\ntouch {{dir}}/ended\n",
		"forever.sh":             "#!/bin/sh\ntouch {{dir}}/up.forever\nwhile :; do sleep 0.1; done\n",
	}})
	id, forever := w.start("away"), w.start("forever")
	for _, step := range []string{"calls", "curls", "ends", "forever"} {
		harness.Until(t, soon, "unit of "+step+" runs", func() error {
			_, err := os.Stat(w.path("up", step))
			return err
		})
	}
	var deadline time.Time
	running := func(a client.Attempt) bool { return a.Phase == waybill.PhaseRunning }
	for _, a := range []client.Attempt{
		w.reaches(id, "calls", 1, "runs", running), w.reaches(id, "curls", 1, "runs", running),
		w.reaches(id, "ends", 1, "runs", running), w.reaches(forever, "forever", 1, "runs", running),
	} {
		if a.Deadline.After(deadline) {
			deadline = a.Deadline
		}
	}
	w.Kill()
	w.write(w.path("down"), "")
	for _, name := range []string{"calling", "ended"} {
		harness.Until(t, soon, name, func() error {
			_, err := os.Stat(w.path(name))
			return err
		})
	}
	harness.Until(t, soon, "all timeouts have passed", func() error {
		if left := time.Until(deadline.Add(2 * time.Second)); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	back := time.Now()
	w.Start()
	r := w.ends(id, waybill.StatusSucceeded)
	if variable(r, "___CALLED") != "yes" || variable(r, "___ENDED") != "yes" || curl != "true" && variable(r, "___X") != "by curl" {
		t.Errorf("the variables are %v", r.Vars.Names())
	}
	for _, a := range r.Attempts {
		if a.Number != 1 || a.Status != waybill.StatusSucceeded {
			t.Errorf("step %s: attempt %d is %s (%s)", a.Step, a.Number, a.Status, a.Error)
		}
	}
	r = w.ends(forever, waybill.StatusTimedOut)
	if len(r.Attempts) != 1 || r.FinishedAt.Sub(back) > 20*time.Second {
		t.Errorf("the unit without end had %d attempts and ended %v after the server was back", len(r.Attempts), r.FinishedAt.Sub(back))
	}
	w.recorded(forever, "attempt.adopted", 1)
	w.cleaned(id)
	w.cleaned(forever)
}

// What a unit returns is checked by name and size, whichever way it comes.
func TestFA22_VariableNamesAndSizes(t *testing.T) {
	files := relay("relay", "")
	files["pipelines/chain.yaml"] = pipeline("chain", `
steps:
  - {name: work, run: [./hold.sh]}
  - {name: next, run: [./look.sh]}
`)
	files["look.sh"] = "#!/bin/sh\ncase $___BIG in $PWD.in/*) ;; *) echo \"a copy at $___BIG?\"; exit 1;; esac\nwc -c < $___BIG\nmd5sum < $___BIG\n[ \"$___small\" = s ]\n"
	files["pipelines/file.yaml"] = pipeline("file", "steps: [{name: work, run: [./output.sh]}]\n")
	files["output.sh"] = "#!/bin/sh\ncat {{dir}}/output.$(basename $___WHICH) > $WAYBILL_OUTPUT\n"
	w := serve(t, harness.Options{Project: files})

	big := strings.Repeat("a2 ", 40<<10/3)
	huge := `"` + strings.Repeat("x", 2<<20) + `"`
	const limit = "1048576"
	bad := []struct {
		name, vars string
		status     int
		words      string
	}{
		{"names that differ in case", `{"___Name":1,"___nAME":2}`, 422, "different case"},
		{"a name twice", `{"___N":1,"___N":2}`, 422, "twice"},
		{"a name with =", `{"___A=B":1}`, 422, `"___A=B"`},
		{"a name with a line break", `{"___A\nPATH":1}`, 422, `"___A\nPATH"`},
		{"a name with a NUL", `{"___A\u0000":1}`, 422, `"___A\x00"`},
		{"a name that is empty", `{"___A":1,"":2}`, 422, ""},
		{"a long name", `{"___` + strings.Repeat("A", 200) + `":1}`, 422, "128"},
		{"two megabytes", `{"___BIG":` + huge + `}`, 413, limit},
	}
	id := w.start("chain")
	u := w.held(id, "work", 1)
	for _, x := range bad {
		a := w.post("/api/v1/pipelines/chain/runs", "", "application/json", `{"vars":`+x.vars+`}`)
		if x.name == "a name twice" && a.Status == 400 {
			a.Status = 422 // strange JSON of a start is called malformed
		}
		a.wants(t, "start with "+x.name, x.status, x.words)
		u.complete(`{"variables":`+x.vars+`}`).wants(t, "callback with "+x.name, x.status, x.words)
		if x.name != "a name that is empty" { // it does not begin with the prefix, so it is none
			u.complete(x.vars).wants(t, "classic callback with "+x.name, x.status, x.words)
		}
		a = w.post(u.verb("variables"), u.token, "application/json", x.vars)
		if x.name == "a name twice" && a.Status == 400 {
			a.Status = 422
		}
		a.wants(t, "variables with "+x.name, x.status, x.words)
	}
	// Neither do many small sets add up to more than the limit.
	part := strings.Repeat("y", 300<<10)
	parts := 0
	for ; parts < 4; parts++ {
		a := w.post(u.verb("variables"), u.token, "application/json", fmt.Sprintf(`{"P%d":%q}`, parts, part+fmt.Sprint(parts)))
		if a.Status == 413 {
			a.wants(t, "the sum", 413, limit)
			break
		}
		a.wants(t, "a part", 204)
	}
	// Nothing of all that was taken, and the attempt is open still.
	if n := len(w.runs("chain")); n != 1 {
		t.Errorf("there are %d runs, want the one", n)
	}
	w.recorded(id, "attempt.callback", 0)
	u.complete(`{"variables":{"___BIG":`+string(waybill.StringValue(big))+`,"___small":"s"}}`).wants(t, "a good callback", 202)
	u.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	v, _ := r.Vars.Get("___BIG")
	if f, ok := v.File(); !ok || f.Size != int64(len(big)) || len(v) > 300 {
		t.Errorf("the value of 40 KiB is kept as %.300s, want a reference", v)
	}
	if v, _ := r.Vars.Get("___SMALL"); v.Text() != "s" {
		t.Errorf("the small value is %s", v)
	}
	log := w.ask(http.MethodGet, "/api/v1/runs/"+id+"/logs?step=next", "", nil)
	if !strings.HasPrefix(log.Body, fmt.Sprintln(len(big))) {
		t.Errorf("the next step says %q, want the size of its local copy", log.Body)
	}

	for name, x := range map[string]struct{ text, words string }{
		"case":    {`{"Name":1,"nAME":2}`, "different case"},
		"equals":  {`{"A=B":1}`, "A=B"},
		"empty":   {"=1", "empty name"},
		"nothing": {"just words", "NAME=value"},
		"big":     {"BIG=" + strings.Repeat("x", 2<<20), limit},
	} {
		w.write(w.path("output", name), x.text+"\n")
		r := w.ends(w.start("file", "___WHICH="+name), waybill.StatusFailed)
		a := attempt(t, r, "work", 1)
		if a.Reason != "bad_output" || !strings.Contains(a.Error, x.words) {
			t.Errorf("output file %s: reason %q (%s), want bad_output and %q", name, a.Reason, a.Error, x.words)
		}
	}
}

// audited counts records of the audit log by what they say.
func (w *world) audited(f func(action, subject, result string) bool) (n int) {
	w.t.Helper()
	cursor := ""
	for {
		l := must(w.Client().Audit(w.ctx, client.ListAuditRecordsParams{Limit: 1000, Cursor: cursor}))(w.t)
		for _, r := range l.Items {
			var d struct{ Action, Subject, Result string }
			if json.Unmarshal(r.Data, &d) == nil && f(d.Action, d.Subject, d.Result) {
				n++
			}
		}
		if l.NextCursor == nil {
			return n
		}
		cursor = *l.NextCursor
	}
}

// Whoever guesses tokens is refused, soon has to wait, is noted, and changes nothing.
func TestFA23_GuessedTokens(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", "")})
	id, other := w.start("relay"), w.start("relay")
	u, o := w.held(id, "work", 1), w.held(other, "work", 1)
	w.post(u.verb("heartbeat"), u.token, "application/json", `{}`).wants(t, "an honest heartbeat", 200)

	const body = `{"variables":{"___X":"evil"}}`
	w.post(u.callback, "", "application/json", body).wants(t, "no token", 401)
	w.post(u.callback, o.token, "application/json", body).wants(t, "another run's token", 403)
	w.post(u.callback, "wbt_nonsense", "application/json", body).wants(t, "no API token", 401)
	w.ask(http.MethodGet, "/api/v1/runs/"+id, u.token, nil).wants(t, "a unit's token elsewhere", 403)

	// The last character of a token may hold bits that do not count; the one before does not.
	at := len(u.token) - 2
	statuses := map[int]int{}
	for i := range 1000 {
		guess := fmt.Sprintf("%s%04d%s", u.token[:at-4], i, u.token[at:])
		if guess == u.token {
			continue
		}
		a := w.post(u.callback, guess, "application/json", body)
		statuses[a.Status]++
		if a.Status == 429 && a.Header.Get("Retry-After") == "" {
			t.Fatal("429 without Retry-After")
		}
	}
	if statuses[401] == 0 || statuses[429] < 900 || statuses[401]+statuses[429] < 999 {
		t.Errorf("answers to guesses by status: %v, want a few 401 and then 429", statuses)
	}
	refusals := w.audited(func(action, subject, result string) bool {
		return action == "auth.refused" && subject == "completeAttempt" && result == "unauthorized"
	})
	if want := statuses[401] + 2; refusals != want {
		t.Errorf("the audit log has %d refusals, want %d", refusals, want)
	}
	if n := w.audited(func(action, _, result string) bool { return action == "attempt.complete" && result == "forbidden" }); n != 1 {
		t.Errorf("the audit log has %d uses of another attempt's token, want 1", n)
	}
	if a := attempt(t, w.run(id), "work", 1); a.Status != waybill.StatusRunning || a.Callback.Status != "" || a.Returned.Len() > 0 {
		t.Errorf("the attempt is %s, callback %+v", a.Status, a.Callback)
	}
	w.recorded(id, "attempt.callback", 0)
	// The unit itself, which shares the address, goes on to work.
	u.complete(`{"variables":{"___X":"good"}}`).wants(t, "the right token", 202)
	u.exit(0)
	o.exit(0)
	w.ends(id, waybill.StatusSucceeded)
	if got := w.noted(id); got != "good\n" {
		t.Errorf("the step after it saw %q", got)
	}
}

// The token of an attempt that has ended is worth nothing to whom it was stolen by.
func TestFA24_StolenTokenOfFinishedAttempt(t *testing.T) {
	files := relay("relay", "")
	files["pipelines/thief.yaml"] = pipeline("thief", "steps: [{name: steal, run: [./steal.sh]}]\n")
	files["steal.sh"] = `#!/bin/sh
read callback token < {{dir}}/stolen
WAYBILL_CALLBACK=$callback WAYBILL_TOKEN=$token waybill callback complete ___X=evil && exit 1
WAYBILL_CALLBACK=$callback WAYBILL_TOKEN=$token waybill callback set ___X=evil && exit 1
WAYBILL_TOKEN=$token waybill callback complete ___X=evil && exit 1
WAYBILL_API_TOKEN=$token waybill object put inbox evil.txt {{dir}}/stolen && exit 1
exit 0
`
	w := serve(t, harness.Options{Project: files})
	id := w.start("relay")
	u := w.held(id, "work", 1)
	u.complete(`{"variables":{"___X":"good"}}`).wants(t, "the owner", 202)
	u.exit(0)
	w.ends(id, waybill.StatusSucceeded)

	w.write(w.path("stolen"), u.callback+" "+u.token+"\n")
	thief := w.start("thief")
	r := w.ends(thief, waybill.StatusSucceeded)
	if variable(r, "___X") != "" || variable(w.run(id), "___X") != "good" {
		t.Errorf("the variables are %q and %q", variable(r, "___X"), variable(w.run(id), "___X"))
	}
	u.complete(`{"variables":{"___X":"good"}}`).wants(t, "by HTTP", 410, "has ended as succeeded")
	if n := w.audited(func(action, subject, result string) bool {
		return action == "auth.refused" && subject == "completeAttempt" && result == "gone"
	}); n != 3 {
		t.Errorf("the audit log has %d callbacks to what is gone, want 3", n)
	}
	w.recorded(id, "attempt.late_callback", 1)
	if l := must(w.Client().Buckets(w.ctx))(t); len(l.Items) != 0 {
		t.Errorf("buckets: %v", l.Items)
	}
}

// cpu is the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	var user, system int64
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // the kernel counts hundredths of a second
}

// A body that is made to be hard to read is refused for little.
func TestFA25_HostileBodies(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", "")})
	id := w.start("relay")
	u := w.held(id, "work", 1)
	const size = 1 << 20
	fill := func(head, part, tail string) string {
		return head + strings.Repeat(part, (size-len(head)-len(tail)-1)/len(part)) + tail
	}
	var names, twice strings.Builder
	for i := 0; names.Len() < size-100; i++ {
		fmt.Fprintf(&names, `"___%d":%d,`, i, i)
	}
	for i := 0; twice.Len() < size-100; i++ {
		fmt.Fprintf(&twice, `"___%d":1,`, i%19000)
	}
	var most time.Duration
	for name, x := range map[string]struct {
		body   string
		status []int
	}{
		"deep lists":          {fill("", "[", ""), []int{422}},
		"deep objects":        {fill("", `{"a":`, ""), []int{422}},
		"deep in variables":   {fill(`{"variables":{"___X":`, "[", ""), []int{422}},
		"deep and closed":     {`{"___X":` + strings.Repeat("[", size/2-10) + strings.Repeat("]", size/2-10) + `}`, []int{422}},
		"a huge name":         {`{"___` + strings.Repeat("A", size-20) + `":1}`, []int{422}},
		"many names":          {"{" + names.String() + `"___":1}`, []int{422}},
		"names twice":         {"{" + twice.String() + `"___":1}`, []int{422}},
		"an escaped twin":     {`{"variables":{"___X":1,"\u005f__X":2}}`, []int{422}},
		"status twice":        {`{"status":"succeeded","status":"failed"}`, []int{422}},
		"long numbers":        {fill(`{"status":`, "9", `}`), []int{422}},
		"broken escapes":      {fill(`{"`, `\u00`, `":1}`), []int{400, 422}},
		"not UTF-8":           {fill(`{"message":"`, "\xff", `"}`), []int{400, 422}},
		"an open string":      {fill(`{"___X":"`, "x", ``), []int{400, 422}},
		"only white space":    {fill("{", " \n\t", "]"), []int{400, 422}},
		"two bodies":          {fill(`{"___X":1}`, `{"___X":1}`, ""), []int{400, 422}},
		"a form of nothing":   {fill("", "&", ""), []int{400, 422}},
		"a form of escapes":   {fill("___X=", "%", ""), []int{400, 422}},
		"more than a million": {strings.Repeat("a", size+1), []int{413}},
		"ten millions":        {`{"___X":"` + strings.Repeat("a", 10<<20) + `"}`, []int{413}},
	} {
		kind := "application/json"
		if strings.HasPrefix(name, "a form") {
			kind = "application/x-www-form-urlencoded"
		}
		// A busy machine makes everything cost more, so the cheapest of some series counts.
		used := time.Hour
		var a answer
		for range 4 {
			const times = 5
			before := cpu(t, w.PID())
			for range times {
				var err error
				a, err = w.try(http.MethodPost, u.callback, u.token, strings.NewReader(x.body), "Content-Type", kind)
				if err != nil {
					// The server may hang up on what it does not want to read.
					if strings.HasPrefix(name, "ten") {
						a.Status = 413
						continue
					}
					t.Fatal(err)
				}
			}
			if used = min(used, (cpu(t, w.PID())-before)/times); used <= cpuLimit/2 {
				break
			}
		}
		most = max(most, used)
		ok := false
		for _, s := range x.status {
			ok = ok || a.Status == s
		}
		if !ok {
			t.Errorf("%s: answer %v, want one of %v", name, a, x.status)
		}
		if a.Status != 413 && len(a.Body) > 4000 {
			t.Errorf("%s: the answer has %d bytes", name, len(a.Body))
		}
		if used > cpuLimit {
			t.Errorf("%s: a request takes %v of processor time, want at most %v", name, used, cpuLimit)
		}
	}
	t.Logf("a request took at most %v of processor time", most)
	w.recorded(id, "attempt.callback", 0)
	u.complete(`{"variables":{"___X":"good"}}`).wants(t, "a good one", 202)
	u.exit(0)
	w.ends(id, waybill.StatusSucceeded)
}
