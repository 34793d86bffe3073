package kubernetes

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Config are the settings of the runner in waybill.yaml.
type Config struct {
	Kubeconfig       string            `json:"kubeconfig" doc:"file with the address and credentials of the cluster; else KUBECONFIG, ~/.kube/config, or inside of a cluster the service account of the server's pod"`
	Context          string            `json:"context" doc:"which of the file's contexts; else its current one"`
	Namespace        string            `json:"namespace" doc:"where Jobs and Secrets are made; else that of the context"`
	ServiceAccount   string            `json:"service_account" doc:"service account of units; its token is not mounted unless a step asks for it"`
	NodeSelector     map[string]string `json:"node_selector" doc:"labels of the nodes that units run on"`
	Tolerations      []Toleration      `json:"tolerations" doc:"taints of nodes that units run on all the same"`
	ImagePullSecrets []string          `json:"image_pull_secrets" doc:"names of Secrets with credentials for registries, in the namespace"`
	PriorityClass    string            `json:"priority_class" doc:"priority class of units"`
	RuntimeClass     string            `json:"runtime_class" doc:"runtime class of units, such as one for gVisor"`
	Labels           map[string]string `json:"labels" doc:"further labels of everything that is made"`
	Annotations      map[string]string `json:"annotations" doc:"further annotations of Jobs and their pods"`
	KeepFor          runner.Duration   `json:"keep_for" doc:"the cluster removes a Job that has ended after so long, should Waybill not have done it" default:"24h"`
	PullPatience     runner.Duration   `json:"pull_patience" doc:"how long the nodes may try to pull an image while its registry does not answer or limits them" default:"2m"`
	SchedulePatience runner.Duration   `json:"schedule_patience" doc:"how long a unit may wait for a node that has room for it" default:"10m"`
}

// Toleration is one of a pod.
type Toleration struct {
	Key      string `json:"key" doc:"key of the taint; none means every taint"`
	Operator string `json:"operator" doc:"Exists, or Equal" enum:"Exists,Equal" default:"Equal"`
	Value    string `json:"value" doc:"value of the taint"`
	Effect   string `json:"effect" doc:"effect of the taint; none means all" enum:"NoSchedule,PreferNoSchedule,NoExecute"`
}

// Settings are what a step can say in its "with".
type Settings struct {
	container.Settings
	ServiceAccount string            `json:"service_account" doc:"service account of this unit instead of the configured one"`
	MountToken     bool              `json:"mount_token" doc:"the unit gets the token of its service account, and so may call the cluster"`
	NodeSelector   map[string]string `json:"node_selector" doc:"labels of the nodes that it runs on, besides the configured ones"`
	Tolerations    []Toleration      `json:"tolerations" doc:"taints of nodes that it runs on all the same, besides the configured ones"`
	Disk           container.Size    `json:"disk" doc:"room for files and logs on the node; a unit that takes more is evicted" example:"2GiB"`
	Requests       *Requests         `json:"requests" doc:"what a node must have free, when that is less than the limits cpu and memory"`
}

// Requests are what a node must have free for a unit.
type Requests struct {
	CPU    container.CPU  `json:"cpu" doc:"processors"`
	Memory container.Size `json:"memory" doc:"memory"`
}

func (c *Config) defaults() {
	for _, d := range []struct {
		at  *runner.Duration
		def time.Duration
	}{{&c.KeepFor, 24 * time.Hour}, {&c.PullPatience, 2 * time.Minute}, {&c.SchedulePatience, 10 * time.Minute}} {
		if *d.at == 0 {
			*d.at = runner.Duration(d.def)
		}
	}
}

// Check says what is wrong with the configuration.
func (c *Config) Check() error {
	for _, t := range c.Tolerations {
		if err := t.check(); err != nil {
			return err
		}
	}
	for _, name := range append(slices.Clone(c.ImagePullSecrets), c.Namespace, c.ServiceAccount, c.PriorityClass, c.RuntimeClass) {
		if name != "" && !dnsName.MatchString(name) {
			return waybill.E(waybill.KindInvalid, "%q is no name of something in a cluster", name)
		}
	}
	for _, m := range []map[string]string{c.NodeSelector, c.Labels} {
		if err := checkLabels(m); err != nil {
			return err
		}
	}
	return nil
}

