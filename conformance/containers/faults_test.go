//go:build linux

package containers

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// call is a callback as a container makes it: with what every image of a shell has.
const call = `wget -q -O - --header "Authorization: Bearer $WAYBILL_TOKEN" --header 'Content-Type: application/json' --post-data `

// A container that owes a callback and ends well without one has failed.
func TestFA01_NoCallback(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"waybill.yaml": "callback: {grace: 1s}\n",
			"pipelines/owes.yaml": pipeline("owes", steps(sh("tell",
				`echo "attempt $WAYBILL_ATTEMPT was here"; [ $WAYBILL_ATTEMPT = 1 ] || `+call+`'{"variables":{"___TOLD":"yes"}}' $WAYBILL_CALLBACK`,
				"callback: required", "retry: {max: 1, backoff: 10ms}"))),
		}})
		id := w.start("owes")
		r := w.ends(id, waybill.StatusSucceeded)
		a := attempt(t, r, "tell", 1)
		if a.Status != waybill.StatusFailed || a.Reason != "no_callback" || a.ExitCode == nil || *a.ExitCode != 0 {
			t.Errorf("attempt 1 is %s, reason %q, exit code %v; want failed, no_callback, 0", a.Status, a.Reason, a.ExitCode)
		}
		if got := variable(r, "___TOLD"); got != "yes" || attempts(r, "tell") != 2 {
			t.Errorf("the retry told %q with %d attempts, want yes with 2", got, attempts(r, "tell"))
		}
		w.cleaned(id)
		if got := w.log(id, "tell", 1); got != "attempt 1 was here\n" {
			t.Errorf("the log of attempt 1 is %q", got)
		}
	})
}

// A container that breaks before it calls back is tried again as another container with
// another token, and its log is kept.
func TestFA02_CrashBeforeCallback(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		breaks := func(how string) string {
			return pipeline("breaks", steps(sh("work",
				`[ $WAYBILL_ATTEMPT = 1 ] || exit 0; seq 1 3000; echo the last words >&2; `+how, "retry: {max: 1, backoff: 10ms}")))
		}
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/exits.yaml": strings.Replace(breaks("exit 137"), "breaks", "exits", 1),
			"pipelines/dies.yaml":  strings.Replace(breaks("kill -9 $$; sleep 9"), "breaks", "dies", 1),
			"pipelines/oom.yaml": pipeline("oom", steps(sh("work", `[ $WAYBILL_ATTEMPT = 1 ] || exit 0; echo eating; dd if=/dev/zero of=/dev/null bs=200M count=1`,
				"with: {memory: 32MiB}", "retry: {max: 1, backoff: 10ms}"))),
		}})
		ids := map[string]string{}
		for _, n := range []string{"exits", "dies", "oom"} {
			ids[n] = w.start(n)
		}
		for n, id := range ids {
			r := w.ends(id, waybill.StatusSucceeded)
			one, two := attempt(t, r, "work", 1), attempt(t, r, "work", 2)
			if one.Status != waybill.StatusFailed || one.Error == "" || one.Unit == two.Unit {
				t.Errorf("%s: attempt 1 of unit %s is %s (%s), attempt 2 is of unit %s", n, one.Unit, one.Status, one.Error, two.Unit)
			}
			switch n {
			case "exits":
				if one.ExitCode == nil || *one.ExitCode != 137 || one.Signal != "" {
					t.Errorf("exit code %v, signal %q; want 137", one.ExitCode, one.Signal)
				}
			case "dies":
				if one.Signal != "SIGKILL" || one.Reason == "oom_killed" {
					t.Errorf("exit code %v, signal %q, reason %q; want SIGKILL", one.ExitCode, one.Signal, one.Reason)
				}
			case "oom":
				if one.Reason != "oom_killed" || one.LogTail != "eating" {
					t.Errorf("exit code %v, signal %q, reason %q, log %q; want oom_killed, eating", one.ExitCode, one.Signal, one.Reason, one.LogTail)
				}
			}
			if n != "oom" && (!strings.HasSuffix(one.LogTail, "\n2999\n3000\nthe last words") || len(one.LogTail) > 2000) {
				t.Errorf("%s: the end of the log is %q", n, one.LogTail)
			}
			w.cleaned(id)
		}
	})
}

