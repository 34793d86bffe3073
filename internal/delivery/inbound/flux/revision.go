package flux

import "strings"

// Revision is what Flux calls the state of a source.
type Revision struct {
	Ref     string // branch, tag or version, as far as it is said
	Commit  string // of a git repository
	Digest  string // of an OCI artifact, with its algorithm
	Version string // of a chart
}

// ParseRevision reads a revision in the forms that controllers have written over the years:
//
//	main@sha1:40d6b21b…              branch, tag or refs/heads/…, and commit
//	v1.2.3@sha1:40d6b21b…
//	refs/heads/main@sha1:40d6b21b…
//	sha1:40d6b21b…                   commit alone
//	feature/x/40d6b21b…              branch and commit, before Flux 2.0
//	latest@sha256:e3b0c442…          tag and digest of an OCI artifact
//	6.5.0                            version of a chart
//
// ok is false when it is none of them. A commit of a repository that hashes with SHA-256 has 64 digits
// after "sha256:", as a digest has; it is read as a digest.
func ParseRevision(s string) (r Revision, ok bool) {
	s = strings.TrimSpace(s)
	ref, sum, at := s, "", false
	if i := strings.LastIndex(s, "@"); i >= 0 {
		ref, sum, at = s[:i], s[i+1:], true
	} else if strings.HasPrefix(s, "sha1:") || strings.HasPrefix(s, "sha256:") {
		ref, sum, at = "", s, true
	}
	if at {
		algorithm, hex, _ := strings.Cut(sum, ":")
		if !isHex(hex) {
			return Revision{}, false
		}
		hex = strings.ToLower(hex)
		switch {
		case algorithm == "sha1" && len(hex) >= 7 && len(hex) <= 40:
			return Revision{Ref: ref, Commit: hex}, true
		case (algorithm == "sha256" || algorithm == "sha384" || algorithm == "sha512") && len(hex) >= 32:
			return Revision{Ref: ref, Digest: algorithm + ":" + hex}, true
		}
		return Revision{}, false
	}
	if i := strings.LastIndex(s, "/"); i >= 0 {
		ref, s = s[:i], s[i+1:]
		if isHex(s) && len(s) >= 7 && ref != "" {
			return Revision{Ref: ref, Commit: strings.ToLower(s)}, true
		}
		return Revision{}, false
	}
	if isHex(s) && len(s) >= 7 && strings.ContainsAny(s, "abcdefABCDEF") || isHex(s) && len(s) == 40 {
		return Revision{Commit: strings.ToLower(s)}, true
	}
	if version(s) {
		return Revision{Ref: s, Version: s}, true
	}
	return Revision{}, false
}

func isHex(s string) bool {
	return s != "" && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

// version reports whether a text looks like a version of a chart: three numbers, perhaps
// with something behind them.
func version(s string) bool {
	core, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return false
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}
