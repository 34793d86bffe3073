package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
)

// Transfer moves the whole content of a store in a form that no dialect shows:
// from one store into another, or into a file and back. Every [Store] has it.
type Transfer interface {
	// Export yields all that the store holds, as of one moment after the call; what
	// is committed meanwhile is left out whole. An error is yielded last. The order
	// is: Head first, then topics, rows, lanes (each followed by its messages),
	// events in the order of the log, and ids of commits. Commits go on meanwhile,
	// but a long export keeps the database from tidying up.
	Export(ctx context.Context) iter.Seq2[Item, error]
	// Import puts everything that items yields into a store that holds nothing:
	// all of it or, after an error, nothing. KindConflict: the store holds
	// something. KindInvalid: an item of a table that is not registered, or that
	// makes no sense. Nobody else may use the store meanwhile. Leases go along, so
	// that a node that comes back under its id takes up its own work.
	//
	// Events keep their cursors where the form of the cursors is the same, and from
	// sqlite to postgres; otherwise they keep their order.
	Import(ctx context.Context, items iter.Seq2[Item, error]) error
}

// Item is one piece of what a store holds; one member is set. Times are
// microseconds since 1970.
type Item struct {
	Head    *HeadItem    `json:"head,omitempty"`
	Topic   *TopicItem   `json:"topic,omitempty"`
	Row     *RowItem     `json:"row,omitempty"`
	Lane    *LaneItem    `json:"lane,omitempty"`
	Msg     *MsgItem     `json:"msg,omitempty"`
	Event   *EventItem   `json:"event,omitempty"`
	Applied *AppliedItem `json:"applied,omitempty"`
}

// HeadItem is the end of the event log: later events come after it, also when
// those before it were trimmed.
type HeadItem struct {
	Cursor Cursor `json:"cursor"`
}

// TopicItem is a topic that holds or has held messages of a tenant. With an empty
// tenant it says that the topic is paused.
type TopicItem struct {
	Tenant string `json:"tenant,omitempty"`
	Topic  string `json:"topic"`
	Paused bool   `json:"paused,omitempty"`
}

// RowItem is a row of a registered table.
type RowItem struct {
	Table  string `json:"table"`
	Tenant string `json:"tenant"`
	Key    string `json:"key"`
	Rev    int64  `json:"rev"`
	Val    []byte `json:"val"`
}

// LaneItem is a lane with its first message.
type LaneItem struct {
	Tenant  string `json:"tenant"`
	Topic   string `json:"topic"`
	Key     string `json:"key"`
	Ready   bool   `json:"ready,omitempty"` // since ReadyAt; otherwise it waits, or is leased, until then
	ReadyAt int64  `json:"ready_at"`
	Prio    int    `json:"prio,omitempty"`
	Token   string `json:"token,omitempty"`
	Owner   string `json:"owner,omitempty"`
	Attempt int    `json:"attempt,omitempty"`
	Fails   int    `json:"fails,omitempty"`
	N       int64  `json:"n"`    // messages
	Tail    int64  `json:"tail"` // number of the last one
	Held    int64  `json:"held,omitempty"`
	SentAt  int64  `json:"sent_at"`
	Body    []byte `json:"body"`
}

// MsgItem is a message behind the first of the lane that was yielded last.
type MsgItem struct {
	Seq    int64  `json:"seq"`
	SentAt int64  `json:"sent_at"`
	Due    int64  `json:"due,omitempty"` // not before; 0 is no such wish
	Body   []byte `json:"body"`
}

// EventItem is an event of the log.
type EventItem struct {
	Cursor  Cursor `json:"cursor"`
	Tenant  string `json:"tenant"`
	Subject string `json:"subject"`
	Kind    string `json:"kind"`
	At      int64  `json:"at"`
	Data    []byte `json:"data,omitempty"`
}

// AppliedItem is the id of a commit that may be repeated.
type AppliedItem struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
	At     int64  `json:"at"`
}

// Kind names what the item is, as Digest counts it: the table of a row, or
// ".lanes", ".messages", ".events", ".topics".
func (i *Item) Kind() string {
	switch {
	case i.Row != nil:
		return i.Row.Table
	case i.Lane != nil:
		return ".lanes"
	case i.Msg != nil:
		return ".messages"
	case i.Event != nil:
		return ".events"
	case i.Topic != nil:
		return ".topics"
	}
	return ""
}

