package secret

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

const (
	table     = "secret"     // key: name; value: row
	tableKey  = "secret_key" // one row, keyRow: the public half of the key
	keyRow    = "current"
	keepOld   = 3 // earlier values kept for masking
	maxKept   = 10_000
	auditLine = "audit" // subject of audit records in the event log
)

// Tables are the descriptors of the rows that this package keeps.
func Tables() store.Schema {
	return store.Schema{{Name: table, Version: 1}, {Name: tableKey, Version: 1}}
}

// row is a secret as the store has it: ciphertext and what may be known of it.
type row struct {
	waybill.Secret
	Sealed []byte   `json:"sealed"`           // age, of name, version and value
	Old    [][]byte `json:"former,omitempty"` // earlier ones, newest first
}

type keyInfo struct {
	Recipient string    `json:"recipient"` // age1…
	At        time.Time `json:"at"`
}

// Kept is the built-in provider: values in the store, encrypted. It implements
// [Provider] and [waybill.Secrets]. Safe for concurrent use, also by several servers
// with one store, which then need the same key.
type Kept struct {
	st  store.Store
	key *Key
	// maskable reports whether a value is long enough to be masked.
	maskable func(value string) bool

	mu   sync.Mutex
	open map[string]opened // by name, what was decrypted last
}

type opened struct {
	rev    int64
	value  string
	former []string
}

var (
	_ Provider        = (*Kept)(nil)
	_ waybill.Secrets = (*Kept)(nil)
)

// NewKept returns the secrets of a store. maskable tells of a new value whether
// masking will find it.
func NewKept(st store.Store, key *Key, maskable func(string) bool) *Kept {
	return &Kept{st: st, key: key, maskable: maskable, open: map[string]opened{}}
}

// Name returns "store".
func (*Kept) Name() string { return "store" }

// Check reports whether the key fits what the store holds. KindConflict: it does not.
func (k *Kept) Check(ctx context.Context) error {
	info, _, err := k.info(ctx)
	if err != nil || info.Recipient == "" {
		return err
	}
	return k.fits(info)
}

func (k *Kept) fits(info keyInfo) error {
	ours := k.key.recipients()
	if slices.Contains(ours, info.Recipient) {
		return nil
	}
	have := "this server has no key"
	if len(ours) > 0 {
		have = "the key here is that of " + strings.Join(ours, ", ")
	}
	return waybill.E(waybill.KindConflict, "the secrets of this store are encrypted for %s, but %s", info.Recipient, have).
		WithOp("open secrets", "").
		WithHint("give the key that made them with --secret-key-file or %s; servers that share a store share it", KeyVariable)
}

// info returns the row of the key, empty before the first secret.
func (k *Kept) info(ctx context.Context) (keyInfo, int64, error) {
	var info keyInfo
	r, err := k.st.Get(ctx, "", tableKey, keyRow)
	if errors.Is(err, store.ErrNotFound) {
		return info, 0, nil
	}
	if err != nil {
		return info, 0, err
	}
	return info, r.Rev, json.Unmarshal(r.Val, &info)
}

// read returns the row of a secret, KindNotFound when there is none.
func (k *Kept) read(ctx context.Context, name string) (row, int64, error) {
	if err := CheckName(name); err != nil {
		return row{}, 0, err
	}
	r, err := k.st.Get(ctx, "", table, name)
	if errors.Is(err, store.ErrNotFound) {
		return row{}, 0, waybill.E(waybill.KindNotFound, "there is no secret %s", name)
	}
	if err != nil {
		return row{}, 0, err
	}
	var x row
	if err := json.Unmarshal(r.Val, &x); err != nil {
		return row{}, 0, waybill.E(waybill.KindInternal, "the row of secret %s is damaged: %w", name, err)
	}
	return x, r.Rev, nil
}

// Lookup implements [Provider].
func (k *Kept) Lookup(ctx context.Context, name string) (string, error) {
	o, err := k.decrypt(ctx, name)
	return o.value, err
}

// Former implements [Provider]: the last few values before this one.
func (k *Kept) Former(ctx context.Context, name string) ([]string, error) {
	o, err := k.decrypt(ctx, name)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return nil, nil
	}
	return o.former, err
}

