package inbound

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"net/http"
	"strings"

	"github.com/waybill-run/waybill"
)

// VerifyHMAC checks the HMAC of a body, which one of the headers holds as "sha256=HEX" or
// "sha512=HEX". The first header that is there decides.
func VerifyHMAC(secret string, h http.Header, body []byte, headers ...string) error {
	for _, name := range headers {
		values := h.Values(name)
		if len(values) == 0 {
			continue
		}
		algorithm, text, _ := strings.Cut(values[0], "=")
		var sum func() hash.Hash
		switch strings.ToLower(algorithm) {
		case "sha256":
			sum = sha256.New
		case "sha512":
			sum = sha512.New
		default:
			return waybill.E(waybill.KindUnauthorized, "the signature in %s is not of the form sha256=HEX or sha512=HEX", name)
		}
		mac := hmac.New(sum, []byte(secret))
		mac.Write(body)
		given, err := hex.DecodeString(text)
		if err != nil || len(values) > 1 || !hmac.Equal(given, mac.Sum(nil)) {
			return waybill.E(waybill.KindUnauthorized, "the signature in %s is wrong", name)
		}
		return nil
	}
	return waybill.E(waybill.KindUnauthorized, "the request is not signed").WithHint("the signature is expected in %s", strings.Join(headers, " or "))
}

// VerifyToken checks that a header holds a secret.
func VerifyToken(secret, given, header string) error {
	if !same(secret, given) {
		return waybill.E(waybill.KindUnauthorized, "the token in %s is missing or wrong", header)
	}
	return nil
}

// same compares without telling how far they agree.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// bearer is the token of the Authorization header.
func bearer(h http.Header) string {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
