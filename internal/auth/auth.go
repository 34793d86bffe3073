// Package auth keeps API tokens and the audit log in the store.
//
// A token reads wbt_ID_SECRET, where the secret is 256 random bits. The store
// holds its SHA-256 only, so a copy of the store opens nothing. What was looked
// up is kept for a moment, so that a token costs one read a second however often
// it is used, and a revoked one is refused within that second on every server.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Prefix begins every API token.
const Prefix = "wbt_"

// auditSubject is the subject of audit records in the event log.
const auditSubject = "audit"

const (
	table      = "token"
	cacheLife  = time.Second
	cacheMax   = 10_000
	maxTTL     = 10 * 365 * 24 * time.Hour
	maxName    = 100
	maxSubject = 1000
)

// Tables are the descriptors of the rows that this package keeps.
func Tables() store.Schema {
	return store.Schema{{
		Name:    table,
		Version: 1,
		Columns: []store.Column{{Name: "created_at", Type: store.Int}, {Name: "revoked_at", Type: store.Int}},
		Indexes: [][]string{{"created_at"}},
		Derive: store.JSON(func(_ string, t *waybill.Token) store.Derived {
			return store.Derived{Columns: []any{store.Millis(t.CreatedAt), store.Millis(t.RevokedAt)}}
		}),
	}}
}

// Tokens implements [waybill.Tokens] over a store. It is safe for concurrent use.
type Tokens struct {
	st  store.Store
	now func() time.Time

	mu    sync.Mutex
	cache map[string]cached
}

type cached struct {
	token waybill.Token // without id when there is none such
	until time.Time
}

var _ waybill.Tokens = (*Tokens)(nil)

// New returns the tokens of a store. A nil now means time.Now.
func New(st store.Store, now func() time.Time) *Tokens {
	if now == nil {
		now = time.Now
	}
	return &Tokens{st: st, now: now, cache: map[string]cached{}}
}

// CreateToken makes a token for the default tenant and returns its secret, which
// is kept nowhere. A ttl of 0 means that it does not expire.
func (a *Tokens) CreateToken(ctx context.Context, name string, role waybill.Role, ttl time.Duration, by waybill.Principal) (waybill.Token, string, error) {
	if err := checkName(name); err != nil {
		return waybill.Token{}, "", err
	}
	if !slices.Contains([]waybill.Role{waybill.RoleViewer, waybill.RoleOperator, waybill.RoleAdmin, waybill.RoleReporter}, role) {
		return waybill.Token{}, "", waybill.E(waybill.KindInvalid, "role %.40q is not one of viewer, operator, admin, reporter", string(role))
	}
	if ttl < 0 || ttl > maxTTL {
		return waybill.Token{}, "", waybill.E(waybill.KindInvalid, "a token lasts up to ten years, not %s", ttl)
	}
	now := a.now().UTC()
	t := waybill.Token{ID: waybill.NewID(now), Name: name, Role: role, CreatedAt: now, CreatedBy: by.Name}
	if ttl > 0 {
		t.ExpiresAt = now.Add(ttl)
	}
	secret := Prefix + t.ID + "_" + waybill.NewSecret()
	t.Hash = hash(secret)
	val, err := json.Marshal(t)
	if err != nil {
		return waybill.Token{}, "", err
	}
	rec, err := a.event(waybill.AuditRecord{Who: by.Name, Action: "token.create", Subject: t.ID, Result: "ok"})
	if err != nil {
		return waybill.Token{}, "", err
	}
	err = a.st.Commit(ctx, &store.Commit{
		ID: "token/" + t.ID, Puts: []store.Put{{Table: table, Key: t.ID, Val: val}}, Events: []store.Event{rec},
	})
	if err != nil {
		return waybill.Token{}, "", err
	}
	t.Hash = ""
	return t, secret, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return waybill.E(waybill.KindInvalid, "a token's name has 1 to %d bytes of text", maxName)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return waybill.E(waybill.KindInvalid, "token name %q holds characters that do not print", name)
	}
	if waybill.ReservedName(name) {
		return waybill.E(waybill.KindInvalid, "token name %q: names that begin with oidc: or oidc/ are of those who log in", name)
	}
	return nil
}

// Tokens lists all tokens, newest first, without their hashes.
func (a *Tokens) Tokens(ctx context.Context) ([]waybill.Token, error) {
	out := []waybill.Token{}
	err := a.each(ctx, func(t waybill.Token) bool {
		t.Hash = ""
		out = append(out, t)
		return true
	})
	return out, err
}

// each calls f for every token, newest first, until f returns false.
func (a *Tokens) each(ctx context.Context, f func(waybill.Token) bool) error {
	q := store.Query{Table: table, Order: "created_at", Desc: true, Limit: 1000}
	for {
		page, err := a.st.Query(ctx, q)
		if err != nil {
			return err
		}
		for _, row := range page.Rows {
			var t waybill.Token
			if err := json.Unmarshal(row.Val, &t); err != nil {
				return waybill.E(waybill.KindInternal, "token %s is damaged: %w", row.Key, err)
			}
			if !f(t) {
				return nil
			}
		}
		if page.Next == "" {
			return nil
		}
		q.After = page.Next
	}
}

