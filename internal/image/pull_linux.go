package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Request says which image is wanted.
type Request struct {
	Image    string // by tag or digest
	Pull     string // when the registry is asked, as in container.Settings
	Secret   string // credentials as in container.Settings, or nothing
	Platform string // os/architecture[/variant]; that of this machine if empty
}

// Image is an image that is here and stays for as long as it is not released.
type Image struct {
	Name   string // "host/name:tag@sha256:…": what was asked for and what that was
	ID     string // digest of its configuration, which stands for all of its content
	Config v1.Config
	Layers []string // folders below [Store.Dir], the lowest first

	release func()
}

// Release lets the image go.
func (i *Image) Release() { i.release() }

// record is what is kept of an image.
type record struct {
	Digest   string          `json:"digest"` // what the name stood for: a manifest or an index
	Manifest string          `json:"manifest"`
	Config   json.RawMessage `json:"config"`
	ConfigID string          `json:"config_id"`
	DiffIDs  []string        `json:"diff_ids"`
	At       time.Time       `json:"at"`
}

// Get returns an image, pulled if it must be. Errors are runner.PullError, or that of
// ctx.
func (s *Store) Get(ctx context.Context, q Request) (*Image, error) {
	img, err := s.get(ctx, q)
	if err == nil {
		return img, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, container.PullFault(q.Image, err, secretParts(q)...)
}

// secretParts are the texts that no error may hold.
func secretParts(q Request) []string {
	if q.Secret == "" {
		return nil
	}
	out := []string{q.Secret}
	if ref, err := name.ParseReference(q.Image, name.WithDefaultTag("latest")); err == nil {
		if a, err := container.Credentials(q.Secret, ref.Context().RegistryStr()); err == nil {
			out = append(out, a.Password, a.IdentityToken, a.RegistryToken)
		}
	}
	return out
}

// fault makes an error whose reason is known.
func fault(image, reason, format string, args ...any) error {
	kind := waybill.KindInvalid
	if runner.PullAgain(reason) {
		kind = waybill.KindUnavailable
	}
	return &runner.PullError{Image: image, Reason: reason, Err: waybill.E(kind, format, args...)}
}

func (s *Store) get(ctx context.Context, q Request) (*Image, error) {
	ref, err := s.reference(q.Image)
	if err != nil {
		return nil, fault(q.Image, runner.ReasonPullNotFound, "%q is no name of an image", q.Image)
	}
	platform, err := parsePlatform(q.Platform)
	if err != nil {
		return nil, err
	}
	var auth authn.AuthConfig
	if q.Secret != "" {
		if auth, err = container.Credentials(q.Secret, ref.Context().RegistryStr()); err != nil {
			return nil, fault(q.Image, runner.ReasonPullAuth, "%w", err)
		}
	}
	key := s.refKey(ref, platform)
	// A layer may go between the look and the pin, and a name may mean something else by
	// then; a few times is enough for both.
	for range 5 {
		var r *record
		if q.Pull != container.PullAlways {
			r = s.known(key)
		}
		if r == nil && q.Pull == container.PullNever {
			return nil, fault(q.Image, runner.ReasonPullNotFound, "the image is not here, and pull is never")
		}
		if r == nil {
			v, err := s.flights.do(ctx, "pull "+key+" "+textHash(q.Secret), func(ctx context.Context) (any, error) {
				return s.pull(ctx, ref, platform, auth, key)
			})
			if err != nil {
				return nil, err
			}
			r = v.(*record)
		}
		if img, ok := s.pinned(ref, r); ok {
			return img, nil
		}
		if q.Pull == container.PullNever {
			return nil, fault(q.Image, runner.ReasonPullNotFound, "the image is not here any more, and pull is never")
		}
	}
	return nil, fault(q.Image, runner.ReasonPullQuota, "its layers are removed to make room as fast as they are pulled; the quota is %d bytes", s.o.Quota)
}

// pinned makes an image of a record if all its layers are here.
func (s *Store) pinned(ref name.Reference, r *record) (*Image, bool) {
	layers := make([]string, len(r.DiffIDs))
	for i, d := range r.DiffIDs {
		layers[i] = dirName(d)
	}
	release, ok := s.Pin(layers)
	if !ok {
		return nil, false
	}
	var file v1.ConfigFile
	if err := json.Unmarshal(r.Config, &file); err != nil {
		release()
		return nil, false
	}
	return &Image{Name: pinnedName(ref, r.Digest), ID: r.ConfigID, Config: file.Config, Layers: layers, release: release}, true
}

// pinnedName is the name that was asked for with the digest that it stood for.
func pinnedName(ref name.Reference, digest string) string {
	if d, ok := ref.(name.Digest); ok {
		return d.Name()
	}
	return ref.Name() + "@" + digest
}

func textHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func (s *Store) refKey(ref name.Reference, p v1.Platform) string {
	return textHash(ref.Name() + " " + p.String())
}

func parsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		p := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
		if p.Architecture == "arm" {
			p.Variant = "v7"
		}
		return p, nil
	}
	p, err := v1.ParsePlatform(text)
	if err != nil {
		return v1.Platform{}, fault(text, runner.ReasonPullNotFound, "platform: %s", container.Clean(err))
	}
	return *p, nil
}

