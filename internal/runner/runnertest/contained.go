package runnertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// Contained is what a runner of containers is tested with. What a platform does not have
// is left out by a field that is empty, so that it can be seen in one place.
type Contained struct {
	// Image is the name of [registrytest.Base] where the platform finds it.
	Image string
	// With are settings that every unit needs besides its image.
	With map[string]any
	// Pulls says that the platform reaches registries of this process.
	Pulls bool
	// Limits says that limits of memory and processes are enforced.
	Limits bool
	// ReadOnlyRoot says that the root file system is protected.
	ReadOnlyRoot bool
	// Networks are those that units can have.
	Networks []string
	// SignalAsCode says that the platform tells of a signal as a code of 128 and more.
	SignalAsCode bool
	// Lines says that the platform keeps lines: what a unit wrote is in the log when its
	// line has ended.
	Lines bool
	// WholeSeconds says that the platform tells times as the second they are in.
	WholeSeconds bool
	// Inspect is everything the platform shows of a unit to those that may look at it,
	// but for what it keeps as a secret. Nil when there is nothing.
	Inspect func(t *testing.T, h runner.Handle) string
	// Decoys makes things beside a unit that are not ours: without our labels, and of
	// another instance with the same name of a unit. check fails when one is gone.
	Decoys func(t *testing.T, unit string) (check func(t *testing.T))
	// Vanish removes a unit behind the runner's back. Nil when that is impossible.
	Vanish func(t *testing.T, h runner.Handle)
	// Rounds is how often the server dies in the middle of something. Default 8.
	Rounds int
}

