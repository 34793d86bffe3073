package cdevents

import (
	"net/url"
	"strings"
)

// Artifact is what a package URL names (https://github.com/package-url/purl-spec).
type Artifact struct {
	Name   string // with its namespace
	Tag    string // name:tag, or name:version of what has no digest
	Digest string
}

// ParsePURL reads a package URL. An identifier that is none is taken for an image
// reference. ok is false for one that names nothing.
func ParsePURL(s string) (a Artifact, ok bool) {
	s = strings.TrimSpace(s)
	rest, isPURL := strings.CutPrefix(s, "pkg:")
	if !isPURL {
		ref, digest, _ := strings.Cut(s, "@")
		last := ref[strings.LastIndex(ref, "/")+1:]
		a.Name, a.Digest = ref, digest
		if i := strings.LastIndex(last, ":"); i > 0 {
			a.Tag, a.Name = ref, ref[:len(ref)-len(last)+i]
		}
		return a, a.Name != "" && (a.Tag != "" || strings.Contains(a.Digest, ":"))
	}
	rest, _, _ = strings.Cut(rest, "#")
	path, query, _ := strings.Cut(strings.TrimLeft(rest, "/"), "?")
	_, path, ok = strings.Cut(path, "/") // the type
	if !ok {
		return a, false
	}
	path, version, _ := strings.Cut(path, "@")
	version, err := url.PathUnescape(version)
	if err != nil {
		return a, false
	}
	name, err := url.PathUnescape(strings.Trim(path, "/"))
	if err != nil || name == "" {
		return a, false
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return a, false
	}
	a.Name = name
	if algorithm, sum, found := strings.Cut(version, ":"); found && strings.HasPrefix(algorithm, "sha") && sum != "" {
		a.Digest = strings.ToLower(version)
	} else if version != "" {
		a.Tag = name + ":" + version
	}
	if sum := q.Get("checksum"); a.Digest == "" && strings.HasPrefix(sum, "sha256:") {
		a.Digest = strings.ToLower(strings.Split(sum, ",")[0])
	}
	if tag := q.Get("tag"); tag != "" {
		a.Tag = name + ":" + tag
	}
	return a, a.Tag != "" || a.Digest != ""
}
