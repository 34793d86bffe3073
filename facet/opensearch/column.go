package opensearch

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/waybill-run/waybill/facet"
)

// column says where the values of a field are.
type column struct {
	facet.Field
	no   int
	name string // f<i>
}

func columns(s facet.Schema) []column {
	cols := make([]column, len(s.Fields))
	for i, f := range s.Fields {
		cols[i] = column{f, i, fmt.Sprintf("f%d", i)}
	}
	return cols
}

func (x *Index) column(name string) *column {
	for i := range x.cols {
		if x.cols[i].Name == name {
			return &x.cols[i]
		}
	}
	return nil
}

// side is the name of a field beside that of the column.
func (c *column) side(letter string) string { return letter + strconv.Itoa(c.no) }

// Names of the fields that every index has.
const (
	idField      = "id"      // the id again: _id cannot be sorted by
	versionField = "version" // of the document
	sourceField  = "source"  // in base64
	nullsField   = "nulls"   // names of columns in which the document has null
	seqField     = "seq"     // of the one document that is none
)

// mapping is what an index is made with.
func (x *Index) mapping(s facet.Schema) object {
	keyword, long := object{"type": "keyword"}, object{"type": "long"}
	props := object{
		idField: keyword, versionField: object{"type": "long", "index": false}, sourceField: object{"type": "binary"},
		nullsField: keyword, seqField: long,
	}
	for _, c := range columns(s) {
		switch c.Kind {
		case facet.KindInt:
			props[c.name] = long
			for _, part := range sumParts {
				props[c.side(part)] = object{"type": "long", "index": false}
			}
		case facet.KindNumber:
			props[c.name] = long
			props[c.side("s")] = object{"type": "double", "index": false}
		case facet.KindDate:
			props[c.name] = long
		case facet.KindRange:
			props[c.name] = object{"type": "double_range"}
			props[c.side("e")] = keyword
		case facet.KindObject:
			props[c.name] = keyword
			below := object{}
			for i := range c.Props {
				below[fmt.Sprintf("p%d", i)] = keyword
			}
			props[c.side("o")] = object{"type": "nested", "properties": below}
		default:
			props[c.name] = keyword
			if c.Words {
				props[c.side("w")] = keyword
			}
		}
	}
	return object{
		"settings": object{"index": object{"number_of_shards": x.o.Shards}},
		"mappings": object{"dynamic": "strict", "_meta": object{"waybill_facet": meta{format, s}}, "properties": props},
	}
}

// sumParts are the fields that hold an integer in parts of 22, 21 and 21 bits, the
// highest with the sign. Sums of parts are exact in a double for two thousand million
// values.
var sumParts = []string{"p", "q", "r"}

func parts(v int64) [3]int64 { return [3]int64{v >> 42, v >> 21 & (1<<21 - 1), v & (1<<21 - 1)} }

// key is a value as the column has it.
func (c *column) key(v facet.Value) any {
	switch c.Kind {
	case facet.KindInt, facet.KindDate:
		return v.Int64()
	case facet.KindNumber:
		return sortable(v.Float64())
	case facet.KindRange:
		lo, hi := v.Bounds()
		return fmt.Sprintf("%x %x", math.Float64bits(lo), math.Float64bits(hi))
	case facet.KindBool:
		return v.String()
	default:
		return v.Str()
	}
}

// value is what key was made of.
func (c *column) value(key any) (facet.Value, error) {
	switch k := key.(type) {
	case string:
		switch c.Kind {
		case facet.KindBool:
			return facet.Bool(k == "true"), nil
		case facet.KindObject:
			props := map[string]string{}
			for part := range strings.SplitSeq(strings.TrimSuffix(k, "\x1e"), "\x1e") {
				name, value, _ := strings.Cut(part, "\x1f")
				props[name] = value
			}
			return facet.Object(props), nil
		case facet.KindKeyword:
			return facet.String(k), nil
		case facet.KindRange:
			var lo, hi uint64
			_, err := fmt.Sscanf(k, "%x %x", &lo, &hi)
			return facet.Between(math.Float64frombits(lo), math.Float64frombits(hi)), err
		}
	case json.Number:
		n, err := k.Int64()
		switch c.Kind {
		case facet.KindInt:
			return facet.Int(n), err
		case facet.KindDate:
			return facet.DateMicros(n), err
		case facet.KindNumber:
			return facet.Number(unsortable(n)), err
		}
	}
	return facet.Null(), fmt.Errorf("the cluster gave %v as a value of field %q", key, c.Name)
}

// sortable maps a float to an integer so that both have the same order.
func sortable(f float64) int64 {
	b := int64(math.Float64bits(f))
	return b ^ (b>>63)&math.MaxInt64
}

func unsortable(i int64) float64 {
	return math.Float64frombits(uint64(i ^ (i>>63)&math.MaxInt64))
}
