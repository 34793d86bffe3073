package facet

import (
	"encoding/binary"
	"math"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// Values are stored as keys whose order, byte by byte, is that of Compare.

func dictKind(k Kind) segment.DictKind {
	switch k {
	case KindKeyword, KindObject:
		return segment.Strings
	case KindRange:
		return segment.Fixed16
	}
	return segment.Fixed8
}

func orderFloat(b uint64) uint64 {
	if b>>63 != 0 {
		return ^b
	}
	return b | 1<<63
}

func unorderFloat(b uint64) uint64 {
	if b>>63 != 0 {
		return b &^ (1 << 63)
	}
	return ^b
}

// fixed is the key of a value that is no string; y is used by ranges only.
func (v Value) fixed() (x, y uint64) {
	switch v.kind {
	case KindInt, KindDate:
		return v.n ^ 1<<63, 0
	case KindNumber:
		return orderFloat(v.n), 0
	case KindRange:
		return orderFloat(v.n), orderFloat(v.m)
	}
	return v.n, 0
}

func (v Value) appendKey(b []byte) []byte {
	switch v.kind {
	case KindKeyword, KindObject:
		return append(b, v.s...)
	}
	x, y := v.fixed()
	b = binary.BigEndian.AppendUint64(b, x)
	if v.kind == KindRange {
		b = binary.BigEndian.AppendUint64(b, y)
	}
	return b
}

// fixedValue is the value of a key that is no string.
func fixedValue(k Kind, x, y uint64) Value {
	switch k {
	case KindInt, KindDate:
		x ^= 1 << 63
	case KindNumber:
		x = unorderFloat(x)
	case KindRange:
		x, y = unorderFloat(x), unorderFloat(y)
	}
	return Value{kind: k, n: x, m: y}
}

func keyValue(k Kind, key []byte) Value {
	switch k {
	case KindKeyword, KindObject:
		return Value{kind: k, s: string(key)}
	case KindRange:
		return fixedValue(k, binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[8:]))
	}
	return fixedValue(k, binary.BigEndian.Uint64(key), 0)
}

// number is a key as a float64, for sums.
func number(k Kind, x uint64) float64 {
	if k == KindInt {
		return float64(int64(x ^ 1<<63))
	}
	return math.Float64frombits(unorderFloat(x))
}

// segmentFields says how a schema's fields are built.
func segmentFields(s Schema) []segment.Field {
	fields := make([]segment.Field, len(s.Fields))
	for i, f := range s.Fields {
		fields[i] = segment.Field{Dict: dictKind(f.Kind), Multi: f.Multi}
		if f.Words {
			fields[i].Words = func(key []byte) []string { return Words(string(key)) }
		}
	}
	return fields
}

// addDoc gives a document to a builder.
func (s Schema) addDoc(b *segment.Builder, d *Doc) {
	for i := range s.Fields {
		f := &s.Fields[i]
		for _, v := range d.Fields[f.Name] {
			if v.kind == KindInt && f.Kind == KindNumber {
				v = Number(float64(int64(v.n)))
			}
			addValue(b, i, v)
		}
	}
	b.Doc(d.ID, d.Version, d.Source)
}

func addValue(b *segment.Builder, field int, v Value) {
	switch v.kind {
	case KindNull:
		b.Null(field)
	case KindKeyword, KindObject:
		b.Key(field, v.s)
	case KindRange:
		b.U128(field, orderFloat(v.n), orderFloat(v.m))
	default:
		x, _ := v.fixed()
		b.U64(field, x)
	}
}

// addChecked is checkDoc and addDoc in one: fields are looked up once, and a value that the last document has is
// not checked again. After an error the builder is of no use.
func (s Schema) addChecked(b *segment.Builder, d *Doc, l Limits) error {
	if err := checkHead(d, l); err != nil {
		return err
	}
	known := 0
	for i := range s.Fields {
		f := &s.Fields[i]
		values, ok := d.Fields[f.Name]
		if !ok {
			continue
		}
		known++
		if err := f.checkNumber(d, values, l); err != nil {
			return err
		}
		for _, v := range values {
			if v.kind == f.Kind && (v.kind == KindKeyword || v.kind == KindObject) && b.Again(i, v.s) {
				continue
			}
			v, err := f.convert(v, l)
			if err != nil {
				err.(*Error).Doc = d.ID
				return err
			}
			addValue(b, i, v)
		}
	}
	if err := s.checkNames(d, known); err != nil {
		return err
	}
	b.Doc(d.ID, d.Version, d.Source)
	return nil
}
