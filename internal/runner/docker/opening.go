package docker

import (
	"context"
	"path"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/docker/inside"
)

// opening is how long the files of a home may take to be opened.
const opening = 2 * time.Minute

// openHome lets a server that is not root read and remove what an ended unit has written
// as another user: a container of the unit's image, whose user is root, changes the modes
// of what is in work/ and out/. It may be done twice.
func (r *Runner) openHome(ctx context.Context, c dockercontainer.InspectResponse, unit string) error {
	if !r.o.Unprivileged || c.Config.Labels[labelFiles] != filesMount || c.HostConfig == nil {
		return nil
	}
	home := ""
	for _, m := range c.HostConfig.Mounts {
		if m.Target == container.Home {
			home = m.Source
		}
	}
	if home == "" || !exists(home) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, opening)
	defer cancel()
	program, err := r.programFile()
	if err != nil {
		return err
	}
	name := "waybill-open-" + unit + "-" + r.short
	remove := func(ctx context.Context) error { return r.remove(ctx, name, unit) }
	if err := remove(ctx); err != nil { // of a server that ended in the middle
		return err
	}
	made, err := call(ctx, r, func(ctx context.Context) (client.ContainerCreateResult, error) {
		return r.api.ContainerCreate(ctx, client.ContainerCreateOptions{
			Name: name,
			Config: &dockercontainer.Config{
				Image: c.Image, User: "0:0", WorkingDir: "/", Labels: map[string]string{container.LabelInstance: r.o.Instance},
				Entrypoint: append([]string{programPath}, r.o.ProgramArgs...), Cmd: []string{}, OpenStdin: true, StdinOnce: true, AttachStdin: true,
				Healthcheck: &dockercontainer.HealthConfig{Test: []string{"NONE"}},
			},
			HostConfig: &dockercontainer.HostConfig{
				NetworkMode: "none", ReadonlyRootfs: true, CapDrop: []string{"ALL"}, CapAdd: []string{"CAP_FOWNER", "CAP_DAC_OVERRIDE"},
				SecurityOpt: []string{"no-new-privileges:true"},
				Mounts: []mount.Mount{
					{Type: mount.TypeBind, Source: program, Target: programPath, ReadOnly: true},
					{Type: mount.TypeBind, Source: home, Target: container.Home},
				},
			},
		})
	})
	if err != nil {
		return r.fault(ctx, "open files of", unit, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := remove(ctx); err != nil {
			r.log.Warn("a container that opened files is left", "name", name, "error", err)
		}
	}()
	if err := r.send(ctx, made.ID, inside.Order{Open: []string{path.Join(container.Home, container.Work), path.Join(container.Home, container.Out)}}); err != nil {
		return r.fault(ctx, "open files of", unit, err)
	}
	end := r.api.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: dockercontainer.WaitConditionNotRunning})
	select {
	case got := <-end.Result:
		if got.StatusCode != 0 {
			return waybill.E(waybill.KindUnavailable, "the files could not be opened for this server (code %d)", got.StatusCode).WithOp("open files of", unit)
		}
		return nil
	case err := <-end.Error:
		if cerrdefs.IsNotFound(err) {
			return waybill.E(waybill.KindUnavailable, "the container that opens the files is gone").WithOp("open files of", unit)
		}
		return r.fault(ctx, "open files of", unit, err)
	case <-ctx.Done():
		return ctx.Err()
	}
}
