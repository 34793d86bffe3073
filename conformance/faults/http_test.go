//go:build linux

package faults

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// api is a system that a step calls. It remembers the keys of requests.
type api struct {
	mu   sync.Mutex
	keys []string
	hold chan struct{} // the first request waits until it closes
	came chan struct{} // receives when a request came
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.keys = append(a.keys, r.Header.Get("Idempotency-Key"))
	first := len(a.keys) == 1
	a.mu.Unlock()
	a.came <- struct{}{}
	if first && a.hold != nil {
		select {
		case <-a.hold:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, `{"id":7,"said":%s}`, b)
}

const calls = `
steps:
  - name: call
    runner: http
    with:
      url: ${{ vars.URL }}
      body: {ref: "${{ run.id }}"}
      expect: {filter: "body.id == 7"}
      outputs: {id: body.id, ___SAID: body.said.ref}
      save: {file: out/answer.json}
    outputs: {id: int, answer: {file: out/answer.json}}
  - name: use
    run: [sh, -c, 'echo "said $___SAID, id $1"', x, "${{ steps.call.outputs.id + 1 }}"]
`

// A server that is killed while a request is under way has another attempt make it,
// with the same key, so that the other side can act once.
func TestRequestUnderWayAtKill(t *testing.T) {
	a := &api{hold: make(chan struct{}), came: make(chan struct{}, 10)}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(a.hold) })
	w := serve(t, harness.Options{Project: map[string]string{"pipelines/calls.yaml": pipeline("calls", "vars: {URL: \""+srv.URL+"\"}"+calls)}})
	id := w.start("calls")
	<-a.came
	// Before that is written, the same attempt asks again.
	w.reaches(id, "call", 1, "runs", func(a client.Attempt) bool { return a.Phase == waybill.PhaseRunning })
	w.Kill()
	w.Start()
	r := w.ends(id, waybill.StatusSucceeded)
	if got := attempt(t, r, "call", 1); got.Status != waybill.StatusLost {
		t.Errorf("attempt 1 is %s, want lost", got.Status)
	}
	if want := []string{id + "/call", id + "/call"}; !slices.Equal(a.keys, want) {
		t.Errorf("keys %q, want %q", a.keys, want)
	}
	if got := variable(r, "___SAID"); got != id {
		t.Errorf("the answer gave %q, want %q", got, id)
	}
	got := w.ask(http.MethodGet, "/api/v1/runs/"+id+"/logs?step=use", "", nil)
	if !strings.Contains(got.Body, "said "+id+", id 8") {
		t.Errorf("the log of the step after it is %v", got)
	}
	for _, s := range r.Steps {
		if answer, _ := s.Outputs.Get("answer"); s.Name == "call" && !strings.Contains(string(answer), `"answer.json"`) {
			t.Errorf("the saved answer is %s", answer)
		}
	}
	w.cleaned(id)
}

// A server refuses to call what its settings deny, whatever the pipeline says.
func TestRequestDenied(t *testing.T) {
	a := &api{came: make(chan struct{}, 10)}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	w := serve(t, harness.Options{Project: map[string]string{
		"waybill.yaml":         "http: {deny: [loopback, private]}\n",
		"pipelines/calls.yaml": pipeline("calls", "vars: {URL: \""+strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)+"\"}"+calls),
	}})
	r := w.ends(w.start("calls"), waybill.StatusFailed)
	if got := attempt(t, r, "call", 1); got.Reason != "denied" || !strings.Contains(got.Error, "http.deny") {
		t.Errorf("attempt 1 failed with %q: %s", got.Reason, got.Error)
	}
	if len(a.keys) != 0 {
		t.Error("it was called all the same")
	}
}
