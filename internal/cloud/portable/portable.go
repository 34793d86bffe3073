// Package portable reads buckets of object stores through gocloud.dev, and adds
// what its portable interface leaves out and each store has in its own way: which
// version of an object one sees, and reading that version and no other.
package portable

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
)

// Store is what differs from store to store.
type Store struct {
	Name string // "S3 bucket inbox", for errors
	// Listed, Described and Read return the version of what was listed, described or
	// opened; Marked also returns the metadata of what was opened.
	Listed    func(*blob.ListObject) string
	Described func(*blob.Attributes) string
	Read      func(*blob.Reader) (version string, metadata map[string]string)
	// Same reports whether two versions hold the same content; nil: if they are equal.
	Same func(a, b string) bool
	// Only makes a read fail when the object has another version.
	Only func(version string) func(as func(any) bool) error
	// OnlyDelete does so for a deletion. Nil: the store cannot do that.
	OnlyDelete func(version string) func(as func(any) bool) error
	// Kind classifies an error that the portable codes do not tell enough of. It
	// returns an empty kind for all others.
	Kind func(error) waybill.Kind
}

// Bucket implements cloud.Bucket.
type Bucket struct {
	b *blob.Bucket
	s Store
}

var _ cloud.Bucket = (*Bucket)(nil)

// New returns a bucket, which it closes when it is closed.
func New(b *blob.Bucket, s Store) *Bucket { return &Bucket{b, s} }

// Params checks that a URL has no other parameters than those, and no path.
func Params(u *url.URL, known ...string) error {
	if strings.Trim(u.Path, "/") != "" {
		return waybill.E(waybill.KindInvalid, "the URL of a bucket ends with its name; write what comes after it (%.80q) as prefix", u.Path)
	}
	if u.Host == "" {
		return waybill.E(waybill.KindInvalid, "the URL names no bucket: want %s://NAME", u.Scheme)
	}
	for name := range u.Query() {
		if !slices.Contains(known, name) {
			return waybill.E(waybill.KindInvalid, "the URL has the parameter %.80q; known are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// Without returns a copy of a URL that has no credentials and not the parameters.
func Without(u *url.URL, names ...string) *url.URL {
	c := *u
	c.User = nil
	q := c.Query()
	for _, n := range names {
		q.Del(n)
	}
	c.RawQuery = q.Encode()
	return &c
}

// Invalid is the error of a URL that a store's client does not accept. What the
// client says is cut to a line.
func Invalid(name string, err error) error {
	return waybill.E(waybill.KindInvalid, "%s cannot be opened: %s", name, brief(err))
}

// Tagged is the version of an object in a store whose entity tag may be the same
// for the same content: the time tells them apart.
func Tagged(etag string, at time.Time) string {
	return strings.Trim(etag, `"`) + "@" + at.UTC().Format("20060102T150405Z")
}

// SameTag reports whether two versions made by Tagged have the same entity tag.
// Stores tell the time of an object in more than one way.
func SameTag(a, b string) bool { return Tag(a) == Tag(b) }

// Tag is the entity tag of a version made by Tagged.
func Tag(version string) string {
	tag, _, _ := strings.Cut(version, "@")
	return `"` + tag + `"`
}

// Close implements io.Closer.
func (b *Bucket) Close() error { return b.b.Close() }

// kind gives an error of the store its kind.
func (b *Bucket) kind(err error, what string) error {
	if err == nil {
		return nil
	}
	var own *waybill.Error
	if errors.As(err, &own) {
		return err
	}
	if what == "" {
		what = b.s.Name
	} else {
		what = fmt.Sprintf("%s in %s", what, b.s.Name)
	}
	k := waybill.Kind("")
	if b.s.Kind != nil {
		k = b.s.Kind(err)
	}
	if k == "" {
		k = portableKind(err)
	}
	switch k {
	case waybill.KindConflict:
		return waybill.E(k, "%s has changed", what)
	case waybill.KindNotFound:
		return waybill.E(k, "there is no %s", what)
	}
	return waybill.E(k, "%s: %s", what, brief(err))
}

// portableKind reads the portable codes, which every store has.
func portableKind(err error) waybill.Kind {
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return waybill.KindNotFound
	case gcerrors.FailedPrecondition:
		return waybill.KindConflict
	case gcerrors.PermissionDenied:
		return waybill.KindForbidden
	case gcerrors.InvalidArgument:
		return waybill.KindInvalid
	}
	return waybill.KindUnavailable
}

// brief is the last of the many words that clients of stores find for an error.
func brief(err error) string {
	// The text of such an error shows the URL, in which a signature may stand.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 400 {
		text = strings.ToValidUTF8(text[:400], "") + "…"
	}
	return text
}

const pageSize = 1000

// Pages implements cloud.Bucket.
func (b *Bucket) Pages(ctx context.Context, prefix, from string) iter.Seq2[cloud.Page, error] {
	return func(yield func(cloud.Page, error) bool) {
		token := blob.FirstPageToken
		if from != "" {
			t, err := base64.RawURLEncoding.DecodeString(from)
			if err != nil || len(t) == 0 {
				yield(cloud.Page{}, waybill.E(waybill.KindInvalid, "the listing of %s cannot go on at %.40q", b.s.Name, from))
				return
			}
			token = t
		}
		for {
			list, next, err := b.b.ListPage(ctx, token, pageSize, &blob.ListOptions{Prefix: prefix})
			if err != nil {
				yield(cloud.Page{}, b.kind(err, ""))
				return
			}
			page := cloud.Page{Next: base64.RawURLEncoding.EncodeToString(next)}
			for _, o := range list {
				if strings.HasSuffix(o.Key, "/") && o.Size == 0 {
					continue // stands for a folder in programs that show one
				}
				page.Entries = append(page.Entries, cloud.Entry{Key: o.Key, Version: b.s.Listed(o), Size: o.Size, Modified: o.ModTime.UTC()})
			}
			if !yield(page, nil) || len(next) == 0 {
				return
			}
			token = next
		}
	}
}

// Stat implements cloud.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (cloud.Entry, error) {
	a, err := b.b.Attributes(ctx, key)
	if err != nil {
		return cloud.Entry{}, b.kind(err, "object "+key)
	}
	return cloud.Entry{Key: key, Version: b.s.Described(a), Size: a.Size, Modified: a.ModTime.UTC(), ContentType: a.ContentType, Attempt: attempt(a.Metadata)}, nil
}

func attempt(metadata map[string]string) string {
	for k, v := range metadata {
		if strings.EqualFold(strings.ReplaceAll(k, "_", "-"), cloud.AttemptMark) {
			return v
		}
	}
	return ""
}

// Open implements cloud.Bucket.
func (b *Bucket) Open(ctx context.Context, key, version string) (cloud.Entry, io.ReadCloser, error) {
	r, err := b.b.NewReader(ctx, key, &blob.ReaderOptions{BeforeRead: b.s.Only(version)})
	if err != nil {
		err = b.kind(err, "object "+key)
		if waybill.IsKind(err, waybill.KindConflict) {
			// A condition is not met by what is not there, either.
			if _, gone := b.Stat(ctx, key); waybill.IsKind(gone, waybill.KindNotFound) {
				err = gone
			}
		}
		return cloud.Entry{}, nil, err
	}
	is, metadata := b.s.Read(r)
	e := cloud.Entry{
		Key: key, Version: is, Size: r.Size(), Modified: r.ModTime().UTC(), ContentType: r.ContentType(), Attempt: attempt(metadata),
	}
	if same := b.s.Same; same != nil && same(is, version) {
		e.Version = version
	}
	if e.Version != version {
		return e, nil, errors.Join(waybill.E(waybill.KindConflict, "object %s in %s has changed", key, b.s.Name), r.Close())
	}
	return e, &content{b: b, key: key, r: r, left: r.Size()}, nil
}

// content is one answer of the store, all of it the same version.
type content struct {
	b    *Bucket
	key  string
	r    *blob.Reader
	left int64
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && c.left != 0, err == nil && c.left < 0:
		return n, waybill.E(waybill.KindUnavailable, "object %s in %s broke off %d bytes from its end", c.key, c.b.s.Name, c.left)
	case err != nil && !errors.Is(err, io.EOF):
		return n, c.b.kind(err, "object "+c.key)
	}
	return n, err
}

