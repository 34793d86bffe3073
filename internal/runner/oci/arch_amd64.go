package oci

import specs "github.com/opencontainers/runtime-spec/specs-go"

// architectures are those whose programs a unit can run: that of the machine, and for an
// image of another platform that the processor knows that one's, too. Each makes the
// filter larger, which every start of a unit pays for.
func architectures(platform string) []specs.Arch {
	if platform == "linux/386" {
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86}
	}
	return []specs.Arch{specs.ArchX86_64}
}
