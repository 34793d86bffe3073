package httpdtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

type callbacks struct{ *World }

func (w callbacks) Authenticate(_ context.Context, token string) (waybill.Principal, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Principal{}, err
	}
	defer unlock()
	key, ok := w.Attempts[token]
	if !ok {
		return waybill.Principal{}, waybill.E(waybill.KindUnauthorized, "the token is not valid")
	}
	if w.Closed[key] {
		return waybill.Principal{}, waybill.E(waybill.KindGone, "the attempt is closed")
	}
	return waybill.Principal{Name: "attempt " + key, Tenant: "default", Role: waybill.RoleUnit, Attempt: key}, nil
}

func (w callbacks) Complete(_ context.Context, attempt string, body []byte, contentType string) (bool, error) {
	unlock, err := w.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	if len(body) > 0 && body[0] == '{' {
		var v waybill.Vars
		if err := json.Unmarshal(body, &v); err != nil {
			return false, waybill.E(waybill.KindInvalid, "the callback cannot be read: %w", err)
		}
	}
	old, done := w.Completed[attempt]
	if done && old != string(body) {
		return false, waybill.E(waybill.KindConflict, "another callback was accepted")
	}
	w.Completed[attempt] = string(body)
	return !done, nil
}

func (w callbacks) SetVariables(_ context.Context, attempt string, vars waybill.Vars) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	v := w.Vars[attempt]
	v.Merge(vars)
	w.Vars[attempt] = v
	return nil
}

func (w callbacks) Heartbeat(_ context.Context, attempt, progress string) (bool, error) {
	unlock, err := w.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	return w.Stop[attempt], nil
}

type objects struct{ *World }

func (w objects) PutObject(_ context.Context, o waybill.Object, r io.Reader, key string, by waybill.Principal) (waybill.Object, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return o, waybill.E(waybill.KindUnavailable, "write content: %w", err)
	}
	unlock, err := w.lock()
	if err != nil {
		return o, err
	}
	defer unlock()
	if slices.Contains(strings.Split(o.Key, "/"), "..") {
		return o, waybill.E(waybill.KindInvalid, "key %q holds ..", o.Key)
	}
	sum := sha256.Sum256(content)
	name := o.Bucket + "\x00" + o.Key
	o.Version, o.Size, o.SHA256 = "v"+strconv.Itoa(len(w.objects[name])+1), int64(len(content)), hex.EncodeToString(sum[:])
	o.CreatedAt, o.CreatedBy = w.Now(), by.Name
	w.objects[name] = append(w.objects[name], stored{o, content})
	return o, nil
}

func (w objects) find(bucket, key, version string) (stored, error) {
	all := w.objects[bucket+"\x00"+key]
	for _, o := range slices.Backward(all) {
		if version == "" || version == o.Version {
			if o.Deleted {
				break
			}
			return o, nil
		}
	}
	return stored{}, waybill.E(waybill.KindNotFound, "there is no object %s in bucket %s", key, bucket)
}

func (w objects) Object(_ context.Context, bucket, key, version string) (waybill.Object, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Object{}, err
	}
	defer unlock()
	o, err := w.find(bucket, key, version)
	return o.Object, err
}

type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

func (w objects) OpenObject(_ context.Context, bucket, key, version string) (waybill.Object, io.ReadSeekCloser, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Object{}, nil, err
	}
	defer unlock()
	o, err := w.find(bucket, key, version)
	return o.Object, content{bytes.NewReader(o.content)}, err
}

func (w objects) ObjectList(_ context.Context, bucket, prefix string, limit int, cursor string) (waybill.Page[waybill.Object], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.Object]{}, err
	}
	defer unlock()
	var all []waybill.Object
	for _, versions := range w.objects {
		o := versions[len(versions)-1].Object
		if o.Bucket == bucket && strings.HasPrefix(o.Key, prefix) && !o.Deleted {
			all = append(all, o)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Key < all[j].Key })
	return page(all, limit, cursor)
}

func (w objects) Buckets(context.Context) ([]string, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var names []string
	for _, versions := range w.objects {
		names = append(names, versions[0].Bucket)
	}
	sort.Strings(names)
	return slices.Compact(names), nil
}

func (w objects) DeleteObject(_ context.Context, bucket, key string, by waybill.Principal) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	o, err := w.find(bucket, key, "")
	if err != nil {
		return err
	}
	o.Deleted = true
	w.objects[bucket+"\x00"+key] = append(w.objects[bucket+"\x00"+key], o)
	return nil
}

type queues struct{ *World }

