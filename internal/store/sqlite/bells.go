package sqlite

import "sync"

// bells wakes waiting claimants and tails. Ringing never blocks.
type bells struct {
	mu     sync.Mutex
	topics map[string]map[chan struct{}]bool
}

// eventBell is the name under which tails listen; topics are never empty.
const eventBell = ""

func newBells() *bells { return &bells{topics: map[string]map[chan struct{}]bool{}} }

func (b *bells) listen(topic string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics[topic] == nil {
		b.topics[topic] = map[chan struct{}]bool{}
	}
	b.topics[topic][ch] = true
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.topics[topic], ch)
		if len(b.topics[topic]) == 0 {
			delete(b.topics, topic)
		}
	}
}

func (b *bells) ring(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.topics[topic] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
