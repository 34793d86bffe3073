package httpdtest

import (
	"context"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

type kept struct{ *World }

// SetSecret forgets the value at once.
func (w kept) SetSecret(_ context.Context, name, value string, by waybill.Principal) (waybill.Secret, bool, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Secret{}, false, err
	}
	defer unlock()
	if strings.ContainsAny(name, " /") || value == "" {
		return waybill.Secret{}, false, waybill.E(waybill.KindInvalid, "bad name or value")
	}
	s, old := w.Kept[name]
	if !old {
		s = waybill.Secret{Name: name, CreatedAt: w.Now()}
	}
	s.Version++
	s.UpdatedAt, s.UpdatedBy, s.Masked = w.Now(), by.Name, len(value) >= 4
	w.Kept[name] = s
	return s, !old, nil
}

func (w kept) Secrets(context.Context) ([]waybill.Secret, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []waybill.Secret
	for _, s := range w.Kept {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b waybill.Secret) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (w kept) DeleteSecret(_ context.Context, name string, _ waybill.Principal) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := w.Kept[name]; !ok {
		return waybill.E(waybill.KindNotFound, "there is no secret %s", name)
	}
	delete(w.Kept, name)
	return nil
}

func (w kept) RekeySecrets(context.Context, waybill.Principal) (int, error) {
	unlock, err := w.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	return len(w.Kept), nil
}