func (w queues) topic(name string) (*waybill.QueueInfo, error) {
	if q, ok := w.Topics[name]; ok {
		return q, nil
	}
	return nil, waybill.E(waybill.KindNotFound, "there is no topic %s", name)
}

func (w queues) Queues(context.Context) ([]waybill.QueueInfo, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []waybill.QueueInfo
	for _, q := range w.Topics {
		out = append(out, *q)
	}
	return out, nil
}

func (w queues) Messages(_ context.Context, topic string, limit int, cursor string) (waybill.Page[waybill.QueueMessage], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.QueueMessage]{}, err
	}
	defer unlock()
	return page(w.Waiting[topic], limit, cursor)
}

func (w queues) DeadLetters(_ context.Context, topic string, limit int, cursor string) (waybill.Page[waybill.QueueMessage], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.QueueMessage]{}, err
	}
	defer unlock()
	return page(w.Dead[topic], limit, cursor)
}

func (w queues) Redrive(_ context.Context, topic string, ids []string, _ waybill.Principal) (int, error) {
	unlock, err := w.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	if _, err := w.topic(topic); err != nil {
		return 0, err
	}
	before := len(w.Dead[topic])
	w.Dead[topic] = slices.DeleteFunc(w.Dead[topic], func(m waybill.QueueMessage) bool { return len(ids) == 0 || slices.Contains(ids, m.ID) })
	return before - len(w.Dead[topic]), nil
}

func (w queues) Purge(_ context.Context, topic string, dead bool, _ waybill.Principal) (int64, error) {
	unlock, err := w.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	if _, err := w.topic(topic); err != nil {
		return 0, err
	}
	m := w.Waiting
	if dead {
		m = w.Dead
	}
	n := len(m[topic])
	m[topic] = nil
	return int64(n), nil
}

func (w queues) PauseQueue(_ context.Context, topic string, paused bool, _ waybill.Principal) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	q, err := w.topic(topic)
	if err == nil {
		q.Paused = paused
	}
	return err
}

type tokens struct{ *World }

func (w tokens) CreateToken(_ context.Context, name string, role waybill.Role, ttl time.Duration, by waybill.Principal) (waybill.Token, string, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Token{}, "", err
	}
	defer unlock()
	if name == "" || !waybill.RoleAdmin.Allows(role) {
		return waybill.Token{}, "", waybill.E(waybill.KindInvalid, "bad name or role")
	}
	t := waybill.Token{ID: "t" + strconv.Itoa(len(w.tokens)+1), Name: name, Role: role, Hash: "hash that must not leave", CreatedAt: w.Now(), CreatedBy: by.Name}
	if ttl > 0 {
		t.ExpiresAt = w.Now().Add(ttl)
	}
	w.tokens = append(w.tokens, t)
	secret := "wbt_" + t.ID + "_secret"
	w.secrets[secret] = t.ID
	return t, secret, nil
}

func (w tokens) Tokens(context.Context) ([]waybill.Token, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return slices.Clone(w.tokens), nil
}

func (w tokens) RevokeToken(_ context.Context, id string, _ waybill.Principal) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for i := range w.tokens {
		if w.tokens[i].ID == id {
			w.tokens[i].RevokedAt = w.Now()
			return nil
		}
	}
	return waybill.E(waybill.KindNotFound, "there is no token %s", id)
}

func (w tokens) AuthenticateToken(_ context.Context, secret string) (waybill.Principal, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Principal{}, err
	}
	defer unlock()
	for _, t := range w.tokens {
		if t.ID == w.secrets[secret] && t.RevokedAt.IsZero() {
			return waybill.Principal{Name: t.Name, Tenant: "default", Role: t.Role}, nil
		}
	}
	return waybill.Principal{}, waybill.E(waybill.KindUnauthorized, "the token is not valid")
}

func (w tokens) Any(context.Context) (bool, error) { return len(w.tokens) > 0, nil }

func (w tokens) Audit(_ context.Context, a waybill.AuditRecord) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Audits = append(w.Audits, a)
	return nil
}

func (w tokens) AuditLog(_ context.Context, limit int, cursor string) (waybill.Page[waybill.Record], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.Record]{}, err
	}
	defer unlock()
	all := make([]waybill.Record, len(w.Audits))
	for i, a := range w.Audits {
		data, err := json.Marshal(a)
		if err != nil {
			return waybill.Page[waybill.Record]{}, err
		}
		all[i] = waybill.Record{Cursor: strconv.Itoa(i + 1), Subject: "audit", Kind: a.Action, At: w.Now(), Data: data}
	}
	return page(all, limit, cursor)
}
