// Package notify tells people and programs of what happened: runs that failed or
// recovered, messages and clean-ups that were given up.
//
// It reads the event log (package feed). Each matching rule of an event becomes a
// message of the topic "notify", in the commit that moves the feed's place: one
// message for each event and rule, whatever crashes. Sending it is tried again
// with growing pauses for about a day, and then it is a dead letter. A receiver
// that was reached by a server which died before it could say so is told twice,
// with the same id.
package notify

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Topic is that of messages to be sent; their key is the rule and the event.
const Topic = "notify"

// tableRule holds the rules of the API. Key: name; value: waybill.Notification.
const tableRule = "notify"

// Tables are the descriptors of the package's tables.
func Tables() store.Schema { return store.Schema{{Name: tableRule, Version: 1}} }

// Plans finds the rules that pipelines bring along.
type Plans interface {
	// Notifying returns the rules of one version of a pipeline, of the newest when
	// version is 0. KindNotFound when there is no such.
	Notifying(ctx context.Context, pipeline string, version int) ([]waybill.NotifyRule, error)
	// AllNotifying returns the rules of the newest versions of all pipelines, by name.
	AllNotifying(ctx context.Context) (map[string][]waybill.NotifyRule, error)
}

// Runs tells of runs. waybill.Runs does.
type Runs interface {
	Run(ctx context.Context, id string) (waybill.RunDetail, error)
	Runs(ctx context.Context, f waybill.RunFilter) (waybill.Page[waybill.Run], error)
}

// Options of Notifier.
type Options struct {
	Store  store.Store
	Runs   Runs
	Plans  Plans
	Folder []waybill.NotifyRule // of the project folder; those without a name get one
	Secret func(ctx context.Context, name string) (string, error)
	URL    func() string // address of this server, for links
	Owner  string        // this server
	Lease  time.Duration
	Logger *slog.Logger

	Pace  time.Duration  // how soon an event is seen at the latest when many follow one another; 0 means 500 ms
	Roots *x509.CertPool // of mail servers and receivers; nil means the system's
}

// Notifier keeps rules and sends notifications. It implements
// waybill.Notifications. Safe for concurrent use.
type Notifier struct {
	o      Options
	folder []waybill.NotifyRule
	http   *http.Client

	feed   *feed.Feed
	worker *queue.Worker

	mu     sync.Mutex
	kept   []waybill.Notification // rules of the API, as of read
	read   time.Time
	anyAt  time.Time // when any was found out
	anyone bool
}

var _ waybill.Notifications = (*Notifier)(nil)

// New returns a notifier that keeps rules, and sends once Start is called.
func New(o Options) *Notifier {
	if o.Pace == 0 {
		o.Pace = 500 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Secret == nil {
		o.Secret = func(_ context.Context, name string) (string, error) {
			return "", waybill.E(waybill.KindNotFound, "there is no secret %s", name)
		}
	}
	n := &Notifier{o: o, folder: slices.Clone(o.Folder), http: client(o.Roots)}
	for i := range n.folder {
		if n.folder[i].Name == "" {
			n.folder[i].Name = "notify-" + itoa(i+1)
		}
	}
	return n
}

// Messages are tried for about a day: 1 s after the first failure, doubled each
// time, at most every half hour.
const tries = 55

func backoff(fails int) time.Duration {
	return min(time.Second<<min(max(fails-1, 0), 11), 30*time.Minute)
}

// Start reads events and sends messages until Stop.
func (n *Notifier) Start(ctx context.Context) error {
	w, err := queue.Start(ctx, queue.Options{
		Store: n.o.Store, Topic: Topic, Owner: n.o.Owner, Handler: n.send, Logger: n.o.Logger, Lease: n.o.Lease,
		Slots: 8, MaxFails: tries, Backoff: backoff,
	})
	if err != nil {
		return err
	}
	n.worker = w
	n.feed = feed.Start(ctx, feed.Options{
		Store: n.o.Store, Name: "notify", Owner: n.o.Owner, Logger: n.o.Logger, Pace: n.o.Pace, Handle: n.handle,
		Idle: func(ctx context.Context) bool { return !n.any(ctx) },
	})
	return nil
}

// Stop ends both.
func (n *Notifier) Stop() {
	if n.feed != nil {
		n.feed.Stop()
	}
	if n.worker != nil {
		n.worker.Stop()
	}
}

// message is what the queue holds: the event is complete, so that it can be sent
// when the run is long forgotten. The rule is looked up when it is sent.
type message struct {
	Rule     string `json:"rule"`
	Pipeline string `json:"pipeline,omitempty"` // and the version of it that the rule belongs to
	Version  int    `json:"version,omitempty"`
	Event    Event  `json:"event"`
}

// Event is what receivers are sent: a CloudEvents 1.0 event. Its id is the same
// however often it is sent.
type Event struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"` // "run.waybill.run.failed", …
	Subject     string    `json:"subject,omitempty"`
	Time        time.Time `json:"time"`
	ContentType string    `json:"datacontenttype"`
	Data        Data      `json:"data"`
}

