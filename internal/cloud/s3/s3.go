// Package s3 reads buckets of Amazon S3 and of stores that speak its protocol:
//
//	s3://NAME?region=eu-central-1
//	s3://KEYID:SECRET@NAME?endpoint=https://minio.example.org&region=us-east-1
//
// Without credentials in the URL those of the environment, the shared
// configuration (with profile=…) or the machine are used; anonymous=true uses none.
// Where an endpoint is named, bucket names are part of the path unless
// use_path_style=false.
package s3

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	gocloudaws "gocloud.dev/aws"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/portable"
)

// Scheme is that of its URLs.
const Scheme = "s3"

// Open is a cloud.Opener.
func Open(ctx context.Context, u *url.URL) (cloud.Bucket, error) {
	if err := portable.Params(u, "region", "endpoint", "profile", "anonymous", "use_path_style", "disable_https"); err != nil {
		return nil, err
	}
	name := "S3 bucket " + u.Host
	q := u.Query()
	pathStyle := q.Get("use_path_style")
	if pathStyle == "" && q.Get("endpoint") != "" {
		pathStyle = "true"
	}
	if q.Get("endpoint") != "" && q.Get("region") == "" {
		q.Set("region", "us-east-1")
	}
	params := url.Values{}
	for k, v := range q {
		if k != "use_path_style" && k != "disable_https" {
			params[k] = v
		}
	}
	cfg, err := gocloudaws.V2ConfigFromURLParams(ctx, params)
	if err != nil {
		return nil, portable.Invalid(name, err)
	}
	if u.User != nil {
		secret, _ := u.User.Password()
		cfg.Credentials = credentials.NewStaticCredentialsProvider(u.User.Username(), secret, "")
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = pathStyle == "true"
		o.DisableLogOutputChecksumValidationSkipped = true // many stores have none
		o.EndpointOptions.DisableHTTPS = q.Get("disable_https") == "true"
	})
	b, err := s3blob.OpenBucket(ctx, client, u.Host, nil)
	if err != nil {
		return nil, portable.Invalid(name, err)
	}
	return portable.New(b, store(name)), nil
}

func store(name string) portable.Store {
	return portable.Store{
		Name: name,
		Same: portable.SameTag,
		Listed: func(o *blob.ListObject) string {
			var raw types.Object
			o.As(&raw)
			return portable.Tagged(aws.ToString(raw.ETag), o.ModTime)
		},
		Described: func(a *blob.Attributes) string { return portable.Tagged(a.ETag, a.ModTime) },
		Read: func(r *blob.Reader) (string, map[string]string) {
			var raw s3.GetObjectOutput
			r.As(&raw)
			return portable.Tagged(aws.ToString(raw.ETag), r.ModTime()), raw.Metadata
		},
		Only: func(version string) func(func(any) bool) error {
			return func(as func(any) bool) error {
				var in *s3.GetObjectInput
				if as(&in) {
					in.IfMatch = aws.String(portable.Tag(version))
				}
				return nil
			}
		},
		Kind: kind,
	}
}

// kind knows the answers that the portable codes do not tell apart.
func kind(err error) waybill.Kind {
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "PreconditionFailed":
			return waybill.KindConflict
		case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
			return waybill.KindUnauthorized
		}
	}
	var res *awshttp.ResponseError
	if errors.As(err, &res) {
		switch res.HTTPStatusCode() {
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