func (c *Contained) with(t *testing.T, more map[string]any) json.RawMessage {
	t.Helper()
	all := map[string]any{"image": c.Image}
	for _, m := range []map[string]any{c.With, more} {
		for k, v := range m {
			all[k] = v
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const eventText = `{"id":"e-1"}`

// makeHome lays out what the engine does.
func makeHome(t *testing.T, dir string) {
	t.Helper()
	for name, mode := range map[string]os.FileMode{container.Work: 0o777, container.Out: 0o777, container.In: 0o755} {
		at := container.Outside(dir, name)
		if err := os.Mkdir(at, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{container.Event: eventText, "in/object": "content of the object\n", "work/input": "an input\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

var containedCases = []testCase{
	{"ContainedHome", testHome, needContained},
	{"ContainedOutputAfterFailure", testOutputAfterFailure, needContained},
	{"ContainedFilesOfOthers", testFilesOfOthers, needContained},
	{"ContainedCopyOut", testCopyOut, needContained},
	{"ContainedCommand", testCommand, needPulls},
	{"ContainedNoSuchUser", testNoSuchUser, needContained},
	{"ContainedReadOnlyRoot", testReadOnlyRoot, needReadOnly},
	{"ContainedNetworks", testNetworks, needContained},
	{"ContainedMemory", testMemory, needLimits},
	{"ContainedProcesses", testProcesses, needLimits},
	{"ContainedSecretsAreNotShown", testSecretsNotShown, needContained},
	{"ContainedDecoys", testDecoys, needContained},
	{"ContainedVanished", testVanished, needContained},
	{"ContainedDeathInStart", testDeathInStart, needContainedRestart},
	{"ContainedDeathInRemove", testDeathInRemove, needContainedRestart},
	{"ContainedLogGoesOn", testLogGoesOn, needContainedRestart},
	{"ImagePinned", testImagePinned, needPulls},
	{"ImagePolicies", testPullPolicies, needPulls},
	{"ImageCredentials", testPullCredentials, needPulls},
	{"ImageFaults", testPullFaults, needPulls},
	{"ImageIsCanceled", testPullCanceled, needPulls},
}

func needContained(o Options, h Harness) string {
	if h.Contained == nil {
		return "units of this runner are no containers"
	}
	return needShell(o, h)
}

func needContainedRestart(o Options, h Harness) string {
	if why := needContained(o, h); why != "" {
		return why
	}
	return needRestart(o, h)
}

func needPulls(o Options, h Harness) string {
	if why := needContained(o, h); why != "" {
		return why
	}
	if !h.Contained.Pulls {
		return "the platform does not reach a registry of this process"
	}
	return ""
}

func needLimits(o Options, h Harness) string {
	if why := needContained(o, h); why != "" {
		return why
	}
	if !h.Contained.Limits {
		return "the platform enforces no limits here"
	}
	return ""
}

func needReadOnly(o Options, h Harness) string {
	if why := needContained(o, h); why != "" {
		return why
	}
	if !h.Contained.ReadOnlyRoot {
		return "the platform does not protect the root file system"
	}
	return ""
}

// contained makes a spec that runs a script with settings.
func (s *suite) contained(t *testing.T, more map[string]any, script string) runner.Spec {
	t.Helper()
	sp := s.sh(t, script)
	sp.With = s.h.Contained.with(t, more)
	return sp
}

// expect runs a unit that must succeed and compares its log.
func (s *suite) expect(t *testing.T, sp runner.Spec, log string) {
	t.Helper()
	if e := s.run(t, sp); !e.OK() {
		t.Errorf("exit = %+v, log:\n%s", e, readLog(t, sp))
	}
	if d := cmp.Diff(log, readLog(t, sp)); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
}

var users = map[string]string{"root": "", "a user": "1000:1000", "a user of the image": "worker"}

func testHome(t *testing.T, s *suite) {
	home := s.r.(runner.Contained).Home()
	for who, user := range users {
		sp := s.contained(t, map[string]any{"user": user}, `pwd; cat "$WAYBILL_EVENT"; echo; cat "$HOME_DIR/in/object" input
echo result > made; mkdir sub; echo deep > sub/made; echo rows=7 > "$WAYBILL_OUTPUT"; echo bad > "$WAYBILL_EVENT"; echo bad > "$HOME_DIR/in/object"; id -u`)
		sp.Env = append(sp.Env, "HOME_DIR="+home, "WAYBILL_EVENT="+home+"/event.json", "WAYBILL_OUTPUT="+home+"/out/variables")
		if e := s.run(t, sp); !e.OK() {
			t.Errorf("as %s: exit = %+v", who, e)
		}
		uid := "0"
		if user != "" {
			uid = "1000"
		}
		got := readLog(t, sp)
		begin := home + "/work\n" + eventText + "\ncontent of the object\nan input\n"
		if !strings.HasPrefix(got, begin) || !strings.HasSuffix(got, "\n"+uid+"\n") {
			t.Errorf("as %s: log = %q, want it to begin with %q and to end with %s", who, got, begin, uid)
		}
		for name, want := range map[string]string{
			"work/made": "result\n", "work/sub/made": "deep\n", "out/variables": "rows=7\n", "work/input": "an input\n", container.Event: eventText,
		} {
			if b, err := os.ReadFile(filepath.Join(sp.Dir, name)); string(b) != want {
				t.Errorf("as %s: %s holds %q, %v; want %q", who, name, b, err, want)
			}
		}
	}
}

func testOutputAfterFailure(t *testing.T, s *suite) {
	const write = `umask 077; echo code=3 > ../out/variables; mkdir deep; echo report > deep/report; echo ready; `
	check := func(how string, sp runner.Spec) {
		t.Helper()
		for name, want := range map[string]string{"out/variables": "code=3\n", "work/deep/report": "report\n"} {
			if b, err := os.ReadFile(filepath.Join(sp.Dir, name)); string(b) != want {
				t.Errorf("after %s: %s holds %q, %v", how, name, b, err)
			}
		}
	}
	user := map[string]any{"user": "1000:1000"}
	failed := s.contained(t, user, write+"exit 3")
	if e := s.run(t, failed); e.Code != 3 {
		t.Errorf("exit = %+v, want code 3", e)
	}
	check("a failure", failed)
	for how, c := range map[string]struct {
		trap  string
		grace time.Duration
	}{"a stop": {"", time.Hour}, "a kill": {`trap "" TERM; `, 50 * time.Millisecond}} {
		sp := s.contained(t, user, c.trap+write+"while :; do sleep 0.05; done")
		h := s.start(t, sp)
		s.eventually(t, "the unit has written", s.printed(sp, "ready"))
		if err := s.r.Stop(s.ctx(t), h, c.grace); err != nil {
			t.Fatal(err)
		}
		if e := s.wait(t, h); e.OK() || e.Reason != "" {
			t.Errorf("exit after %s = %+v", how, e)
		}
		check(how, sp)
	}
}

// The engine removes the folder afterwards, whoever it is.
func testFilesOfOthers(t *testing.T, s *suite) {
	for _, user := range users {
		sp := s.contained(t, map[string]any{"user": user}, `umask 077; mkdir -p a/b; echo x > a/b/c; chmod 0 a/b/c; chmod 500 a/b; mkdir ../out/d; echo y > ../out/d/e`)
		h := s.start(t, sp)
		s.wait(t, h)
		if err := s.r.Remove(s.ctx(t), h); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(sp.Dir); err != nil {
			t.Errorf("the home of a unit of user %q cannot be removed after Remove: %v", user, err)
		}
	}
}

func testCopyOut(t *testing.T, s *suite) {
	c := s.r.(runner.Contained)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("of this machine"), 0o644); err != nil {
		t.Fatal(err)
	}
	sp := s.contained(t, map[string]any{"writable": true}, fmt.Sprintf(
		`echo content > /data/file; mkdir /data/dir; ln -s %s /data/out; ln -s ../../../../../../../..%s /data/up; ln -s / /data/root; head -c 3000000 /dev/zero > /data/large`, outside, outside))
	h := s.start(t, sp)
	if e := s.wait(t, h); !e.OK() {
		t.Fatalf("exit = %+v, log %s", e, readLog(t, sp))
	}
	copied := func(path string) (string, error) {
		var b bytes.Buffer
		err := c.CopyOut(s.ctx(t), h, path, &b)
		return b.String(), err
	}
	got, err := copied("/data/file")
	if waybill.IsKind(err, waybill.KindUnsupported) {
		t.Skip("the platform has no such thing")
	}
	if got != "content\n" || err != nil {
		t.Errorf("a file: %q, %v", got, err)
	}
	if got, err := copied("/data/large"); len(got) != 3000000 || err != nil {
		t.Errorf("a large file: %d bytes, %v", len(got), err)
	}
	for _, path := range []string{"/data/none", "/none/none"} {
		if _, err := copied(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want fs.ErrNotExist", path, err)
		}
	}
	for _, path := range []string{"/data/dir", "/data/out", "/data/up", "/data/root" + outside, "data/file", ""} {
		if got, err := copied(path); err == nil || strings.Contains(got, "of this machine") {
			t.Errorf("%q: %q, %v; want an error", path, got, err)
		}
	}
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Fatal(err)
	}
	if _, err := copied("/data/file"); err == nil {
		t.Error("a file of a removed unit was copied")
	}
}

// What of an image is taken and what of a step.
func testCommand(t *testing.T, s *suite) {
	reg := registrytest.New(t)
	i := registrytest.Base(t)
	i.Config.Entrypoint, i.Config.Cmd = []string{"/bin/sh", "-c", `echo "$(pwd) $(id -u) $FROM_IMAGE $*"`, "entry"}, []string{"default", "two words"}
	i.Config.WorkingDir, i.Config.User = "/data", "worker"
	image, _ := reg.Push(t, "entry:v1", i.Build(t))
	home := s.r.(runner.Contained).Home()
	show := []string{"/bin/sh", "-c", `echo "$(pwd) $(id -u) $FROM_IMAGE"`}
	for name, c := range map[string]struct {
		run  []string
		with map[string]any
		want string
	}{
		"nothing":       {nil, nil, "/data 1000 yes default two words\n"},
		"args":          {nil, map[string]any{"args": []string{"a", "b c"}}, "/data 1000 yes a b c\n"},
		"run":           {show, nil, home + "/work 1000 yes\n"},
		"workdir":       {show, map[string]any{"workdir": "/tmp"}, "/tmp 1000 yes\n"},
		"user":          {show, map[string]any{"user": "0"}, home + "/work 0 yes\n"},
		"user of image": {show, map[string]any{"user": "root:worker"}, home + "/work 0 yes\n"},
		"all but run":   {nil, map[string]any{"workdir": "/bin", "user": "1234:5", "args": []string{"x"}}, "/bin 1234 yes x\n"},
	} {
		with := map[string]any{"image": image}
		for k, v := range c.with {
			with[k] = v
		}
		sp := s.bare(t)
		sp.Args, sp.With = c.run, s.h.Contained.with(t, with)
		if e := s.run(t, sp); !e.OK() {
			t.Errorf("%s: exit = %+v", name, e)
		}
		if d := cmp.Diff(c.want, readLog(t, sp)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	over := s.contained(t, map[string]any{"image": image}, `echo "$FROM_IMAGE"`)
	over.Env = append(over.Env, "FROM_IMAGE=of the step")
	s.expect(t, over, "of the step\n")
}

func testNoSuchUser(t *testing.T, s *suite) {
	sp := s.contained(t, map[string]any{"user": "nosuchuser"}, "echo executed")
	if e := s.run(t, sp); e.Reason != runner.ReasonStartFailed || !strings.Contains(e.Message, "nosuchuser") {
		t.Errorf("exit = %+v, want reason %s and the user named", e, runner.ReasonStartFailed)
	}
}

func testReadOnlyRoot(t *testing.T, s *suite) {
	const script = `for d in / /data /tmp /waybill/work /waybill/out; do if echo x 2>/dev/null > $d/new; then echo "$d yes"; else echo "$d no"; fi; done 2>/dev/null`
	s.expect(t, s.contained(t, nil, script), "/ no\n/data no\n/tmp yes\n/waybill/work yes\n/waybill/out yes\n")
	s.expect(t, s.contained(t, map[string]any{"writable": true}, script), "/ yes\n/data yes\n/tmp yes\n/waybill/work yes\n/waybill/out yes\n")
}

func testNetworks(t *testing.T, s *suite) {
	const script = `sed -n 's/^ *\([a-z0-9]*\):.*/\1/p' /proc/net/dev | sort | tr '\n' ' '`
	for _, n := range s.h.Contained.Networks {
		sp := s.contained(t, map[string]any{"network": n}, script)
		if e := s.run(t, sp); !e.OK() {
			t.Errorf("network %s: exit = %+v", n, e)
			continue
		}
		got := strings.Fields(readLog(t, sp))
		for i := 0; i < len(got); i++ { // tunnels that the kernel puts into every namespace
			if strings.HasPrefix(got[i], "tun") || strings.HasPrefix(got[i], "sit") || strings.HasPrefix(got[i], "ip6") || strings.HasPrefix(got[i], "gre") || strings.HasPrefix(got[i], "erspan") || strings.HasPrefix(got[i], "ip") {
				got = append(got[:i], got[i+1:]...)
				i--
			}
		}
		if none := len(got) == 1 && got[0] == "lo"; none != (n == container.NetworkNone) {
			t.Errorf("network %s: the unit has %v", n, got)
		}
	}
}

func testMemory(t *testing.T, s *suite) {
	const take = `dd if=/dev/zero of=/dev/null bs=%dM count=1`
	sp := s.contained(t, map[string]any{"memory": "64MiB"}, "exec "+fmt.Sprintf(take, 300))
	if e := s.run(t, sp); e.Reason != runner.ReasonOOM || e.OK() {
		t.Errorf("exit = %+v, want reason %s; log:\n%s", e, runner.ReasonOOM, readLog(t, sp))
	}
	child := s.contained(t, map[string]any{"memory": "64MiB"}, fmt.Sprintf(take, 300)+"; exit 9")
	if e := s.run(t, child); e.OK() || (e.Reason != runner.ReasonOOM && e.Code != 9) {
		t.Errorf("exit = %+v, want reason %s or the code of the shell that went on", e, runner.ReasonOOM)
	}
	fits := s.contained(t, map[string]any{"memory": "256MiB", "cpu": "0.5"}, fmt.Sprintf(take, 16))
	if e := s.run(t, fits); !e.OK() {
		t.Errorf("exit = %+v, want a unit within its memory untouched; log:\n%s", e, readLog(t, fits))
	}
	// A kill that nobody's memory is the reason of.
	killed := s.contained(t, map[string]any{"memory": "64MiB"}, `kill -KILL $$`)
	if e := s.run(t, killed); e.Reason != "" || e.OK() {
		t.Errorf("exit = %+v, want no reason but the signal", e)
	}
}

func testProcesses(t *testing.T, s *suite) {
	const script = `i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done; echo all`
	few := s.contained(t, map[string]any{"pids": 30}, script)
	if e := s.run(t, few); e.OK() || strings.Contains(readLog(t, few), "all\n") {
		t.Errorf("exit = %+v, want the limit to be met; log:\n%s", e, readLog(t, few))
	}
	s.expect(t, s.contained(t, map[string]any{"pids": 200}, script), "all\n")
}

func testSecretsNotShown(t *testing.T, s *suite) {
	if s.h.Contained.Inspect == nil {
		t.Skip("the platform shows nothing")
	}
	const token = "tok-8f1c53aa90be77"
	sp := s.contained(t, map[string]any{"pull": "missing"}, armed+`echo "$SECRET"; `+untilReleased)
	sp.Env = append(sp.Env, "SECRET="+masked, "WAYBILL_TOKEN="+token)
	sp.Mask = [][]byte{[]byte(masked), []byte(token)}
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "***"))
	look := func(when string) {
		t.Helper()
		shown := s.h.Contained.Inspect(t, h)
		if shown == "" {
			t.Errorf("%s: nothing is shown", when)
		}
		handle, _ := json.Marshal(h)
		for what, text := range map[string]string{"the platform shows": shown, "the handle holds": string(handle)} {
			if strings.Contains(text, token) || strings.Contains(text, masked) {
				t.Errorf("%s: %s a secret", when, what)
			}
		}
	}
	look("while it runs")
	s.release(t, h)
	s.wait(t, h)
	look("after it ended")
	checkNowhere(t, s.dir)
}

func testDecoys(t *testing.T, s *suite) {
	if s.h.Contained.Decoys == nil {
		t.Skip("nobody else is on this platform")
	}
	sp := s.contained(t, nil, "echo ours")
	check := s.h.Contained.Decoys(t, sp.Unit)
	if units, err := s.r.List(s.ctx(t)); err != nil || len(units) != 0 {
		t.Errorf("list = %v, %v; want nothing of others", units, err)
	}
	theirs := runner.Handle{Runner: s.r.Name(), Unit: sp.Unit}
	if err := s.r.Recover(s.ctx(t), theirs, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover of a unit of another instance = %v, want kind lost", err)
	}
	for name, do := range map[string]func() error{
		"stop":   func() error { return s.r.Stop(s.ctx(t), theirs, 0) },
		"remove": func() error { return s.r.Remove(s.ctx(t), theirs) },
	} {
		if err := do(); err != nil {
			t.Errorf("%s = %v, want none", name, err)
		}
	}
	check(t)
	h := s.start(t, sp)
	if e := s.wait(t, h); !e.OK() || readLog(t, sp) != "ours\n" {
		t.Errorf("exit = %+v, log %q; want our own unit to run", e, readLog(t, sp))
	}
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Fatal(err)
	}
	check(t)
}

func testVanished(t *testing.T, s *suite) {
	if s.h.Contained.Vanish == nil {
		t.Skip("units cannot be removed behind the runner's back")
	}
	sp := s.contained(t, nil, "echo ready; sleep 1000")
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "ready"))
	s.h.Contained.Vanish(t, h)
	if e, err := s.r.Wait(s.ctx(t), h); err == nil && e.OK() || err != nil && !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("wait = %+v, %v; want kind lost or no success", e, err)
	}
	if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover = %v, want kind lost", err)
	}
	if err := s.r.Stop(s.ctx(t), h, 0); err != nil {
		t.Errorf("stop = %v, want none", err)
	}
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Errorf("remove = %v, want none", err)
	}
	if units, err := s.r.List(s.ctx(t)); err != nil || len(units) != 0 {
		t.Errorf("list = %v, %v; want nothing", units, err)
	}
}