// stubborn is a container of several processes that all ignore TERM, one of them in a
// session of its own; the first notes when it gets one.
const stubborn = `trap 'date +%s > /waybill/work/term' TERM; setsid sh -c 'trap "" TERM; while :; do sleep 1; done' & ` +
	`( trap '' TERM; while :; do sleep 1; done ) & echo up >held; while :; do sleep 0.1; done`

// A container that gives no sign of life is ended with all that is in it: asked first,
// then killed.
func TestFA03_HangsWithoutHeartbeat(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/silent.yaml": pipeline("silent", steps(sh("work", stubborn, "timeout: 5m", "heartbeat: 3s"))),
			"pipelines/lively.yaml": pipeline("lively", steps(sh("work",
				`for i in 1 2 3 4 5; do `+call+`'{"progress":"part"}' ${WAYBILL_CALLBACK%callback}heartbeat || exit 1; sleep 1; done`, "timeout: 5m", "heartbeat: 4s"))),
		}})
		silent, lively := w.start("silent"), w.start("lively")
		w.held(silent, "work", 1)
		r := w.ends(silent, waybill.StatusTimedOut)
		a := attempt(t, r, "work", 1)
		if a.Status != waybill.StatusTimedOut || a.Reason != "heartbeat" {
			t.Errorf("the attempt is %s, reason %q (%s)", a.Status, a.Reason, a.Error)
		}
		if took := a.FinishedAt.Sub(a.StartedAt); took < 12*time.Second || took > 30*time.Second {
			t.Errorf("it ended %v after its start, want the limit of 3 s and the grace of 10 s", took)
		}
		w.cleaned(silent)
		w.ends(lively, waybill.StatusSucceeded)
		w.cleaned(lively)
	})
}

// What a container started in a session of its own ends with it.
func TestFA04_DaemonIsKilled(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/leaves.yaml": pipeline("leaves", steps(sh("work", `setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' & sleep 0.3; echo left a daemon`))),
			"pipelines/stays.yaml":  pipeline("stays", steps(sh("work", stubborn, "timeout: 5m"))),
		}})
		id := w.start("leaves")
		if r := w.ends(id, waybill.StatusSucceeded); attempts(r, "work") != 1 {
			t.Errorf("%d attempts", attempts(r, "work"))
		}
		w.cleaned(id)
		id = w.start("stays")
		w.held(id, "work", 1)
		if n := len(processesOf(id)); n < 3 {
			t.Errorf("the container has %d processes in sight, want its three", n)
		}
		w.mustCLI("run", "cancel", id)
		w.ends(id, waybill.StatusCanceled)
		w.cleaned(id)
	})
}

// relay holds one step and hands on what it tells.
func relay(more ...string) map[string]string {
	return map[string]string{
		"pipelines/relay.yaml": pipeline("relay", steps(sh("work", hold, more...), sh("after", `echo "after: $___X"`))),
	}
}

// The same callback, however often and however many at once, counts once; another one
// changes nothing.
func TestFA05_SameCallbackTwice(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: relay()})
		id := w.start("relay")
		u := w.held(id, "work", 1)
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[int]int{}
		for range 50 {
			wg.Go(func() {
				a, err := w.tryPost(u.callback, u.token, `{"variables":{"___X":"one"}}`)
				mu.Lock()
				defer mu.Unlock()
				if got[a.Status]++; err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got[202] != 1 || got[200] != 49 {
			t.Errorf("answers %v, want one 202 and 49 times 200", got)
		}
		u.complete(`{"variables":{"___X":"two"}}`).wants(t, "another callback (F-A6)", 409)
		u.exit(0)
		r := w.ends(id, waybill.StatusSucceeded)
		if got := w.log(id, "after", 1); got != "after: one\n" || attempts(r, "after") != 1 {
			t.Errorf("the next step says %q in %d attempts", got, attempts(r, "after"))
		}
		w.recorded(id, "attempt.callback", 1)
		w.cleaned(id)
		u.complete(`{"variables":{"___X":"late"}}`).wants(t, "a callback after the end (F-A24)", 410)
	})
}

