package sourcetest_test

import (
	"testing"

	"github.com/waybill-run/waybill/internal/source/sourcetest"
)

func TestFake(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(*testing.T) *sourcetest.Place {
		f := sourcetest.NewFake()
		return &sourcetest.Place{Source: f, Send: f.Send, Left: f.Left, Cut: f.Cut, Names: true}
	})
}
