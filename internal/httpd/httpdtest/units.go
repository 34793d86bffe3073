package httpdtest

import (
	"context"

	"github.com/waybill-run/waybill"
)

type units struct{ *World }

func (u units) Units(context.Context) (waybill.UnitList, error) {
	unlock, err := u.lock()
	if err != nil {
		return waybill.UnitList{}, err
	}
	defer unlock()
	return waybill.UnitList{At: u.Now(), Items: append([]waybill.Unit{}, u.Made...), Silent: map[string]string{"docker": "it does not answer"}}, nil
}
