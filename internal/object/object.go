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
	Hops  func(ctx context.Context, attempt string) (int, error)
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
	tableVersion = "object_version" // see versionKey
	tableIdem    = "object_idem"    // key: like versionKey, with the idempotency key
)

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	created := func(name string) store.Table {
		return store.Table{
			Name: name, Version: 1,
			Columns: []store.Column{{Name: "created", Type: store.Int}},
			Indexes: [][]string{{"created"}},
			Derive: store.JSON(func(_ string, o *waybill.Object) store.Derived {
				return store.Derived{Columns: []any{store.Millis(o.CreatedAt)}}
			}),
		}
	}
	current := created(tableObject)
	current.Columns = append(current.Columns, store.Column{Name: "present", Type: store.Int})
	current.Derive = store.JSON(func(_ string, o *waybill.Object) store.Derived {
		present := int64(1)
		if o.Deleted {
			present = 0
		}
		return store.Derived{Columns: []any{store.Millis(o.CreatedAt), present}}
	})
	idem := store.Table{
		Name: tableIdem, Version: 1, Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
		Derive: store.JSON(func(_ string, m *memory) store.Derived { return store.Derived{Columns: []any{store.Millis(m.At)}} }),
	}
	return store.Schema{{Name: tableBucket, Version: 1}, current, created(tableVersion), idem}
}

// memory is what is kept of a put with an idempotency key.
type memory struct {
	SHA256  string    `json:"sha256"`
	Version string    `json:"version"`
	At      time.Time `json:"at"`
}

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

// CheckKey reports why a name cannot be that of an object.
func CheckKey(key string) error {
	bad := func(why string) error {
		return waybill.E(waybill.KindInvalid, "object key %.80q %s", key, why)
	}
	switch {
	case key == "":
		return bad("is empty")
	case len(key) > 1024:
		return bad("is longer than 1024 bytes")
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
	if err := x.o.Admit(ctx, queue.TopicArrival); err != nil {
		return o, err
	}
	ref, err := x.blobs.Put(ctx, r, x.o.Limit)
	if err != nil {
		return o, err
	}
	if o.SHA256 != "" && o.SHA256 != ref.SHA256 {
		return o, waybill.E(waybill.KindInvalid, "the content's checksum is %s, not %s", ref.SHA256, o.SHA256)
	}
	now := x.store.Now().UTC()
	o.SHA256, o.Size, o.Version, o.CreatedAt, o.CreatedBy, o.Deleted = ref.SHA256, ref.Size, waybill.NewID(now), now, by.Name, false
	hops := 0
	if by.Attempt != "" && x.o.Hops != nil {
		if hops, err = x.o.Hops(ctx, by.Attempt); err != nil {
			return o, err
		}
	}
	err = x.add(ctx, &o, hops, idempotencyKey)
	return o, err
}

// add commits a version. With an idempotency key that was used before, o becomes
// the version made then.
func (x *Objects) add(ctx context.Context, o *waybill.Object, hops int, key string) error {
	idem := name(o.Bucket, o.Key) + "\x01" + key
	for {
		if key != "" {
			row, err := x.store.Get(ctx, "", tableIdem, idem)
			if err == nil {
				var m memory
				if err := json.Unmarshal(row.Val, &m); err != nil {
					return err
				}
				if m.SHA256 != o.SHA256 {
					return waybill.E(waybill.KindInvalid, "the idempotency key was used for other content").
						WithHint("use a new key for a new request")
				}
				*o, err = x.Object(ctx, o.Bucket, o.Key, m.Version)
				return err
			}
			if !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		c, err := x.commit(ctx, o, hops)
		if err != nil {
			return err
		}
		if key != "" {
			val, err := json.Marshal(memory{o.SHA256, o.Version, o.CreatedAt})
			if err != nil {
				return err
			}
			c.Puts = append(c.Puts, store.Put{Table: tableIdem, Key: idem, Val: val})
		}
		if err := x.store.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// Arrival is the body of a message of the topic "arrival".
type Arrival struct {
	Event waybill.Event `json:"event"`
	Hops  int           `json:"hops,omitempty"` // arrivals that led to this one
}

// commit makes o the current version of its object.
func (x *Objects) commit(ctx context.Context, o *waybill.Object, hops int) (*store.Commit, error) {
	val, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	full := name(o.Bucket, o.Key)
	c := &store.Commit{Puts: []store.Put{{Table: tableVersion, Key: versionKey(o.Bucket, o.Key, o.Version), Val: val}}}
	rev := int64(0)
	if row, err := x.store.Get(ctx, "", tableObject, full); err == nil {
		rev = row.Rev
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	c.Puts = append(c.Puts, store.Put{Table: tableObject, Key: full, Rev: rev, Val: val})
	if _, err := x.store.Get(ctx, "", tableBucket, o.Bucket); errors.Is(err, store.ErrNotFound) {
		c.Puts = append(c.Puts, store.Put{Table: tableBucket, Key: o.Bucket, Rev: store.AnyRev, Val: []byte(`{}`)})
	} else if err != nil {
		return nil, err
	}
	kind := "object.put"
	if o.Deleted {
		kind = "object.deleted"
	} else {
		body, err := json.Marshal(Arrival{
			Event: waybill.Event{
				ID: o.Version, Type: "object", Source: "/buckets/" + o.Bucket, Subject: o.Key, Time: o.CreatedAt, Object: o,
			},
			Hops: hops,
		})
		if err != nil {
			return nil, err
		}
		c.Sends = []store.Send{{Topic: queue.TopicArrival, Key: full, Body: body}}
	}
	c.Events = []store.Event{{Subject: "object/" + full, Kind: kind, Data: val, At: o.CreatedAt}}
	return c, nil
}

// Object implements waybill.Objects.
func (x *Objects) Object(ctx context.Context, bucket, key, version string) (waybill.Object, error) {
	var o waybill.Object
	if err := check(bucket, key); err != nil {
		return o, err
	}
	var row store.Row
	var err error
	if version == "" {
		row, err = x.store.Get(ctx, "", tableObject, name(bucket, key))
	} else if !utf8.ValidString(version) || strings.ContainsFunc(version, unicode.IsControl) {
		err = store.ErrNotFound
	} else {
		row, err = x.store.Get(ctx, "", tableVersion, versionKey(bucket, key, version))
	}
	if err == nil {
		err = json.Unmarshal(row.Val, &o)
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && o.Deleted {
		what := "object " + name(bucket, key)
		if version != "" {
			what += " version " + version
		}
		return o, waybill.E(waybill.KindNotFound, "there is no %s", what)
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
	now := x.store.Now().UTC()
	gone := waybill.Object{
		Tenant: o.Tenant, Bucket: bucket, Key: key, Version: waybill.NewID(now), CreatedAt: now, CreatedBy: by.Name, Deleted: true,
	}
	return x.add(ctx, &gone, 0, "")
}