// Data tells what happened.
type Data struct {
	Event      waybill.NotifyEvent `json:"event"`
	Rule       string              `json:"rule"`
	Text       string              `json:"text"` // one line for people
	URL        string              `json:"url,omitempty"`
	Pipeline   string              `json:"pipeline,omitempty"`
	Run        string              `json:"run,omitempty"`
	Version    int                 `json:"version,omitempty"`
	Status     waybill.Status      `json:"status,omitempty"`
	Error      string              `json:"error,omitempty"`
	FailedStep string              `json:"failed_step,omitempty"`
	RetryOf    string              `json:"retry_of,omitempty"`
	Trigger    string              `json:"trigger,omitempty"`
	Labels     map[string]string   `json:"labels,omitempty"`
	CreatedAt  time.Time           `json:"created_at,omitzero"`
	StartedAt  time.Time           `json:"started_at,omitzero"`
	FinishedAt time.Time           `json:"finished_at,omitzero"`
	After      string              `json:"after,omitempty"` // of recovered: the run that had not succeeded
	Attempt    string              `json:"attempt,omitempty"`
	Topic      string              `json:"topic,omitempty"` // of a dead letter
	Key        string              `json:"key,omitempty"`
	Letter     string              `json:"dead_letter,omitempty"`
	Alert      *waybill.Alert      `json:"alert,omitempty"` // of deliveries
	Test       bool                `json:"test,omitempty"`
}

// maxError bounds the text of an error in an event.
const maxError = 4000

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// eventID is the id of what one rule is told of one event.
func eventID(rule string, e waybill.NotifyEvent, thing string) string {
	sum := sha256.Sum256([]byte(rule + "\x00" + string(e) + "\x00" + thing))
	return hex.EncodeToString(sum[:16])
}

