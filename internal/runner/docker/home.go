package docker

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// programPath is where a container has this program.
const programPath = "/.waybill-init/waybill"

// filesBy says how units get their files, and tries it out when that is not known.
func (r *Runner) filesBy(ctx context.Context, s runner.Spec, img image) (string, error) {
	r.mu.Lock()
	known := r.files
	r.mu.Unlock()
	if known == filesMount || known == filesCopy {
		return known, nil
	}
	files := filesCopy
	if !r.remote {
		same, err := r.sameFiles(ctx, filepath.Dir(s.Dir), img)
		if err != nil {
			return "", err
		}
		if same {
			files = filesMount
		}
	}
	r.mu.Lock()
	r.files = files
	r.mu.Unlock()
	r.log.Info("units of the runner docker get their files", "by", files)
	return files, nil
}

// sameFiles reports whether the engine sees the files of a folder as this server does: a
// container that is never started has a file of it, which is read through the engine.
func (r *Runner) sameFiles(ctx context.Context, folder string, img image) (bool, error) {
	dir, err := os.MkdirTemp(folder, "trial-")
	if err != nil {
		return false, waybill.E(waybill.KindUnavailable, "%w", err)
	}
	defer os.RemoveAll(dir)
	token := make([]byte, 16)
	_, _ = rand.Read(token)
	if err := os.WriteFile(filepath.Join(dir, "token"), token, 0o600); err != nil {
		return false, waybill.E(waybill.KindUnavailable, "%w", err)
	}
	made, err := call(ctx, r, func(ctx context.Context) (client.ContainerCreateResult, error) {
		return r.api.ContainerCreate(ctx, client.ContainerCreateOptions{
			Name: "waybill-trial-" + hex.EncodeToString(token[:6]),
			Config: &dockercontainer.Config{
				Image: img.from, Entrypoint: []string{"/trial"}, Labels: map[string]string{container.LabelInstance: r.o.Instance},
			},
			HostConfig: &dockercontainer.HostConfig{
				NetworkMode: "none", Mounts: []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: "/trial", ReadOnly: true}},
			},
		})
	})
	if cerrdefs.IsInvalidArgument(err) { // it has no such folder
		return false, nil
	}
	if err != nil {
		return false, r.fault(ctx, "try out", "mounts", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := r.remove(ctx, made.ID, "trial"); err != nil {
			r.log.Warn("a trial container is left", "id", made.ID, "error", err)
		}
	}()
	var got strings.Builder
	err = r.copyFile(ctx, made.ID, "/trial/token", &got)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, r.fault(ctx, "try out", "mounts", err)
	}
	return got.String() == string(token), nil
}

// mounts are those of a unit: its home, and this program.
func (r *Runner) mounts(ctx context.Context, s runner.Spec, img image, files string) ([]mount.Mount, error) {
	program, err := r.programFile()
	if err != nil {
		return nil, err
	}
	if files == filesCopy {
		volume, err := r.programVolume(ctx, img)
		if err != nil {
			return nil, err
		}
		return []mount.Mount{
			{Type: mount.TypeVolume, Source: volume, Target: path.Dir(programPath), ReadOnly: true, VolumeOptions: &mount.VolumeOptions{NoCopy: true}},
			{Type: mount.TypeVolume, Target: container.Home, VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: map[string]string{container.LabelInstance: r.o.Instance, container.LabelUnit: s.Unit}}},
		}, nil
	}
	ms := []mount.Mount{
		{Type: mount.TypeBind, Source: program, Target: programPath, ReadOnly: true},
		{Type: mount.TypeBind, Source: s.Dir, Target: container.Home},
	}
	for _, name := range []string{container.In, container.Event} {
		if at := container.Outside(s.Dir, name); exists(at) {
			ms = append(ms, mount.Mount{Type: mount.TypeBind, Source: at, Target: path.Join(container.Home, name), ReadOnly: true})
		}
	}
	return ms, nil
}

// CopyOut implements [runner.Contained]. What a unit wrote to memory, such as /tmp, is
// gone when it has ended.
func (r *Runner) CopyOut(ctx context.Context, h runner.Handle, at string, w io.Writer) error {
	if !path.IsAbs(at) || path.Clean(at) != at {
		return waybill.E(waybill.KindInvalid, "%q is no absolute path without detours", at).WithOp("copy from", h.Unit)
	}
	c, found, err := r.look(ctx, "copy from", h.Unit)
	if err != nil {
		return err
	}
	if !found {
		return lost("copy from", h.Unit)
	}
	err = r.copyFile(ctx, c.ID, at, w)
	if err == nil || errors.Is(err, fs.ErrNotExist) || waybill.KindOf(err) == waybill.KindInvalid {
		return err
	}
	return r.fault(ctx, "copy from", h.Unit, err)
}

// copyFile copies a regular file of a container. The engine resolves links in the folders
// of a path within the container; the last name must be none.
func (r *Runner) copyFile(ctx context.Context, id, at string, w io.Writer) error {
	got, err := r.api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: at})
	if cerrdefs.IsNotFound(err) {
		return &fs.PathError{Op: "copy", Path: at, Err: fs.ErrNotExist}
	}
	if err != nil {
		return err
	}
	defer got.Content.Close()
	if !got.Stat.Mode.IsRegular() {
		return waybill.E(waybill.KindInvalid, "%s is no regular file", at)
	}
	files := tar.NewReader(got.Content)
	head, err := files.Next()
	if err != nil {
		return err
	}
	if head.Typeflag != tar.TypeReg {
		return waybill.E(waybill.KindInvalid, "%s is no regular file", at)
	}
	_, err = io.Copy(w, files)
	return err
}
