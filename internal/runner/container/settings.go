// Package container is what the runners of containers have in common: the settings of a
// step, the layout of a unit's home, and what a registry's answers mean. It starts
// nothing.
package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/schema"
)

// Settings are what a step of any container runner can say in its "with". The "image"
// of a step is written into them when its definition is read. A runner that has more
// embeds them.
type Settings struct {
	Image      string   `json:"image" doc:"image by tag or digest; the digest that ran is recorded with the attempt" example:"ghcr.io/acme/crunch:1.4"`
	Pull       string   `json:"pull" doc:"when the registry is asked: always; missing: when the image is not here yet; never" enum:"always,missing,never" default:"missing"`
	PullSecret string   `json:"pull_secret" doc:"credentials for the registry: user:password, {\"username\":…,\"password\":…}, or the text of a Docker config.json; written as a reference to a secret" example:"${secret:REGISTRY}"`
	Platform   string   `json:"platform" doc:"operating system and architecture of the image, where it has several" example:"linux/amd64"`
	Args       []string `json:"args" doc:"arguments for the entrypoint of the image, instead of its own; a step with run replaces the entrypoint too"`
	Workdir    string   `json:"workdir" doc:"absolute path of the working directory; else that of the unit's files when the step has run, and the image's when it has not"`
	User       string   `json:"user" doc:"user and group as numbers or names of the image" example:"1000:1000"`
	CPU        CPU      `json:"cpu" doc:"processors, also in parts" example:"0.5"`
	Memory     Size     `json:"memory" doc:"memory; a unit that takes more is killed and ends as oom_killed" example:"512MiB"`
	Pids       int      `json:"pids" doc:"processes and threads at once"`
	Network    string   `json:"network" doc:"none; bridge: a network of containers from which the callback is reached; host: that of the machine" enum:"none,host,bridge"`
	Writable   bool     `json:"writable" doc:"the root file system of the container can be written; else only the unit's files and /tmp"`
	TmpSize    Size     `json:"tmp_size" doc:"room in /tmp, which is in memory" default:"64MiB"`
	CapAdd     []string `json:"cap_add" doc:"capabilities that the unit keeps; all others are dropped" example:"[\"NET_BIND_SERVICE\"]"`
}

// Networks and pull policies.
const (
	NetworkNone   = "none"
	NetworkHost   = "host"
	NetworkBridge = "bridge"

	PullAlways  = "always"
	PullMissing = "missing"
	PullNever   = "never"
)

// Check says what is wrong with the settings. open is for those of a definition that is
// only looked at, whose texts may hold references.
func (s *Settings) Check(open bool) error {
	known := func(text string) bool { return text != "" && !(open && runner.HasExpression(text)) }
	if s.Image == "" {
		return waybill.E(waybill.KindInvalid, "a container needs an image").WithHint("add image: to the step")
	}
	if known(s.Image) {
		if _, err := name.ParseReference(s.Image, name.WithDefaultTag("latest")); err != nil {
			return waybill.E(waybill.KindInvalid, "image %q: %s", s.Image, plainReference(err))
		}
	}
	if err := word("pull", s.Pull, known, PullAlways, PullMissing, PullNever); err != nil {
		return err
	}
	if err := word("network", s.Network, known, NetworkNone, NetworkHost, NetworkBridge); err != nil {
		return err
	}
	if known(s.Workdir) && (!path.IsAbs(s.Workdir) || strings.ContainsRune(s.Workdir, 0)) {
		return waybill.E(waybill.KindInvalid, "workdir: expected an absolute path, found %q", s.Workdir)
	}
	if known(s.Platform) && !platform.MatchString(s.Platform) {
		return waybill.E(waybill.KindInvalid, "platform: expected os/architecture such as linux/amd64, found %q", s.Platform)
	}
	if known(s.User) && !user.MatchString(s.User) {
		return waybill.E(waybill.KindInvalid, "user: expected user or user:group, found %q", s.User)
	}
	if s.Pids < 0 {
		return waybill.E(waybill.KindInvalid, "pids: expected a positive number, found %d", s.Pids)
	}
	for _, c := range s.CapAdd {
		if known(c) && !capability.MatchString(c) {
			return waybill.E(waybill.KindInvalid, "cap_add: %q is no capability", c).WithHint("they are written like NET_BIND_SERVICE")
		}
	}
	return nil
}

