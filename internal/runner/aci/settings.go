package aci

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Config are the settings of the runner in waybill.yaml. Groups are made in one resource
// group of one subscription; identities and registries are named by what they are, and may
// be of others.
type Config struct {
	Subscription  string            `json:"subscription" doc:"id of the subscription that container groups are made in"`
	ResourceGroup string            `json:"resource_group" doc:"resource group that container groups are made in, and nothing else should be"`
	Location      string            `json:"location" doc:"region, such as westeurope" example:"westeurope"`
	Identity      string            `json:"identity" doc:"resource id of the user-assigned identity that units have; it may be of another resource group or subscription" example:"/subscriptions/…/resourceGroups/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/units"`
	Registries    []Registry        `json:"registries" doc:"registries whose images are pulled with an identity instead of a password"`
	Subnet        string            `json:"subnet" doc:"resource id of a subnet that is delegated to container groups"`
	Zones         []string          `json:"zones" doc:"availability zones"`
	Priority      string            `json:"priority" doc:"Spot is cheaper and may be taken away at any time, which makes a unit lost" enum:"Regular,Spot"`
	CPU           container.CPU     `json:"cpu" doc:"processors of a unit that does not say" default:"1"`
	Memory        container.Size    `json:"memory" doc:"memory of a unit that does not say; Azure counts in tenths of a GB" default:"1.5GB"`
	Tags          map[string]string `json:"tags" doc:"further tags of container groups"`
	PullPatience  runner.Duration   `json:"pull_patience" doc:"how long Azure may try to pull an image while its registry does not answer or limits it" default:"5m"`

	TenantID string `json:"tenant" doc:"tenant of the account that makes the groups; else that of the environment (AZURE_TENANT_ID, managed identity, az login)"`
	ClientID string `json:"client" doc:"client id of the managed identity that makes the groups, where there are several"`
	Cloud    string `json:"cloud" doc:"which Azure" enum:"public,china,government" default:"public"`

	Profile    string            `json:"profile" doc:"file of the project: an ARM template of a container group, or the resource alone, on which units are based"`
	Parameters map[string]string `json:"parameters" doc:"values for the parameters of the profile; those of secure parameters as ${env:NAME}"`
}

// Registry is one whose images are pulled with an identity.
type Registry struct {
	Server   string `json:"server" doc:"host of the registry" example:"acme.azurecr.io"`
	Identity string `json:"identity" doc:"resource id of the identity that may pull; else that of the units"`
}

// Settings are what a step can say in its "with".
type Settings struct {
	container.Settings
	Subnet string `json:"subnet" doc:"resource id of a subnet for this unit instead of the configured one"`
	GPU    *GPU   `json:"gpu" doc:"graphics processors, where the region has them"`
}

// GPU are graphics processors.
type GPU struct {
	Count int    `json:"count" doc:"how many" default:"1"`
	SKU   string `json:"sku" doc:"kind" example:"V100"`
}

var (
	subscription  = container.NewPattern(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	resourceGroup = container.NewPattern(`^[A-Za-z0-9_().-]{1,90}$`)
	identityID    = container.NewPattern(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/[^/]+$`)
	subnetID      = container.NewPattern(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/virtualNetworks/[^/]+/subnets/[^/]+$`)
	numericUser   = container.NewPattern(`^([0-9]+)(?::([0-9]+))?$`)
)

// Check says what is wrong with the configuration.
func (c *Config) Check() error {
	bad := func(key, format string, args ...any) error {
		return waybill.E(waybill.KindInvalid, "%s: %s", key, fmt.Sprintf(format, args...))
	}
	switch {
	case !subscription.MatchString(c.Subscription):
		return bad("subscription", "expected the id of a subscription, found %q", c.Subscription)
	case !resourceGroup.MatchString(c.ResourceGroup):
		return bad("resource_group", "expected the name of a resource group, found %q", c.ResourceGroup)
	case c.Location == "" && c.Profile == "":
		return bad("location", "it is missing: say in which region units run, such as westeurope")
	case c.Identity != "" && !identityID.MatchString(c.Identity):
		return bad("identity", "expected the resource id of a user-assigned identity, found %q", c.Identity)
	case c.Subnet != "" && !subnetID.MatchString(c.Subnet):
		return bad("subnet", "expected the resource id of a subnet, found %q", c.Subnet)
	case c.Priority != "" && c.Priority != "Regular" && c.Priority != "Spot":
		return bad("priority", "expected Regular or Spot, found %q", c.Priority)
	case c.Cloud != "" && !slices.Contains([]string{"public", "china", "government"}, c.Cloud):
		return bad("cloud", "expected public, china or government, found %q", c.Cloud)
	}
	for _, r := range c.Registries {
		if r.Server == "" || strings.ContainsAny(r.Server, "/ ") {
			return bad("registries", "server: expected the host of a registry, found %q", r.Server)
		}
		if id := first(r.Identity, c.Identity); !identityID.MatchString(id) {
			return bad("registries", "%s: expected the resource id of a user-assigned identity, found %q", r.Server, id)
		}
	}
	if c.PullPatience == 0 {
		c.PullPatience = runner.Duration(5 * time.Minute)
	}
	if c.CPU == 0 {
		c.CPU = 1000
	}
	if c.Memory == 0 {
		c.Memory = 15e8
	}
	return nil
}

// readSettings reads a step's "with". open is for one that is only looked at.
func readSettings(with json.RawMessage, open bool) (Settings, error) {
	var s Settings
	decode := runner.Decode
	if open {
		decode = runner.DecodeOpen
	}
	if err := decode(with, &s); err != nil {
		return s, err
	}
	if err := s.Settings.Check(open); err != nil {
		return s, err
	}
	known := func(text string) bool { return text != "" && !(open && runner.HasExpression(text)) }
	none := func(key, why string) error {
		return waybill.E(waybill.KindInvalid, "%s: Azure Container Instances %s", key, why)
	}
	switch {
	case known(s.Network) && s.Network != container.NetworkBridge:
		return s, none("network", "cannot give a group the network "+s.Network)
	case s.Pids > 0:
		return s, none("pids", "has no such limit")
	case known(s.Workdir):
		return s, none("workdir", "starts a container in the working directory of its image")
	case known(s.Pull) && s.Pull == container.PullNever:
		return s, none("pull", "always asks the registry")
	case known(s.User) && !numericUser.MatchString(s.User):
		return s, none("user", fmt.Sprintf("takes numbers only, found %q", s.User))
	case known(s.Platform) && s.Platform != "linux/amd64":
		return s, none("platform", "runs linux/amd64, found "+s.Platform)
	case len(s.Args) > 0:
		return s, none("args", "replaces the entrypoint of an image, and cannot add to it; say all of it in run")
	case known(s.Subnet) && !subnetID.MatchString(s.Subnet):
		return s, waybill.E(waybill.KindInvalid, "subnet: expected the resource id of a subnet, found %q", s.Subnet)
	case s.GPU != nil && s.GPU.Count < 0:
		return s, waybill.E(waybill.KindInvalid, "gpu: count: expected a positive number, found %d", s.GPU.Count)
	}
	return s, nil
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
