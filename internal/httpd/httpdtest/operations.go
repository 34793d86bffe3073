package httpdtest

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/waybill-run/waybill"
)

type operations struct{ *World }

// Backup writes a text instead of an archive: which keys were asked for, and
// whether the content "a"×64 is left out.
func (w operations) Backup(_ context.Context, o waybill.BackupOptions, out io.Writer) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if o.Keys != "none" && o.Keys != "plain" {
		return waybill.E(waybill.KindInvalid, "keys %q: want none, plain or a recipient of age", o.Keys)
	}
	_, err = fmt.Fprintf(out, "archive keys=%s project=%t left out=%t", o.Keys, o.Project, o.Has(strings.Repeat("a", 64)))
	return err
}

func (w operations) Doctor(_ context.Context, deep bool) ([]waybill.Finding, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := []waybill.Finding{{Check: "store.integrity", Status: waybill.FindingOK, Detail: "ok"}}
	if deep {
		out = append(out, waybill.Finding{Check: "blobs.missing", Status: waybill.FindingFail, Detail: "1 is missing", Hint: "restore it"})
	}
	return out, nil
}

type dumps struct{ *World }

func (w dumps) Dump(_ context.Context, topic string, out io.Writer) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := (queues{w.World}).topic(topic); err != nil {
		return err
	}
	for i, m := range w.Waiting[topic] {
		if _, err := fmt.Fprintf(out, `{"kind":"message","id":"m%d","topic":%q,"key":%q,"body":%q}`+"\n", i+1, topic, m.Key, m.Body); err != nil {
			return err
		}
	}
	return nil
}

// Feed takes lines that begin with a brace.
func (w dumps) Feed(_ context.Context, topic string, r io.Reader, dry bool, _ waybill.Principal) (waybill.FeedResult, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return waybill.FeedResult{}, err
	}
	unlock, err := w.lock()
	if err != nil {
		return waybill.FeedResult{}, err
	}
	defer unlock()
	if _, err := (queues{w.World}).topic(topic); err != nil {
		return waybill.FeedResult{}, err
	}
	var res waybill.FeedResult
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if !strings.HasPrefix(line, "{") {
			return waybill.FeedResult{}, waybill.E(waybill.KindInvalid, "line %d: it is not a line of a dump", n)
		}
		res.Sent++
	}
	if !dry {
		for range n {
			w.Waiting[topic] = append(w.Waiting[topic], waybill.QueueMessage{Topic: topic, Key: "fed"})
		}
	}
	return res, nil
}
