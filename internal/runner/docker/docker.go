// Package docker runs units as containers of an engine that speaks Docker's API: Docker
// from 20.10 (API 1.41) on, and Podman.
//
// # The life of a unit
//
// A unit is one container, found by its name and known by its labels; what lacks ours is
// never touched. Start has its image pulled, creates it, starts it and sends it an order
// with arguments and environment; [inside] is what receives that in the container, and
// says why neither is in the container's own settings. Each of these steps can be the
// last of a server: the next Start finds the container by its name and goes on where the
// first one was. A container whose order never came has executed nothing, and is made
// anew.
//
// The container's log is the only record of a unit: its beginning, its output and its
// end. It is kept by a log driver of the engine without limit until Remove, and read from
// the beginning by whoever takes the unit up, see [container.Replay]. What the engine
// says of a container's end is asked for only when its first process could not speak any
// more.
//
// # Files
//
// A unit's home is mounted into the container where the engine sees the same files as
// this server, which is tried out once. Elsewhere its files are copied into a volume of
// the container before it starts, and work/ and out/ are copied back when it has ended.
package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Name is the name of this runner in definitions.
const Name = "docker"

// Config is what waybill.yaml says of it.
type Config struct {
	Host    string `json:"host" doc:"address of the engine; else DOCKER_HOST, else the first socket of Docker or Podman that is there" example:"unix:///run/podman/podman.sock"`
	TLSCA   string `json:"tls_ca" doc:"file with the authority of the engine's certificate"`
	TLSCert string `json:"tls_cert" doc:"file with the certificate that this server shows to the engine"`
	TLSKey  string `json:"tls_key" doc:"file with the key of that certificate"`
	Network string `json:"network" doc:"network of steps that do not say one" enum:"none,host,bridge" default:"bridge"`
	Subnet  string `json:"subnet" doc:"addresses of the network that is made for units; else the engine chooses" example:"172.30.0.0/24"`
	Files   string `json:"files" doc:"how units get their files: mount needs an engine that sees this server's data folder, copy works everywhere; auto tries mount" enum:"auto,mount,copy" default:"auto"`
}

// Check says what is wrong with the settings.
func (c Config) Check() error {
	one := func(key, value string, words ...string) error {
		for _, w := range append(words, "") {
			if value == w {
				return nil
			}
		}
		return waybill.E(waybill.KindInvalid, "docker: %s: expected one of %s, found %q", key, strings.Join(words, ", "), value)
	}
	if err := one("network", c.Network, container.NetworkNone, container.NetworkHost, container.NetworkBridge); err != nil {
		return err
	}
	if err := one("files", c.Files, filesAuto, filesMount, filesCopy); err != nil {
		return err
	}
	if c.Subnet != "" {
		if p, err := netip.ParsePrefix(c.Subnet); err != nil || p.Masked() != p {
			return waybill.E(waybill.KindInvalid, "docker: subnet: expected addresses such as 172.30.0.0/24, found %q", c.Subnet)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return waybill.E(waybill.KindInvalid, "docker: tls_cert and tls_key belong together")
	}
	if c.Host != "" {
		if _, err := client.ParseHostURL(c.Host); err != nil {
			return waybill.E(waybill.KindInvalid, "docker: host: %v", err).WithHint("it is written like unix:///var/run/docker.sock or tcp://host:2376")
		}
	}
	return nil
}

// How units get their files.
const (
	filesAuto  = "auto"
	filesMount = "mount"
	filesCopy  = "copy"
)

// Options are what a [Runner] is made of.
type Options struct {
	Config
	// Instance is the id of the store. Containers of other instances are not ours.
	Instance string
	// Program is a static executable that is [inside.Main] when it is called with
	// ProgramArgs. Empty means this program, which is static in what we release.
	Program     string
	ProgramArgs []string
	// Unprivileged says that this server may not touch files of other users, so that a
	// container does so for it. It is, unless its user is root.
	Unprivileged bool
	// Patience is how long a call may take, and Wait goes on without an answer of the
	// engine. Default 30 s.
	Patience time.Duration
	// Logger receives what nobody is answered. Nil means nothing is logged.
	Logger *slog.Logger
}

// Runner implements [runner.Contained].
type Runner struct {
	o      Options
	api    *client.Client
	log    *slog.Logger
	open   context.Context // ends with Close
	close  context.CancelFunc
	live   sync.WaitGroup
	short  string // of the instance, for names
	remote bool   // the engine is on another machine

	starting keyed
	making   sync.Mutex // of the network

	mu      sync.Mutex
	units   map[string]*unit
	engine  *engine    // what is known of it, once it answered
	files   string     // how units get theirs, once it was tried out
	program string     // volume with this program, once it was filled
	gateway netip.Addr // of the network of units, as it was last seen
	seen    time.Time  // when the engine last answered
}

var (
	_ runner.Contained = (*Runner)(nil)
	_ runner.Bridged   = (*Runner)(nil)
	_ runner.Described = (*Runner)(nil)
)

// New makes a runner without asking the engine anything: that may come later.
func New(o Options) (*Runner, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Network == "" {
		o.Network = container.NetworkBridge
	}
	if o.Program == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, waybill.E(waybill.KindInternal, "docker: %w", err)
		}
		o.Program = exe
	}
	o.Unprivileged = o.Unprivileged || os.Geteuid() != 0
	host := hostOf(o.Config)
	opts := []client.Opt{client.WithHost(host), client.WithUserAgent("waybill")}
	if o.TLSCA != "" || o.TLSCert != "" {
		opts = append(opts, client.WithTLSClientConfig(o.TLSCA, o.TLSCert, o.TLSKey))
	} else if o.Host == "" {
		opts = append(opts, client.WithTLSClientConfigFromEnv())
	}
	api, err := client.New(opts...)
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "docker: %v", err)
	}
	sum := sha256.Sum256([]byte(o.Instance))
	r := &Runner{
		o: o, api: api, log: o.Logger, short: hex.EncodeToString(sum[:4]), remote: elsewhere(host),
		units: map[string]*unit{}, files: o.Files,
	}
	r.open, r.close = context.WithCancel(context.Background())
	return r, nil
}

