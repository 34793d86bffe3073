//go:build !slim

package app

import (
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/gcs"
)

// moreClouds are those that a slim program leaves out.
var moreClouds = map[string]cloud.Opener{gcs.Scheme: gcs.Open}
