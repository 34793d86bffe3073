package docker

import (
	"context"
	"net/netip"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// networkName is the network that units of this instance share.
func (r *Runner) networkName() string { return "waybill-" + r.short }

// Gateway is the address of this machine in the network of units, which is made when it
// is not there: where the callback listener of an engine of this machine listens.
func (r *Runner) Gateway(ctx context.Context) (netip.Addr, error) {
	r.mu.Lock()
	known := r.gateway
	r.mu.Unlock()
	if known.IsValid() {
		return known, nil
	}
	n, err := r.network(ctx)
	if err != nil {
		if ctx.Err() == nil && waybill.KindOf(err) != waybill.KindConflict {
			err = waybill.E(waybill.KindUnavailable, "%w", err)
		}
		return netip.Addr{}, err
	}
	if gateway, ok := gatewayOf(n); ok {
		return gateway, nil
	}
	return netip.Addr{}, waybill.E(waybill.KindUnavailable, "the network %s has no gateway", n.Name)
}

// hostName is what units on the bridge call this machine.
const hostName = "host.waybill.internal"

// gatewayOf is the address of the engine's machine in a network.
func gatewayOf(n network.Inspect) (netip.Addr, bool) {
	for _, c := range n.IPAM.Config {
		if c.Gateway.Is4() {
			return c.Gateway, true
		}
	}
	return netip.Addr{}, false
}

// network finds or makes the network of units. It stays when the last unit is gone, as
// the callback listener has its address; it costs nothing.
func (r *Runner) network(ctx context.Context) (network.Inspect, error) {
	// An engine makes two of one name for those who ask at once.
	r.making.Lock()
	defer r.making.Unlock()
	look := func() (client.NetworkInspectResult, error) {
		return call(ctx, r, func(ctx context.Context) (client.NetworkInspectResult, error) {
			return r.api.NetworkInspect(ctx, r.networkName(), client.NetworkInspectOptions{})
		})
	}
	got, err := look()
	if cerrdefs.IsNotFound(err) {
		opts := client.NetworkCreateOptions{Driver: "bridge", Labels: map[string]string{container.LabelInstance: r.o.Instance}}
		if r.o.Subnet != "" {
			subnet := netip.MustParsePrefix(r.o.Subnet) // New checked it
			opts.IPAM = &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: subnet, Gateway: subnet.Addr().Next()}}}
		}
		_, err = call(ctx, r, func(ctx context.Context) (client.NetworkCreateResult, error) {
			return r.api.NetworkCreate(ctx, r.networkName(), opts)
		})
		if err == nil || cerrdefs.IsConflict(err) || cerrdefs.IsAlreadyExists(err) {
			got, err = look()
		}
	}
	if err != nil {
		return network.Inspect{}, r.fault(ctx, "make network", r.networkName(), err)
	}
	if got.Network.Labels[container.LabelInstance] != r.o.Instance {
		return network.Inspect{}, waybill.E(waybill.KindConflict, "the engine has a network %s that is not of this server", r.networkName()).
			WithHint("remove it: docker network rm %s", r.networkName())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gateway, _ = gatewayOf(got.Network)
	return got.Network, nil
}