var (
	dnsName    = container.NewPattern(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	labelKey   = container.NewPattern(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)
	labelValue = container.NewPattern(`^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$`)
	numbers    = container.NewPattern(`^([0-9]+)(?::([0-9]+))?$`)
)

func checkLabels(m map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !labelKey.MatchString(k) {
			return waybill.E(waybill.KindInvalid, "%q is no key of a label", k)
		}
		if !labelValue.MatchString(m[k]) && !runner.HasExpression(m[k]) {
			return waybill.E(waybill.KindInvalid, "label %s: %q is no value of a label", k, m[k]).WithHint("at most 63 letters, digits and .-_ that begin and end with a letter or digit")
		}
	}
	return nil
}

func (t Toleration) check() error {
	switch {
	case t.Operator != "" && t.Operator != "Exists" && t.Operator != "Equal":
		return waybill.E(waybill.KindInvalid, "tolerations: operator: expected Exists or Equal, found %q", t.Operator)
	case t.Operator == "Exists" && t.Value != "":
		return waybill.E(waybill.KindInvalid, "tolerations: a toleration by Exists has no value, found %q", t.Value)
	case t.Key == "" && t.Operator != "Exists":
		return waybill.E(waybill.KindInvalid, "tolerations: one without a key needs the operator Exists")
	case t.Effect != "" && !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, t.Effect):
		return waybill.E(waybill.KindInvalid, "tolerations: effect: expected NoSchedule, PreferNoSchedule or NoExecute, found %q", t.Effect)
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
	switch {
	case known(s.Network) && s.Network != container.NetworkBridge:
		return s, waybill.E(waybill.KindInvalid, "network: %s cannot be had of the kubernetes runner, whose units are in the network of their pod", s.Network).
			WithHint("leave network out; a NetworkPolicy of the namespace says whom pods may call")
	case s.Pids > 0:
		return s, waybill.E(waybill.KindInvalid, "pids: Kubernetes has no such limit for a pod").WithHint("the kubelet's podPidsLimit holds for all pods of a node")
	case known(s.User) && !numbers.MatchString(s.User):
		return s, waybill.E(waybill.KindInvalid, "user: Kubernetes takes numbers only, found %q", s.User).WithHint("write 1000 or 1000:1000")
	case s.MountToken && s.ServiceAccount == "default":
		return s, waybill.E(waybill.KindInvalid, "mount_token: not for the default service account").WithHint("make one with the rights that the unit needs")
	case known(s.ServiceAccount) && !dnsName.MatchString(s.ServiceAccount):
		return s, waybill.E(waybill.KindInvalid, "service_account: %q is no name", s.ServiceAccount)
	}
	for _, t := range s.Tolerations {
		if known(t.Operator) || known(t.Effect) || t.Operator == "" {
			if err := t.check(); err != nil && !(open && (runner.HasExpression(t.Operator) || runner.HasExpression(t.Effect) || runner.HasExpression(t.Key))) {
				return s, err
			}
		}
	}
	if r := s.Requests; r != nil && (s.CPU > 0 && r.CPU > s.CPU || s.Memory > 0 && r.Memory > s.Memory) {
		return s, waybill.E(waybill.KindInvalid, "requests: more than the limits cpu and memory allow")
	}
	return s, checkLabels(s.NodeSelector)
}

// userOf are the numbers of user:group.
func userOf(text string) (uid, gid *int64, err error) {
	m := numbers.FindStringSubmatch(text)
	if m == nil {
		return nil, nil, nil
	}
	read := func(s string) *int64 {
		if s == "" || err != nil {
			return nil
		}
		n, e := strconv.ParseInt(s, 10, 32)
		if e != nil {
			err = waybill.E(waybill.KindInvalid, "user: %s is too large", s)
		}
		return &n
	}
	uid, gid = read(m[1]), read(m[2])
	return uid, gid, err
}

// labels are those of everything that belongs to a unit. Values that no label can hold
// are made to fit; the annotations hold them as they are.
func labels(unit string, meta map[string]string, more map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, more)
	for k, v := range container.Labels(unit, meta) {
		out[k] = asLabel(v)
	}
	return out
}

func asLabel(v string) string {
	v = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '-'
	}, v)
	if len(v) > 63 {
		v = v[:63]
	}
	return strings.Trim(v, "-_.")
}

func (t Toleration) String() string {
	return fmt.Sprintf("%s %s %s %s", t.Key, t.Operator, t.Value, t.Effect)
}
