package docker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/docker/inside"
)

// Labels of our own beside those of package container.
const (
	labelImage = "waybill.image" // what it was made of
	labelWord  = "waybill.word"  // in front of frames
	labelBase  = "waybill.base"  // length of the log file when the unit was made
	labelFiles = "waybill.files" // how it gets its files
)

// tries is how often a container is made anew whose order did not arrive.
const tries = 3

// Start implements [runner.Runner].
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := runner.Handle{Runner: Name, Unit: s.Unit}
	if err := ctx.Err(); err != nil {
		return h, err
	}
	if !unitName.MatchString(s.Unit) {
		return h, waybill.E(waybill.KindInvalid, "%q is no name of a unit", s.Unit).WithOp("start", s.Unit)
	}
	var set container.Settings
	err := runner.Decode(s.With, &set)
	if err == nil {
		err = set.Check(false)
	}
	if err != nil {
		return h, err
	}
	unlock, err := r.starting.lock(ctx, s.Unit)
	if err != nil {
		return h, err
	}
	defer unlock()
	for range tries {
		c, err := r.begin(ctx, s, set)
		if err != nil {
			return h, err
		}
		u := r.follow(c, s)
		select {
		case <-u.began:
		case <-ctx.Done():
			return h, ctx.Err()
		}
		if !u.never() {
			h.Image = c.Config.Labels[labelImage]
			return h, nil
		}
		r.log.Warn("a container got no order and is made anew", "unit", s.Unit)
		if err := r.remove(ctx, c.ID, s.Unit); err != nil {
			return h, err
		}
		r.forget(u)
	}
	return h, waybill.E(waybill.KindUnavailable, "the container ended before it could be told what to run, %d times", tries).WithOp("start", s.Unit)
}

// begin returns the container of a unit that was started: by this call, or before.
func (r *Runner) begin(ctx context.Context, s runner.Spec, set container.Settings) (dockercontainer.InspectResponse, error) {
	c, found, err := r.look(ctx, "start", s.Unit)
	if err != nil {
		return c, err
	}
	var img image
	if !found || unstarted(c) {
		if img, err = r.have(ctx, set); err != nil {
			return c, err
		}
	}
	made := false
	if !found {
		if err := r.create(ctx, s, set, img); err != nil {
			r.undo(ctx, s.Unit)
			return c, err
		}
		made = true
		if c, found, err = r.look(ctx, "start", s.Unit); err == nil && !found {
			err = lost("start", s.Unit)
		}
		if err != nil {
			r.undo(ctx, s.Unit)
			return c, err
		}
	}
	if !unstarted(c) {
		return c, nil
	}
	err = r.launch(ctx, c, s, set, img)
	if err != nil && made {
		r.undo(ctx, s.Unit)
	}
	return c, err
}

// unstarted reports whether a container was made and not started yet, or could not be
// for a reason that may be gone.
func unstarted(c dockercontainer.InspectResponse) bool {
	return c.State.Status == dockercontainer.StateCreated && (c.State.Error == "" || !atStart(c.State.Error))
}

// undo removes the container of a call that has ended too early, unless it runs.
func (r *Runner) undo(ctx context.Context, unit string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	c, found, err := r.look(ctx, "undo", unit)
	if err == nil && found && unstarted(c) {
		err = r.remove(ctx, c.ID, unit)
	}
	if err != nil {
		r.log.Warn("what a call that was given up has left is still there", "unit", unit, "error", err)
	}
}

// look finds the container of a unit. What has its name and is not ours is an error.
func (r *Runner) look(ctx context.Context, op, unit string) (dockercontainer.InspectResponse, bool, error) {
	got, err := call(ctx, r, func(ctx context.Context) (client.ContainerInspectResult, error) {
		return r.api.ContainerInspect(ctx, r.containerName(unit), client.ContainerInspectOptions{})
	})
	if cerrdefs.IsNotFound(err) {
		return got.Container, false, nil
	}
	if err != nil {
		return got.Container, false, r.fault(ctx, op, unit, err)
	}
	c := got.Container
	if c.Config == nil || c.State == nil {
		return c, false, waybill.E(waybill.KindUnavailable, "the engine's answer has no state").WithOp(op, unit)
	}
	if c.Config.Labels[container.LabelInstance] != r.o.Instance || c.Config.Labels[container.LabelUnit] != unit {
		return c, false, waybill.E(waybill.KindConflict, "the engine has a container %s that is not of this server", r.containerName(unit)).WithOp(op, unit).
			WithHint("remove or rename it")
	}
	return c, true, nil
}

