package queue

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

var _ waybill.QueueDumps = (*Admin)(nil)

// The kinds of lines.
const (
	lineMessage = "message"
	lineDead    = "dead"
)

// Limits of a feed, which is read and checked before anything is done.
const (
	feedLine  = 16 << 20  // bytes of a line
	feedBytes = 512 << 20 // bytes of all lines
	feedWrong = 50        // wrong lines that are told
	feedBatch = 100       // lines in one commit
)

// tableFed holds the ids of lines that were fed. Key: topic/id of a message,
// topic/id/dead of a dead letter.
const tableFed = "fed"

// Tables are the descriptors of the package's tables.
func Tables() store.Schema { return store.Schema{{Name: tableFed, Version: 1}} }

// LineError is what is wrong with one line of a feed.
type LineError struct {
	Line int
	Msg  string
}

// LineErrors are the wrong lines of a feed.
type LineErrors []LineError

// Error tells each on a line of its own.
func (e LineErrors) Error() string {
	var b strings.Builder
	for i, l := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "line %d: %s", l.Line, l.Msg)
	}
	return b.String()
}

// messageID is the same for one message at all times, and another one for every
// other message, also of other servers.
func messageID(m *store.QueuedMsg) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %d %d\n", m.Tenant, m.Topic, m.Key, m.Seq, m.SentAt.UnixMicro())
	h.Write(m.Body)
	return "m" + hex.EncodeToString(h.Sum(nil)[:15])
}

// Dump implements waybill.QueueDumps.
func (a *Admin) Dump(ctx context.Context, topic string, w io.Writer) error {
	if err := a.known(ctx, topic); err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := a.eachWaiting(ctx, topic, func(m *store.QueuedMsg) error {
		l := waybill.QueueLine{
			Kind: lineMessage, ID: messageID(m), Topic: topic, Key: m.Key, Priority: m.Priority, Attempt: m.Attempt, Fails: m.Fails, SentAt: m.SentAt, Leased: m.Leased,
		}
		if !m.Leased && m.ReadyAt.After(a.store.Now()) {
			l.ReadyAt = m.ReadyAt
		}
		setBody(&l, m.Body)
		return enc.Encode(l)
	}); err != nil {
		return err
	}
	if err := a.eachDead(ctx, topic, func(r store.Row) error {
		var d store.DeadLetter
		if err := json.Unmarshal(r.Val, &d); err != nil {
			return err
		}
		l := waybill.QueueLine{
			Kind: lineDead, ID: strings.TrimPrefix(r.Key, topic+"/"), Topic: topic, Key: d.Key, Priority: d.Priority, Attempt: d.Attempt, Fails: d.Fails,
			SentAt: d.SentAt, Reason: d.Reason, DeadAt: d.DeadAt,
		}
		setBody(&l, d.Body)
		return enc.Encode(l)
	}); err != nil {
		return err
	}
	return out.Flush()
}

func (a *Admin) eachWaiting(ctx context.Context, topic string, f func(*store.QueuedMsg) error) error {
	for after := ""; ; {
		msgs, next, err := a.store.Peek(ctx, "", topic, after, 1000)
		if err != nil {
			return err
		}
		for i := range msgs {
			if err := f(&msgs[i]); err != nil {
				return err
			}
		}
		if after = next; after == "" {
			return nil
		}
	}
}

func setBody(l *waybill.QueueLine, body []byte) {
	if utf8.Valid(body) {
		l.Body = string(body)
	} else {
		l.Base64 = base64.StdEncoding.EncodeToString(body)
	}
}

// line is a line of a feed that was checked.
type line struct {
	waybill.QueueLine
	body []byte
}

// Feed implements waybill.QueueDumps. Lines of one lane stay in their order; a feed
// that breaks off has fed the lines before some line.
func (a *Admin) Feed(ctx context.Context, topic string, r io.Reader, dry bool, _ waybill.Principal) (waybill.FeedResult, error) {
	var res waybill.FeedResult
	if err := a.known(ctx, topic); err != nil {
		return res, err
	}
	lines, err := readLines(ctx, topic, r)
	if err != nil {
		return res, err
	}
	// What still waits is not sent once more.
	waiting := map[string]bool{}
	if err := a.eachWaiting(ctx, topic, func(m *store.QueuedMsg) error {
		waiting[messageID(m)] = true
		return nil
	}); err != nil {
		return res, err
	}
	for len(lines) > 0 {
		n := min(len(lines), feedBatch)
		if err := a.feed(ctx, topic, lines[:n], waiting, dry, &res); err != nil {
			return res, err
		}
		lines = lines[n:]
	}
	return res, nil
}

func readLines(ctx context.Context, topic string, r io.Reader) ([]line, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var lines []line
	var wrong LineErrors
	ids := map[string]int{}
	total := 0
	for n := 1; len(wrong) < feedWrong; n++ {
		text, err := readLine(in)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if total += len(text); total > feedBytes {
			return nil, waybill.E(waybill.KindTooLarge, "the lines have more than %d bytes", feedBytes).WithHint("feed them in parts, in their order")
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		l, err := checkLine(topic, text)
		if first, twice := ids[l.ID]; err == nil && twice {
			err = fmt.Errorf("id %q is that of line %d", l.ID, first)
		}
		if err != nil {
			wrong = append(wrong, LineError{n, err.Error()})
			continue
		}
		ids[l.ID] = n
		lines = append(lines, l)
	}
	if len(wrong) > 0 {
		e := waybill.E(waybill.KindInvalid, "%w", wrong).WithHint("nothing was done; correct the lines and feed all of them again")
		return nil, e
	}
	return lines, nil
}

// readLine reads a line with or without its end; io.EOF when there is none.
func readLine(in *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		text = append(text, part...)
		switch {
		case len(text) > feedLine:
			return nil, waybill.E(waybill.KindTooLarge, "a line has more than %d bytes", feedLine)
		case err == bufio.ErrBufferFull:
		case err == io.EOF && len(text) > 0:
			return text, nil
		default:
			return text, err
		}
	}
}