// A callback that comes when its attempt was ended for its time is gone, and the attempt
// after it is not touched.
func TestFA07_LateCallback(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: relay("timeout: 6s", "retry: {max: 1, backoff: 10ms, on: [timed_out]}")})
		id := w.start("relay")
		first := w.held(id, "work", 1)
		w.reaches(id, "work", 1, "timed out", func(a client.Attempt) bool { return a.Status == waybill.StatusTimedOut })
		second := w.held(id, "work", 2)
		first.complete(`{"variables":{"___X":"late"}}`).wants(t, "the late callback", 410)
		second.complete(`{"variables":{"___X":"second"}}`).wants(t, "the callback of the retry", 202)
		second.exit(0)
		r := w.ends(id, waybill.StatusSucceeded)
		if got := variable(r, "___X"); got != "second" {
			t.Errorf("the variable is %q", got)
		}
		if n := len(w.records(id, "attempt.late_callback")); n != 1 {
			t.Errorf("%d records of a late callback", n)
		}
		w.cleaned(id)
	})
}

// The server may be away when a container calls back: the container tries again, and no
// time is taken from it.
func TestFA11_ServerAway(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/calls.yaml": pipeline("calls", steps(sh("work",
				`echo here >held; while [ ! -s go ]; do sleep 0.05; done; n=0; until `+call+`'{"variables":{"___X":"told"}}' $WAYBILL_CALLBACK; do n=$((n+1)); sleep 0.2; done; echo "told after $n tries"`,
				"callback: required"))),
		}})
		id := w.start("calls")
		u := w.held(id, "work", 1)
		w.Kill()
		if err := os.WriteFile(w.work(u.name, "go"), []byte("go\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // so long it is away
		w.Start()
		r := w.ends(id, waybill.StatusSucceeded)
		if variable(r, "___X") != "told" || attempts(r, "work") != 1 {
			t.Errorf("it told %q in %d attempts", variable(r, "___X"), attempts(r, "work"))
		}
		if log := w.log(id, "work", 1); !strings.Contains(log, "told after ") || strings.Contains(log, "told after 0 tries") || strings.Count(log, "told after") != 1 {
			t.Errorf("the log is %q", log)
		}
		w.recorded(id, "attempt.adopted", 1)
		w.cleaned(id)
	})
}

// A container that somebody else removes is gone: its attempt is judged by what it
// reported, or lost.
func TestFA15_RemovedByAnother(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: relay("retry: {max: 0}")})
		reported, silent, away := w.start("relay"), w.start("relay"), w.start("relay")
		u := w.held(reported, "work", 1)
		u.complete(`{"variables":{"___X":"told"}}`).wants(t, "the callback", 202)
		p.vanish(w, u.name)
		r := w.ends(reported, waybill.StatusSucceeded)
		if got := w.log(reported, "after", 1); got != "after: told\n" || attempts(r, "work") != 1 {
			t.Errorf("the next step says %q after %d attempts", got, attempts(r, "work"))
		}
		p.vanish(w, w.held(silent, "work", 1).name)
		w.reaches(silent, "work", 1, "ended", func(a client.Attempt) bool {
			return a.Status == waybill.StatusLost || a.Status == waybill.StatusFailed && a.Signal == "SIGKILL"
		})
		w.Kill()
		p.vanish(w, w.heldAway(away).name)
		w.Start()
		w.reaches(away, "work", 1, "ended", func(a client.Attempt) bool {
			return a.Status == waybill.StatusLost || a.Status == waybill.StatusFailed && a.Signal == "SIGKILL"
		})
		for _, id := range []string{silent, away} {
			w.cli("run", "cancel", id) // it may have ended
			harness.Until(t, soon, "run "+id+" ends", func() error {
				if r := w.run(id); !r.Status.Terminal() {
					return errors.New(shown(r))
				}
				return nil
			})
		}
		w.cleaned(reported, silent, away)
	})
}