// Check says what makes an item impossible, whatever the store.
func (i *Item) Check() error {
	set := 0
	for _, is := range []bool{i.Head != nil, i.Topic != nil, i.Row != nil, i.Lane != nil, i.Msg != nil, i.Event != nil, i.Applied != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return waybill.E(waybill.KindInvalid, "an item is %d things, want one", set)
	case i.Row != nil && (i.Row.Tenant == "" || i.Row.Key == "" || i.Row.Rev < 1 || i.Row.Val == nil):
		return waybill.E(waybill.KindInvalid, "a row of table %s without tenant, key, revision or value", i.Row.Table)
	case i.Lane != nil && (i.Lane.Tenant == "" || i.Lane.Topic == "" || i.Lane.Key == "" || i.Lane.N < 1 || i.Lane.Tail < i.Lane.N || i.Lane.Held > i.Lane.N):
		return waybill.E(waybill.KindInvalid, "a lane of topic %s without tenant, key or messages", i.Lane.Topic)
	case i.Topic != nil && (i.Topic.Topic == "" || i.Topic.Paused != (i.Topic.Tenant == "")):
		return waybill.E(waybill.KindInvalid, "a topic without name or tenant")
	case i.Event != nil && (i.Event.Tenant == "" || i.Event.Subject == ""):
		return waybill.E(waybill.KindInvalid, "an event without tenant or subject")
	case i.Applied != nil && (i.Applied.Tenant == "" || i.Applied.ID == ""):
		return waybill.E(waybill.KindInvalid, "the id of a commit without tenant or id")
	}
	return nil
}

// Order checks that messages follow their lanes and that none is missing. It is
// for those who import; call Next for every item and End after the last.
type Order struct {
	lane *LaneItem
	next int64
}

// Next checks an item against those before it.
func (o *Order) Next(i *Item) error {
	if err := i.Check(); err != nil {
		return err
	}
	if m := i.Msg; m != nil {
		if o.lane == nil || m.Seq != o.next {
			return waybill.E(waybill.KindInvalid, "message %d stands in the wrong place", m.Seq)
		}
		o.next++
		return nil
	}
	if err := o.End(); err != nil {
		return err
	}
	if o.lane = i.Lane; o.lane != nil {
		o.next = o.lane.Tail - o.lane.N + 2
	}
	return nil
}

// End checks that the last lane is whole.
func (o *Order) End() error {
	if o.lane != nil && o.next != o.lane.Tail+1 {
		return waybill.E(waybill.KindInvalid, "lane %s of topic %s has not all of its %d messages", o.lane.Key, o.lane.Topic, o.lane.N)
	}
	return nil
}

// Digest tells whether two stores hold the same: how many items of each kind, and
// a sum that does not depend on the order of rows and lanes, but on that of
// messages in their lanes and of events in the log. Cursors do not count, and ids of
// commits do not either: stores forget them by themselves.
type Digest struct {
	Counts map[string]int64 `json:"counts"`
	sum    [4]uint64

	lane string
}

// Add adds one item. Items are added in the order of Export.
func (d *Digest) Add(i Item) {
	kind := i.Kind()
	if kind == "" {
		return
	}
	if d.Counts == nil {
		d.Counts = map[string]int64{}
	}
	d.Counts[kind]++
	place := ""
	switch {
	case i.Lane != nil:
		d.lane = fmt.Sprintf("%q %q %q", i.Lane.Tenant, i.Lane.Topic, i.Lane.Key)
		l := *i.Lane
		l.Body = notNil(l.Body)
		i.Lane = &l
	case i.Msg != nil:
		place = d.lane
		m := *i.Msg
		m.Body = notNil(m.Body)
		i.Msg = &m
	case i.Event != nil:
		place = fmt.Sprint(d.Counts[kind])
		e := *i.Event
		e.Cursor = ""
		i.Event = &e
	}
	text, err := json.Marshal(i)
	if err != nil {
		panic(err) // texts, bytes and numbers always marshal
	}
	h := sha256.Sum256(append(append([]byte(place), '\n'), text...))
	for j := range d.sum {
		d.sum[j] += binary.BigEndian.Uint64(h[8*j:])
	}
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Sum is the sum in hexadecimal.
func (d *Digest) Sum() string {
	var b []byte
	for _, x := range d.sum {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return hex.EncodeToString(b)
}

// Items is how many items were added.
func (d *Digest) Items() int64 {
	var n int64
	for _, c := range d.Counts {
		n += c
	}
	return n
}

// Compare says how another digest differs from this one, or nothing.
func (d *Digest) Compare(o *Digest) error {
	var diff []string
	kinds := maps.Clone(d.Counts)
	if kinds == nil {
		kinds = map[string]int64{}
	}
	for k := range o.Counts {
		kinds[k] += 0
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		if a, b := d.Counts[k], o.Counts[k]; a != b {
			diff = append(diff, fmt.Sprintf("%s: %d against %d", k, a, b))
		}
	}
	switch {
	case len(diff) > 0:
		return fmt.Errorf("the contents differ: %v", diff)
	case d.sum != o.sum:
		return errors.New("the contents differ, though not in number")
	}
	return nil
}

// Digested adds every item that passes to a digest.
func Digested(items iter.Seq2[Item, error], d *Digest) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for i, err := range items {
			if err == nil {
				d.Add(i)
			}
			if !yield(i, err) {
				return
			}
		}
	}
}

