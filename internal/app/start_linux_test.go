package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

const echo = "name: echo\nsteps: [{name: say, run: [\"/bin/sh\", \"-c\", \"echo hello\"]}]\n"

// refused is why a server does not start.
func refused(t *testing.T, c Config, kind waybill.Kind, words ...string) {
	t.Helper()
	s, err := Start(t.Context(), c)
	if err == nil {
		stop(t, s)
		t.Fatal("the server started")
	}
	var w *waybill.Error
	if !errors.As(err, &w) || w.Kind != kind {
		t.Errorf("refused with %v, want kind %s", err, kind)
		return
	}
	told := err.Error() + " (" + w.Hint + ")"
	for _, word := range words {
		if !strings.Contains(told, word) {
			t.Errorf("refused with %q, want %q in it", told, word)
		}
	}
}

func TestOneServerForADirectory(t *testing.T) {
	t.Parallel()
	c := config(t, nil)
	s := start(t, c)
	refused(t, c, waybill.KindConflict, fmt.Sprintf("process %d", os.Getpid()), c.Data, "--data")
	if _, _, err := OpenTokens(t.Context(), c.Data, ""); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("tokens of a running server opened with %v", err)
	}
	if _, err := clientOf(t, s.URL(), "").Pipelines(t.Context(), client.ListPipelinesParams{}); err != nil {
		t.Errorf("the first server was disturbed: %v", err)
	}
	stop(t, s)
	stop(t, start(t, c))
}

func TestTokensOffLoopback(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{"pipelines/echo.yaml": echo})
	c.Listen = "0.0.0.0:0"
	listened := false
	c.Ready = func(string) { listened = true }
	refused(t, c, waybill.KindInvalid, "not a loopback address", "waybill token create --role admin --data "+c.Data)
	if listened {
		t.Error("it could be reached before it was known that there is no token")
	}

	tokens, closeTokens, err := OpenTokens(t.Context(), c.Data, "")
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := tokens.CreateToken(t.Context(), "first", waybill.RoleAdmin, 0, waybill.Principal{Name: "test", Role: waybill.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	if err := closeTokens(); err != nil {
		t.Fatal(err)
	}

	s := start(t, c)
	for token, want := range map[string]int{"": 401, "wrong": 401, secret: 0} {
		_, err := clientOf(t, s.URL(), token).Pipelines(t.Context(), client.ListPipelinesParams{})
		var e *client.Error
		if got := errors.As(err, &e); want == 0 && err != nil || want != 0 && (!got || e.Status != want) {
			t.Errorf("with token %.6q: %v, want status %d", token, err, want)
		}
	}
	if code, _ := health(t, s.URL()); code != 200 {
		t.Errorf("health answers %d", code)
	}
	// A unit of such a server reports with its own token.
	admin := clientOf(t, s.URL(), secret)
	succeeds(t, admin, begin(t, admin, "echo"))
	stop(t, s)
}

// health is what /health answers.
func health(t *testing.T, url string) (int, waybill.Health) {
	t.Helper()
	res, err := caller().Get(url + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var h waybill.Health
	if err := json.NewDecoder(res.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, h
}

// Ready is called when the listener is there and before the store is opened.
func TestHealthWhileTheStoreOpens(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{"pipelines/echo.yaml": echo})
	asked := false
	c.Ready = func(url string) {
		asked = true
		if code, h := health(t, url); code != 503 || h.Status != "starting" {
			t.Errorf("while starting: %d %s", code, h.Status)
		}
		_, err := clientOf(t, url, "").StartRun(t.Context(), "echo", client.StartRun{}, "")
		var e *client.Error
		if !errors.As(err, &e) || e.Status != 503 || e.RetryAfter == 0 {
			t.Errorf("start while starting: %v", err)
		}
	}
	s := start(t, c)
	if !asked {
		t.Error("the server was never ready to be asked")
	}
	if code, h := health(t, s.URL()); code != 200 || h.Status != "ok" || h.Store != "sqlite" {
		t.Errorf("started: %d %+v", code, h)
	}
	stop(t, s)
}

// Probes may come as often as they like without a flush for each.
func TestHealthIsCheap(t *testing.T) {
	t.Parallel()
	s := start(t, config(t, nil))
	begun := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if h := s.health(t.Context()); h.Status != "ok" {
					t.Errorf("health: %+v", h)
				}
			}
		})
	}
	wg.Wait()
	row, err := s.store.Get(t.Context(), "", tableMeta, "health")
	if most := 2 + int64(time.Since(begun)/lookEvery); err != nil || row.Rev > most {
		t.Errorf("the store was written %d times for 400 probes (%v), want %d at most", row.Rev, err, most)
	}
	stop(t, s)
}

// What a caller that went away was waiting for is found out all the same, and
// others do not get its error.
func TestHealthWithoutItsCaller(t *testing.T) {
	t.Parallel()
	l := newLooks()
	ctx, cancel := context.WithCancel(t.Context())
	if err := l.ask(ctx, func(ctx context.Context) error {
		cancel()
		return ctx.Err()
	}); err != nil {
		t.Errorf("the look ended with its caller: %v", err)
	}
	if err := l.ask(t.Context(), func(context.Context) error { return errors.New("asked again") }); err != nil {
		t.Error(err)
	}
}

