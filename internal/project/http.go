package project

import "github.com/waybill-run/waybill/internal/netguard"

// HTTP bounds what steps with the runner http may call.
type HTTP struct {
	// Deny and Allow are addresses, networks and words of internal/netguard. What is
	// denied is refused unless it is allowed too.
	Deny, Allow []string
}

func defaultHTTP() HTTP { return HTTP{Deny: netguard.DefaultDeny} }

func (h *HTTP) fields() map[string]any {
	return map[string]any{"http.deny": &h.Deny, "http.allow": &h.Allow}
}

func (h HTTP) check(add func(path, format string, args ...any)) {
	if _, err := netguard.New(h.Deny, nil); err != nil {
		add("http.deny", "%v", err)
	}
	if _, err := netguard.New(nil, h.Allow); err != nil {
		add("http.allow", "%v", err)
	}
}

// Guard says which addresses may be called.
func (h HTTP) Guard() netguard.Guard {
	g, err := netguard.New(h.Deny, h.Allow)
	if err != nil { // settings were checked when they were read
		g, _ = netguard.New([]string{"all"}, nil)
	}
	return g
}
