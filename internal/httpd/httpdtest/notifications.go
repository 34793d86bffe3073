package httpdtest

import (
	"context"
	"net/http"
	"sort"
	"time"

	"github.com/waybill-run/waybill"
)

type stats struct{ *World }

func (w stats) RunStats(_ context.Context, q waybill.RunStatsQuery) ([]waybill.RunDay, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if q.Days > 400 {
		return nil, waybill.E(waybill.KindInvalid, "%d days", q.Days)
	}
	if _, err := time.LoadLocation(q.Timezone); err != nil {
		return nil, waybill.E(waybill.KindInvalid, "there is no time zone %q", q.Timezone)
	}
	day := waybill.RunDay{Day: w.Now().Format("2006-01-02"), Ended: map[waybill.Status]int64{}}
	for _, r := range w.Details {
		if q.Pipeline != "" && r.Pipeline != q.Pipeline {
			continue
		}
		day.Started++
		if r.Status.Terminal() {
			day.Ended[r.Status]++
			day.P50, day.P95 = time.Second, 2*time.Second
		}
	}
	return []waybill.RunDay{day}, nil
}

type notifications struct{ *World }

func (w notifications) Notifications(context.Context) ([]waybill.Notification, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []waybill.Notification
	for _, n := range w.Rules {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func (w notifications) Notification(_ context.Context, name string) (waybill.Notification, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Notification{}, err
	}
	defer unlock()
	n, ok := w.Rules[name]
	if !ok {
		return n, waybill.E(waybill.KindNotFound, "there is no rule %s", name)
	}
	return n, nil
}

func (w notifications) ApplyNotification(_ context.Context, r waybill.NotifyRule, by waybill.Principal) (waybill.Notification, bool, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Notification{}, false, err
	}
	defer unlock()
	if err := r.Check(); err != nil {
		return waybill.Notification{}, false, err
	}
	old, there := w.Rules[r.Name]
	if there && old.Origin == "folder" {
		return old, false, waybill.E(waybill.KindConflict, "it comes from the project folder")
	}
	n := waybill.Notification{NotifyRule: r, Origin: "api", CreatedAt: w.Now(), CreatedBy: by.Name}
	w.Rules[r.Name] = n
	return n, !there, nil
}

func (w notifications) DeleteNotification(_ context.Context, name string, _ waybill.Principal) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	n, ok := w.Rules[name]
	switch {
	case !ok:
		return waybill.E(waybill.KindNotFound, "there is no rule %s", name)
	case n.Origin == "folder":
		return waybill.E(waybill.KindConflict, "it comes from the project folder")
	}
	delete(w.Rules, name)
	return nil
}

func (w notifications) TestNotification(_ context.Context, name string) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	n, ok := w.Rules[name]
	switch {
	case !ok:
		return waybill.E(waybill.KindNotFound, "there is no rule %s", name)
	case n.Webhook != nil && n.Webhook.URL == "http://127.0.0.1:1/":
		return waybill.E(waybill.KindUnavailable, "connection refused")
	}
	return nil
}

// metrics are the least that a scrape can find.
func metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte("# TYPE waybill_node_up gauge\nwaybill_node_up 1\n"))
}
