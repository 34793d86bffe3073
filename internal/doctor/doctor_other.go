//go:build !linux

package doctor

import "github.com/waybill-run/waybill"

func space(string, string) []waybill.Finding { return nil }

func synchronized() []waybill.Finding { return nil }

// Limits looks at what the system lets this process have.
func Limits() []waybill.Finding { return nil }
