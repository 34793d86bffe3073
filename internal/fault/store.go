//go:build !faults

package fault

import "github.com/waybill-run/waybill/internal/store"

// Store returns s. In a program built with the tag "faults" it takes away promises
// of s, so that tests can show that they would notice.
func Store(s store.Store) store.Store { return s }
