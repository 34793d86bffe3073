package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) GetWhoami(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(_ *Services, c *call) error {
		return a.reply(w, r, http.StatusOK, openapi.Whoami{
			Name: c.who.Name, Role: openapi.WhoamiRole(c.who.Role), Tenant: c.who.Tenant, Attempt: c.who.Attempt,
		})
	})
}
