package delivery

import "github.com/waybill-run/waybill/client"

// Rows are the cells of a table, the head first, for tests.
func Rows(rows []client.Deployment, o Options) [][]string {
	t := newTable(rows, o)
	out := [][]string{t.head()}
	for i := range rows {
		out = append(out, t.cells(i))
	}
	return out
}

// Options are those of a table, for tests.
type Options = tableOptions

// NewOptions are those of a table, for tests.
func NewOptions(wide, ascii, separators bool) Options {
	return tableOptions{wide: wide, ascii: ascii, separators: separators}
}