// known returns what a name stands for here, as far as that is recorded.
func (s *Store) known(key string) *record {
	b, err := os.ReadFile(s.path(refsDir, key))
	if err != nil {
		return nil
	}
	file, _, _ := strings.Cut(string(b), "\n") // what follows is for people
	r, err := s.image(file)
	if err != nil {
		return nil
	}
	for _, d := range r.DiffIDs {
		if !s.has(dirName(d)) {
			return nil
		}
	}
	return r
}

func (s *Store) image(file string) (*record, error) {
	if strings.ContainsAny(file, "/.") {
		return nil, errors.New("not the name of a record")
	}
	b, err := os.ReadFile(s.path(imagesDir, file))
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	return r, nil
}

// pull asks the registry what a name stands for and takes the layers that are not here.
func (s *Store) pull(ctx context.Context, ref name.Reference, platform v1.Platform, auth authn.AuthConfig, key string) (*record, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.Timeout, fmt.Errorf("it was not here after %s", s.o.Timeout))
	defer cancel()
	begun := time.Now()
	transport := s.transport(ref.Context().RegistryStr())
	defer transport.CloseIdleConnections()
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithPlatform(platform), remote.WithUserAgent("waybill"),
		remote.WithTransport(container.Transport(transport)),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.2, Steps: 3}),
	}
	if auth != (authn.AuthConfig{}) {
		opts = append(opts, remote.WithAuth(authn.FromConfig(auth)))
	}
	desc, err := remote.Get(ref, opts...)
	if err != nil {
		return nil, late(ctx, err)
	}
	if desc.MediaType == types.DockerManifestSchema1 || desc.MediaType == types.DockerManifestSchema1Signed {
		return nil, fault(ref.Name(), runner.ReasonImage, "its manifest is of version 1, which has no digests of what is in its layers")
	}
	img, err := desc.Image()
	if err != nil {
		if strings.Contains(err.Error(), "no child with platform") {
			return nil, fault(ref.Name(), runner.ReasonPullNotFound, "it has no variant for %s", platform.String())
		}
		return nil, late(ctx, err)
	}
	r, bytes, err := s.take(ctx, ref, platform, img, desc.Digest.String())
	if err != nil {
		return nil, err
	}
	if err := s.remember(key, ref, platform, r); err != nil {
		return nil, err
	}
	s.log.Info("pulled an image", "image", pinnedName(ref, r.Digest), "layers", len(r.DiffIDs), "downloaded", bytes, "took", time.Since(begun).Round(time.Millisecond))
	return r, nil
}

