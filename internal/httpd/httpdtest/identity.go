package httpdtest

import (
	"context"

	"github.com/waybill-run/waybill"
)

type identities struct{ *World }

// AuthenticateIdentity knows eyviewer.of.alice and eynobody.of.bob; the issuer of
// eylater.of.carol is not to be reached.
func (w identities) AuthenticateIdentity(_ context.Context, token string) (waybill.Principal, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Principal{}, err
	}
	defer unlock()
	switch token {
	case "eyviewer.of.alice":
		return waybill.Principal{Name: "oidc:alice", Tenant: "default", Role: waybill.RoleViewer}, nil
	case "eynobody.of.bob":
		return waybill.Principal{Name: "oidc:bob"}, waybill.E(waybill.KindForbidden, "oidc:bob has no role here")
	case "eylater.of.carol":
		return waybill.Principal{}, waybill.E(waybill.KindUnavailable, "the keys of the issuer cannot be read at the moment")
	}
	return waybill.Principal{}, waybill.E(waybill.KindUnauthorized, "the token is not valid")
}
