//go:build linux

package containers

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// The image that ran is recorded with its digest, whatever its tag says later.
func TestImageIsPinned(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/says.yaml":   pipeline("says", steps(sh("work", "cat /data/hello", "with: {pull: always}"))),
			"pipelines/digest.yaml": pipeline("digest", steps("{name: work, runner: '{{runner}}', image: '${{ vars.___IMAGE }}', run: [cat, /data/hello]}")),
		}})
		id := w.start("says")
		first := attempt(t, w.ends(id, waybill.StatusSucceeded), "work", 1)
		if want := w.image + "@" + w.sum; first.Image != want {
			t.Errorf("the image is %q, want %q", first.Image, want)
		}
		w.cleaned(id)
		other := registrytest.Base(t)
		for i := range other.Files {
			if other.Files[i].Path == "/data/hello" {
				other.Files[i].Text = "another hello\n"
			}
		}
		_, sum := w.reg.Push(t, "base:v1", other.Build(t))
		id = w.start("says")
		second := attempt(t, w.ends(id, waybill.StatusSucceeded), "work", 1)
		if want := w.image + "@" + sum; second.Image != want || w.log(id, "work", 1) != "another hello\n" {
			t.Errorf("the image is %q, want %q; it says %q", second.Image, want, w.log(id, "work", 1))
		}
		w.cleaned(id)
		// By its digest the first one runs again.
		id = w.start("digest", "___IMAGE="+w.reg.Host+"/base@"+w.sum)
		if a := attempt(t, w.ends(id, waybill.StatusSucceeded), "work", 1); !strings.HasSuffix(a.Image, "@"+w.sum) || w.log(id, "work", 1) != "hello of the image\n" {
			t.Errorf("the image is %q, it says %q", a.Image, w.log(id, "work", 1))
		}
		w.cleaned(id)
		if out := w.mustCLI("run", "show", id); !strings.Contains(out, w.sum[7:19]) {
			t.Errorf("run show does not tell the digest:\n%s", out)
		}
	})
}

// What of the network a container sees is what its step says.
func TestNetworks(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		wit := newWitness(t)
		look := `ls /sys/class/net | tr '\n' ' '; echo; wget -q -O /dev/null "http://` + wit.host + `/a/b/c/d" && echo reached || echo not reached`
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/net.yaml": pipeline("net", steps(
				sh("none", look+`; echo "url: $WAYBILL_CALLBACK"`, "with: {network: none}"),
				sh("host", look, "with: {network: host}"),
				sh("bridge", look, "with: {network: bridge}"),
				sh("default", look),
			)),
		}})
		id := w.start("net")
		w.ends(id, waybill.StatusSucceeded)
		if got := w.log(id, "none", 1); !strings.HasPrefix(got, "lo \n") || !strings.Contains(got, "\nnot reached\n") {
			t.Errorf("without a network: %q", got)
		}
		if got := w.log(id, "host", 1); !strings.Contains(got, "\nreached") {
			t.Errorf("on the network of the machine: %q", got)
		}
		for _, s := range []string{"bridge", "default"} {
			if got := w.log(id, s, 1); !strings.Contains(got, "eth0 ") || !strings.Contains(got, "\nnot reached") {
				t.Errorf("%s: %q, want a connection of its own, and not to this machine's loopback", s, got)
			}
		}
		w.cleaned(id)
		if p.name == "oci" {
			harness.Until(t, soon, "the bridge has no connections", func() error {
				if l := linksOCI(w); len(l) > 0 {
					return fmt.Errorf("%v", l)
				}
				return nil
			})
		}
	})
}

