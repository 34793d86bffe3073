package inbound

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Deliveries is what reports go to. waybill.Deliveries has it.
type Deliveries interface {
	Report(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (waybill.ReportResult, error)
	Trace(ctx context.Context, partition, ref string) ([]waybill.Trace, error)
}

// Options of Inbound.
type Options struct {
	Store      store.Store
	Deliveries Deliveries
	Formats    []Format
	// Sources returns those that are set up, as they are now. A format without a source of
	// its name is a source by itself, opened by tokens of the server.
	Sources func() []Source
	Secret  func(ctx context.Context, name string) (string, error)
	Mask    func(string) string // takes secrets out of a text; nil changes nothing
	Now     func() time.Time    // nil is time.Now
	Logger  *slog.Logger
}

// Inbound takes in what is sent. It implements waybill.Ingest. Safe for concurrent use,
// also by several servers over one store.
type Inbound struct {
	o       Options
	formats map[string]Format
	turns   [64]sync.Mutex // of groups, by their keys
}

var _ waybill.Ingest = (*Inbound)(nil)

// New returns an Inbound over a store whose schema holds Tables.
func New(o Options) *Inbound {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Mask == nil {
		o.Mask = func(s string) string { return s }
	}
	in := &Inbound{o: o, formats: map[string]Format{}}
	for _, f := range o.Formats {
		in.formats[f.Name()] = f
	}
	return in
}

// MaxBody is how many bytes are taken in one request.
const MaxBody = 3 << 20

// maxNotes is how many reports one request can make.
const maxNotes = 1000

// keepBody is how many bytes of what was sent are kept.
const keepBody = 16 << 10

func (in *Inbound) source(name string) (Source, bool) {
	for _, s := range in.o.Sources() {
		if s.Name == name {
			return s, true
		}
	}
	_, ok := in.formats[name]
	return Source{Name: name, Format: name}, ok
}

func shown(s Source) waybill.IngestSource {
	out := waybill.IngestSource{Name: s.Name, Format: s.Format, Auth: "server", Partition: s.Partition, Cluster: s.Cluster, Ring: s.Ring, Stage: s.Stage}
	switch {
	case s.Secret != "" && s.Token != "":
		out.Auth = "signature and token"
	case s.Secret != "":
		out.Auth = "signature"
	case s.Token != "":
		out.Auth = "token"
	}
	return out
}

// IngestSource implements waybill.Ingest.
func (in *Inbound) IngestSource(_ context.Context, name string) (waybill.IngestSource, error) {
	s, ok := in.source(name)
	if !ok {
		return waybill.IngestSource{}, waybill.E(waybill.KindNotFound, "there is no source of deliveries %.80q", name).
			WithHint("sources are set up under deliveries.ingest of waybill.yaml")
	}
	return shown(s), nil
}

// IngestSources implements waybill.Ingest.
func (in *Inbound) IngestSources(context.Context) ([]waybill.IngestSource, error) {
	out := []waybill.IngestSource{}
	seen := map[string]bool{}
	for _, s := range in.o.Sources() {
		out, seen[s.Name] = append(out, shown(s)), true
	}
	for name := range in.formats {
		if !seen[name] {
			out = append(out, shown(Source{Name: name, Format: name}))
		}
	}
	slices.SortFunc(out, func(a, b waybill.IngestSource) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Ingest implements waybill.Ingest.
func (in *Inbound) Ingest(ctx context.Context, r waybill.IngestRequest) (waybill.Received, error) {
	src, ok := in.source(r.Source)
	format := in.formats[src.Format]
	if !ok || format == nil {
		_, err := in.IngestSource(ctx, r.Source)
		return waybill.Received{}, cmp.Or(err, error(waybill.E(waybill.KindUnavailable, "source %s has no format", src.Name)))
	}
	h := http.Header(r.Header)
	if err := in.verify(ctx, src, format, h, r.Body); err != nil {
		return waybill.Received{}, err
	}
	if len(r.Body) > MaxBody {
		return waybill.Received{}, waybill.E(waybill.KindTooLarge, "the body has %d bytes, at most %d are taken", len(r.Body), MaxBody)
	}
	now := in.o.Now().UTC().Truncate(time.Millisecond)
	p, err := format.Parse(Request{Source: src, Header: h, Body: r.Body, Now: now})
	if err != nil {
		return waybill.Received{}, err
	}
	if len(p.Notes) > maxNotes {
		return waybill.Received{}, waybill.E(waybill.KindTooLarge, "it tells of %d things at once, at most %d are taken", len(p.Notes), maxNotes)
	}
	id := p.ID
	if id == "" {
		sum := sha256.Sum256(r.Body)
		id = "body " + hex.EncodeToString(sum[:])
	}
	key := hashed(src.Name, id)
	if known, err := in.ReceivedOne(ctx, key); err == nil {
		known.Fresh, known.Body = false, ""
		return known, nil
	} else if !waybill.IsKind(err, waybill.KindNotFound) {
		return waybill.Received{}, err
	}
	out := waybill.Received{
		ID: key, Source: src.Name, Format: src.Format, At: now, Type: Clip(p.Type, 200), Subject: Clip(p.Subject, 500),
		Reports: []waybill.IngestReport{}, Reason: p.Reason, Fresh: true,
	}
	by := r.By
	if by.Name == "" {
		by.Name = "ingest " + src.Name
	}
	for i := range p.Notes {
		n := &p.Notes[i]
		n.Report.Partition = cmp.Or(src.Partition, n.Report.Partition)
		n.Report.Provider = cmp.Or(n.Report.Provider, src.Format)
		done, err := in.note(ctx, *n, by)
		if err != nil {
			return waybill.Received{}, err
		}
		out.Reports = append(out.Reports, done...)
	}
	if len(out.Reports) == 0 && out.Reason == "" {
		out.Reason = "it says what was known"
	}
	stored := out
	stored.Body = Clip(in.o.Mask(string(r.Body)), keepBody)
	val, err := json.Marshal(stored)
	if err != nil {
		return waybill.Received{}, err
	}
	err = in.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableReceived, Key: key, Val: val}}})
	if err != nil && !errors.Is(err, store.ErrConflict) { // conflict: the same came twice at once
		return waybill.Received{}, err
	}
	return out, nil
}

