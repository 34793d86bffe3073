// Package image pulls images of containers and keeps them unpacked.
//
// Layers are kept one folder each, under the digest of their content, so that images
// that share a layer share its folder. A layer is downloaded, checked and unpacked in one
// stream into a temporary folder and gets its place by a rename, after which a small file
// marks it as whole: a pull that was killed at any point leaves nothing that a later one
// could take for a layer. Nothing of an archive reaches a path outside its folder.
//
// The room that layers take has a limit. Beyond it those that were used least recently
// go, never one that is pinned. One process uses a folder at a time.
//
// The package needs Linux.
package image
