package object_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// fixture is Objects over a real store and real files, with a clock in its hands.
type fixture struct {
	*object.Objects
	store store.Store
	blobs *file.Store
	dir   string // of the blobs

	mu  sync.Mutex
	now time.Time
}

func setup(t *testing.T, o object.Options) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), object.Tables(), sqlite.Options{Clock: f.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if f.blobs, err = file.Open(f.dir); err != nil {
		t.Fatal(err)
	}
	f.store, f.Objects = st, object.New(st, f.blobs, o)
	return f
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

var ann = waybill.Principal{Name: "ann", Tenant: store.DefaultTenant, Role: waybill.RoleOperator}

func (f *fixture) put(t *testing.T, bucket, key, content string) waybill.Object {
	t.Helper()
	o, err := f.PutObject(t.Context(), waybill.Object{Bucket: bucket, Key: key, ContentType: "text/plain"}, strings.NewReader(content), "", ann)
	if err != nil {
		t.Fatalf("put %s/%s: %v", bucket, key, err)
	}
	return o
}

// arrivals are the messages that wait, in their order.
func (f *fixture) arrivals(t *testing.T) []object.Arrival {
	t.Helper()
	msgs, _, err := f.store.Peek(t.Context(), "", "arrival", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var out []object.Arrival
	for _, m := range msgs {
		var a object.Arrival
		if err := json.Unmarshal(m.Body, &a); err != nil {
			t.Fatal(err)
		}
		if want := a.Event.Object.Bucket + "/" + a.Event.Object.Key; m.Key != want {
			t.Errorf("the arrival of %s has the lane %s", want, m.Key)
		}
		out = append(out, a)
	}
	return out
}

func (f *fixture) content(t *testing.T, bucket, key, version string) string {
	t.Helper()
	_, r, err := f.OpenObject(t.Context(), bucket, key, version)
	if err != nil {
		t.Fatalf("open %s/%s %s: %v", bucket, key, version, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantKind(t *testing.T, what string, err error, want waybill.Kind) {
	t.Helper()
	if waybill.KindOf(err) != want {
		t.Errorf("%s: %v (%s), want kind %s", what, err, waybill.KindOf(err), want)
	}
}

func TestPut(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	first := f.put(t, "inbox", "2026/orders.csv", "a,b\n")
	want := waybill.Object{
		Bucket: "inbox", Key: "2026/orders.csv", Version: first.Version, Size: 4, ContentType: "text/plain",
		SHA256: "5be08c9684a1d25efcee09318204824278b08bbfb4aef973ffefd0b9d7478313", CreatedAt: f.clock(), CreatedBy: "ann",
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("the object is not as put (-want +got):\n%s", diff)
	}
	got, err := f.Object(t.Context(), "inbox", "2026/orders.csv", "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, got); diff != "" {
		t.Errorf("the object has changed (-put +got):\n%s", diff)
	}
	second := f.put(t, "inbox", "2026/orders.csv", "c,d,e\n")
	if second.Version <= first.Version {
		t.Errorf("version %s does not follow %s", second.Version, first.Version)
	}
	if c := f.content(t, "inbox", "2026/orders.csv", ""); c != "c,d,e\n" {
		t.Errorf("the current content is %q", c)
	}
	if c := f.content(t, "inbox", "2026/orders.csv", first.Version); c != "a,b\n" {
		t.Errorf("the first content is %q", c)
	}
	in := f.arrivals(t)
	if len(in) != 2 || in[0].Event.Object.Version != first.Version || in[1].Event.Object.Version != second.Version {
		t.Fatalf("arrivals are %+v, want both versions in their order", in)
	}
	if diff := cmp.Diff(waybill.Event{
		ID: first.Version, Type: "object", Source: "/buckets/inbox", Subject: "2026/orders.csv", Time: first.CreatedAt, Object: &first,
	}, in[0].Event); diff != "" {
		t.Errorf("the event is not as expected (-want +got):\n%s", diff)
	}
	records, err := f.store.Events(t.Context(), "", "object/inbox/2026/orders.csv", "", 10)
	if err != nil || len(records) != 2 || records[0].Kind != "object.put" {
		t.Errorf("its timeline is %+v, %v; want two puts", records, err)
	}
	if names, err := f.Buckets(t.Context()); err != nil || !slices.Equal(names, []string{"inbox"}) {
		t.Errorf("buckets are %v, %v", names, err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	long := strings.Repeat("k", 1024)
	for _, x := range []struct {
		bucket, key string
		ok          bool
	}{
		{"b", "k", true}, {"0-a.b", "k", true}, {strings.Repeat("b", 63), "k", true}, {"b", long, true},
		{"b", "ä ö/ü?*%41.csv", true}, {"b", "a..b/...", true}, {"b", `back\slash`, true},
		{"", "k", false}, {"-a", "k", false}, {".a", "k", false}, {"..", "k", false}, {"A", "k", false}, {"a_b", "k", false}, {"a/b", "k", false},
		{"é", "k", false}, {strings.Repeat("b", 64), "k", false},
		{"b", "", false}, {"b", "/k", false}, {"b", "k/", false}, {"b", "a//b", false}, {"b", ".", false}, {"b", "..", false}, {"b", "a/../b", false},
		{"b", "a/./b", false}, {"b", "a\x00b", false}, {"b", "a\nb", false}, {"b", "a\x01b", false}, {"b", "a\u0085b", false}, {"b", "\xff", false},
		{"b", long + "k", false},
	} {
		_, err := f.PutObject(t.Context(), waybill.Object{Bucket: x.bucket, Key: x.key}, strings.NewReader("x"), "", ann)
		want := waybill.Kind("")
		if !x.ok {
			want = waybill.KindInvalid
		}
		name := fmt.Sprintf("%.70q/%.30q", x.bucket, x.key)
		wantKind(t, "put "+name, err, want)
		if x.ok {
			if got := f.content(t, x.bucket, x.key, ""); got != "x" {
				t.Errorf("%s holds %q", name, got)
			}
			continue
		}
		_, err = f.Object(t.Context(), x.bucket, x.key, "")
		wantKind(t, "get "+name, err, waybill.KindInvalid)
		wantKind(t, "delete "+name, f.DeleteObject(t.Context(), x.bucket, x.key, ann), waybill.KindInvalid)
	}
	for _, version := range []string{"no-such", "\x01", "\x00", "\xff", strings.Repeat("v", 5000)} {
		_, err := f.Object(t.Context(), "b", "k", version)
		wantKind(t, fmt.Sprintf("version %.20q", version), err, waybill.KindNotFound)
	}
	// The versions of one object are not those of another whose key it begins.
	o := f.put(t, "b", "k/2", "x")
	_, err := f.Object(t.Context(), "b", "k", o.Version)
	wantKind(t, "the version of another object", err, waybill.KindNotFound)
	_, err = f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k", ContentType: "a\r\nb"}, strings.NewReader("x"), "", ann)
	wantKind(t, "a content type of two lines", err, waybill.KindInvalid)
}

func TestPutRefused(t *testing.T) {
	t.Parallel()
	full := waybill.E(waybill.KindExhausted, "full")
	var refuse error
	f := setup(t, object.Options{Limit: 10, Admit: func(_ context.Context, topic string) error {
		if topic != "arrival" {
			t.Errorf("asked for topic %s", topic)
		}
		return refuse
	}})
	refuse = full
	_, err := f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k"}, iotest.ErrReader(errors.New("the body was read")), "", ann)
	wantKind(t, "put into a full queue", err, waybill.KindExhausted)
	refuse = nil
	_, err = f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k"}, strings.NewReader("longer than ten"), "", ann)
	wantKind(t, "put over the limit", err, waybill.KindTooLarge)
	gone := errors.New("the sender went away")
	_, err = f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k"}, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(gone)), "", ann)
	if !errors.Is(err, gone) {
		t.Errorf("put of a broken body: %v", err)
	}
	_, err = f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k", SHA256: strings.Repeat("0", 64)}, strings.NewReader("x"), "", ann)
	wantKind(t, "put with another checksum", err, waybill.KindInvalid)
	_, err = f.Object(t.Context(), "b", "k", "")
	wantKind(t, "the object after refused puts", err, waybill.KindNotFound)
	if in := f.arrivals(t); len(in) > 0 {
		t.Errorf("something arrived: %+v", in)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	put := func(content string) (waybill.Object, error) {
		return f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k"}, strings.NewReader(content), "once", ann)
	}
	first, err := put("same")
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, "b", "k", "later")
	again, err := put("same")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the second answer differs (-first +second):\n%s", diff)
	}
	_, err = put("other")
	wantKind(t, "the key with other content", err, waybill.KindInvalid)
	if n := len(f.arrivals(t)); n != 2 {
		t.Errorf("%d arrivals, want 2", n)
	}
	if c := f.content(t, "b", "k", ""); c != "later" {
		t.Errorf("the repetition changed the current content to %q", c)
	}
	// The key is that of one object.
	o, err := f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k2"}, strings.NewReader("other"), "once", ann)
	if err != nil || o.Version == first.Version {
		t.Errorf("the key with another object: %+v, %v", o, err)
	}
}

func TestConcurrentPuts(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	const n = 24
	var wg sync.WaitGroup
	same := make([]waybill.Object, n)
	for i := range n {
		wg.Go(func() { f.put(t, "b", "k", fmt.Sprint("content ", i)) })
		wg.Go(func() {
			var err error
			same[i], err = f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "once"}, strings.NewReader("x"), "key", ann)
			if err != nil {
				t.Errorf("put with a key: %v", err)
			}
		})
	}
	wg.Wait()
	for _, o := range same {
		if o.Version != same[0].Version {
			t.Errorf("one idempotency key made versions %s and %s", o.Version, same[0].Version)
		}
	}
	var versions []string
	once := 0
	for _, a := range f.arrivals(t) {
		if a.Event.Object.Key == "once" {
			once++
			continue
		}
		versions = append(versions, a.Event.Object.Version)
	}
	if once != 1 {
		t.Errorf("one idempotency key made %d arrivals", once)
	}
	if len(versions) != n || !slices.IsSorted(versions) {
		t.Errorf("%d versions arrived, want %d in the order of versions: %v", len(versions), n, versions)
	}
	if o, err := f.Object(t.Context(), "b", "k", ""); err != nil || o.Version != versions[len(versions)-1] {
		t.Errorf("the current version is %s, %v; the last to arrive was %s", o.Version, err, versions[len(versions)-1])
	}
}

// TestClockGoesBack: another server's clock was ahead; versions keep their order.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	first := f.put(t, "b", "k", "1")
	f.pass(-time.Hour)
	second := f.put(t, "b", "k", "2")
	if second.Version <= first.Version {
		t.Errorf("version %s does not follow %s", second.Version, first.Version)
	}
	if c := f.content(t, "b", "k", ""); c != "2" {
		t.Errorf("the current content is %q", c)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	wantKind(t, "delete what was never there", f.DeleteObject(t.Context(), "b", "k", ann), waybill.KindNotFound)
	o := f.put(t, "b", "k", "x")
	if err := f.DeleteObject(t.Context(), "b", "k", ann); err != nil {
		t.Fatal(err)
	}
	_, err := f.Object(t.Context(), "b", "k", "")
	wantKind(t, "get what was deleted", err, waybill.KindNotFound)
	wantKind(t, "delete what was deleted", f.DeleteObject(t.Context(), "b", "k", ann), waybill.KindNotFound)
	if c := f.content(t, "b", "k", o.Version); c != "x" {
		t.Errorf("the version before holds %q", c)
	}
	if page, err := f.ObjectList(t.Context(), "b", "", 0, ""); err != nil || len(page.Items) > 0 {
		t.Errorf("the list holds %+v, %v", page.Items, err)
	}
	if n := len(f.arrivals(t)); n != 1 {
		t.Errorf("%d arrivals, want that of the put only", n)
	}
	f.put(t, "b", "k", "back")
	if c := f.content(t, "b", "k", ""); c != "back" {
		t.Errorf("put after the deletion, it holds %q", c)
	}
	records, err := f.store.Events(t.Context(), "", "object/b/k", "", 10)
	if err != nil || len(records) != 3 || records[1].Kind != "object.deleted" {
		t.Errorf("its timeline is %+v, %v; want put, deleted, put", records, err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	keys := []string{"a", "a b", "a-", "a/1", "a/2", "a/b/c", "ab", "b%_", "b'", "ä"}
	for _, i := range []int{3, 9, 0, 7, 5, 2, 8, 1, 6, 4} {
		f.put(t, "list", keys[i], keys[i])
	}
	f.put(t, "list2", "other", "x")
	f.put(t, "list", "deleted", "x")
	if err := f.DeleteObject(t.Context(), "list", "deleted", ann); err != nil {
		t.Fatal(err)
	}
	list := func(prefix string, limit int) []string {
		t.Helper()
		var out []string
		for cursor := ""; ; {
			page, err := f.ObjectList(t.Context(), "list", prefix, limit, cursor)
			if err != nil {
				t.Fatalf("list %q: %v", prefix, err)
			}
			if len(page.Items) > limit {
				t.Fatalf("a page of %d, the limit is %d", len(page.Items), limit)
			}
			for _, o := range page.Items {
				out = append(out, o.Key)
			}
			if cursor = page.Next; cursor == "" {
				return out
			}
		}
	}
	for _, x := range []struct {
		prefix string
		want   []string
	}{
		{"", keys}, {"a", keys[:7]}, {"a/", keys[3:6]}, {"b%", keys[7:8]}, {"b'", keys[8:9]}, {"ä", keys[9:]}, {"none", nil},
	} {
		for _, limit := range []int{1, 3, 100} {
			if diff := cmp.Diff(x.want, list(x.prefix, limit)); diff != "" {
				t.Errorf("prefix %q in pages of %d (-want +got):\n%s", x.prefix, limit, diff)
			}
		}
	}
	_, err := f.ObjectList(t.Context(), "never", "", 10, "")
	wantKind(t, "list an unknown bucket", err, waybill.KindNotFound)
	_, err = f.ObjectList(t.Context(), "NO", "", 10, "")
	wantKind(t, "list a bad bucket", err, waybill.KindInvalid)
	_, err = f.ObjectList(t.Context(), "list", "\x00", 10, "")
	wantKind(t, "list with a bad prefix", err, waybill.KindInvalid)
	_, err = f.ObjectList(t.Context(), "list", "", 10, "not a cursor")
	wantKind(t, "list with a bad cursor", err, waybill.KindInvalid)
}

func TestHops(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{Hops: func(_ context.Context, attempt string) (int, error) {
		if attempt != "run/step/1" {
			return 0, waybill.E(waybill.KindNotFound, "no such attempt")
		}
		return 4, nil
	}})
	unit := waybill.Principal{Name: "attempt run/step/1", Role: waybill.RoleUnit, Attempt: "run/step/1"}
	o, err := f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k"}, strings.NewReader("x"), "", unit)
	if err != nil {
		t.Fatal(err)
	}
	if o.CreatedBy != "attempt run/step/1" {
		t.Errorf("made by %q", o.CreatedBy)
	}
	f.put(t, "b", "k2", "x")
	in := f.arrivals(t)
	if len(in) != 2 || in[0].Hops != 4 || in[1].Hops != 0 {
		t.Errorf("arrivals are %+v, want 4 hops for the unit's and none for ann's", in)
	}
}

// age makes all content old, or the content of one object.
func (f *fixture) age(t *testing.T, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	if err := f.blobs.Walk(t.Context(), func(r blob.Ref, _ time.Time) error {
		return os.Chtimes(filepath.Join(f.dir, "objects", r.SHA256[:2], r.SHA256[2:]), at, at)
	}); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) has(t *testing.T, sha string) bool {
	t.Helper()
	r, err := f.blobs.Open(t.Context(), sha)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	return true
}

func (f *fixture) sweep(t *testing.T, keep object.Keep) {
	t.Helper()
	if err := f.Sweep(t.Context(), f.clock(), keep); err != nil {
		t.Fatalf("sweep: %v", err)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	f := setup(t, object.Options{})
	first := f.put(t, "b", "k", "first")
	f.pass(40 * day)
	second := f.put(t, "b", "k", "second")
	alone := f.put(t, "b", "alone", "alone")
	shared := f.put(t, "b", "shared", "first") // the same content as first
	f.put(t, "b", "gone", "gone")
	if err := f.DeleteObject(t.Context(), "b", "gone", ann); err != nil {
		t.Fatal(err)
	}
	var refs []blob.Ref // of nothing, and of a run
	for _, text := range []string{"orphan", "value of a run"} {
		ref, err := f.blobs.Put(t.Context(), strings.NewReader(text), 0)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	keep := object.Keep{Versions: 30 * day, References: func(_ context.Context, each func(string)) error {
		each(refs[1].SHA256)
		each("")
		each("nonsense")
		return nil
	}}
	f.age(t, 30*time.Minute)
	f.sweep(t, keep)
	// Nothing was replaced long enough ago: neither the version that stood for 40
	// days until now, nor fresh content that nothing refers to.
	if c := f.content(t, "b", "k", first.Version); c != "first" {
		t.Errorf("the version that was just replaced holds %q", c)
	}
	if !f.has(t, refs[0].SHA256) {
		t.Error("content whose commit may be on its way was deleted")
	}
	f.age(t, 2*time.Hour)
	f.sweep(t, keep)
	if f.has(t, refs[0].SHA256) {
		t.Error("content of nobody stays")
	}
	if !f.has(t, refs[1].SHA256) {
		t.Error("content of a run was deleted")
	}

	f.pass(31 * day)
	f.age(t, 31*day)
	f.sweep(t, keep)
	_, err := f.Object(t.Context(), "b", "k", first.Version)
	wantKind(t, "a version replaced 31 days ago", err, waybill.KindNotFound)
	if !f.has(t, first.SHA256) {
		t.Error("content that another object has too was deleted")
	}
	for _, o := range []waybill.Object{second, alone, shared} {
		if _, err := f.Object(t.Context(), o.Bucket, o.Key, ""); err != nil {
			t.Errorf("a current version was forgotten: %v", err)
		}
	}
	if records, err := f.store.Events(t.Context(), "", "object/b/gone", "", 10); err != nil || len(records) > 0 {
		t.Errorf("a deleted object still has the timeline %+v, %v", records, err)
	}
	if records, err := f.store.Events(t.Context(), "", "object/b/k", "", 10); err != nil || len(records) != 2 {
		t.Errorf("a current object has the timeline %+v, %v; want its two puts", records, err)
	}
	f.put(t, "b", "gone", "back again") // what was forgotten can be made again

	keep.Current = 60 * day
	f.pass(30 * day)
	f.age(t, 30*day)
	f.sweep(t, keep)
	page, err := f.ObjectList(t.Context(), "b", "", 100, "")
	if err != nil || len(page.Items) != 1 || page.Items[0].Key != "gone" {
		t.Errorf("after 61 days the bucket holds %+v, %v; want what was put 30 days ago", page.Items, err)
	}
	for _, o := range []waybill.Object{second, alone, shared} {
		if f.has(t, o.SHA256) {
			t.Errorf("content of %s stays", o.Key)
		}
	}
}

// TestSweepMany goes over several batches, with one row that changes meanwhile.
func TestSweepMany(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	var wg sync.WaitGroup
	for i := range 130 {
		wg.Go(func() {
			f.put(t, "b", fmt.Sprintf("k%03d", i), "x")
			f.put(t, "b", fmt.Sprintf("k%03d", i), "y")
		})
	}
	wg.Wait()
	f.pass(time.Hour)
	f.put(t, "b", "k100", "z")
	f.age(t, 2*time.Hour)
	f.sweep(t, object.Keep{Versions: time.Minute})
	rows, err := f.store.Scan(t.Context(), "", "object_version", "", 0)
	if err != nil || len(rows) != 131 {
		t.Errorf("%d versions stay, %v; want the 130 current ones and the one just replaced", len(rows), err)
	}
	x, err := f.blobs.Put(t.Context(), bytes.NewReader([]byte("z")), 0)
	if err != nil || !f.has(t, x.SHA256) {
		t.Errorf("content of a current version is gone: %v", err)
	}
}

func TestSweepForgetsKeys(t *testing.T) {
	t.Parallel()
	f := setup(t, object.Options{})
	put := func() waybill.Object {
		o, err := f.PutObject(t.Context(), waybill.Object{Bucket: "b", Key: "k"}, strings.NewReader("x"), "key", ann)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	first := put()
	f.pass(6 * 24 * time.Hour)
	f.sweep(t, object.Keep{})
	if o := put(); o.Version != first.Version {
		t.Error("the key was forgotten within a week")
	}
	f.pass(2 * 24 * time.Hour)
	f.sweep(t, object.Keep{})
	if o := put(); o.Version == first.Version {
		t.Error("the key is kept for ever")
	}
}
