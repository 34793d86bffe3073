//go:build linux

package containers

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/client"
)

var inspectAll = client.ContainerInspectOptions{}

// witness is told by containers on the network of this machine what they do, in the order
// in which they do it.
type witness struct {
	host string
	mu   sync.Mutex
	seen []effect
}

// effect is something that a container did.
type effect struct{ run, step, attempt, what string }

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		f := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		if len(f) != 4 {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen = append(w.seen, effect{f[0], f[1], f[2], f[3]})
	}))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
	w.host = ln.Addr().String()
	return w
}

// says is a command by which a container tells something.
func (w *witness) says(what string) string {
	return fmt.Sprintf(`wget -q -O /dev/null "http://%s/$WAYBILL_RUN/$WAYBILL_STEP/$WAYBILL_ATTEMPT/%s" || echo unheard`, w.host, what)
}

// of are the effects of a run.
func (w *witness) of(run string) (out []effect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.seen {
		if e.run == run {
			out = append(out, e)
		}
	}
	return out
}

func (w *witness) count(run, what string) (n int) {
	for _, e := range w.of(run) {
		if e.what == what {
			n++
		}
	}
	return n
}

// most is how many containers of a run had started and not ended at once.
func (w *witness) most(run string) (most int) {
	now := 0
	for _, e := range w.of(run) {
		switch e.what {
		case "start":
			now++
		case "end":
			now--
		}
		most = max(most, now)
	}
	return most
}

// walkFiles reads all regular files below a folder.
func walkFiles(dir string, f func(path string, content []byte)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // gone meanwhile
			}
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil // gone meanwhile
		}
		f(path, b)
		return nil
	})
}
