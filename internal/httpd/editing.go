package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill"
)

// planRun answers a start that is only asked about.
func (a api) planRun(w http.ResponseWriter, r *http.Request, v *Services, s waybill.StartRequest) error {
	plan, err := v.Runs.PlanRun(r.Context(), s)
	if err != nil {
		return err
	}
	return a.reply(w, r, http.StatusOK, plan)
}

func (a api) ReloadProject(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, _ *call) error {
		did, err := v.Folder.Reload(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, did)
	})
}

func (a api) GetSchema(w http.ResponseWriter, r *http.Request, kind string) {
	a.do(w, r, func(v *Services, _ *call) error {
		b, err := v.Schemas(kind)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write(b)
		return err
	})
}
