package docker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
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

// copying is how long files may travel.
const copying = 30 * time.Minute

// copyIn brings a unit's home into the volume of its container, before it is started.
func (r *Runner) copyIn(ctx context.Context, id string, s runner.Spec) error {
	from, to := io.Pipe()
	go func() { _ = to.CloseWithError(pack(to, s.Dir)) }()
	defer from.Close()
	ctx, cancel := context.WithTimeout(ctx, copying)
	defer cancel()
	_, err := r.api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: container.Home, Content: from})
	if err != nil {
		return r.fault(ctx, "copy files to", s.Unit, err)
	}
	return nil
}

// pack writes the files below a folder as an archive.
func pack(w io.Writer, dir string) error {
	archive := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		if err != nil || !(info.Mode().IsRegular() || info.IsDir()) {
			return err // of other things there are none
		}
		head, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		head.Name, head.Uid, head.Gid, head.Uname, head.Gname = filepath.ToSlash(rel), 0, 0, "", ""
		if info.IsDir() {
			head.Name += "/"
		}
		if err := archive.WriteHeader(head); err != nil || info.IsDir() {
			return err
		}
		f, err := os.Open(at)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyN(archive, f, info.Size())
		return err
	})
	return errors.Join(err, archive.Close())
}

// copyBack takes what a unit wrote to work/ and out/. It may be done twice.
func (r *Runner) copyBack(ctx context.Context, id, unit, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, copying)
	defer cancel()
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nobody wants them any more
	}
	if err != nil {
		return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("copy files of", unit)
	}
	defer root.Close()
	for _, name := range []string{container.Work, container.Out} {
		got, err := r.api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: path.Join(container.Home, name)})
		if cerrdefs.IsNotFound(err) {
			if _, err := r.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); cerrdefs.IsNotFound(err) {
				return lost("copy files of", unit)
			}
			continue // the unit has removed it
		}
		if err == nil {
			err = unpack(root, got.Content)
			_ = got.Content.Close()
		}
		if err != nil {
			return r.fault(ctx, "copy files of", unit, err)
		}
	}
	return nil
}

// unpack writes folders and regular files of an archive below a root, and nothing else:
// what an archive names elsewhere is an error, links and devices are left out.
func unpack(root *os.Root, r io.Reader) error {
	files := tar.NewReader(r)
	for {
		head, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.FromSlash(strings.TrimSuffix(head.Name, "/"))
		if !filepath.IsLocal(name) {
			return waybill.E(waybill.KindInvalid, "a file is named %q", head.Name)
		}
		switch head.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = writeFile(root, name, files, head.FileInfo().Mode().Perm()|0o600)
		}
		if err != nil {
			return err
		}
	}
}

// writeFile puts a file in the place of another, so that one which is being read does
// not change, and a link is not followed.
func writeFile(root *os.Root, name string, from io.Reader, mode fs.FileMode) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// programVolume is the volume with this program, which all units of an engine share. It
// is filled through a container that is never started.
func (r *Runner) programVolume(ctx context.Context, img image) (string, error) {
	unlock, err := r.starting.lock(ctx, "\x00program")
	if err != nil {
		return "", err
	}
	defer unlock()
	r.mu.Lock()
	known := r.program
	r.mu.Unlock()
	if known != "" {
		return known, nil
	}
	f, err := os.Open(r.o.Program)
	if err != nil {
		return "", waybill.E(waybill.KindUnavailable, "%w", err)
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return "", waybill.E(waybill.KindUnavailable, "%w", err)
	}
	volume := "waybill-program-" + hex.EncodeToString(sum.Sum(nil)[:8])
	// Docker takes the name of a volume for the volume: one that is there is used.
	made, err := call(ctx, r, func(ctx context.Context) (client.ContainerCreateResult, error) {
		return r.api.ContainerCreate(ctx, client.ContainerCreateOptions{
			Config: &dockercontainer.Config{Image: img.from, Entrypoint: []string{"/none"}, Labels: map[string]string{container.LabelInstance: r.o.Instance}},
			HostConfig: &dockercontainer.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{{
				Type: mount.TypeVolume, Source: volume, Target: path.Dir(programPath), VolumeOptions: &mount.VolumeOptions{NoCopy: true},
			}}},
		})
	})
	if err != nil {
		return "", r.fault(ctx, "fill volume", volume, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := r.remove(ctx, made.ID, volume); err != nil {
			r.log.Warn("a container that filled a volume is left", "id", made.ID, "error", err)
		}
	}()
	bound, cancel := context.WithTimeout(ctx, copying)
	defer cancel()
	stat, err := r.api.ContainerStatPath(bound, made.ID, client.ContainerStatPathOptions{Path: programPath})
	if err != nil && !cerrdefs.IsNotFound(err) {
		return "", r.fault(ctx, "fill volume", volume, err)
	}
	if err != nil || stat.Stat.Size != size {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", waybill.E(waybill.KindUnavailable, "%w", err)
		}
		from, to := io.Pipe()
		go func() {
			archive := tar.NewWriter(to)
			err := archive.WriteHeader(&tar.Header{Name: path.Base(programPath), Mode: 0o755, Size: size, Typeflag: tar.TypeReg})
			if err == nil {
				_, err = io.CopyN(archive, f, size)
			}
			_ = to.CloseWithError(errors.Join(err, archive.Close()))
		}()
		defer from.Close()
		_, err = r.api.CopyToContainer(bound, made.ID, client.CopyToContainerOptions{DestinationPath: path.Dir(programPath), Content: from})
		if err != nil {
			return "", r.fault(ctx, "fill volume", volume, err)
		}
	}
	r.mu.Lock()
	r.program = volume
	r.mu.Unlock()
	return volume, nil
}
