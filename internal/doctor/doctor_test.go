package doctor_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/doctor"
)

func find(t *testing.T, found []waybill.Finding, check string) waybill.Finding {
	t.Helper()
	for _, f := range found {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no %s in %+v", check, found)
	return waybill.Finding{}
}

func TestDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if f := find(t, doctor.Disk("data", dir), "data.folder"); f.Status != waybill.FindingFail {
		t.Errorf("a folder that is not there: %+v", f)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	found := doctor.Disk("data", dir)
	if f := find(t, found, "data.folder"); f.Status != waybill.FindingOK || f.Hint != "" {
		t.Errorf("a folder of its owner: %+v", f)
	}
	if f := find(t, found, "data.flush"); f.Detail == "" || f.Status == waybill.FindingFail {
		t.Errorf("flush: %+v", f)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if f := find(t, doctor.Disk("data", dir), "data.folder"); f.Status != waybill.FindingWarn || f.Hint == "" {
		t.Errorf("a folder that is open to others: %+v", f)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if f := find(t, doctor.Permissions(dir, "secret", "absent"), "data.keys"); f.Status != waybill.FindingFail {
		t.Errorf("a key that others can read: %+v", f)
	}
}

func TestClockAndPort(t *testing.T) {
	// A time whose wall clock is an hour behind its monotonic one cannot be made; one
	// without a monotonic part compares the wall clock with itself.
	if f := find(t, doctor.Clock(time.Now().Add(-time.Minute)), "clock.jump"); f.Status != waybill.FindingOK {
		t.Errorf("a clock that nobody set: %+v", f)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if f := doctor.Port(ln.Addr().String()); f.Status != waybill.FindingWarn {
		t.Errorf("a port that is taken: %+v", f)
	}
	if f := doctor.Port("127.0.0.1:0"); f.Status != waybill.FindingOK {
		t.Errorf("a free port: %+v", f)
	}
}

func TestWorst(t *testing.T) {
	ok, warn, fail := doctor.F("a", waybill.FindingOK, "", "x"), doctor.F("a", waybill.FindingWarn, "", "x"), doctor.F("a", waybill.FindingFail, "", "x")
	for want, list := range map[waybill.FindingStatus][]waybill.Finding{
		waybill.FindingOK: {ok}, waybill.FindingWarn: {ok, warn, ok}, waybill.FindingFail: {fail, warn, ok},
	} {
		if got := doctor.Worst(list); got != want {
			t.Errorf("%v: %s, want %s", list, got, want)
		}
	}
}
