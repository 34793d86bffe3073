package oci

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
)

// network is the bridge of an instance: made when the first unit or the callback listener
// needs it, and removed when the runner is closed and no unit is on it. Units on it reach
// this machine and, where it can be set up, what is beyond, but not each other.
type network struct {
	dir      string // holds what was chosen
	instance string
	subnet   string // of the settings
	masq     bool
	log      *slog.Logger

	mu      sync.Mutex
	ready   bool
	bridge  netlink.Link
	prefix  netip.Prefix
	gateway netip.Addr
	used    map[netip.Addr]string
	last    netip.Addr
}

const networkFile = "network.json"

func (n *network) bridgeName() string { return "wb" + n.instance[:10] }

// vethName is the outer end of a unit's connection; 15 letters are all there are.
func (n *network) vethName(unit string) string {
	sum := sha256.Sum256([]byte(n.instance + "/" + unit))
	return "wv" + hex.EncodeToString(sum[:])[:12]
}

// reserve notes an address that a unit of an earlier server has.
func (n *network) reserve(unit, ip string) {
	if a, err := netip.ParseAddr(ip); err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.used[a] = unit
	}
}

// ensure makes the bridge if it is not there.
func (n *network) ensure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ensureLocked()
}

func (n *network) ensureLocked() error {
	if n.ready {
		// Somebody may have removed it.
		if l, err := netlink.LinkByIndex(n.bridge.Attrs().Index); err == nil && l.Attrs().Name == n.bridgeName() {
			return nil
		}
		n.ready = false
	}
	if err := n.setUp(); err != nil {
		var e *waybill.Error
		if errors.As(err, &e) {
			return err
		}
		kind, hint := waybill.KindUnavailable, "see the log of the server"
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
			kind, hint = waybill.KindInvalid, "set network: host or network: none, or run the server where it may make a bridge"
		}
		return waybill.E(kind, "network bridge: %w", err).WithHint("%s", hint)
	}
	n.ready = true
	return nil
}

func (n *network) setUp() error {
	name := n.bridgeName()
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err == nil || errors.Is(err, unix.EEXIST) {
			link, err = netlink.LinkByName(name)
		}
	}
	if err != nil {
		return fmt.Errorf("make the bridge %s: %w", name, err)
	}
	n.prefix, err = n.choose(link)
	if err != nil {
		if n.idle(link) {
			netlink.LinkDel(link)
		}
		return err
	}
	n.gateway = n.prefix.Masked().Addr().Next()
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.gateway, n.prefix.Bits()))}
	if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("give the bridge the address %s: %w", n.gateway, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("switch the bridge on: %w", err)
	}
	n.bridge = link
	if n.masq {
		if err := n.forward(); err != nil {
			n.log.Warn("units on the bridge reach this machine and nothing beyond it", "bridge", name, "error", err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// choose returns the addresses of the bridge: those of the settings, those it had, or a
// part of 172.16.0.0/12 that nothing here knows of.
func (n *network) choose(own netlink.Link) (netip.Prefix, error) {
	taken, err := takenPrefixes(own)
	if err != nil {
		return netip.Prefix{}, err
	}
	free := func(p netip.Prefix) error {
		for _, t := range taken {
			if t.Overlaps(p) {
				return waybill.E(waybill.KindInvalid, "network bridge: the addresses %s collide with %s, which this machine knows already", p, t).
					WithHint("set another subnet under runners: oci in waybill.yaml")
			}
		}
		return nil
	}
	if n.subnet != "" {
		p, err := netip.ParsePrefix(n.subnet)
		if err != nil || !p.Addr().Is4() || p.Bits() > 29 || p.Bits() < 8 {
			return netip.Prefix{}, waybill.E(waybill.KindInvalid, "subnet: expected addresses such as 172.29.8.0/22, found %q", n.subnet)
		}
		return p.Masked(), free(p.Masked())
	}
	path := filepath.Join(n.dir, networkFile)
	var saved struct{ Subnet netip.Prefix }
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &saved) == nil && saved.Subnet.IsValid() && free(saved.Subnet) == nil {
		return saved.Subnet, nil
	}
	sum := sha256.Sum256([]byte(n.instance))
	first := int(sum[0])<<8 | int(sum[1])
	for i := range 1024 {
		k := (first + i) % 1024
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + k/64), byte(k % 64 * 4), 0}), 22)
		if free(p) != nil {
			continue
		}
		saved.Subnet = p
		b, err := json.Marshal(saved)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		return p, err
	}
	return netip.Prefix{}, waybill.E(waybill.KindInvalid, "network bridge: no part of 172.16.0.0/12 is free").
		WithHint("set subnet under runners: oci in waybill.yaml")
}