// A supervisor that dies takes nothing along but its units, which are lost, and nothing of
// them stays.
func TestFA27_SupervisorDies(t *testing.T) {
	t.Parallel()
	p := platforms()[0] // the others have their engine
	p.need(t)
	w := serve(t, p, harness.Options{Project: relay("retry: {max: 1, backoff: 10ms}")})
	id := w.start("relay")
	first := w.held(id, "work", 1)
	killed := 0
	for _, x := range w.Processes() {
		if len(x.Args) > 1 && x.Args[1] == "supervise" && strings.Contains(x.String(), "oci") {
			killPID(x.PID)
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("%d supervisors of containers", killed)
	}
	a := w.reaches(id, "work", 1, "is lost", func(a client.Attempt) bool { return a.Status == waybill.StatusLost })
	if a.Unit != first.name {
		t.Errorf("unit %s is lost, want %s", a.Unit, first.name)
	}
	u := w.held(id, "work", 2)
	u.exit(0)
	w.ends(id, waybill.StatusSucceeded)
	w.cleaned(id)
}

// heldAway is held for a server that is down.
func (w *world) heldAway(id string) unit {
	w.t.Helper()
	u := unit{w: w}
	for _, dir := range w.UnitDirs() {
		if b, err := os.ReadFile(w.work(dir, "held")); err == nil && strings.Contains(string(b), id) {
			u.name = dir
		}
	}
	if u.name == "" {
		w.t.Fatalf("no unit of run %s is there", id)
	}
	return u
}

// A container that nobody removes because its order was lost is found and removed. Those
// of somebody else are not touched, nor those that run.
func TestFA16_Orphan(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		project := map[string]string{
			"waybill.yaml":        "units: {orphan_sweep: 200ms, orphan_grace: 1s}\n",
			"pipelines/left.yaml": pipeline("left", steps(sh("work", "echo left > behind"))),
			"pipelines/hold.yaml": pipeline("hold", steps(sh("work", hold))),
		}
		w := serve(t, p, harness.Options{Project: project})
		other := serve(t, p, harness.Options{Project: project})
		there := p.decoy(w)
		running, foreign := w.start("hold"), other.start("hold")
		u, f := w.held(running, "work", 1), other.held(foreign, "work", 1)

		w.mustCLI("pause", "cleanup")
		id := w.start("left")
		w.ends(id, waybill.StatusSucceeded)
		w.mustCLI("queue", "purge", "cleanup")
		if left, err := p.left(w); err != nil || len(left) == 0 {
			t.Fatalf("nothing of the container was left to be found: %v", err)
		}
		// What is left is shown as nobody's.
		harness.Until(t, soon, "the orphan is listed", func() error {
			for _, x := range w.unitList(id) {
				if x.Known && x.Runner == p.name {
					return nil
				}
			}
			return fmt.Errorf("%+v", w.unitList(id))
		})
		w.mustCLI("resume", "cleanup")
		w.cleaned(id)
		if got := w.records(id, "orphan.found"); len(got) != 1 {
			t.Errorf("records of the orphan: %v", got)
		}
		time.Sleep(2 * time.Second) // some sweeps more
		if !there() {
			t.Error("a container of somebody else was touched")
		}
		u.exit(0)
		f.exit(0)
		for _, x := range []struct {
			w  *world
			id string
		}{{w, running}, {other, foreign}} {
			if r := x.w.ends(x.id, waybill.StatusSucceeded); attempts(r, "work") != 1 || len(x.w.records(x.id, "orphan.found")) > 0 {
				t.Errorf("a container that ran was taken for an orphan: %s", shown(r))
			}
			x.w.cleaned(x.id)
		}
	})
}

