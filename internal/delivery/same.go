package delivery

import (
	"bytes"
	"encoding/json"

	"github.com/waybill-run/waybill"
)

// sameRow reports whether two rows would be stored alike.
func sameRow(a, b *waybill.Deployment) bool {
	x, err := json.Marshal(a)
	if err != nil {
		return false
	}
	y, err := json.Marshal(b)
	return err == nil && bytes.Equal(x, y)
}
