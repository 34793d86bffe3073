// Package object keeps named, versioned content in buckets and tells when it
// arrives.
//
// The content goes to the blob store first; then one commit adds the version,
// makes it the current one, and sends its arrival. So an object that was
// accepted is there, and arrives exactly once, whatever happens in between;
// content whose commit never came is swept.
package object

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Options of Objects.
type Options struct {
	Admit  func(ctx context.Context, topic string) error // nil admits everything
	Logger *slog.Logger
	// Hops returns how many arrivals led to what an attempt makes: one more than
	// the arrival that started its run. Nil: none.
	Hops func(ctx context.Context, attempt string) (int, error)
	// Guard returns a reader of what an attempt puts that fails, before it hands them out,
	// at bytes that must not be stored. Nil: none.
	Guard func(ctx context.Context, attempt string, r io.Reader) (io.Reader, error)
	Limit int64 // largest object; 0 means no limit
}

// Objects implements waybill.Objects. Safe for concurrent use.
type Objects struct {
	store store.Store
	blobs blob.Store
	o     Options
}

var _ waybill.Objects = (*Objects)(nil)

// New returns the objects of a store.
func New(s store.Store, b blob.Store, o Options) *Objects {
	if o.Admit == nil {
		o.Admit = func(context.Context, string) error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Objects{s, b, o}
}

const (
	tableBucket  = "bucket"         // key: bucket
	tableObject  = "object"         // key: bucket/key; value: the current waybill.Object
	tableVersion = "object_version" // key: see versionKey; value: version
	tableIdem    = "object_idem"    // key: like versionKey, with the idempotency key; value: the waybill.Object made
)

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{
		{Name: tableBucket, Version: 1},
		{
			Name: tableObject, Version: 1,
			Columns: []store.Column{{Name: "present", Type: store.Int}, {Name: "created", Type: store.Int}},
			Indexes: [][]string{{"present", "created"}},
			Derive: store.JSON(func(_ string, o *waybill.Object) store.Derived {
				present := int64(1)
				if o.Deleted {
					present = 0
				}
				return store.Derived{Columns: []any{present, store.Millis(o.CreatedAt)}}
			}),
		},
		{
			Name: tableVersion, Version: 1, Columns: []store.Column{{Name: "replaced", Type: store.Int}}, Indexes: [][]string{{"replaced"}},
			Derive: store.JSON(func(_ string, v *version) store.Derived {
				return store.Derived{Columns: []any{store.Millis(v.ReplacedAt)}}
			}),
		},
		{
			Name: tableIdem, Version: 1, Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
			Derive: store.JSON(func(_ string, o *waybill.Object) store.Derived {
				return store.Derived{Columns: []any{store.Millis(o.CreatedAt)}}
			}),
		},
		madeTable(),
	}
}

// version is the row of a version. It is written when the version is made and
// once more, when another takes its place.
type version struct {
	waybill.Object
	ReplacedAt time.Time `json:"replaced_at,omitzero"`
}

// madeRev is the revision of a version's row until it is replaced.
const madeRev = 1

func name(bucket, key string) string { return bucket + "/" + key }

// versionKey sorts the versions of an object in the order they were made. Keys
// hold no control characters, so \x01 cannot be part of one.
func versionKey(bucket, key, version string) string { return name(bucket, key) + "\x01" + version }

// CheckBucket reports why a name cannot be that of a bucket.
func CheckBucket(bucket string) error {
	ok := len(bucket) > 0 && len(bucket) <= 63
	for i, r := range bucket {
		alnum := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		ok = ok && (alnum || i > 0 && (r == '-' || r == '.'))
	}
	if !ok {
		return waybill.E(waybill.KindInvalid, "bucket %.80q: want up to 63 of a-z, 0-9, - and ., beginning with a letter or digit", bucket)
	}
	return nil
}

const maxKey = 1024 // bytes

// CheckKey reports why a name cannot be that of an object.
func CheckKey(key string) error {
	bad := func(why string) error {
		return waybill.E(waybill.KindInvalid, "object key %.80q %s", key, why)
	}
	switch {
	case key == "":
		return bad("is empty")
	case len(key) > maxKey:
		return bad(fmt.Sprintf("is longer than %d bytes", maxKey))
	case !utf8.ValidString(key):
		return bad("is not UTF-8")
	}
	for _, r := range key {
		if unicode.IsControl(r) {
			return bad("holds a control character")
		}
	}
	for _, part := range strings.Split(key, "/") {
		if part == "" || part == "." || part == ".." {
			return bad("has an empty part, . or ..")
		}
	}
	return nil
}

func check(bucket, key string) error {
	if err := CheckBucket(bucket); err != nil {
		return err
	}
	return CheckKey(key)
}