func checkLine(topic string, text []byte) (line, error) {
	var l line
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l.QueueLine); err != nil {
		return l, fmt.Errorf("it is not a line of a dump: %w", err)
	}
	if dec.More() {
		return l, errors.New("something follows its JSON")
	}
	switch {
	case l.Kind != lineMessage && l.Kind != lineDead:
		return l, fmt.Errorf("kind %q, want %q or %q", l.Kind, lineMessage, lineDead)
	case l.Topic != topic:
		return l, fmt.Errorf("topic %q, and the feed is for %q", l.Topic, topic)
	case l.ID == "" || len(l.ID) > 200 || strings.ContainsAny(l.ID, "/\x00"):
		return l, fmt.Errorf("id %q, want 1 to 200 bytes without /", l.ID)
	case l.Key == "" || len(l.Key) > 2000 || strings.ContainsRune(l.Key, 0):
		return l, errors.New("no key, or one that is too long")
	case l.Body != "" && l.Base64 != "":
		return l, errors.New("both body and body_base64")
	case l.Priority < -1000 || l.Priority > 1000:
		return l, fmt.Errorf("priority %d, want -1000 to 1000", l.Priority)
	}
	l.body = []byte(l.Body)
	if l.Base64 != "" {
		var err error
		if l.body, err = base64.StdEncoding.DecodeString(l.Base64); err != nil {
			return l, fmt.Errorf("body_base64: %w", err)
		}
	}
	return l, nil
}

// feed puts a few lines in, in one commit.
func (a *Admin) feed(ctx context.Context, topic string, lines []line, waiting map[string]bool, dry bool, res *waybill.FeedResult) error {
	for try := 0; ; try++ {
		c := &store.Commit{}
		var now waybill.FeedResult
		for i := range lines {
			if err := a.one(ctx, topic, &lines[i], waiting, c, &now); err != nil {
				return err
			}
		}
		if !dry && len(c.Puts) > 0 {
			err := a.store.Commit(ctx, c)
			if errors.Is(err, store.ErrConflict) && try < 20 {
				continue // somebody feeds the same, or a dead letter was sent again meanwhile
			}
			if err != nil {
				return err
			}
		}
		res.Sent, res.Buried, res.Changed, res.Skipped = res.Sent+now.Sent, res.Buried+now.Buried, res.Changed+now.Changed, res.Skipped+now.Skipped
		return nil
	}
}

func (a *Admin) one(ctx context.Context, topic string, l *line, waiting map[string]bool, c *store.Commit, res *waybill.FeedResult) error {
	place := topic + "/" + l.ID
	ledger := place
	if l.Kind == lineDead {
		ledger += "/dead" // what was buried may be sent as a message later
	}
	_, err := a.store.Get(ctx, "", tableFed, ledger)
	fed := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if l.Kind == lineMessage && fed || waiting[l.ID] {
		res.Skipped++
		return nil
	}
	dead, derr := a.store.Get(ctx, "", store.DeadTable, place)
	if derr != nil && !errors.Is(derr, store.ErrNotFound) {
		return derr
	}
	now := a.store.Now()
	mark, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if l.Kind == lineMessage {
		c.Puts = append(c.Puts, store.Put{Table: tableFed, Key: ledger, Val: mark})
		if derr == nil {
			c.Puts = append(c.Puts, store.Put{Table: store.DeadTable, Key: place, Rev: dead.Rev})
		}
		delay := time.Duration(0)
		if !l.ReadyAt.IsZero() {
			delay = max(0, l.ReadyAt.Sub(now))
		}
		c.Sends = append(c.Sends, store.Send{Topic: topic, Key: l.Key, Body: l.body, Priority: l.Priority, Delay: delay})
		res.Sent++
		return nil
	}
	if fed && derr != nil { // it was sent again, or purged, since
		res.Skipped++
		return nil
	}
	d := store.DeadLetter{
		Topic: topic, Key: l.Key, Body: l.body, Reason: l.Reason, Attempt: l.Attempt, Fails: l.Fails, Priority: l.Priority, SentAt: l.SentAt, DeadAt: l.DeadAt,
	}
	if d.SentAt.IsZero() {
		d.SentAt = now
	}
	if d.DeadAt.IsZero() {
		d.DeadAt = now
	}
	val, err := json.Marshal(d)
	if err != nil {
		return err
	}
	put := store.Put{Table: store.DeadTable, Key: place, Val: val}
	if derr == nil {
		if bytes.Equal(dead.Val, val) {
			res.Skipped++
			return nil
		}
		put.Rev = dead.Rev
		res.Changed++
	} else {
		res.Buried++
	}
	if !fed {
		c.Puts = append(c.Puts, store.Put{Table: tableFed, Key: ledger, Val: mark})
	}
	c.Puts = append(c.Puts, put)
	return nil
}
