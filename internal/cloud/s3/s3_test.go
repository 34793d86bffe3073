package s3_test

import (
	"net/url"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/cloudtest"
	"github.com/waybill-run/waybill/internal/cloud/s3"
	"github.com/waybill-run/waybill/internal/cloud/s3test"
)

func open(t *testing.T, text string) cloud.Bucket {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s3.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestBucket(t *testing.T) {
	t.Parallel()
	cloudtest.Run(t, func(t *testing.T) *cloudtest.Place {
		s := s3test.Start(t)
		return &cloudtest.Place{
			Open:    func(t *testing.T) cloud.Bucket { return open(t, s.URL(s3test.Bucket)) },
			Put:     s.Put,
			Remove:  s.Remove,
			Missing: func(t *testing.T) cloud.Bucket { return open(t, s.URL("nowhere")) },
			Denied:  func(t *testing.T) cloud.Bucket { return open(t, s.WrongURL()) },
			Many:    2500,
		}
	})
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"s3://name?region=eu-central-1": true, "s3://name?region=x&endpoint=https://minio.example.org": true,
		"s3://name/below?region=x": false, "s3://name?regoin=x": false, "s3://": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s3.Open(t.Context(), u)
		if ok != (err == nil) || !ok && !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
