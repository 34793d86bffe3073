package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/store"
)

const (
	batch    = 200 // rows that are read at once
	parallel = 4   // objects that are read at once
)

// take makes objects of what has settled. An error that is not about one object
// ends it; what was not taken stays pending.
func (s *session) take(ctx context.Context) error {
	for _, st := range []string{statePending, stateFailed} {
		for {
			rows, err := s.w.due(ctx, s.conf.Name, st, s.now(), batch)
			if err != nil {
				return err
			}
			taken, err := s.takeAll(ctx, rows)
			if s.st.Taken += taken; taken > 0 {
				if serr := s.save(ctx); err == nil {
					err = serr
				}
			}
			if err != nil {
				return err
			}
			if len(rows) < batch {
				break
			}
		}
	}
	return nil
}

// takeAll takes some at a time and counts them.
func (s *session) takeAll(ctx context.Context, rows []*seen) (taken int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, r := range rows {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			ok, err := s.takeOne(ctx, r)
			if err != nil {
				cancel(err)
			}
			if ok {
				mu.Lock()
				taken++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return taken, context.Cause(ctx)
}

// takeOne puts the version of a row as an object, or says in the row why not.
func (s *session) takeOne(ctx context.Context, r *seen) (taken bool, err error) {
	o, err := s.put(ctx, r)
	now := s.now().UTC()
	var events []store.Event
	switch kind := waybill.KindOf(err); {
	case err == nil:
		fault.At("watch.put")
		r.State, r.Took, r.Object, r.Due = stateTaken, r.Version, o.Version, time.Time{}
		r.Reason, r.Error, r.Fails = "", "", 0
		if s.conf.Delete || s.conf.MoveTo != "" {
			r.State, r.Due = stateFinishing, now
		}
		taken = true
	case kind == waybill.KindNotFound:
		r.State, r.Reason, r.Error, r.Due = stateSkipped, reasonGone, "it was deleted before it was read", now.Add(remember)
	case kind == waybill.KindConflict:
		// It has changed: it has to settle again.
		e, serr := s.b.Stat(ctx, r.Key)
		if serr != nil || e.Version == r.Version {
			r.Due = now.Add(max(s.conf.Settle, time.Second))
			break
		}
		r.row = seenKey(s.conf.Name, r.Key)
		c := &store.Commit{}
		if _, err := s.observe(ctx, c, r, e); err != nil {
			return false, err
		}
		return false, s.w.o.Store.Commit(ctx, c)
	case kind == waybill.KindTooLarge:
		r.State, r.Reason, r.Error, r.Due = stateSkipped, reasonTooLarge, err.Error(), time.Time{}
	case passing(err) || ctx.Err() != nil:
		return false, err // of all objects, or of our own store
	default:
		r.Fails++
		r.State, r.Reason, r.Error, r.Due = stateFailed, reasonRead, err.Error(), now.Add(backoff(r.Fails+3))
	}
	r.At = now
	if r.State == stateSkipped {
		ev, err := r.skipped(now)
		if err != nil {
			return false, err
		}
		events = append(events, ev)
	}
	p, err := r.put()
	if err != nil {
		return false, err
	}
	return taken, s.w.o.Store.Commit(context.WithoutCancel(ctx), &store.Commit{Puts: []store.Put{p}, Events: events})
}

// put reads a version and makes an object of it.
func (s *session) put(ctx context.Context, r *seen) (waybill.Object, error) {
	again := ""
	for attempt := true; ; {
		e, content, err := s.b.Open(ctx, r.Key, r.Version)
		if err != nil {
			return waybill.Object{}, err
		}
		by := waybill.Principal{Name: "bucket " + s.conf.Name, Role: waybill.RoleOperator}
		if attempt && plausible(e.Attempt) {
			by.Attempt = e.Attempt
		}
		sum := sha256.Sum256([]byte(Redact(s.conf.URL) + "\x00" + r.Version))
		o, err := s.w.o.Objects.PutObject(ctx, waybill.Object{
			Bucket: s.conf.Name, Key: r.Key, Size: e.Size, ContentType: sane(e.ContentType),
		}, &bounded{r: content, left: s.conf.MaxSize, limit: s.conf.MaxSize}, "watch/"+hex.EncodeToString(sum[:16])+again, by)
		_ = content.Close() // it was only read
		switch {
		case err != nil && by.Attempt != "" && waybill.IsKind(err, waybill.KindNotFound):
			attempt = false // the object names a run that is not of this server
		case waybill.IsKind(err, waybill.KindInvalid) && again == "":
			// The version was put before and holds something else now: its store tells too
			// little. What is there counts.
			again = "/" + waybill.NewID(s.now())
		default:
			return o, err
		}
	}
}

// plausible reports whether a text can be the key of an attempt: run, step and
// number.
func plausible(attempt string) bool {
	return len(attempt) < 300 && strings.Count(attempt, "/") == 2 && !strings.ContainsFunc(attempt, unicode.IsControl)
}

// sane is a content type as objects may have it.
func sane(contentType string) string {
	if len(contentType) > 255 || strings.ContainsFunc(contentType, unicode.IsControl) {
		return ""
	}
	return contentType
}

// bounded fails when there is more than the limit; 0 means none.
type bounded struct {
	r           io.Reader
	left, limit int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.limit > 0 && b.left < 0 {
		return n, waybill.E(waybill.KindTooLarge, "it has more than %d bytes", b.limit)
	}
	return n, err
}

// finish deals with the sources of what was taken. What fails is tried again and
// never taken a second time.
func (s *session) finish(ctx context.Context) error {
	for {
		rows, err := s.w.due(ctx, s.conf.Name, stateFinishing, s.now(), batch)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := s.finishOne(ctx, r); err != nil {
				return err
			}
		}
		if len(rows) < batch {
			return nil
		}
	}
}

func (s *session) finishOne(ctx context.Context, r *seen) error {
	fault.At("watch.finish")
	var err error
	switch {
	case s.conf.Delete:
		err = s.b.Delete(ctx, r.Key, r.Version)
	case s.conf.MoveTo != "":
		err = s.b.Move(ctx, r.Key, r.Version, s.conf.MoveTo+strings.TrimPrefix(r.Key, s.conf.Prefix))
	default:
		// The settings say now that it is kept.
		err = waybill.E(waybill.KindConflict, "it is kept")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := s.now().UTC()
	switch kind := waybill.KindOf(err); {
	case err == nil, kind == waybill.KindNotFound:
		r.State, r.Reason, r.Error, r.Fails, r.Due = stateGone, "", "", 0, now.Add(remember)
	case kind == waybill.KindConflict: // a new version is there, and stays
		r.State, r.Reason, r.Error, r.Fails, r.Due = stateTaken, "", "", 0, time.Time{}
	default:
		r.Fails++
		r.Reason, r.Error, r.Due = reasonFinish, err.Error(), now.Add(backoff(r.Fails))
	}
	r.At = now
	p, err := r.put()
	if err != nil {
		return err
	}
	return s.w.o.Store.Commit(context.WithoutCancel(ctx), &store.Commit{Puts: []store.Put{p}})
}

// forget deletes the rows of what is long gone.
func (s *session) forget(ctx context.Context) error {
	for _, st := range []string{stateGone, stateSkipped} {
		rows, err := s.w.due(ctx, s.conf.Name, st, s.now(), batch)
		if err != nil {
			return err
		}
		for _, r := range rows {
			err := s.w.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableSeen, Key: r.row, Rev: r.rev}}})
			if err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			if _, err := s.w.o.Objects.Object(ctx, s.conf.Name, r.Key, ""); waybill.IsKind(err, waybill.KindNotFound) {
				if err := s.w.o.Store.TrimEvents(ctx, "", []string{"object/" + s.conf.Name + "/" + r.Key}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
