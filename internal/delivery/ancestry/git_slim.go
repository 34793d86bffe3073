//go:build slim

package ancestry

import (
	"context"

	"github.com/waybill-run/waybill"
)

// WithGit says that this program cannot clone.
const WithGit = false

// Clone stands for one in a program that was built without git.
type Clone struct{}

// NewClone returns a clone of nothing.
func NewClone(CloneOptions) *Clone { return &Clone{} }

// Has implements Source.
func (*Clone) Has(string) bool { return false }

// History implements Source.
func (*Clone) History(context.Context, string, string, string, func(string) (bool, error), int) ([]waybill.CommitParents, error) {
	return nil, waybill.E(waybill.KindUnsupported, "this program was built without git")
}