// Images that cannot be had end the attempt with the reason, or are tried again on a
// budget of their own.
func TestFA18_Pulls(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		image := func(name, ref string, more ...string) string {
			return pipeline(name, steps("{"+strings.Join(append([]string{"name: work", "runner: '{{runner}}'", "image: '" + ref + "'", "run: ['true']"}, more...), ", ")+"}"))
		}
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/none.yaml":   image("none", "{{base}}/none:v1"),
			"pipelines/tag.yaml":    image("tag", "{{base}}/base:v9"),
			"pipelines/digest.yaml": image("digest", "{{base}}/base@sha256:"+strings.Repeat("0", 64)),
			"pipelines/never.yaml":  image("never", "{{base}}/base:v2", "with: {pull: never}"),
			"pipelines/auth.yaml":   image("auth", "{{base}}/base:v1", "with: {pull: always}"),
			"pipelines/broken.yaml": image("broken", "{{base}}/broken:v1"),
			"pipelines/quota.yaml":  image("quota", "{{base}}/base:v1", "with: {pull: always}"),
			"pipelines/cut.yaml":    image("cut", "{{base}}/other:v1"),
			"pipelines/stop.yaml":   image("stop", "{{base}}/slow:v1"),
			"pipelines/nobody.yaml": image("nobody", "127.0.0.1:1/base:v1"),
		}})
		w.reg.Push(t, "broken:v1", registrytest.Broken(t))
		for name, reason := range map[string]string{
			"none": "pull_not_found", "tag": "pull_not_found", "digest": "pull_not_found", "never": "pull_not_found", "broken": "image_invalid",
		} {
			id := w.start(name)
			a := attempt(t, w.ends(id, waybill.StatusFailed), "work", 1)
			if a.Reason != reason || !strings.Contains(a.Error, w.reg.Host) || a.ExitCode != nil {
				t.Errorf("%s: reason %q, exit code %v, %s; want %s", name, a.Reason, a.ExitCode, a.Error, reason)
			}
			w.cleaned(id)
		}

		w.reg.Break(registrytest.Fault{Path: "/manifests/", Status: 401})
		id := w.start("auth")
		if a := attempt(t, w.ends(id, waybill.StatusFailed), "work", 1); a.Reason != "pull_auth" {
			t.Errorf("401: reason %q: %s", a.Reason, a.Error)
		}
		w.cleaned(id)

		// A limit passes by, and the step has lost no try.
		w.reg.Mend()
		w.reg.Break(registrytest.Fault{Path: "/manifests/", Status: 429, RetryAfter: 2 * time.Second})
		id = w.start("quota")
		harness.Until(t, soon, "the pull has failed once", func() error {
			if n := len(w.records(id, "attempt.pull_failed")); n != 1 {
				return fmt.Errorf("%d records: %s", n, shown(w.run(id)))
			}
			return nil
		})
		w.reg.Mend()
		if r := w.ends(id, waybill.StatusSucceeded); attempts(r, "work") != 1 {
			t.Errorf("429: %d attempts", attempts(r, "work"))
		}
		if got := text(w.records(id, "attempt.pull_failed")); !strings.Contains(got, "pull_quota") {
			t.Errorf("429: the record says %s", got)
		}
		w.cleaned(id)

		// A connection that breaks off in the middle of a layer.
		extra := registrytest.Base(t)
		extra.Files = append(extra.Files, registrytest.File{Path: "/data/filler-" + p.name, Text: strings.Repeat(p.name, 100_000)})
		w.reg.Push(t, "other:v1", extra.Build(t))
		w.reg.Break(registrytest.Fault{Path: "/blobs/", Left: 4, Cut: true})
		id = w.start("cut")
		if r := w.ends(id, waybill.StatusSucceeded); attempts(r, "work") != 1 {
			t.Errorf("cut: %d attempts", attempts(r, "work"))
		}
		w.cleaned(id)

		// Who is tired of a pull stops it (F-A32).
		w.reg.Mend()
		extra.Files = append(extra.Files, registrytest.File{Path: "/data/slow-" + p.name, Text: "x"})
		w.reg.Push(t, "slow:v1", extra.Build(t))
		w.reg.Break(registrytest.Fault{Path: "/slow/", Delay: 5 * time.Minute})
		id = w.start("stop")
		w.reaches(id, "work", 1, "is being provided", func(a client.Attempt) bool { return a.Phase == waybill.PhaseProvisioning })
		asked := time.Now()
		w.mustCLI("run", "cancel", id)
		w.ends(id, waybill.StatusCanceled)
		if took := time.Since(asked); took > 15*time.Second {
			t.Errorf("the run ended %v after it was canceled", took)
		}
		w.cleaned(id)

		// A registry that does not answer is asked for a while, and says so.
		id = w.start("nobody")
		harness.Until(t, soon, "the pull has failed once", func() error {
			if n := len(w.records(id, "attempt.pull_failed")); n != 1 {
				return fmt.Errorf("%d records", n)
			}
			return nil
		})
		if got := text(w.records(id, "attempt.pull_failed")); !strings.Contains(got, "pull_network") {
			t.Errorf("nobody there: the record says %s", got)
		}
		w.mustCLI("run", "cancel", id)
		w.ends(id, waybill.StatusCanceled)
		w.cleaned(id)
	})
}

