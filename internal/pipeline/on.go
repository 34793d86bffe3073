package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// On says what starts a pipeline.
type On struct {
	HTTP    bool // a start by request; also when the definition has no "on"
	Objects []ObjectTrigger
	Queues  []QueueTrigger

	Schedules []ScheduleTrigger
	Webhooks  []WebhookTrigger
	Events    []EventTrigger
}

// Strings names the triggers in short, such as "http" and "object inbox/*.csv".
func (o On) Strings() []string {
	out := []string{}
	if o.HTTP {
		out = append(out, "http")
	}
	for _, t := range o.Objects {
		out = append(out, "object "+t.Bucket+"/"+t.Match)
	}
	for i := range o.Schedules {
		out = append(out, "schedule "+o.Schedules[i].String())
	}
	for _, t := range o.Webhooks {
		out = append(out, strings.TrimSpace("webhook "+t.Name))
	}
	for _, t := range o.Events {
		out = append(out, strings.TrimSpace("event "+strings.TrimSpace(t.Type+" "+t.Source)))
	}
	for _, t := range o.Queues {
		out = append(out, "queue "+t.Source)
	}
	return out
}

// Trigger returns the trigger that a reference names: schedule/NUMBER, webhook,
// webhook/NAME, event/NUMBER or queue/NUMBER, or nil.
func (o On) Trigger(ref string) *Trigger {
	for i := range o.Schedules {
		if ref == o.Schedules[i].Ref() {
			return &o.Schedules[i].Trigger
		}
	}
	for i := range o.Webhooks {
		if ref == o.Webhooks[i].Ref() {
			return &o.Webhooks[i].Trigger
		}
	}
	for i := range o.Events {
		if ref == EventRef(i) {
			return &o.Events[i].Trigger
		}
	}
	for i := range o.Queues {
		if ref == QueueRef(i) {
			return &o.Queues[i].Trigger
		}
	}
	return nil
}

// QueueRef is the reference of a queue trigger by its place in On.Queues.
func QueueRef(i int) string { return fmt.Sprintf("queue/%d", i+1) }

// EventRef is the reference of an event trigger by its place in On.Events.
func EventRef(i int) string { return fmt.Sprintf("event/%d", i+1) }

// Kinds of change of an object that can start a run.
const (
	ObjectCreated = "created" // a key that was not there
	ObjectUpdated = "updated" // another version of a key
)

var objectEvents = []string{ObjectCreated, ObjectUpdated}

// ObjectTrigger starts a run for every object that arrives in a bucket.
type ObjectTrigger struct {
	Trigger
	Bucket string
	// Match is a pattern for the key: * stands for any characters but /, ? for one
	// such character, ** for any characters, **/ also for nothing. "**" matches all.
	Match string
	// Settle is how long an object of a watched bucket must stay as it is before it is
	// taken; 0 leaves that to the bucket.
	Settle time.Duration
	// Events are the kinds of change that start a run, in the order of the file;
	// created and updated unless the definition says otherwise.
	Events []string
}

// Wants reports whether a kind of change starts a run.
func (t ObjectTrigger) Wants(event string) bool { return slices.Contains(t.Events, event) }

// QueueTrigger starts a run for every message of a source, which is one of the
// sources of waybill.yaml.
type QueueTrigger struct {
	Trigger
	Source string
}

// Matches reports whether an arrived object starts a run.
func (t ObjectTrigger) Matches(bucket, key string) bool {
	return t.Bucket == bucket && (t.Match == "" || glob(t.Match, key))
}

// glob keeps the set of pattern offsets that the key read so far can end at, so
// it takes at most len(pattern) × len(key) steps.
func glob(pattern, key string) bool {
	n := len(pattern)
	cur, next := make([]bool, n+1), make([]bool, n+1)
	// skip marks what can be reached without reading a character. "**/" stands for
	// nothing only where a part of the key begins.
	skip := func(set []bool, begins bool) {
		for i := range n {
			switch {
			case !set[i] || pattern[i] != '*':
			case strings.HasPrefix(pattern[i:], "**"):
				set[i+2] = true
				if begins && strings.HasPrefix(pattern[i:], "**/") {
					set[i+3] = true
				}
			default:
				set[i+1] = true
			}
		}
	}
	cur[0] = true
	skip(cur, true)
	for k := range len(key) {
		c := key[k]
		clear(next)
		for i := range n {
			switch {
			case !cur[i]:
			case strings.HasPrefix(pattern[i:], "**"):
				next[i] = true
			case pattern[i] == '*':
				next[i] = next[i] || c != '/'
			case pattern[i] == '?':
				next[i+1] = next[i+1] || c != '/'
			case pattern[i] == c:
				next[i+1] = true
			}
		}
		skip(next, c == '/')
		cur, next = next, cur
	}
	return cur[n]
}

