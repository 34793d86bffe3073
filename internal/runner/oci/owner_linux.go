package oci

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// owner says in the folder in memory whose it is. A server that is killed for good, with
// its data removed afterwards, leaves that folder and a bridge, and nobody else can know
// that they are of no use any more.
type owner struct {
	Dir        string `json:"dir"`
	Namespaces string `json:"namespaces"` // in which Dir means something and the bridge is
}

const ownerFile = "owner"

// namespaces tells this process's view of files and networks from another's.
func namespaces() string {
	mnt, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return ""
	}
	net, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	return mnt + " " + net
}

// claim writes whose the folder in memory is.
func claim(memory, dir string) error {
	b, err := json.Marshal(owner{dir, namespaces()})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(memory, ownerFile), b, 0o600)
}

// inherit removes what instances left behind whose folder is gone, as far as nothing runs
// in it: of an instance that has, or may have, a container nothing is touched.
func (r *Runner) inherit(memory string) {
	siblings, err := os.ReadDir(filepath.Dir(memory))
	if err != nil {
		return
	}
	here := namespaces()
	for _, e := range siblings {
		dir := filepath.Join(filepath.Dir(memory), e.Name())
		if dir == memory || len(e.Name()) != 16 {
			continue
		}
		var o owner
		b, err := os.ReadFile(filepath.Join(dir, ownerFile))
		if err != nil || json.Unmarshal(b, &o) != nil || o.Dir == "" || here == "" || o.Namespaces != here {
			continue
		}
		if _, err := os.Lstat(o.Dir); !errors.Is(err, fs.ErrNotExist) || !barren(dir) {
			continue
		}
		n := &network{instance: e.Name()}
		if l, err := netlink.LinkByName(n.bridgeName()); err == nil {
			if !n.idle(l) {
				continue
			}
			if err := netlink.LinkDel(l); err != nil {
				r.log.Warn("a bridge that nobody has any more could not be removed", "bridge", n.bridgeName(), "error", err)
				continue
			}
			if c, err := nftables.New(); err == nil {
				c.DelTable(n.table())
				c.Flush()
			}
		}
		os.RemoveAll(dir)
		r.log.Info("removed what a server left behind whose data is gone", "folder", o.Dir)
	}
}

// barren reports whether a folder in memory holds nothing of units.
func barren(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == ownerFile, name == initFile, strings.HasPrefix(name, tryPrefix):
		case name == stateDir:
			if left, err := os.ReadDir(filepath.Join(dir, stateDir)); err != nil || len(left) > 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}
