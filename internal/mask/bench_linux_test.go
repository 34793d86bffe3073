package mask

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// secrets are passwords and tokens as they occur: 16 to 40 characters.
func secrets(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./+$!"
	out := make([]string, n)
	for i := range out {
		b := make([]byte, 16+r.IntN(25))
		for j := range b {
			b[j] = chars[r.IntN(len(chars))]
		}
		out[i] = string(b)
	}
	return out
}

// logText is what programs write: words, times, numbers, some base64.
func logText(size int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	words := strings.Fields("level=info msg=request handled status=200 path=/api/v1/runs duration=12.5ms user=anna the file was copied to " +
		"the bucket and its checksum is fine error: connection reset by peer retrying in 200ms GET POST https://example.org/a/b?c=d&e=f")
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "2026-03-02T10:%02d:%02d.%03dZ ", i/60%60, i%60, i%1000)
		for range 8 + r.IntN(8) {
			b.WriteString(words[r.IntN(len(words))])
			b.WriteByte(' ')
		}
		if i%4 == 0 {
			raw := make([]byte, 30)
			for j := range raw {
				raw[j] = byte(r.Uint32())
			}
			b.WriteString(base64.StdEncoding.EncodeToString(raw))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()[:size]
}

// BenchmarkMask says how fast text is masked, and which share of a core that is for a
// log of 100 MB/s. The promise is 10 % with 50 secrets.
func BenchmarkMask(b *testing.B) {
	text := logText(1 << 20)
	for _, n := range []int{1, 50, 500} {
		for _, found := range []bool{false, true} {
			values := secrets(n)
			m := New(values...)
			in := text
			if found { // one in every 10 kB
				in = slices.Clone(text)
				for i := 0; i+1000 < len(in); i += 10_000 {
					copy(in[i:], values[i/10_000%n])
				}
			}
			b.Run(fmt.Sprintf("secrets=%d/found=%v", n, found), func(b *testing.B) {
				b.SetBytes(int64(len(in)))
				s := m.Stream()
				before := cpuTime(b)
				for b.Loop() {
					for part := range slices.Chunk(in, 64<<10) {
						s.Next(part)
					}
				}
				// Not the time that passed: others may use the machine.
				perSecond := float64(len(in)) * float64(b.N) / (cpuTime(b) - before).Seconds()
				b.ReportMetric(100*100e6/perSecond, "%core@100MB/s")
				b.ReportMetric(float64(len(m.forms)), "forms")
			})
		}
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
