package httpd_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
)

// The listener for units serves what the token of an attempt opens, to such tokens only:
// it can stand where the API must not.
func TestUnitsListener(t *testing.T) {
	b := setup(t)
	b.world.Attempts["unit"] = "run-1/greet/1"
	_, operator, err := b.world.Services().Tokens.CreateToken(t.Context(), "op", "admin", 0, waybill.Principal{Name: "local", Tenant: "default", Role: waybill.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	h := b.server.UnitsHandler()
	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{"POST", "/api/v1/runs/run-1/steps/greet/attempts/1/heartbeat", "unit", 200},
		{"POST", "/api/v1/runs/run-1/steps/greet/attempts/1/heartbeat", "", 401},
		{"POST", "/api/v1/runs/run-1/steps/greet/attempts/1/heartbeat", "wrong", 401},
		{"POST", "/api/v1/runs/run-1/steps/greet/attempts/1/heartbeat", operator, 401},
		{"GET", "/api/v1/whoami", "unit", 200},
		{"GET", "/api/v1/whoami", "", 401},
		{"GET", "/api/v1/whoami", operator, 401},
		{"GET", "/api/v1/runs", "unit", 404},
		{"GET", "/api/v1/runs", operator, 404},
		{"GET", "/api/v1/tokens", "", 404},
		{"GET", "/health", "", 404},
		{"GET", "/metrics", operator, 404},
		{"GET", "/", "", 404},
		{"GET", "/api/v1/openapi.yaml", "", 404},
		{"GET", "/nothing", "unit", 404},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader("{}"))
		r.Host, r.RemoteAddr = "172.17.0.1:39999", "172.17.0.2:1234"
		r.Header.Set("Content-Type", "application/json")
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s %s with %q: %d, want %d: %s", c.method, c.path, c.token, w.Code, c.want, w.Body)
		}
	}
}
