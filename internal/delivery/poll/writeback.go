package poll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// Writeback writes what becomes of deployments back to the providers of their source, for
// those whose settings ask for it. It is an outbound.Sink.
type Writeback struct{ p *Poller }

var _ outbound.Sink = (*Writeback)(nil)

// Writeback is the sink of the poller's sources.
func (p *Poller) Writeback() *Writeback { return &Writeback{p} }

// Name implements outbound.Sink.
func (*Writeback) Name() string { return "status" }

// update is the body of a message.
type update struct {
	Source      string                   `json:"source"`
	Repo        string                   `json:"repo"`
	Partition   string                   `json:"partition"`
	Commit      string                   `json:"commit"`
	Ring        string                   `json:"ring"`
	State       waybill.DeploymentStatus `json:"state"`
	Description string                   `json:"description"`
	URL         string                   `json:"url,omitempty"`
}

// Plan implements outbound.Sink: a message for each state of a deployment that a ring has
// taken, and of which the source commit is known.
func (w *Writeback) Plan(_ context.Context, c outbound.Change) ([]outbound.Message, error) {
	conf, _ := w.p.config()
	on := false
	for _, s := range conf.Sources {
		on = on || s.Status != ""
	}
	if !on {
		return nil, nil
	}
	res := newResolver(conf)
	var out []outbound.Message
	for i := range c.Deployments {
		d := &c.Deployments[i]
		if d.Ring == "" || !provider.IsCommit(d.Commit) {
			continue
		}
		at := res.of(d, sourceRole)
		if at == nil || at.src.Status == "" {
			continue
		}
		body, err := json.Marshal(update{
			Source: at.src.Name, Repo: at.text, Partition: d.Partition, Commit: d.Commit, Ring: d.Ring, State: d.Status, Description: d.Reason, URL: newest(d),
		})
		if err != nil {
			return nil, err
		}
		// The reason names the run: a second attempt is another thing to tell.
		sum := sha256.Sum256([]byte(d.ID + "\x00" + string(d.Status) + "\x00" + d.Reason))
		out = append(out, outbound.Message{ID: hex.EncodeToString(sum[:16]), Lane: d.ID, Body: body})
	}
	return out, nil
}

// newest is the page of the last run of the last stage that has one.
func newest(d *waybill.Deployment) string {
	for _, s := range []*waybill.DeploymentStage{d.Manifest, d.Config, d.Build} {
		if r := s.Last(); r != nil && r.URL != "" {
			return r.URL
		}
	}
	return ""
}

// Send implements outbound.Sink.
func (w *Writeback) Send(ctx context.Context, m outbound.Message) error {
	var u update
	if err := json.Unmarshal(m.Body, &u); err != nil {
		return waybill.E(waybill.KindMalformed, "it cannot be read: %w", err)
	}
	p, src, err := w.p.Provider(u.Source)
	if waybill.IsKind(err, waybill.KindNotFound) || err == nil && src.Status == "" {
		return nil // it is not wanted any more
	}
	if err != nil {
		return err
	}
	conf, _ := w.p.config()
	at := newResolver(conf).repo(u.Partition, u.Repo)
	if at == nil || at.src.Name != u.Source {
		return nil
	}
	commit := u.Commit
	if len(commit) < 40 {
		c, err := p.Commit(ctx, at.repo, commit)
		if err != nil {
			return final(err)
		}
		commit = c.ID
	}
	return final(p.SetStatus(ctx, at.repo, provider.StatusUpdate{
		Commit: commit, Name: "waybill/" + u.Ring, Environment: u.Ring, State: u.State, Description: u.Description, URL: u.URL, Deployment: src.Status == "deployment",
	}))
}

// final tells what will be refused the next time as well.
func final(err error) error {
	if waybill.IsKind(err, waybill.KindUnsupported) || waybill.IsKind(err, waybill.KindConflict) {
		return waybill.E(waybill.KindInvalid, "%w", err)
	}
	return err
}