// When the log cannot be written, because its disk is full, the run goes on, and the
// removal of the container waits until the log is kept.
func TestFA19_LogDiskFull(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Stopped: true, Project: map[string]string{
			"pipelines/talks.yaml": pipeline("talks", steps(sh("work", `echo first; touch held; while [ ! -s go ]; do sleep 0.05; done; seq 1 20000; echo last`))),
		}})
		logs := w.BlobsDir()
		if err := os.MkdirAll(logs, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=1m"); err != nil {
			missing(t, "a small disk cannot be mounted: "+err.Error())
		}
		t.Cleanup(func() { _ = syscall.Unmount(logs, syscall.MNT_DETACH) })
		w.Start()
		id := w.start("talks")
		u := w.held(id, "work", 1)
		full, err := os.Create(logs + "/filler")
		if err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; {
			_, err = full.Write(make([]byte, 4096))
		}
		full.Close()
		if err := os.WriteFile(w.work(u.name, "go"), []byte("go\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		a := w.reaches(id, "work", 1, "has ended", func(a client.Attempt) bool {
			return a.Phase == waybill.PhaseTerminal
		})
		if a.Status != waybill.StatusSucceeded {
			t.Errorf("the attempt is %s (%s), want succeeded", a.Status, a.Error)
		}
		if p.name == "oci" {
			// Nobody but the supervisor has heard what the container said: what it could
			// not write is lost, and that is said.
			if a := w.reaches(id, "work", 1, "is removed", func(a client.Attempt) bool { return a.Cleanup == waybill.CleanupGone }); a.LogsLost == "" && !strings.Contains(shown(w.run(id))+text(w.records(id, "attempt.warning")), "not complete") {
				t.Errorf("nothing says that the log is not complete: %s %s", text(a), text(w.records(id, "attempt.warning")))
			}
		} else {
			w.reaches(id, "work", 1, "waits for its log", func(a client.Attempt) bool { return strings.Contains(a.CleanupError, "log") })
			containerOf(w, a.Unit)
		}
		if err := os.Remove(logs + "/filler"); err != nil {
			t.Fatal(err)
		}
		w.ends(id, waybill.StatusSucceeded)
		w.cleaned(id)
		if p.name != "oci" {
			log := w.log(id, "work", 1)
			if !strings.HasPrefix(log, "first\n1\n2\n") || !strings.HasSuffix(log, "\n20000\nlast\n") || strings.Count(log, "\n") != 20002 {
				t.Errorf("the log has %d lines: %.60q … %q", strings.Count(log, "\n"), log, log[max(0, len(log)-60):])
			}
		}
	})
}

