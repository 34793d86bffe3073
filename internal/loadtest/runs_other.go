//go:build !linux

package loadtest

import (
	"context"

	"github.com/waybill-run/waybill"
)

func boxNames() []string { return nil }

func containers(context.Context, *options, *sheet) error {
	return waybill.E(waybill.KindInvalid, "containers are measured on Linux only")
}

func partNames() []string { return nil }

func runs(context.Context, *options, *sheet) error {
	return waybill.E(waybill.KindInvalid, "processes are run on Linux only")
}

func schedules(context.Context, *options, *sheet) error {
	return waybill.E(waybill.KindInvalid, "servers are measured on Linux only")
}
