package azurequeue_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	azqueue "github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"

	"github.com/waybill-run/waybill/internal/cloud/azuretest"
	"github.com/waybill-run/waybill/internal/source/azurequeue"
	"github.com/waybill-run/waybill/internal/source/sourcetest"
)

const hidden = 3 * time.Second

func at(account, key, queue, encoding string) *azurequeue.Source {
	u, err := url.Parse(account)
	if err != nil {
		panic(err) // of the test server
	}
	u.User = url.UserPassword(azuretest.Account, key)
	return azurequeue.New(azurequeue.Options{
		URL: func(context.Context) (string, error) { return u.String(), nil }, Queue: queue, Visibility: hidden, Encoding: encoding, Poll: 200 * time.Millisecond,
	})
}

func newQueue(t *testing.T, account, name string) *azqueue.QueueClient {
	t.Helper()
	credential, err := azqueue.NewSharedKeyCredential(azuretest.Account, azuretest.Key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := azqueue.NewQueueClientWithSharedKeyCredential(account+"/"+name, credential, nil)
	if err == nil {
		_, err = q.Create(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestSource(t *testing.T) {
	t.Parallel()
	server := azuretest.Start(t)
	var n atomic.Int64
	sourcetest.Run(t, func(t *testing.T) *sourcetest.Place {
		name := fmt.Sprintf("queue-%d", n.Add(1))
		q := newQueue(t, server.Queues, name)
		return &sourcetest.Place{
			Source: at(server.Queues, azuretest.Key, name, "auto"),
			Send: func(t *testing.T, _ string, body []byte, _ map[string]string) {
				t.Helper()
				if _, err := q.EnqueueMessage(t.Context(), string(body), nil); err != nil {
					t.Fatal(err)
				}
			},
			Left: func(t *testing.T) int {
				t.Helper()
				p, err := q.GetProperties(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				return int(*p.ApproximateMessagesCount)
			},
			Missing: at(server.Queues, azuretest.Key, "nowhere", "auto"),
			Denied:  at(server.Queues, "c2VjcmV0", name, "auto"),
			Hidden:  hidden,
		}
	})
}

func TestEncodings(t *testing.T) {
	t.Parallel()
	server := azuretest.Start(t)
	q := newQueue(t, server.Queues, "encoded")
	encoded := base64.StdEncoding.EncodeToString([]byte(`{"order":1}`))
	for _, c := range []struct{ encoding, sent, want string }{
		{"auto", encoded, `{"order":1}`}, {"auto", "deadbeef", "deadbeef"}, {"auto", `{"plain":true}`, `{"plain":true}`}, {"auto", "1234", "1234"},
		{"text", encoded, encoded}, {"base64", encoded, `{"order":1}`}, {"base64", "not base64!", "not base64!"},
		{"base64", base64.StdEncoding.EncodeToString([]byte("\x00\x01")), "\x00\x01"},
	} {
		if _, err := q.EnqueueMessage(t.Context(), c.sent, nil); err != nil {
			t.Fatal(err)
		}
		conn, err := at(server.Queues, azuretest.Key, "encoded", c.encoding).Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := conn.Receive(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if string(got[0].Body) != c.want || got[0].ID == "" || got[0].Time.IsZero() {
			t.Errorf("%s %q is %q (%+v), want %q", c.encoding, c.sent, got[0].Body, got[0], c.want)
		}
		if err := conn.Ack(t.Context(), got); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"nonsense", "http://127.0.0.1:1/a?sig=no_base64!", "https://a:no_base64!@a.queue.core.windows.net", "https://a:b c@x"} {
		s := azurequeue.New(azurequeue.Options{URL: func(context.Context) (string, error) { return text, nil }, Queue: "q"})
		if _, err := s.Connect(t.Context()); err == nil || strings.Contains(err.Error(), "no_base64!") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