// Whatever a container prints, its log is capped and can be read, and the server does not
// hold it in memory.
func TestFA20_HostileLogs(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"waybill.yaml":          "units: {log_cap: 4MiB}\n",
			"pipelines/line.yaml":   pipeline("line", steps(sh("work", `dd if=/dev/zero bs=1000000 count=100 2>/dev/null | tr '\000' x; exit 3`))),
			"pipelines/binary.yaml": pipeline("binary", steps(sh("work", `printf 'caf\351 \377\376\300\200\n'; dd if=/dev/urandom bs=1000000 count=3 2>/dev/null; printf '\000\033[2J\n\355\240\200 end\n'; exit 4`))),
		}})
		before := peak(t, w.PID())
		line := w.start("line")
		a := attempt(t, w.ends(line, waybill.StatusFailed), "work", 1)
		if !a.LogTruncated || a.LogBytes != 100_000_000 || a.ExitCode == nil || *a.ExitCode != 3 {
			t.Errorf("the log has %d bytes, truncated %v, exit code %v; want 100000000, true, 3", a.LogBytes, a.LogTruncated, a.ExitCode)
		}
		if !strings.Contains(a.LogTail, "the log was cut at 4194304 bytes, 95805696 more were dropped") {
			t.Errorf("the end of the log is %.200q", a.LogTail)
		}
		if n := len(w.log(line, "work", 1)); n < 4<<20 || n > 4<<20+200 {
			t.Errorf("the API returns %d bytes, want 4 MiB and a line", n)
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
		if grown := peak(t, w.PID()) - before; grown > 60<<20 {
			t.Errorf("the server grew by %d MiB", grown>>20)
		}
		w.cleaned(line, binary)
	})
}

// A secret that a container was given is nowhere in what is kept or shown, and not in what
// the platform tells of the container.
func TestFA21_SecretsAreMasked(t *testing.T) {
	const secret = "hunter2+/=sea cret" // the definition names no part of it
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/tells.yaml": pipeline("tells", steps(sh("work",
				`echo "plain: $KEY"; printf %s "$KEY" | base64; printf 'split: %s' "$(echo "$KEY" | cut -c1-7)"; sleep 0.3; echo "$KEY" | cut -c8-; echo "___OUT=$KEY" >"$WAYBILL_OUTPUT"; `+hold,
				"env: {KEY: '${secret:KEY}'}"))),
		}})
		set := w.Command("secret", "set", "KEY")
		set.Stdin = strings.NewReader(secret)
		if out, err := set.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		id := w.start("tells")
		u := w.held(id, "work", 1)
		if p.name == "docker" {
			c := must(engine(t).ContainerInspect(w.ctx, containerOf(w, u.name), inspectAll))(t)
			if strings.Contains(string(c.Raw), "hunter2") || strings.Contains(string(c.Raw), u.token) {
				t.Errorf("the engine shows the secret or the token of the attempt")
			}
		}
		u.exit(1)
		r := w.ends(id, waybill.StatusFailed)
		log := w.log(id, "work", 1)
		for what, got := range map[string]string{"log": log, "run": text(r), "log of the server": w.Log()} {
			for _, form := range []string{secret, "aHVudGVyMisvPXNlYSBjcmV0", "hunter2"} {
				if strings.Contains(got, form) {
					t.Errorf("the %s holds %q", what, form)
				}
			}
		}
		if !strings.Contains(log, "plain: ***") || !strings.Contains(log, "split: ***") {
			t.Errorf("the log is %q", log)
		}
		w.cleaned(id)
		if hits := grep(t, w.DataDir(), "hunter2"); len(hits) > 0 {
			t.Errorf("the secret is in %v", hits)
		}
	})
}

