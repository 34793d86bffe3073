package inside

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOrderArrivesWholeOrNotAtAll(t *testing.T) {
	want := Order{Word: "w", Args: []string{"a", ""}, Env: []string{"A=1\n2", "B="}, HardStop: time.Unix(1, 0).UTC()}
	var b bytes.Buffer
	if err := Send(&b, want); err != nil {
		t.Fatal(err)
	}
	all := b.Bytes()
	got, err := Receive(bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for n := range all {
		if _, err := Receive(bytes.NewReader(all[:n])); err == nil {
			t.Errorf("an order cut after %d of %d bytes was taken", n, len(all))
		}
	}
	if _, err := Receive(bytes.NewReader([]byte{255, 255, 255, 255, 0})); err == nil {
		t.Error("an order of 4 GiB was taken")
	}
	if err := Send(io.Discard, Order{Env: []string{string(bytes.Repeat([]byte("x"), maxOrder))}}); err == nil {
		t.Error("an order that nobody takes was sent")
	}
}

// However a log is cut, frames and output are the same.
func TestParserDoesNotDependOnCuts(t *testing.T) {
	began, ended := time.Unix(10, 5).UTC(), time.Unix(20, 0).UTC()
	m := string(mark("word"))
	log := string(Frame{Began: began}.bytes("word")) + "out\x00put\n\x00waybill \x00waybill wor" + m[:len(m)-1] + "x" +
		string(Frame{Began: began}.bytes("another")) + "no newline" + m + "{no json\n" +
		string(Frame{Began: began, Ended: ended, Code: 3}.bytes("word"))
	wantOut := "out\x00put\n\x00waybill \x00waybill wor" + m[:len(m)-1] + "x" + string(Frame{Began: began}.bytes("another")) + "no newline" + m + "{no json\n"
	for i := range 300 {
		var out bytes.Buffer
		var frames []Frame
		p := NewParser("word", func(f Frame) { frames = append(frames, f) }, func(b []byte) { out.Write(b) })
		rest := []byte(log)
		for len(rest) > 0 {
			n := 1 + rand.IntN(1+min(i, len(rest)-1))
			if n > len(rest) {
				n = len(rest)
			}
			fmt.Fprintf(p, "%s", rest[:n])
			rest = rest[n:]
		}
		p.End()
		if d := cmp.Diff(wantOut, out.String()); d != "" {
			t.Fatalf("output (-want +got):\n%s", d)
		}
		if d := cmp.Diff([]Frame{{Began: began}, {Began: began, Ended: ended, Code: 3}}, frames); d != "" {
			t.Fatalf("frames (-want +got):\n%s", d)
		}
	}
}

func TestParserHoldsBackNoMoreThanAMark(t *testing.T) {
	var out bytes.Buffer
	p := NewParser("word", func(Frame) {}, func(b []byte) { out.Write(b) })
	fmt.Fprint(p, "prompt> ")
	if out.String() != "prompt> " {
		t.Errorf("%q is out", out.String())
	}
	fmt.Fprint(p, string(mark("word")), string(make([]byte, maxFrame+1)))
	if out.Len() < maxFrame {
		t.Error("a frame that does not end is held for ever")
	}
}
