package httpd

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
)

// defaultTenant is the tenant of a local admin.
const defaultTenant = "default"

// admit lets a request through to its operation if its sender may call it, and
// writes the audit record.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, op operation, h http.HandlerFunc) {
	c := callOf(r)
	c.op = op
	v := s.services.Load()
	if v == nil && !op.early {
		s.fail(w, r, &waybill.Error{Kind: waybill.KindUnavailable, Msg: "the server is starting", RetryAfter: time.Second})
		return
	}
	if unitsOnly(r) && op.unit == unitNone {
		s.fail(w, r, waybill.E(waybill.KindNotFound, "there is nothing at %s for units", shorten(r.URL.Path, 200)))
		return
	}
	if op.need != "" {
		who, err := s.authenticate(r, op, v)
		c.who = who
		if err == nil {
			err = authorize(r, op, who)
			if err != nil && op.unit == unitOwn {
				s.failures.add(remote(r)) // a token tried on another attempt is a guess too
			}
		}
		if err != nil {
			s.refused(r, c, v, err)
			s.fail(w, r, err)
			return
		}
	}
	h(w, r)
	if op.action != "" && !op.quiet {
		s.audit(r, v, waybill.AuditRecord{Who: c.who.Name, Action: op.action, Subject: subject(r), Result: result(c.kind)})
	}
}

func result(kind waybill.Kind) string {
	if kind == "" {
		return "ok"
	}
	return string(kind)
}

// subject is what the operation works on, as its path says.
func subject(r *http.Request) string {
	var parts []string
	for _, name := range []string{"pipeline", "number", "name", "run", "step", "attempt", "bucket", "key", "topic", "id"} {
		if v := r.PathValue(name); v != "" {
			parts = append(parts, v)
		}
	}
	return shorten(strings.Join(parts, "/"), 500)
}

// authenticate finds out who sends a request. With an error of KindForbidden it is known
// who that is, and that they may do nothing.
func (s *Server) authenticate(r *http.Request, op operation, v *Services) (waybill.Principal, error) {
	token, err := bearer(r)
	if err != nil {
		return waybill.Principal{}, err
	}
	if token == "" && op.id == "completeAttempt" {
		token = r.URL.Query().Get("token") // the classic callback URL
	}
	if token == "" && s.opt.Loopback && op.unit != unitOwn && !forwarded(r) && !unitsOnly(r) {
		return waybill.Principal{Name: "local", Tenant: defaultTenant, Role: waybill.RoleAdmin}, nil
	}
	source := remote(r)
	if wait := s.failures.wait(source, token); wait > 0 {
		return waybill.Principal{}, &waybill.Error{Kind: waybill.KindExhausted, RetryAfter: wait,
			Msg: "too many requests with wrong credentials came from this address"}
	}
	if token == "" {
		s.failures.add(source)
		return waybill.Principal{}, waybill.E(waybill.KindUnauthorized, "a token is needed").
			WithHint("send it as Authorization: Bearer TOKEN, or set WAYBILL_API_TOKEN for the command line")
	}
	var who waybill.Principal
	switch {
	case unitsOnly(r):
		who, err = v.Callbacks.Authenticate(r.Context(), token)
	case strings.HasPrefix(token, "wbt_"):
		who, err = v.Tokens.AuthenticateToken(r.Context(), token)
	case signed(token) && v.Identities != nil:
		if who, err = v.Identities.AuthenticateIdentity(r.Context(), token); waybill.KindOf(err) == waybill.KindForbidden {
			return waybill.Principal{Name: who.Name}, err // a good token is no guess
		}
	default:
		who, err = v.Callbacks.Authenticate(r.Context(), token)
	}
	switch waybill.KindOf(err) {
	case "":
		s.failures.good(token)
		return who, nil
	case waybill.KindNotFound:
		err = waybill.E(waybill.KindUnauthorized, "the token is not valid")
		fallthrough
	case waybill.KindUnauthorized, waybill.KindGone, waybill.KindForbidden:
		s.failures.add(source)
	}
	return waybill.Principal{}, err
}

// The most bytes of our own tokens, and of those of identity providers.
const (
	maxToken  = 500
	maxSigned = 16 << 10
)

// signed reports whether a token has the form of a JWT, which those of ours never have.
func signed(token string) bool {
	return strings.HasPrefix(token, "ey") && strings.Count(token, ".") == 2
}

// bearer returns the token of the Authorization header, empty when there is no
// such header.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if len(values) > 1 || !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", waybill.E(waybill.KindUnauthorized, "the Authorization header does not hold one bearer token")
	}
	if limit := map[bool]int{true: maxSigned, false: maxToken}[signed(token)]; len(token) > limit {
		return "", waybill.E(waybill.KindUnauthorized, "the token has %d bytes, at most %d are taken", len(token), limit)
	}
	return token, nil
}

