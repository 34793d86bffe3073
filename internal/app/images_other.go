//go:build !linux

package app

import (
	"io"

	"github.com/waybill-run/waybill"
)

func openImageStore(string) (waybill.Images, io.Closer, error) {
	return nil, nil, waybill.E(waybill.KindUnsupported, "images are kept on Linux only")
}
