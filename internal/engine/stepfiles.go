package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/waybill-run/waybill"
)

// Objects keeps what steps read and write by name. waybill.Objects is one.
type Objects interface {
	Object(ctx context.Context, bucket, key, version string) (waybill.Object, error)
	PutObject(ctx context.Context, o waybill.Object, r io.Reader, idempotencyKey string, by waybill.Principal) (waybill.Object, error)
}

// UseObjects gives the engine the objects that steps read and write. It is called before
// Start; without, steps that name objects fail.
func (e *Engine) UseObjects(x Objects) { e.objects = x }

// inputs puts the files that the step declares into the unit's folder.
func (u *unit) inputs(ctx context.Context, dir string) error {
	if len(u.msg.Inputs) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return diskError("open the unit's folder", err)
	}
	defer root.Close()
	for _, in := range u.msg.Inputs {
		if err := u.input(ctx, root, in.Path, in.Value); err != nil {
			return fmt.Errorf("input %s: %w", in.Path, err)
		}
	}
	return nil
}

func (u *unit) input(ctx context.Context, root *os.Root, path string, v waybill.Value) error {
	path = filepath.Clean(path)
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return diskError("make the folder of an input", err)
	}
	if f, ok := v.File(); ok {
		return u.inputFile(ctx, root, path, f)
	}
	var named struct {
		Bucket  string `json:"bucket"`
		Key     string `json:"key"`
		Version string `json:"version"`
	}
	if json.Unmarshal(v, &named) == nil && named.Bucket != "" && named.Key != "" {
		if u.e.objects == nil {
			return waybill.E(waybill.KindUnavailable, "this server has no objects")
		}
		o, err := u.e.objects.Object(ctx, named.Bucket, named.Key, named.Version)
		if err != nil {
			return err
		}
		return u.inputFile(ctx, root, path, waybill.FileRef{SHA256: o.SHA256, Size: o.Size, Name: base(o.Key)})
	}
	if err := root.WriteFile(path, []byte(v.Text()), 0o644); err != nil {
		return diskError("write an input", err)
	}
	return nil
}

// inputFile copies content and holds it against its checksum.
func (u *unit) inputFile(ctx context.Context, root *os.Root, path string, f waybill.FileRef) error {
	src, err := u.e.o.Blobs.Open(ctx, f.SHA256)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := root.Create(path)
	if err != nil {
		return diskError("write an input", err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(dst, sum), src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return diskError("write an input", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		return waybill.E(waybill.KindInternal, "its content has the checksum %s, not %s", got, f.SHA256).
			WithHint("the blob store is damaged; run waybill doctor --deep")
	}
	return nil
}

// puts makes objects of the output files that the step declares so. The idempotency key
// is the attempt's, so that doing it again after a crash makes no second version.
func (u *unit) puts(ctx context.Context, vars waybill.Vars) error {
	for _, p := range u.msg.Puts {
		v, ok := vars.Get(p.Output)
		if !ok {
			continue // it is optional
		}
		f, ok := v.File()
		if !ok {
			continue
		}
		if u.e.objects == nil {
			return waybill.E(waybill.KindUnavailable, "this server has no objects")
		}
		src, err := u.e.o.Blobs.Open(ctx, f.SHA256)
		if err != nil {
			return err
		}
		o, err := u.e.objects.PutObject(ctx, waybill.Object{Bucket: p.Bucket, Key: p.Key, SHA256: f.SHA256}, src, "attempt/"+u.key()+"/"+p.Output,
			waybill.Principal{Name: "attempt " + u.key(), Tenant: u.a.Tenant, Role: waybill.RoleUnit, Attempt: u.key()})
		src.Close()
		if err != nil {
			return fmt.Errorf("output %s as object %s/%s: %w", p.Output, p.Bucket, p.Key, err)
		}
		u.records = append(u.records, record{"output.object", map[string]any{
			"attempt": u.key(), "step": u.a.Step, "output": p.Output, "bucket": o.Bucket, "key": o.Key, "version": o.Version, "sha256": o.SHA256,
		}, u.e.now()})
	}
	return nil
}
