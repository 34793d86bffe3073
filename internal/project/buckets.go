package project

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// Bucket is a bucket whose objects come from elsewhere.
type Bucket struct {
	Name    string
	URL     string // references to secrets still stand in it
	Prefix  string
	Settle  Duration // negative: not said
	Poll    Duration
	Empty   string // "skip" or "take"
	After   string // "keep", "delete" or "move:PREFIX"
	MaxSize int64
	Ignore  []string // patterns of keys
}

// Source is a queue of another system.
type Source struct {
	Name          string
	Kind          string // "rabbitmq" or "azure-queue"
	URL           string // references to secrets still stand in it
	Queue         string
	Prefetch      int      // messages in work at once
	Visibility    Duration // how long a message that was taken is hidden from others
	Encoding      string   // "auto", "text" or "base64"
	MaxDeliveries int
}

// The kinds of sources.
const (
	SourceRabbitMQ   = "rabbitmq"
	SourceAzureQueue = "azure-queue"
)

// SettleTime is how long a version must stay as it is. Object stores show an object
// when it is complete, file systems while it is written.
func (b Bucket) SettleTime() time.Duration {
	switch {
	case b.Settle >= 0:
		return time.Duration(b.Settle)
	case strings.HasPrefix(b.URL, "file:"):
		return 5 * time.Second
	}
	return 0
}

// Ignored reports whether a key is left alone.
func (b Bucket) Ignored(key string) bool {
	return slices.ContainsFunc(b.Ignore, func(p string) bool {
		t := pipeline.ObjectTrigger{Match: p}
		return t.Matches("", key)
	})
}

// MoveTo is the prefix that is given to what was taken, empty when it is not moved.
func (b Bucket) MoveTo() string {
	to, ok := strings.CutPrefix(b.After, "move:")
	if !ok {
		return ""
	}
	return to
}

// named reads an object of things with names, each by the fields that add returns
// for it.
func named(add func(name string) map[string]any) func(*settingsReader, string, ast.Node) {
	return func(r *settingsReader, path string, n ast.Node) {
		m, ok := n.(ast.MapNode)
		if !ok {
			r.add(placeOf(n), "", "%s: expected an object with names", path)
			return
		}
		seen := map[string]bool{}
		for it := m.MapRange(); it.Next(); {
			name := it.Key().GetToken().Value
			if err := object.CheckBucket(name); err != nil {
				r.add(placeOf(it.Key()), "", "%s: %.80q is no name: want up to 63 of a-z, 0-9, - and ., beginning with a letter or digit", path, name)
				continue
			}
			if seen[name] {
				r.add(placeOf(it.Key()), "", "%s.%s is there twice", path, name)
				continue
			}
			seen[name] = true
			full := path + "." + name
			r.at[full] = placeOf(it.Key())
			for key, field := range add(name) {
				r.fields[full+"."+key] = field
			}
			r.section(full+".", it.Value())
		}
	}
}

// watched are the fields of buckets and sources.
func (s *Settings) watched() map[string]any {
	return map[string]any{
		"buckets": named(func(name string) map[string]any {
			b := &Bucket{Name: name, Settle: -1, Poll: Duration(30 * time.Second), Empty: "skip", After: "keep", MaxSize: 5 << 30, Ignore: []string{"**/.*"}}
			s.Buckets = append(s.Buckets, b)
			return map[string]any{
				"url": &b.URL, "prefix": &b.Prefix, "settle": &b.Settle, "poll": &b.Poll, "empty": &b.Empty, "after": &b.After,
				"max_size": (*size)(&b.MaxSize), "ignore": &b.Ignore,
			}
		}),
		"sources": named(func(name string) map[string]any {
			q := &Source{Name: name, Prefetch: 16, Visibility: Duration(time.Minute), Encoding: "auto", MaxDeliveries: 10}
			s.Sources = append(s.Sources, q)
			return map[string]any{
				"kind": &q.Kind, "url": &q.URL, "queue": &q.Queue, "prefetch": &q.Prefetch, "visibility": &q.Visibility,
				"encoding": &q.Encoding, "max_deliveries": &q.MaxDeliveries,
			}
		}),
	}
}