// forwarded reports whether a proxy passed the request on. Such a request does
// not come from this machine, whatever its address says.
func forwarded(r *http.Request) bool {
	return r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != ""
}

// authorize reports why who may not call the operation.
func authorize(r *http.Request, op operation, who waybill.Principal) error {
	if who.Role == waybill.RoleUnit {
		own := who.Attempt != "" && who.Attempt == r.PathValue("run")+"/"+r.PathValue("step")+"/"+r.PathValue("attempt")
		switch {
		case op.unit == unitAny, op.unit == unitOwn && own:
			return nil
		case op.unit == unitOwn:
			return waybill.E(waybill.KindForbidden, "the token belongs to another attempt")
		}
		return waybill.E(waybill.KindForbidden, "the token of an attempt does not open this")
	}
	if op.unit == unitOwn {
		return waybill.E(waybill.KindForbidden, "only the token of the attempt opens this")
	}
	if !who.Role.Allows(op.need) {
		return waybill.E(waybill.KindForbidden, "this needs the role %s, the token has %s", op.need, who.Role)
	}
	return nil
}

// refused audits a request that was not let in. Those that are refused for their
// number are not audited one by one.
func (s *Server) refused(r *http.Request, c *call, v *Services, err error) {
	kind := waybill.KindOf(err)
	rec := waybill.AuditRecord{Who: c.who.Name, Action: "auth.refused", Subject: c.op.id, Result: string(kind)}
	switch kind {
	case waybill.KindUnauthorized, waybill.KindGone:
		rec.Who = "unknown"
	case waybill.KindForbidden:
		if rec.Who == "" {
			rec.Who = "unknown"
		}
		if c.op.action != "" {
			rec.Action, rec.Subject = c.op.action, subject(r)
		}
	default:
		return
	}
	s.audit(r, v, rec)
}

// audit writes a record. What was done stays done when that fails.
func (s *Server) audit(r *http.Request, v *Services, rec waybill.AuditRecord) {
	rec.Remote = remote(r)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
	defer cancel()
	if err := v.Tokens.Audit(ctx, rec); err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "audit record not written", slog.String("request", callOf(r).id),
			slog.String("action", rec.Action), slog.String("who", rec.Who), slog.Any("error", err))
	}
}

// failures limits how often one address may present wrong credentials: so many
// at once, then one for each pass of the recovery time. Tokens that were right
// lately go on to work from an address that must wait, since honest clients may
// share it. Memory is bounded. Safe for concurrent use.
type failures struct {
	limit    float64
	recovery time.Duration
	now      func() time.Time

	mu      sync.Mutex
	sources map[string]failed
	right   map[[sha256.Size]byte]struct{}
}

type failed struct {
	count float64
	at    time.Time
}

const (
	maxSources = 10_000
	maxRight   = 10_000
)

func newFailures(limit int, recovery time.Duration, now func() time.Time) *failures {
	return &failures{limit: float64(limit), recovery: recovery, now: now,
		sources: map[string]failed{}, right: map[[sha256.Size]byte]struct{}{}}
}

// source is the part of an address that one sender holds: all of an IPv4
// address, the network of an IPv6 one.
func source(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Unmap().Is4() || a.IsLoopback() {
		return addr
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return addr
	}
	return p.String()
}

func (f *failures) count(x failed, now time.Time) float64 {
	return max(0, x.count-float64(now.Sub(x.at))/float64(f.recovery))
}

// wait is how long an address must wait before its token is looked at.
func (f *failures) wait(addr, token string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	x, ok := f.sources[source(addr)]
	if !ok {
		return 0
	}
	over := f.count(x, f.now()) + 1 - f.limit
	if over <= 0 {
		return 0
	}
	if _, ok := f.right[sha256.Sum256([]byte(token))]; ok {
		return 0
	}
	return time.Duration(over * float64(f.recovery))
}

func (f *failures) add(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, key := f.now(), source(addr)
	if _, ok := f.sources[key]; !ok && len(f.sources) >= maxSources {
		f.forget(now)
	}
	f.sources[key] = failed{min(f.limit, f.count(f.sources[key], now)+1), now}
}

// forget makes room: addresses that have recovered go, or else any one.
func (f *failures) forget(now time.Time) {
	for k, x := range f.sources {
		if f.count(x, now) == 0 {
			delete(f.sources, k)
		}
	}
	for k := range f.sources {
		if len(f.sources) < maxSources {
			return
		}
		delete(f.sources, k)
	}
}

func (f *failures) good(token string) {
	h := sha256.Sum256([]byte(token))
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.right) >= maxRight {
		for k := range f.right {
			delete(f.right, k)
			break
		}
	}
	f.right[h] = struct{}{}
}
