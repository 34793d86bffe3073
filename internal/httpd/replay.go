package httpd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
)

// replays answers repetitions of requests that carry an Idempotency-Key, for
// operations whose service does not remember keys itself. It lives in memory: a
// restart forgets, so a repetition after one is a new request. Failures are not
// kept. Safe for concurrent use.
type replays struct {
	now func() time.Time
	mu  sync.Mutex
	m   map[string]*replay
}

type replay struct {
	hash  [sha256.Size]byte
	ready chan struct{} // closed when value and err are set
	value any
	err   error
	at    time.Time
}

const (
	maxReplays = 10_000
	replayLife = 24 * time.Hour
)

func newReplays(now func() time.Time) *replays { return &replays{now: now, m: map[string]*replay{}} }

// once calls do, or returns what it returned for an earlier request of the same
// sender with the same key, path and body.
func (p *replays) once(r *http.Request, key string, body any, do func() (any, error)) (value any, replayed bool, err error) {
	if key == "" {
		value, err = do()
		return value, false, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, false, err
	}
	c := callOf(r)
	full := c.who.Tenant + "\x00" + c.who.Name + "\x00" + c.op.id + "\x00" + r.URL.Path + "\x00" + key
	hash := sha256.Sum256(text)
	e, mine := p.enter(full, hash)
	if mine {
		defer func() {
			// Also when do panics: nobody may wait for ever.
			if e.value == nil {
				p.mu.Lock()
				delete(p.m, full)
				p.mu.Unlock()
			}
			close(e.ready)
		}()
		v, err := do()
		if err != nil {
			e.err = err
			return nil, false, err
		}
		e.value = v
		return v, false, nil
	}
	if e.hash != hash {
		return nil, false, waybill.E(waybill.KindInvalid, "this Idempotency-Key was used for another request")
	}
	select {
	case <-e.ready:
	case <-r.Context().Done():
		return nil, false, context.Cause(r.Context())
	}
	if e.value == nil {
		return nil, false, e.failure()
	}
	return e.value, true, nil
}

func (e *replay) failure() error {
	if e.err != nil {
		return e.err
	}
	return waybill.E(waybill.KindUnavailable, "the first request with this Idempotency-Key did not end")
}

// enter returns the entry of a key and whether the caller has to fill it.
func (p *replays) enter(key string, hash [sha256.Size]byte) (e *replay, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if e, ok := p.m[key]; ok && now.Sub(e.at) < replayLife {
		return e, false
	}
	if len(p.m) >= maxReplays {
		oldest := ""
		for k, e := range p.m {
			if now.Sub(e.at) >= replayLife {
				delete(p.m, k)
			} else if oldest == "" || e.at.Before(p.m[oldest].at) {
				oldest = k
			}
		}
		if len(p.m) >= maxReplays {
			delete(p.m, oldest)
		}
	}
	e = &replay{hash: hash, ready: make(chan struct{}), at: now}
	p.m[key] = e
	return e, true
}
