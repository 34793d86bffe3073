//go:build !linux

package footprint

func releaseFile() {}
