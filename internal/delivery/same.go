package delivery

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/waybill-run/waybill"
)

// sameRow reports whether two rows would be stored alike. Most that were made again are
// alike to the last field, and most that are not differ in what is looked at first.
func sameRow(a, b *waybill.Deployment) bool {
	if a.Status != b.Status || a.Ring != b.Ring || a.ManifestCommit != b.ManifestCommit || a.ConfigCommit != b.ConfigCommit || a.Reason != b.Reason ||
		a.Service != b.Service || a.ImageTag != b.ImageTag || a.Unlinked != b.Unlinked || len(a.Clusters) != len(b.Clusters) || !a.UpdatedAt.Equal(b.UpdatedAt) {
		return false
	}
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, err := json.Marshal(a)
	if err != nil {
		return false
	}
	y, err := json.Marshal(b)
	return err == nil && bytes.Equal(x, y)
}
