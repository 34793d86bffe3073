package fault

import "testing"

func TestAt(t *testing.T) {
	killed := 0
	if err := arm("here:3", func() { killed++ }); err != nil {
		t.Fatal(err)
	}
	defer arm("", nil) //nolint:errcheck // disarming cannot fail
	for i, want := range []int{0, 0, 1, 1, 1} {
		At("there")
		At("here")
		if killed != want {
			t.Errorf("after pass %d: killed %d times, want %d", i+1, killed, want)
		}
	}
	for _, bad := range []string{"here", "here:", ":1", "here:0", "here:x", "here:-1"} {
		if err := Arm(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func BenchmarkAt(b *testing.B) {
	for b.Loop() {
		At("here")
	}
}
