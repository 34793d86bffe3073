package oci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/oci"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// spec makes a unit that runs a script with settings.
func spec(t testing.TB, unit string, with map[string]any, script string) runner.Spec {
	t.Helper()
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	for _, d := range []string{container.Work, container.Out, container.In} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]any{"image": baseImage(t), "network": "none"}
	for k, v := range with {
		all[k] = v
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return runner.Spec{Unit: unit, Args: []string{"/bin/sh", "-c", script}, With: b, Dir: home, Log: filepath.Join(dir, "log"), Meta: map[string]string{"run": "r"}}
}

func start(t testing.TB, r *oci.Runner, sp runner.Spec) runner.Handle {
	t.Helper()
	h, err := r.Start(t.Context(), sp)
	if err != nil {
		t.Fatalf("start %s: %v", sp.Unit, err)
	}
	return h
}

func wait(t testing.TB, r *oci.Runner, h runner.Handle) runner.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	e, err := r.Wait(ctx, h)
	if err != nil {
		t.Fatalf("wait for %s: %v", h.Unit, err)
	}
	return e
}

// run runs a unit to its end, removes it, and returns its end and its log.
func run(t testing.TB, r *oci.Runner, sp runner.Spec) (runner.Exit, string) {
	t.Helper()
	h := start(t, r, sp)
	e := wait(t, r, h)
	b, _ := os.ReadFile(sp.Log)
	remove(t, r, h)
	return e, string(b)
}

func remove(t testing.TB, r *oci.Runner, h runner.Handle) {
	t.Helper()
	if err := r.Remove(context.WithoutCancel(t.Context()), h); err != nil {
		t.Errorf("remove %s: %v", h.Unit, err)
	}
}

func logged(sp runner.Spec, text string) func() bool {
	return func() bool {
		b, _ := os.ReadFile(sp.Log)
		return strings.Contains(string(b), text)
	}
}

// A unit cannot do what only the machine's owner may, although it is root in there.
func TestConfined(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{})
	box := "busybox "
	for what, script := range map[string]string{
		"mount":                "mount -t tmpfs none /data",
		"make namespaces":      "unshare -m true",
		"make user namespaces": "unshare -r true",
		"become another":       "chown 1234 /waybill/work",
		"make devices":         "mknod /waybill/work/sda b 8 0",
		"name the machine":     "hostname other",
		"read kernel messages": "dmesg",
		"change the kernel":    "sh -c 'echo 1 > /proc/sys/kernel/panic'",
		"reboot by key":        "sh -c 'echo b > /proc/sysrq-trigger'",
		"write to sysfs":       "sh -c 'echo 1 > /sys/kernel/mm/ksm/run'",
		"read kernel memory":   "sh -c 'test -s /proc/kcore'",
		"read timers":          "sh -c 'test -s /proc/timer_list'",
		"chroot":               "chroot / /bin/true",
		"write to the root":    "touch /new",
	} {
		e, log := run(t, r, spec(t, "confined-"+strings.ReplaceAll(what, " ", "-"), nil, "exec "+box+script))
		if e.OK() {
			t.Errorf("a unit can %s: %s", what, log)
		}
	}
	e, log := run(t, r, spec(t, "confined-status", nil, `grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; ls /dev; ps | grep -v ps | wc -l; cat /proc/1/environ 2>&1 | head -c 100; echo; ls /proc/1/fd 2>&1 | head -1`))
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !e.OK() || !strings.Contains(log, want+"\n") {
			t.Errorf("status lacks %q: %+v\n%s", want, e, log)
		}
	}
	if strings.Contains(log, "sda") || strings.Contains(log, "kmsg") || !strings.Contains(log, "denied") {
		t.Errorf("the unit sees more than it should:\n%s", log)
	}
	_, log = run(t, r, spec(t, "confined-keeps", map[string]any{"cap_add": []string{"NET_BIND_SERVICE", "CAP_CHOWN"}, "user": "worker"}, `grep -E '^Cap(Eff|Bnd)' /proc/self/status; chown 5 /waybill/work && echo given`))
	if log != "CapEff:\t0000000000000401\nCapBnd:\t0000000000000401\ngiven\n" {
		t.Errorf("capabilities that are kept: %q", log)
	}
}

func TestStartFailures(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{})
	reg := registrytest.New(t)
	i := registrytest.Base(t)
	i.Files = append(i.Files, registrytest.File{Path: "/plain", Text: "x"}, registrytest.File{Path: "/script", Text: "#!/no/such/shell\n", Mode: 0o755},
		registrytest.File{Path: "/garbage", Text: "\x7fELF no program at all", Mode: 0o755})
	ref, _ := reg.Push(t, "odd:v1", i.Build(t))
	for name, c := range map[string]struct {
		args []string
		with map[string]any
		code int
		say  string
	}{
		"none":           {[]string{"nosuch"}, nil, 127, `no program "nosuch"`},
		"none absolute":  {[]string{"/no/such"}, nil, 127, "no file /no/such"},
		"none in home":   {[]string{"./nosuch"}, nil, 127, "not there"},
		"folder":         {[]string{"/bin"}, nil, 126, "is no file"},
		"not executable": {[]string{"/plain"}, nil, 126, "not executable"},
		"no interpreter": {[]string{"/script"}, nil, 127, "first line"},
		"garbage":        {[]string{"/garbage"}, nil, 126, "exec format error"},
		"no user":        {[]string{"true"}, map[string]any{"user": "ghost"}, 126, `no user "ghost"`},
		"no group":       {[]string{"true"}, map[string]any{"user": "worker:ghosts"}, 126, `no group "ghosts"`},
		"no entrypoint":  {nil, nil, 127, "no run"},
		"no workdir":     {[]string{"true"}, map[string]any{"workdir": "/plain"}, 126, "not a directory"},
	} {
		with := map[string]any{"image": ref}
		for k, v := range c.with {
			with[k] = v
		}
		sp := spec(t, "fail-"+strings.ReplaceAll(name, " ", "-"), with, "")
		sp.Args = c.args
		e, log := run(t, r, sp)
		if e.Reason != runner.ReasonStartFailed || e.Code != c.code || !strings.Contains(e.Message, c.say) {
			t.Errorf("%s: exit = %+v, want code %d and %q; log %s", name, e, c.code, c.say, log)
		}
	}
}

