// Command waybill is the server, its agents and its client in one program.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/waybill-run/waybill/internal/app"
	"github.com/waybill-run/waybill/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, app.CLI(), os.Args[1:])
	stop()
	os.Exit(code)
}
