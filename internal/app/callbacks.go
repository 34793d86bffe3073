package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/runner"
)

// callbacks are the addresses by which units that do not see this machine's loopback call
// back. Nothing else is served there, so the API can stay on loopback.
//
// Units outlive the server, and know only the address that they were given. So ports are
// kept in a file, and listened at again before anything else happens.
type callbacks struct {
	listen string // what --callback-listen says
	public string // what --public-url says
	file   string
	log    *slog.Logger

	mu    sync.Mutex
	http  *httpd.Server
	ports map[string]int          // by address: the port that units were told
	open  map[string]*http.Server // by address
	fixed string                  // URL of the listener that was asked for
}

const (
	callbacksAuto = "auto" // on the container network, when a unit of it is started
	callbacksNone = "none"
)

// start listens where earlier units were told to call, and where the flag says.
func (c *callbacks) start(h *httpd.Server) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.http, c.ports, c.open = h, map[string]int{}, map[string]*http.Server{}
	switch b, err := os.ReadFile(c.file); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(b, &c.ports); err != nil {
			c.log.Warn("the addresses of earlier callbacks cannot be read", "file", c.file, "err", err)
			c.ports = map[string]int{}
		}
	}
	if c.listen != "" && c.listen != callbacksAuto && c.listen != callbacksNone {
		ln, err := net.Listen("tcp", c.listen)
		if err != nil {
			return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("listen", c.listen).WithHint("choose another address with --callback-listen")
		}
		c.fixed = "http://" + ln.Addr().String()
		c.serve(c.listen, ln)
		return nil
	}
	for addr, port := range c.ports {
		if err := c.listenAt(addr, port); err != nil {
			c.log.Warn("units that still run cannot call back here", "address", addr, "port", port, "err", err)
		}
	}
	return nil
}

// listenAt listens at an address that this machine may not have yet: that of a network
// which is made again when the first container is. c.mu is held.
func (c *callbacks) listenAt(addr string, port int) error {
	lc := net.ListenConfig{Control: freeBind}
	ln, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	c.ports[addr] = ln.Addr().(*net.TCPAddr).Port
	c.serve(addr, ln)
	return nil
}

func (c *callbacks) serve(key string, ln net.Listener) {
	web := c.http.UnitsHTTP()
	c.open[key] = web
	c.log.Info("listening for callbacks of containers", "address", ln.Addr().String())
	go func() {
		if err := web.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("the listener for callbacks ended", "address", ln.Addr().String(), "err", err)
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.open[key] == web {
				delete(c.open, key)
			}
		}
	}()
}

// at is the URL of the listener at an address, which is opened if it is not yet.
func (c *callbacks) at(addr netip.Addr) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := addr.String()
	if c.open[a] == nil {
		port, known := c.ports[a]
		err := c.listenAt(a, port)
		if err != nil && known { // somebody else has the port now
			err = c.listenAt(a, 0)
		}
		if err == nil && c.ports[a] != port {
			err = c.keep()
		}
		if err != nil {
			return "", err
		}
	}
	return "http://" + net.JoinHostPort(a, fmt.Sprint(c.ports[a])), nil
}

// keep writes the ports, so that the next life of the server listens at them. c.mu is held.
func (c *callbacks) keep() error {
	b, err := json.Marshal(c.ports)
	if err != nil {
		return err
	}
	tmp := c.file + ".part"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.file)
}

// stop ends the listeners; units try again until the next life of the server.
func (c *callbacks) stop(ctx context.Context) {
	c.mu.Lock()
	all := make([]*http.Server, 0, len(c.open))
	for key, web := range c.open {
		all = append(all, web)
		delete(c.open, key)
	}
	c.mu.Unlock()
	for _, web := range all {
		if err := web.Shutdown(ctx); err != nil {
			web.Close()
		}
	}
}

// unitURL is the address by which units of a runner call back, empty when they have no way.
func (s *Server) unitURL(ctx context.Context, name string) string {
	c, ok := s.runners[name].(runner.Contained)
	if !ok || c.Reach() == runner.ReachHost {
		return s.callbackURL()
	}
	public := strings.TrimRight(s.calls.public, "/")
	b, ok := c.(runner.Bridged)
	if c.Reach() == runner.ReachPublic || !ok || s.calls.listen == callbacksNone {
		return public
	}
	if s.calls.fixed != "" && !strings.Contains(s.calls.fixed, "//[::]") && !strings.Contains(s.calls.fixed, "//0.0.0.0") {
		return s.calls.fixed
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	gateway, err := b.Gateway(ctx)
	if err == nil {
		if s.calls.fixed != "" {
			_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.calls.fixed, "http://"))
			return "http://" + net.JoinHostPort(gateway.String(), port)
		}
		var url string
		if url, err = s.calls.at(gateway); err == nil {
			return url
		}
	}
	s.log.Warn("containers have no way to call back", "runner", name, "err", err)
	return public
}

func newCallbacks(c Config, data string) *callbacks {
	return &callbacks{listen: c.CallbackListen, public: c.PublicURL, file: filepath.Join(data, "callbacks.json"), log: c.Logger}
}