var (
	platform   = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$`)
	user       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
	capability = regexp.MustCompile(`^(CAP_)?[A-Z][A-Z0-9_]*$`)
)

func word(key, value string, known func(string) bool, words ...string) error {
	if !known(value) {
		return nil
	}
	for _, w := range words {
		if value == w {
			return nil
		}
	}
	return waybill.E(waybill.KindInvalid, "%s: expected one of %s, found %q", key, strings.Join(words, ", "), value)
}

// plainReference drops from a parser's error what only its own users understand.
func plainReference(err error) string {
	text := strings.TrimPrefix(err.Error(), "could not parse reference: ")
	return strings.TrimSpace(text)
}

// PullPolicy is when the registry is asked.
func (s *Settings) PullPolicy() string {
	if s.Pull == "" {
		return PullMissing
	}
	return s.Pull
}

// Capabilities are those that the unit keeps, each as CAP_NAME.
func (s *Settings) Capabilities() []string {
	out := make([]string, len(s.CapAdd))
	for i, c := range s.CapAdd {
		out[i] = "CAP_" + strings.TrimPrefix(c, "CAP_")
	}
	return out
}

// CPU is a share of processors in thousandths. It is written as a number (0.5) or as
// Kubernetes does ("500m").
type CPU int64

// MarshalJSON writes it as thousandths, as it is read.
func (c CPU) MarshalJSON() ([]byte, error) {
	return json.Marshal(strconv.FormatInt(int64(c), 10) + "m")
}

// UnmarshalJSON reads a number of processors.
func (c *CPU) UnmarshalJSON(b []byte) error {
	text := string(bytes.TrimSpace(b))
	if s := ""; json.Unmarshal(b, &s) == nil {
		text = s
	}
	milli, scale := strings.CutSuffix(text, "m")
	f, err := strconv.ParseFloat(milli, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("expected a number of processors such as 0.5 or 500m, found %s", b)
	}
	if !scale {
		f *= 1000
	}
	if f < 1 || f > 1e6 {
		return fmt.Errorf("expected from 0.001 to 1000 processors, found %s", b)
	}
	*c = CPU(math.Round(f))
	return nil
}

// JSONSchema implements schema.Described.
func (CPU) JSONSchema() map[string]any {
	return schema.Either(schema.Number(), schema.Pattern(`[0-9.]+m?`))
}

// Size is a number of bytes, written as a number or with a unit: 512MiB, 1.5GiB, and as
// Kubernetes does, 512Mi.
type Size int64

// MarshalJSON writes the bytes.
func (s Size) MarshalJSON() ([]byte, error) { return json.Marshal(int64(s)) }

var (
	sizeForm  = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(i?)[bB]?$`)
	sizePower = map[string]float64{"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
)

// UnmarshalJSON reads a number of bytes.
func (s *Size) UnmarshalJSON(b []byte) error {
	text := string(bytes.TrimSpace(b))
	if t := ""; json.Unmarshal(b, &t) == nil {
		text = t
	}
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("expected a size such as 512MiB or 1GiB, found %s", b)
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return err
	}
	base := 1024.0
	if m[3] == "" && m[2] != "" {
		base = 1000
	}
	if f *= math.Pow(base, sizePower[m[2]]); f > 1<<60 {
		return fmt.Errorf("%s is too large", b)
	}
	*s = Size(f)
	return nil
}

// JSONSchema implements schema.Described.
func (Size) JSONSchema() map[string]any {
	return schema.Either(schema.Schema{"type": "integer", "minimum": 0}, schema.Pattern(`[0-9.]+ ?[KMGT]?i?[bB]?`)).With("examples", []any{"512MiB", "1GiB"})
}