func (c *content) Close() error { return c.r.Close() }

// Delete implements cloud.Bucket. Between the look and the deletion of a store that
// cannot make one depend on the other, a new version could be lost.
func (b *Bucket) Delete(ctx context.Context, key, version string) error {
	e, err := b.Stat(ctx, key)
	switch {
	case waybill.IsKind(err, waybill.KindNotFound):
		return nil
	case err != nil:
		return err
	case e.Version != version:
		return waybill.E(waybill.KindConflict, "object %s in %s has changed", key, b.s.Name)
	}
	o := &blob.DeleteOptions{}
	if b.s.OnlyDelete != nil {
		o.BeforeDelete = b.s.OnlyDelete(version)
	}
	err = b.kind(b.b.DeleteWithOptions(ctx, key, o), "object "+key)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return nil
	}
	return err
}

// Move implements cloud.Bucket: a copy, then a deletion. If the object changes in
// between, it stays.
func (b *Bucket) Move(ctx context.Context, key, version, to string) error {
	e, err := b.Stat(ctx, key)
	if waybill.IsKind(err, waybill.KindNotFound) {
		if there, err := b.b.Exists(ctx, to); err != nil || there {
			return b.kind(err, "object "+to)
		}
	}
	switch {
	case err != nil:
		return err
	case e.Version != version:
		return waybill.E(waybill.KindConflict, "object %s in %s has changed", key, b.s.Name)
	}
	if err := b.b.Copy(ctx, to, key, nil); err != nil {
		return b.kind(err, "object "+key)
	}
	return b.Delete(ctx, key, version)
}
