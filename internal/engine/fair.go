package engine

import (
	"sync"
	"time"
)

// fairness decides in which order the units of different pipelines begin when more are
// wanted than there are slots for. It is start-time fair queueing (Goyal, Vin and Cheng,
// 1996): every unit gets a tag in virtual time, its pipeline's last tag plus one step, but
// not less than the tag of the unit that began last; units begin in the order of their
// tags. A pipeline that wants one unit therefore waits for one unit of each other
// pipeline, not for ten thousand of one.
//
// Virtual time is near real time when nothing waits, so that tags of several servers, and
// those of a server that was started again, can be compared. Safe for concurrent use.
type fairness struct {
	mu     sync.Mutex
	topics map[string]*fairTopic
}

type fairTopic struct {
	virtual int64            // tag of the unit that began last, in microseconds
	queued  int              // units of this node that have a tag and have not begun
	last    map[string]int64 // tag of each pipeline's last unit
}

// fairStep is the virtual length of a unit. Only its being the same for all matters.
const fairStep = int64(10 * time.Millisecond / time.Microsecond)

// placed is where a unit stands.
type placed struct {
	tag int64         // in virtual time
	by  time.Duration // behind one that would begin at once; negative is before it
}

func (f *fairness) topic(name string) *fairTopic {
	if f.topics == nil {
		f.topics = map[string]*fairTopic{}
	}
	t := f.topics[name]
	if t == nil {
		t = &fairTopic{last: map[string]int64{}}
		f.topics[name] = t
	}
	return t
}

// place gives the next unit of a pipeline its tag.
func (f *fairness) place(topic, pipeline string, now time.Time) placed {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topic(topic)
	real := now.UnixMicro()
	if t.queued == 0 {
		t.virtual = real // nothing waits: virtual time catches up, or falls back
		clear(t.last)
	}
	tag := max(t.virtual, t.last[pipeline]+fairStep)
	t.last[pipeline] = tag
	t.queued++
	return placed{tag, time.Duration(tag-real) * time.Microsecond}
}

// began tells that a unit with a tag begins.
func (f *fairness) began(topic string, tag int64) {
	if tag == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topic(topic)
	t.queued = max(t.queued-1, 0)
	t.virtual = max(t.virtual, tag)
}
