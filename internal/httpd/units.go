package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) ListUnits(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		l, err := v.Units.Units(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.UnitList{At: l.At, Items: l.Items, More: l.More, Silent: l.Silent})
	})
}
