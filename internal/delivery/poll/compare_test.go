package poll

import (
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
)

// Whoever wants to know what came of what is answered by the provider that has the
// repository, with its limits.
func TestAncestor(t *testing.T) {
	b := newBench(t)
	w := b.github()
	w.Order = []string{digest("a"), digest("b")}
	b.source("lab", provider.GitLab, providertest.NewWorld("group/app"), func(s *Source) { s.Partitions = []string{"harbour"} })
	b.start()
	repo := b.hosts["hub"] + "/acme/app.git"
	if ok, err := b.p.Ancestor(t.Context(), repo, digest("a"), digest("b")); err != nil || !ok {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := b.p.Ancestor(t.Context(), repo, digest("b"), digest("a")); err != nil || ok {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := b.p.Ancestor(t.Context(), "https://nowhere.example.com/a/b", "aaaaaaa", "bbbbbbb"); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Error(err)
	}
	if b.p.Covers("") || !b.p.Covers(repo) || !b.p.Covers(b.hosts["lab"]+"/group/app") || b.p.Covers("nonsense") {
		t.Error("covered are the repositories of the sources, and nothing else")
	}
}
