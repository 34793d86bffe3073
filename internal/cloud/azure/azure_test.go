package azure_test

import (
	"net/url"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/azure"
	"github.com/waybill-run/waybill/internal/cloud/azuretest"
	"github.com/waybill-run/waybill/internal/cloud/cloudtest"
)

func open(t *testing.T, text string) cloud.Bucket {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := azure.Open(t.Context(), u)
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
		s := azuretest.Start(t)
		return &cloudtest.Place{
			Open:    func(t *testing.T) cloud.Bucket { return open(t, s.URL(azuretest.Container)) },
			Put:     s.Put,
			Remove:  s.Remove,
			Missing: func(t *testing.T) cloud.Bucket { return open(t, s.URL("nowhere")) },
			Denied:  func(t *testing.T) cloud.Bucket { return open(t, s.WrongURL()) },
			Many:    1100,
		}
	})
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"azblob://account:c2VjcmV0@name": true, "azblob://account:no_base64@name": false,
		"azblob://account:c2VjcmV0@name/below": false, "azblob://account:c2VjcmV0@name?x=1": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = azure.Open(t.Context(), u)
		if ok != (err == nil) || !ok && !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
