package docker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/docker"
	"github.com/waybill-run/waybill/internal/runner/dockertest"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
)

// world is what all tests share: an engine, a program for its containers and an image.
type world struct {
	daemon  *dockertest.Daemon
	program string
	image   string
	api     *client.Client
}

var (
	shared     world
	sharedOnce sync.Once
	instances  atomic.Int64
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.daemon != nil {
		if err := shared.daemon.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if shared.program != "" {
		_ = os.RemoveAll(filepath.Dir(shared.program))
	}
	os.Exit(code)
}

// engine returns the world of the tests.
func engine(t *testing.T) world {
	t.Helper()
	// The address of an engine to be used instead of one of the tests' own, such as that
	// of Podman.
	other := os.Getenv("WAYBILL_TEST_ENGINE")
	if other == "" {
		dockertest.Need(t)
	}
	registrytest.Base(t) // skips where there is no busybox
	sharedOnce.Do(func() {
		d, err := dockertest.At(other), error(nil)
		if other == "" {
			d, err = dockertest.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		shared.daemon = d
		shared.program = buildProgram(t)
		if shared.api, err = client.New(client.WithHost(d.Host())); err != nil {
			t.Fatal(err)
		}
		reg := registrytest.New(t)
		ref, _ := reg.Push(t, "base:v1", registrytest.Base(t).Build(t))
		pull, err := shared.api.ImagePull(t.Context(), ref, client.ImagePullOptions{})
		if err == nil {
			_, err = io.Copy(io.Discard, pull)
		}
		if err != nil {
			t.Fatal(err)
		}
		shared.image = ref
	})
	if shared.image == "" {
		t.Fatal("the engine could not be set up")
	}
	return shared
}

// buildProgram makes the static program that containers get.
func buildProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "waybill-docker-program-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "waybill")
	cmd := exec.Command("go", "build", "-o", at, "./inside/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return at
}

func (w world) options(t *testing.T) docker.Options {
	return docker.Options{
		Config:   docker.Config{Host: w.daemon.Host(), Network: container.NetworkNone},
		Instance: fmt.Sprintf("test-%d-%d", os.Getpid(), instances.Add(1)), Program: w.program,
	}
}

func newRunner(t *testing.T, o docker.Options) *docker.Runner {
	t.Helper()
	r, err := docker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func harness(w world, change func(*docker.Options)) func(t *testing.T) runnertest.Harness {
	return func(t *testing.T) runnertest.Harness {
		o := w.options(t)
		change(&o)
		r := newRunner(t, o)
		with, _ := json.Marshal(map[string]any{"image": w.image})
		t.Cleanup(func() { tidyNetwork(w, r) })
		return runnertest.Harness{
			Runner:     r,
			Program:    func(p runnertest.Program) ([]string, json.RawMessage) { return runnertest.Shell(p), with },
			BadProgram: []string{"/no/such/program"}, BadProgramWith: with,
			Contained: &runnertest.Contained{
				Image: w.image, Pulls: true, Limits: true, ReadOnlyRoot: true,
				Networks: []string{container.NetworkNone, container.NetworkBridge, container.NetworkHost},
				Inspect:  func(t *testing.T, h runner.Handle) string { return w.inspect(t, o, h) },
				Decoys:   func(t *testing.T, unit string) func(*testing.T) { return w.decoys(t, unit) },
				Vanish: func(t *testing.T, h runner.Handle) {
					if _, err := w.api.ContainerRemove(t.Context(), w.find(t, o, h), client.ContainerRemoveOptions{Force: true}); err != nil {
						t.Fatal(err)
					}
				},
			},
			Restart: func(t *testing.T) runner.Runner {
				r.Close()
				r = newRunner(t, o)
				return r
			},
		}
	}
}

// tidyNetwork removes the network that a runner made.
func tidyNetwork(w world, r *docker.Runner) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _ = w.api.NetworkRemove(ctx, docker.NetworkName(r), client.NetworkRemoveOptions{})
}

// find returns the id of a unit's container.
func (w world) find(t *testing.T, o docker.Options, h runner.Handle) string {
	t.Helper()
	got, err := w.api.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: make(client.Filters).
		Add("label", container.LabelInstance+"="+o.Instance, container.LabelUnit+"="+h.Unit)})
	if err != nil || len(got.Items) != 1 {
		t.Fatalf("the engine has %d containers of unit %s: %v", len(got.Items), h.Unit, err)
	}
	return got.Items[0].ID
}

