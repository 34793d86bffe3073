package file_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/waybill-run/waybill/internal/blob/file"
)

// BenchmarkPut stores small new content, one at a time and by many at once.
func BenchmarkPut(b *testing.B) {
	s, err := file.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	put := func() {
		if _, err := s.Put(b.Context(), strings.NewReader(fmt.Sprint("content ", n.Add(1))), 0); err != nil {
			b.Error(err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			put()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				put()
			}
		})
	})
}
