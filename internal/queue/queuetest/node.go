package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// node is the store as one server sees it: it can be cut off, as by the server's
// death, and its commits can be made to fail. It keeps the book of leases that
// all nodes share, if there is one.
type node struct {
	store.Store
	book *book

	mu     sync.Mutex
	dead   bool
	faults []fault // of the next commits
}

// fault is what becomes of a commit.
type fault int

const (
	sound  fault = iota
	before       // fails, and nothing was written
	after        // is made, and the answer is lost
	late         // is made, and the answer comes when the leases have been renewed
)

var errCut = waybill.E(waybill.KindUnavailable, "the connection was cut")

func (e *env) node() *node { return &node{Store: e.Store} }

// cut makes every call fail from now on: for the world, the server is dead.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead = true
}

func (n *node) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead, n.faults = false, nil
}

// fail decides over the next commits.
func (n *node) fail(f ...fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = append(n.faults, f...)
}

func (n *node) isCut() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return errCut
	}
	return nil
}

func (n *node) Commit(ctx context.Context, c *store.Commit) error {
	if err := n.isCut(); err != nil {
		return err
	}
	n.mu.Lock()
	f := sound
	if len(n.faults) > 0 {
		f, n.faults = n.faults[0], n.faults[1:]
	}
	n.mu.Unlock()
	if f == before {
		return errCut
	}
	commit := func() error { return n.Store.Commit(ctx, c) }
	err := n.book.commit(c, commit)
	switch f {
	case after:
		return errCut
	case late:
		time.Sleep(lease / 2)
	}
	return err
}

func (n *node) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	if err := n.isCut(); err != nil {
		return store.Claimed{}, err
	}
	return n.book.claim(r, func() (store.Claimed, error) { return n.Store.Claim(ctx, r) })
}

func (n *node) Extend(ctx context.Context, msgs []*store.Msg, d time.Duration) ([]*store.Msg, error) {
	if err := n.isCut(); err != nil {
		return nil, err
	}
	return n.book.extend(msgs, d, func() ([]*store.Msg, error) { return n.Store.Extend(ctx, msgs, d) })
}

func (n *node) Get(ctx context.Context, tenant, table, key string) (store.Row, error) {
	if err := n.isCut(); err != nil {
		return store.Row{}, err
	}
	return n.Store.Get(ctx, tenant, table, key)
}

// book checks that no lane is held by two claims at once. It makes the calls of
// all nodes one after another, for only then is its order that of the store.
type book struct {
	mu     sync.Mutex
	held   map[string]*hold // by key of the lane
	broken []error
}

type hold struct {
	token, owner string
	until        time.Time
	left         int
}

func newBook() *book { return &book{held: map[string]*hold{}} }

func (b *book) claim(r store.ClaimRequest, call func() (store.Claimed, error)) (store.Claimed, error) {
	if b == nil {
		return call()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	got, err := call()
	now := time.Now()
	for i := 0; i < len(got.Msgs); {
		m := got.Msgs[i]
		n := 0
		for ; i < len(got.Msgs) && got.Msgs[i].Key == m.Key; i++ {
			n++
		}
		if h := b.held[m.Key]; h != nil && h.until.After(now) && !(r.Reclaim && h.owner == r.Owner) {
			b.broken = append(b.broken, fmt.Errorf("%s claimed lane %s, which %s held until %s", r.Owner, m.Key, h.owner, h.until))
		}
		b.held[m.Key] = &hold{m.Token, r.Owner, now.Add(r.Lease), n}
	}
	return got, err
}

func (b *book) commit(c *store.Commit, call func() error) error {
	if b == nil {
		return call()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	err := call()
	if err != nil {
		return err
	}
	for _, m := range []*store.Msg{c.Done, c.Dead, c.Retry, c.Yield} {
		if m == nil {
			continue
		}
		h := b.held[m.Key]
		if h == nil || h.token != m.Token {
			b.broken = append(b.broken, fmt.Errorf("message %s was ended by a claim that had lost its lane", m.Body))
			continue
		}
		if h.left--; h.left == 0 || m == c.Retry || m == c.Yield {
			delete(b.held, m.Key)
		}
	}
	return nil
}

func (b *book) extend(msgs []*store.Msg, d time.Duration, call func() ([]*store.Msg, error)) ([]*store.Msg, error) {
	if b == nil {
		return call()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	lost, err := call()
	if err != nil {
		return lost, err
	}
	gone := map[*store.Msg]bool{}
	for _, m := range lost {
		gone[m] = true
	}
	for _, m := range msgs {
		if h := b.held[m.Key]; h != nil && h.token == m.Token && !gone[m] {
			h.until = time.Now().Add(d)
		}
	}
	return lost, nil
}

func (b *book) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.broken...)
}
