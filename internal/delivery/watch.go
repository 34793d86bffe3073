package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// tableAlert holds the alerts that were told of and last. Key: partition/id; value:
// waybill.Alert. It is no part of what follows from events.
const tableAlert = "delivery_alert"

// eventAlert is the kind of the event of the log that an alert begins with.
const eventAlert = "delivery.alert"

// WatchAlerts looks for alerts again and again until ctx ends, and puts an event into the log
// for each that begins. Several servers may: each alert is told of once. After is how
// long is waited for what, see waybill.AlertQuery.
func (s *Service) WatchAlerts(ctx context.Context, every time.Duration, after func() (stuck, silent time.Duration), log *slog.Logger) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		stuck, silent := after()
		if err := s.TellAlerts(ctx, stuck, silent); err != nil && ctx.Err() == nil {
			log.Warn("alerts of deliveries are not looked for", "error", err)
		}
	}
}

// TellAlerts looks once.
func (s *Service) TellAlerts(ctx context.Context, stuck, silent time.Duration) error {
	partitions, err := s.DeliveryPartitions(ctx)
	if err != nil {
		return err
	}
	for _, p := range partitions {
		if err := s.tellAlerts(ctx, waybill.AlertQuery{Partition: p, Stuck: stuck, Silent: silent}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) tellAlerts(ctx context.Context, q waybill.AlertQuery) error {
	now, err := s.Alerts(ctx, q)
	if err != nil {
		return err
	}
	rows, err := s.o.Store.Scan(ctx, "", tableAlert, escape(q.Partition)+"/", 0)
	if err != nil {
		return err
	}
	told := map[string]int64{}
	for _, r := range rows {
		told[strings.TrimPrefix(r.Key, escape(q.Partition)+"/")] = r.Rev
	}
	for _, a := range now {
		if _, ok := told[a.ID]; ok {
			delete(told, a.ID)
			continue
		}
		val, err := json.Marshal(a)
		if err != nil {
			return err
		}
		err = s.o.Store.Commit(ctx, &store.Commit{
			Puts:   []store.Put{{Table: tableAlert, Key: rowKey(q.Partition, a.ID), Val: val}},
			Events: []store.Event{{Subject: "delivery/" + escape(q.Partition), Kind: eventAlert, Data: val, At: s.o.Now()}},
		})
		if err != nil && !errors.Is(err, store.ErrConflict) { // another server was faster
			return err
		}
	}
	for id, rev := range told { // it is over, and may begin again
		err := s.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableAlert, Key: rowKey(q.Partition, id), Rev: rev}}})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}
