package facetbench

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
)

// What is measured is comparable only as long as the data is the same. Who changes
// the generator changes this sum, and measures everything again.
func TestDocumentsAreTheSameEverywhere(t *testing.T) {
	t.Parallel()
	h := sha256.New()
	var line []byte
	for d := range Documents(20_000) {
		line = append(d.AppendJSON(line[:0]), '\n')
		h.Write(line)
	}
	const want = "12186ab5fc4d993c927c18c31bb3705e277871a3f4749d416254ccb36c5f8f44"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("the sum of the first 20,000 documents is %s, want %s", got, want)
	}
}

func TestDocumentsHaveTheShapeThatIsPromised(t *testing.T) {
	t.Parallel()
	const n = 100_000
	var values, bytes int
	var used [len(Fields)]map[uint32]bool
	for f := range used {
		used[f] = map[uint32]bool{}
	}
	names, ids := map[string]bool{}, map[string]bool{}
	var small, half int
	var line []byte
	for d := range Documents(n) {
		for f := range Fields {
			if len(d.Values[f]) > maxValues || !Fields[f].Multi() && len(d.Values[f]) > 1 || !slices.IsSorted(d.Values[f]) {
				t.Fatalf("document %d has the values %d in %s", d.Number, d.Values[f], Fields[f].Name)
			}
			for _, v := range d.Values[f] {
				values++
				used[f][v] = true
			}
		}
		if d.Numbers[Size] < SizeBelow(0.01) {
			small++
		}
		if d.Numbers[Size] < SizeBelow(0.5) {
			half++
		}
		names[d.Name], ids[d.ID] = true, true
		line = d.AppendJSON(line[:0])
		bytes += len(line)
		if d.Number%1000 == 0 && !json.Valid(line) {
			t.Fatalf("not JSON: %s", line)
		}
	}
	distinct, multi := 0, 0
	for f := range Fields {
		distinct += len(used[f])
		if Fields[f].Multi() {
			multi++
		}
	}
	t.Logf("%.1f values and %d bytes of JSON a document, %d distinct values, %d multi-valued fields", float64(values)/n, bytes/n, distinct, multi)
	if multi != 24 {
		t.Errorf("%d multi-valued fields, want 24", multi)
	}
	if v := float64(values) / n; v < 38 || v > 44 {
		t.Errorf("%.1f values a document, want about 41", v)
	}
	if b := bytes / n; b < 2200 || b > 2600 {
		t.Errorf("%d bytes of JSON a document, want about 2,400", b)
	}
	if len(names) != n || len(ids) != n {
		t.Errorf("%d names and %d ids of %d documents", len(names), len(ids), n)
	}
	if p := float64(small) / n; p < 0.009 || p > 0.011 {
		t.Errorf("%.3f of all sizes are below that of 1 %%", p)
	}
	if p := float64(half) / n; p < 0.49 || p > 0.51 {
		t.Errorf("%.3f of all sizes are below the median", p)
	}
}

func TestAFewDocumentsAreTheBeginningOfMany(t *testing.T) {
	t.Parallel()
	var few []string
	for d := range Documents(100) {
		few = append(few, string(d.AppendJSON(nil)))
	}
	for d := range Documents(1000) {
		if d.Number < 100 && string(d.AppendJSON(nil)) != few[d.Number] {
			t.Fatalf("document %d differs", d.Number)
		}
	}
}

func BenchmarkDocuments(b *testing.B) {
	var line []byte
	for d := range Documents(b.N) {
		line = d.AppendJSON(line[:0])
		b.SetBytes(int64(len(line)))
	}
}
