package httpd

import (
	"bufio"
	"net/http"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

const (
	maxHas  = 1 << 30   // bytes of a list of content that a client has
	maxFeed = 512 << 20 // bytes of a feed
)

// cut ends an answer that has begun and cannot be finished, so that the client sees
// that something is missing.
func cut(c *call, err error) error {
	if err != nil && c.w.wrote {
		c.err = err
		panic(http.ErrAbortHandler)
	}
	return err
}

func (a api) CreateBackup(w http.ResponseWriter, r *http.Request, p openapi.CreateBackupParams) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		if p.Keys == "" {
			p.Keys = "none"
		}
		has, err := a.has(w, r)
		if err != nil {
			return err
		}
		ctx, stop := a.streaming(r.Context())
		defer stop()
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Cache-Control", "no-store")
		err = v.Operations.Backup(ctx, waybill.BackupOptions{
			Keys: p.Keys, Project: p.Project, Has: func(sha string) bool { return has[sha] }, By: c.who,
		}, w)
		if err != nil && a.draining() {
			err = errStopping()
		}
		return cut(c, err)
	})
}

// has reads the checksums that a client has already.
func (a api) has(w http.ResponseWriter, r *http.Request) (map[string]bool, error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	if err := wantType(r, "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"); err != nil {
		return nil, err
	}
	body := &movingBody{r: http.MaxBytesReader(w, r.Body, maxHas), rc: http.NewResponseController(w), idle: a.opt.Limits.Read}
	has := map[string]bool{}
	lines := bufio.NewScanner(body)
	for n := 1; lines.Scan(); n++ {
		sha := strings.TrimSpace(lines.Text())
		if sha == "" {
			continue
		}
		if len(sha) != 64 || strings.Trim(sha, "0123456789abcdef") != "" {
			return nil, waybill.E(waybill.KindInvalid, "line %d of the body is no SHA-256 in lower-case hexadecimal", n)
		}
		has[sha] = true
	}
	if body.err != nil {
		return nil, body.err
	}
	if err := lines.Err(); err != nil {
		return nil, waybill.E(waybill.KindMalformed, "the body: %w", err)
	}
	return has, nil
}

func (a api) GetDoctor(w http.ResponseWriter, r *http.Request, p openapi.GetDoctorParams) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		found, err := v.Operations.Doctor(r.Context(), p.Deep)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.FindingList{Items: convert(found, func(f waybill.Finding) openapi.Finding {
			return openapi.Finding{Check: f.Check, Status: openapi.FindingStatus(f.Status), Detail: f.Detail, Hint: f.Hint}
		})})
	})
}

func (a api) DumpQueue(w http.ResponseWriter, r *http.Request, topic string) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		ctx, stop := a.streaming(r.Context())
		defer stop()
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Cache-Control", "no-store")
		err := v.Dumps.Dump(ctx, topic, w)
		if err != nil && a.draining() {
			err = errStopping()
		}
		return cut(c, err)
	})
}

func (a api) FeedQueue(w http.ResponseWriter, r *http.Request, topic string, p openapi.FeedQueueParams) {
	a.do(w, r, func(v *Services, c *call) error {
		c.stream = true
		if err := wantType(r, "application/x-ndjson", "application/jsonl", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"); err != nil {
			return err
		}
		body := &movingBody{r: http.MaxBytesReader(w, r.Body, maxFeed), rc: http.NewResponseController(w), idle: a.opt.Limits.Read}
		res, err := v.Dumps.Feed(r.Context(), topic, body, p.Dry, c.who)
		if body.err != nil {
			return body.err
		}
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.FeedResult{Sent: res.Sent, Buried: res.Buried, Changed: res.Changed, Skipped: res.Skipped})
	})
}
