package http

import (
	"errors"
	"fmt"
	nethttp "net/http"
	"slices"
	"time"
)

// maxPollErrors is how many requests in a row may fail while an operation is
// followed: it goes on, whatever becomes of those who ask.
const maxPollErrors = 5

// poll asks until the operation that req began is over, and returns the last answer.
// a and err are what came of req.
func (u *unit) poll(req *request, a *answer, err error) (*answer, error) {
	again := req.method == nethttp.MethodGet && u.set.Poll.URL == ""
	if !again {
		// Nothing has begun if the first request failed.
		if err != nil {
			return nil, err
		}
		if !u.set.Expect.Status.has(a.status) && a.status/100 != 2 {
			a.discard()
			return nil, &failure{reasonStatus, fmt.Sprintf("the answer has status %s, expected %s", a.statusText(), u.set.Expect.Status), a}
		}
		// Its answer may say that it is over already, or nothing at all about that.
		if over, err := u.set.until.truth(a); err == nil && over {
			return a, nil
		}
		next, err := u.next(req, a)
		a.discard()
		if err != nil {
			return nil, err
		}
		req = next
		wait, asked := a.retryAfter(time.Now())
		if !asked {
			wait = time.Duration(u.set.Poll.Every)
		}
		if err := u.pause(wait); err != nil {
			return nil, err
		}
		a, err = u.send(req)
		return u.follow(req, a, err)
	}
	return u.follow(req, a, err)
}

// follow judges the answers of a request until one says that the operation is over.
func (u *unit) follow(req *request, a *answer, err error) (*answer, error) {
	for failures := 0; ; {
		over, later := false, error(nil)
		if later = err; err == nil {
			over, later = u.over(a)
		}
		var f *failure
		switch {
		case over:
			return a, nil
		case later == nil:
			failures = 0
		case !errors.As(later, &f) || !f.passes():
			a.discard()
			return nil, later
		default:
			if failures++; failures >= maxPollErrors {
				a.discard()
				f.msg += fmt.Sprintf(" (%d requests in a row failed)", failures)
				return nil, f
			}
			u.log("%s: %s; asking again", f.reason, f.msg)
		}
		wait := time.Duration(u.set.Poll.Every)
		if a != nil {
			if asked, ok := a.retryAfter(time.Now()); ok {
				wait = asked
			}
		}
		a.discard()
		if err := u.pause(wait); err != nil {
			return nil, err
		}
		a, err = u.send(req)
	}
}

// over reports whether an answer says that the operation is over.
func (u *unit) over(a *answer) (bool, error) {
	ok, err := u.set.until.truth(a)
	switch {
	case err == nil && ok:
		return true, nil
	case u.set.until.asks("status"):
		if err != nil {
			// The body of an answer that says not yet need not be what that of the last is.
			err = nil
		}
		return false, err
	case a.status/100 != 2:
		return false, &failure{reasonStatus, fmt.Sprintf("the answer has status %s", a.statusText()), a}
	case err != nil:
		return false, &failure{a.wrong(reasonExpectation), err.Error(), a}
	}
	return false, nil
}

// passes reports whether asking again may help.
func (f *failure) passes() bool {
	if f.answer != nil {
		return f.reason == reasonStatus && (f.answer.status >= 500 || f.answer.status == 429 || f.answer.status == 408)
	}
	return slices.Contains([]string{reasonConnect, reasonTimeout, reasonLost}, f.reason)
}

// next is the request that asks for the operation.
func (u *unit) next(req *request, a *answer) (*request, error) {
	text, trusted := u.set.Poll.URL, true
	for _, name := range []string{"Operation-Location", "Azure-AsyncOperation", "Location"} {
		if text == "" {
			text, trusted = a.header.Get(name), false
		}
	}
	if text == "" {
		return nil, &failure{reasonPoll, "the answer has neither Operation-Location nor Location; set poll.url", a}
	}
	to, err := a.url.Parse(text)
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" {
		return nil, &failure{reasonPoll, "what the answer names for the operation is no URL", a}
	}
	next := &request{method: nethttp.MethodGet, url: to, header: req.header.Clone(), step: req.step}
	next.header.Del("Content-Type")
	next.header.Del("Idempotency-Key")
	if !trusted && origin(to) != origin(req.url) {
		for _, name := range req.step {
			next.header.Del(name)
		}
	}
	return next, nil
}