func (d *definition) on(n *node) {
	p := d.plan
	if n == nil {
		p.On.HTTP = true
		return
	}
	if !d.object("on", n, onKeys) {
		return
	}
	if len(n.fields) == 0 {
		d.add(n.at, "write on: {http: {}}", "on names nothing that starts the pipeline")
	}
	if h := n.get("http"); h != nil {
		p.On.HTTP = true
		if h.kind != kindNull {
			d.object("on.http", h, httpKeys)
		}
	}
	d.each("on.object", n.get("object"), d.objectTrigger)
	d.each("on.queue", n.get("queue"), d.queueTrigger)
	d.each("on.schedule", n.get("schedule"), d.scheduleTrigger)
	d.each("on.webhook", n.get("webhook"), d.webhookTrigger)
	d.each("on.event", n.get("event"), d.eventTrigger)
}

// each calls read for a trigger, or for every one of a list.
func (d *definition) each(what string, n *node, read func(string, *node)) {
	switch {
	case n == nil:
	case n.kind != kindList:
		read(what, n)
	case len(n.list) == 0:
		d.add(n.at, "", "%s is empty", what)
	default:
		for i, x := range n.list {
			read(fmt.Sprintf("%s[%d]", what, i), x)
		}
	}
}

func (d *definition) objectTrigger(what string, n *node) {
	if !d.object(what, n, objectKeys) {
		return
	}
	t := ObjectTrigger{Trigger: d.trigger(what, n), Match: "**", Events: []string{ObjectCreated, ObjectUpdated}}
	if b := n.get("bucket"); b == nil {
		d.add(n.at, "", "%s has no bucket", what)
	} else {
		t.Bucket, _ = d.name(what+".bucket", b, 63)
	}
	if m := n.get("match"); m != nil {
		s, ok := d.str(what+".match", m)
		if ok && (s == "" || len(s) > 1024) {
			d.add(m.at, "", "%s.match: expected a pattern of 1 to 1024 bytes", what)
		}
		t.Match = s
	}
	if s := n.get("settle"); s != nil {
		t.Settle, _ = d.duration(what+".settle", s)
	}
	if e := n.get("events"); e != nil {
		t.Events = d.words(what+".events", e, objectEvents)
	}
	d.plan.On.Objects = append(d.plan.On.Objects, t)
}

// words reads one of the known words, or a list of them.
func (d *document) words(what string, n *node, known []string) []string {
	list := []*node{n}
	if n.kind == kindList {
		list = n.list
	}
	if len(list) == 0 {
		d.add(n.at, "", "%s is empty", what)
	}
	var out []string
	for _, x := range list {
		s, ok := d.str(what, x)
		switch {
		case !ok:
		case !slices.Contains(known, s):
			d.add(x.at, cmpOr(didYouMean(s, known), "it knows "+strings.Join(known, ", ")), "%s: unknown word %s", what, clip(s))
		case slices.Contains(out, s):
			d.add(x.at, "", "%s names %s twice", what, s)
		default:
			out = append(out, s)
		}
	}
	return out
}

func (d *definition) queueTrigger(what string, n *node) {
	if !d.object(what, n, queueKeys) {
		return
	}
	t := QueueTrigger{Trigger: d.trigger(what, n)}
	if s := n.get("source"); s == nil {
		d.add(n.at, "name one of the sources of waybill.yaml", "%s has no source", what)
	} else {
		t.Source, _ = d.name(what+".source", s, 63)
	}
	d.plan.On.Queues = append(d.plan.On.Queues, t)
}