// Has implements [Provider].
func (k *Kept) Has(ctx context.Context, name string) (bool, error) {
	_, _, err := k.read(ctx, name)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (k *Kept) decrypt(ctx context.Context, name string) (opened, error) {
	x, rev, err := k.read(ctx, name)
	if err != nil {
		k.forget(name)
		return opened{}, err
	}
	k.mu.Lock()
	o, ok := k.open[name]
	k.mu.Unlock()
	if ok && o.rev == rev {
		return o, nil
	}
	o = opened{rev: rev}
	if o.value, err = k.unseal(x.Sealed, name, x.Version); err != nil {
		if cerr := k.Check(ctx); cerr != nil {
			return opened{}, cerr
		}
		return opened{}, waybill.E(waybill.KindInternal, "secret %s cannot be decrypted: %w", name, err).
			WithHint("its row was damaged or moved; set it again")
	}
	for i, old := range x.Old {
		if v, err := k.unseal(old, name, x.Version-i-1); err == nil {
			o.former = append(o.former, v)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open[name] = o
	return o, nil
}

func (k *Kept) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.open, name)
}

// What is encrypted begins with the secret's name and version, so that a ciphertext
// that was moved to another row is not taken for that row's.
func bound(name string, version int) string { return name + "\n" + strconv.Itoa(version) + "\n" }

func (k *Kept) sealed(name string, version int, value string) ([]byte, error) {
	return k.key.seal([]byte(bound(name, version) + value))
}

func (k *Kept) unseal(sealed []byte, name string, version int) (string, error) {
	b, err := k.key.open(sealed)
	if err != nil {
		return "", err
	}
	v, ok := strings.CutPrefix(string(b), bound(name, version))
	if !ok {
		return "", errors.New("the ciphertext belongs to another secret or version")
	}
	return v, nil
}

// SetSecret implements [waybill.Secrets].
func (k *Kept) SetSecret(ctx context.Context, name, value string, by waybill.Principal) (s waybill.Secret, fresh bool, err error) {
	if err := CheckName(name); err != nil {
		return s, false, err
	}
	if err := CheckValue(value); err != nil {
		return s, false, err
	}
	for {
		s, fresh, err = k.set(ctx, name, value, by)
		if !errors.Is(err, store.ErrConflict) {
			return s, fresh, err
		}
	}
}

func (k *Kept) set(ctx context.Context, name, value string, by waybill.Principal) (waybill.Secret, bool, error) {
	fail := func(err error) (waybill.Secret, bool, error) { return waybill.Secret{}, false, err }
	info, keyRev, err := k.info(ctx)
	if err != nil {
		return fail(err)
	}
	c := &store.Commit{}
	now := k.st.Now().UTC()
	if info.Recipient != "" {
		if err := k.fits(info); err != nil {
			return fail(err)
		}
	} else {
		if err := k.key.ready(); err != nil {
			return fail(err)
		}
		p, err := put(tableKey, keyRow, keyRev, keyInfo{k.key.recipients()[0], now})
		if err != nil {
			return fail(err)
		}
		c.Puts = append(c.Puts, p)
	}
	x, rev, err := k.read(ctx, name)
	fresh := waybill.IsKind(err, waybill.KindNotFound)
	switch {
	case fresh:
		x = row{Secret: waybill.Secret{Name: name, CreatedAt: now}}
	case err != nil:
		return fail(err)
	default:
		x.Old = append([][]byte{x.Sealed}, x.Old...)
		x.Old = x.Old[:min(len(x.Old), keepOld)]
	}
	x.Version++
	x.UpdatedAt, x.UpdatedBy, x.Masked = now, by.Name, k.maskable(value)
	if x.Sealed, err = k.sealed(name, x.Version, value); err != nil {
		return fail(err)
	}
	p, err := put(table, name, rev, x)
	if err != nil {
		return fail(err)
	}
	ev, err := audit("secret.set", name, by, now)
	if err != nil {
		return fail(err)
	}
	c.Puts, c.Events = append(c.Puts, p), []store.Event{ev}
	if err := k.st.Commit(ctx, c); err != nil {
		return fail(err)
	}
	k.forget(name)
	return x.Secret, fresh, nil
}

func put(table, key string, rev int64, v any) (store.Put, error) {
	b, err := json.Marshal(v)
	return store.Put{Table: table, Key: key, Rev: rev, Val: b}, err
}

// audit is an audit record as a line of the event log. It names and never tells.
func audit(action, subject string, by waybill.Principal, at time.Time) (store.Event, error) {
	data, err := json.Marshal(waybill.AuditRecord{Who: by.Name, Action: action, Subject: subject, Result: "ok"})
	return store.Event{Subject: auditLine, Kind: action, Data: data, At: at}, err
}

// Secrets implements [waybill.Secrets].
func (k *Kept) Secrets(ctx context.Context) ([]waybill.Secret, error) {
	rows, err := k.st.Scan(ctx, "", table, "", maxKept)
	if err != nil {
		return nil, err
	}
	out := make([]waybill.Secret, len(rows))
	for i, r := range rows {
		var x row
		if err := json.Unmarshal(r.Val, &x); err != nil {
			return nil, waybill.E(waybill.KindInternal, "the row of secret %s is damaged: %w", r.Key, err)
		}
		out[i] = x.Secret
	}
	return out, nil
}

// DeleteSecret implements [waybill.Secrets].
func (k *Kept) DeleteSecret(ctx context.Context, name string, by waybill.Principal) error {
	for {
		_, rev, err := k.read(ctx, name)
		if err != nil {
			return err
		}
		ev, err := audit("secret.delete", name, by, k.st.Now().UTC())
		if err != nil {
			return err
		}
		err = k.st.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: table, Key: name, Rev: rev}}, Events: []store.Event{ev}})
		if !errors.Is(err, store.ErrConflict) {
			k.forget(name)
			return err
		}
	}
}