// A container on the bridge reaches the callback listener of a server that listens on
// loopback only, and nothing else of it; others cannot use what it reaches.
func TestCallbackFromTheBridge(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/calls.yaml": pipeline("calls", steps(sh("work",
				`base=${WAYBILL_CALLBACK%%/api/*}; echo "base $base"; `+
					`for path in /api/v1/runs /health /api/v1/openapi.yaml /metrics /; do wget -q -O - "$base$path" >/dev/null 2>err && echo "open $path"; head -1 err; done; `+
					call+`'{"variables":{"___X":"from inside"}}' $WAYBILL_CALLBACK && echo told; `+
					`wget -q -O - --post-data '___Y=classic' "$___NextStageFunctionUrl" >/dev/null 2>&1; echo done`,
				"callback: required"))),
		}})
		id := w.start("calls")
		r := w.ends(id, waybill.StatusSucceeded)
		log := w.log(id, "work", 1)
		if variable(r, "___X") != "from inside" || !strings.Contains(log, "told") {
			t.Errorf("the callback told %q: %s", variable(r, "___X"), log)
		}
		if strings.Contains(log, "open /") || strings.Count(log, "404 Not Found") != 5 {
			t.Errorf("from inside it can be seen: %s", log)
		}
		base, _, _ := strings.Cut(strings.TrimPrefix(log, "base "), "\n")
		u, err := url.Parse(base)
		if err != nil || u.Hostname() == "127.0.0.1" || u.Host == strings.TrimPrefix(w.URL(), "http://") {
			t.Fatalf("the unit was told to call %q, %v", base, err)
		}
		// The API is not there either for who stands outside, nor with a name of the machine.
		for _, path := range []string{"/api/v1/runs", "/health", "/"} {
			res, err := w.http.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusNotFound {
				t.Errorf("%s%s answers %d", base, path, res.StatusCode)
			}
		}
		res, err := w.http.Post(base+"/api/v1/runs/"+id+"/steps/work/attempts/1/callback", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a callback without a token: %d, want 401", res.StatusCode)
		}
		w.cleaned(id)
		// The listener is at the same address in the server's next life.
		w.Kill()
		w.Start()
		if res, err := w.http.Get(base + "/health"); err != nil || res.StatusCode != http.StatusNotFound {
			t.Errorf("after a restart: %v, %v", res, err)
		}
	})
}

