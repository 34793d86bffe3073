// Package gcs reads buckets of Google Cloud Storage:
//
//	gs://NAME
//	gs://:CREDENTIALS@NAME           the JSON of a service account, percent-encoded
//	gs://NAME?anonymous=true&endpoint=http://127.0.0.1:4443/storage/v1/
//
// Without credentials in the URL the application default credentials are used. A
// version of an object is its generation.
package gcs

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/portable"
)

// Scheme is that of its URLs.
const Scheme = gcsblob.Scheme

// Open is a cloud.Opener.
func Open(ctx context.Context, u *url.URL) (cloud.Bucket, error) {
	if err := portable.Params(u, "anonymous", "endpoint"); err != nil {
		return nil, err
	}
	name := "Google bucket " + u.Host
	b, err := open(ctx, u)
	if err != nil {
		return nil, portable.Invalid(name, err)
	}
	return portable.New(b, store(name)), nil
}

func open(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	client := gcp.NewAnonymousHTTPClient(http.DefaultTransport)
	if u.Query().Get("anonymous") != "true" {
		var credentials *google.Credentials
		var err error
		if text, ok := password(u); ok {
			credentials, err = google.CredentialsFromJSONWithType(ctx, []byte(text), google.ServiceAccount, scope)
			if err != nil {
				err = errors.New("the credentials in the URL are not those of a service account")
			}
		} else {
			credentials, err = google.FindDefaultCredentials(ctx, scope)
		}
		if err != nil {
			return nil, err
		}
		if client, err = gcp.NewHTTPClient(http.DefaultTransport, credentials.TokenSource); err != nil {
			return nil, err
		}
	}
	o := &gcsblob.Options{}
	if endpoint := u.Query().Get("endpoint"); endpoint != "" {
		o.ClientOptions = append(o.ClientOptions, option.WithEndpoint(endpoint), storage.WithJSONReads())
	}
	return gcsblob.OpenBucket(ctx, client, u.Host, o)
}

// scope is the right to read objects, and to move those that were read.
const scope = storage.ScopeReadWrite

func password(u *url.URL) (string, bool) {
	if u.User == nil {
		return "", false
	}
	return u.User.Password()
}

func generation(n int64) string { return strconv.FormatInt(n, 10) }

func store(name string) portable.Store {
	// The handle that is read or deleted through becomes one of a generation.
	only := func(version string) func(func(any) bool) error {
		return func(as func(any) bool) error {
			var h **storage.ObjectHandle
			n, err := strconv.ParseInt(version, 10, 64)
			if err == nil && as(&h) {
				*h = (*h).If(storage.Conditions{GenerationMatch: n})
			}
			return err
		}
	}
	return portable.Store{
		Name: name,
		Listed: func(o *blob.ListObject) string {
			var raw storage.ObjectAttrs
			o.As(&raw)
			return generation(raw.Generation)
		},
		Described: func(a *blob.Attributes) string {
			var raw storage.ObjectAttrs
			a.As(&raw)
			return generation(raw.Generation)
		},
		Read: func(r *blob.Reader) (string, map[string]string) {
			var raw *storage.Reader
			if !r.As(&raw) {
				return "", nil
			}
			return generation(raw.Attrs.Generation), raw.Metadata()
		},
		Only:       only,
		OnlyDelete: only,
		Kind:       kind,
	}
}

// kind knows the answers that the portable codes do not tell apart.
func kind(err error) waybill.Kind {
	var res *googleapi.Error
	if errors.As(err, &res) {
		switch res.Code {
		case http.StatusPreconditionFailed:
			return waybill.KindConflict
		case http.StatusUnauthorized:
			return waybill.KindUnauthorized
		case http.StatusForbidden:
			return waybill.KindForbidden
		}
	}
	return ""
}
