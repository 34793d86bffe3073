package object

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// This file remembers which attempt made which version, in the commit that makes it.

// tableMade finds what runs made. Key: run, bucket/key and version. A row stays as long
// as the run or the version does, so that each can tell of the other.
const tableMade = "object_made"

// origin is what a version comes from.
type origin struct {
	attempt string // that made it; empty of a person
	hops    int    // arrivals that led to it
}

// Made is what is remembered of a version that an attempt made.
type Made struct {
	Bucket  string    `json:"-"`
	Key     string    `json:"-"`
	Version string    `json:"-"`
	Run     string    `json:"-"`
	Step    string    `json:"step"`
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
}

func madeTable() store.Table {
	return store.Table{
		Name: tableMade, Version: 1, Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
		Derive: store.JSON(func(_ string, m *Made) store.Derived { return store.Derived{Columns: []any{store.Millis(m.At)}} }),
	}
}

func madeKey(run, bucket, key, version string) string {
	return run + "\x01" + versionKey(bucket, key, version)
}

// attemptOf takes the key of an attempt apart, see waybill.AttemptKey.
func attemptOf(key string) (run, step string, number int, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return "", "", 0, false
	}
	n, err := strconv.Atoi(parts[2])
	return parts[0], parts[1], n, err == nil
}

// madePut is the row of a version that an attempt made.
func madePut(o *waybill.Object, attempt string) (store.Put, error) {
	run, step, number, ok := attemptOf(attempt)
	if !ok {
		return store.Put{}, waybill.E(waybill.KindInternal, "%q is no attempt", attempt)
	}
	val, err := json.Marshal(Made{Step: step, Attempt: number, At: o.CreatedAt})
	return store.Put{Table: tableMade, Key: madeKey(run, o.Bucket, o.Key, o.Version), Val: val}, err
}

func madeOf(r store.Row) (Made, error) {
	var m Made
	if err := json.Unmarshal(r.Val, &m); err != nil {
		return m, err
	}
	var name string
	run, rest, _ := strings.Cut(r.Key, "\x01")
	name, m.Version, _ = strings.Cut(rest, "\x01")
	m.Bucket, m.Key, _ = strings.Cut(name, "/")
	m.Run = run
	return m, nil
}

// Made returns a page of the versions that a run made, by bucket, key and version. They
// may be gone.
func (x *Objects) Made(ctx context.Context, run string, limit int, cursor string) (waybill.Page[Made], error) {
	out := waybill.Page[Made]{Items: []Made{}}
	if unreadable(run) {
		return out, nil
	}
	page, err := x.store.Query(ctx, store.Query{
		Table: tableMade, Limit: limit, After: cursor, Where: []store.Where{{Column: "key", Op: store.Prefix, Value: run + "\x01"}},
	})
	if err != nil {
		return out, err
	}
	out.Next = page.Next
	for _, r := range page.Rows {
		m, err := madeOf(r)
		if err != nil {
			return out, err
		}
		out.Items = append(out.Items, m)
	}
	return out, nil
}

// Maker returns what is remembered of the attempt that made a version, ok=false when no
// attempt did. A name that merely looks like an attempt's does not make it one.
func (x *Objects) Maker(ctx context.Context, o waybill.LineageObject) (m Made, ok bool, err error) {
	key, is := strings.CutPrefix(o.CreatedBy, "attempt ")
	if !is {
		return m, false, nil
	}
	run, _, _, is := attemptOf(key)
	if !is {
		return m, false, nil
	}
	row, err := x.store.Get(ctx, "", tableMade, madeKey(run, o.Bucket, o.Key, o.Version))
	if errors.Is(err, store.ErrNotFound) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	m, err = madeOf(row)
	return m, err == nil, err
}

// unreadable reports that a text cannot be part of a key, so that nothing is there.
func unreadable(s string) bool {
	return s == "" || len(s) > 64 || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}

// Known returns what is kept of a version, deletions included; with an empty version, of
// the newest one that has content. KindNotFound: nothing.
func (x *Objects) Known(ctx context.Context, bucket, key, ver string) (waybill.LineageObject, error) {
	out := waybill.LineageObject{Bucket: bucket, Key: key, Version: ver}
	if err := check(bucket, key); err != nil {
		return out, err
	}
	if ver != "" && unreadable(ver) {
		return out, notFound(bucket, key, "")
	}
	current, err := x.read(ctx, tableObject, name(bucket, key))
	if errors.Is(err, store.ErrNotFound) && ver != "" {
		current.Deleted, err = true, nil // forgotten before older versions are
	}
	if errors.Is(err, store.ErrNotFound) {
		return out, notFound(bucket, key, ver)
	}
	if err != nil {
		return out, err
	}
	v := version{Object: current}
	switch {
	case ver != "" && ver != current.Version:
		row, err := x.store.Get(ctx, "", tableVersion, versionKey(bucket, key, ver))
		if errors.Is(err, store.ErrNotFound) {
			return out, notFound(bucket, key, ver)
		}
		if err == nil {
			err = json.Unmarshal(row.Val, &v)
		}
		if err != nil {
			return out, err
		}
	case ver == "" && current.Deleted:
		// A deletion is not deleted again, so the version before it has content.
		page, err := x.store.Query(ctx, store.Query{
			Table: tableVersion, Desc: true, Limit: 2, Where: []store.Where{{Column: "key", Op: store.Prefix, Value: versionKey(bucket, key, "")}},
		})
		if err != nil {
			return out, err
		}
		for _, r := range page.Rows {
			var before version
			if err := json.Unmarshal(r.Val, &before); err != nil {
				return out, err
			}
			if !before.Deleted {
				v = before
				break
			}
		}
	}
	out.Version, out.Size, out.CreatedAt, out.CreatedBy, out.ReplacedAt = v.Version, v.Size, v.CreatedAt, v.CreatedBy, v.ReplacedAt
	switch {
	case current.Deleted:
		out.State = waybill.LineageDeleted
	case v.Version != current.Version:
		out.State = waybill.LineageReplaced
	default:
		out.State = waybill.LineageCurrent
	}
	return out, nil
}

// sweepMade forgets who made versions that are forgotten, by runs that are.
func (x *Objects) sweepMade(ctx context.Context, before time.Time, kept func(ctx context.Context, run string) (bool, error)) error {
	return x.sweepRows(ctx, store.Query{
		Table: tableMade, Order: "at", Where: []store.Where{{Column: "at", Op: store.Lt, Value: before.UnixMilli()}},
	}, func(r store.Row) ([]store.Put, error) {
		m, err := madeOf(r)
		if err != nil {
			return nil, err
		}
		if _, err := x.store.Get(ctx, "", tableVersion, versionKey(m.Bucket, m.Key, m.Version)); !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if ok, err := kept(ctx, m.Run); ok || err != nil {
			return nil, err
		}
		return []store.Put{{Table: tableMade, Key: r.Key, Rev: r.Rev}}, nil
	})
}
