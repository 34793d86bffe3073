package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) PauseRun(w http.ResponseWriter, r *http.Request, run string) {
	a.pauseRun(w, r, run, true)
}
func (a api) ResumeRun(w http.ResponseWriter, r *http.Request, run string) {
	a.pauseRun(w, r, run, false)
}

func (a api) pauseRun(w http.ResponseWriter, r *http.Request, run string, pause bool) {
	a.do(w, r, func(v *Services, c *call) error {
		out, err := v.Runs.PauseRun(r.Context(), run, pause, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusAccepted, wireRun(out))
	})
}

func (a api) AnswerApproval(w http.ResponseWriter, r *http.Request, run, step string) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.Answer
		if err := a.decode(w, r, &body, false); err != nil {
			return err
		}
		out, err := v.Runs.Answer(r.Context(), run, step, waybill.Answer{
			Decision: waybill.Decision(body.Decision), Comment: body.Comment, Values: body.Values,
		}, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, wireAttempt(out))
	})
}

func (a api) ListSlots(w http.ResponseWriter, r *http.Request, p openapi.ListSlotsParams) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Runs.Slots(r.Context(), n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.SlotList{Items: page.Items, NextCursor: nextCursor(page.Next)})
	})
}
