package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/waybill-run/waybill"
)

// CloudEvent is an event to publish: CloudEvents 1.0.
type CloudEvent struct {
	ID      string
	Source  string
	Type    string
	Subject string
	Time    time.Time
	Data    json.RawMessage
	// Extensions are further attributes; their names are small letters and digits.
	Extensions map[string]string
}

// MarshalJSON returns the event in the JSON format of CloudEvents.
func (e CloudEvent) MarshalJSON() ([]byte, error) {
	m := map[string]any{"specversion": "1.0", "id": e.ID, "source": e.Source, "type": e.Type}
	for k, v := range e.Extensions {
		if _, taken := m[k]; taken || k == "data" || k == "subject" || k == "time" {
			return nil, fmt.Errorf("extension %s is an attribute of every event", k)
		}
		m[k] = v
	}
	if e.Subject != "" {
		m["subject"] = e.Subject
	}
	if !e.Time.IsZero() {
		m["time"] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	if len(e.Data) > 0 {
		m["datacontenttype"], m["data"] = "application/json", e.Data
	}
	return json.Marshal(m)
}

// Publish publishes events. An event without ID gets one; publishing an event again
// with the same source and ID starts nothing.
func (c *Client) Publish(ctx context.Context, events ...CloudEvent) (DeliveryList, error) {
	for i := range events {
		if events[i].ID == "" {
			events[i].ID = waybill.NewSecret()
		}
	}
	b, err := json.Marshal(events)
	if err != nil {
		return DeliveryList{}, err
	}
	q := &request{method: http.MethodPost, path: "/api/v1/events", body: bytes.NewReader(b), size: int64(len(b)),
		header: http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, again: true}
	return ask[DeliveryList](ctx, c, q)
}

// Schedules lists the schedules of active pipelines.
func (c *Client) Schedules(ctx context.Context, p ListSchedulesParams) (ScheduleList, error) {
	return ask[ScheduleList](ctx, c, c.get("/api/v1/schedules", values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// Schedule tells of one schedule; number counts those of a pipeline from 1.
func (c *Client) Schedule(ctx context.Context, pipeline string, number int) (Schedule, error) {
	return ask[Schedule](ctx, c, c.get(path("/api/v1/schedules/%s/%s", pipeline, strconv.Itoa(number)), nil))
}

// PauseSchedule stops a schedule, or lets it go on.
func (c *Client) PauseSchedule(ctx context.Context, pipeline string, number int, paused bool) (Schedule, error) {
	verb := "/api/v1/schedules/%s/%s/pause"
	if !paused {
		verb = "/api/v1/schedules/%s/%s/resume"
	}
	return ask[Schedule](ctx, c, &request{method: http.MethodPost, path: path(verb, pipeline, strconv.Itoa(number)), header: http.Header{}, again: true})
}