// RekeySecrets implements [waybill.Secrets]. A key that we keep is replaced by a new
// one; with a key that was given, everything is encrypted for its first identity.
func (k *Kept) RekeySecrets(ctx context.Context, by waybill.Principal) (int, error) {
	info, _, err := k.info(ctx)
	if err != nil {
		return 0, err
	}
	if info.Recipient == "" {
		return 0, waybill.E(waybill.KindConflict, "the store holds no secrets, so there is nothing to encrypt anew")
	}
	if err := k.fits(info); err != nil {
		return 0, err
	}
	if err := k.key.turn(); err != nil {
		return 0, err
	}
	for {
		n, err := k.rekey(ctx, by)
		if errors.Is(err, store.ErrConflict) {
			continue // somebody set or deleted one meanwhile
		}
		if err != nil {
			return 0, err // the old identity is still there, and everything readable
		}
		return n, k.key.settle()
	}
}

func (k *Kept) rekey(ctx context.Context, by waybill.Principal) (int, error) {
	_, keyRev, err := k.info(ctx)
	if err != nil {
		return 0, err
	}
	rows, err := k.st.Scan(ctx, "", table, "", 0)
	if err != nil {
		return 0, err
	}
	now := k.st.Now().UTC()
	p, err := put(tableKey, keyRow, keyRev, keyInfo{k.key.recipients()[0], now})
	if err != nil {
		return 0, err
	}
	c := &store.Commit{Puts: []store.Put{p}}
	for _, r := range rows {
		var x row
		if err := json.Unmarshal(r.Val, &x); err != nil {
			return 0, waybill.E(waybill.KindInternal, "the row of secret %s is damaged: %w", r.Key, err)
		}
		if err := k.reseal(&x.Sealed); err != nil {
			return 0, waybill.E(waybill.KindConflict, "secret %s cannot be decrypted, so nothing was changed: %w", r.Key, err).
				WithHint("set or delete it, then try again")
		}
		old := x.Old
		x.Old = nil
		for _, o := range old {
			if k.reseal(&o) != nil {
				break // it serves masking only, and the ones before it count from the newest
			}
			x.Old = append(x.Old, o)
		}
		p, err := put(table, r.Key, r.Rev, x)
		if err != nil {
			return 0, err
		}
		c.Puts = append(c.Puts, p)
	}
	ev, err := audit("secret.rekey", strconv.Itoa(len(rows))+" secrets", by, now)
	if err != nil {
		return 0, err
	}
	c.Events = []store.Event{ev}
	return len(rows), k.st.Commit(ctx, c)
}

func (k *Kept) reseal(b *[]byte) error {
	plain, err := k.key.open(*b)
	if err != nil {
		return err
	}
	*b, err = k.key.seal(plain)
	return err
}
