package rabbitmq_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/source/rabbitmq"
	"github.com/waybill-run/waybill/internal/source/rabbittest"
	"github.com/waybill-run/waybill/internal/source/sourcetest"
)

func at(url, queue string) *rabbitmq.Source {
	return rabbitmq.New(rabbitmq.Options{URL: func(context.Context) (string, error) { return url, nil }, Queue: queue, Prefetch: 16})
}

func TestSource(t *testing.T) {
	t.Parallel()
	node := rabbittest.Start(t)
	var n atomic.Int64
	sourcetest.Run(t, func(t *testing.T) *sourcetest.Place {
		queue := fmt.Sprintf("queue-%d", n.Add(1))
		node.Declare(t, queue)
		wire := newWire(t, node.Port)
		return &sourcetest.Place{
			Source: at(strings.Replace(node.URL, fmt.Sprint(node.Port), fmt.Sprint(wire.port), 1), queue),
			Send: func(t *testing.T, id string, body []byte, headers map[string]string) {
				node.Send(t, queue, id, body, headers)
			},
			Left:    func(t *testing.T) int { return node.Left(t, queue) },
			Cut:     wire.cut,
			Missing: at(node.URL, "nowhere"),
			Denied:  at(strings.Replace(node.URL, "guest:guest", "guest:wrong", 1), queue),
			Names:   true,
		}
	})
}

// wire hands bytes on until it is cut.
type wire struct {
	port int
	mu   sync.Mutex
	open []net.Conn
}

func newWire(t *testing.T, to int) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{port: l.Addr().(*net.TCPAddr).Port}
	t.Cleanup(func() {
		_ = l.Close() // nobody calls any more
		w.cut(t)
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				_ = in.Close() // as if nobody was there
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, in, out)
			w.mu.Unlock()
			for _, x := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(x[0], x[1]) // until one side is closed
					_ = x[0].Close()
				}()
			}
		}
	}()
	return w
}

func (w *wire) cut(*testing.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		_ = c.Close() // it may be closed already
	}
	w.open = nil
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for url, kind := range map[string]waybill.Kind{
		"amqp://guest:se cret@localhost:1/": waybill.KindInvalid, "http://localhost": waybill.KindInvalid,
		"amqp://guest:secret@127.0.0.1:1/": waybill.KindUnavailable,
	} {
		_, err := at(url, "q").Connect(t.Context())
		if !waybill.IsKind(err, kind) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "se cret") {
			t.Errorf("%s: %v of the kind %s", url, err, waybill.KindOf(err))
		}
	}
}
