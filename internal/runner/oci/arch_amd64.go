package oci

import specs "github.com/opencontainers/runtime-spec/specs-go"

var architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
