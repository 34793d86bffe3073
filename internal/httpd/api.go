package httpd

import (
	"net/http"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// api implements the operations of the contract. Its methods run after admit.
type api struct{ *Server }

var _ openapi.ServerInterface = api{}

// do runs an operation and answers with its error, if there is one.
func (a api) do(w http.ResponseWriter, r *http.Request, f func(v *Services, c *call) error) {
	if err := f(a.services.Load(), callOf(r)); err != nil {
		a.fail(w, r, err)
	}
}

// pageSize checks the limit of a list. The generated code reads parameters and
// leaves bounds to us.
func pageSize(r *http.Request, n int) (int, error) {
	if !r.URL.Query().Has("limit") {
		return 50, nil
	}
	if n < 1 || n > 1000 {
		return 0, waybill.E(waybill.KindInvalid, "limit %d is not from 1 to 1000", n)
	}
	return n, nil
}

func (a api) GetHealth(w http.ResponseWriter, r *http.Request) {
	h := a.health(r.Context())
	code := http.StatusServiceUnavailable
	if h.Status == "ok" {
		code = http.StatusOK
	} else {
		w.Header().Set("Retry-After", "1")
	}
	_ = a.reply(w, r, code, wireHealth(h)) // it never fails
}

func (a api) GetVersion(w http.ResponseWriter, r *http.Request) {
	_ = a.reply(w, r, http.StatusOK, a.opt.Version) // it never fails
}

func (a api) ListPipelines(w http.ResponseWriter, r *http.Request, p openapi.ListPipelinesParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Pipelines.Pipelines(r.Context(), n, p.Cursor)
		if err != nil {
			return err
		}
		items := convert(page.Items, wirePipeline)
		for i := range items {
			items[i].Source = ""
		}
		return a.reply(w, r, http.StatusOK, openapi.PipelineList{Items: items, NextCursor: nextCursor(page.Next)})
	})
}

// definition reads the YAML of a request.
func (a api) definition(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if err := wantType(r, "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"); err != nil {
		return nil, err
	}
	b, err := a.readBody(w, r)
	if err == nil && len(b) == 0 {
		err = waybill.E(waybill.KindMalformed, "the request has no body, want YAML")
	}
	return b, err
}

func (a api) ApplyPipeline(w http.ResponseWriter, r *http.Request, _ openapi.ApplyPipelineParams) {
	a.do(w, r, func(v *Services, c *call) error {
		src, err := a.definition(w, r)
		if err != nil {
			return err
		}
		// A repetition finds its own version and changes nothing, with or without a key.
		p, fresh, err := v.Pipelines.ApplyPipeline(r.Context(), src, c.who)
		if err != nil {
			return err
		}
		code := http.StatusOK
		if fresh {
			code = http.StatusCreated
		}
		return a.reply(w, r, code, wirePipeline(p))
	})
}

func (a api) ValidatePipeline(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		src, err := a.definition(w, r)
		if err != nil {
			return err
		}
		p, err := v.Pipelines.ValidatePipeline(r.Context(), src)
		if err != nil {
			return err
		}
		if p.Origin == "" {
			p.Origin = "api"
		}
		return a.reply(w, r, http.StatusOK, wirePipeline(p))
	})
}

func (a api) GetPipeline(w http.ResponseWriter, r *http.Request, name string, q openapi.GetPipelineParams) {
	a.do(w, r, func(v *Services, c *call) error {
		if r.URL.Query().Has("version") && q.Version < 1 {
			return waybill.E(waybill.KindInvalid, "version %d is not a version, they count from 1", q.Version)
		}
		p, err := v.Pipelines.Pipeline(r.Context(), name, q.Version)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, wirePipeline(p))
	})
}

func (a api) GetPipelineGraph(w http.ResponseWriter, r *http.Request, name string, p openapi.GetPipelineGraphParams) {
	a.do(w, r, func(v *Services, c *call) error {
		if p.Format == "" {
			p.Format = openapi.GetPipelineGraphParamsFormatText
		}
		if !p.Format.Valid() {
			return waybill.E(waybill.KindInvalid, "format %q is not one of text, dot, mermaid", shorten(string(p.Format), 40))
		}
		text, err := v.Pipelines.PipelineGraph(r.Context(), name, string(p.Format))
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(text)) // the client may be gone
		return nil
	})
}

