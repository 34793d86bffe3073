package arrival

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
)

// Headers of our own signatures.
const (
	HeaderSignature = "Waybill-Signature" // t=SECONDS,v1=HEX[,v1=HEX]
	HeaderDelivery  = "Waybill-Delivery"  // id of the delivery, optional
	HeaderEvent     = "Waybill-Event"     // type of the event, optional
)

// Sign returns the value of Waybill-Signature for a body that is sent at a time: the
// HMAC-SHA256 over the seconds since 1970, a dot and the body, in hex.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac(secret, []byte(t+"."), body))
}

func mac(secret string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// Deliver implements waybill.Events.
func (e *Events) Deliver(ctx context.Context, r waybill.HookRequest) ([]waybill.Delivery, error) {
	plan, version, err := e.o.Plans.Plan(ctx, r.Pipeline, 0)
	if err != nil && waybill.KindOf(err) != waybill.KindNotFound && waybill.KindOf(err) != waybill.KindGone {
		return nil, err
	}
	var hook *pipeline.WebhookTrigger
	if err == nil {
		for i := range plan.On.Webhooks {
			if plan.On.Webhooks[i].Name == r.Name {
				hook = &plan.On.Webhooks[i]
			}
		}
	}
	if hook == nil {
		return nil, waybill.E(waybill.KindNotFound, "there is no such webhook")
	}
	stamp, err := e.verify(ctx, hook, r)
	if err != nil {
		return nil, err
	}
	if err := e.o.Admit(ctx, queue.TopicRun); err != nil {
		return nil, err
	}
	list, err := e.hookEvents(hook, r, stamp)
	if err != nil {
		return nil, err
	}
	out := make([]waybill.Delivery, 0, len(list))
	for i, ev := range list {
		ev.Hops = 1
		scope := "hook/" + r.Pipeline + "/" + r.Name
		keys := []string{seenKey(scope, ev.Source, ev.ID)}
		if stamp != "" {
			// What was signed starts something once, whatever its headers say: they are not signed.
			keys = append(keys, seenKey(scope, "signature", stamp, strconv.Itoa(i)))
		}
		d, err := e.deliver(ctx, ev, []target{{project.Match{Plan: plan, Version: version}, hook.Ref()}}, keys...)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// verify checks the signature of a request. stamp tells this signing from every other,
// if the scheme has something that does.
func (e *Events) verify(ctx context.Context, t *pipeline.WebhookTrigger, r waybill.HookRequest) (stamp string, err error) {
	if t.Signature == pipeline.SignatureNone {
		return "", nil
	}
	secret, err := e.secret(ctx, t.Secret)
	if err != nil {
		// The sender cannot help it and must not learn more.
		e.o.Logger.Error("secret of a webhook is not there", "pipeline", r.Pipeline, "webhook", r.Name, "secret", t.Secret.String(), "err", err)
		return "", waybill.E(waybill.KindUnavailable, "the webhook cannot check signatures")
	}
	h := textproto.MIMEHeader(r.Header)
	refused := func(why string) (string, error) {
		return "", waybill.E(waybill.KindUnauthorized, "%s", why)
	}
	one := func(name string) string {
		if v := h[name]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	switch t.Signature {
	case pipeline.SignatureGitHub:
		given, err := hex.DecodeString(strings.TrimPrefix(one("X-Hub-Signature-256"), "sha256="))
		if err != nil || !hmac.Equal(given, mac(secret, r.Body)) {
			return refused("the signature in X-Hub-Signature-256 is missing or wrong")
		}
		return "", nil
	case pipeline.SignatureGitLab:
		given, want := sha256.Sum256([]byte(one("X-Gitlab-Token"))), sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
			return refused("the token in X-Gitlab-Token is missing or wrong")
		}
		return "", nil
	}
	var seconds string
	var given [][]byte
	for p := range strings.SplitSeq(one(HeaderSignature), ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch k {
		case "t":
			seconds = v
		case "v1":
			if b, err := hex.DecodeString(v); err == nil && len(given) < 5 {
				given = append(given, b)
			}
		}
	}
	want := mac(secret, []byte(seconds+"."), r.Body)
	good := false
	for _, g := range given {
		good = hmac.Equal(g, want) || good
	}
	if !good {
		return refused("the signature in " + HeaderSignature + " is missing or wrong")
	}
	// The time is looked at last: a wrong signature tells nothing about our clock.
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return refused("the time of the signature cannot be read")
	}
	if age := e.o.Now().Sub(time.Unix(n, 0)); age > t.Tolerance || age < -t.Tolerance {
		return refused("the signature is too old, or its time is in the future")
	}
	return hex.EncodeToString(want), nil
}

func (e *Events) secret(ctx context.Context, r pipeline.SecretRef) (string, error) {
	var value string
	switch {
	case r.Env && e.o.Env != nil:
		value, _ = e.o.Env(r.Name)
	case !r.Env && e.o.Secrets != nil:
		var err error
		if value, err = e.o.Secrets.Secret(ctx, r.Name); err != nil {
			return "", err
		}
	}
	if value == "" {
		return "", waybill.E(waybill.KindNotFound, "%s is not set", r)
	}
	return value, nil
}

// hookEvents makes events of a request whose signature is good.
func (e *Events) hookEvents(t *pipeline.WebhookTrigger, r waybill.HookRequest, stamp string) ([]waybill.Event, error) {
	now := e.o.Now()
	if isCloudEvents(r.Header) {
		return ParseCloudEvents(r.Header, r.Body, now)
	}
	h := textproto.MIMEHeader(r.Header)
	ev := waybill.Event{Source: "/hooks/" + strings.TrimSuffix(r.Pipeline+"/"+r.Name, "/"), Type: "webhook", Time: now.UTC(), Traceparent: h.Get("Traceparent")}
	var err error
	if ev.Data, err = payload(h.Get("Content-Type"), r.Body); err != nil {
		return nil, err
	}
	switch t.Signature {
	case pipeline.SignatureGitHub:
		ev.ID, ev.Type = h.Get("X-Github-Delivery"), or(h.Get("X-Github-Event"), ev.Type)
		var form struct {
			Payload string `json:"payload"`
		}
		if strings.HasPrefix(h.Get("Content-Type"), "application/x-www-form-urlencoded") && json.Unmarshal(ev.Data, &form) == nil && json.Valid([]byte(form.Payload)) {
			ev.Data = compact([]byte(form.Payload))
		}
		var about struct {
			Repository struct {
				FullName string `json:"full_name"`
			} `json:"repository"`
		}
		if json.Unmarshal(ev.Data, &about) == nil {
			ev.Subject = about.Repository.FullName
		}
	case pipeline.SignatureGitLab:
		ev.ID, ev.Type = or(h.Get("Idempotency-Key"), h.Get("X-Gitlab-Event-Uuid")), or(h.Get("X-Gitlab-Event"), ev.Type)
		var about struct {
			Project struct {
				Path string `json:"path_with_namespace"`
			} `json:"project"`
		}
		if json.Unmarshal(ev.Data, &about) == nil {
			ev.Subject = about.Project.Path
		}
	default:
		ev.ID, ev.Type = h.Get(HeaderDelivery), or(h.Get(HeaderEvent), ev.Type)
	}
	for name, v := range map[string]string{"delivery id": ev.ID, "event type": ev.Type} {
		if len(v) > maxAttribute {
			return nil, waybill.E(waybill.KindTooLarge, "the %s has %d bytes, the limit is %d", name, len(v), maxAttribute)
		}
	}
	switch {
	case ev.ID != "":
	case stamp != "":
		ev.ID = stamp[:32]
	case t.Signature != pipeline.SignatureNone:
		// Nothing else tells a repetition: the same body is the same delivery.
		sum := sha256.Sum256(r.Body)
		ev.ID = hex.EncodeToString(sum[:16])
	default:
		ev.ID = waybill.NewID(now)
	}
	if len(ev.Data) > MaxEvent {
		return nil, tooLarge(len(ev.Data))
	}
	return []waybill.Event{ev}, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