// create makes the container of a unit. That it is there already, of a call whose answer
// was lost, is no error.
func (r *Runner) create(ctx context.Context, s runner.Spec, set container.Settings, img image) error {
	files, err := r.filesBy(ctx, s, img)
	if err != nil {
		return err
	}
	e, err := r.know(ctx)
	if err != nil {
		return err
	}
	o := client.ContainerCreateOptions{Name: r.containerName(s.Unit)}
	o.Config, err = r.config(s, set, img, files)
	if err != nil {
		return err
	}
	if o.HostConfig, err = r.hostConfig(ctx, s, set, img, files, e); err != nil {
		return err
	}
	if p := platformOf(set.Platform); p != nil {
		o.Platform = p
	}
	// An engine goes on with what it was asked for when nobody waits for it any more. Who
	// gives up here must find what there is to be removed, so the end of this is waited for.
	made, err := call(context.WithoutCancel(ctx), r, func(ctx context.Context) (client.ContainerCreateResult, error) { return r.api.ContainerCreate(ctx, o) })
	if err != nil && !cerrdefs.IsConflict(err) && !cerrdefs.IsAlreadyExists(err) {
		if cerrdefs.IsNotFound(err) { // the image was removed meanwhile, or the network
			return waybill.E(waybill.KindUnavailable, "the container engine says: %s", container.Clean(err)).WithOp("start", s.Unit)
		}
		return r.fault(ctx, "start", s.Unit, err)
	}
	if err == nil && files == filesCopy {
		return r.copyIn(ctx, made.ID, s)
	}
	return nil
}

func (r *Runner) config(s runner.Spec, set container.Settings, img image, files string) (*dockercontainer.Config, error) {
	word := make([]byte, 16)
	if _, err := rand.Read(word); err != nil {
		return nil, waybill.E(waybill.KindInternal, "%w", err)
	}
	labels := container.Labels(s.Unit, s.Meta)
	labels[container.LabelInstance] = r.o.Instance
	labels[labelImage] = img.pinned
	labels[labelWord] = hex.EncodeToString(word)
	labels[labelBase] = strconv.FormatInt(container.LogSize(s.Log), 10)
	labels[labelFiles] = files
	if !s.HardStop.IsZero() {
		labels[container.LabelStop] = s.HardStop.UTC().Format(time.RFC3339Nano)
	}
	c := &dockercontainer.Config{
		Image: img.from, Labels: labels, User: set.User, WorkingDir: set.Workdir,
		Entrypoint: append([]string{programPath}, r.o.ProgramArgs...), Cmd: []string{},
		OpenStdin: true, StdinOnce: true, AttachStdin: true,
		Healthcheck: &dockercontainer.HealthConfig{Test: []string{"NONE"}},
	}
	if c.WorkingDir == "" && len(s.Args) > 0 {
		c.WorkingDir = container.WorkDir()
	}
	return c, nil
}

// What the first process needs itself, so that the unit has what it was promised: threads,
// and bytes of memory.
const (
	ownThreads = 12
	ownMemory  = 12 << 20
)