func (w world) inspect(t *testing.T, o docker.Options, h runner.Handle) string {
	t.Helper()
	c, err := w.api.ContainerInspect(t.Context(), w.find(t, o, h), client.ContainerInspectOptions{Size: true})
	if err != nil {
		t.Fatal(err)
	}
	text := string(c.Raw)
	if c.Container.State.Running {
		top, err := w.api.ContainerTop(t.Context(), c.Container.ID, client.ContainerTopOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range top.Processes {
			text += fmt.Sprintln(p)
		}
	}
	return text
}

// decoys makes a container without labels and one of another instance with the same unit.
func (w world) decoys(t *testing.T, unit string) func(*testing.T) {
	t.Helper()
	other := w.options(t)
	ids := []string{}
	for name, labels := range map[string]map[string]string{
		"foreign-" + other.Instance: nil,
		"theirs-" + other.Instance:  {container.LabelInstance: other.Instance, container.LabelUnit: unit},
	} {
		made, err := w.api.ContainerCreate(t.Context(), client.ContainerCreateOptions{
			Name:       name,
			Config:     &dockercontainer.Config{Image: w.image, Cmd: []string{"/bin/sleep", "1000"}, Labels: labels},
			HostConfig: &dockercontainer.HostConfig{NetworkMode: "none"},
		})
		if err == nil {
			_, err = w.api.ContainerStart(t.Context(), made.ID, client.ContainerStartOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, made.ID)
	}
	t.Cleanup(func() {
		for _, id := range ids {
			_, _ = w.api.ContainerRemove(context.Background(), id, client.ContainerRemoveOptions{Force: true})
		}
	})
	return func(t *testing.T) {
		t.Helper()
		for _, id := range ids {
			c, err := w.api.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
			if err != nil || !c.Container.State.Running {
				t.Errorf("a container of somebody else was touched: %v", err)
			}
		}
	}
}

// extraEnv is what an image and an engine add to the environment.
var extraEnv = []string{"FROM_IMAGE", "HOSTNAME", "HOME"}

func TestContract(t *testing.T) {
	w := engine(t)
	runnertest.Run(t, runnertest.Options{
		New: harness(w, func(*docker.Options) {}), Shell: true, ExtraEnv: extraEnv, Patience: 2 * time.Minute,
	})
}

// Where the engine does not see the files of this server, everything is the same.
func TestContractWithCopies(t *testing.T) {
	w := engine(t)
	runnertest.Run(t, runnertest.Options{
		New: harness(w, func(o *docker.Options) { o.Files = "copy" }), Shell: true, ExtraEnv: extraEnv, Patience: 2 * time.Minute,
		Many: 12, LongLine: 10 << 20,
	})
}

// A server that is not root gets at what units of other users wrote.
func TestFilesOfOthersAreOpenedForAServerThatIsNotRoot(t *testing.T) {
	t.Parallel()
	w := engine(t)
	o := w.options(t)
	o.Unprivileged = true
	r := newRunner(t, o)
	tidy(t, w, r)
	sp := script(t, w, "closed", `umask 077; mkdir -p a/b; echo x > a/b/c; chmod 0 a/b/c; chmod 0500 a/b; ln -s /etc/passwd a/link; echo v=1 > ../out/v; exit 3`, map[string]any{"user": "1000:1000"})
	h := insist(t, r, sp)
	if e := mustExit(t, r, h); e.Code != 3 {
		t.Errorf("exit = %+v", e)
	}
	for name, want := range map[string]os.FileMode{"work/a": 0o777, "work/a/b": 0o777, "work/a/b/c": 0o666, "out/v": 0o666} {
		info, err := os.Stat(filepath.Join(sp.Dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, want)
		}
	}
	if units, err := r.List(t.Context()); err != nil || len(units) != 1 {
		t.Errorf("list = %v, %v; want the unit only", units, err)
	}
	// One that nobody waited for.
	left := script(t, w, "left", `umask 077; mkdir -p a; echo x > a/c; echo ready; sleep 1000`, map[string]any{"user": "1000:1000"})
	h = insist(t, r, left)
	for !strings.Contains(logOf(t, left), "ready") {
		time.Sleep(5 * time.Millisecond)
	}
	r.Close()
	again := newRunner(t, o)
	defer again.Close()
	if err := again.Remove(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(left.Dir, "work/a/c")); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("after Remove: %v, %v", info, err)
	}
	r = newRunner(t, o)
	tidy(t, w, r)
}

// loadBase puts the image of the tests into another engine.
func loadBase(t *testing.T, d *dockertest.Daemon) string {
	t.Helper()
	api, err := client.New(client.WithHost(d.Host()))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	reg := registrytest.New(t)
	ref, _ := reg.Push(t, "base:v1", registrytest.Base(t).Build(t))
	pull, err := api.ImagePull(t.Context(), ref, client.ImagePullOptions{})
	if err == nil {
		_, err = io.Copy(io.Discard, pull)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// otherAuthority is a file with the certificate of somebody else.
func otherAuthority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	b, err := x509.CreateCertificate(rand.Reader, &is, &is, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(at, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b}), 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}
