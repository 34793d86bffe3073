package docker

import (
	"context"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// image is what a container is made of.
type image struct {
	from       string // what the engine is told: never a tag, which may move
	pinned     string // for people, with the digest
	entrypoint []string
	cmd        []string
	workdir    string
}

// ask is an image as the engine is asked for it: with the digest where one is given, as
// the digest counts.
func ask(ref name.Reference) string {
	if d, ok := ref.(name.Digest); ok {
		return d.Context().Name() + "@" + d.DigestStr()
	}
	return ref.Context().Name() + ":" + ref.Identifier()
}

// have makes sure that an image is here, by the policy of the step.
func (r *Runner) have(ctx context.Context, set container.Settings) (image, error) {
	ref, err := name.ParseReference(set.Image, name.WithDefaultTag("latest"))
	if err != nil {
		return image{}, waybill.E(waybill.KindInvalid, "image %q: %v", set.Image, err)
	}
	if set.PullPolicy() != container.PullAlways {
		img, found, err := r.inspect(ctx, ref, set)
		if err != nil || found {
			return img, err
		}
		if set.PullPolicy() == container.PullNever {
			return image{}, &runner.PullError{
				Image: set.Image, Reason: runner.ReasonPullNotFound,
				Err: waybill.E(waybill.KindInvalid, "it is not here, and the step says that it is not pulled").WithHint("load it into the engine, or let the step say pull: missing"),
			}
		}
	}
	if err := r.pull(ctx, ref, set); err != nil {
		return image{}, err
	}
	img, found, err := r.inspect(ctx, ref, set)
	if err == nil && !found {
		err = &runner.PullError{
			Image: set.Image, Reason: runner.ReasonPullNotFound,
			Err: waybill.E(waybill.KindInvalid, "the registry has it for another platform than %s", set.Platform),
		}
	}
	return img, err
}

// inspect looks for an image at the engine.
func (r *Runner) inspect(ctx context.Context, ref name.Reference, set container.Settings) (image, bool, error) {
	got, err := call(ctx, r, func(ctx context.Context) (client.ImageInspectResult, error) { return r.api.ImageInspect(ctx, ask(ref)) })
	if cerrdefs.IsNotFound(err) {
		return image{}, false, nil
	}
	if err != nil {
		return image{}, false, r.fault(ctx, "look for image", set.Image, err)
	}
	if p := platformOf(set.Platform); p != nil && (p.OS != got.Os || p.Architecture != got.Architecture || (p.Variant != "" && got.Variant != "" && p.Variant != got.Variant)) {
		return image{}, false, nil
	}
	img := image{from: got.ID, pinned: got.ID}
	for _, have := range got.RepoDigests {
		d, err := name.NewDigest(have)
		if err != nil || d.Context().Name() != ref.Context().Name() {
			continue
		}
		if asked, ok := ref.(name.Digest); ok && asked.DigestStr() != d.DigestStr() {
			continue
		}
		at := strings.SplitN(set.Image, "@", 2)[0]
		if _, tagged := ref.(name.Tag); tagged && !strings.HasSuffix(at, ":"+ref.Identifier()) {
			at += ":" + ref.Identifier()
		}
		img.from, img.pinned = have, at+"@"+d.DigestStr()
		break
	}
	if c := got.Config; c != nil {
		img.entrypoint, img.cmd, img.workdir = c.Entrypoint, c.Cmd, c.WorkingDir
	}
	return img, true, nil
}

// pull asks the registry. It takes as long as the caller waits.
func (r *Runner) pull(ctx context.Context, ref name.Reference, set container.Settings) error {
	var opts client.ImagePullOptions
	var secrets []string
	if set.PullSecret != "" {
		auth, err := container.Credentials(set.PullSecret, ref.Context().RegistryStr())
		if err != nil {
			return &runner.PullError{Image: set.Image, Reason: runner.ReasonPullAuth, Err: err}
		}
		opts.RegistryAuth, err = authconfig.Encode(registry.AuthConfig{
			Username: auth.Username, Password: auth.Password, Auth: auth.Auth, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
			ServerAddress: ref.Context().RegistryStr(),
		})
		if err != nil {
			return waybill.E(waybill.KindInternal, "encode credentials: %v", err)
		}
		secrets = []string{set.PullSecret, auth.Password, auth.Auth, auth.IdentityToken, auth.RegistryToken}
	}
	if p := platformOf(set.Platform); p != nil {
		opts.Platforms = []ocispec.Platform{*p}
	}
	stream, err := r.api.ImagePull(ctx, ask(ref), opts)
	if err == nil {
		err = stream.Wait(ctx)
		_ = stream.Close()
	} else if client.IsErrConnectionFailed(err) {
		return r.fault(ctx, "pull", set.Image, err)
	}
	switch {
	case err == nil:
		r.heard()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return container.PullFault(set.Image, err, secrets...)
}

func platformOf(text string) *ocispec.Platform {
	parts := strings.Split(text, "/")
	if len(parts) < 2 {
		return nil
	}
	p := &ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) > 2 {
		p.Variant = parts[2]
	}
	return p
}
