// Package netguard says which addresses of a network this server calls for others:
// pipelines choose where requests go, and the server may reach more than their
// authors should.
package netguard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/waybill-run/waybill"
)

// Guard says which addresses may be called. It judges the address that is
// dialled, after names were resolved and for every redirect anew, so that no name
// and no answer leads around it. The zero Guard allows everything.
type Guard struct{ deny, allow []netip.Prefix }

// DefaultDeny is what is denied if the settings say nothing: the addresses under
// which clouds hand out the credentials of a machine, and those that are no hosts.
// Loopback and private networks are open, as what a pipeline calls often lives
// there; a server that runs the pipelines of people it does not trust with its
// network denies them.
var DefaultDeny = []string{"link-local", "metadata", "multicast"}

var words = map[string][]string{
	"all":        {"0.0.0.0/0", "::/0"},
	"loopback":   {"127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"},
	"private":    {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7"},
	"link-local": {"169.254.0.0/16", "fe80::/10"},
	"metadata":   {"169.254.169.254/32", "169.254.170.0/24", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::/32"},
	"multicast":  {"224.0.0.0/4", "255.255.255.255/32", "ff00::/8"},
}

// Words are the names of groups of addresses, sorted.
func Words() []string {
	out := make([]string, 0, len(words))
	for w := range words {
		out = append(out, w)
	}
	slices.Sort(out)
	return out
}

// New returns a guard that refuses the addresses in deny unless they are in
// allow too. An entry is an address, a network such as 10.0.0.0/8, or one of [Words].
func New(deny, allow []string) (Guard, error) {
	d, err := prefixes(deny)
	if err != nil {
		return Guard{}, err
	}
	a, err := prefixes(allow)
	return Guard{d, a}, err
}

func prefixes(entries []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, e := range entries {
		list := words[e]
		if list == nil {
			list = []string{e}
		}
		for _, text := range list {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				a, aerr := netip.ParseAddr(text)
				if aerr != nil {
					return nil, waybill.E(waybill.KindInvalid, "%.60q is no address, no network and none of %s", e, strings.Join(Words(), ", "))
				}
				p = netip.PrefixFrom(a.WithZone("").Unmap(), a.Unmap().BitLen())
			}
			out = append(out, p.Masked())
		}
	}
	return out, nil
}

// DeniedError says that an address must not be called.
type DeniedError struct{ Addr netip.Addr }

// Error implements error.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("this server makes no requests to %s (http.deny in waybill.yaml)", e.Addr)
}

// Check judges an address: nil, or a [DeniedError].
func (g Guard) Check(addr netip.Addr) error {
	for _, a := range meanings(addr) {
		in := func(p netip.Prefix) bool { return p.Contains(a) }
		if slices.ContainsFunc(g.deny, in) && !slices.ContainsFunc(g.allow, in) {
			return &DeniedError{addr}
		}
	}
	return nil
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// meanings are an address and the IPv4 address that it leads to, if there is one
// inside of it.
func meanings(a netip.Addr) []netip.Addr {
	a = a.WithZone("").Unmap()
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return []netip.Addr{a, netip.AddrFrom4([4]byte(b[12:16]))}
	case sixTo4.Contains(a):
		return []netip.Addr{a, netip.AddrFrom4([4]byte(b[2:6]))}
	}
	return []netip.Addr{a}
}

// Control judges the address of a connection before it is made; it is the Control of
// a net.Dialer.
func (g Guard) Control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%s is no address", address)
	}
	return g.Check(at.Addr())
}
