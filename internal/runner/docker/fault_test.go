package docker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/docker"
	"github.com/waybill-run/waybill/internal/runner/dockertest"
)

// script makes a spec that runs a shell script in a home of its own.
func script(t *testing.T, w world, unit, text string, more map[string]any) runner.Spec {
	t.Helper()
	dir := filepath.Join(t.TempDir(), unit)
	for _, d := range []string{container.Work, container.Out, container.In} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	with := map[string]any{"image": w.image}
	for k, v := range more {
		with[k] = v
	}
	b, err := json.Marshal(with)
	if err != nil {
		t.Fatal(err)
	}
	return runner.Spec{
		Unit: unit, Args: []string{"/bin/sh", "-c", text}, Dir: dir, Log: dir + ".log", With: b,
		Env: []string{"PATH=/bin"},
	}
}

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// insist starts a unit as the engine of runs does: what is unavailable is tried again.
func insist(t *testing.T, r *docker.Runner, sp runner.Spec) runner.Handle {
	t.Helper()
	ctx := patient(t)
	for {
		h, err := r.Start(ctx, sp)
		if err == nil {
			return h
		}
		if !waybill.IsKind(err, waybill.KindUnavailable) {
			t.Fatalf("start: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func mustExit(t *testing.T, r *docker.Runner, h runner.Handle) runner.Exit {
	t.Helper()
	ctx := patient(t)
	for {
		e, err := r.Wait(ctx, h)
		if err == nil {
			return e
		}
		if !waybill.IsKind(err, waybill.KindUnavailable) {
			t.Fatalf("wait: %v", err)
		}
	}
}

func logOf(t *testing.T, sp runner.Spec) string {
	t.Helper()
	b, err := os.ReadFile(sp.Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func tidy(t *testing.T, w world, r *docker.Runner) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		units, err := r.List(ctx)
		if err != nil {
			t.Errorf("list at the end: %v", err)
		}
		for _, h := range units {
			if err := r.Remove(ctx, h); err != nil {
				t.Errorf("remove at the end: %v", err)
			}
		}
		tidyNetwork(w, r)
		r.Close()
	})
}

// Whatever call of the engine goes wrong, once or a few times, a unit is executed once,
// its log has every line once, and nothing is left.
func TestFaultsOfCalls(t *testing.T) {
	w := engine(t)
	calls := map[string]dockertest.Fault{
		"inspect":       {Method: "GET", Path: "/json"},
		"inspect image": {Method: "GET", Path: "/images/"},
		"create":        {Method: "POST", Path: "/containers/create"},
		"attach":        {Method: "POST", Path: "/attach"},
		"start":         {Method: "POST", Path: "/start"},
		"logs":          {Method: "GET", Path: "/logs"},
		"info":          {Method: "GET", Path: "/info"},
		"remove":        {Method: "DELETE", Path: "/containers/"},
		"list":          {Method: "GET", Path: "/containers/json"},
	}
	ways := map[string]func(*dockertest.Fault){
		"500":        func(f *dockertest.Fault) { f.Status = 500 },
		"503":        func(f *dockertest.Fault) { f.Status = 503 },
		"cut":        func(f *dockertest.Fault) { f.Cut = true },
		"lost reply": func(f *dockertest.Fault) { f.Lost = true },
	}
	n := 0
	for call, base := range calls {
		for way, spoil := range ways {
			if way == "lost reply" && (call == "logs" || call == "attach") {
				continue // they have no reply but the stream
			}
			n++
			unit := fmt.Sprintf("fault-%d", n)
			t.Run(call+" "+way, func(t *testing.T) {
				t.Parallel()
				p := dockertest.NewProxy(t, w.daemon)
				o := w.options(t)
				o.Host = p.Host
				r := newRunner(t, o)
				tidy(t, w, r)
				for _, times := range []int{1, 3} {
					f := base
					spoil(&f)
					f.Left = times
					p.Break(f)
					sp := script(t, w, fmt.Sprintf("%s-%d", unit, times), "echo executed; exit 3", nil)
					h := insist(t, r, sp)
					if e := mustExit(t, r, h); e.Code != 3 {
						t.Errorf("exit = %+v", e)
					}
					if got := logOf(t, sp); got != "executed\n" {
						t.Errorf("log = %q", got)
					}
					ctx := patient(t)
					for {
						err := r.Remove(ctx, h)
						if err == nil {
							break
						}
						if !waybill.IsKind(err, waybill.KindUnavailable) {
							t.Fatalf("remove: %v", err)
						}
					}
					p.Mend()
					if units, err := r.List(ctx); err != nil || len(units) != 0 {
						t.Errorf("list = %v, %v; want nothing left", units, err)
					}
				}
			})
		}
	}
}

func TestRemoveThatFailsThirtyTimesSucceedsAtLast(t *testing.T) {
	t.Parallel()
	w := engine(t)
	p := dockertest.NewProxy(t, w.daemon)
	o := w.options(t)
	o.Host = p.Host
	r := newRunner(t, o)
	tidy(t, w, r)
	sp := script(t, w, "stays", "echo kept", nil)
	h := insist(t, r, sp)
	mustExit(t, r, h)
	p.Break(dockertest.Fault{Method: "DELETE", Path: "/containers/", Left: 30, Status: 500})
	for i := range 30 {
		if err := r.Remove(t.Context(), h); !waybill.IsKind(err, waybill.KindUnavailable) {
			t.Fatalf("removal %d: %v, want kind unavailable", i, err)
		}
	}
	if err := r.Recover(t.Context(), h, runner.Spec{}); err != nil {
		t.Errorf("recover of what could not be removed: %v", err)
	}
	if err := r.Remove(t.Context(), h); err != nil {
		t.Errorf("removal 31: %v", err)
	}
	if err := r.Recover(t.Context(), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover = %v, want kind lost", err)
	}
}

func TestLostReplyOfCreateMakesOneContainer(t *testing.T) {
	t.Parallel()
	w := engine(t)
	p := dockertest.NewProxy(t, w.daemon)
	o := w.options(t)
	o.Host = p.Host
	r := newRunner(t, o)
	tidy(t, w, r)
	p.Break(dockertest.Fault{Method: "POST", Path: "/containers/create", Left: 1, Lost: true})
	sp := script(t, w, "once", "echo executed", nil)
	h := insist(t, r, sp)
	mustExit(t, r, h)
	if got := logOf(t, sp); got != "executed\n" {
		t.Errorf("log = %q", got)
	}
	if units, err := r.List(t.Context()); err != nil || len(units) != 1 {
		t.Errorf("list = %v, %v; want one", units, err)
	}
}

// A connection that ends in the middle of a log is made again, and no byte is missing.
func TestLogThatIsCutGoesOn(t *testing.T) {
	t.Parallel()
	w := engine(t)
	p := dockertest.NewProxy(t, w.daemon)
	o := w.options(t)
	o.Host = p.Host
	r := newRunner(t, o)
	tidy(t, w, r)
	for _, after := range []int{1, 9, 300, 5000, 5001, 20000} {
		p.Break(dockertest.Fault{Path: "/logs", Left: 1, After: after})
	}
	sp := script(t, w, "cut", `i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done`, nil)
	e := mustExit(t, r, insist(t, r, sp))
	var want strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got := logOf(t, sp); got != want.String() || e.LogBytes != int64(want.Len()) || !e.OK() {
		t.Errorf("log of %d bytes, want %d; exit = %+v", len(got), want.Len(), e)
	}
	if n := p.Calls("GET", "/logs"); n < 7 {
		t.Errorf("the log was asked for %d times; the test cut nothing", n)
	}
}

func TestForeignContainerWithOurName(t *testing.T) {
	t.Parallel()
	w := engine(t)
	r := newRunner(t, w.options(t))
	tidy(t, w, r)
	made, err := w.api.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: docker.ContainerName(r, "taken"), Config: &dockercontainer.Config{Image: w.image, Cmd: []string{"/bin/true"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _ = w.api.ContainerRemove(context.Background(), made.ID, client.ContainerRemoveOptions{Force: true})
	}()
	_, err = r.Start(t.Context(), script(t, w, "taken", "echo executed", nil))
	if !waybill.IsKind(err, waybill.KindConflict) || !strings.Contains(err.Error(), docker.ContainerName(r, "taken")) {
		t.Errorf("start = %v, want a conflict that names the container", err)
	}
	if err := r.Remove(t.Context(), runner.Handle{Runner: docker.Name, Unit: "taken"}); err != nil {
		t.Errorf("remove = %v, want none", err)
	}
	if _, err := w.api.ContainerInspect(t.Context(), made.ID, client.ContainerInspectOptions{}); err != nil {
		t.Errorf("the other's container is gone: %v", err)
	}
}

// Units on the bridge reach a listener on the gateway's address, and each other's
// instance has a network of its own.
func TestUnitsReachTheGateway(t *testing.T) {
	t.Parallel()
	w := engine(t)
	r := newRunner(t, w.options(t))
	tidy(t, w, r)
	gateway, err := r.Gateway(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(gateway.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan string, 2)
	s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { called <- q.URL.Path })}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	sp := script(t, w, "calls", fmt.Sprintf("wget -q -O /dev/null http://%s/by-address && wget -q -O /dev/null http://host.waybill.internal:%d/by-name", l.Addr(), l.Addr().(*net.TCPAddr).Port), map[string]any{"network": "bridge"})
	if e := mustExit(t, r, insist(t, r, sp)); !e.OK() {
		t.Errorf("exit = %+v, log %q", e, logOf(t, sp))
	}
	for _, want := range []string{"/by-address", "/by-name"} {
		select {
		case path := <-called:
			if path != want {
				t.Errorf("path = %q, want %q", path, want)
			}
		default:
			t.Errorf("nobody called %s", want)
		}
	}
	again, err := r.Gateway(t.Context())
	if err != nil || again != gateway {
		t.Errorf("gateway = %v, %v; it was %v", again, err, gateway)
	}
}

func TestNoEngine(t *testing.T) {
	t.Parallel()
	began := time.Now()
	r := newRunner(t, docker.Options{Config: docker.Config{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock")}, Instance: "i", Program: staticProgram(t)})
	defer r.Close()
	if r.Available(t.Context()) {
		t.Error("an engine that is not there is available")
	}
	sp := script(t, world{image: "demo:v1"}, "u", "true", nil)
	_, err := r.Start(t.Context(), sp)
	if !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("start = %v, want kind unavailable and the socket", err)
	}
	if _, err := r.Gateway(t.Context()); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("gateway = %v, want kind unavailable", err)
	}
	if found := r.Examine(t.Context()); len(found) != 1 || found[0].Status != waybill.FindingFail {
		t.Errorf("findings = %+v, want one that says what is wrong", found)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v to see that nobody is there", d)
	}
}

// staticProgram is any static executable.
func staticProgram(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/bin/busybox"); err != nil {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatal("no static program; install the package busybox-static")
		}
		t.Skip("no static program; install the package busybox-static")
	}
	return "/bin/busybox"
}

func TestProgramThatIsNotStatic(t *testing.T) {
	t.Parallel()
	r := newRunner(t, docker.Options{Instance: "i", Program: "/bin/sh"})
	defer r.Close()
	if r.Available(t.Context()) {
		t.Error("available with a program that no container can run")
	}
	err := r.Ready(t.Context())
	if !waybill.IsKind(err, waybill.KindUnsupported) || !strings.Contains(fmt.Sprint(err), "static") {
		t.Errorf("ready = %v, want kind unsupported and why", err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]docker.Config{
		"network": {Network: "vpn"}, "files": {Files: "smb"}, "subnet": {Subnet: "10.0.0.1/24"}, "tls_cert": {TLSCert: "x"}, "host": {Host: "nowhere"},
	} {
		if _, err := docker.New(docker.Options{Config: c}); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, want kind invalid and %s", c, err, name)
		}
	}
}

// The engine crashes, hangs and comes back. What it took with it is no success, what
// outlived it is known again, and new units run.
func TestEngineThatEnds(t *testing.T) {
	w := engine(t)
	d, err := dockertest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	o := w.options(t)
	o.Host, o.Patience = d.Host(), 2*time.Second
	r := newRunner(t, o)
	defer r.Close()
	ref := loadBase(t, d)
	spec := func(unit, text string) runner.Spec {
		return script(t, w, unit, text, map[string]any{"image": ref, "pull": "never"})
	}
	ended := spec("ended", "echo done; exit 7")
	hEnded := insist(t, r, ended)
	mustExit(t, r, hEnded)
	running := spec("running", "echo ready; sleep 1000")
	hRunning := insist(t, r, running)

	t.Run("hangs", func(t *testing.T) {
		d.Pause()
		began := time.Now()
		for what, do := range map[string]func() error{
			"start": func() error { _, err := r.Start(t.Context(), spec("late", "true")); return err },
			"wait":  func() error { _, err := r.Wait(t.Context(), hRunning); return err },
			"list":  func() error { _, err := r.List(t.Context()); return err },
			"stop":  func() error { return r.Stop(t.Context(), hRunning, time.Second) },
		} {
			if err := do(); !waybill.IsKind(err, waybill.KindUnavailable) {
				t.Errorf("%s while it hangs = %v, want kind unavailable", what, err)
			}
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v to see that it hangs", took)
		}
		d.Continue()
		late := spec("late", "echo late")
		if e := mustExit(t, r, insist(t, r, late)); !e.OK() || logOf(t, late) != "late\n" {
			t.Errorf("exit = %+v, log %q", e, logOf(t, late))
		}
	})
	for name, end := range map[string]func(){"crashes": d.Kill, "is ended": d.Terminate} {
		t.Run(name, func(t *testing.T) {
			unit := "caught-" + strings.ReplaceAll(name, " ", "-")
			caught := spec(unit, `trap "" TERM; echo ready; sleep 1000`)
			h := insist(t, r, caught)
			end()
			if _, err := r.List(t.Context()); !waybill.IsKind(err, waybill.KindUnavailable) {
				t.Errorf("list without an engine = %v, want kind unavailable", err)
			}
			if _, err := r.Start(t.Context(), spec("unstarted", "true")); !waybill.IsKind(err, waybill.KindUnavailable) {
				t.Errorf("start without an engine = %v, want kind unavailable", err)
			}
			if err := d.Restart(); err != nil {
				t.Fatal(err)
			}
			// An engine ends what it finds running when it comes back.
			if e, err := r.Wait(patient(t), h); err == nil && e.OK() || err != nil && !waybill.IsKind(err, waybill.KindLost) && !waybill.IsKind(err, waybill.KindUnavailable) {
				t.Errorf("wait for what the engine took with it = %+v, %v", e, err)
			}
			if err := r.Remove(patient(t), h); err != nil {
				t.Errorf("remove: %v", err)
			}
			again := newRunner(t, o)
			defer again.Close()
			if err := again.Recover(t.Context(), hEnded, runner.Spec{Unit: "ended", Log: ended.Log}); err != nil {
				t.Errorf("recover of an ended unit: %v", err)
			}
			if e := mustExit(t, again, hEnded); e.Code != 7 || logOf(t, ended) != "done\n" {
				t.Errorf("exit = %+v, log %q; want what it was before", e, logOf(t, ended))
			}
		})
	}
}

func TestAddressWithTLS(t *testing.T) {
	t.Parallel()
	w := engine(t)
	at, ca := dockertest.NewTLS(t, w.daemon)
	for name, c := range map[string]struct {
		config docker.Config
		ok     bool
	}{
		"authority":    {docker.Config{Host: at, TLSCA: ca}, true},
		"no authority": {docker.Config{Host: at, TLSCA: otherAuthority(t)}, false},
	} {
		r := newRunner(t, docker.Options{Config: c.config, Instance: "i", Program: w.program})
		if err := r.Ready(t.Context()); (err == nil) != c.ok {
			t.Errorf("%s: ready = %v", name, err)
		}
		r.Close()
	}
}
