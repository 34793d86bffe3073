// Package tour holds the project that "waybill demo" runs.
package tour

import "embed"

// Files is the project folder.
//
//go:embed waybill.yaml pipelines tests bin README.md
var Files embed.FS