// RevokeToken makes a token useless for good. It is no error to revoke twice.
func (a *Tokens) RevokeToken(ctx context.Context, id string, by waybill.Principal) error {
	for {
		row, err := a.st.Get(ctx, store.DefaultTenant, table, id)
		if errors.Is(err, store.ErrNotFound) {
			return waybill.E(waybill.KindNotFound, "there is no token with the id %.100q", id)
		}
		if err != nil {
			return err
		}
		var t waybill.Token
		if err := json.Unmarshal(row.Val, &t); err != nil {
			return waybill.E(waybill.KindInternal, "token %s is damaged: %w", id, err)
		}
		if !t.RevokedAt.IsZero() {
			return nil
		}
		t.RevokedAt = a.now().UTC()
		val, err := json.Marshal(t)
		if err != nil {
			return err
		}
		rec, err := a.event(waybill.AuditRecord{Who: by.Name, Action: "token.revoke", Subject: id, Result: "ok"})
		if err != nil {
			return err
		}
		err = a.st.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: table, Key: id, Rev: row.Rev, Val: val}}, Events: []store.Event{rec}})
		if errors.Is(err, store.ErrConflict) {
			continue // somebody else revoked it, or a first try of ours did
		}
		if err != nil {
			return err
		}
		a.mu.Lock()
		delete(a.cache, id)
		a.mu.Unlock()
		return nil
	}
}

// AuthenticateToken returns who holds a secret. The answer does not tell whether
// a token is unknown, revoked or expired.
func (a *Tokens) AuthenticateToken(ctx context.Context, secret string) (waybill.Principal, error) {
	id, ok := idOf(secret)
	if !ok {
		return waybill.Principal{}, refused()
	}
	t, err := a.lookup(ctx, id)
	if err != nil {
		return waybill.Principal{}, err
	}
	// Comparing hashes in constant time tells nothing about the secret.
	same := subtle.ConstantTimeCompare([]byte(hash(secret)), []byte(t.Hash)) == 1
	if !same || !usable(t, a.now()) {
		return waybill.Principal{}, refused()
	}
	return waybill.Principal{Name: t.Name, Tenant: store.DefaultTenant, Role: t.Role}, nil
}

func refused() error { return waybill.E(waybill.KindUnauthorized, "the token is not valid") }

func usable(t waybill.Token, now time.Time) bool {
	return t.ID != "" && t.RevokedAt.IsZero() && (t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt))
}

// idOf reads the id out of a secret of the right form.
func idOf(secret string) (string, bool) {
	rest, ok := strings.CutPrefix(secret, Prefix)
	if !ok || len(secret) > 200 {
		return "", false
	}
	id, random, ok := strings.Cut(rest, "_")
	if !ok || len(id) != 36 || len(random) != 43 {
		return "", false
	}
	return id, !strings.ContainsFunc(id, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') && r != '-' })
}

// lookup returns the token of an id, from memory if it was read within the last
// second.
func (a *Tokens) lookup(ctx context.Context, id string) (waybill.Token, error) {
	now := a.now()
	a.mu.Lock()
	c, ok := a.cache[id]
	a.mu.Unlock()
	if ok && now.Before(c.until) {
		return c.token, nil
	}
	row, err := a.st.Get(ctx, store.DefaultTenant, table, id)
	var t waybill.Token
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return waybill.Token{}, err
	default:
		if err := json.Unmarshal(row.Val, &t); err != nil {
			return waybill.Token{}, waybill.E(waybill.KindInternal, "token %s is damaged: %w", id, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cache) >= cacheMax {
		for k, c := range a.cache {
			if !now.Before(c.until) || len(a.cache) >= cacheMax {
				delete(a.cache, k)
			}
		}
	}
	a.cache[id] = cached{t, now.Add(cacheLife)}
	return t, nil
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Any reports whether a token exists that opens something.
func (a *Tokens) Any(ctx context.Context) (bool, error) {
	found := false
	now := a.now()
	err := a.each(ctx, func(t waybill.Token) bool {
		found = usable(t, now)
		return !found
	})
	return found, err
}

// Audit writes a record and returns when it is durable.
func (a *Tokens) Audit(ctx context.Context, rec waybill.AuditRecord) error {
	ev, err := a.event(rec)
	if err != nil {
		return err
	}
	return a.st.Commit(ctx, &store.Commit{ID: "audit/" + waybill.NewID(ev.At), Events: []store.Event{ev}})
}

// event is the record as one of the event log. Its kind is the action.
func (a *Tokens) event(rec waybill.AuditRecord) (store.Event, error) {
	if len(rec.Subject) > maxSubject {
		rec.Subject = strings.ToValidUTF8(rec.Subject[:maxSubject], "")
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return store.Event{}, err
	}
	return store.Event{Subject: auditSubject, Kind: rec.Action, Data: data, At: a.now().UTC()}, nil
}

// AuditLog returns a page of the log, oldest first. The cursor is that of the
// last record seen.
func (a *Tokens) AuditLog(ctx context.Context, limit int, cursor string) (waybill.Page[waybill.Record], error) {
	if limit <= 0 || limit > 1000 {
		limit = 50
	}
	evs, err := a.st.Events(ctx, store.DefaultTenant, auditSubject, store.Cursor(cursor), limit)
	if err != nil {
		return waybill.Page[waybill.Record]{}, err
	}
	page := waybill.Page[waybill.Record]{Items: make([]waybill.Record, len(evs))}
	for i, e := range evs {
		page.Items[i] = waybill.Record{Cursor: string(e.Cursor), Subject: e.Subject, Kind: e.Kind, At: e.At, Data: e.Data}
	}
	if len(evs) == limit {
		page.Next = page.Items[limit-1].Cursor
	}
	return page, nil
}