func (a api) ListQueues(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		qs, err := v.Queues.Queues(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.QueueList{Items: convert(qs, wireQueue)})
	})
}

func (a api) ListMessages(w http.ResponseWriter, r *http.Request, topic string, p openapi.ListMessagesParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Queues.Messages(r.Context(), topic, n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.MessageList{Items: convert(page.Items, wireMessage), NextCursor: nextCursor(page.Next)})
	})
}

func (a api) ListDeadLetters(w http.ResponseWriter, r *http.Request, topic string, p openapi.ListDeadLettersParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Queues.DeadLetters(r.Context(), topic, n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.MessageList{Items: convert(page.Items, wireMessage), NextCursor: nextCursor(page.Next)})
	})
}

func (a api) RedriveQueue(w http.ResponseWriter, r *http.Request, topic string) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.Redrive
		if err := a.decode(w, r, &body, true); err != nil {
			return err
		}
		if len(body.Ids) > 10_000 {
			return waybill.E(waybill.KindInvalid, "ids holds more than 10000 dead letters")
		}
		n, err := v.Queues.Redrive(r.Context(), topic, body.Ids, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.Count{Count: int64(n)})
	})
}

func (a api) PurgeQueue(w http.ResponseWriter, r *http.Request, topic string) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.Purge
		if err := a.decode(w, r, &body, true); err != nil {
			return err
		}
		n, err := v.Queues.Purge(r.Context(), topic, body.Dead, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.Count{Count: n})
	})
}

func (a api) PauseQueue(w http.ResponseWriter, r *http.Request, topic string) {
	a.pause(w, r, topic, true)
}

func (a api) ResumeQueue(w http.ResponseWriter, r *http.Request, topic string) {
	a.pause(w, r, topic, false)
}

func (a api) pause(w http.ResponseWriter, r *http.Request, topic string, paused bool) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := v.Queues.PauseQueue(r.Context(), topic, paused, c.who); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (a api) ListTokens(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		ts, err := v.Tokens.Tokens(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.TokenList{Items: convert(ts, wireToken)})
	})
}

func (a api) CreateToken(w http.ResponseWriter, r *http.Request, p openapi.CreateTokenParams) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.CreateToken
		if err := a.decode(w, r, &body, false); err != nil {
			return err
		}
		if body.TTLSeconds < 0 || body.TTLSeconds > 315_360_000 {
			return waybill.E(waybill.KindInvalid, "ttl_seconds %d is not from 1 to 315360000", body.TTLSeconds)
		}
		if err := checkKey(r); err != nil {
			return err
		}
		made, replayed, err := a.replays.once(r, p.IdempotencyKey, body, func() (any, error) {
			t, secret, err := v.Tokens.CreateToken(r.Context(), body.Name, body.Role, time.Duration(body.TTLSeconds)*time.Second, c.who)
			if err != nil {
				return nil, err
			}
			return openapi.NewToken{Token: wireToken(t), Secret: secret}, nil
		})
		if err != nil {
			return err
		}
		markReplayed(w, replayed)
		return a.reply(w, r, http.StatusCreated, made)
	})
}

func (a api) RevokeToken(w http.ResponseWriter, r *http.Request, id string) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := v.Tokens.RevokeToken(r.Context(), id, c.who); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (a api) ListAuditRecords(w http.ResponseWriter, r *http.Request, p openapi.ListAuditRecordsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Tokens.AuditLog(r.Context(), n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.RecordList{Items: convert(page.Items, wireRecord), NextCursor: nextCursor(page.Next)})
	})
}

// checkKey refuses an Idempotency-Key that could not be kept.
func checkKey(r *http.Request) error {
	if values := r.Header.Values("Idempotency-Key"); len(values) > 0 && (values[0] == "" || len(values[0]) > 255) {
		return waybill.E(waybill.KindInvalid, "Idempotency-Key is not of 1 to 255 bytes")
	}
	return nil
}

func markReplayed(w http.ResponseWriter, replayed bool) {
	if replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
}
