package httpdtest

import (
	"context"
	"time"

	"github.com/waybill-run/waybill"
)

type events struct{ *World }

// Deliver knows the webhook of the pipeline hello, whose signature is "good".
func (w events) Deliver(_ context.Context, r waybill.HookRequest) ([]waybill.Delivery, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.Pipeline != "hello" || r.Name != "" && r.Name != "deploy" {
		return nil, waybill.E(waybill.KindNotFound, "there is no such webhook")
	}
	if v := r.Header["Waybill-Signature"]; len(v) != 1 || v[0] != "good" {
		return nil, waybill.E(waybill.KindUnauthorized, "the signature is wrong")
	}
	return []waybill.Delivery{w.take("hook-" + string(r.Body))}, nil
}

// Publish takes a body for the id of an event.
func (w events) Publish(_ context.Context, r waybill.EventRequest) ([]waybill.Delivery, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(r.Body) == 0 {
		return nil, waybill.E(waybill.KindMalformed, "it is no CloudEvent")
	}
	return []waybill.Delivery{w.take(string(r.Body) + r.By.Attempt)}, nil
}

func (w events) take(id string) waybill.Delivery {
	if w.Delivered == nil {
		w.Delivered = map[string]bool{}
	}
	d := waybill.Delivery{ID: id, Source: "/s", Type: "t", Fresh: !w.Delivered[id], Runs: []waybill.StartedRun{{Pipeline: "hello", Run: "run-1"}}}
	w.Delivered[id] = true
	return d
}

type schedules struct{ *World }

func (w schedules) schedule() waybill.Schedule {
	s := waybill.Schedule{
		Pipeline: "hello", Number: 1, Text: "0 2 * * *", Words: "at 02:00 every day", Timezone: "UTC", Catchup: "last", Overlap: "skip",
		Next: w.Now().Add(time.Hour), Recent: []waybill.Firing{{Nominal: w.Now(), At: w.Now(), Run: "run-1"}}, Fired: 1,
	}
	if w.PausedBy != "" {
		s.Paused, s.PausedBy, s.Next = true, w.PausedBy, time.Time{}
	}
	return s
}

func (w schedules) Schedules(_ context.Context, _ int, cursor string) (waybill.Page[waybill.Schedule], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.Schedule]{}, err
	}
	defer unlock()
	if cursor != "" {
		return waybill.Page[waybill.Schedule]{}, waybill.E(waybill.KindInvalid, "the cursor is not one of this list")
	}
	return waybill.Page[waybill.Schedule]{Items: []waybill.Schedule{w.schedule()}}, nil
}

func (w schedules) Schedule(_ context.Context, pipeline string, number int) (waybill.Schedule, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Schedule{}, err
	}
	defer unlock()
	if pipeline != "hello" || number != 1 {
		return waybill.Schedule{}, waybill.E(waybill.KindNotFound, "pipeline %q has no schedule %d", pipeline, number)
	}
	return w.schedule(), nil
}

func (w schedules) PauseSchedule(ctx context.Context, pipeline string, number int, paused bool, by waybill.Principal) (waybill.Schedule, error) {
	if _, err := w.Schedule(ctx, pipeline, number); err != nil {
		return waybill.Schedule{}, err
	}
	w.Do(func() {
		if w.PausedBy = by.Name; !paused {
			w.PausedBy = ""
		}
	})
	return w.Schedule(ctx, pipeline, number)
}
