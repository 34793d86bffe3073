// Package delivery follows changes from their source commit through image,
// configuration and manifests to the clusters they run in.
//
// # Events, parts, rows
//
// What tools report is kept as events, which are only ever added. Reports of one thing (an
// image, a configuration that names it, manifests, a run, a pull request, a cluster) are
// folded into a part. Deployments are rows over parts: a configuration joined with the
// build of its image and with the manifests made of it (link.go says what belongs
// together, view.go what a row shows). A build that no ring has taken and manifests that
// come of no known configuration have rows of their own.
//
// Because a row is a view over parts, the order of reports does not matter: the late
// report of a build completes a row that began without it, and one tie that has become
// doubtful is undone. What an earlier report said is never cleared by a later one that does
// not say it.
//
// # Purity
//
// What follows from an event is decided by state.apply, which depends on nothing but the
// state and the event. So the rows can be made again from the events at any time, with
// the same ids.
//
// # Writing
//
// Events of a partition are numbered without gaps. One commit holds events, parts,
// references, rows and places, on condition that the number of the partition's last event is what
// it was when they were read; of several servers one wins, and the others read again.
package delivery
