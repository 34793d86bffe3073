package aci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// The resource as it is sent and answered, as far as Waybill reads it. What a profile has
// besides is in the maps.

type group struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Location   string            `json:"location,omitempty"`
	Zones      []string          `json:"zones,omitempty"`
	Identity   *groupIdentity    `json:"identity,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties groupProperties   `json:"properties"`
}

type groupIdentity struct {
	Type         string              `json:"type"`
	UserAssigned map[string]struct{} `json:"userAssignedIdentities,omitempty"`
}

type groupProperties struct {
	ProvisioningState string             `json:"provisioningState,omitempty"`
	OSType            string             `json:"osType,omitempty"`
	RestartPolicy     string             `json:"restartPolicy,omitempty"`
	SKU               string             `json:"sku,omitempty"`
	Priority          string             `json:"priority,omitempty"`
	Containers        []groupContainer   `json:"containers"`
	Credentials       []groupCredentials `json:"imageRegistryCredentials,omitempty"`
	Volumes           []groupVolume      `json:"volumes,omitempty"`
	Subnets           []groupSubnet      `json:"subnetIds,omitempty"`
	DNS               map[string]any     `json:"dnsConfig,omitempty"`
	Diagnostics       map[string]any     `json:"diagnostics,omitempty"`
	View              *groupView         `json:"instanceView,omitempty"`
}

type groupSubnet struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

type groupCredentials struct {
	Server   string `json:"server"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Identity string `json:"identity,omitempty"`
}

type groupVolume struct {
	Name      string            `json:"name"`
	EmptyDir  *struct{}         `json:"emptyDir,omitempty"`
	Secret    map[string]string `json:"secret,omitempty"`
	AzureFile map[string]any    `json:"azureFile,omitempty"`
	GitRepo   map[string]any    `json:"gitRepo,omitempty"`
}

type groupContainer struct {
	Name       string              `json:"name"`
	Properties containerProperties `json:"properties"`
}

type containerProperties struct {
	Image     string             `json:"image"`
	Command   []string           `json:"command,omitempty"`
	Env       []variable         `json:"environmentVariables,omitempty"`
	Resources containerResources `json:"resources"`
	Mounts    []mount            `json:"volumeMounts,omitempty"`
	Liveness  *probe             `json:"livenessProbe,omitempty"`
	Security  *security          `json:"securityContext,omitempty"`
	View      *containerView     `json:"instanceView,omitempty"`
}

type variable struct {
	Name   string  `json:"name"`
	Value  *string `json:"value,omitempty"`
	Secure string  `json:"secureValue,omitempty"`
}

type containerResources struct {
	Requests amounts  `json:"requests"`
	Limits   *amounts `json:"limits,omitempty"`
}

type amounts struct {
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memoryInGB"`
	GPU    *gpu    `json:"gpu,omitempty"`
}

type gpu struct {
	Count int    `json:"count"`
	SKU   string `json:"sku"`
}

