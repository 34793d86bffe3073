package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Origins of rules.
const (
	originFolder   = "folder"
	originPipeline = "pipeline"
	originAPI      = "api"
)

// hidden stands for a value that is not told.
const hidden = "***"

// shown is a rule as others may see it: what is not a reference to a secret and
// may be one is hidden.
func shown(x waybill.Notification) waybill.Notification {
	hide := func(s string) string {
		if s == "" || strings.HasPrefix(s, "${secret:") && strings.HasSuffix(s, "}") {
			return s
		}
		return hidden
	}
	if x.Webhook != nil {
		w := *x.Webhook
		w.Secret = hide(w.Secret)
		w.Headers = nil
		for name, value := range x.Webhook.Headers {
			if w.Headers == nil {
				w.Headers = map[string]string{}
			}
			if secretRef.MatchString(value) {
				w.Headers[name] = value
			} else {
				w.Headers[name] = hide(value)
			}
		}
		x.Webhook = &w
	}
	if x.Email != nil {
		m := *x.Email
		m.Password = hide(m.Password)
		x.Email = &m
	}
	return x
}

// named reports that a rule of the API holds what should be a reference to a secret.
func named(r waybill.NotifyRule) error {
	if w := r.Webhook; w != nil {
		if w.Secret != "" && !secretRef.MatchString(w.Secret) {
			return waybill.E(waybill.KindInvalid, "webhook.secret: write ${secret:NAME}, and set its value with: waybill secret set NAME")
		}
		for name, value := range w.Headers {
			if value == hidden {
				return waybill.E(waybill.KindInvalid, "webhook.headers: %s is %s, which stands for a value that is not told", name, hidden)
			}
		}
	}
	if m := r.Email; m != nil && m.Password != "" && !secretRef.MatchString(m.Password) {
		return waybill.E(waybill.KindInvalid, "email.password: write ${secret:NAME}, and set its value with: waybill secret set NAME")
	}
	return nil
}

// Notifications implements waybill.Notifications.
func (n *Notifier) Notifications(ctx context.Context) ([]waybill.Notification, error) {
	all, err := n.all(ctx)
	for i := range all {
		all[i] = shown(all[i])
	}
	return all, err
}