// grep are the files below a folder that hold a text.
func grep(t *testing.T, dir, word string) (hits []string) {
	t.Helper()
	err := walkFiles(dir, func(path string, content []byte) {
		if strings.Contains(string(content), word) {
			hits = append(hits, path)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return hits
}

// A run ends soon when it is canceled, whatever its container does, and nothing stays.
func TestFA32_Cancel(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/hold.yaml":  pipeline("hold", steps(sh("work", hold))),
			"pipelines/quick.yaml": pipeline("quick", steps(sh("work", "echo quick"))),
		}})
		// While it runs, twice.
		id := w.start("hold")
		u := w.held(id, "work", 1)
		w.mustCLI("run", "cancel", id)
		w.cli("run", "cancel", id)
		begun := time.Now()
		w.ends(id, waybill.StatusCanceled)
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
		u.complete(`{}`).wants(t, "a callback after the cancellation", 410)
		w.cleaned(id)
		// At any other moment.
		for i := range 8 {
			id := w.start("quick")
			time.Sleep(time.Duration(i) * 40 * time.Millisecond)
			w.cli("run", "cancel", id)
			harness.Until(t, soon, "run "+id+" ends", func() error {
				if r := w.run(id); !r.Status.Terminal() {
					return errors.New(shown(r))
				}
				return nil
			})
			if r := w.run(id); r.Status != waybill.StatusCanceled && r.Status != waybill.StatusSucceeded {
				t.Errorf("canceled after %d ms it ended as %s: %s", i*40, r.Status, shown(r))
			}
			w.cleaned(id)
		}
	})
}

// A matrix of containers never has more of them at once than it may, whatever fails.
func TestFA35_Matrix(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		const cells, limit = 24, 4
		values := make([]string, cells)
		for i := range values {
			values[i] = fmt.Sprint(i)
		}
		matrix := func(fast bool) string {
			return fmt.Sprintf("matrix: {values: {n: [%s]}, max_parallel: %d, fail_fast: %v}", strings.Join(values, ", "), limit, fast)
		}
		wit := newWitness(t)
		script := wit.says("start") + `; sleep 0.05; ` + wit.says("end") + `; case $N in 3|11|17) exit 9;; esac`
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/all.yaml":  pipeline("all", steps(sh("work", script, matrix(false), "env: {N: '${{ string(matrix.n) }}'}", "with: {network: host}"))),
			"pipelines/fast.yaml": pipeline("fast", steps(sh("work", script, matrix(true), "env: {N: '${{ string(matrix.n) }}'}", "with: {network: host}"))),
		}})
		id := w.start("all")
		r := w.ends(id, waybill.StatusFailed)
		for _, s := range r.Steps {
			if s.Name == "work" && (s.Cells.Succeeded != cells-3 || s.Cells.Failed != 3) {
				t.Errorf("cells %+v, want %d and 3", s.Cells, cells-3)
			}
		}
		if most, n := wit.most(id), wit.count(id, "start"); most > limit || n != cells {
			t.Errorf("%d containers at once of %d, want at most %d of %d", most, n, limit, cells)
		}
		w.cleaned(id)
		id = w.start("fast")
		r = w.ends(id, waybill.StatusFailed)
		if n := wit.count(id, "start"); n >= cells || wit.most(id) > limit {
			t.Errorf("after the first failure %d of %d containers ran, %d at once", n, cells, wit.most(id))
		}
		var states []string
		for _, s := range r.Steps {
			if s.Cell != nil {
				states = append(states, string(s.Status))
			}
		}
		if !slices.Contains(states, string(waybill.StatusCanceled)) {
			t.Errorf("cells ended as %v", states)
		}
		w.cleaned(id)
	})
}
