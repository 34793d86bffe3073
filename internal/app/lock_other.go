//go:build !unix

package app

import (
	"os"

	"github.com/waybill-run/waybill"
)

func lock(string) (*os.File, error) {
	return nil, waybill.E(waybill.KindUnsupported, "the server runs on Linux; this program is a client here")
}