// take checks what an image says of itself and unpacks the layers that are not here.
// digest is what its name stands for. It returns how many bytes of layers were read.
func (s *Store) take(ctx context.Context, ref name.Reference, platform v1.Platform, img v1.Image, digest string) (*record, int64, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return nil, 0, late(ctx, err)
	}
	if manifest.Config.Size > maxRecord {
		return nil, 0, fault(ref.Name(), runner.ReasonImage, "its configuration of %d bytes is over the limit of %d", manifest.Config.Size, maxRecord)
	}
	if len(manifest.Layers) > maxLayers {
		return nil, 0, fault(ref.Name(), runner.ReasonImage, "it has %d layers, the limit is %d", len(manifest.Layers), maxLayers)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, 0, late(ctx, err)
	}
	var file v1.ConfigFile
	if err := json.Unmarshal(config, &file); err != nil {
		return nil, 0, fault(ref.Name(), runner.ReasonImage, "its configuration is not to be read: %s", container.Clean(err))
	}
	if !strings.EqualFold(file.OS, platform.OS) && file.OS != "" || file.Architecture != "" && file.Architecture != platform.Architecture {
		return nil, 0, fault(ref.Name(), runner.ReasonPullNotFound, "it is for %s/%s, wanted is %s", file.OS, file.Architecture, platform.String())
	}
	if len(file.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, 0, fault(ref.Name(), runner.ReasonImage, "it has %d layers and digests for the content of %d", len(manifest.Layers), len(file.RootFS.DiffIDs))
	}
	id, err := img.ConfigName()
	if err != nil {
		return nil, 0, late(ctx, err)
	}
	own, err := img.Digest()
	if err != nil {
		return nil, 0, late(ctx, err)
	}
	r := &record{Digest: digest, Manifest: own.String(), Config: config, ConfigID: id.String(), At: time.Now().UTC()}
	for _, d := range file.RootFS.DiffIDs {
		if dirName(d.String()) == "" || d.Algorithm != "sha256" {
			return nil, 0, fault(ref.Name(), runner.ReasonImage, "%q is no digest of a layer", d.String())
		}
		r.DiffIDs = append(r.DiffIDs, d.String())
	}
	bytes, err := s.pullLayers(ctx, ref, img, r)
	if err != nil {
		return nil, 0, err
	}
	return r, bytes, nil
}

// late names the time limit where that is why a request failed.
func late(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", cause, context.DeadlineExceeded)
	}
	return err
}

// remember writes what an image consists of and then what the name stands for, each
// whole or not at all.
func (s *Store) remember(key string, ref name.Reference, platform v1.Platform, r *record) error {
	file := textHash(r.Digest + " " + r.Manifest)
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := s.write(s.path(imagesDir, file), b); err != nil {
		return err
	}
	return s.write(s.path(refsDir, key), []byte(file+"\n"+ref.Name()+" "+platform.String()+"\n"))
}

func (s *Store) write(path string, b []byte) error {
	f, err := os.CreateTemp(s.path(tmpDir), "file-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// reference parses the name of an image. Only registries of this machine and those of
// the settings are asked over HTTP, whatever the library thinks of an address.
func (s *Store) reference(image string) (name.Reference, error) {
	opts := []name.Option{name.WithDefaultTag("latest")}
	ref, err := name.ParseReference(image, opts...)
	if err != nil {
		return nil, err
	}
	if s.insecure(ref.Context().RegistryStr()) {
		return name.ParseReference(image, append(opts, name.Insecure)...)
	}
	return ref, nil
}

func (s *Store) insecure(host string) bool {
	bare, _, err := net.SplitHostPort(host)
	if err != nil {
		bare = host
	}
	return isLoopback(host) || slices.Contains(s.o.Insecure, host) || slices.Contains(s.o.Insecure, bare)
}

func isLoopback(host string) bool {
	bare, _, err := net.SplitHostPort(host)
	if err != nil {
		bare = strings.Trim(host, "[]")
	}
	if bare == "localhost" || strings.HasSuffix(bare, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(bare)
	return err == nil && ip.IsLoopback()
}

// transport makes the connections of one pull.
func (s *Store) transport(registry string) *guard {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: s.o.Stall,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	if slices.Contains(s.o.Insecure, registry) {
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // what the setting says
	}
	return &guard{Transport: t, allowed: s.insecure}
}

// guard keeps requests off the open wire: those that a registry, or who answers for it,
// leads to over HTTP.
type guard struct {
	*http.Transport
	allowed func(host string) bool
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Scheme != "https" && !g.allowed(q.URL.Host) {
		return nil, fmt.Errorf("%s is not asked over %s; list it under insecure_registries if it must be", q.URL.Host, q.URL.Scheme)
	}
	return g.Transport.RoundTrip(q)
}