// User, working directory, limits and what can be written are as the step says, and a
// container has no rights that it was not given.
func TestLimits(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		sees := []struct{ name, script, with, want string }{
			{"plain", `id -u; id -g; pwd; echo "$FROM_IMAGE"; touch /x 2>/dev/null || echo read only; touch /tmp/y && echo tmp; grep -E 'CapEff|NoNewPrivs' /proc/self/status | tr -d '\t'`, "",
				"0\n0\n/waybill/work\nyes\nread only\ntmp\nCapEff:0000000000000000\nNoNewPrivs:1\n"},
			{"user", `id -u; id -g; pwd; touch mine && echo wrote; echo K=v >"$WAYBILL_OUTPUT" && echo told`, "user: 'worker:worker'", "1000\n1000\n/waybill/work\nwrote\ntold\n"},
			{"named", `id -G`, "user: worker", "1000 2000\n"},
			{"number", `id -u; id -g`, "user: '1234:5678'", "1234\n5678\n"},
			{"dir", `pwd`, "workdir: /data", "/data\n"},
			{"writable", `touch /x && echo wrote; rm /data/hello && echo removed`, "writable: true", "wrote\nremoved\n"},
			{"fresh", `ls /x 2>/dev/null; cat /data/hello`, "", "hello of the image\n"},
			{"cap", `grep CapEff /proc/self/status | tr -d '\t'`, "cap_add: [NET_BIND_SERVICE]", "CapEff:0000000000000400\n"},
			{"tmp", `dd if=/dev/zero of=/tmp/f bs=1M count=8 2>/dev/null || echo full`, "tmp_size: 4MiB", "full\n"},
			{"seen", `ls / | tr '\n' ' '; ps | wc -l | tr -d ' '`, "", ""},
		}
		var all []string
		for _, s := range sees {
			all = append(all, sh(s.name, s.script, "with: {"+s.with+"}"))
		}
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/sees.yaml": pipeline("sees", steps(all...)),
			"pipelines/pids.yaml": pipeline("pids", steps(sh("work", `for i in $(seq 60); do sleep 2 & done; wait`, "with: {pids: 20}", "timeout: 60s"))),
			"pipelines/cpu.yaml":  pipeline("cpu", steps(sh("work", `end=$(($(date +%s)+4)); while [ $(date +%s) -lt $end ]; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; done; times | head -1`, "with: {cpu: 0.2}"))),
			"pipelines/eats.yaml": pipeline("eats", steps(sh("work", `echo eating; dd if=/dev/zero of=/dev/null bs=200M count=1`, "with: {memory: 32MiB}"))) +
				"on_failure:\n  - " + sh("tell", `echo told`) + "\n",
			"pipelines/bad.yaml":   pipeline("bad", steps("{name: work, runner: '{{runner}}', image: '{{image}}', run: [/no/such/program]}")),
			"pipelines/noone.yaml": pipeline("noone", steps(sh("work", "true", "with: {user: nobody-here}"))),
		}})
		id := w.start("sees")
		w.ends(id, waybill.StatusSucceeded)
		for _, s := range sees {
			if got := w.log(id, s.name, 1); s.want != "" && got != s.want {
				t.Errorf("%s: it saw %q, want %q", s.name, got, s.want)
			}
		}
		if got := w.log(id, "seen", 1); !strings.Contains(got, "waybill") {
			t.Errorf("it sees %q", got)
		}

		eats := w.start("eats")
		r := w.ends(eats, waybill.StatusFailed)
		if a := attempt(t, r, "work", 1); a.Reason != "oom_killed" || w.log(eats, "tell", 1) != "told\n" {
			t.Errorf("too much memory: reason %q (%s), on_failure says %q", a.Reason, a.Error, w.log(eats, "tell", 1))
		}
		if out := w.mustCLI("run", "show", eats); !strings.Contains(out, "memory") && !strings.Contains(out, "oom") {
			t.Errorf("run show does not tell of the memory:\n%s", out)
		}

		cpu := w.start("cpu")
		w.ends(cpu, waybill.StatusSucceeded)
		var user, system float64
		log := w.log(cpu, "work", 1)
		if _, err := fmt.Sscanf(strings.NewReplacer("0m", "", "s", "").Replace(log), "%f %f", &user, &system); err != nil || user+system > 2 {
			t.Errorf("with a fifth of a processor for 4 s it computed for %q (%v)", log, err)
		}

		pids := w.start("pids")
		var ended client.RunDetail
		harness.Until(t, soon, "the run with too many processes ends", func() error {
			if ended = w.run(pids); !ended.Status.Terminal() {
				return fmt.Errorf("%s", shown(ended))
			}
			return nil
		})
		if log := w.log(pids, "work", 1); !strings.Contains(log, "fork") {
			t.Errorf("60 processes where 20 may be: %s: %q", ended.Status, log)
		}

		bad := w.start("bad")
		if a := attempt(t, w.ends(bad, waybill.StatusFailed), "work", 1); a.Reason != "start_failed" || !strings.Contains(a.Error, "/no/such/program") && !strings.Contains(a.Error, "not there") && !strings.Contains(a.Error, "no such file") {
			t.Errorf("a program that is not there: reason %q (%s)", a.Reason, a.Error)
		}
		noone := w.start("noone")
		if a := attempt(t, w.ends(noone, waybill.StatusFailed), "work", 1); a.Reason != "start_failed" || !strings.Contains(a.Error, "nobody-here") {
			t.Errorf("a user that is not there: reason %q (%s)", a.Reason, a.Error)
		}
		w.cleaned(id, eats, cpu, pids, bad, noone)
	})
}

