package store

import (
	"encoding/json"
	"fmt"
	"time"
)

// Type is the type of a derived column.
type Type int

// The column types. Times are stored as milliseconds since 1970 in Int columns.
const (
	Text Type = iota
	Int
)

// Column is a typed column derived from a row's value, for conditions and sorting.
type Column struct {
	Name string
	Type Type
}

// Table is the descriptor of a registered table: how lists, columns and counters
// follow from the committed value, the same in every dialect.
type Table struct {
	Name    string
	Columns []Column
	// Indexes are lists of columns that queries filter and sort by. Tenant is put
	// before and the key behind them.
	Indexes [][]string
	// Version changes whenever Columns, Indexes or Derive change in meaning. A
	// store that holds another version derives every row again when it is opened.
	Version int
	// Derive computes the columns and counters of a value. It must be pure. It may
	// be nil for a table without columns and counters. An error refuses the commit
	// as invalid.
	Derive func(key string, val []byte) (Derived, error)
}

// Derived is what follows from a value: one value for each column in the order
// of Table.Columns (a string for Text, an int64 for Int, nil for none), and the
// names of the counters to which the row adds one while it stands.
type Derived struct {
	Columns  []any
	Counters []string
}

// Schema is the set of registered tables, given to a store when it is opened.
type Schema []Table

// Lookup returns the table of that name.
func (s Schema) Lookup(name string) (*Table, bool) {
	for i := range s {
		if s[i].Name == name {
			return &s[i], true
		}
	}
	return nil, false
}

// Validate reports a descriptor that no store could serve.
func (s Schema) Validate() error {
	seen := map[string]bool{}
	for _, t := range s {
		if !name(t.Name) {
			return fmt.Errorf("store: table name %q: want lower-case letters, digits and _", t.Name)
		}
		if seen[t.Name] {
			return fmt.Errorf("store: table %s is registered twice", t.Name)
		}
		seen[t.Name] = true
		cols := map[string]bool{"key": true}
		for _, c := range t.Columns {
			if !name(c.Name) || cols[c.Name] {
				return fmt.Errorf("store: table %s: column %q is badly named or there twice", t.Name, c.Name)
			}
			cols[c.Name] = true
		}
		if len(t.Columns) > 0 && t.Derive == nil {
			return fmt.Errorf("store: table %s has columns and no Derive", t.Name)
		}
		for _, ix := range t.Indexes {
			for _, c := range ix {
				if !cols[c] {
					return fmt.Errorf("store: table %s: index on unknown column %s", t.Name, c)
				}
			}
		}
	}
	return nil
}

func name(s string) bool {
	if s == "" || len(s) > 40 {
		return false
	}
	for i, r := range s {
		if (r < 'a' || r > 'z') && (r != '_') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return true
}

// Millis is the stored form of a time: milliseconds since 1970, or nil for the
// zero time.
func Millis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// JSON derives columns and counters from the value decoded into a T.
func JSON[T any](derive func(key string, v *T) Derived) func(string, []byte) (Derived, error) {
	return func(key string, val []byte) (Derived, error) {
		var v T
		if err := json.Unmarshal(val, &v); err != nil {
			return Derived{}, err
		}
		return derive(key, &v), nil
	}
}

// DeadTable is the built-in table of dead letters, which every store registers
// by itself. Commit.Dead adds a row; sending one again is a commit that deletes
// the row and sends its body.
const DeadTable = "dead"

// DeadLetter is the value of a row of DeadTable. Keys are made of the topic and
// an id that grows with time.
type DeadLetter struct {
	Topic    string    `json:"topic"`
	Key      string    `json:"key"`
	Body     []byte    `json:"body"`
	Reason   string    `json:"reason"`
	Attempt  int       `json:"attempt"`
	Fails    int       `json:"fails"`
	Priority int       `json:"priority,omitempty"`
	SentAt   time.Time `json:"sent_at"`
	DeadAt   time.Time `json:"dead_at"`
}

// Dead is the descriptor of DeadTable.
func Dead() Table {
	return Table{
		Name:    DeadTable,
		Version: 1,
		Columns: []Column{{"topic", Text}, {"dead_at", Int}},
		Indexes: [][]string{{"topic", "dead_at"}, {"dead_at"}},
		Derive: JSON(func(_ string, d *DeadLetter) Derived {
			return Derived{Columns: []any{d.Topic, Millis(d.DeadAt)}, Counters: []string{"topic:" + d.Topic}}
		}),
	}
}
