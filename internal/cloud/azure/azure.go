// Package azure reads containers of Azure Blob Storage:
//
//	azblob://CONTAINER?storage_account=NAME
//	azblob://ACCOUNT:KEY@CONTAINER
//	azblob://ACCOUNT:KEY@CONTAINER?endpoint=http://127.0.0.1:10000/ACCOUNT
//
// Without credentials in the URL those of the environment are used
// (AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or
// AZURE_STORAGE_SAS_TOKEN), else the identity of the machine.
package azure

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azb "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob"
	"gocloud.dev/blob/azureblob"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/portable"
)

// Scheme is that of its URLs.
const Scheme = azureblob.Scheme

// Open is a cloud.Opener.
func Open(ctx context.Context, u *url.URL) (cloud.Bucket, error) {
	if err := portable.Params(u, "endpoint", "storage_account", "domain", "protocol", "localemu", "cdn"); err != nil {
		return nil, err
	}
	name := "Azure container " + u.Host
	var b *blob.Bucket
	var err error
	if u.User == nil {
		b, err = blob.OpenBucket(ctx, portable.Without(u, "endpoint").String())
	} else {
		b, err = withKey(ctx, u)
	}
	if err != nil {
		return nil, portable.Invalid(name, err)
	}
	return portable.New(b, store(name)), nil
}

// withKey opens a container with the account key in the URL.
func withKey(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	account := u.User.Username()
	key, _ := u.User.Password()
	credential, err := azblob.NewSharedKeyCredential(account, key)
	if err != nil {
		return nil, errors.New("the account key is not base64")
	}
	endpoint := u.Query().Get("endpoint")
	if endpoint == "" {
		endpoint = "https://" + account + ".blob.core.windows.net"
	}
	full, err := url.JoinPath(endpoint, u.Host)
	if err != nil {
		return nil, errors.New("the endpoint is no URL")
	}
	client, err := container.NewClientWithSharedKeyCredential(full, credential, nil)
	if err != nil {
		return nil, err
	}
	return azureblob.OpenBucket(ctx, client, nil)
}

func text(tag *azcore.ETag) string {
	if tag == nil {
		return ""
	}
	return string(*tag)
}

func store(name string) portable.Store {
	only := func(version string) *azb.AccessConditions {
		return &azb.AccessConditions{ModifiedAccessConditions: &azb.ModifiedAccessConditions{IfMatch: to.Ptr(azcore.ETag(portable.Tag(version)))}}
	}
	return portable.Store{
		Name: name,
		Same: portable.SameTag,
		Listed: func(o *blob.ListObject) string {
			var raw container.BlobItem
			if !o.As(&raw) || raw.Properties == nil {
				return ""
			}
			return portable.Tagged(text(raw.Properties.ETag), o.ModTime)
		},
		Described: func(a *blob.Attributes) string { return portable.Tagged(a.ETag, a.ModTime) },
		Read: func(r *blob.Reader) (string, map[string]string) {
			var raw azb.DownloadStreamResponse
			r.As(&raw)
			metadata := map[string]string{}
			for k, v := range raw.Metadata {
				if v != nil {
					metadata[k] = *v
				}
			}
			return portable.Tagged(text(raw.ETag), r.ModTime()), metadata
		},
		Only: func(version string) func(func(any) bool) error {
			return func(as func(any) bool) error {
				var o *azblob.DownloadStreamOptions
				if as(&o) {
					o.AccessConditions = only(version)
				}
				return nil
			}
		},
		OnlyDelete: func(version string) func(func(any) bool) error {
			return func(as func(any) bool) error {
				var o *azb.DeleteOptions
				if as(&o) {
					o.AccessConditions = only(version)
				}
				return nil
			}
		},
		Kind: kind,
	}
}

// kind knows the answers that the portable codes do not tell apart.
func kind(err error) waybill.Kind {
	var res *azcore.ResponseError
	if errors.As(err, &res) {
		switch res.StatusCode {
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
