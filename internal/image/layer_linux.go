package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// atOnce is how many layers of an image are downloaded at once.
const atOnce = 3

// pullLayers takes the layers of an image that are not here. Those that are done are
// pinned until all are, so that one pull does not make room with what it has just made.
func (s *Store) pullLayers(ctx context.Context, ref name.Reference, img v1.Image, r *record) (int64, error) {
	layers, err := img.Layers()
	if err != nil {
		return 0, late(ctx, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		bytes atomic.Int64
		size  atomic.Int64 // unpacked
		turn  = make(chan struct{}, atOnce)
		pins  []func()
	)
	defer func() {
		for _, release := range pins {
			release()
		}
	}()
	for i, l := range layers {
		diff := r.DiffIDs[i]
		wg.Go(func() {
			select {
			case turn <- struct{}{}:
				defer func() { <-turn }()
			case <-ctx.Done():
				return
			}
			release, err := s.layer(ctx, ref, l, diff, &bytes, &size)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				pins = append(pins, release)
			case first == nil:
				first = err
				cancel()
			}
		})
	}
	wg.Wait()
	if first == nil && ctx.Err() != nil {
		first = ctx.Err()
	}
	return bytes.Load(), late(ctx, first)
}

// layer pins a layer, made if it is not here.
func (s *Store) layer(ctx context.Context, ref name.Reference, l v1.Layer, diff string, bytes, size *atomic.Int64) (func(), error) {
	dir := dirName(diff)
	for range 5 {
		if release, ok := s.Pin([]string{dir}); ok {
			return release, nil
		}
		_, err := s.flights.do(ctx, "layer "+diff, func(ctx context.Context) (any, error) {
			return nil, s.fetch(ctx, ref, l, diff, bytes, size)
		})
		if err != nil {
			return nil, err
		}
	}
	return nil, &errQuota{"layers are removed to make room as fast as they are pulled"}
}

// fetch downloads, checks and unpacks a layer in one stream.
func (s *Store) fetch(ctx context.Context, ref name.Reference, l v1.Layer, diff string, bytes, size *atomic.Int64) (err error) {
	if s.has(dirName(diff)) {
		return nil
	}
	tmp, err := os.MkdirTemp(s.path(tmpDir), "layer-")
	if err != nil {
		return err
	}
	defer func() {
		s.unreserve(tmp)
		if rerr := removeTree(tmp); rerr != nil {
			s.log.Warn("what a pull left behind could not be removed", "error", rerr)
		}
	}()
	body, err := l.Compressed()
	if err != nil {
		return late(ctx, err)
	}
	w := watch(ctx, body, s.o.Stall, bytes)
	defer w.Close()
	plain, err := decompress(w)
	if err != nil {
		return w.blame(layerFault(ref, err))
	}
	defer plain.Close()
	sum := sha256.New()
	// Whoever asks for bytes of the archive pays for them; the entries of the archive
	// are paid for besides, as folders and empty files take room, too.
	limit := s.o.Largest
	u := &unpacker{dir: tmp + "/fs", userOnly: s.o.UserOnly, charge: func(total int64) error {
		if size.Load()+total > limit {
			return fault(ref.Name(), runner.ReasonImage, "unpacked it takes more than the %d bytes that one image may", limit)
		}
		return s.reserve(tmp, total)
	}}
	if err := os.Mkdir(u.dir, 0o755); err != nil {
		return err
	}
	err = u.unpack(ctx, &hashing{r: plain, h: sum})
	if err == nil {
		// What follows the end of the archive counts for the digest.
		err = u.drain(&hashing{r: plain, h: sum})
	}
	if err == nil {
		// What follows the end of the compressed stream counts for the other one.
		_, err = io.Copy(io.Discard, w)
	}
	if err != nil {
		return w.blame(layerFault(ref, err))
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diff {
		return fault(ref.Name(), runner.ReasonImage, "the content of a layer is %s, the image says %s", got, diff)
	}
	size.Add(u.size)
	return s.keep(tmp, u, diff)
}

// keep gives an unpacked layer its place. It is on the disk before its mark is.
func (s *Store) keep(tmp string, u *unpacker, diff string) error {
	if f, err := os.Open(u.dir); err == nil {
		err = unix.Syncfs(int(f.Fd()))
		f.Close()
		if err != nil {
			return err
		}
	}
	l := &layer{DiffID: diff, Size: u.size, Files: u.files, At: time.Now().UTC()}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	dir := dirName(diff)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.layers[dir] != nil {
		return nil
	}
	if err := os.Rename(u.dir, s.path(layersDir, dir)); err != nil {
		return err
	}
	if err := s.write(s.path(layersDir, dir+".json"), b); err != nil {
		return err
	}
	l.used = time.Now()
	s.layers[dir] = l
	delete(s.pulls, tmp)
	return nil
}

// layerFault says of an error of an archive that it is the image's. Those of the network,
// the disk and the context stay what they are.
func layerFault(ref name.Reference, err error) error {
	var bad *badLayer
	switch {
	case errors.As(err, &bad):
		return fault(ref.Name(), runner.ReasonImage, "a layer cannot be unpacked: %s", container.Clean(err))
	case errors.Is(err, errNotArchive):
		return fault(ref.Name(), runner.ReasonImage, "%s", container.Clean(err))
	}
	return err
}

type hashing struct {
	r io.Reader
	h hash.Hash
}

func (h *hashing) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	h.h.Write(b[:n])
	return n, err
}

// watched ends a download of which nothing comes any more.
type watched struct {
	r     io.ReadCloser
	ctx   context.Context
	stall time.Duration
	timer *time.Timer
	count *atomic.Int64
	stop  func() bool
	mu    sync.Mutex
	cause error // why it was cut off
	err   error // the first error of reading
}

func watch(ctx context.Context, r io.ReadCloser, stall time.Duration, count *atomic.Int64) *watched {
	w := &watched{r: r, ctx: ctx, stall: stall, count: count}
	w.timer = time.AfterFunc(stall, func() {
		w.cut(fmt.Errorf("nothing came of a layer for %s: %w", stall, context.DeadlineExceeded))
	})
	w.stop = context.AfterFunc(ctx, func() { w.cut(late(ctx, ctx.Err())) })
	return w
}

func (w *watched) cut(why error) {
	w.mu.Lock()
	if w.cause == nil {
		w.cause = why
	}
	w.mu.Unlock()
	w.r.Close()
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.count.Add(int64(n))
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		w.mu.Lock()
		if w.cause != nil {
			err = w.cause
		}
		w.err = err
		w.mu.Unlock()
	}
	return n, err
}

// blame returns what the stream failed of, if it did, instead of what that led to.
func (w *watched) blame(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if w.cause != nil {
		return w.cause
	}
	return err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.stop()
	return w.r.Close()
}