func (r *Runner) hostConfig(ctx context.Context, s runner.Spec, set container.Settings, img image, files string, e engine) (*dockercontainer.HostConfig, error) {
	hc := &dockercontainer.HostConfig{
		LogConfig:      dockercontainer.LogConfig{Type: e.driver},
		ReadonlyRootfs: !set.Writable,
		CapDrop:        []string{"ALL"}, CapAdd: set.Capabilities(),
		SecurityOpt: []string{"no-new-privileges:true"},
		Tmpfs:       map[string]string{"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=" + strconv.FormatInt(tmpSize(set), 10)},
	}
	if e.driver != "k8s-file" {
		// What of it is to be kept is decided by who reads it; what the unit may write is
		// limited inside. Rotation would lose what nobody has read yet.
		hc.LogConfig.Config = map[string]string{"max-size": "1000000g", "max-file": "1", "compress": "false", "mode": "blocking"}
	}
	hc.NanoCPUs = int64(set.CPU) * 1_000_000
	if set.Memory > 0 {
		limit := int64(set.Memory) + ownMemory
		hc.Memory, hc.MemorySwap = limit, limit
	}
	if set.Pids > 0 {
		limit := int64(set.Pids + ownThreads)
		hc.PidsLimit = &limit
	}
	network := set.Network
	if network == "" {
		network = r.o.Network
	}
	hc.NetworkMode = dockercontainer.NetworkMode(network)
	if network == container.NetworkBridge {
		n, err := r.network(ctx)
		if err != nil {
			return nil, err
		}
		hc.NetworkMode = dockercontainer.NetworkMode(n.Name)
		if gateway, ok := gatewayOf(n); ok {
			hc.ExtraHosts = []string{hostName + ":" + gateway.String()}
		}
	}
	mounts, err := r.mounts(ctx, s, img, files)
	hc.Mounts = mounts
	return hc, err
}

func tmpSize(set container.Settings) int64 {
	if set.TmpSize > 0 {
		return int64(set.TmpSize)
	}
	return 64 << 20
}

// output is how much a unit's first process passes on, so that an engine's disk is not
// filled by what nobody will see. Masking may make it shorter, so it is more than the cap.
func output(limit int64) int64 {
	if limit <= 0 {
		return 0
	}
	return 16*limit + 1<<20
}

// launch starts a container and sends it its order. A container that cannot be started
// for what was asked of it has ended by that; see unit.judge.
func (r *Runner) launch(ctx context.Context, c dockercontainer.InspectResponse, s runner.Spec, set container.Settings, img image) error {
	order := inside.Order{Word: c.Config.Labels[labelWord], Env: s.Env, HardStop: s.HardStop, Output: output(s.LogCap), Args: img.command(s, set)}
	err := r.send(ctx, c.ID, order)
	if err != nil && !atStart(err.Error()) {
		return r.fault(ctx, "start", s.Unit, err)
	}
	return nil
}

// send starts a container and sends its first process an order. Whether that has come
// only the container tells.
func (r *Runner) send(ctx context.Context, id string, order inside.Order) error {
	conn, err := call(ctx, r, func(ctx context.Context) (client.ContainerAttachResult, error) {
		return r.api.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true})
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = call(ctx, r, func(ctx context.Context) (client.ContainerStartResult, error) {
		return r.api.ContainerStart(ctx, id, client.ContainerStartOptions{})
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Conn.SetDeadline(time.Now()) })
	defer stop()
	_ = conn.Conn.SetDeadline(time.Now().Add(r.o.Patience))
	err = inside.Send(conn.Conn, order)
	if err == nil {
		err = conn.CloseWrite()
	}
	if err != nil {
		r.log.Warn("an order was not sent", "container", id, "error", err)
	}
	return nil
}

// command is what is executed: what the step runs instead of the image's entrypoint, or
// the step's arguments instead of the image's.
func (i image) command(s runner.Spec, set container.Settings) []string {
	if len(s.Args) > 0 {
		return append(slices.Clone(s.Args), set.Args...)
	}
	if set.Args != nil {
		return append(slices.Clone(i.entrypoint), set.Args...)
	}
	return append(slices.Clone(i.entrypoint), i.cmd...)
}

// base is the length that the log file had when the unit was made.
func base(c dockercontainer.InspectResponse) int64 {
	n, err := strconv.ParseInt(c.Config.Labels[labelBase], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// remove removes a container and its volumes; one that is gone is no error.
func (r *Runner) remove(ctx context.Context, id, unit string) error {
	for {
		_, err := call(ctx, r, func(ctx context.Context) (client.ContainerRemoveResult, error) {
			return r.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		})
		switch {
		case err == nil || cerrdefs.IsNotFound(err):
			return nil
		case cerrdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress"):
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return r.fault(ctx, "remove", unit, err)
		}
	}
}
