package netguard_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/netguard"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		deny, allow []string
		addr        string
		ok          bool
	}{
		{netguard.DefaultDeny, nil, "127.0.0.1", true},
		{netguard.DefaultDeny, nil, "10.1.2.3", true},
		{netguard.DefaultDeny, nil, "93.184.216.34", true},
		{netguard.DefaultDeny, nil, "169.254.169.254", false},
		{netguard.DefaultDeny, nil, "::ffff:169.254.169.254", false},
		{netguard.DefaultDeny, nil, "64:ff9b::a9fe:a9fe", false},
		{netguard.DefaultDeny, nil, "2002:a9fe:a9fe::1", false},
		{netguard.DefaultDeny, nil, "fe80::1%eth0", false},
		{netguard.DefaultDeny, nil, "fd00:ec2::254", false},
		{netguard.DefaultDeny, nil, "168.63.129.16", false},
		{netguard.DefaultDeny, nil, "224.0.0.1", false},
		{[]string{"private"}, nil, "192.168.1.1", false},
		{[]string{"private"}, nil, "172.31.255.255", false},
		{[]string{"private"}, nil, "172.32.0.1", true},
		{[]string{"private"}, nil, "fd12::1", false},
		{[]string{"private"}, nil, "127.0.0.1", true},
		{[]string{"loopback"}, nil, "127.8.9.10", false},
		{[]string{"loopback"}, nil, "::1", false},
		{[]string{"loopback"}, nil, "0.0.0.0", false},
		{[]string{"loopback"}, nil, "::", false},
		{[]string{"all"}, []string{"203.0.113.0/24"}, "203.0.113.7", true},
		{[]string{"all"}, []string{"203.0.113.0/24"}, "203.0.114.7", false},
		{[]string{"all"}, []string{"2001:db8::1"}, "2001:db8::1", true},
		{[]string{"all"}, []string{"2001:db8::1"}, "2001:db8::2", false},
		{[]string{"10.0.0.1/8"}, nil, "10.255.0.1", false},
		// What is allowed is the address; one inside of it must be allowed too.
		{[]string{"link-local"}, []string{"64:ff9b::/96"}, "64:ff9b::a9fe:a9fe", false},
		{nil, nil, "169.254.169.254", true},
	} {
		g, err := netguard.New(c.deny, c.allow)
		if err != nil {
			t.Fatal(err)
		}
		err = g.Check(netip.MustParseAddr(c.addr))
		var denied *netguard.DeniedError
		if (err == nil) != c.ok || err != nil && !errors.As(err, &denied) {
			t.Errorf("deny %v, allow %v: %s gives %v", c.deny, c.allow, c.addr, err)
		}
	}
	for _, bad := range []string{"", "privat", "10.0.0.0/33", "example.com", "1.2.3"} {
		if _, err := netguard.New([]string{bad}, nil); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
