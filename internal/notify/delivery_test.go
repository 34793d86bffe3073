package notify

import (
	"testing"
	"time"

	"github.com/waybill-run/waybill"
)

func TestF86_AlertsOfDeliveries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.Folder = []waybill.NotifyRule{rule("ops", w.hook.URL, waybill.NotifyDelivery), rule("marker", w.hook.URL, waybill.NotifyFailed)}
	w.o.Folder[1].Pipeline = "marker"
	n := w.start()
	a := waybill.Alert{ID: "1", Kind: waybill.AlertStuck, Partition: "shop", Deployment: "0123456789ab", Service: "app", Ring: "prod", Since: time.Now().UTC().Truncate(time.Second), Text: "app:1 for prod is waiting: pull request 7 is open"}
	w.tell("delivery/shop", EventAlert, a)
	w.tell("delivery/shop", EventAlert, "no alert")
	w.quiet(n)
	var told []Event
	for _, e := range w.hook.events(t) {
		if e.Data.Event == waybill.NotifyDelivery {
			told = append(told, e)
		}
	}
	if len(told) != 1 {
		t.Fatalf("%d were told", len(told))
	}
	if e := told[0]; e.Type != "run.waybill.delivery_alert" || e.Source != "/deliveries/shop" || e.Subject != "1" || *e.Data.Alert != a || e.Data.Text != "Stuck: "+a.Text {
		t.Errorf("%+v", e)
	}
}
