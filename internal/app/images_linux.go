package app

import (
	"io"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
)

func openImageStore(dir string) (waybill.Images, io.Closer, error) {
	s, err := image.Open(image.Options{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	return s, s, nil
}
