package notify

import (
	"context"
	"crypto/tls"
	"fmt"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/waybill-run/waybill"
)

// mail sends an event as a letter of plain text.
func (n *Notifier) mail(ctx context.Context, m waybill.NotifyEmail, e Event) error {
	host, port := hostPort(m.SMTP, "587")
	number, err := strconv.Atoi(port)
	if err != nil {
		return waybill.E(waybill.KindInvalid, "email.smtp: port %q is no number", port)
	}
	policy := gomail.TLSMandatory
	if m.StartTLS != nil && !*m.StartTLS {
		policy = gomail.NoTLS
	}
	opts := []gomail.Option{
		gomail.WithPort(number), gomail.WithTimeout(sendFor), gomail.WithTLSPolicy(policy),
		gomail.WithTLSConfig(&tls.Config{ServerName: host, RootCAs: n.o.Roots, MinVersion: tls.VersionTLS12}),
	}
	if m.User != "" {
		user, err := n.expand(ctx, m.User)
		if err != nil {
			return err
		}
		password, err := n.expand(ctx, m.Password)
		if err != nil {
			return err
		}
		opts = append(opts, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(user), gomail.WithPassword(password))
	}
	msg := gomail.NewMsg()
	if err := msg.From(m.From); err != nil {
		return waybill.E(waybill.KindInvalid, "email.from: %w", err)
	}
	if err := msg.To(m.To...); err != nil {
		return waybill.E(waybill.KindInvalid, "email.to: %w", err)
	}
	msg.Subject("[waybill] " + clip(oneLine(e.Data.Text), 200))
	msg.SetDateWithValue(e.Time)
	// The same id each time: a mailbox shows a letter that came twice once.
	msg.SetMessageIDWithValue(e.ID + "@waybill")
	msg.SetGenHeader("X-Waybill-Event-Id", e.ID)
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, letter(e))
	c, err := gomail.NewClient(host, opts...)
	if err != nil {
		return fmt.Errorf("email by %s: %w", host, err)
	}
	ctx, cancel := context.WithTimeout(ctx, sendFor)
	defer cancel()
	if err := c.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("email by %s: %s", host, oneLine(err.Error()))
	}
	return nil
}

// letter is the text of an event.
func letter(e Event) string {
	var b strings.Builder
	d := e.Data
	fmt.Fprintf(&b, "%s\r\n\r\n", d.Text)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s %s\r\n", name, strings.ReplaceAll(strings.TrimSpace(value), "\n", "\r\n           "))
		}
	}
	when := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	field("pipeline", d.Pipeline)
	field("run", d.Run)
	field("status", string(d.Status))
	field("step", d.FailedStep)
	field("attempt", d.Attempt)
	field("topic", d.Topic)
	field("key", d.Key)
	field("error", d.Error)
	field("created", when(d.CreatedAt))
	field("ended", when(d.FinishedAt))
	field("retry of", d.RetryOf)
	field("after", d.After)
	field("look at", d.URL)
	if d.Run != "" {
		fmt.Fprintf(&b, "\r\nwaybill run show %s\r\nwaybill run logs %s\r\n", d.Run, d.Run)
	}
	fmt.Fprintf(&b, "\r\nSent by rule %s.\r\n", d.Rule)
	return b.String()
}
