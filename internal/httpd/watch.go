package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func (a api) GetWatchedBucket(w http.ResponseWriter, r *http.Request, bucket string) {
	a.do(w, r, func(v *Services, c *call) error {
		b, err := v.Watches.WatchedBucket(r.Context(), bucket)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, b)
	})
}

func (a api) ScanBucket(w http.ResponseWriter, r *http.Request, bucket string) {
	a.do(w, r, func(v *Services, c *call) error {
		b, err := v.Watches.ScanBucket(r.Context(), bucket, c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusAccepted, b)
	})
}

func (a api) ListSources(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		all, err := v.Sources.Sources(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.SourceList{Items: all})
	})
}