// DigestOf reads a whole store.
func DigestOf(ctx context.Context, s Transfer) (*Digest, error) {
	d := &Digest{}
	for i, err := range s.Export(ctx) {
		if err != nil {
			return nil, err
		}
		d.Add(i)
	}
	return d, nil
}

// end is the last line of a written export; a text without it was cut off.
type end struct {
	End *struct {
		Counts map[string]int64 `json:"counts"`
		Sum    string           `json:"sum"`
	} `json:"end"`
}

// WriteItems writes items as lines of JSON, and a last line by which a reader
// sees that nothing is missing.
func WriteItems(w io.Writer, items iter.Seq2[Item, error]) (*Digest, error) {
	b := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	d := &Digest{Counts: map[string]int64{}}
	for i, err := range items {
		if err != nil {
			return nil, err
		}
		d.Add(i)
		if err := enc.Encode(i); err != nil {
			return nil, err
		}
	}
	var e end
	e.End = &struct {
		Counts map[string]int64 `json:"counts"`
		Sum    string           `json:"sum"`
	}{d.Counts, d.Sum()}
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	return d, b.Flush()
}

// ReadItems reads what WriteItems wrote. Text that is cut off or changed ends with
// an error.
func ReadItems(r io.Reader) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var d Digest
		fail := func(line int64, err error) {
			yield(Item{}, waybill.E(waybill.KindInvalid, "line %d of the content of the store: %w", line, err))
		}
		for line := int64(1); ; line++ {
			text, err := in.ReadBytes('\n')
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				fail(line, err)
				return
			}
			var e end
			if bytes.HasPrefix(text, []byte(`{"end":`)) {
				if err := json.Unmarshal(text, &e); err != nil || e.End == nil {
					fail(line, errors.New("it is damaged"))
					return
				}
				if e.End.Sum != d.Sum() || !maps.Equal(e.End.Counts, nonNil(d.Counts)) {
					fail(line, errors.New("the content differs from its checksum"))
				}
				return
			}
			var i Item
			if err := json.Unmarshal(text, &i); err != nil {
				fail(line, err)
				return
			}
			d.Add(i)
			if !yield(i, nil) {
				return
			}
		}
	}
}

func nonNil(m map[string]int64) map[string]int64 {
	if m == nil {
		return map[string]int64{}
	}
	return m
}

// Status and Finding are what a look at a store tells.
type (
	Status  = waybill.FindingStatus
	Finding = waybill.Finding
)

// The statuses of a finding.
const (
	OK   = waybill.FindingOK
	Warn = waybill.FindingWarn
	Fail = waybill.FindingFail
)

// Examiner is a store that can tell how it is: every [Store] of a database.
type Examiner interface {
	// Examine looks for damage and for settings that endanger what is stored. With
	// deep it reads everything, which may take long; commits go on.
	Examine(ctx context.Context, deep bool) []Finding
}

// Snapshotter is a store in a file that can copy itself into another file while
// commits go on.
type Snapshotter interface {
	// Snapshot writes the store, as of a moment before it returns, into a new file
	// that can be opened as a store. Each pause of commits is short. On error the
	// file is removed. The durations say how long commits had to wait for it.
	Snapshot(ctx context.Context, path string) (SnapshotStat, error)
}

// SnapshotStat tells what a snapshot cost.
type SnapshotStat struct {
	Bytes   int64         `json:"bytes"`
	Steps   int           `json:"steps"`
	Longest time.Duration `json:"longest_ns"` // pause of commits
	Total   time.Duration `json:"total_ns"`   // of all pauses
}