// handle is the handler of the feed.
func (n *Notifier) handle(ctx context.Context, b feed.Batch) (feed.Effect, error) {
	var out feed.Effect
	rules, err := n.rules(ctx)
	if err != nil {
		return out, err
	}
	for i := range b.Events {
		e := &b.Events[i]
		if e.Tenant != store.DefaultTenant {
			continue
		}
		switch {
		case e.Kind == "run.ended":
			err = n.runEnded(ctx, e, rules, &out)
		case e.Kind == "cleanup.failed":
			err = n.cleanupFailed(ctx, e, rules, &out)
		case e.Kind == EventAlert:
			err = n.deliveryAlert(e, rules, &out)
		case e.Kind == queue.EventDead:
			err = n.letterDead(e, rules, &out)
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// scoped is a rule and the version of the pipeline that it belongs to, if any.
type scoped struct {
	waybill.NotifyRule
	pipeline string
	version  int
}

// add queues what every rule that listens is told.
func (n *Notifier) add(out *feed.Effect, rules []scoped, event waybill.NotifyEvent, thing, source, subject string, at time.Time, data Data) error {
	for _, r := range rules {
		if !r.Listens(event, data.Pipeline) {
			continue
		}
		data.Event, data.Rule = event, r.Name
		m := message{Rule: r.Name, Pipeline: r.pipeline, Version: r.version, Event: Event{
			SpecVersion: "1.0", ID: eventID(r.Name, event, thing), Source: source, Type: eventType(event), Subject: subject,
			Time: at.UTC(), ContentType: "application/json", Data: data,
		}}
		body, err := json.Marshal(m)
		if err != nil {
			return err
		}
		// Each has a lane of its own: one receiver that is away holds up no other.
		out.Sends = append(out.Sends, store.Send{Topic: Topic, Key: r.Name + "/" + m.Event.ID, Body: body})
	}
	return nil
}

func eventType(e waybill.NotifyEvent) string {
	switch e {
	case waybill.NotifyDeadLetter, waybill.NotifyCleanupFailed, waybill.NotifyDelivery:
		return "run.waybill." + string(e)
	}
	return "run.waybill.run." + string(e)
}

func (n *Notifier) runEnded(ctx context.Context, e *store.StoredEvent, rules []scoped, out *feed.Effect) error {
	id := strings.TrimPrefix(e.Subject, "run/")
	d, err := n.o.Runs.Run(ctx, id)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return nil // forgotten since
	}
	if err != nil {
		return err
	}
	r := d.Run
	own, err := n.ownRules(ctx, r.Pipeline, r.Version)
	if err != nil {
		return err
	}
	rules = append(slices.Clip(rules), own...)
	data := n.dataOf(&r)
	events := map[waybill.Status]waybill.NotifyEvent{
		waybill.StatusFailed: waybill.NotifyFailed, waybill.StatusTimedOut: waybill.NotifyTimedOut, waybill.StatusLost: waybill.NotifyLost,
		waybill.StatusCanceled: waybill.NotifyCanceled, waybill.StatusSucceeded: waybill.NotifySucceeded,
	}
	event, ok := events[r.Status]
	if !ok {
		return nil
	}
	data.Text = textOf(event, &r)
	source, subject := "/pipelines/"+r.Pipeline, "runs/"+id
	if err := n.add(out, rules, event, id, source, subject, r.FinishedAt, data); err != nil {
		return err
	}
	if event != waybill.NotifySucceeded || !slices.ContainsFunc(rules, func(x scoped) bool { return x.Listens(waybill.NotifyRecovered, r.Pipeline) }) {
		return nil
	}
	before, err := n.before(ctx, &r)
	if err != nil || before == nil || before.Status == waybill.StatusSucceeded {
		return err
	}
	data.Text, data.After = textOf(waybill.NotifyRecovered, &r), before.ID
	return n.add(out, rules, waybill.NotifyRecovered, id, source, subject, r.FinishedAt, data)
}

// lookBack is how many runs of a pipeline are looked at for the one that ended
// before another.
const lookBack = 50

// before returns the run of the same pipeline that ended last before r, canceled
// and skipped ones left out, among those that began lately.
func (n *Notifier) before(ctx context.Context, r *waybill.Run) (*waybill.Run, error) {
	page, err := n.o.Runs.Runs(ctx, waybill.RunFilter{
		Pipeline: r.Pipeline, Limit: lookBack,
		Statuses: []waybill.Status{waybill.StatusSucceeded, waybill.StatusFailed, waybill.StatusTimedOut, waybill.StatusLost},
	})
	if err != nil {
		return nil, err
	}
	var last *waybill.Run
	for i := range page.Items {
		x := &page.Items[i]
		if x.ID != r.ID && x.FinishedAt.Before(r.FinishedAt) && (last == nil || x.FinishedAt.After(last.FinishedAt)) {
			last = x
		}
	}
	return last, nil
}

func (n *Notifier) dataOf(r *waybill.Run) Data {
	return Data{
		URL: n.link(r.ID), Pipeline: r.Pipeline, Run: r.ID, Version: r.Version, Status: r.Status, Error: clip(r.Error, maxError), FailedStep: r.Failed,
		RetryOf: r.Of, Trigger: r.Event.Type, Labels: r.Labels, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
	}
}

func (n *Notifier) link(run string) string {
	if n.o.URL == nil {
		return ""
	}
	return n.o.URL() + "/api/v1/runs/" + run
}

func textOf(e waybill.NotifyEvent, r *waybill.Run) string {
	words := map[waybill.NotifyEvent]string{
		waybill.NotifyFailed: "failed", waybill.NotifyTimedOut: "timed out", waybill.NotifyLost: "was lost", waybill.NotifyCanceled: "was canceled",
		waybill.NotifySucceeded: "succeeded", waybill.NotifyRecovered: "works again",
	}
	text := "Pipeline " + r.Pipeline + " " + words[e]
	if e == waybill.NotifyFailed || e == waybill.NotifyTimedOut || e == waybill.NotifyLost {
		if line, _, _ := strings.Cut(r.Error, "\n"); line != "" {
			text += ": " + clip(line, 300)
		}
	}
	return text
}

func (n *Notifier) cleanupFailed(ctx context.Context, e *store.StoredEvent, rules []scoped, out *feed.Effect) error {
	id := strings.TrimPrefix(e.Subject, "run/")
	var d struct {
		Attempt string `json:"attempt"`
		Reason  string `json:"reason"`
	}
	if json.Unmarshal(e.Data, &d) != nil {
		return nil
	}
	data := Data{Run: id, URL: n.link(id), Attempt: d.Attempt, Error: clip(d.Reason, maxError)}
	if r, err := n.o.Runs.Run(ctx, id); err == nil {
		data = n.dataOf(&r.Run)
		data.Attempt, data.Error = d.Attempt, clip(d.Reason, maxError)
		own, err := n.ownRules(ctx, r.Pipeline, r.Version)
		if err != nil {
			return err
		}
		rules = append(slices.Clip(rules), own...)
	} else if !waybill.IsKind(err, waybill.KindNotFound) {
		return err
	}
	data.Text = "The unit of attempt " + d.Attempt + " was not cleaned up: " + clip(d.Reason, 300)
	return n.add(out, rules, waybill.NotifyCleanupFailed, d.Attempt+"\x00"+e.At.UTC().Format(time.RFC3339Nano), "/runs/"+id, "attempts/"+d.Attempt, e.At, data)
}

// ruleFor is how long the rules of the API are taken from memory.
const ruleFor = 2 * time.Second

// rules are those of the folder and of the API.
func (n *Notifier) rules(ctx context.Context) ([]scoped, error) {
	kept, err := n.ofAPI(ctx, ruleFor)
	if err != nil {
		return nil, err
	}
	out := make([]scoped, 0, len(n.folder)+len(kept))
	for _, r := range n.folder {
		out = append(out, scoped{NotifyRule: r})
	}
	for _, k := range kept {
		out = append(out, scoped{NotifyRule: k.NotifyRule})
	}
	return out, nil
}

// ownRules are those that a version of a pipeline brings along.
func (n *Notifier) ownRules(ctx context.Context, pipeline string, version int) ([]scoped, error) {
	if n.o.Plans == nil {
		return nil, nil
	}
	rules, err := n.o.Plans.Notifying(ctx, pipeline, version)
	if err != nil {
		switch waybill.KindOf(err) {
		case waybill.KindNotFound, waybill.KindGone, waybill.KindInvalid:
			return nil, nil // it cannot be read any more; nobody can be told of that here
		}
		return nil, err
	}
	out := make([]scoped, len(rules))
	for i, r := range rules {
		r.Name, r.Pipeline = ownName(pipeline, i), ""
		out[i] = scoped{r, pipeline, version}
	}
	return out, nil
}

// ownName is the name of a rule that a pipeline brings along.
func ownName(pipeline string, i int) string { return "pipeline:" + pipeline + ":" + itoa(i+1) }

// any reports whether there is a rule at all.
func (n *Notifier) any(ctx context.Context) bool {
	if len(n.folder) > 0 {
		return true
	}
	n.mu.Lock()
	known, anyone := time.Since(n.anyAt) < 2*time.Second && !n.anyAt.IsZero(), n.anyone
	n.mu.Unlock()
	if known {
		return anyone
	}
	kept, err := n.ofAPI(ctx, ruleFor)
	anyone = err != nil || len(kept) > 0
	if !anyone && n.o.Plans != nil {
		all, err := n.o.Plans.AllNotifying(ctx)
		anyone = err != nil || len(all) > 0
	}
	n.mu.Lock()
	n.anyAt, n.anyone = time.Now(), anyone
	n.mu.Unlock()
	return anyone
}

// ofAPI are the rules of the API, read again when they are older than age.
func (n *Notifier) ofAPI(ctx context.Context, age time.Duration) ([]waybill.Notification, error) {
	n.mu.Lock()
	if !n.read.IsZero() && time.Since(n.read) < age {
		defer n.mu.Unlock()
		return n.kept, nil
	}
	n.mu.Unlock()
	rows, err := n.o.Store.Scan(ctx, "", tableRule, "", 0)
	if err != nil {
		return nil, err
	}
	kept := make([]waybill.Notification, 0, len(rows))
	for _, r := range rows {
		var x waybill.Notification
		if err := json.Unmarshal(r.Val, &x); err != nil {
			n.o.Logger.Error("a rule of notifications cannot be read", "rule", r.Key, "err", err)
			continue
		}
		kept = append(kept, x)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept, n.read = kept, time.Now()
	return kept, nil
}

// send is the handler of the topic.
func (n *Notifier) send(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var msg message
	if err := json.Unmarshal(m.Body, &msg); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	rule, err := n.find(ctx, msg)
	if waybill.IsKind(err, waybill.KindNotFound) {
		n.o.Logger.Info("notification dropped: its rule is gone", "rule", msg.Rule, "event", msg.Event.ID)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = n.deliver(ctx, rule, msg.Event)
	var later *laterError
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &later):
		return nil, queue.Retry(max(later.after, backoff(m.Fails+1)), err)
	}
	// Whatever is wrong with a rule can be put right while the message waits, so no
	// error is final but the last.
	return nil, queue.Retry(backoff(m.Fails+1), err)
}

// find returns the rule of a message as it is now.
func (n *Notifier) find(ctx context.Context, m message) (waybill.NotifyRule, error) {
	if m.Pipeline != "" {
		own, err := n.ownRules(ctx, m.Pipeline, m.Version)
		if err != nil {
			return waybill.NotifyRule{}, err
		}
		for _, r := range own {
			if r.Name == m.Rule {
				return r.NotifyRule, nil
			}
		}
		return waybill.NotifyRule{}, waybill.E(waybill.KindNotFound, "there is no rule %s", m.Rule)
	}
	x, err := n.one(ctx, m.Rule)
	return x.NotifyRule, err
}

// deliver sends one event as a rule says.
func (n *Notifier) deliver(ctx context.Context, r waybill.NotifyRule, e Event) error {
	switch {
	case r.Webhook != nil:
		return n.post(ctx, *r.Webhook, e)
	case r.Email != nil:
		return n.mail(ctx, *r.Email, e)
	}
	return waybill.E(waybill.KindInvalid, "rule %s tells nobody", r.Name)
}

func hostPort(s, port string) (string, string) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return s, port
	}
	return host, p
}

func itoa(i int) string { return strconv.Itoa(i) }

func (n *Notifier) letterDead(e *store.StoredEvent, rules []scoped, out *feed.Effect) error {
	var d queue.DeadEvent
	if json.Unmarshal(e.Data, &d) != nil || d.Topic == Topic {
		return nil // a notification that failed tells nobody of that, or it would go on for ever
	}
	data := Data{Topic: d.Topic, Key: d.Key, Error: clip(d.Reason, maxError), Text: "Dead letter in topic " + d.Topic + ": " + clip(d.Reason, 300)}
	if n.o.URL != nil {
		data.URL = n.o.URL() + "/api/v1/queues/" + d.Topic + "/dead"
	}
	return n.add(out, rules, waybill.NotifyDeadLetter, string(e.Cursor), "/queues/"+d.Topic, d.Key, e.At, data)
}
