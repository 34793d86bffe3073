//go:build linux

package faults

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// A unit that owes a callback and ends well without one has failed.
func TestFA01_NoCallback(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"waybill.yaml": "callback: {grace: 1s}\n",
		"pipelines/owes.yaml": pipeline("owes", `
steps:
  - {name: tell, run: [./tell.sh], callback: required, retry: {max: 1, backoff: 10ms}}
`),
		"tell.sh": "#!/bin/sh\necho \"attempt $WAYBILL_ATTEMPT was here\"\n[ $WAYBILL_ATTEMPT = 1 ] || waybill callback complete ___TOLD=yes\n",
	}})
	id := w.start("owes")
	r := w.ends(id, waybill.StatusSucceeded)
	a := attempt(t, r, "tell", 1)
	if a.Status != waybill.StatusFailed || a.Reason != "no_callback" || a.ExitCode == nil || *a.ExitCode != 0 {
		t.Errorf("attempt 1 is %s, reason %q, exit code %v; want failed, no_callback, 0", a.Status, a.Reason, a.ExitCode)
	}
	exited := w.records(id, "attempt.collecting")[0].At
	if late := a.FinishedAt.Sub(exited); late < time.Second || late > 2*time.Second {
		t.Errorf("attempt 1 ended %v after its unit, want the grace of 1 s and at most one more", late)
	}
	if got := variable(r, "___TOLD"); got != "yes" || attempts(r, "tell") != 2 {
		t.Errorf("the retry told %q with %d attempts, want yes with 2", got, attempts(r, "tell"))
	}
	w.cleaned(id)
	got := w.ask(http.MethodGet, "/api/v1/runs/"+id+"/logs?step=tell&attempt=1", "", nil)
	if got.Body != "attempt 1 was here\n" {
		t.Errorf("the log of attempt 1 is %v", got)
	}
}

