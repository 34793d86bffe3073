package process_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/mask"
)

// The supervisor keeps what it is to mask in its memory: neither its folder nor its
// command line nor its environment show anything of it, nor the unit's environment,
// which holds the secrets.
func TestSecretsStayInMemory(t *testing.T) {
	t.Parallel()
	const value = "correct horse/battery+staple"
	r, dir := newRunner(t, setup{})
	sp := sh(t, "keeps", `echo "$SECRET"; while [ ! -e go ]; do sleep 0.01; done; echo "$SECRET" | base64`)
	sp.Env = append(sp.Env, "SECRET="+value)
	sp.Mask = [][]byte{[]byte(value)}
	h := mustStart(t, r, sp)
	eventually(t, "the first line is in the log", func() bool { b, _ := os.ReadFile(sp.Log); return len(b) > 0 })

	m := mask.New(value)
	clean := func(when string) {
		t.Helper()
		pid := supervisorPID(t, dir)
		if pid == 0 {
			t.Fatalf("%s: there is no supervisor", when)
		}
		files := []string{fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid), sp.Log}
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if m.Holds(string(b)) {
				t.Errorf("%s: %s holds the secret", when, f)
			}
		}
		if len(files) < 5 {
			t.Errorf("%s: only %v were looked at", when, files)
		}
	}
	clean("while it runs")
	if err := os.WriteFile(filepath.Join(sp.Dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustWait(t, r, h)
	clean("after its end")
	if got := logOf(t, sp); got != "***\n***\n" {
		t.Errorf("log = %q", got)
	}
	if err := r.Remove(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	clean("after its removal")
}

// BenchmarkLog is a unit that prints 256 MiB as fast as it can, without secrets and with
// 50 of them. CPU@100MB/s is the share of a core that the supervisor takes for a log of
// 100 MB/s, all included; the difference of the two is the price of masking, which shall
// be at most 10 %.
func BenchmarkLog(b *testing.B) {
	line := []byte("2026-03-02T10:00:00.000Z level=info msg=\"request handled\" status=200 path=/api/v1/runs duration=12.5ms user=anna\n")
	text := bytes.Repeat(line, (16<<20)/len(line))
	source := filepath.Join(b.TempDir(), "text")
	if err := os.WriteFile(source, text, 0o600); err != nil {
		b.Fatal(err)
	}
	const times = 16
	share := map[int]float64{}
	for _, secrets := range []int{0, 50} {
		b.Run("secrets="+strconv.Itoa(secrets), func(b *testing.B) {
			r, dir := newRunner(b, setup{idle: time.Second})
			sp := sh(b, "warm-up", "true")
			mustWait(b, r, mustStart(b, r, sp))
			rnd := rand.New(rand.NewPCG(1, 2))
			for range secrets {
				v := make([]byte, 16+rnd.IntN(25))
				for i := range v {
					v[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[rnd.IntN(64)]
				}
				sp.Mask = append(sp.Mask, v)
			}
			sp.Args = append([]string{"/bin/cat"}, strings.Fields(strings.Repeat(source+" ", times))...)
			pid := supervisorPID(b, dir)
			before := cpu(b, pid)
			b.SetBytes(int64(times * len(text)))
			n := 0
			for b.Loop() {
				n++
				sp.Unit = fmt.Sprintf("b-%d", n)
				h := mustStart(b, r, sp)
				if e := mustWait(b, r, h); !e.OK() || e.LogBytes != int64(times*len(text)) {
					b.Fatalf("exit = %+v", e)
				}
				if err := r.Remove(b.Context(), h); err != nil {
					b.Fatal(err)
				}
				os.Remove(sp.Log)
			}
			perByte := (cpu(b, pid) - before).Seconds() / float64(n) / float64(times*len(text))
			share[secrets] = 100 * 100e6 * perByte
			b.ReportMetric(share[secrets], "%core@100MB/s")
			if secrets > 0 {
				b.ReportMetric(share[secrets]-share[0], "%masking@100MB/s")
			}
		})
	}
}
