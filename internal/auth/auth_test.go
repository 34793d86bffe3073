package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// memory is as much of a store as tokens need.
type memory struct {
	store.Store
	mu     sync.Mutex
	rows   map[string]store.Row
	events []store.StoredEvent
	gets   int
	down   error
}

func (m *memory) Commit(_ context.Context, c *store.Commit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return m.down
	}
	for _, p := range c.Puts {
		if m.rows[p.Key].Rev != p.Rev {
			return store.ErrConflict
		}
	}
	for _, p := range c.Puts {
		t, _ := Tables().Lookup(p.Table)
		if _, err := t.Derive(p.Key, p.Val); err != nil {
			return err
		}
		m.rows[p.Key] = store.Row{Key: p.Key, Rev: p.Rev + 1, Val: p.Val}
	}
	for _, e := range c.Events {
		m.events = append(m.events, store.StoredEvent{Event: e, Cursor: store.Cursor(fmt.Sprintf("%06d", len(m.events)+1))})
	}
	return nil
}

func (m *memory) Get(_ context.Context, _, _, key string) (store.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	if m.down != nil {
		return store.Row{}, m.down
	}
	if r, ok := m.rows[key]; ok {
		return r, nil
	}
	return store.Row{}, store.ErrNotFound
}

func (m *memory) Query(_ context.Context, q store.Query) (store.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var p store.Page
	for _, r := range m.rows {
		p.Rows = append(p.Rows, r)
	}
	sort.Slice(p.Rows, func(i, j int) bool { return p.Rows[i].Key > p.Rows[j].Key })
	return p, nil
}

func (m *memory) Events(_ context.Context, _, _ string, after store.Cursor, n int) ([]store.StoredEvent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, _ := strconv.Atoi(string(after))
	return m.events[from:min(len(m.events), from+n)], nil
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func setup(t *testing.T) (*Tokens, *memory, *clock) {
	t.Helper()
	t.Parallel()
	m, c := &memory{rows: map[string]store.Row{}}, &clock{t: time.Unix(1_800_000_000, 0)}
	if err := Tables().Validate(); err != nil {
		t.Fatal(err)
	}
	return New(m, c.now), m, c
}

var admin = waybill.Principal{Name: "root", Role: waybill.RoleAdmin}

func TestTokenLife(t *testing.T) {
	a, m, c := setup(t)
	ctx := t.Context()
	if any, _ := a.Any(ctx); any {
		t.Error("a new store has a usable token")
	}
	tok, secret, err := a.CreateToken(ctx, "deploy", waybill.RoleOperator, time.Hour, admin)
	if err != nil {
		t.Fatal(err)
	}
	if tok.Hash != "" || !strings.HasPrefix(secret, "wbt_"+tok.ID+"_") {
		t.Errorf("token %+v, secret of %d bytes", tok, len(secret))
	}
	for _, r := range m.rows {
		if strings.Contains(string(r.Val), secret) || strings.Contains(string(r.Val), secret[41:]) {
			t.Error("the store holds the secret")
		}
	}
	p, err := a.AuthenticateToken(ctx, secret)
	if err != nil || p.Name != "deploy" || p.Role != waybill.RoleOperator || p.Tenant != store.DefaultTenant {
		t.Fatalf("got %+v, %v", p, err)
	}
	for _, wrong := range []string{"", "wbt_", secret + "x", secret[:len(secret)-1], secret[:len(secret)-1] + "!", "WBT_" + secret[4:], strings.Replace(secret, tok.ID, waybill.NewID(c.now()), 1)} {
		if _, err := a.AuthenticateToken(ctx, wrong); !waybill.IsKind(err, waybill.KindUnauthorized) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if any, _ := a.Any(ctx); !any {
		t.Error("no usable token is seen")
	}
	c.add(time.Hour)
	if _, err := a.AuthenticateToken(ctx, secret); !waybill.IsKind(err, waybill.KindUnauthorized) {
		t.Errorf("expired: %v", err)
	}
	if any, _ := a.Any(ctx); any {
		t.Error("an expired token is taken for usable")
	}
}

func TestRevokedWithinASecondElsewhere(t *testing.T) {
	a, m, c := setup(t)
	ctx := t.Context()
	tok, secret, err := a.CreateToken(ctx, "x", waybill.RoleViewer, 0, admin)
	if err != nil {
		t.Fatal(err)
	}
	other := New(m, c.now) // another server on the same store
	for range 100 {
		if _, err := other.AuthenticateToken(ctx, secret); err != nil {
			t.Fatal(err)
		}
	}
	if m.gets != 1 {
		t.Errorf("100 requests made %d reads, want 1", m.gets)
	}
	for range 2 {
		if err := a.RevokeToken(ctx, tok.ID, admin); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.AuthenticateToken(ctx, secret); !waybill.IsKind(err, waybill.KindUnauthorized) {
		t.Errorf("on the server that revoked it: %v", err)
	}
	c.add(time.Second)
	if _, err := other.AuthenticateToken(ctx, secret); !waybill.IsKind(err, waybill.KindUnauthorized) {
		t.Errorf("elsewhere a second later: %v", err)
	}
	if err := a.RevokeToken(ctx, "nope", admin); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("unknown token: %v", err)
	}
}

func TestBadTokensAreRefused(t *testing.T) {
	a, m, _ := setup(t)
	for _, x := range []struct {
		name string
		role waybill.Role
		ttl  time.Duration
	}{{"", "viewer", 0}, {strings.Repeat("x", 101), "viewer", 0}, {"a\x1b[2J", "viewer", 0}, {"x", "unit", 0}, {"x", "root", 0}, {"x", "admin", -1}} {
		if _, _, err := a.CreateToken(t.Context(), x.name, x.role, x.ttl, admin); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	if len(m.rows)+len(m.events) != 0 {
		t.Error("something was stored")
	}
}

func TestStoreDownIsNotUnauthorized(t *testing.T) {
	a, m, _ := setup(t)
	_, secret, err := a.CreateToken(t.Context(), "x", waybill.RoleViewer, 0, admin)
	if err != nil {
		t.Fatal(err)
	}
	m.down = waybill.E(waybill.KindUnavailable, "disk full")
	if _, err := a.AuthenticateToken(t.Context(), secret); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAuditLog(t *testing.T) {
	a, _, _ := setup(t)
	ctx := t.Context()
	tok, _, err := a.CreateToken(ctx, "x", waybill.RoleViewer, 0, admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Audit(ctx, waybill.AuditRecord{Who: "unknown", Remote: "::1", Action: "auth.refused", Result: "unauthorized"}); err != nil {
		t.Fatal(err)
	}
	if err := a.RevokeToken(ctx, tok.ID, admin); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for cursor := ""; ; {
		page, err := a.AuditLog(ctx, 2, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Items {
			var rec waybill.AuditRecord
			if err := json.Unmarshal(r.Data, &rec); err != nil || rec.Action != r.Kind {
				t.Errorf("record %s: %v", r.Data, err)
			}
			kinds = append(kinds, r.Kind)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if got := strings.Join(kinds, " "); got != "token.create auth.refused token.revoke" {
		t.Errorf("log is %s", got)
	}
}