// hostOf is the engine's address: what was said, or the first socket that is there.
func hostOf(c Config) string {
	if c.Host != "" {
		return c.Host
	}
	if h := os.Getenv(client.EnvOverrideHost); h != "" {
		return h
	}
	sockets := []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "docker.sock"), filepath.Join(dir, "podman", "podman.sock"))
	}
	for _, s := range sockets {
		if info, err := os.Stat(s); err == nil && info.Mode()&os.ModeSocket != 0 {
			return "unix://" + s
		}
	}
	return "unix://" + sockets[0]
}

// elsewhere reports whether an address is of another machine.
func elsewhere(host string) bool {
	u, err := url.Parse(host)
	if err != nil || u.Scheme == "unix" || u.Scheme == "npipe" || u.Scheme == "fd" {
		return false
	}
	name := u.Hostname()
	if a, err := netip.ParseAddr(name); err == nil {
		return !a.IsLoopback()
	}
	return name != "localhost"
}

// Name returns [Name].
func (r *Runner) Name() string { return Name }

// Home implements [runner.Contained].
func (r *Runner) Home() string { return container.Home }

// Reach implements [runner.Contained]: units of an engine on another machine call the
// public address, all others the one on the network of containers.
func (r *Runner) Reach() runner.Reach {
	if r.remote {
		return runner.ReachPublic
	}
	return runner.ReachBridge
}

// Definition checks and describes steps of this runner; it starts nothing.
type Definition struct{ runner.Contained }

// Name returns [Name].
func (Definition) Name() string { return Name }

// Settings implements [runner.Described].
func (Definition) Settings() any { return container.Settings{} }

// Check implements [runner.Runner].
func (Definition) Check(_ []string, with json.RawMessage) error {
	var s container.Settings
	if err := runner.DecodeOpen(with, &s); err != nil {
		return err
	}
	return s.Check(true)
}

// Settings implements [runner.Described].
func (r *Runner) Settings() any { return Definition{}.Settings() }

// Check implements [runner.Runner].
func (r *Runner) Check(args []string, with json.RawMessage) error {
	return Definition{}.Check(args, with)
}

// Close implements [runner.Runner]: units go on.
func (r *Runner) Close() error {
	r.close()
	r.live.Wait()
	return r.api.Close()
}

var unitName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// containerName is the name of a unit's container. Units of other instances may have the
// same name, so it has something of ours.
func (r *Runner) containerName(unit string) string { return "waybill-" + unit + "-" + r.short }

// keyed are locks by name.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock takes the lock of a name, or returns the context's error.
func (k *keyed) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]chan struct{}{}
		}
		other, taken := k.held[name]
		if !taken {
			done := make(chan struct{})
			k.held[name] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, name)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