// selfSigned makes a certificate for 127.0.0.1.
func selfSigned(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(c)
	return cert, key, pool
}

func TestTLS(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{"pipelines/echo.yaml": echo})
	var pool *x509.CertPool
	c.TLSCert, c.TLSKey, pool = selfSigned(t)
	s := start(t, c)
	trusting, err := client.New(client.Options{Server: s.URL(), RetryFor: -1, HTTP: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	succeeds(t, trusting, begin(t, trusting, "echo"))
	if _, err := clientOf(t, s.URL(), "").Pipelines(t.Context(), client.ListPipelinesParams{}); err == nil {
		t.Error("a client that does not know the certificate trusts it")
	}
	plain := "http" + strings.TrimPrefix(s.URL(), "https")
	if _, err := clientOf(t, plain, "").Pipelines(t.Context(), client.ListPipelinesParams{}); err == nil {
		t.Error("the server answers without TLS")
	}
	stop(t, s)

	if err := os.WriteFile(c.TLSKey, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	listened := false
	c.Ready = func(string) { listened = true }
	refused(t, c, waybill.KindInvalid, "read certificate", c.TLSCert)
	if listened {
		t.Error("it listened without a certificate")
	}
}

func TestProjectWithMistakes(t *testing.T) {
	t.Parallel()
	t.Run("settings", func(t *testing.T) {
		t.Parallel()
		for text, words := range map[string][]string{
			"units:\n  max: 4\n  mox: 5\n":          {"waybill.yaml", "3:3", "mox"},
			"units:\n  max: many\n":                 {"waybill.yaml", "2:8"},
			"retention: {runs: never}\n":            {"waybill.yaml:1:", "never", "duration"},
			"units: {max: 0}\n":                     {"waybill.yaml", "units.max"},
			"units: {base_env: [\"NO GOOD\"]}\n":    {"waybill.yaml", "units.base_env"},
			"units: [\n":                            {"waybill.yaml"},
			"callback: {grace: -1s}\n":              {"waybill.yaml", "-1s"},
			"queue: {high_water: 0}\nname: shop\n":  {"waybill.yaml", "queue.high_water"},
			"units: {log_cap: 10}\nname: too small": {"waybill.yaml", "units.log_cap"},
		} {
			refused(t, config(t, map[string]string{"waybill.yaml": text}), waybill.KindInvalid, words...)
		}
	})
	t.Run("pipelines", func(t *testing.T) {
		t.Parallel()
		c := config(t, map[string]string{
			"pipelines/a.yaml": "name: a\nsteps:\n  - name: one\n    run: [\"true\"]\n    retyr: 3\n  - name: one\n    run: [\"true\"]\n",
			"pipelines/b.yaml": "name: b\nsteps:\n  - name: x\n    run: [\"true\"]\n    needs: [nobody]\n",
			"pipelines/c.yaml": echo,
			"pipelines/d.yaml": "name: d\nvars: {___X: \"${env:NOT_SET_ANYWHERE}\"}\nsteps: [{name: x, run: [\"true\"]}]\n",
		})
		refused(t, c, waybill.KindInvalid,
			"pipelines/a.yaml:5:", "retyr", "pipelines/a.yaml:6:", "pipelines/b.yaml:5:", "nobody", "pipelines/d.yaml:2:", "NOT_SET_ANYWHERE")
		// Put right, it starts, and a file that goes away later takes its pipeline along.
		for _, name := range []string{"a", "b", "d"} {
			if err := os.Remove(filepath.Join(c.Project, "pipelines", name+".yaml")); err != nil {
				t.Fatal(err)
			}
		}
		s := start(t, c)
		all, err := clientOf(t, s.URL(), "").Pipelines(t.Context(), client.ListPipelinesParams{})
		if err != nil || len(all.Items) != 1 {
			t.Errorf("%d pipelines: %v", len(all.Items), err)
		}
		stop(t, s)
	})
}

// A server that is stopped leaves its units, and the next one takes them up.
func TestUnitsOutliveTheServer(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{"pipelines/long.yaml": `name: long
steps:
  - name: wait
    run: ["./wait.sh"]
    outputs: {pid: int}
  - name: after
    run: ["/bin/sh", "-c", "echo done >> {{dir}}/after"]
`, "wait.sh": `#!/bin/sh
echo $$ >> {{dir}}/pids
while [ ! -e {{dir}}/go ]; do sleep 0.05; done
echo pid=$$ > $WAYBILL_OUTPUT
`})
	work := filepath.Dir(c.Data)
	s := start(t, c)
	id := begin(t, clientOf(t, s.URL(), ""), "long")
	pids := func() string {
		b, _ := os.ReadFile(filepath.Join(work, "pids"))
		return strings.TrimSpace(string(b))
	}
	eventually(t, "the unit runs", func() bool { return pids() != "" })
	stop(t, s)
	pid := pids()
	if !exists("/proc/" + pid) {
		t.Fatal("the unit ended with the server")
	}
	s = start(t, c)
	if err := os.WriteFile(filepath.Join(work, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := succeeds(t, clientOf(t, s.URL(), ""), id)
	if pids() != pid {
		t.Errorf("the unit was started again: %q", pids())
	}
	if len(r.Attempts) != 2 {
		t.Errorf("%d attempts at two steps", len(r.Attempts))
	}
	stop(t, s)
}