func (s *suite) rounds() int {
	if n := s.h.Contained.Rounds; n > 0 {
		return n
	}
	return 8
}

// measure is how long a start takes here.
func (s *suite) measure(t *testing.T) time.Duration {
	t.Helper()
	sp := s.contained(t, nil, "echo executed")
	began := time.Now()
	h := s.start(t, sp)
	took := time.Since(began)
	s.wait(t, h)
	return took
}

// The server dies at some point of a start, the next one starts the unit again as the
// engine does, and it is executed once.
func testDeathInStart(t *testing.T, s *suite) {
	took := s.measure(t)
	for i := range s.rounds() {
		sp := s.contained(t, nil, "echo executed; exit 4")
		ctx, cancel := context.WithTimeout(t.Context(), took*time.Duration(i)/time.Duration(s.rounds()-1))
		_, early := s.r.Start(ctx, sp)
		cancel()
		s.r = s.h.Restart(t)
		var h runner.Handle
		s.eventually(t, fmt.Sprintf("the unit of round %d is started", i), func() bool {
			var err error
			h, err = s.r.Start(s.ctx(t), sp)
			if err != nil && !waybill.IsKind(err, waybill.KindUnavailable) {
				t.Fatalf("start in round %d: %v", i, err)
			}
			return err == nil
		})
		if e := s.wait(t, h); e.Code != 4 {
			t.Errorf("round %d (first start: %v): exit = %+v, want code 4", i, early, e)
		}
		if got := readLog(t, sp); got != "executed\n" {
			t.Errorf("round %d (first start: %v): log = %q, want one execution", i, early, got)
		}
	}
}

