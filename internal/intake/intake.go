// Package intake takes messages from queues of other systems.
//
// A message is acknowledged when the commit that started its runs is durable, and
// not before: it may be delivered again, and is known then. Every server takes
// messages; the store sees to it that each starts something once. While our own
// queue has no room, or the store does not answer, nothing is taken.
package intake

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/source"
)

// Feed is one source of messages.
type Feed struct {
	Name          string
	Kind          string
	URL           string // as it is shown
	Queue         string
	Max           int // messages in work at once
	MaxDeliveries int // after which a message that could not be taken is refused
	Source        source.Source
}

// Sink is what becomes of messages.
type Sink interface {
	// Message returns when what a message starts is durable; see arrival.Events.
	Message(ctx context.Context, m arrival.Message) (waybill.Delivery, error)
	// Settled is told once it was acknowledged.
	Settled(ctx context.Context, m arrival.Message) error
}

// Options of an Intake.
type Options struct {
	Feeds  []Feed
	Sink   Sink
	Admit  func(ctx context.Context) error // nil admits all
	Now    func() time.Time                // nil: time.Now
	Logger *slog.Logger
}

// Intake implements waybill.Sources.
type Intake struct {
	o Options

	mu    sync.Mutex
	feeds []*waybill.Source
}

var _ waybill.Sources = (*Intake)(nil)

// Bounds of messages: a larger body becomes a dead letter; one larger than that is
// not taken at all.
const (
	MaxBody = 1 << 20
	MaxDead = 16 << 20
)

// New returns an intake.
func New(o Options) *Intake {
	if o.Admit == nil {
		o.Admit = func(context.Context) error { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	in := &Intake{o: o}
	for _, f := range o.Feeds {
		in.feeds = append(in.feeds, &waybill.Source{Name: f.Name, Kind: f.Kind, URL: f.URL, Queue: f.Queue, Status: "waiting"})
	}
	return in
}

// Sources implements waybill.Sources.
func (in *Intake) Sources(context.Context) ([]waybill.Source, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := make([]waybill.Source, len(in.feeds))
	for i, f := range in.feeds {
		out[i] = *f
	}
	return out, nil
}

func (in *Intake) update(i int, f func(*waybill.Source)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	f(in.feeds[i])
}

// Run takes messages until ctx ends. Messages in hand are finished or given back.
func (in *Intake) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range in.o.Feeds {
		wg.Go(func() { in.run(ctx, i) })
	}
	wg.Wait()
}

// backoff is the pause after a number of failures.
func backoff(fails int) time.Duration {
	return min(500*time.Millisecond<<min(max(fails-1, 0), 10), 30*time.Second)
}

func (in *Intake) run(ctx context.Context, i int) {
	f := in.o.Feeds[i]
	for fails := 0; ctx.Err() == nil; {
		before := in.accepted(i)
		err := in.serve(ctx, i, f)
		if ctx.Err() != nil {
			return
		}
		if in.accepted(i) > before {
			fails = 0
		}
		fails++
		status := "failing"
		if waybill.IsKind(err, waybill.KindExhausted) {
			status, fails = "full", 1
		} else {
			in.o.Logger.Warn("source not read", "source", f.Name, "fails", fails, "err", err)
		}
		in.update(i, func(s *waybill.Source) { s.Status, s.Error, s.ErrorAt = status, err.Error(), in.o.Now().UTC() })
		pause(ctx, backoff(fails))
	}
}

func (in *Intake) accepted(i int) int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.feeds[i].Received
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// serve makes one connection and takes messages from it until it fails.
func (in *Intake) serve(ctx context.Context, i int, f Feed) error {
	if err := in.o.Admit(ctx); err != nil {
		return err
	}
	conn, err := f.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := conn.Close(); err != nil {
			in.o.Logger.Debug("source not closed", "source", f.Name, "err", err)
		}
	}()
	in.update(i, func(s *waybill.Source) { s.Status, s.Error, s.ErrorAt = "ok", "", time.Time{} })
	for {
		if err := in.o.Admit(ctx); err != nil {
			return err // the connection is closed: others may have what it holds
		}
		msgs, err := conn.Receive(ctx, f.Max)
		if err != nil {
			return err
		}
		if err := in.batch(ctx, i, f, conn, msgs); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// finishing is how long messages in hand may take once the server stops.
const finishing = 10 * time.Second

// batch brings messages to an end: acknowledged, or given back because of err.
func (in *Intake) batch(ctx context.Context, i int, f Feed, conn source.Conn, msgs []*source.Message) error {
	in.update(i, func(s *waybill.Source) { s.Received += int64(len(msgs)); s.LastAt = in.o.Now().UTC() })
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishing, cancel) })()
	taken := make([]arrival.Message, len(msgs))
	errs := make([]error, len(msgs))
	var wg sync.WaitGroup
	for n, m := range msgs {
		taken[n] = convert(f, m)
		wg.Go(func() { errs[n] = in.take(free, i, taken[n], len(m.Body)) })
	}
	wg.Wait()
	fault.At("source.committed")
	var done, back []*source.Message
	for n, m := range msgs {
		if errs[n] == nil {
			done = append(done, m)
		} else {
			back = append(back, m)
		}
	}
	err := errors.Join(errs...)
	if aerr := conn.Ack(free, done); aerr != nil {
		return errors.Join(err, aerr)
	}
	fault.At("source.acked")
	for n := range msgs {
		if errs[n] != nil {
			continue
		}
		if serr := in.o.Sink.Settled(free, taken[n]); serr != nil {
			in.o.Logger.Warn("message not settled", "source", f.Name, "err", serr)
		}
	}
	if len(back) == 0 {
		return nil
	}
	return errors.Join(err, conn.Return(free, back))
}

