package inbound

import (
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

const (
	tableReceived = "delivery_received" // hash of source and id: waybill.Received
	tableObjects  = "delivery_objects"  // hash of partition, cluster, ring, service and revision: what the objects there said last
)

// How long rows are kept after they were written last.
const (
	keepReceived = 30 * 24 * time.Hour
	keepObjects  = 90 * 24 * time.Hour
)

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{
		{
			Name: tableReceived, Version: 1,
			Columns: []store.Column{{Name: "source", Type: store.Text}, {Name: "at", Type: store.Int}},
			Indexes: [][]string{{"at"}, {"source", "at"}},
			Derive: store.JSON(func(_ string, r *waybill.Received) store.Derived {
				return store.Derived{Columns: []any{r.Source, store.Millis(r.At)}}
			}),
		},
		{
			Name: tableObjects, Version: 1,
			Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
			Derive: store.JSON(func(_ string, g *group) store.Derived { return store.Derived{Columns: []any{store.Millis(g.At)}} }),
		},
	}
}