// takenPrefixes are the networks that this machine knows, but for that of the bridge.
func takenPrefixes(own netlink.Link) ([]netip.Prefix, error) {
	var out []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		a, ok := netip.AddrFromSlice(n.IP.To4())
		ones, bits := n.Mask.Size()
		if ok && bits == 32 && ones > 0 {
			out = append(out, netip.PrefixFrom(a, ones).Masked())
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if a.LinkIndex != own.Attrs().Index {
			add(a.IPNet)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex != own.Attrs().Index {
			add(r.Dst)
		}
	}
	return out, nil
}

// forward lets units reach beyond this machine: the kernel passes on what comes from the
// bridge, under this machine's address.
func (n *network) forward() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != "1" {
		if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
			return err
		}
		n.log.Info("this machine now passes packets on, for units on the bridge", "setting", "net.ipv4.ip_forward")
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := n.table()
	c.AddTable(table) // it may be there: made anew as a whole
	c.DelTable(table)
	table = c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, n.bridgeName())
	mask := net.CIDRMask(n.prefix.Bits(), 32)
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		// ip saddr SUBNET oifname != BRIDGE masquerade
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.prefix.Addr().AsSlice()},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
		&expr.Masq{},
	}})
	return c.Flush()
}

func (n *network) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "waybill_" + n.instance[:10]}
}

// allot gives a unit an address.
func (n *network) allot(unit string) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensureLocked(); err != nil {
		return netip.Addr{}, err
	}
	// One after another, so that an address is not taken up again at once.
	a := n.last
	for range 1 << (32 - n.prefix.Bits()) {
		if a = a.Next(); !a.IsValid() || !n.prefix.Contains(a) {
			a = n.gateway.Next()
		}
		broadcast := !n.prefix.Contains(a.Next())
		if _, taken := n.used[a]; !taken && !broadcast {
			n.used[a], n.last = unit, a
			return a, nil
		}
	}
	return netip.Addr{}, waybill.E(waybill.KindUnavailable, "network bridge: all addresses of %s are in use", n.prefix).
		WithHint("set a larger subnet under runners: oci in waybill.yaml")
}

func (n *network) release(ip string) {
	if a, err := netip.ParseAddr(ip); err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.used, a)
	}
}

// attach makes the network namespace of a unit, kept by a file, with an address on the
// bridge.
func (n *network) attach(unit string, ip netip.Addr, file string) error {
	if err := makeNamespace(file); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	n.mu.Lock()
	bridge, prefix, gateway := n.bridge, n.prefix, n.gateway
	n.mu.Unlock()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Flags = n.vethName(unit), bridge.Attrs().Index, net.FlagUp
	attrs.TxQLen = 0
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(f.Fd())}
	err = netlink.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) { // of an attempt to start it that was killed
		n.unplug(unit)
		err = netlink.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("make a connection to the bridge: %w", err)
	}
	if err := netlink.LinkSetIsolated(veth, true); err != nil {
		return fmt.Errorf("keep units apart: %w", err)
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	defer inside.Close()
	eth, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := inside.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, prefix.Bits()))}); err != nil {
		return fmt.Errorf("give the unit the address %s: %w", ip, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return err
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("set the route of a unit: %w", err)
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	return inside.LinkSetUp(lo)
}

// detach removes a unit's namespace and its connection.
func (n *network) detach(unit, file string) error {
	n.unplug(unit)
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unmount", Path: file, Err: err}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n *network) unplug(unit string) {
	if l, err := netlink.LinkByName(n.vethName(unit)); err == nil {
		netlink.LinkDel(l)
	}
}

// makeNamespace makes a network namespace that a file keeps.
func makeNamespace(file string) error {
	unix.Unmount(file, unix.MNT_DETACH) // of an attempt to start it that was killed
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go func() {
		// The thread is never given back: it ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file, "", unix.MS_BIND, "")
	}()
	return <-done
}

// idle reports whether nothing is on the bridge.
func (n *network) idle(bridge netlink.Link) bool {
	all, err := netlink.LinkList()
	if err != nil {
		return false
	}
	for _, l := range all {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			return false
		}
	}
	return true
}

// tearDown removes the bridge, also one of a server that was killed. It is for when no
// unit is on it.
func (n *network) tearDown() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = false
	bridge, err := netlink.LinkByName(n.bridgeName())
	if err != nil {
		return // there is none
	}
	if err := netlink.LinkDel(bridge); err != nil {
		n.log.Warn("the bridge could not be removed", "bridge", n.bridgeName(), "error", err)
	}
	if c, err := nftables.New(); err == nil && n.masq {
		c.DelTable(n.table())
		c.Flush()
	}
}

// nameServers is a resolv.conf for a unit on the bridge: that of this machine without
// servers that only this machine reaches.
func nameServers() []byte {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		var out strings.Builder
		servers := 0
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if fields := strings.Fields(sc.Text()); len(fields) > 1 && fields[0] == "nameserver" {
				if a, err := netip.ParseAddr(fields[1]); err == nil && a.IsLoopback() {
					continue
				}
				servers++
			}
			out.WriteString(sc.Text() + "\n")
		}
		f.Close()
		if servers > 0 {
			return []byte(out.String())
		}
	}
	return nil
}
