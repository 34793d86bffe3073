package demo

import (
	"bytes"
	"strings"
	"testing"
)

func TestSamplesAreTheSameForASeed(t *testing.T) {
	t.Parallel()
	a, b, other := Samples(1), Samples(1), Samples(2)
	if len(a) < 4 || len(a) > 6 {
		t.Errorf("%d files", len(a))
	}
	for i := range a {
		if a[i].Key != b[i].Key || !bytes.Equal(a[i].Content, b[i].Content) {
			t.Errorf("%s differs from one time to the next", a[i].Key)
		}
		if bytes.Equal(a[i].Content, other[i].Content) {
			t.Errorf("%s does not depend on the seed", a[i].Key)
		}
	}
}

func TestSamplesLookLikeOrders(t *testing.T) {
	t.Parallel()
	for _, s := range Samples(1) {
		lines := strings.Split(strings.TrimSuffix(string(s.Content), "\n"), "\n")
		if !strings.HasSuffix(s.Key, ".csv") || lines[0] != Header || len(lines) < 2000 {
			t.Errorf("%s begins with %q and has %d lines", s.Key, lines[0], len(lines))
		}
		odd, returns, seen := 0, 0, map[string]bool{}
		for _, l := range lines[1:] {
			f := strings.Split(l, ",")
			if len(f) != 7 || seen[f[0]] {
				odd++
				continue
			}
			seen[f[0]] = true
			if strings.HasPrefix(f[4], "-") {
				returns++
			}
		}
		if returns == 0 {
			t.Errorf("%s has no returns", s.Key)
		}
		if broken := strings.HasPrefix(s.Key, "web-"); broken != (odd > 0) {
			t.Errorf("%s has %d odd rows", s.Key, odd)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0": "0", "999": "999", "1000": "1,000", "-1234567": "-1,234,567", "1203442.1": "1,203,442.10", "0.5": "0.50", "-1000.25": "-1,000.25",
		"": "", "n/a": "n/a",
	} {
		if got := thousands(in); got != want {
			t.Errorf("thousands(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"/tmp/a-1": "/tmp/a-1", "": "''", "a b": "'a b'", "it's": `'it'\''s'`} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
