package oci

import specs "github.com/opencontainers/runtime-spec/specs-go"

var architectures = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