// all are the rules as they are, by name.
func (n *Notifier) all(ctx context.Context) ([]waybill.Notification, error) {
	out := []waybill.Notification{}
	for _, r := range n.folder {
		out = append(out, waybill.Notification{NotifyRule: r, Origin: originFolder})
	}
	kept, err := n.ofAPI(ctx, 0)
	if err != nil {
		return nil, err
	}
	for _, k := range kept {
		k.Origin = originAPI
		out = append(out, k)
	}
	if n.o.Plans != nil {
		all, err := n.o.Plans.AllNotifying(ctx)
		if err != nil {
			return nil, err
		}
		for name, rules := range all {
			for i, r := range rules {
				r.Name, r.Pipeline = ownName(name, i), name
				out = append(out, waybill.Notification{NotifyRule: r, Origin: originPipeline})
			}
		}
	}
	slices.SortFunc(out, func(a, b waybill.Notification) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Notification implements waybill.Notifications.
func (n *Notifier) Notification(ctx context.Context, name string) (waybill.Notification, error) {
	x, err := n.one(ctx, name)
	return shown(x), err
}

// one is a rule as it is.
func (n *Notifier) one(ctx context.Context, name string) (waybill.Notification, error) {
	for _, r := range n.folder {
		if r.Name == name {
			return waybill.Notification{NotifyRule: r, Origin: originFolder}, nil
		}
	}
	if strings.HasPrefix(name, "pipeline:") {
		all, err := n.all(ctx)
		if err != nil {
			return waybill.Notification{}, err
		}
		for _, x := range all {
			if x.Name == name {
				return x, nil
			}
		}
		return waybill.Notification{}, unknown(name)
	}
	x, _, err := n.ofName(ctx, name)
	return x, err
}

func unknown(name string) error {
	return waybill.E(waybill.KindNotFound, "there is no rule %.100q", name).WithHint("see: waybill notify list")
}

// ofName reads a rule of the API.
func (n *Notifier) ofName(ctx context.Context, name string) (waybill.Notification, int64, error) {
	var x waybill.Notification
	row, err := n.o.Store.Get(ctx, "", tableRule, name)
	if errors.Is(err, store.ErrNotFound) {
		return x, 0, unknown(name)
	}
	if err == nil {
		err = json.Unmarshal(row.Val, &x)
	}
	x.Origin = originAPI
	return x, row.Rev, err
}

// readOnly reports that a rule cannot be changed by the API.
func (n *Notifier) readOnly(name string) error {
	if strings.HasPrefix(name, "pipeline:") {
		return waybill.E(waybill.KindConflict, "it belongs to its pipeline").WithOp("change rule", name).WithHint("change the key notify of the pipeline")
	}
	if slices.ContainsFunc(n.folder, func(r waybill.NotifyRule) bool { return r.Name == name }) {
		return waybill.E(waybill.KindConflict, "it comes from the project folder").WithOp("change rule", name).WithHint("change notify in waybill.yaml")
	}
	return nil
}

// ApplyNotification implements waybill.Notifications.
func (n *Notifier) ApplyNotification(ctx context.Context, r waybill.NotifyRule, by waybill.Principal) (waybill.Notification, bool, error) {
	if err := n.readOnly(r.Name); err != nil {
		return waybill.Notification{}, false, err
	}
	if r.Name == "" {
		return waybill.Notification{}, false, waybill.E(waybill.KindInvalid, "the rule has no name")
	}
	if err := cmp.Or(r.Check(), named(r)); err != nil {
		return waybill.Notification{}, false, err
	}
	for {
		old, rev, err := n.ofName(ctx, r.Name)
		if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
			return waybill.Notification{}, false, err
		}
		if rev > 0 && reflect.DeepEqual(old.NotifyRule, r) {
			return shown(old), false, nil
		}
		now := n.o.Store.Now().UTC().Truncate(time.Microsecond)
		x := waybill.Notification{NotifyRule: r, Origin: originAPI, CreatedAt: now, CreatedBy: by.Name}
		val, err := json.Marshal(x)
		if err != nil {
			return x, false, err
		}
		err = n.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableRule, Key: r.Name, Rev: rev, Val: val}}})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		n.forget()
		return shown(x), rev == 0, err
	}
}

// DeleteNotification implements waybill.Notifications.
func (n *Notifier) DeleteNotification(ctx context.Context, name string, _ waybill.Principal) error {
	if err := n.readOnly(name); err != nil {
		return err
	}
	for {
		_, rev, err := n.ofName(ctx, name)
		if err != nil {
			return err
		}
		err = n.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableRule, Key: name, Rev: rev}}})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		n.forget()
		return err
	}
}

// forget makes the rules be read again.
func (n *Notifier) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.read, n.anyAt = time.Time{}, time.Time{}
}

// TestNotification implements waybill.Notifications.
func (n *Notifier) TestNotification(ctx context.Context, name string) error {
	x, err := n.one(ctx, name)
	if err != nil {
		return err
	}
	now := n.o.Store.Now().UTC()
	event := x.On[0]
	e := Event{
		SpecVersion: "1.0", ID: eventID(name, event, "test\x00"+waybill.NewID(now)), Source: "/notifications/" + name, Type: eventType(event),
		Time: now, ContentType: "application/json",
		Data: Data{Event: event, Rule: name, Text: "This is a test of rule " + name, Test: true, Pipeline: x.Pipeline},
	}
	ctx, cancel := context.WithTimeout(ctx, sendFor)
	defer cancel()
	if err := n.deliver(ctx, x.NotifyRule, e); err != nil {
		if waybill.KindOf(err) != waybill.KindInternal {
			return err
		}
		return waybill.E(waybill.KindUnavailable, "%s", err.Error()).WithOp("test rule", name)
	}
	return nil
}
