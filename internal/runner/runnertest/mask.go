package runnertest

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/runner"
)

// masked is a secret whose forms differ; Shell puts lines into single quotes.
const masked = "p4s$ w0rd/+<&>"

func secretLines() []string {
	b := []byte(masked)
	return []string{
		"plain " + masked + " end", "base64 " + base64.StdEncoding.EncodeToString(b), "inside " + base64.RawURLEncoding.EncodeToString([]byte("u:"+masked+"@h")),
		"query " + url.QueryEscape(masked), "path " + url.PathEscape(masked), "hex " + hex.EncodeToString(b), "harmless p4s$ w0rd",
	}
}

func testMasks(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: secretLines(), Count: 3})
	sp.Mask = [][]byte{[]byte(masked), []byte("unused-unused")}
	e := s.run(t, sp)
	if !e.OK() || e.Truncated {
		t.Errorf("exit = %+v", e)
	}
	checkMasked(t, sp)
	checkNowhere(t, filepath.Dir(sp.Log))
}

func checkMasked(t *testing.T, sp runner.Spec) {
	t.Helper()
	got := readLog(t, sp)
	for _, want := range []string{"plain *** end\n", "base64 ***\n", "query ***\n", "path ***\n", "hex ***\n", "harmless p4s$ w0rd\n", "line 3\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log does not hold %q:\n%s", want, got)
		}
	}
	if left := mask.New(masked).String(got); left != got {
		t.Errorf("the log holds the secret:\n%s", got)
	}
}

// checkNowhere fails when a file below dir holds the secret.
func checkNowhere(t *testing.T, dir string) {
	t.Helper()
	m := mask.New(masked)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it was removed meanwhile
		}
		if b, err := os.ReadFile(path); err == nil && m.Holds(string(b)) {
			t.Errorf("%s holds the secret", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func needMasksRestart(o Options, h Harness) string {
	if why := needShell(o, h); why != "" {
		return why
	}
	return needRestart(o, h)
}

// A unit outlives the server and goes on to be masked, also in the middle of a secret.
func testMasksRestart(t *testing.T, s *suite) {
	sp := s.sh(t, armed+`echo ready; printf 'first %.6s' "$SECRET"; `+untilReleased+`printf '%s\n' "${SECRET#??????}"; printf '%s' "$SECRET" | base64`)
	sp.Env = append(sp.Env, "SECRET="+masked)
	sp.Mask = [][]byte{[]byte(masked)}
	h := s.start(t, sp)
	s.eventually(t, "the unit is ready", s.printed(sp, "ready\n"))
	if c := s.h.Contained; c == nil || !c.Lines {
		s.eventually(t, "the beginning is in the log", s.printed(sp, "first "))
	}
	s.r = s.h.Restart(t)
	s.recover(t, h, sp)
	s.release(t, h)
	if e := s.wait(t, h); !e.OK() {
		t.Errorf("exit = %+v", e)
	}
	if got := readLog(t, sp); got != "ready\nfirst ***\n***\n" {
		t.Errorf("log = %q", got)
	}
}

// The cap counts what is kept, which is the masked text.
func testMasksCap(t *testing.T, s *suite) {
	const limit = 200
	lines := make([]string, 100)
	for i := range lines {
		lines[i] = masked
	}
	sp := s.spec(t, Program{Lines: lines, RunFor: 10 * time.Millisecond})
	sp.Mask, sp.LogCap = [][]byte{[]byte(masked)}, limit
	e := s.run(t, sp)
	if total := int64(100 * (len(masked) + 1)); e.LogBytes != total || !e.Truncated {
		t.Errorf("exit = %+v, want %d bytes counted and truncated", e, total)
	}
	checkCut(t, sp, strings.Repeat("***\n", limit/4))
}
