package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// delivered answers with what became of events: 200 when all of them were known.
func (a api) delivered(w http.ResponseWriter, r *http.Request, list []waybill.Delivery) error {
	code := http.StatusOK
	for _, d := range list {
		if d.Fresh {
			code = http.StatusAccepted
		}
	}
	if list == nil {
		list, code = []waybill.Delivery{}, http.StatusAccepted
	}
	return a.reply(w, r, code, openapi.DeliveryList{Items: list})
}

func (a api) CallHook(w http.ResponseWriter, r *http.Request, pipeline string) {
	a.hook(w, r, pipeline, "")
}

func (a api) CallNamedHook(w http.ResponseWriter, r *http.Request, pipeline, name string) {
	a.hook(w, r, pipeline, name)
}

// hook passes a request on to the webhook of a pipeline. The signature is looked at
// before anything else in the body; addresses that send many wrong ones must wait.
func (a api) hook(w http.ResponseWriter, r *http.Request, pipeline, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		c.who = waybill.Principal{Name: "hook " + subject(r), Tenant: defaultTenant}
		if wait := a.failures.wait(remote(r), ""); wait > 0 {
			return &waybill.Error{Kind: waybill.KindExhausted, RetryAfter: wait,
				Msg: "too many requests with wrong signatures came from this address"}
		}
		body, err := a.readBody(w, r)
		if err != nil {
			return err
		}
		list, err := v.Events.Deliver(r.Context(), waybill.HookRequest{Pipeline: pipeline, Name: name, Header: r.Header, Body: body})
		switch waybill.KindOf(err) {
		case "":
			return a.delivered(w, r, list)
		case waybill.KindUnauthorized:
			a.audit(r, v, waybill.AuditRecord{Who: "unknown", Action: "hook.refused", Subject: subject(r), Result: string(waybill.KindUnauthorized)})
			fallthrough
		case waybill.KindNotFound:
			a.failures.add(remote(r))
		}
		return err
	})
}

func (a api) PublishEvents(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		body, err := a.readBody(w, r)
		if err != nil {
			return err
		}
		list, err := v.Events.Publish(r.Context(), waybill.EventRequest{Header: r.Header, Body: body, By: c.who})
		if err != nil {
			return err
		}
		return a.delivered(w, r, list)
	})
}

func (a api) ListSchedules(w http.ResponseWriter, r *http.Request, p openapi.ListSchedulesParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		n, err := pageSize(r, p.Limit)
		if err != nil {
			return err
		}
		page, err := v.Schedules.Schedules(r.Context(), n, p.Cursor)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.ScheduleList{Items: page.Items, NextCursor: nextCursor(page.Next)})
	})
}

func (a api) GetSchedule(w http.ResponseWriter, r *http.Request, pipeline string, number int) {
	a.do(w, r, func(v *Services, _ *call) error {
		s, err := v.Schedules.Schedule(r.Context(), pipeline, number)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, s)
	})
}

func (a api) PauseSchedule(w http.ResponseWriter, r *http.Request, pipeline string, number int) {
	a.pauseSchedule(w, r, pipeline, number, true)
}

func (a api) ResumeSchedule(w http.ResponseWriter, r *http.Request, pipeline string, number int) {
	a.pauseSchedule(w, r, pipeline, number, false)
}

func (a api) pauseSchedule(w http.ResponseWriter, r *http.Request, pipeline string, number int, paused bool) {
	a.do(w, r, func(v *Services, c *call) error {
		s, err := v.Schedules.PauseSchedule(r.Context(), pipeline, number, paused, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, s)
	})
}
