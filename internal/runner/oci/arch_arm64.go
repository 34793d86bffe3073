package oci

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// architectures are those whose programs a unit can run: that of the machine, and for an
// image of another platform that the processor knows that one's, too. Each makes the
// filter larger, which every start of a unit pays for.
func architectures(platform string) []specs.Arch {
	if strings.HasPrefix(platform, "linux/arm/") || platform == "linux/arm" {
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	return []specs.Arch{specs.ArchAARCH64}
}
