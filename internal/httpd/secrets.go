package httpd

import (
	"net/http"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

func wireSecret(s waybill.Secret) openapi.Secret {
	return openapi.Secret{
		Name: s.Name, Version: s.Version, Masked: s.Masked, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, UpdatedBy: s.UpdatedBy,
	}
}

func (a api) ListSecrets(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, _ *call) error {
		all, err := v.Secrets.Secrets(r.Context())
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.SecretList{Items: convert(all, wireSecret)})
	})
}

func (a api) SetSecret(w http.ResponseWriter, r *http.Request, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		var body openapi.SetSecret
		if err := a.decode(w, r, &body, false); err != nil {
			return err
		}
		s, fresh, err := v.Secrets.SetSecret(r.Context(), name, body.Value, c.who)
		if err != nil {
			return err
		}
		code := http.StatusOK
		if fresh {
			code = http.StatusCreated
		}
		return a.reply(w, r, code, wireSecret(s))
	})
}

func (a api) DeleteSecret(w http.ResponseWriter, r *http.Request, name string) {
	a.do(w, r, func(v *Services, c *call) error {
		if err := v.Secrets.DeleteSecret(r.Context(), name, c.who); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}

func (a api) RekeySecrets(w http.ResponseWriter, r *http.Request) {
	a.do(w, r, func(v *Services, c *call) error {
		n, err := v.Secrets.RekeySecrets(r.Context(), c.who)
		if err != nil {
			return err
		}
		return a.reply(w, r, http.StatusOK, openapi.Count{Count: int64(n)})
	})
}
