//go:build !linux

package inside

// Main is the first process of a container, which is Linux.
func Main() int { return CodeNoOrder }
