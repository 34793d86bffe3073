package facet_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No test leaves a goroutine behind: closing an index ends all that it began.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