// Files come in and go out, from the working directory and from anywhere in the container,
// also when the container failed.
func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: map[string]string{
			"pipelines/files.yaml": pipeline("files", steps(
				sh("make", `mkdir out; echo "made of $(cat conf.json) and $(cat in/text)" >out/report.txt; echo deep >/data/deep.txt; chmod 600 /data/deep.txt; echo 'N=42' >"$WAYBILL_OUTPUT"`,
					"inputs: {conf.json: {shard: 7}, in/text: {bucket: in, key: text}}",
					"outputs: {report: {file: out/report.txt, bucket: reports, key: '${{ run.id }}'}, deep: {file: /data/deep.txt}, N: int}",
					"with: {writable: true}"),
				sh("use", `cat from/report from/deep; echo "n is $N"; cat "$WAYBILL_EVENT" | head -c 1`,
					"inputs: {from/report: '${{ steps.make.outputs.report }}', from/deep: '${{ steps.make.outputs.deep }}'}", "env: {N: '${{ string(steps.make.outputs.N) }}'}", "with: {user: '1000:1000'}"),
			)),
			"pipelines/fails.yaml": pipeline("fails", steps(
				sh("make", `echo half >half.txt; echo trace >/data/trace.txt; exit 5`, "outputs: {half: {file: half.txt}, trace: {file: /data/trace.txt}, never: {file: never.txt}}", "with: {writable: true}"),
			)) + "on_failure:\n  - " + sh("look", `echo looked`) + "\n",
			"pipelines/none.yaml": pipeline("none", steps(sh("make", `true`, "outputs: {deep: {file: /data/not-there}}"))),
			"pipelines/link.yaml": pipeline("link", steps(sh("make", `ln -s /etc/passwd leak; ln -s ../../../../../../etc/hostname leak2`, "outputs: {leak: {file: leak}}"))),
		}})
		put := w.Command("object", "put", "in", "text", "-")
		put.Stdin = strings.NewReader("a text")
		if out, err := put.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		id := w.start("files")
		w.ends(id, waybill.StatusSucceeded)
		if got := w.log(id, "use", 1); !strings.HasPrefix(got, "made of {\"shard\":7} and a text\ndeep\nn is 42\n{") {
			t.Errorf("the second container saw %q", got)
		}
		if got := w.mustCLI("object", "get", "reports", id); !strings.HasPrefix(got, "made of ") {
			t.Errorf("the object is %q", got)
		}
		fails := w.start("fails")
		w.ends(fails, waybill.StatusFailed)
		// They are kept with the attempt; the steps after it have no outputs of it.
		got := attempt(t, w.run(fails), "make", 1).Returned
		for name, content := range map[string]string{"half": "half\n", "trace": "trace\n"} {
			v, _ := got.Get(name)
			f, ok := v.File()
			if want := fmt.Sprintf("%x", sha256.Sum256([]byte(content))); !ok || f.SHA256 != want || f.Size != int64(len(content)) {
				t.Errorf("the failed container's file %s is %s, want %s", name, v, want)
			}
		}
		if _, ok := got.Get("never"); ok {
			t.Errorf("a file that was not written: %s", text(got))
		}
		if got := w.log(fails, "look", 1); got != "looked\n" {
			t.Errorf("on_failure says %q", got)
		}
		none := w.start("none")
		if a := attempt(t, w.ends(none, waybill.StatusFailed), "make", 1); !strings.Contains(a.Error, "there is no file /data/not-there") {
			t.Errorf("a file that is not there: %s", a.Error)
		}
		link := w.start("link")
		if a := attempt(t, w.ends(link, waybill.StatusFailed), "make", 1); !strings.Contains(a.Error, "output leak") {
			t.Errorf("a link that leads out of the home: %s", a.Error)
		}
		w.cleaned(id, fails, none, link)
	})
}

// The API and the command line show what runs where, of which image.
func TestUnitsAreListed(t *testing.T) {
	each(t, func(t *testing.T, p platform) {
		w := serve(t, p, harness.Options{Project: relay()})
		id := w.start("relay")
		u := w.held(id, "work", 1)
		list := w.unitList(id)
		if len(list) != 1 || list[0].Unit != u.name || list[0].Runner != p.name || !list[0].Known || list[0].Orphan || list[0].Phase != waybill.PhaseRunning || !strings.HasSuffix(list[0].Image, w.sum) {
			t.Errorf("the list is %+v", list)
		}
		if out := w.mustCLI("unit", "list"); !strings.Contains(out, u.name) || !strings.Contains(out, p.name) {
			t.Errorf("unit list:\n%s", out)
		}
		begun := time.Now()
		u.exit(0)
		w.ends(id, waybill.StatusSucceeded)
		w.cleaned(id)
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("the end of a unit and another one took %v", took)
		}
		if list := w.unitList(id); len(list) != 0 {
			t.Errorf("what is gone is listed: %+v", list)
		}
	})
}