// PutObject implements waybill.Objects.
func (x *Objects) PutObject(ctx context.Context, o waybill.Object, r io.Reader, idempotencyKey string, by waybill.Principal) (waybill.Object, error) {
	if err := check(o.Bucket, o.Key); err != nil {
		return o, err
	}
	if len(o.ContentType) > 255 || strings.ContainsFunc(o.ContentType, unicode.IsControl) {
		return o, waybill.E(waybill.KindInvalid, "content type %.80q: want up to 255 bytes without control characters", o.ContentType)
	}
	if err := x.o.Admit(ctx, queue.TopicArrival); err != nil {
		return o, err
	}
	if by.Attempt != "" && x.o.Guard != nil {
		var err error
		if r, err = x.o.Guard(ctx, by.Attempt, r); err != nil {
			return o, err
		}
	}
	ref, err := x.blobs.Put(ctx, r, x.o.Limit)
	if err != nil {
		return o, err
	}
	if o.SHA256 != "" && o.SHA256 != ref.SHA256 {
		return o, waybill.E(waybill.KindInvalid, "the content's checksum is %s, not %s", ref.SHA256, o.SHA256)
	}
	o.SHA256, o.Size, o.CreatedBy, o.Deleted = ref.SHA256, ref.Size, by.Name, false
	from := origin{attempt: by.Attempt}
	if by.Attempt != "" && x.o.Hops != nil {
		if from.hops, err = x.o.Hops(ctx, by.Attempt); err != nil {
			return o, err
		}
	}
	return x.add(ctx, o, from, idempotencyKey)
}

// add makes o the current version of its object and returns it. With an
// idempotency key that was used before, that is the version made then.
func (x *Objects) add(ctx context.Context, o waybill.Object, from origin, key string) (waybill.Object, error) {
	idem := name(o.Bucket, o.Key) + "\x01" + key
	for {
		if key != "" {
			made, err := x.read(ctx, tableIdem, idem)
			switch {
			case err == nil && made.SHA256 != o.SHA256:
				return o, waybill.E(waybill.KindInvalid, "the idempotency key was used for other content").
					WithHint("use a new key for a new request")
			case err == nil:
				return made, nil
			case !errors.Is(err, store.ErrNotFound):
				return o, err
			}
		}
		c, err := x.commit(ctx, &o, from)
		if err != nil {
			return o, err
		}
		if key != "" {
			val, err := json.Marshal(o)
			if err != nil {
				return o, err
			}
			c.Puts = append(c.Puts, store.Put{Table: tableIdem, Key: idem, Val: val})
		}
		// A conflict says that another version was faster: then this one is the next.
		if err := x.store.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return o, err
		}
		if err := ctx.Err(); err != nil {
			return o, err
		}
	}
}

// read returns an object from a row, or store.ErrNotFound.
func (x *Objects) read(ctx context.Context, table, key string) (o waybill.Object, err error) {
	row, err := x.store.Get(ctx, "", table, key)
	if err == nil {
		err = json.Unmarshal(row.Val, &o)
	}
	return o, err
}

// Arrival is the body of a message of the topic "arrival".
type Arrival struct {
	Event waybill.Event `json:"event"`
	Hops  int           `json:"hops,omitempty"` // arrivals that led to this one
	// Change is "created" for a key that was not there, "updated" for another version.
	Change string `json:"change,omitempty"`
}

