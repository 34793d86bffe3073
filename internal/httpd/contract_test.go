package httpd_test

import (
	"net/http"
	"testing"

	"github.com/waybill-run/waybill/api"
)

// A server hands out the contract it serves.
func TestContractIsServed(t *testing.T) {
	b := setup(t)
	res, err := b.client.Get(b.url + "/api/v1/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got := make([]byte, len(api.Spec)+1)
	n := 0
	for n < len(got) {
		k, err := res.Body.Read(got[n:])
		n += k
		if err != nil {
			break
		}
	}
	if res.StatusCode != http.StatusOK || string(got[:n]) != string(api.Spec) {
		t.Errorf("answer %d with %d bytes, want the contract of %d", res.StatusCode, n, len(api.Spec))
	}
}
