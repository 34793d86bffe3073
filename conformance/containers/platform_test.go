//go:build linux

package containers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// platform is where containers run.
type platform struct {
	name     string
	settings func() string // for waybill.yaml
	need     func(t *testing.T)
	// left is what there is of units of a server, whatever the server knows of it.
	left func(w *world) ([]leftover, error)
	// vanish removes the container of a unit behind the server's back.
	vanish func(w *world, unit string)
	// decoy makes a container that is not of this server, and returns whether it is there.
	decoy func(w *world) func() bool
	// sweep removes what is left of a server that is gone.
	sweep func(t *testing.T, w *world)
}

type leftover struct{ unit, what string }

func platforms() []platform {
	return []platform{
		{name: "oci", need: needOCI, settings: func() string { return "runners:\n  oci: {subnet: " + subnet() + "}\n" }, left: leftOCI, vanish: vanishOCI, decoy: decoyOCI, sweep: sweepOCI},
		{
			name: "docker", need: needDocker, settings: func() string {
				return "runners:\n  docker: {host: '" + os.Getenv(hostVar) + "', subnet: " + subnet() + "}\n"
			},
			left: leftDocker, vanish: vanishDocker, decoy: decoyDocker, sweep: sweepDocker,
		},
	}
}

// subnet is one of which there are more than of those that an engine chooses from.
func subnet() string { return fmt.Sprintf("10.%d.%d.0/24", 64+rand.IntN(128), rand.IntN(256)) }

// missing skips a test, or fails it where everything must be there.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func needOCI(t *testing.T) {
	t.Helper()
	registrytest.Base(t)
	if os.Geteuid() != 0 {
		missing(t, "bridges and control groups need root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		missing(t, "runc is not installed")
	}
}

func needDocker(t *testing.T) {
	t.Helper()
	registrytest.Base(t)
	if os.Getenv(hostVar) == "" {
		missing(t, "there is no engine of Docker: install the package docker.io, or set "+hostVar)
	}
}

// instanceOCI is the name that everything of the runner oci has.
func instanceOCI(w *world) string {
	if w.instance != "" {
		return w.instance
	}
	b, _ := os.ReadFile(filepath.Join(w.DataDir(), "oci", "instance")) // not there before the first unit
	return strings.TrimSpace(string(b))
}

func leftOCI(w *world) (left []leftover, err error) {
	entries, err := os.ReadDir(filepath.Join(w.DataDir(), "oci", "units"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for _, e := range entries {
		left = append(left, leftover{e.Name(), "folder of the runner"})
	}
	id := instanceOCI(w)
	if id == "" {
		return left, nil
	}
	for _, dir := range []string{"/run/waybill/" + id, "/run/waybill/" + id + "/state"} {
		entries, _ := os.ReadDir(dir) // not there when nothing runs
		for _, e := range entries {
			if e.IsDir() && e.Name() != "state" {
				left = append(left, leftover{strings.TrimPrefix(e.Name(), "waybill-"+id[:8]+"-"), dir + "/" + e.Name()})
			}
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && filepath.Base(filepath.Dir(path)) == "waybill-"+id[:8] {
			left = append(left, leftover{d.Name(), "control group " + path})
			return fs.SkipDir
		}
		return nil // others come and go
	})
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[1], "/run/waybill/"+id+"/") && !strings.HasPrefix(f[1], w.DataDir()+"/oci/units/") {
			continue
		}
		rest, _ := strings.CutPrefix(f[1], "/run/waybill/"+id+"/")
		unit, _, _ := strings.Cut(strings.TrimPrefix(rest, w.DataDir()+"/oci/units/"), "/")
		left = append(left, leftover{unit, "mount at " + f[1]})
	}
	return left, nil
}

// linksOCI are the connections of units to the bridge of a server.
func linksOCI(w *world) (names []string) {
	all, err := net.Interfaces()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range all {
		master, _ := os.Readlink("/sys/class/net/" + i.Name + "/master") // most have none
		if id := instanceOCI(w); id != "" && filepath.Base(master) == "wb"+id[:10] {
			names = append(names, i.Name)
		}
	}
	return names
}

// groupsOCI are the control groups of a server's units, for each hierarchy.
func groupsOCI(w *world) (dirs []string) {
	id := instanceOCI(w)
	if id == "" {
		return nil
	}
	for _, pattern := range []string{"/sys/fs/cgroup/waybill-" + id[:8], "/sys/fs/cgroup/*/waybill-" + id[:8]} {
		all, _ := filepath.Glob(pattern) // the pattern is right
		dirs = append(dirs, all...)
	}
	return dirs
}

// killOCI kills what is in the control groups of a unit, of all with an empty name, and
// returns how many processes that were.
func killOCI(w *world, unit string) (n int) {
	for _, dir := range groupsOCI(w) {
		files, _ := filepath.Glob(filepath.Join(dir, cmp.Or(unit, "*"), "cgroup.procs"))
		for _, f := range files {
			b, _ := os.ReadFile(f) // gone meanwhile
			for _, pid := range strings.Fields(string(b)) {
				if p, err := strconv.Atoi(pid); err == nil && p > 1 {
					n++
					_ = syscall.Kill(p, syscall.SIGKILL)
				}
			}
		}
	}
	return n
}

func vanishOCI(w *world, unit string) {
	w.t.Helper()
	if killOCI(w, unit) == 0 {
		w.t.Fatalf("unit %s has no process in its control groups", unit)
	}
}

