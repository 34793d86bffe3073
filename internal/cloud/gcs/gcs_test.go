package gcs_test

import (
	"net/url"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/cloudtest"
	"github.com/waybill-run/waybill/internal/cloud/gcs"
	"github.com/waybill-run/waybill/internal/cloud/gcstest"
)

func open(t *testing.T, text string) cloud.Bucket {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := gcs.Open(t.Context(), u)
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
		s := gcstest.Start(t)
		return &cloudtest.Place{
			Open:    func(t *testing.T) cloud.Bucket { return open(t, s.URL(gcstest.Bucket)) },
			Put:     s.Put,
			Remove:  s.Remove,
			Missing: func(t *testing.T) cloud.Bucket { return open(t, s.URL("nowhere")) },
			Many:    1100,
		}
	})
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"gs://name?anonymous=true": true, "gs://name/below?anonymous=true": false, "gs://name?anon=true": false,
		"gs://:nonsense@name": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = gcs.Open(t.Context(), u)
		if ok != (err == nil) || !ok && !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
