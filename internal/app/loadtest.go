package app

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/footprint"
	"github.com/waybill-run/waybill/internal/loadtest"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func loadtestCommand() *cobra.Command {
	return loadtest.Command(loadtest.Deps{
		Version: version, Pack: packProgram, DeliverySchema: delivery.Tables(),
		Deliveries: func(st store.Store) waybill.Deliveries {
			return delivery.New(delivery.Options{Store: st, Bulk: footprint.Bulk})
		},
		OpenStore: func(ctx context.Context, where, dir string, schema store.Schema) (store.Store, error) {
			log := slog.New(slog.DiscardHandler)
			if where == "sqlite" {
				return sqlite.Open(ctx, filepath.Join(dir, "store.db"), schema, sqlite.Options{Logger: log})
			}
			return postgres.Open(ctx, where, schema, postgres.Options{Logger: log})
		},
	})
}
