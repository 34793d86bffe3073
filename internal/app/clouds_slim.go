//go:build slim

package app

import "github.com/waybill-run/waybill/internal/cloud"

var moreClouds map[string]cloud.Opener
