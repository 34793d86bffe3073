package httpd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) StartRun(w http.ResponseWriter, r *http.Request, name string, p openapi.StartRunParams) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.StartRun
		if err := a.decode(w, r, &body, true); err != nil {
			return err
		}
		if err := checkKey(r); err != nil {
			return err
		}
		delay := time.Duration(0)
		if body.Delay != "" {
			var err error
			if delay, err = time.ParseDuration(body.Delay); err != nil {
				return waybill.E(waybill.KindInvalid, "delay %q is not a duration", shorten(body.Delay, 40)).WithHint("durations look like 90s, 10m or 2h")
			}
		}
		start := waybill.StartRequest{
			Pipeline: name, Vars: body.Vars, Params: body.Params, IdempotencyKey: p.IdempotencyKey, Traceparent: traceparent(r), By: c.who,
			Delay: delay, Priority: body.Priority,
		}
		if p.DryRun {
			return a.planRun(w, r, v, start)
		}
		run, fresh, err := v.Runs.StartRun(r.Context(), start)
		if err != nil {
			return err
		}
		markReplayed(w, !fresh)
		w.Header().Set("Location", "/api/v1/runs/"+run.ID)
		return a.reply(w, r, http.StatusAccepted, wireRun(run))
	})
}

func (a api) ListRuns(w http.ResponseWriter, r *http.Request, p openapi.ListRunsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		f, err := runFilter(p)
		if err != nil {
			return err
		}
		f.Limit = n
		page, err := v.Runs.Runs(r.Context(), f)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.RunList{Items: convert(page.Items, wireRun), NextCursor: nextCursor(page.Next)})
	})
}

func joined[T ~string](words []T) string {
	return strings.Join(convert(words, func(w T) string { return string(w) }), ", ")
}

func (a api) GetRun(w http.ResponseWriter, r *http.Request, run string) {
	a.do(w, r, func(v *Services, c *call) error {
		d, err := v.Runs.Run(r.Context(), run)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, wireDetail(d))
	})
}

func (a api) CancelRun(w http.ResponseWriter, r *http.Request, run string) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.CancelRun
		if err := a.decode(w, r, &body, true); err != nil {
			return err
		}
		if len(body.Reason) > 1000 {
			return waybill.E(waybill.KindInvalid, "reason is longer than 1000 bytes")
		}
		out, err := v.Runs.CancelRun(r.Context(), run, body.Reason, body.Force, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusAccepted, wireRun(out))
	})
}

func (a api) RetryRun(w http.ResponseWriter, r *http.Request, run string, p openapi.RetryRunParams) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.RetryRun
		if err := a.decode(w, r, &body, true); err != nil {
			return err
		}
		if err := checkKey(r); err != nil {
			return err
		}
		made, replayed, err := a.replays.once(r, p.IdempotencyKey, body, func() (any, error) {
			out, err := v.Runs.RetryRun(r.Context(), run, body.From, c.who)
			if err != nil {
				return nil, err
			}
			return wireRun(out), nil
		})
		if err != nil {
			return err
		}
		markReplayed(w, replayed)
		w.Header().Set("Location", "/api/v1/runs/"+made.(openapi.Run).ID)
		return a.reply(w, r, http.StatusAccepted, made)
	})
}

func (a api) GetRunLogs(w http.ResponseWriter, r *http.Request, run string, p openapi.GetRunLogsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		switch {
		case p.Attempt < 0, p.Offset < 0:
			return waybill.E(waybill.KindInvalid, "attempt and offset are not negative")
		case p.Step == "" && (p.Attempt > 0 || p.Offset > 0):
			return waybill.E(waybill.KindInvalid, "attempt and offset need a step")
		}
		ctx, stop := a.streaming(r.Context())
		defer stop()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		out := &logWriter{w: c.w, flush: p.Follow}
		if p.Follow {
			// Tell the client at once that it follows, however long the unit is silent.
			if _, err := v.Runs.Run(ctx, run); err != nil {
				return err
			}
			if err := c.w.flush(); err != nil {
				return err
			}
		}
		err := v.Runs.Log(ctx, waybill.LogQuery{Run: run, Step: p.Step, Attempt: p.Attempt, Follow: p.Follow, Offset: p.Offset}, out)
		if err != nil && a.draining() {
			return errStopping()
		}
		return err
	})
}

func errStopping() error {
	return &waybill.Error{Kind: waybill.KindUnavailable, Msg: "the server is stopping", RetryAfter: time.Second}
}

