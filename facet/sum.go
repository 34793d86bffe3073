package facet

import (
	"cmp"
	"math/big"
	"math/bits"
	"strings"
)

// Sum adds up values of integer or number fields the way that all indexes do. The zero Sum has nothing in it.
type Sum struct {
	any    bool
	float  bool
	f      float64
	hi, lo uint64 // integers, in 128 bits with a sign
}

// Add adds a value n times. Null adds nothing.
func (s *Sum) Add(v Value, n int) {
	if v.IsNull() || n == 0 {
		return
	}
	s.any = true
	if v.kind == KindNumber {
		s.float = true
		s.f += v.Float64() * float64(n)
		return
	}
	i := int64(v.n)
	neg := i < 0
	u := uint64(i)
	if neg {
		u = -u
	}
	hi, lo := bits.Mul64(u, uint64(n))
	var carry uint64
	if neg {
		s.lo, carry = bits.Sub64(s.lo, lo, 0)
		s.hi, _ = bits.Sub64(s.hi, hi, carry)
		return
	}
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, _ = bits.Add64(s.hi, hi, carry)
}

// Merge adds what is in another sum.
func (s *Sum) Merge(o Sum) {
	s.any = s.any || o.any
	s.float = s.float || o.float
	s.f += o.f
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, o.lo, 0)
	s.hi, _ = bits.Add64(s.hi, o.hi, carry)
}

// Value returns the sum: null if nothing was added; an Int, or the nearest Number if no int64 holds it.
func (s *Sum) Value() Value {
	switch {
	case !s.any:
		return Null()
	case s.float:
		return Number(s.f)
	case s.hi == 0 && s.lo < 1<<63, s.hi == ^uint64(0) && s.lo >= 1<<63:
		return Int(int64(s.lo))
	}
	hi := new(big.Int).Lsh(big.NewInt(int64(s.hi)), 64)
	f, _ := new(big.Float).SetInt(hi.Add(hi, new(big.Int).SetUint64(s.lo))).Float64()
	return Number(f)
}

// Compare orders keys as a page lists them: negative when a comes before b.
func (s Sort) Compare(a, b Key) int {
	byID := strings.Compare(a.ID, b.ID)
	if s.Desc {
		byID = -byID
	}
	if s.Field == IDField || s.Field == "" {
		return byID
	}
	if a.Value.IsNull() || b.Value.IsNull() {
		if a.Value.IsNull() && b.Value.IsNull() {
			return byID
		}
		if a.Value.IsNull() == s.First() {
			return -1
		}
		return 1
	}
	c := Compare(a.Value, b.Value)
	if s.Desc {
		c = -c
	}
	return cmp.Or(c, byID)
}
