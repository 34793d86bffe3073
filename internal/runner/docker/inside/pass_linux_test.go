package inside

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects what an engine would have kept of it: whole lines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// kept is the text of the lines that have ended, without marks, and the longest line.
func (l *lines) kept() (text string, longest int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.b.String()
	all = all[:strings.LastIndexByte(all, '\n')+1]
	for line := range strings.Lines(all) {
		longest = max(longest, len(line))
	}
	var out bytes.Buffer
	p := NewParser("word", func(Frame) {}, func(b []byte) { out.Write(b) })
	fmt.Fprint(p, all)
	p.End()
	return out.String(), longest
}

func TestPassIsExactWhateverIsWritten(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for range 200 {
		n := rand.IntN(1 + rand.IntN(30_000))
		for range n {
			want.WriteByte("ab\x00\xff\n"[rand.IntN(4+rand.IntN(2)*rand.IntN(2))])
		}
	}
	go func() {
		rest := want.Bytes()
		for len(rest) > 0 {
			n := 1 + rand.IntN(len(rest))
			_, _ = to.Write(rest[:n])
			rest = rest[n:]
		}
		to.Close()
	}()
	var got lines
	if rest := pass(from, &got, "word", 0); rest != 0 {
		t.Errorf("%d bytes were not passed on", rest)
	}
	text, long := got.kept()
	if text != want.String() {
		t.Errorf("%d bytes became %d others", want.Len(), len(text))
	}
	if long > 16<<10 {
		t.Errorf("a line of %d bytes, which engines cut", long)
	}
}

func TestPassIsPrompt(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var got lines
	done := make(chan int64)
	go func() { done <- pass(from, &got, "word", 20) }()
	for i, want := range []string{"prompt> ", "prompt> again> "} {
		fmt.Fprint(to, []string{"prompt> ", "again> "}[i])
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if text, _ := got.kept(); text == want {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%q is kept, want %q", text, want)
			}
		}
	}
	fmt.Fprint(to, "and more than is wanted")
	to.Close()
	if rest := <-done; rest != 15+23-20 {
		t.Errorf("%d bytes counted", rest)
	}
	if text, _ := got.kept(); text != "prompt> again> and m" {
		t.Errorf("%q is kept", text)
	}
}
