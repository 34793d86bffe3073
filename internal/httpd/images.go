package httpd

import (
	"net/http"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// images are those of the server, if it keeps any.
func images(v *Services) (waybill.Images, error) {
	if v.Images == nil {
		return nil, waybill.E(waybill.KindUnsupported, "this server keeps no images: the runner oci is not available here").
			WithHint("waybill doctor says what it lacks; the images of other runners are those of their platforms")
	}
	return v.Images, nil
}

func (a api) ListImages(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, _ *call) error {
		all, err := images(v)
		if err != nil {
			return err
		}
		l, err := all.Images(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.ImageList{Items: l.Items, Bytes: l.Bytes, Quota: l.Quota})
	})
}

func (a api) LoadImage(w http.ResponseWriter, r *http.Request, p openapi.LoadImageParams) {
	a.do(w, r, func(v *Services, c *call) error {
		all, err := images(v)
		if err != nil {
			return err
		}
		c.stream = true
		moving := &movingBody{r: r.Body, rc: http.NewResponseController(w), idle: a.opt.Limits.Read}
		loaded, err := all.LoadImage(r.Context(), moving, p.Name)
		if moving.err != nil {
			return moving.err
		}
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusCreated, struct {
			Items []waybill.Image `json:"items"`
		}{loaded})
	})
}

func (a api) RemoveImage(w http.ResponseWriter, r *http.Request, p openapi.RemoveImageParams) {
	a.do(w, r, func(v *Services, _ *call) error {
		all, err := images(v)
		if err != nil {
			return err
		}
		freed, err := all.RemoveImage(r.Context(), p.Name)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.ImagesRemoved{Count: 1, Bytes: freed})
	})
}

func (a api) PruneImages(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, _ *call) error {
		all, err := images(v)
		if err != nil {
			return err
		}
		var body openapi.PruneImages
		if err := a.decode(w, r, &body, false); err != nil {
			return err
		}
		if body.UnusedSeconds < 0 || body.UnusedSeconds > 3153600000 {
			return waybill.E(waybill.KindInvalid, "unused_seconds is from 0 to 3153600000, found %d", body.UnusedSeconds)
		}
		n, freed, err := all.PruneImages(r.Context(), time.Duration(body.UnusedSeconds)*time.Second)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.ImagesRemoved{Count: n, Bytes: freed})
	})
}