// Where the kernel mounts no overlays a unit has a copy.
func TestWithoutOverlays(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{})
	r.WithoutOverlays()
	if e, log := run(t, r, spec(t, "copy-read-only", nil, "cat /data/hello; echo x > /data/new || echo protected")); !e.OK() || !strings.HasSuffix(log, "protected\n") {
		t.Errorf("read-only: %+v %q", e, log)
	}
	sp := spec(t, "copy-writable", map[string]any{"writable": true}, "echo changed > /data/hello; echo made > /data/new")
	h := start(t, r, sp)
	if e := wait(t, r, h); !e.OK() {
		t.Errorf("writable: %+v", e)
	}
	var b bytes.Buffer
	if err := r.CopyOut(t.Context(), h, "/data/new", &b); err != nil || b.String() != "made\n" {
		t.Errorf("copied out: %q, %v", &b, err)
	}
	remove(t, r, h)
	if _, log := run(t, r, spec(t, "copy-again", nil, "cat /data/hello")); log != "hello of the image\n" {
		t.Errorf("the image was changed by a unit: %q", log)
	}
}

// On the bridge a unit reaches this machine and not the other units.
func TestBridge(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{})
	gateway, err := r.Gateway(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(gateway.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "hello "+q.Method) })}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	bridge := map[string]any{"network": "bridge"}
	other := spec(t, "bridge-other", bridge, `ip -4 -o addr show eth0 | sed 's/.*inet \([0-9.]*\).*/addr \1/'; while :; do echo secret | nc -l -p 9000; done`)
	h := start(t, r, other)
	defer remove(t, r, h)
	eventually(t, "the other unit listens", logged(other, "addr 172."))
	text, _ := os.ReadFile(other.Log)
	addr := strings.TrimSpace(strings.TrimPrefix(string(text), "addr "))
	eventually(t, "this machine reaches the unit", func() bool {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "9000"), 5*time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	e, log := run(t, r, spec(t, "bridge-caller", bridge, fmt.Sprintf(
		`wget -q -O - http://%s/; echo; grep -c host.waybill.internal /etc/hosts; nc -w 2 %s 9000 </dev/null && echo reached; exit 0`, l.Addr(), addr)))
	if !e.OK() || !strings.HasPrefix(log, "hello GET\n1\n") || strings.Contains(log, "secret") || strings.Contains(log, "reached") {
		t.Errorf("exit = %+v, log %q; want this machine reached and the other unit not", e, log)
	}
}

func TestSubnet(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{config: oci.Config{Subnet: "127.10.0.0/24"}})
	_, err := r.Start(t.Context(), spec(t, "collides", map[string]any{"network": "bridge"}, "true"))
	if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "collide") {
		t.Errorf("a subnet that is taken: %v", err)
	}
	if units, err := r.List(t.Context()); err != nil || len(units) != 0 {
		t.Errorf("left: %v, %v", units, err)
	}
	own, _ := newRunner(t, setup{config: oci.Config{Subnet: "198.51.100.0/29"}})
	for i := range 12 { // more than there are addresses
		e, log := run(t, own, spec(t, "small-"+strconv.Itoa(i), map[string]any{"network": "bridge"}, `ip -4 -o addr show eth0`))
		if !e.OK() || !strings.Contains(log, "inet 198.51.100.") {
			t.Fatalf("unit %d: %+v %q", i, e, log)
		}
	}
	for _, bad := range []string{"fd00::/64", "10.0.0.0/30", "words"} {
		if _, err := oci.New(oci.Options{Config: oci.Config{Subnet: bad}, Dir: t.TempDir(), Inner: r}); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("subnet %q: %v", bad, err)
		}
	}
}

func TestQuota(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{config: oci.Config{Quota: 1 << 20}})
	_, err := r.Start(t.Context(), spec(t, "large", nil, "true"))
	p, ok := runner.AsPullError(err)
	if !ok || p.Reason != runner.ReasonPullQuota && p.Reason != runner.ReasonImage {
		t.Errorf("an image larger than the quota: %v", err)
	}
}

func TestNoRuntime(t *testing.T) {
	need(t)
	r, _ := newRunner(t, setup{config: oci.Config{Runtime: "no-such-runtime"}})
	_, err := r.Start(t.Context(), spec(t, "none", nil, "true"))
	if !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "no-such-runtime") {
		t.Errorf("error = %v", err)
	}
	if r.Available(t.Context()) {
		t.Error("a runtime that is not there is available")
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho cannot >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r2, _ := newRunner(t, setup{config: oci.Config{Runtime: broken}})
	if _, err := r2.Start(t.Context(), spec(t, "none", nil, "true")); !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "cannot") {
		t.Errorf("error = %v", err)
	}
}
