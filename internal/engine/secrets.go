package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/store"
)

// Secrets finds what definitions name as ${secret:NAME}.
type Secrets interface {
	// Secret returns the value of a secret. KindNotFound: nobody has it.
	Secret(ctx context.Context, name string) (string, error)
	// Values returns its value and former ones that may still be in use, for masking.
	Values(ctx context.Context, name string) ([]string, error)
}

// The values of secrets are in memory only: from prepare, which hands them to the unit,
// to the end of its attempt. What a unit prints is masked by its runner; what it returns
// or reports, and what is said about it, is masked here before it is stored.

// secretError is why a secret could not be had.
type secretError struct{ err error }

func (e *secretError) Error() string { return e.err.Error() }
func (e *secretError) Unwrap() error { return e.err }

// resolve fills the secrets of an attempt into what its step was built to, and returns
// all that is to be masked.
func (u *unit) resolve(ctx context.Context, b pipeline.Built) (pipeline.Built, [][]byte, error) {
	values := []string{u.e.token(u.key())}
	refs := u.step.Secrets()
	if len(refs) > 0 {
		var err error
		b, err = u.step.Resolve(b, func(name string) (string, error) {
			if u.e.o.Secrets == nil {
				return "", waybill.E(waybill.KindNotFound, "there is no secret %s: this server has none", name)
			}
			v, err := u.e.o.Secrets.Secret(ctx, name)
			values = append(values, v)
			return v, err
		})
		if err == nil && u.again {
			// The unit may have been started before, with values that were replaced since.
			var former []string
			former, err = u.e.secretValues(ctx, u.key(), u.step)
			values = append(values, former...)
		}
		if err != nil {
			return b, nil, &secretError{err}
		}
		u.used(names(refs))
	}
	u.setMasks(values)
	masks := make([][]byte, len(values))
	for i, v := range values {
		masks[i] = []byte(v)
	}
	return b, masks, nil
}

// names are those of secrets, each once.
func names(refs []pipeline.SecretUse) []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range refs {
		if !seen[r.Name] {
			seen[r.Name] = true
			out = append(out, r.Name)
		}
	}
	return out
}

// used notes, for the timeline of the run and for the audit log, which secrets the
// attempt gets.
func (u *unit) used(names []string) {
	now := u.e.now()
	u.records = append(u.records, record{"attempt.secrets", map[string]any{"attempt": u.key(), "step": u.a.Step, "secrets": names}, now})
	for _, n := range names {
		data, err := json.Marshal(waybill.AuditRecord{Who: "attempt " + u.key(), Action: "secret.use", Subject: n, Result: "ok"})
		if err == nil { // it is a struct of strings
			u.audit = append(u.audit, store.Event{Subject: "audit", Kind: "secret.use", Data: data, At: now})
		}
	}
}

// setMasks remembers what the attempt was given. The masker is made when there is
// something to mask: most attempts return nothing.
func (u *unit) setMasks(values []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.secret, u.masker = values, nil
}

// masks returns the masker of the attempt. One that this life of the node did not start
// is masked by what its secrets are and were lately.
func (u *unit) masks(ctx context.Context) *mask.Masker {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.masker != nil {
		return u.masker
	}
	if u.secret == nil {
		values, err := u.e.secretValues(ctx, u.key(), u.step)
		if err != nil {
			u.e.log.Error("what an attempt returns is masked without some of its secrets", "attempt", u.key(), "err", err)
		}
		u.secret = values
	}
	u.masker = mask.New(u.secret...)
	return u.masker
}

// learn sees to it that what the attempt was given is known, if this life of the node did
// not start its unit: what cannot be masked is not taken. A secret that was deleted since
// is known to nobody any more, and does not keep the attempt from ending.
func (u *unit) learn(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.secret != nil {
		return nil
	}
	values, err := u.e.secretValues(ctx, u.key(), u.step)
	if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
		return waybill.E(waybill.KindUnavailable, "the secrets of the attempt cannot be read, so what it returns cannot be masked: %w", err)
	}
	if err == nil {
		u.secret = values
	}
	return nil
}

// secretValues are the values that an attempt of a step may hold. With an error they
// are those that could be had.
func (e *Engine) secretValues(ctx context.Context, attempt string, step *pipeline.Step) ([]string, error) {
	values := []string{e.token(attempt)}
	if step == nil || e.o.Secrets == nil {
		return values, nil
	}
	var failed error
	for _, name := range names(step.Secrets()) {
		v, err := e.o.Secrets.Values(ctx, name)
		if err != nil && (failed == nil || waybill.IsKind(failed, waybill.KindNotFound)) {
			failed = fmt.Errorf("secret %s: %w", name, err) // what may pass counts, not what never will
		}
		values = append(values, v...)
	}
	return values, failed
}