// decoyOCI is a container of the same runtime that somebody else made.
func decoyOCI(w *world) func() bool {
	t := w.t
	t.Helper()
	dir := filepath.Join(w.Dir(), "decoy")
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	box, err := os.ReadFile("/bin/busybox")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rootfs", "bin", "sleep"), box, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	runc := func(args ...string) ([]byte, error) {
		cmd := exec.Command("runc", append([]string{"--root", state}, args...)...)
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}
	if out, err := runc("spec"); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, out)
	}
	var spec map[string]any
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/bin/sleep", "1000"}
	id := fmt.Sprintf("waybill-decoy-%d", time.Now().UnixNano())
	spec["linux"].(map[string]any)["cgroupsPath"] = "/waybill-decoys/" + id
	if b, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	start := exec.Command("runc", "--root", state, "run", "--detach", id)
	start.Dir = dir
	if err := start.Run(); err != nil { // its output would be kept open by the container
		t.Fatalf("runc run: %v", err)
	}
	t.Cleanup(func() { _, _ = runc("delete", "--force", id) })
	return func() bool {
		out, err := runc("state", id)
		return err == nil && strings.Contains(string(out), `"running"`)
	}
}

// sweepOCI removes what a failed test left.
func sweepOCI(t *testing.T, w *world) {
	if w.Server == nil {
		return
	}
	id := instanceOCI(w)
	if id == "" {
		return
	}
	_ = harness.Await(10*time.Second, func() error {
		if n := killOCI(w, ""); n > 0 {
			return fmt.Errorf("%d processes are left", n)
		}
		return nil
	})
	for _, dir := range groupsOCI(w) {
		subs, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, sub := range subs {
			_ = syscall.Rmdir(filepath.Dir(sub))
		}
		_ = syscall.Rmdir(dir)
	}
	mounts, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], "/run/waybill/"+id+"/") {
			_ = exec.Command("umount", "-l", f[1]).Run()
		}
	}
	_ = exec.Command("ip", "link", "delete", "wb"+id[:10]).Run()
	if err := os.RemoveAll("/run/waybill/" + id); err != nil {
		t.Errorf("what is left of the runner: %v", err)
	}
}

// engine is a client of the engine.
func engine(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.WithHost(os.Getenv(hostVar)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// containers are those with a label.
func containers(t *testing.T, label string) []dockercontainer.Summary {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := engine(t).ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

func leftDocker(w *world) (left []leftover, err error) {
	for _, c := range containers(w.t, container.LabelUnit) {
		left = append(left, leftover{c.Labels[container.LabelUnit], "container " + c.ID[:12] + " " + c.Status})
	}
	l, err := engine(w.t).VolumeList(w.ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", container.LabelUnit)})
	if err != nil {
		return nil, err
	}
	for _, v := range l.Items {
		left = append(left, leftover{v.Labels[container.LabelUnit], "volume " + v.Name})
	}
	return left, nil
}

func containerOf(w *world, unit string) string {
	w.t.Helper()
	all := containers(w.t, container.LabelUnit+"="+unit)
	if len(all) != 1 {
		w.t.Fatalf("there are %d containers of unit %s", len(all), unit)
	}
	return all[0].ID
}

func vanishDocker(w *world, unit string) {
	w.t.Helper()
	if _, err := engine(w.t).ContainerRemove(w.ctx, containerOf(w, unit), client.ContainerRemoveOptions{Force: true}); err != nil {
		w.t.Fatal(err)
	}
}

// decoyDocker makes a container of nobody and one of another server, with the labels that
// units of this one have.
func decoyDocker(w *world) func() bool {
	t := w.t
	t.Helper()
	api := engine(t)
	pull, err := api.ImagePull(w.ctx, w.image, client.ImagePullOptions{})
	if err == nil {
		err = pull.Wait(w.ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, labels := range []map[string]string{
		{}, {"waybill": "no"},
		{container.LabelInstance: "another", container.LabelUnit: "another-1-step-1", container.LabelRun: "another"},
		{container.LabelUnit: "no-instance-1-step-1"},
	} {
		c, err := api.ContainerCreate(w.ctx, client.ContainerCreateOptions{
			Config:     &dockercontainer.Config{Image: w.image, Cmd: []string{"sleep", "1000"}, Labels: labels},
			HostConfig: &dockercontainer.HostConfig{NetworkMode: "none"},
		})
		if err == nil {
			_, err = api.ContainerStart(w.ctx, c.ID, client.ContainerStartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
		t.Cleanup(func() {
			_, _ = api.ContainerRemove(context.Background(), c.ID, client.ContainerRemoveOptions{Force: true})
		})
	}
	return func() bool {
		for _, id := range ids {
			if c, err := api.ContainerInspect(w.ctx, id, client.ContainerInspectOptions{}); err != nil || !c.Container.State.Running {
				return false
			}
		}
		return true
	}
}

// sweepDocker removes the network of a server, and what a failed test left.
func sweepDocker(t *testing.T, w *world) {
	if w.Server == nil || os.Getenv(hostVar) == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	api := engine(t)
	nets, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", container.LabelInstance)})
	if err != nil {
		t.Errorf("networks: %v", err)
	}
	for _, n := range nets.Items {
		for _, c := range n.IPAM.Config {
			if _, ours := w.gateways[c.Gateway.String()]; !ours {
				continue
			}
			label := container.LabelInstance + "=" + n.Labels[container.LabelInstance]
			for _, c := range containers(t, label) {
				_, _ = api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true})
			}
			if _, err := api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil {
				t.Errorf("remove the network: %v", err)
			}
			if l, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", label)}); err == nil {
				for _, v := range l.Items {
					_, _ = api.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{Force: true})
				}
			}
		}
	}
}