// streaming returns a context that also ends when the server drains.
func (s *Server) streaming(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case <-s.drain:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// logWriter passes log text on, at once if it is followed.
type logWriter struct {
	w     *recorder
	flush bool
}

func (l *logWriter) Write(b []byte) (int, error) {
	n, err := l.w.Write(b)
	if err == nil && l.flush {
		err = l.w.flush()
	}
	return n, err
}

func (a api) GetRunEvents(w http.ResponseWriter, r *http.Request, run string, p openapi.GetRunEventsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		after := p.Cursor
		if !wantsStream(r) {
			n, err := pageSize(r, p.Limit)
			if err != nil {
				return err
			}
			records, err := v.Runs.Records(r.Context(), run, after, n)
			if err != nil {
				return err
			}
			next := ""
			if len(records) == n {
				next = records[n-1].Cursor
			}
			return a.reply(w, r, http.StatusOK, openapi.RecordList{Items: convert(records, wireRecord), NextCursor: nextCursor(next)})
		}
		if p.LastEventID != "" {
			after = p.LastEventID
		}
		if _, err := v.Runs.Run(r.Context(), run); err != nil {
			return err
		}
		c.stream = true
		return a.follow(c, r, func(ctx context.Context, f func(waybill.Record) error) error {
			return v.Runs.Follow(ctx, run, after, f)
		})
	})
}

// wantsStream reports whether the Accept header names event streams.
func wantsStream(r *http.Request) bool {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			if t, _, err := mime.ParseMediaType(part); err == nil && t == "text/event-stream" {
				return true
			}
		}
	}
	return false
}

// follow answers with a stream of records until all were told, with a comment
// whenever nothing was sent for a while, so that a dead connection is noticed on
// both sides.
func (s *Server) follow(c *call, r *http.Request, tell func(context.Context, func(waybill.Record) error) error) error {
	ctx, cancel := s.streaming(r.Context())
	defer cancel()
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies must not hold records back
	if _, err := io.WriteString(c.w, "retry: 1000\n\n"); err != nil {
		return err
	}
	if err := c.w.flush(); err != nil {
		return err
	}
	records := make(chan waybill.Record)
	ended := make(chan error, 1)
	go func() {
		ended <- tell(ctx, func(rec waybill.Record) error {
			select {
			case records <- rec:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	quiet := time.NewTicker(s.opt.Limits.Heartbeat)
	defer quiet.Stop()
	var failed error
	for {
		select {
		case rec := <-records:
			failed = sendRecord(c.w, rec)
			quiet.Reset(s.opt.Limits.Heartbeat)
		case <-quiet.C:
			_, failed = io.WriteString(c.w, ": still here\n\n")
		case err := <-ended:
			if err != nil {
				return s.interrupted(c, err)
			}
			if _, err := io.WriteString(c.w, "event: end\ndata: {}\n\n"); err != nil {
				return err
			}
			return c.w.flush()
		}
		if failed == nil {
			failed = c.w.flush()
		}
		if failed != nil {
			cancel()
			<-ended
			return failed
		}
	}
}

// interrupted ends a stream that was not told to its end. The client sees a
// connection that closes without an end event and asks again.
func (s *Server) interrupted(c *call, err error) error {
	if s.draining() || errors.Is(err, context.Canceled) {
		c.kind = waybill.KindCanceled
		return nil
	}
	return err
}

func sendRecord(w io.Writer, rec waybill.Record) error {
	data, err := json.Marshal(wireRecord(rec))
	if err != nil {
		return err
	}
	// Cursors are ours and hold no line breaks; JSON has none outside of strings.
	_, err = io.WriteString(w, "id: "+strings.NewReplacer("\n", "", "\r", "").Replace(rec.Cursor)+"\ndata: "+string(data)+"\n\n")
	return err
}

func (a api) CompleteAttempt(w http.ResponseWriter, r *http.Request, run, step string, attempt int, _ openapi.CompleteAttemptParams) {
	a.do(w, r, func(v *Services, c *call) error {
		body, err := a.readBody(w, r)
		if err != nil {
			return err
		}
		// curl says that a body is a form unless told otherwise, so its first byte
		// is looked at, not its content type.
		if text := bytes.TrimSpace(body); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
			if err := checkJSON(body, waybill.KindInvalid); err != nil {
				return err
			}
		}
		first, err := v.Callbacks.Complete(r.Context(), waybill.AttemptKey(run, step, attempt), body, r.Header.Get("Content-Type"))
		if err != nil {
			return err
		}
		code := http.StatusOK
		if first {
			code = http.StatusAccepted
		}
		return a.reply(w, r, code, openapi.CallbackResult{First: first})
	})
}

func (a api) HeartbeatAttempt(w http.ResponseWriter, r *http.Request, run, step string, attempt int) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.Heartbeat
		if err := a.decode(w, r, &body, true); err != nil {
			return err
		}
		if len(body.Progress) > 1000 {
			return waybill.E(waybill.KindInvalid, "progress is longer than 1000 bytes")
		}
		stop, err := v.Callbacks.Heartbeat(r.Context(), waybill.AttemptKey(run, step, attempt), body.Progress)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.HeartbeatResult{Stop: stop})
	})
}

func (a api) SetAttemptVariables(w http.ResponseWriter, r *http.Request, run, step string, attempt int) {
	a.do(w, r, func(v *Services, c *call) error {
		var vars waybill.Vars
		if err := a.decode(w, r, &vars, false); err != nil {
			return err
		}
		for _, name := range vars.Names() {
			if err := waybill.CheckName(name); err != nil {
				return err
			}
		}
		if err := v.Callbacks.SetVariables(r.Context(), waybill.AttemptKey(run, step, attempt), vars); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