// note reports what was told, and what has to be told with it.
func (in *Inbound) note(ctx context.Context, n Note, by waybill.Principal) ([]waybill.IngestReport, error) {
	var out []waybill.IngestReport
	first, err := in.complete(ctx, &n, by)
	if err != nil {
		return nil, err
	}
	if first != nil {
		out = append(out, *first)
	}
	var done *waybill.IngestReport
	if n.Object != "" && n.Report.Kind == waybill.ReportSync {
		done, err = in.fold(ctx, n, by)
	} else {
		done, err = in.report(ctx, n.Report, by)
	}
	if err == nil && done != nil {
		out = append(out, *done)
	}
	return out, err
}

func (in *Inbound) report(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (*waybill.IngestReport, error) {
	res, err := in.o.Deliveries.Report(ctx, r, by)
	if err != nil {
		return nil, err
	}
	out := waybill.IngestReport{Event: res.Event, Kind: r.Kind, Action: res.Action, Warning: res.Warning, Deployments: []string{}}
	for _, d := range res.Deployments {
		out.Deployments = append(out.Deployments, d.ID)
	}
	return &out, nil
}

// verify checks signature and token, as far as the source has them. Who sends to one that has
// neither was let in by the server.
func (in *Inbound) verify(ctx context.Context, s Source, f Format, h http.Header, body []byte) error {
	for _, x := range []struct {
		ref, what string
		check     func(secret string) error
	}{
		{s.Token, "token", func(secret string) error { return VerifyToken(secret, bearer(h), "Authorization") }},
		{s.Secret, "secret", func(secret string) error { return f.Verify(secret, h, body) }},
	} {
		if x.ref == "" {
			continue
		}
		secret, err := in.expand(ctx, x.ref)
		if err != nil || secret == "" {
			// The sender cannot help it and must not learn more.
			in.o.Logger.Error("a source of deliveries has no "+x.what, "source", s.Name, "reference", x.ref, "err", err)
			return waybill.E(waybill.KindUnavailable, "the source cannot check who sends")
		}
		if err := x.check(secret); err != nil {
			return err
		}
	}
	return nil
}

var secretRef = regexp.MustCompile(`\$\{secret:([A-Za-z_][A-Za-z0-9_.-]*)\}`)

// expand puts the values of secrets in the place of references to them.
func (in *Inbound) expand(ctx context.Context, s string) (string, error) {
	var first error
	out := secretRef.ReplaceAllStringFunc(s, func(ref string) string {
		if in.o.Secret == nil {
			first = cmp.Or(first, error(waybill.E(waybill.KindNotFound, "there are no secrets")))
			return ""
		}
		v, err := in.o.Secret(ctx, secretRef.FindStringSubmatch(ref)[1])
		if err != nil && first == nil {
			first = err
		}
		return v
	})
	return out, first
}

// ReceivedOne implements waybill.Ingest.
func (in *Inbound) ReceivedOne(ctx context.Context, id string) (waybill.Received, error) {
	var r waybill.Received
	row, err := in.o.Store.Get(ctx, "", tableReceived, id)
	if errors.Is(err, store.ErrNotFound) {
		return r, waybill.E(waybill.KindNotFound, "nothing was received with id %.80q", id)
	}
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(row.Val, &r)
}

// ReceivedList implements waybill.Ingest.
func (in *Inbound) ReceivedList(ctx context.Context, source string, limit int, cursor string) (waybill.Page[waybill.Received], error) {
	q := store.Query{Table: tableReceived, Order: "at", Desc: true, Limit: cmp.Or(limit, 50), After: cursor}
	if source != "" {
		q.Where = []store.Where{{Column: "source", Op: store.Eq, Value: source}}
	}
	page, err := in.o.Store.Query(ctx, q)
	if err != nil {
		return waybill.Page[waybill.Received]{}, err
	}
	out := waybill.Page[waybill.Received]{Items: make([]waybill.Received, len(page.Rows)), Next: page.Next}
	for i, x := range page.Rows {
		if err := json.Unmarshal(x.Val, &out.Items[i]); err != nil {
			return out, err
		}
		out.Items[i].Body, out.Items[i].Fresh = "", true
	}
	return out, nil
}

// Sweep forgets what was received long ago.
func (in *Inbound) Sweep(ctx context.Context, now time.Time) error {
	for table, keep := range map[string]time.Duration{tableReceived: keepReceived, tableObjects: keepObjects} {
		for {
			page, err := in.o.Store.Query(ctx, store.Query{
				Table: table, Order: "at", Limit: 500,
				Where: []store.Where{{Column: "at", Op: store.Lt, Value: store.Millis(now.Add(-keep))}},
			})
			if err != nil {
				return err
			}
			if len(page.Rows) == 0 {
				break
			}
			c := &store.Commit{}
			for _, r := range page.Rows {
				c.Puts = append(c.Puts, store.Put{Table: table, Key: r.Key, Rev: store.AnyRev})
			}
			if err := in.o.Store.Commit(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func hashed(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}