func testDeathInRemove(t *testing.T, s *suite) {
	for i := range s.rounds() {
		sp := s.contained(t, nil, "echo ready; sleep 1000")
		h := s.start(t, sp)
		s.eventually(t, "the unit runs", s.printed(sp, "ready"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Millisecond)
		_ = s.r.Remove(ctx, h)
		cancel()
		s.r = s.h.Restart(t)
		if err := s.r.Remove(s.ctx(t), h); err != nil {
			t.Errorf("round %d: remove after a restart: %v", i, err)
		}
		if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("round %d: recover after remove = %v, want kind lost", i, err)
		}
	}
	if units, err := s.r.List(s.ctx(t)); err != nil || len(units) != 0 {
		t.Errorf("list = %v, %v; want nothing left", units, err)
	}
}

// The log of a unit that outlives servers has every line once.
func testLogGoesOn(t *testing.T, s *suite) {
	const n = 400
	sp := s.contained(t, nil, armed+fmt.Sprintf(`i=1; while [ $i -le %d ]; do echo "line $i of $SECRET"; i=$((i+1)); sleep 0.005; done; %secho last; exit 2`, n, untilReleased))
	sp.Env = append(sp.Env, "SECRET="+masked)
	sp.Mask = [][]byte{[]byte(masked)}
	if err := os.WriteFile(sp.Log, []byte("from before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := s.start(t, sp)
	for i := 1; i <= n; i += n / 4 {
		s.eventually(t, "the unit has come so far", s.printed(sp, fmt.Sprintf("line %d ", i)))
		s.r = s.h.Restart(t)
		s.recover(t, h, sp)
	}
	s.eventually(t, "the unit has come to its end", s.printed(sp, fmt.Sprintf("line %d ", n)))
	s.release(t, h)
	e := s.wait(t, h)
	want := "from before\n"
	for i := 1; i <= n; i++ {
		want += fmt.Sprintf("line %d of ***\n", i)
	}
	want += "last\n"
	if d := cmp.Diff(want, readLog(t, sp)); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
	raw := int64(len(want) - len("from before\n") + n*(len(masked)-3))
	if e.Code != 2 || e.LogBytes != raw {
		t.Errorf("exit = %+v, want code 2 and %d bytes", e, raw)
	}
	// Once more, when everything is there.
	s.r = s.h.Restart(t)
	s.recover(t, h, sp)
	if d := cmp.Diff(e, s.wait(t, h)); d != "" {
		t.Errorf("the exit changed:\n%s", d)
	}
	if d := cmp.Diff(want, readLog(t, sp)); d != "" {
		t.Errorf("log after another restart (-want +got):\n%s", d)
	}
}
