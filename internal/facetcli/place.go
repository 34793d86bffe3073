package facetcli

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/opensearch"
	"github.com/waybill-run/waybill/facet/postgres"
)

// open opens the index at a place: a folder, or the URL of one elsewhere. Without a
// schema it has to be there. A folder that is only read may be read by others, too.
func open(ctx context.Context, place string, s facet.Schema, write bool) (facet.Index, error) {
	switch scheme, _, _ := strings.Cut(place, "://"); scheme {
	case "postgres", "postgresql":
		u, err := url.Parse(place)
		if err != nil || u.Fragment == "" {
			return nil, invalid("%q does not name an index", redact(place)).WithHint("write postgres://HOST/DATABASE#NAME")
		}
		name := u.Fragment
		u.Fragment = ""
		return postgres.Open(ctx, u.String(), name, s)
	case "opensearch", "opensearchs":
		base, name, o, err := cluster(place)
		if err != nil {
			return nil, err
		}
		return opensearch.Open(ctx, base, name, s, o)
	}
	if strings.Contains(place, "://") {
		return nil, invalid("%q is neither a folder nor a postgres:// or opensearch:// URL", redact(place))
	}
	there, err := hasIndex(place)
	if err != nil {
		return nil, err
	}
	if !there && len(s.Fields) == 0 {
		return nil, waybill.E(waybill.KindNotFound, "there is no index in %s", place).WithHint("make one: waybill facet build %s FILE", place)
	}
	x, err := facet.Open(place, s, facet.Options{ReadOnly: !write, ScrubEvery: -1})
	if errors.Is(err, facet.ErrCorrupt) {
		return nil, waybill.E(waybill.KindInternal, "%v", err).WithHint("waybill facet verify %s lists what is damaged; build the index anew, or restore the file", place)
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// manifestName is the file that makes a folder an index.
const manifestName = "MANIFEST"

// absent reports whether the error says that there is no such index.
func absent(err error) bool {
	return waybill.IsKind(err, waybill.KindNotFound) || err != nil && strings.Contains(err.Error(), "there is no such index")
}

// hasIndex reports whether a folder holds an index. One that holds something else is
// refused, so that no other files are touched.
func hasIndex(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	other := ""
	for _, e := range entries {
		switch {
		case e.Name() == manifestName:
			return true, nil
		case strings.HasSuffix(e.Name(), ".facet"), e.Name() == "LOCK":
		default:
			other = e.Name()
		}
	}
	if other != "" {
		return false, invalid("%s holds no index, but other files, such as %s", dir, filepath.Base(other)).WithHint("give a folder of its own")
	}
	return false, nil
}

// cluster reads opensearch://USER:PASSWORD@HOST:PORT/NAME.
func cluster(place string) (base, name string, o opensearch.Options, err error) {
	u, err := url.Parse(place)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return "", "", o, invalid("%q does not name an index", redact(place)).WithHint("write opensearch://HOST:9200/NAME")
	}
	scheme := "http"
	if u.Scheme == "opensearchs" {
		scheme = "https"
	}
	if u.User != nil {
		o.User = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	return scheme + "://" + u.Host, strings.Trim(u.Path, "/"), o, nil
}

// redact leaves out the password of a URL.
func redact(place string) string {
	if u, err := url.Parse(place); err == nil {
		return u.Redacted()
	}
	return "the URL"
}
