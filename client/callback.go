package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// UnitCallback reports to an attempt from inside its unit. It is safe for
// concurrent use.
type UnitCallback struct {
	c    *Client
	path string // of the attempt
}

// NewCallback returns the callback of WAYBILL_CALLBACK and WAYBILL_TOKEN. The
// token may stand in the URL instead. Reports are repeated for ten minutes unless
// Options say otherwise, since a server that restarts still wants them; its
// Server and Token are not used.
func NewCallback(callback, token string, o Options) (*UnitCallback, error) {
	u, err := url.Parse(callback)
	if err != nil || u.Host == "" || !strings.HasSuffix(u.Path, "/callback") {
		return nil, &Error{Kind: waybill.KindInvalid, Detail: "the callback URL is not one of a Waybill server"}
	}
	if token == "" {
		token = u.Query().Get("token")
	}
	p := strings.TrimSuffix(u.EscapedPath(), "/callback")
	o.Server, o.Token = u.Scheme+"://"+u.Host, token
	if o.RetryFor == 0 {
		o.RetryFor = 10 * time.Minute
	}
	c, err := New(o)
	if err != nil {
		return nil, err
	}
	return &UnitCallback{c: c, path: p}, nil
}

// Outcome is what a unit reports.
type Outcome struct {
	Status    Status `json:"status,omitempty"` // succeeded or failed; succeeded when empty
	Error     string `json:"error,omitempty"`
	Message   string `json:"message,omitempty"`
	Variables Vars   `json:"variables"`
}

// Complete reports an outcome. The same outcome again is no error.
func (u *UnitCallback) Complete(ctx context.Context, o Outcome) error {
	return u.send(ctx, "/callback", o, nil)
}

// SetVariables adds variables without completing.
func (u *UnitCallback) SetVariables(ctx context.Context, v Vars) error {
	return u.send(ctx, "/variables", v, nil)
}

// Heartbeat says that the unit lives. stop is true when it should end itself.
func (u *UnitCallback) Heartbeat(ctx context.Context, progress string) (stop bool, err error) {
	var out HeartbeatResult
	err = u.send(ctx, "/heartbeat", Heartbeat{Progress: progress}, &out)
	return out.Stop, err
}

func (u *UnitCallback) send(ctx context.Context, verb string, body, out any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return &Error{Kind: waybill.KindInvalid, Err: err}
	}
	return u.c.ask(ctx, &request{method: http.MethodPost, path: u.path + verb, body: bytes.NewReader(b), size: int64(len(b)),
		header: http.Header{"Content-Type": {"application/json"}}, again: true}, out)
}
