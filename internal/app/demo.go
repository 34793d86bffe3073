package app

import (
	"context"
	"log/slog"

	"github.com/waybill-run/waybill/internal/demo"
)

// startDemo starts the server of "waybill demo".
func startDemo(ctx context.Context, d demo.Setup) (demo.Server, error) {
	command, err := supervisor()
	if err != nil {
		return nil, err
	}
	s, err := Start(ctx, Config{
		Project: d.Project, Data: d.Data, Listen: d.Listen, Version: buildVersion(), Supervisor: command,
		Logger: slog.New(slog.NewTextHandler(d.Log, nil)),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}