// commit makes o a version that is newer than the current one, and returns the
// change that makes it current.
func (x *Objects) commit(ctx context.Context, o *waybill.Object, from origin) (*store.Commit, error) {
	full := name(o.Bucket, o.Key)
	o.CreatedAt = x.store.Now().UTC()
	o.Version = waybill.NewID(o.CreatedAt)
	c := &store.Commit{}
	change := "created"
	row, err := x.store.Get(ctx, "", tableObject, full)
	switch {
	case err == nil:
		var old version
		if err := json.Unmarshal(row.Val, &old); err != nil {
			return nil, err
		}
		if old.Deleted && o.Deleted {
			return nil, notFound(o.Bucket, o.Key, "")
		}
		if !old.Deleted {
			change = "updated"
		}
		for at := old.CreatedAt; o.Version <= old.Version; { // made by a server whose clock is ahead
			at = at.Add(time.Millisecond)
			o.CreatedAt, o.Version = at, waybill.NewID(at)
		}
		old.ReplacedAt = o.CreatedAt
		val, err := json.Marshal(old)
		if err != nil {
			return nil, err
		}
		c.Puts = append(c.Puts, store.Put{Table: tableVersion, Key: versionKey(o.Bucket, o.Key, old.Version), Rev: madeRev, Val: val})
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	val, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	c.Puts = append(c.Puts,
		store.Put{Table: tableVersion, Key: versionKey(o.Bucket, o.Key, o.Version), Val: val},
		store.Put{Table: tableObject, Key: full, Rev: row.Rev, Val: val})
	if _, err := x.store.Get(ctx, "", tableBucket, o.Bucket); errors.Is(err, store.ErrNotFound) {
		c.Puts = append(c.Puts, store.Put{Table: tableBucket, Key: o.Bucket, Rev: store.AnyRev, Val: []byte(`{}`)})
	} else if err != nil {
		return nil, err
	}
	if from.attempt != "" {
		p, err := madePut(o, from.attempt)
		if err != nil {
			return nil, err
		}
		c.Puts = append(c.Puts, p)
	}
	kind := "object.deleted"
	if !o.Deleted {
		kind = "object.put"
		body, err := json.Marshal(Arrival{
			Event: waybill.Event{
				ID: o.Version, Type: "object", Source: "/buckets/" + o.Bucket, Subject: o.Key, Time: o.CreatedAt, Object: o,
			},
			Hops: from.hops, Change: change,
		})
		if err != nil {
			return nil, err
		}
		c.Sends = []store.Send{{Topic: queue.TopicArrival, Key: full, Body: body}}
	}
	c.Events = []store.Event{{Subject: subject(o.Bucket, o.Key), Kind: kind, Data: val, At: o.CreatedAt}}
	return c, nil
}

// subject is that of an object's timeline.
func subject(bucket, key string) string { return "object/" + name(bucket, key) }

func notFound(bucket, key, version string) error {
	what := "object " + name(bucket, key)
	if version != "" {
		what += " version " + version
	}
	return waybill.E(waybill.KindNotFound, "there is no %s", what)
}

// Object implements waybill.Objects.
func (x *Objects) Object(ctx context.Context, bucket, key, version string) (waybill.Object, error) {
	var o waybill.Object
	if err := check(bucket, key); err != nil {
		return o, err
	}
	table, at := tableObject, name(bucket, key)
	if version != "" {
		if len(version) > 64 || !utf8.ValidString(version) || strings.ContainsFunc(version, unicode.IsControl) {
			return o, notFound(bucket, key, "")
		}
		table, at = tableVersion, versionKey(bucket, key, version)
	}
	o, err := x.read(ctx, table, at)
	if errors.Is(err, store.ErrNotFound) || err == nil && o.Deleted {
		return waybill.Object{}, notFound(bucket, key, version)
	}
	return o, err
}

// OpenObject implements waybill.Objects.
func (x *Objects) OpenObject(ctx context.Context, bucket, key, version string) (waybill.Object, io.ReadSeekCloser, error) {
	o, err := x.Object(ctx, bucket, key, version)
	if err != nil {
		return o, nil, err
	}
	r, err := x.blobs.Open(ctx, o.SHA256)
	return o, r, err
}

// ObjectList implements waybill.Objects.
func (x *Objects) ObjectList(ctx context.Context, bucket, prefix string, limit int, cursor string) (waybill.Page[waybill.Object], error) {
	var out waybill.Page[waybill.Object]
	if err := CheckBucket(bucket); err != nil {
		return out, err
	}
	if len(prefix) > maxKey || !utf8.ValidString(prefix) || strings.ContainsFunc(prefix, unicode.IsControl) {
		return out, waybill.E(waybill.KindInvalid, "prefix %.80q cannot begin a key", prefix)
	}
	if _, err := x.store.Get(ctx, "", tableBucket, bucket); errors.Is(err, store.ErrNotFound) {
		return out, waybill.E(waybill.KindNotFound, "there is no bucket %s", bucket)
	} else if err != nil {
		return out, err
	}
	page, err := x.store.Query(ctx, store.Query{
		Table: tableObject, Limit: limit, After: cursor,
		Where: []store.Where{
			{Column: "key", Op: store.Prefix, Value: bucket + "/" + prefix}, {Column: "present", Op: store.Eq, Value: int64(1)},
		},
	})
	if err != nil {
		return out, err
	}
	out.Items, out.Next = make([]waybill.Object, len(page.Rows)), page.Next
	for i, r := range page.Rows {
		if err := json.Unmarshal(r.Val, &out.Items[i]); err != nil {
			return out, err
		}
	}
	return out, nil
}

// Buckets implements waybill.Objects.
func (x *Objects) Buckets(ctx context.Context) ([]string, error) {
	rows, err := x.store.Scan(ctx, "", tableBucket, "", 0)
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = r.Key
	}
	return out, err
}

// DeleteObject implements waybill.Objects.
func (x *Objects) DeleteObject(ctx context.Context, bucket, key string, by waybill.Principal) error {
	o, err := x.Object(ctx, bucket, key, "")
	if err != nil {
		return err
	}
	_, err = x.add(ctx, waybill.Object{Tenant: o.Tenant, Bucket: bucket, Key: key, CreatedBy: by.Name, Deleted: true}, origin{attempt: by.Attempt}, "")
	return err
}
