package secret

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// memory is as much of a store as secrets need.
type memory struct {
	store.Store
	mu     sync.Mutex
	rows   map[string]store.Row // by table/key
	events []store.Event
	before func() // called once, before the next commit
	fail   error
}

func newMemory() *memory { return &memory{rows: map[string]store.Row{}} }

func (m *memory) Now() time.Time { return time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC) }

func (m *memory) Commit(_ context.Context, c *store.Commit) error {
	if f := m.before; f != nil {
		m.before = nil
		f()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, p := range c.Puts {
		if m.rows[p.Table+"/"+p.Key].Rev != p.Rev {
			return store.ErrConflict
		}
	}
	for _, p := range c.Puts {
		if p.Val == nil {
			delete(m.rows, p.Table+"/"+p.Key)
			continue
		}
		m.rows[p.Table+"/"+p.Key] = store.Row{Key: p.Key, Rev: p.Rev + 1, Val: p.Val}
	}
	m.events = append(m.events, c.Events...)
	return nil
}

func (m *memory) Get(_ context.Context, _, table, key string) (store.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.rows[table+"/"+key]; ok {
		return r, nil
	}
	return store.Row{}, store.ErrNotFound
}

func (m *memory) Scan(_ context.Context, _, table, prefix string, _ int) ([]store.Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Row
	for k, r := range m.rows {
		if strings.HasPrefix(k, table+"/"+prefix) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b store.Row) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// stored is every byte that the store holds.
func (m *memory) stored() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b bytes.Buffer
	for k, r := range m.rows {
		fmt.Fprintf(&b, "%s %s\n", k, r.Val)
	}
	for _, e := range m.events {
		fmt.Fprintf(&b, "%s %s %s\n", e.Subject, e.Kind, e.Data)
	}
	return b.String()
}

var anna = waybill.Principal{Name: "anna", Role: waybill.RoleAdmin}

func long(v string) bool { return len(v) >= 4 }

func kept(t testing.TB, st store.Store, path string) *Kept {
	t.Helper()
	key, err := ManagedKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return NewKept(st, key, long)
}

func mustSet(t testing.TB, k *Kept, name, value string) waybill.Secret {
	t.Helper()
	s, _, err := k.SetSecret(t.Context(), name, value, anna)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func value(t testing.TB, k *Kept, name string) string {
	t.Helper()
	v, err := k.Lookup(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestKept(t *testing.T) {
	t.Parallel()
	st, path := newMemory(), filepath.Join(t.TempDir(), "key")
	k := kept(t, st, path)
	if err := k.Check(t.Context()); err != nil {
		t.Errorf("an empty store does not fit: %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a key was made before it was needed: %v", err)
	}
	s := mustSet(t, k, "db.password", "hunter2-hunter2")
	if s.Version != 1 || !s.Masked || s.UpdatedBy != "anna" || s.CreatedAt != st.Now() {
		t.Errorf("secret = %+v", s)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if got := value(t, k, "db.password"); got != "hunter2-hunter2" {
		t.Errorf("value = %q", got)
	}
	mustSet(t, k, "db.password", "second-value")
	if s := mustSet(t, k, "tiny", "abc"); s.Masked {
		t.Error("three bytes are said to be masked")
	}
	// Another server, or this one after a restart.
	again := kept(t, st, path)
	if err := again.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if got := value(t, again, "db.password"); got != "second-value" {
		t.Errorf("after a restart the value is %q", got)
	}
	former, err := again.Former(t.Context(), "db.password")
	if err != nil || !slices.Equal(former, []string{"hunter2-hunter2"}) {
		t.Errorf("former values are %q, %v", former, err)
	}
	all, err := again.Secrets(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "db.password" || all[0].Version != 2 {
		t.Errorf("list = %+v, %v", all, err)
	}
	for _, v := range []string{"hunter2", "second-value"} {
		if text := st.stored(); strings.Contains(text, v) || strings.Contains(text, "AGE-SECRET-KEY") {
			t.Errorf("the store holds %q or the key:\n%s", v, text)
		}
	}
	if err := again.DeleteSecret(t.Context(), "db.password", anna); err != nil {
		t.Error(err)
	}
	if _, err := k.Lookup(t.Context(), "db.password"); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("a deleted secret: %v", err)
	}
	if err := k.DeleteSecret(t.Context(), "db.password", anna); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	var audited []string
	for _, e := range st.events {
		var r waybill.AuditRecord
		if err := json.Unmarshal(e.Data, &r); err != nil {
			t.Fatal(err)
		}
		audited = append(audited, e.Subject+" "+r.Who+" "+r.Action+" "+r.Subject)
	}
	want := []string{"audit anna secret.set db.password", "audit anna secret.set db.password", "audit anna secret.set tiny", "audit anna secret.delete db.password"}
	if !slices.Equal(audited, want) {
		t.Errorf("audited %q", audited)
	}
}

func TestBadNamesAndValues(t *testing.T) {
	t.Parallel()
	k := kept(t, newMemory(), filepath.Join(t.TempDir(), "key"))
	for _, name := range []string{"", "1a", "-a", "a b", "a/b", "../a", "ä", strings.Repeat("a", 101), "a\n"} {
		if _, _, err := k.SetSecret(t.Context(), name, "value", anna); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for v, kind := range map[string]waybill.Kind{
		"": waybill.KindInvalid, "with\x00nul": waybill.KindInvalid, "not\xffutf8": waybill.KindInvalid, strings.Repeat("v", MaxValue+1): waybill.KindTooLarge,
	} {
		_, _, err := k.SetSecret(t.Context(), "name", v, anna)
		if !waybill.IsKind(err, kind) {
			t.Errorf("a value of %d bytes: %v", len(v), err)
		}
		if v != "" && strings.Contains(err.Error(), v) {
			t.Errorf("the error tells the value: %v", err)
		}
	}
}

func TestKeyThatDoesNotFit(t *testing.T) {
	t.Parallel()
	st, dir := newMemory(), t.TempDir()
	mustSet(t, kept(t, st, filepath.Join(dir, "one")), "a", "hunter2-hunter2")
	other := kept(t, st, filepath.Join(dir, "two"))
	for what, err := range map[string]error{
		"check": other.Check(t.Context()),
		"set":   func() error { _, _, err := other.SetSecret(t.Context(), "b", "value", anna); return err }(),
		"get":   func() error { _, err := other.Lookup(t.Context(), "a"); return err }(),
		"rekey": func() error { _, err := other.RekeySecrets(t.Context(), anna); return err }(),
	} {
		var e *waybill.Error
		if !errors.As(err, &e) || e.Kind != waybill.KindConflict || !strings.Contains(e.Msg, "age1") || !strings.Contains(e.Msg, "this server has no key") || !strings.Contains(e.Hint, "--secret-key-file") {
			t.Errorf("%s: %v (%+v)", what, err, e)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "two")); !os.IsNotExist(err) {
		t.Errorf("a second key was made: %v", err)
	}
}

// Somebody who can write to the store cannot make one secret pass for another, nor an
// old value for the new one.
func TestMovedCiphertextIsRefused(t *testing.T) {
	t.Parallel()
	st, path := newMemory(), filepath.Join(t.TempDir(), "key")
	k := kept(t, st, path)
	mustSet(t, k, "low", "low-value")
	mustSet(t, k, "high", "high-value")
	var low, high row
	for name, x := range map[string]*row{"low": &low, "high": &high} {
		if err := json.Unmarshal(st.rows["secret/"+name].Val, x); err != nil {
			t.Fatal(err)
		}
	}
	low.Sealed = high.Sealed
	p, err := put(table, "low", 1, low)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Commit(t.Context(), &store.Commit{Puts: []store.Put{p}}); err != nil {
		t.Fatal(err)
	}
	if v, err := k.Lookup(t.Context(), "low"); !waybill.IsKind(err, waybill.KindInternal) || v != "" {
		t.Errorf("the value of another secret: %q, %v", v, err)
	}
}

func TestRekey(t *testing.T) {
	t.Parallel()
	st, path := newMemory(), filepath.Join(t.TempDir(), "key")
	k := kept(t, st, path)
	if _, err := k.RekeySecrets(t.Context(), anna); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("nothing to rekey: %v", err)
	}
	mustSet(t, k, "a", "first-of-a")
	mustSet(t, k, "a", "second-of-a")
	mustSet(t, k, "b", "value-of-b")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := st.stored()
	// Somebody sets one meanwhile.
	st.before = func() { mustSet(t, kept(t, st, path), "b", "newer-of-b") }
	if n, err := k.RekeySecrets(t.Context(), anna); n != 2 || err != nil {
		t.Fatalf("rekeyed %d, %v", n, err)
	}
	now, err := os.ReadFile(path)
	if err != nil || bytes.Equal(old, now) || strings.Count(string(now), "\nAGE-SECRET-KEY-1") != 1 {
		t.Errorf("the key file is %q, %v", now, err)
	}
	again := kept(t, st, path)
	if got := value(t, again, "a") + " " + value(t, again, "b"); got != "second-of-a newer-of-b" {
		t.Errorf("values are %q", got)
	}
	if f, err := again.Former(t.Context(), "a"); err != nil || !slices.Equal(f, []string{"first-of-a"}) {
		t.Errorf("former values are %q, %v", f, err)
	}
	if err := os.WriteFile(path+".old", old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kept(t, st, path+".old").Check(t.Context()); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("the old key still fits: %v", err)
	}
	if before == st.stored() {
		t.Error("nothing was encrypted anew")
	}
}

// A rekeying that ends anywhere leaves secrets that can be read.
func TestRekeyThatBreaksOff(t *testing.T) {
	t.Parallel()
	st, path := newMemory(), filepath.Join(t.TempDir(), "key")
	k := kept(t, st, path)
	mustSet(t, k, "a", "hunter2-hunter2")
	st.before = func() { st.fail = errors.New("the disk is full") }
	if _, err := k.RekeySecrets(t.Context(), anna); err == nil {
		t.Fatal("no error")
	}
	st.fail = nil
	again := kept(t, st, path) // it has both identities
	if got := value(t, again, "a"); got != "hunter2-hunter2" {
		t.Errorf("value = %q", got)
	}
	mustSet(t, again, "b", "set in between")
	if n, err := again.RekeySecrets(t.Context(), anna); n != 2 || err != nil {
		t.Errorf("the next try: %d, %v", n, err)
	}
	last := kept(t, st, path)
	if got := value(t, last, "a") + value(t, last, "b"); got != "hunter2-hunter2set in between" {
		t.Errorf("values = %q", got)
	}
}

func TestGivenKey(t *testing.T) {
	t.Parallel()
	one, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	two, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	given := func(text string) *Key {
		k, err := GivenKey(text, "test")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	st := newMemory()
	mustSet(t, NewKept(st, given("# created: today\n# public key: x\n"+one.String()+"\n"), long), "a", "hunter2-hunter2")
	// The way to another key: both, then rekey, then the new one alone.
	both := NewKept(st, given(two.String()+"\n"+one.String()), long)
	if n, err := both.RekeySecrets(t.Context(), anna); n != 1 || err != nil {
		t.Fatalf("rekeyed %d, %v", n, err)
	}
	if got := value(t, NewKept(st, given(two.String()), long), "a"); got != "hunter2-hunter2" {
		t.Errorf("value = %q", got)
	}
	if err := NewKept(st, given(one.String()), long).Check(t.Context()); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("the old key: %v", err)
	}
	for _, bad := range []string{"", "# nothing\n", "hunter2-hunter2", one.String()[:40]} {
		_, err := GivenKey(bad, "WAYBILL_SECRET_KEY")
		if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "WAYBILL_SECRET_KEY") {
			t.Errorf("key %q: %v", bad, err)
		}
		if len(bad) > 12 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
}

func TestPlatform(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"APP_db-password": "exact", "APP_API_TOKEN": "upper", "APP_EMPTY": "", "WAYBILL_SECRET_KEY": "AGE-SECRET-KEY-1X"}
	look := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	env := Env{Prefix: "APP_", Lookenv: look}
	dir := t.TempDir()
	for name, content := range map[string]string{"newline": "value\n", "windows": "value\r\n", "two": "value\n\n", "exact": "value", "bad": "a\x00b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	// As Kubernetes mounts them.
	if err := os.Symlink("newline", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	files := Dir{dir}
	for _, c := range []struct {
		p          Provider
		name, want string
		kind       waybill.Kind
	}{
		{env, "db-password", "exact", ""}, {env, "api.token", "upper", ""}, {env, "API_TOKEN", "upper", ""},
		{env, "EMPTY", "", waybill.KindNotFound}, {env, "other", "", waybill.KindNotFound}, {env, "a b", "", waybill.KindInvalid},
		{Env{Prefix: DefaultEnvPrefix, Lookenv: look}, "KEY", "", waybill.KindNotFound},
		{Env{Prefix: DefaultEnvPrefix, Lookenv: look}, "key", "", waybill.KindNotFound},
		{files, "newline", "value", ""}, {files, "windows", "value", ""}, {files, "two", "value\n", ""}, {files, "exact", "value", ""}, {files, "link", "value", ""},
		{files, "none", "", waybill.KindNotFound}, {files, "folder", "", waybill.KindNotFound}, {files, "../x", "", waybill.KindInvalid}, {files, "bad", "a\x00b", waybill.KindInvalid},
		{Dir{filepath.Join(dir, "missing")}, "a", "", waybill.KindNotFound},
	} {
		got, err := c.p.Lookup(t.Context(), c.name)
		if got != c.want || waybill.KindOf(err) != c.kind {
			t.Errorf("%s %q: %q, %v", c.p.Name(), c.name, got, err)
		}
		if has, _ := c.p.Has(t.Context(), c.name); has != (c.kind == "") {
			t.Errorf("%s has %q: %t", c.p.Name(), c.name, has)
		}
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	k := kept(t, newMemory(), filepath.Join(t.TempDir(), "key"))
	mustSet(t, k, "both", "old-of-store")
	mustSet(t, k, "both", "of-store")
	mustSet(t, k, "kept", "only-store")
	vars := map[string]string{"P_BOTH": "of-env", "P_MINE": "only-env"}
	env := Env{Prefix: "P_", Lookenv: func(n string) (string, bool) { v, ok := vars[n]; return v, ok }}
	var learned []string
	c := NewChain(func(v ...string) { learned = append(learned, v...) }, env, k)
	for name, want := range map[string]string{"both": "of-env", "mine": "only-env", "kept": "only-store"} {
		if v, err := c.Secret(t.Context(), name); v != want || err != nil {
			t.Errorf("%s = %q, %v", name, v, err)
		}
		if !slices.Contains(learned, want) {
			t.Errorf("%s was handed out before it was learned", name)
		}
		if ok, err := c.Known(t.Context(), name); !ok || err != nil {
			t.Errorf("%s is not known: %v", name, err)
		}
	}
	if v, err := c.Values(t.Context(), "both"); err != nil || !slices.Equal(v, []string{"of-env", "of-store", "old-of-store"}) {
		t.Errorf("values to mask are %q, %v", v, err)
	}
	_, err := c.Secret(t.Context(), "none")
	var e *waybill.Error
	if !errors.As(err, &e) || e.Kind != waybill.KindNotFound || e.Msg != "there is no secret none (looked for in env, store)" || e.Hint != "set it with: waybill secret set none" {
		t.Errorf("unknown: %v", err)
	}
	if ok, err := c.Known(t.Context(), "none"); ok || err != nil {
		t.Errorf("none is known: %v", err)
	}
	for text, want := range map[string]string{
		"": "", "plain $ {": "plain $ {", "${secret:mine}": "only-env", "a${secret:mine}b${secret:kept}c": "aonly-envbonly-storec", "$${secret:mine}": "${secret:mine}",
	} {
		if got, err := c.Expand(t.Context(), text); got != want || err != nil {
			t.Errorf("%q expands to %q, %v", text, got, err)
		}
	}
	for _, bad := range []string{"${secret:none}", "${secret:mine", "${secret:a b}"} {
		if got, err := c.Expand(t.Context(), bad); err == nil {
			t.Errorf("%q expands to %q", bad, got)
		}
	}
}

func TestAnyValueComesBack(t *testing.T) {
	t.Parallel()
	k := kept(t, newMemory(), filepath.Join(t.TempDir(), "key"))
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.StringN(1, 200, -1).Filter(func(s string) bool { return CheckValue(s) == nil }).Draw(rt, "value")
		if _, _, err := k.SetSecret(context.Background(), "name", v, anna); err != nil {
			rt.Fatal(err)
		}
		fresh := NewKept(k.st, k.key, long)
		if got, err := fresh.Lookup(context.Background(), "name"); err != nil || got != v {
			rt.Fatalf("%q comes back as %q, %v", v, got, err)
		}
	})
}
