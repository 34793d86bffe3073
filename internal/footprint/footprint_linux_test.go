package footprint

import (
	"bytes"
	"os"
	"strconv"
	"testing"
)

// resident is how much of the program's own file is in memory, in KiB.
func resident(t *testing.T) int {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	sum, ours := 0, false
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		switch {
		case len(f) >= 5 && bytes.Contains(f[0], []byte("-")):
			ours = len(f) >= 6 && string(f[5]) == exe && f[1][1] == '-'
		case ours && len(f) >= 2 && string(f[0]) == "Rss:":
			n, err := strconv.Atoi(string(f[1]))
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// The program goes on after its pages were given back, many at once.
func TestRelease(t *testing.T) {
	before := resident(t)
	done := make(chan bool)
	for range 4 {
		go func() {
			for range 20 {
				Release()
				_ = bytes.Repeat([]byte("x"), 1<<16)
			}
			done <- true
		}()
	}
	for range 4 {
		<-done
	}
	Release()
	if after := resident(t); after >= before {
		t.Errorf("%d KiB of the program's file are resident, %d were before", after, before)
	}
}
