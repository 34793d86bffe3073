package notify

import (
	"encoding/json"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/store"
)

// EventAlert is the kind of the event that says that something about deliveries began to
// be wrong; its data is a waybill.Alert.
const EventAlert = "delivery.alert"

// deliveryAlert tells of an alert when it begins.
func (n *Notifier) deliveryAlert(e *store.StoredEvent, rules []scoped, out *feed.Effect) error {
	var a waybill.Alert
	if json.Unmarshal(e.Data, &a) != nil || a.ID == "" {
		return nil
	}
	data := Data{Alert: &a, Text: strings.ToUpper(string(a.Kind[:1])) + string(a.Kind[1:]) + ": " + clip(a.Text, 500)}
	if n.o.URL != nil && a.Deployment != "" {
		data.URL = n.o.URL() + "/api/v1/deployments/" + a.Deployment
	}
	return n.add(out, rules, waybill.NotifyDelivery, string(e.Cursor), "/deliveries/"+a.Partition, a.ID, e.At, data)
}