// bucketSchemes are those of the URLs of buckets.
var bucketSchemes = []string{"file", "s3", "azblob", "gs"}

func (s Settings) checkWatched(add func(path, format string, args ...any)) {
	for _, b := range s.Buckets {
		at := "buckets." + b.Name
		scheme, _, _ := strings.Cut(b.URL, "://")
		switch {
		case b.URL == "":
			add(at, "it has no url")
		case !strings.HasPrefix(b.URL, "${secret:") && !slices.Contains(bucketSchemes, scheme):
			add(at+".url", "expected file:///PATH, s3://NAME, azblob://NAME or gs://NAME")
		}
		if len(b.Prefix) > 1000 || strings.HasPrefix(b.Prefix, "/") {
			add(at+".prefix", "expected the beginning of keys, without a slash before it")
		}
		if b.Settle > Duration(24*time.Hour) {
			add(at+".settle", "expected at most 24h")
		}
		if b.Poll < Duration(time.Second) || b.Poll > Duration(24*time.Hour) {
			add(at+".poll", "expected 1s to 24h")
		}
		if b.Empty != "skip" && b.Empty != "take" {
			add(at+".empty", "expected skip or take, found %.40q", b.Empty)
		}
		to, move := strings.CutPrefix(b.After, "move:")
		switch {
		case move && (!strings.HasSuffix(to, "/") || object.CheckKey(to+"x") != nil):
			add(at+".after", "expected move: and a prefix that ends with a slash, such as move:done/")
		case move && b.Prefix != "" && strings.HasPrefix(b.Prefix, to):
			add(at+".after", "what is moved to %.80s would be looked at again: prefix begins with it", to)
		case !move && b.After != "keep" && b.After != "delete":
			add(at+".after", "expected keep, delete or move:PREFIX/, found %.40q", b.After)
		}
		if b.MaxSize < 1 {
			add(at+".max_size", "expected at least 1 byte")
		}
		for _, p := range b.Ignore {
			if p == "" || len(p) > 1024 {
				add(at+".ignore", "expected patterns of 1 to 1024 bytes")
			}
		}
	}
	for _, q := range s.Sources {
		at := "sources." + q.Name
		schemes := map[string][]string{SourceRabbitMQ: {"amqp", "amqps"}, SourceAzureQueue: {"http", "https"}}
		switch want, ok := schemes[q.Kind]; {
		case q.Kind == "":
			add(at, "it has no kind: want %s", strings.Join(slices.Sorted(maps.Keys(schemes)), " or "))
		case !ok:
			add(at+".kind", "expected %s, found %.40q", strings.Join(slices.Sorted(maps.Keys(schemes)), " or "), q.Kind)
		case q.URL == "":
			add(at, "it has no url")
		case !strings.HasPrefix(q.URL, "${secret:"):
			scheme, _, _ := strings.Cut(q.URL, "://")
			if !slices.Contains(want, scheme) {
				add(at+".url", "expected a URL of the scheme %s", strings.Join(want, " or "))
			} else if _, err := url.Parse(q.URL); err != nil && !strings.Contains(q.URL, "${secret:") {
				add(at+".url", "it is no URL; characters of a password that mean something in a URL are written as %%XX")
			}
		}
		if q.Queue == "" || len(q.Queue) > 255 {
			add(at+".queue", "expected the name of a queue")
		}
		if q.Prefetch < 1 || q.Prefetch > 1000 {
			add(at+".prefetch", "expected a number from 1 to 1000")
		}
		if q.Visibility < Duration(time.Second) || q.Visibility > Duration(7*24*time.Hour) {
			add(at+".visibility", "expected 1s to 7d")
		}
		if !slices.Contains([]string{"auto", "text", "base64"}, q.Encoding) {
			add(at+".encoding", "expected auto, text or base64, found %.40q", q.Encoding)
		}
		if q.MaxDeliveries < 1 {
			add(at+".max_deliveries", "expected at least 1")
		}
	}
}
