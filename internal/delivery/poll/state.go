package poll

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// laneKey is the row that guards the lane; no source has this name.
const laneKey = " lane"

// state is what is kept of a source. The server that polls writes it.
type state struct {
	Node      string    `json:"node,omitempty"`
	PolledAt  time.Time `json:"polled_at,omitzero"`
	FreshAt   time.Time `json:"fresh_at,omitzero"`
	NextAt    time.Time `json:"next_at,omitzero"`
	Took      float64   `json:"took"`
	Calls     int64     `json:"calls"`
	Total     int64     `json:"total"`
	Unchanged int64     `json:"unchanged"`
	Left      int       `json:"left"`
	Until     time.Time `json:"until,omitzero"`
	Rows      int       `json:"rows"`
	Wanted    int       `json:"wanted"`
	Reports   int       `json:"reports"`
	Error     string    `json:"error,omitempty"`
	ErrorAt   time.Time `json:"error_at,omitzero"`
	Notes     []string  `json:"notes,omitempty"`
	Fails     int       `json:"fails,omitempty"`
	// Tags are the commits of tags as they were seen last, by repository and name: a tag
	// that is moved back is told from one that is where it was.
	Tags map[string]map[string]string `json:"tags,omitempty"`
}

func (p *Poller) state(ctx context.Context, name string) (state, error) {
	s := state{Left: -1}
	row, err := p.o.Store.Get(ctx, "", tableSource, name)
	if errors.Is(err, store.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(row.Val, &s)
}

// save writes how sources fare. Whoever polls is the only one to do so.
func (p *Poller) save(ctx context.Context, states map[string]*state) error {
	c := &store.Commit{}
	for name, s := range states {
		val, err := json.Marshal(s)
		if err != nil {
			return err
		}
		c.Puts = append(c.Puts, store.Put{Table: tableSource, Key: name, Rev: store.AnyRev, Val: val})
	}
	if len(c.Puts) == 0 {
		return nil
	}
	return p.o.Store.Commit(ctx, c)
}

// DeliveryProviders implements waybill.DeliveryProviders.
func (p *Poller) DeliveryProviders(ctx context.Context) ([]waybill.DeliveryProvider, error) {
	conf, _ := p.config()
	out := make([]waybill.DeliveryProvider, 0, len(conf.Sources))
	now := p.o.Now()
	for _, src := range conf.Sources {
		s, err := p.state(ctx, src.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, describe(src, s, conf.Interval, now))
	}
	return out, nil
}

func describe(src Source, s state, interval time.Duration, now time.Time) waybill.DeliveryProvider {
	d := waybill.DeliveryProvider{
		Name: src.Name, Kind: src.Kind, Status: waybill.ProviderWaiting, Age: -1, PolledAt: s.PolledAt, FreshAt: s.FreshAt, NextAt: s.NextAt, Took: s.Took,
		Interval: interval.Seconds(), Calls: s.Calls, CallsTotal: s.Total, Unchanged: s.Unchanged, Left: s.Left, Rows: s.Rows, Wanted: s.Wanted,
		Reports: s.Reports, Error: s.Error, ErrorAt: s.ErrorAt, Notes: s.Notes, Node: s.Node,
	}
	if src.URL != nil {
		d.URL = src.URL.Redacted()
	}
	if d.Notes == nil {
		d.Notes = []string{}
	}
	for _, tags := range s.Tags {
		d.Tags += len(tags)
	}
	if s.Until.After(now) {
		d.LimitedUntil = s.Until
	}
	if !s.FreshAt.IsZero() {
		d.Age = max(now.Sub(s.FreshAt).Seconds(), 0)
	}
	switch {
	case s.PolledAt.IsZero():
	case !d.LimitedUntil.IsZero():
		d.Status = waybill.ProviderLimited
	case s.Error != "":
		d.Status = waybill.ProviderFailing
	case len(s.Notes) > 0:
		d.Status = waybill.ProviderPartly
	default:
		d.Status = waybill.ProviderOK
	}
	// A round may take as long as the interval.
	late := !s.FreshAt.IsZero() && d.Age > 2*interval.Seconds()+max(s.Took, 1)
	d.Stale = s.Error != "" || late
	return d
}