// masksOf returns the masker of an attempt that may be in the hands of another node.
// What is reported cannot be accepted while its secrets are not known.
func (e *Engine) masksOf(ctx context.Context, attempt string, step *pipeline.Step) (*mask.Masker, error) {
	e.mu.Lock()
	u := e.live[attempt]
	e.mu.Unlock()
	if u != nil {
		u.mu.Lock()
		given := u.secret != nil
		u.mu.Unlock()
		if given {
			return u.masks(ctx), nil
		}
	}
	values, err := e.secretValues(ctx, attempt, step)
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "the secrets of the attempt cannot be read, so its report cannot be masked: %w", err)
	}
	return mask.New(values...), nil
}

// maskVars masks the values of variables and returns the names of those that held a
// secret. A name that holds one is an error that does not tell it.
func maskVars(m *mask.Masker, vars *waybill.Vars) ([]string, error) {
	var masked []string
	for _, n := range vars.Names() {
		if m.Holds(n) {
			return nil, waybill.E(waybill.KindInvalid, "the name of a returned variable holds a secret: %s", m.String(n))
		}
		v, _ := vars.Get(n)
		if x, changed := maskValue(m, v); changed {
			vars.Set(n, x)
			masked = append(masked, n)
		}
	}
	return masked, nil
}

// maskValue masks the texts of a value, and as a last resort all of it: a number, or
// JSON that is a secret as a whole.
func maskValue(m *mask.Masker, v waybill.Value) (waybill.Value, bool) {
	changed := false
	if x, err := v.Decode(); err == nil {
		x = maskTexts(m, x, &changed)
		if changed {
			if y, err := waybill.ValueOf(x); err == nil {
				v = y
			}
		}
	}
	if m.Holds(string(v)) {
		return waybill.StringValue(mask.Text), true
	}
	return v, changed
}

func maskTexts(m *mask.Masker, v any, changed *bool) any {
	text := func(s string) string {
		t := m.String(s)
		*changed = *changed || t != s
		return t
	}
	switch v := v.(type) {
	case string:
		return text(v)
	case []any:
		for i := range v {
			v[i] = maskTexts(m, v[i], changed)
		}
	case map[string]any:
		for k, x := range v {
			if t := text(k); t != k {
				delete(v, k)
				k = t
			}
			v[k] = maskTexts(m, x, changed)
		}
	}
	return v
}

// wordy are the members of records that hold what units or others said.
var wordy = []string{"error", "warning", "message"}

// maskRecords masks what records say in words.
func maskRecords(m *mask.Masker, records []record) {
	for _, r := range records {
		for _, key := range wordy {
			if s, ok := r.data[key].(string); ok {
				r.data[key] = m.String(s)
			}
		}
	}
}

// hide masks what is about to be written of the attempt in words.
func (u *unit) hide(ctx context.Context) {
	words := u.a.Error != ""
	for _, r := range u.records {
		for _, key := range wordy {
			_, ok := r.data[key].(string)
			words = words || ok
		}
	}
	if words {
		m := u.masks(ctx)
		maskRecords(m, u.records)
		u.a.Error = m.String(u.a.Error)
	}
}

// maskedRecord tells that returned values were masked.
func maskedRecord(a *waybill.Attempt, names []string, at time.Time) record {
	return record{"output.masked", map[string]any{"attempt": a.Key(), "step": a.Step, "names": names}, at}
}

// split separates what one record of a report tells of masked values into a record of
// its own.
func split(a *waybill.Attempt, rec record) []record {
	names, _ := rec.data["masked"].([]string)
	delete(rec.data, "masked")
	if len(names) == 0 {
		return []record{rec}
	}
	return []record{rec, maskedRecord(a, names, rec.at)}
}

// maskError masks the words of an error that is told to whoever called, keeping its kind.
func maskError(m *mask.Masker, err error) error {
	if err == nil || !m.Holds(err.Error()) {
		return err
	}
	return waybill.E(waybill.KindOf(err), "%s", m.String(err.Error()))
}

// Guard returns a reader of what an attempt stores by itself, as an object. It fails at
// the value of one of the attempt's secrets: changing content that somebody made on
// purpose would spoil it, and whoever puts it can be told.
func (e *Engine) Guard(ctx context.Context, attempt string, r io.Reader) (io.Reader, error) {
	a, _, err := e.attempt(ctx, "", attempt)
	if err != nil {
		return nil, err
	}
	run, err := e.run(ctx, a.Run)
	if err != nil {
		return nil, err
	}
	plan, _, err := e.o.Plans.Plan(ctx, run.Pipeline, run.Version)
	if err != nil {
		return nil, err
	}
	step := definition(plan, a.Step)
	if step == nil || len(step.Secrets()) == 0 {
		return r, nil
	}
	m, err := e.masksOf(ctx, attempt, step)
	if err != nil {
		return nil, err
	}
	return guarded{m.Reader(r)}, nil
}

type guarded struct{ r *mask.Reader }

func (g guarded) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if g.r.Masks() > 0 {
		return 0, waybill.E(waybill.KindInvalid, "the content holds the value of a secret of this attempt, so it is not stored")
	}
	return n, err
}
