//go:build !amd64 && !arm64

package oci

import specs "github.com/opencontainers/runtime-spec/specs-go"

// architectures is empty: the filter is that of the processor itself.
func architectures(string) []specs.Arch { return nil }
