package pipeline

import (
	"regexp"
	"strings"
	"time"
)

// How the sender of a webhook shows who it is.
const (
	SignatureWaybill = "waybill" // HMAC-SHA256 over time and body, in Waybill-Signature
	SignatureGitHub  = "github"  // HMAC-SHA256 over the body, in X-Hub-Signature-256
	SignatureGitLab  = "gitlab"  // the secret itself, in X-Gitlab-Token
	SignatureNone    = "none"    // not at all
)

// DefaultTolerance is how far the time of a signature may be from ours.
const DefaultTolerance = 5 * time.Minute

// WebhookTrigger starts a run for every request that its sender has signed.
type WebhookTrigger struct {
	Trigger
	Name      string // the last part of its path; empty for the one without
	Signature string
	Secret    SecretRef
	Tolerance time.Duration // of signatures that hold a time
}

// SecretRef names a secret without holding it.
type SecretRef struct {
	Env  bool // in the server's environment, else in the store of secrets
	Name string
}

// String is the reference as it is written in a definition.
func (r SecretRef) String() string {
	if r.Env {
		return "${env:" + r.Name + "}"
	}
	return "${secret:" + r.Name + "}"
}

// EventTrigger starts a run for every event of a kind that is published.
type EventTrigger struct {
	Trigger
	Type   string // pattern: * stands for any characters; empty takes all
	Source string // pattern
}

// Matches reports whether the patterns fit an event; Accepts has the last word.
func (t *EventTrigger) Matches(typ, source string) bool {
	return (t.Type == "" || wild(t.Type, typ)) && (t.Source == "" || wild(t.Source, source))
}

// wild reports whether a text fits a pattern in which * stands for any characters.
func wild(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(s, first) || len(s) < len(first)+len(last) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return true
}

var secretRule = regexp.MustCompile(`^\$\{(secret|env):([A-Za-z_][A-Za-z0-9_.-]*)\}$`)

func (d *definition) webhookTrigger(what string, n *node) {
	if !d.object(what, n, webhookKeys) {
		return
	}
	t := WebhookTrigger{Trigger: d.trigger(what, n), Tolerance: DefaultTolerance}
	if x := n.get("name"); x != nil {
		t.Name, _ = d.name(what+".name", x, 63)
	}
	for _, other := range d.plan.On.Webhooks {
		if other.Name == t.Name {
			d.add(n.at, "give each a name of its own", "%s: another webhook of the pipeline has the same path", what)
		}
	}
	t.Signature = d.word(what+".signature", n.get("signature"), SignatureWaybill, SignatureWaybill, SignatureGitHub, SignatureGitLab, SignatureNone)
	secret := n.get("secret")
	switch {
	case t.Signature == SignatureNone && secret != nil:
		d.add(secret.at, "", "%s: a webhook without signature has no secret", what)
	case t.Signature == SignatureNone:
		d.warn(n.at, "", "%s: whoever can reach the server can start the pipeline", what)
	case secret == nil:
		d.add(n.at, "write secret: ${secret:NAME}", "%s has no secret to check signatures with", what)
	default:
		t.Secret = d.secretRef(what+".secret", secret)
	}
	if x := n.get("tolerance"); x != nil {
		v, ok := d.duration(what+".tolerance", x)
		if ok && (v < time.Second || v > time.Hour) {
			d.add(x.at, "", "%s.tolerance: expected 1s to 1h", what)
		}
		if t.Signature != SignatureWaybill {
			d.warn(x.at, "", "%s.tolerance has no effect: signatures of %s hold no time", what, t.Signature)
		}
		t.Tolerance = v
	}
	d.plan.On.Webhooks = append(d.plan.On.Webhooks, t)
}

// secretRef reads a reference and nothing else: the secret itself is looked up when it
// is needed, so that it is in no plan and in no version of a definition.
func (d *definition) secretRef(what string, n *node) SecretRef {
	m := secretRule.FindStringSubmatch(n.text)
	if n.kind != kindString || m == nil {
		d.add(n.at, "write ${secret:NAME}, or ${env:NAME} in files of the project folder", "%s: expected a reference to a secret", what)
		return SecretRef{}
	}
	r := SecretRef{Env: m[1] == "env", Name: m[2]}
	if r.Env && d.lookup == nil {
		d.add(n.at, "write ${secret:NAME}", "%s can only be used in files of the project folder", r)
	}
	return r
}

func (d *definition) eventTrigger(what string, n *node) {
	if !d.object(what, n, eventKeys) {
		return
	}
	t := EventTrigger{Trigger: d.trigger(what, n)}
	for key, to := range map[string]*string{"type": &t.Type, "source": &t.Source} {
		if x := n.get(key); x != nil {
			s, ok := d.str(what+"."+key, x)
			if ok && (s == "" || len(s) > 1024) {
				d.add(x.at, "", "%s.%s: expected a pattern of 1 to 1024 bytes", what, key)
			}
			*to = s
		}
	}
	if t.Type == "" && t.Source == "" && n.get("type") == nil && n.get("source") == nil {
		d.add(n.at, `write type: "com.example.*"`, "%s says neither type nor source", what)
	}
	d.plan.On.Events = append(d.plan.On.Events, t)
}

// Ref is the reference of the trigger: see On.Trigger.
func (t *WebhookTrigger) Ref() string {
	if t.Name == "" {
		return "webhook"
	}
	return "webhook/" + t.Name
}
