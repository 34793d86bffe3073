//go:build !unix

package folder

import "io/fs"

const openFlags = 0

func inode(fs.FileInfo) uint64 { return 0 }