// take hands one message on.
func (in *Intake) take(ctx context.Context, i int, m arrival.Message, size int) error {
	if size > MaxDead {
		return waybill.E(waybill.KindTooLarge, "message %q has %d bytes, the limit is %d", m.ID, size, MaxDead).WithHint("remove it from the queue")
	}
	d, err := in.o.Sink.Message(ctx, m)
	switch waybill.KindOf(err) {
	case "":
	case waybill.KindInvalid, waybill.KindTooLarge, waybill.KindMalformed:
		m.Refuse = err.Error()
		if d, err = in.o.Sink.Message(ctx, m); err != nil {
			return err
		}
	default:
		return err
	}
	in.update(i, func(s *waybill.Source) {
		switch {
		case !d.Fresh:
			s.Duplicates++
		case len(d.Refused) > 0 && len(d.Runs) == 0:
			s.Dead++
		default:
			s.Accepted++
		}
	})
	return nil
}

// convert makes an event of a delivery.
func convert(f Feed, m *source.Message) arrival.Message {
	out := arrival.Message{Source: f.Name, ID: clean(m.ID, 255), Redelivered: m.Redelivered}
	if len(m.ID) > 255 {
		sum := sha256.Sum256([]byte(m.ID))
		out.ID = "sha256:" + hex.EncodeToString(sum[:])
	}
	ev := waybill.Event{Subject: clean(m.Subject, 1024), Time: m.Time.UTC(), Headers: map[string]string{}}
	for k, v := range m.Headers {
		if strings.EqualFold(strings.ReplaceAll(k, "_", "-"), "waybill-attempt") && strings.Count(v, "/") == 2 && len(v) < 300 {
			out.Attempt = clean(v, 300)
		}
		ev.Headers[clean(k, 255)] = clean(v, 8<<10)
	}
	if m.ContentType != "" {
		ev.Headers["content-type"] = clean(m.ContentType, 255)
	}
	var encoded bool
	if ev.Data, encoded = data(m.Body); encoded {
		ev.Headers["body-encoding"] = "base64"
	}
	if len(ev.Headers) == 0 {
		ev.Headers = nil
	}
	out.Event = ev
	switch {
	case len(m.Body) > MaxBody:
		out.Refuse = fmt.Sprintf("the message has %d bytes, the limit is %d", len(m.Body), MaxBody)
	case f.MaxDeliveries > 0 && m.Deliveries > f.MaxDeliveries:
		out.Refuse = fmt.Sprintf("poison: it was delivered %d times and never taken", m.Deliveries-1)
	}
	return out
}

// clean is a text without what no store keeps.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// data is a body as JSON: itself if it is JSON, a text if it is text, else its
// base64 as a text.
func data(body []byte) (raw json.RawMessage, encoded bool) {
	if json.Valid(body) && utf8.Valid(body) && !strings.Contains(string(body), `\u0000`) {
		return body, false
	}
	text := string(body)
	if !utf8.Valid(body) || strings.ContainsRune(text, 0) {
		text, encoded = base64.StdEncoding.EncodeToString(body), true
	}
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string is always JSON
	}
	return raw, encoded
}