// A unit that breaks before it calls back is tried again as another unit with
// another token.
func TestFA02_CrashBeforeCallback(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/exits.yaml": pipeline("exits", `
steps: [{name: work, run: [./break.sh, exit], retry: {max: 1, backoff: 10ms}}]
`),
		"pipelines/dies.yaml": pipeline("dies", `
steps: [{name: work, run: [./break.sh, die], retry: {max: 1, backoff: 10ms}}]
`),
		"break.sh": `#!/bin/sh
echo "$WAYBILL_TOKEN" > {{dir}}/token.$WAYBILL_RUN.$WAYBILL_ATTEMPT
[ $WAYBILL_ATTEMPT = 1 ] || exit 0
seq 1 3000
echo "the last words" >&2
[ $1 = exit ] && exit 137
kill -9 $$
`,
	}})
	exits, dies := w.start("exits"), w.start("dies")
	for _, id := range []string{exits, dies} {
		r := w.ends(id, waybill.StatusSucceeded)
		one, two := attempt(t, r, "work", 1), attempt(t, r, "work", 2)
		if one.Status != waybill.StatusFailed || one.Error == "" {
			t.Errorf("attempt 1 of %s is %s (%s), want failed and why", r.Pipeline, one.Status, one.Error)
		}
		if id == exits && (one.ExitCode == nil || *one.ExitCode != 137 || one.Signal != "") {
			t.Errorf("exit code %v, signal %q; want 137", one.ExitCode, one.Signal)
		}
		if id == dies && one.Signal != "SIGKILL" {
			t.Errorf("exit code %v, signal %q; want SIGKILL", one.ExitCode, one.Signal)
		}
		if !strings.HasSuffix(one.LogTail, "\n2999\n3000\nthe last words") || len(one.LogTail) > 2000 {
			t.Errorf("the end of the log is %q", one.LogTail)
		}
		if one.Unit == two.Unit {
			t.Errorf("both attempts are unit %s", one.Unit)
		}
		tokens := map[string]bool{}
		for n := 1; n <= 2; n++ {
			b, err := os.ReadFile(w.path("token", id, n))
			if err != nil {
				t.Fatal(err)
			}
			tokens[string(b)] = true
		}
		if len(tokens) != 2 {
			t.Error("both attempts have the same token")
		}
		w.cleaned(id)
	}
}

// stubborn is a unit of several processes that all ignore TERM; the first notes
// when it gets one.
const stubborn = `#!/bin/sh
trap 'date +%s.%N > {{dir}}/term.$WAYBILL_RUN' TERM
( trap '' TERM; while :; do sleep 1; done ) &
echo $$ > {{dir}}/main.$WAYBILL_RUN
while :; do sleep 0.1; done
`

// A unit that gives no sign of life is ended, with all it started, and one that
// does is left alone.
func TestFA03_HangsWithoutHeartbeat(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/silent.yaml": pipeline("silent", "steps: [{name: work, run: [./stubborn.sh], timeout: 5m, heartbeat: 2s}]\n"),
		"pipelines/lively.yaml": pipeline("lively", "steps: [{name: work, run: [./lively.sh], timeout: 5m, heartbeat: 5s}]\n"),
		"stubborn.sh":           stubborn,
		"lively.sh":             "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do waybill callback heartbeat \"part $i\" >&2 || exit 1; sleep 1; done\n",
	}})
	silent, lively := w.start("silent"), w.start("lively")
	r := w.ends(silent, waybill.StatusTimedOut)
	a := attempt(t, r, "work", 1)
	if a.Status != waybill.StatusTimedOut || a.Reason != "heartbeat" || !strings.Contains(a.Error, "heartbeat for 2s") {
		t.Errorf("the attempt is %s, reason %q (%s)", a.Status, a.Reason, a.Error)
	}
	term := w.when(w.path("term", silent))
	if after := term.Sub(a.StartedAt); after < 2*time.Second || after > 6*time.Second {
		t.Errorf("TERM came %v after the start, want after the limit of 2 s", after)
	}
	if grace := a.FinishedAt.Sub(term); grace < 9*time.Second || grace > 14*time.Second {
		t.Errorf("the unit was gone %v after TERM, want after the grace of 10 s", grace)
	}
	w.cleaned(silent)

	r = w.ends(lively, waybill.StatusSucceeded)
	if a := attempt(t, r, "work", 1); a.Progress == "" || a.FinishedAt.Sub(a.StartedAt) < 7*time.Second {
		t.Errorf("the lively attempt: progress %q, from %v to %v", a.Progress, a.StartedAt, a.FinishedAt)
	}
	w.cleaned(lively)
}

// when reads an instant that date wrote.
func (w *world) when(path string) time.Time {
	w.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return time.UnixMilli(int64(f * 1000))
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// What a unit put into the background, in a session of its own, orphaned, without
// its environment and deaf to TERM, ends with the unit, whether that is told to
// end or ends by itself.
func TestFA04_DaemonisedChild(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/stays.yaml":  pipeline("stays", "steps: [{name: work, run: [./parent.sh, stay], timeout: 3s}]\n"),
		"pipelines/leaves.yaml": pipeline("leaves", "steps: [{name: work, run: [./parent.sh, leave]}]\n"),
		"parent.sh": `#!/bin/sh
trap '' TERM
setsid sh -c 'setsid env -i PATH=$PATH $WAYBILL_PROJECT/daemon.sh {{dir}}/daemon.$WAYBILL_RUN &' &
while [ ! -s {{dir}}/daemon.$WAYBILL_RUN ]; do sleep 0.05; done
[ $1 = leave ] && exit 0
while :; do sleep 0.1; done
`,
		"daemon.sh": "#!/bin/sh\ntrap '' TERM HUP INT\necho $$ > $1.part\nmv $1.part $1\nwhile :; do sleep 0.1; done\n",
	}})
	stays, leaves := w.start("stays"), w.start("leaves")
	for id, want := range map[string]client.Status{leaves: waybill.StatusSucceeded, stays: waybill.StatusTimedOut} {
		r := w.ends(id, want)
		if a := attempt(t, r, "work", 1); want == waybill.StatusTimedOut && a.Reason != "timeout" {
			t.Errorf("reason %q (%s), want timeout", a.Reason, a.Error)
		}
		b, err := os.ReadFile(w.path("daemon", id))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		if alive(pid) {
			t.Errorf("the background process %d of %s lives on after its unit has ended", pid, r.Pipeline)
		}
		w.cleaned(id)
	}
	for _, p := range w.Processes() {
		if strings.Contains(p.String(), "daemon.sh") || p.Unit != "" {
			t.Errorf("process left: %v", p)
		}
	}
}

// peak is the largest memory a process has had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kb int64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// Whatever a unit prints, its log is capped and can be read, and the server does
// not hold it in memory.
func TestFA20_HostileLogs(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/line.yaml":   pipeline("line", "steps: [{name: work, run: [./line.sh]}]\n"),
		"pipelines/binary.yaml": pipeline("binary", "steps: [{name: work, run: [./binary.sh]}]\n"),
		"line.sh":               "#!/bin/sh\nhead -c 100000000 /dev/zero | tr '\\0' x\nexit 3\n",
		"binary.sh":             "#!/bin/sh\nprintf 'caf\\351 \\377\\376\\300\\200\\n'\nhead -c 3000000 /dev/urandom\nprintf '\\000\\033[2J\\n\\355\\240\\200 end\\n'\nexit 4\n",
	}})
	before := peak(t, w.PID())

	const limit = 64 << 20
	line := w.start("line")
	a := attempt(t, w.ends(line, waybill.StatusFailed), "work", 1)
	if !a.LogTruncated || a.LogBytes != 100_000_000 {
		t.Errorf("the log has %d bytes, truncated %v; want 100000000, true", a.LogBytes, a.LogTruncated)
	}
	if !strings.Contains(a.LogTail, "the log was cut at 67108864 bytes, 32891136 more were dropped") || len(a.LogTail) > 2000 {
		t.Errorf("the end of the log is %.200q", a.LogTail)
	}
	var got int64
	if err := w.Client().Log(w.ctx, line, client.GetRunLogsParams{Step: "work"}, counter{&got}); err != nil {
		t.Fatal(err)
	}
	if got < limit || got > limit+200 {
		t.Errorf("the API returns %d bytes, want %d and a line", got, limit)
	}
	cmd := w.Command("run", "logs", line, "--step", "work")
	var printed int64
	cmd.Stdout = counter{&printed}
	if err := cmd.Run(); err != nil || printed != got {
		t.Errorf("the command prints %d bytes (%v), want %d", printed, err, got)
	}

	binary := w.start("binary")
	a = attempt(t, w.ends(binary, waybill.StatusFailed), "work", 1)
	if a.LogTruncated || !utf8.ValidString(a.LogTail) || !strings.HasSuffix(a.LogTail, " end") {
		t.Errorf("truncated %v, the end of the log is %q", a.LogTruncated, a.LogTail)
	}
	out, errs, code := w.cli("run", "logs", binary, "--step", "work")
	if code != 0 || int64(len(out)) != a.LogBytes || !strings.HasPrefix(out, "caf\xe9 \xff\xfe") {
		t.Errorf("the command prints %d of %d bytes, exit code %d %s", len(out), a.LogBytes, code, errs)
	}
	if out, errs, code := w.cli("run", "show", binary); code != 0 || strings.ContainsAny(out, "\x1b\x00") || !utf8.ValidString(out) {
		t.Errorf("run show: code %d %s, output %q", code, errs, out)
	}
	if grown := peak(t, w.PID()) - before; grown > 40<<20 {
		t.Errorf("the server grew by %d MiB", grown>>20)
	}
	w.cleaned(line)
	w.cleaned(binary)
}

type counter struct{ n *int64 }

func (c counter) Write(b []byte) (int, error) { *c.n += int64(len(b)); return len(b), nil }

// supervisor returns the process that keeps the units, 0 when there is none.
func (w *world) supervisor() int {
	for _, p := range w.Processes() {
		if len(p.Args) > 1 && p.Args[1] == "supervise" {
			return p.PID
		}
	}
	return 0
}

// A unit that is gone after it has reported is judged by its report.
func TestFA15_LostAfterCallback(t *testing.T) {
	w := serve(t, harness.Options{Project: relay("relay", "")})
	good, bad := w.start("relay"), w.start("relay")
	w.held(good, "work", 1).complete(`{"variables":{"___X":"reported"}}`).wants(t, "a success", 202)
	w.held(bad, "work", 1).complete(`{"status":"failed","error":"E42"}`).wants(t, "a failure", 202)
	if err := syscall.Kill(w.supervisor(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := w.ends(good, waybill.StatusSucceeded)
	if got := w.noted(good); got != "reported\n" || attempts(r, "work") != 1 {
		t.Errorf("the step after it saw %q after %d attempts", got, attempts(r, "work"))
	}
	w.recorded(good, "attempt.warning", 1)
	r = w.ends(bad, waybill.StatusFailed)
	if a := attempt(t, r, "work", 1); a.Reason != "callback" || a.Error != "E42" || attempts(r, "work") != 1 {
		t.Errorf("the failure: reason %q (%s), %d attempts", a.Reason, a.Error, attempts(r, "work"))
	}
	w.cleaned(good)
	w.cleaned(bad)
}

// A step whose unit is lost each time is taken for one that kills its worker:
// after three it is a dead letter, and everything else goes on.
func TestFA27_WorkerKiller(t *testing.T) {
	files := map[string]string{
		"pipelines/vanish.yaml": pipeline("vanish", `
steps: [{name: work, runner: sim, with: {run_for: 100ms, vanish: true}, retry: {max: 10}}]
`),
		"pipelines/hold.yaml":  pipeline("hold", "steps: [{name: before, run: [\"true\"]}, {name: work, run: [./hold.sh]}]\n"),
		"pipelines/other.yaml": pipeline("other", "steps: [{name: work, run: [\"true\"]}]\n"),
	}
	check := func(w *world, id string) {
		t := w.t
		t.Helper()
		r := w.ends(id, waybill.StatusLost)
		if !strings.Contains(r.Error, "worker_killer") || attempts(r, "work") != 3 {
			t.Errorf("the run ended after %d attempts with %q, want 3 and worker_killer", attempts(r, "work"), r.Error)
		}
		for n := 1; n <= 3; n++ {
			if a := attempt(t, r, "work", n); a.Status != waybill.StatusLost || a.Reason != "unit_lost" {
				t.Errorf("attempt %d is %s, reason %q; want lost, unit_lost", n, a.Status, a.Reason)
			}
		}
		letter := w.dead("run", 1)[0]
		if letter.Key != id || !strings.HasPrefix(letter.Reason, "worker_killer: step work") {
			t.Errorf("the dead letter of %s says %q, want worker_killer", letter.Key, letter.Reason)
		}
		w.ends(w.start("other"), waybill.StatusSucceeded)
		w.cleaned(id)
	}
	t.Run("vanishes", func(t *testing.T) {
		w := serve(t, harness.Options{Project: files})
		id := w.start("vanish")
		w.reaches(id, "work", 1, "is lost", func(a client.Attempt) bool { return a.Status == waybill.StatusLost })
		w.ends(w.start("other"), waybill.StatusSucceeded)
		check(w, id)
	})
	t.Run("kills", func(t *testing.T) {
		w := serve(t, harness.Options{Project: files})
		id := w.start("hold")
		for n := 1; n <= 3; n++ {
			w.held(id, "work", n)
			if err := syscall.Kill(w.supervisor(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			w.reaches(id, "work", n, "is lost", func(a client.Attempt) bool { return a.Status == waybill.StatusLost })
			w.ends(w.start("other"), waybill.StatusSucceeded)
		}
		check(w, id)
		// Sent again, it goes on in a new run with what the step before returned.
		if n, err := w.Client().Redrive(w.ctx, "run"); err != nil || n != 1 {
			t.Fatalf("redrive: %d, %v", n, err)
		}
		var again string
		harness.Until(t, soon, "a run that repeats the lost one", func() error {
			for _, r := range w.runs("hold") {
				if r.RetryOf == id {
					again = r.ID
					return nil
				}
			}
			return fmt.Errorf("there is none")
		})
		w.held(again, "work", 1).exit(0)
		r := w.ends(again, waybill.StatusSucceeded)
		if attempts(r, "before") != 0 {
			t.Error("the step before the lost one ran again")
		}
		w.dead("run", 0)
	})
}