type mount struct {
	Name     string `json:"name"`
	Path     string `json:"mountPath"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

type probe struct {
	HTTP             *probeHTTP `json:"httpGet,omitempty"`
	InitialDelay     int        `json:"initialDelaySeconds,omitempty"`
	Period           int        `json:"periodSeconds,omitempty"`
	FailureThreshold int        `json:"failureThreshold,omitempty"`
	Timeout          int        `json:"timeoutSeconds,omitempty"`
}

type probeHTTP struct {
	Path   string `json:"path,omitempty"`
	Port   int    `json:"port"`
	Scheme string `json:"scheme,omitempty"`
}

type security struct {
	RunAsUser    *int          `json:"runAsUser,omitempty"`
	RunAsGroup   *int          `json:"runAsGroup,omitempty"`
	Capabilities *capabilities `json:"capabilities,omitempty"`
}

type capabilities struct {
	Add  []string `json:"add,omitempty"`
	Drop []string `json:"drop,omitempty"`
}

type groupView struct {
	State  string  `json:"state"`
	Events []event `json:"events"`
}

type containerView struct {
	Current  *state  `json:"currentState"`
	Previous *state  `json:"previousState"`
	Events   []event `json:"events"`
}

type state struct {
	State    string    `json:"state"` // Waiting, Running, Terminated
	Start    time.Time `json:"startTime"`
	Finish   time.Time `json:"finishTime"`
	ExitCode int       `json:"exitCode"`
	Detail   string    `json:"detailStatus"`
}

type event struct {
	Name    string    `json:"name"`
	Message string    `json:"message"`
	Type    string    `json:"type"`
	Last    time.Time `json:"lastTimestamp"`
	Count   int       `json:"count"`
}

const (
	theContainer = "unit"
	tagBase      = "waybill.log-base" // length of the log file before the unit
	tagStop      = "waybill.stop"     // when somebody asked it to stop
	eventDir     = "event"            // folder of the event: Azure mounts folders, not files
	maxFiles     = 1 << 20            // bytes of all files of a unit
	maxTag       = 256
)

var (
	unitName  = container.NewPattern(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	groupForm = container.NewPattern(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	envName   = container.NewPattern(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// groupName is the name of a unit's group. Azure takes no two hyphens in a row.
func groupName(unit string) string {
	if groupForm.MatchString(unit) {
		return unit
	}
	sum := sha256.Sum256([]byte(unit))
	return "wb-" + hex.EncodeToString(sum[:16])
}

// build makes the resource of a unit. Errors are of kind invalid.
func (r *Runner) build(s runner.Spec, set Settings, now time.Time) (*group, error) {
	g := &group{Location: r.config.Location, Zones: r.config.Zones, Tags: map[string]string{}}
	unit := groupContainer{Name: theContainer}
	if r.profile != nil {
		base := r.profile.copy()
		g = base
		unit = base.Properties.Containers[0]
		unit.Name = theContainer
		g.Location = first(r.config.Location, g.Location)
	}
	if g.Tags == nil {
		g.Tags = map[string]string{}
	}
	maps.Copy(g.Tags, r.config.Tags)
	meta := maps.Clone(s.Meta)
	if meta == nil {
		meta = map[string]string{}
	}
	meta["instance"] = r.instance
	for k, v := range container.Labels(s.Unit, meta) {
		g.Tags[k] = strings.ToValidUTF8(v[:min(len(v), maxTag)], "")
	}
	g.Tags[tagBase] = strconv.FormatInt(container.LogSize(s.Log), 10)
	p := &g.Properties
	p.OSType, p.RestartPolicy = "Linux", "Never"
	p.Priority = first(r.config.Priority, p.Priority)
	c := &unit.Properties
	c.Image = set.Image
	if len(s.Args) > 0 {
		c.Command = s.Args
	} else if set.Image != "" && r.profile != nil && set.Image != r.profile.Properties.Containers[0].Properties.Image {
		c.Command = nil // that of another image
	}
	cpu, memory := float64(set.CPU)/1000, float64(set.Memory)/1e9
	if cpu == 0 {
		cpu = max(c.Resources.Requests.CPU, 0)
	}
	if memory == 0 {
		memory = c.Resources.Requests.Memory
	}
	if cpu == 0 {
		cpu = float64(r.config.CPU) / 1000
	}
	if memory == 0 {
		memory = float64(r.config.Memory) / 1e9
	}
	a := amounts{CPU: cpu, Memory: math.Max(0.1, math.Ceil(memory*10-1e-9)/10)}
	if set.GPU != nil {
		a.GPU = &gpu{Count: max(1, set.GPU.Count), SKU: first(set.GPU.SKU, "V100")}
	}
	c.Resources = containerResources{Requests: a, Limits: &a}
	if m := numericUser.FindStringSubmatch(set.User); m != nil {
		c.Security = &security{}
		for text, at := range map[string]**int{m[1]: &c.Security.RunAsUser, m[2]: &c.Security.RunAsGroup} {
			if text == "" {
				continue
			}
			n, err := strconv.Atoi(text)
			if err != nil || n > math.MaxInt32 {
				return nil, waybill.E(waybill.KindInvalid, "user: %s is too large", text)
			}
			*at = &n
		}
		if m[1] == m[2] {
			c.Security.RunAsGroup = c.Security.RunAsUser
		}
	}
	if add := set.Capabilities(); len(add) > 0 {
		if c.Security == nil {
			c.Security = &security{}
		}
		for i := range add {
			add[i] = strings.TrimPrefix(add[i], "CAP_")
		}
		c.Security.Capabilities = &capabilities{Add: add}
	}
	if !s.HardStop.IsZero() {
		// Azure ends no container after a time. It ends one that is not healthy, and one
		// whose port 1 nobody serves never is: so the health is asked for when the time has
		// come, and not before.
		left := max(s.HardStop.Sub(now), 0)
		c.Liveness = &probe{
			HTTP:         &probeHTTP{Path: "/", Port: 1, Scheme: "http"},
			InitialDelay: max(1, int(min((left+time.Second-1)/time.Second, math.MaxInt32))), Period: 1, FailureThreshold: 1, Timeout: 1,
		}
		g.Tags[container.LabelStop] = s.HardStop.UTC().Format(time.RFC3339Nano)
	}
	if err := r.environment(c, s.Env); err != nil {
		return nil, err
	}
	if err := addFiles(p, c, s.Dir); err != nil {
		return nil, err
	}
	if id := r.config.Identity; id != "" {
		addIdentity(g, id)
	}
	if err := r.addCredentials(g, set); err != nil {
		return nil, err
	}
	if id := first(set.Subnet, r.config.Subnet); id != "" {
		p.Subnets = []groupSubnet{{ID: id}}
	}
	p.Containers = []groupContainer{unit}
	return g, nil
}

// environment gives a container its variables, all of them as values that Azure shows to
// nobody: they hold tokens, the callback's address and secrets.
func (r *Runner) environment(c *containerProperties, env []string) error {
	at := map[string]int{}
	for i, v := range c.Env {
		at[v.Name] = i
	}
	for _, x := range env {
		key, value, _ := strings.Cut(x, "=")
		if !envName.MatchString(key) {
			return waybill.E(waybill.KindInvalid, "the variable %q cannot be given to a container of Azure", key).
				WithHint("names are made of letters, digits and _ and do not begin with a digit")
		}
		if value == path.Join(container.Home, container.Event) {
			value = path.Join(container.Home, eventDir, container.Event)
		}
		v := variable{Name: key, Secure: value}
		if value == "" {
			v.Value = &value // an empty secret is none
		}
		if i, ok := at[key]; ok {
			c.Env[i] = v
		} else {
			at[key] = len(c.Env)
			c.Env = append(c.Env, v)
		}
	}
	return nil
}

// addFiles gives a container its event and input files.
func addFiles(p *groupProperties, c *containerProperties, dir string) error {
	empty := func(volume, sub string) {
		p.Volumes = append(p.Volumes, groupVolume{Name: volume, EmptyDir: &struct{}{}})
		c.Mounts = append(c.Mounts, mount{Name: volume, Path: path.Join(container.Home, sub)})
	}
	empty("waybill-work", container.Work)
	empty("waybill-out", container.Out)
	if dir == "" {
		return nil
	}
	files := map[string]map[string]string{} // by folder
	size := 0
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		sub, file := path.Split(rel)
		switch {
		case rel == container.Event:
			sub = eventDir
		case sub == container.In+"/":
			sub = container.In
		case strings.HasPrefix(rel, container.Out+"/"):
			return nil
		default:
			return waybill.E(waybill.KindInvalid, "the aci runner cannot put %s there: Azure gives a container no files in its working directory", rel).
				WithHint("have the unit read its inputs from WAYBILL_OBJECT and the event, or fetch them itself")
		}
		info, err := os.Stat(at)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		if size += int(min(info.Size(), math.MaxInt32)); size > maxFiles {
			return waybill.E(waybill.KindInvalid, "the event and the input files of the unit take more than %d bytes, the limit of the aci runner", maxFiles).
				WithHint("have the unit fetch large inputs itself, such as from a bucket")
		}
		b, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		if files[sub] == nil {
			files[sub] = map[string]string{}
		}
		files[sub][file] = base64.StdEncoding.EncodeToString(b)
		return nil
	})
	if err != nil {
		if waybill.KindOf(err) == waybill.KindInternal {
			err = waybill.E(waybill.KindUnavailable, "read the files of the unit: %w", err)
		}
		return err
	}
	for _, sub := range []string{eventDir, container.In} {
		if len(files[sub]) > 0 {
			p.Volumes = append(p.Volumes, groupVolume{Name: "waybill-" + sub, Secret: files[sub]})
			c.Mounts = append(c.Mounts, mount{Name: "waybill-" + sub, Path: path.Join(container.Home, sub), ReadOnly: true})
		}
	}
	return nil
}

func addIdentity(g *group, id string) {
	if g.Identity == nil {
		g.Identity = &groupIdentity{Type: "UserAssigned"}
	}
	if g.Identity.UserAssigned == nil {
		g.Identity.UserAssigned = map[string]struct{}{}
	}
	if g.Identity.Type == "SystemAssigned" {
		g.Identity.Type = "SystemAssigned, UserAssigned"
	}
	g.Identity.UserAssigned[id] = struct{}{}
}

// addCredentials says how the image is pulled: with those of the step, or else with the
// identity that is configured for the registry.
func (r *Runner) addCredentials(g *group, set Settings) error {
	ref, err := name.ParseReference(set.Image, name.WithDefaultTag("latest"))
	if err != nil {
		return waybill.E(waybill.KindInvalid, "image %q: %w", set.Image, err)
	}
	host := ref.Context().RegistryStr()
	if set.PullSecret != "" {
		auth, err := container.Credentials(set.PullSecret, host)
		if err != nil {
			return err
		}
		password := first(auth.Password, auth.IdentityToken, auth.RegistryToken)
		user := auth.Username
		if auth.Password == "" && user == "" {
			user = "00000000-0000-0000-0000-000000000000" // what a registry of Azure takes with a token
		}
		if password == "" {
			return nil // credentials for other hosts
		}
		g.Properties.Credentials = []groupCredentials{{Server: host, Username: user, Password: password}}
		return nil
	}
	for _, x := range r.config.Registries {
		if strings.EqualFold(x.Server, host) {
			id := first(x.Identity, r.config.Identity)
			addIdentity(g, id)
			g.Properties.Credentials = append(g.Properties.Credentials, groupCredentials{Server: x.Server, Identity: id})
		}
	}
	return nil
}
