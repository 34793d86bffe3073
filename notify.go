package waybill

import (
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	notifyName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	notifyHeader = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
)

// Check reports everything that is wrong with a rule, as one error of KindInvalid.
func (r NotifyRule) Check() error {
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if r.Name != "" && !notifyName.MatchString(r.Name) {
		add("name %.80q: up to 63 small letters, digits and -, beginning and ending with a letter or digit", r.Name)
	}
	if len(r.On) == 0 {
		add("on is empty: say what it is about, for example [failed, timed_out, lost]")
	}
	for i, e := range r.On {
		switch {
		case !slices.Contains(NotifyEvents(), e):
			words := make([]string, 0, 8)
			for _, known := range NotifyEvents() {
				words = append(words, string(known))
			}
			add("on: %.40q is none of %s", e, strings.Join(words, ", "))
		case slices.Contains(r.On[:i], e):
			add("on: %s is there twice", e)
		}
	}
	if _, err := path.Match(r.Pipeline, ""); err != nil {
		add("pipeline: %.80q is not a pattern such as nightly-*", r.Pipeline)
	}
	switch {
	case r.Webhook == nil && r.Email == nil:
		add("nobody is told: give it a webhook or an email")
	case r.Webhook != nil && r.Email != nil:
		add("webhook and email in one rule: make two, so that one that fails does not repeat the other")
	}
	if w := r.Webhook; w != nil {
		u, err := url.Parse(w.URL)
		if secret := strings.HasPrefix(w.URL, "${secret:"); !secret && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			add("webhook.url: %.200q is not an http or https URL", w.URL)
		}
		for name, value := range w.Headers {
			if !notifyHeader.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
				add("webhook.headers: %.80q cannot be sent", name)
			}
		}
	}
	if m := r.Email; m != nil {
		if len(m.To) == 0 {
			add("email.to is empty")
		}
		for _, to := range m.To {
			if _, err := mail.ParseAddress(to); err != nil {
				add("email.to: %.200q is not a mail address", to)
			}
		}
		if _, err := mail.ParseAddress(m.From); err != nil {
			add("email.from: %.200q is not a mail address", m.From)
		}
		host, port, err := net.SplitHostPort(m.SMTP)
		if err != nil {
			host, port = m.SMTP, "587"
		}
		if host == "" || strings.ContainsAny(host, "/ \t@") || strings.Trim(port, "0123456789") != "" || port == "" {
			add("email.smtp: %.200q is not host:port", m.SMTP)
		}
		if (m.User == "") != (m.Password == "") {
			add("email.user and email.password go together")
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return E(KindInvalid, "%s", strings.Join(wrong, "; "))
}

// Listens reports whether the rule is about an event of a pipeline; empty is one
// that belongs to no pipeline.
func (r NotifyRule) Listens(e NotifyEvent, pipeline string) bool {
	if !slices.Contains(r.On, e) {
		return false
	}
	if r.Pipeline == "" {
		return true
	}
	ok, err := path.Match(r.Pipeline, pipeline)
	return err == nil && ok && pipeline != ""
}
