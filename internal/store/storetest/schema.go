package storetest

import (
	"encoding/json"
	"fmt"

	"github.com/waybill-run/waybill/internal/store"
)

// item is the value of table "item". Absent members are NULL columns.
type item struct {
	Name *string `json:"name,omitempty"`
	Size *int64  `json:"size,omitempty"`
	Grp  *string `json:"grp,omitempty"`
	Bad  bool    `json:"bad,omitempty"` // Derive refuses it
}

func (i item) json() []byte {
	b, err := json.Marshal(i)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return b
}

func newItem(name string, size int64, grp string) []byte {
	return item{Name: &name, Size: &size, Grp: &grp}.json()
}

func orNil[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}

func deriveItem(_ string, val []byte) (store.Derived, error) {
	var v item
	if err := json.Unmarshal(val, &v); err != nil {
		return store.Derived{}, err
	}
	if v.Bad {
		return store.Derived{}, fmt.Errorf("a bad item")
	}
	d := store.Derived{Columns: []any{orNil(v.Name), orNil(v.Size), orNil(v.Grp)}, Counters: []string{"all"}}
	if v.Grp != nil {
		d.Counters = append(d.Counters, "grp:"+*v.Grp)
	}
	return d, nil
}

// Schema is what the suite opens stores with: a table with columns of both
// types and counters, and one with nothing but keys and values.
func Schema() store.Schema {
	return store.Schema{
		{
			Name:    "item",
			Version: 1,
			Columns: []store.Column{{Name: "name", Type: store.Text}, {Name: "size", Type: store.Int}, {Name: "grp", Type: store.Text}},
			Indexes: [][]string{{"name"}, {"size"}, {"grp", "size"}},
			Derive:  deriveItem,
		},
		{Name: "note", Version: 1},
	}
}

// schemaV2 has another column, another index and other counters.
func schemaV2() store.Schema {
	s := Schema()
	s[0].Version = 2
	s[0].Columns = []store.Column{{Name: "double", Type: store.Int}, {Name: "name", Type: store.Text}}
	s[0].Indexes = [][]string{{"double"}, {"name", "double"}}
	s[0].Derive = func(key string, val []byte) (store.Derived, error) {
		var v item
		if err := json.Unmarshal(val, &v); err != nil {
			return store.Derived{}, err
		}
		d := store.Derived{Columns: []any{nil, orNil(v.Name)}, Counters: []string{"second"}}
		if v.Size != nil {
			d.Columns[0] = *v.Size * 2
		}
		return d, nil
	}
	return s
}
