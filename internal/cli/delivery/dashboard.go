package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) dashboardCmd() *cobra.Command {
	var port string
	var remove, open bool
	cmd := &cobra.Command{
		Use: "dashboard", Aliases: []string{"d"}, Short: "Serve the dashboard's API on this machine", Args: cobra.NoArgs,
		Long: `Serve what the server shows of deployments on a port of this machine, until interrupted: only reading, and
with the token of the settings, which stays in this process. Where the server itself has that port on
this machine, its address is shown.

There are no pages of deployments yet: what is served is the API (/spektate/api/deployments,
/api/v1/deployments) and the first page of the server. No container is involved.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed("dashboard", a.dashboard(cmd.Context(), port, remove, open))
		},
	}
	x := cmd.Flags()
	x.StringVarP(&port, "port", "p", "4040", "port of this machine, 1 to 65535")
	x.BoolVarP(&remove, "remove-all", "r", false, "of the older service, which left containers behind; has no meaning here")
	x.BoolVar(&open, "open", false, "open it in the browser")
	return cmd
}

func (a *app) dashboard(ctx context.Context, port string, remove, open bool) error {
	n, err := strconv.Atoi(strings.TrimSpace(port))
	if err != nil || n < 1 || n > 65535 {
		return errorf(codeValidation, "introspect-dashboard-cmd-invalid-port", "--port %s is no port: want 1 to 65535", port)
	}
	s, err := a.load()
	if err != nil {
		return err
	}
	if remove {
		a.note("there are no containers to remove")
	}
	target, err := url.Parse(first(a.Server(), s.server(), client.DefaultServer))
	if err != nil || target.Host == "" {
		return errorf(codeSetting, "server-setting-err", "the server's address is no URL")
	}
	c, err := a.connect(s, -1) // whoever waits for it sees at once
	if err != nil {
		return err
	}
	if _, err := c.Version(ctx); err != nil {
		return errorf(codeFlow, "introspect-dashboard-cmd-server-err", "the server cannot be asked").because(storage(err))
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(n))
	if p := target.Port(); p == strconv.Itoa(n) && loopback(target.Hostname()) {
		return a.show(target.String(), open)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return errorf(codeFlow, "introspect-dashboard-cmd-listen-err", "port %d cannot be served on; choose another one with --port", n).because(err)
	}
	web := &http.Server{Handler: a.relay(target, first(a.Token(), s.token())), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	served := make(chan error, 1)
	go func() { served <- web.Serve(ln) }()
	if err := a.show("http://"+address, open); err != nil {
		_ = web.Close()
		return err
	}
	a.note("there are no pages of deployments yet; the API is served at /spektate/api/deployments")
	select {
	case err := <-served:
		return errorf(codeFlow, "introspect-dashboard-cmd-serve-err", "serving ended").because(err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := web.Shutdown(end); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return errorf(codeFlow, "introspect-dashboard-cmd-serve-err", "serving did not end in order").because(err)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// show tells where it is.
func (a *app) show(where string, open bool) error {
	if _, err := fmt.Fprintln(a.Stdout, where); err != nil {
		return err
	}
	if !open {
		return nil
	}
	name := map[string]string{"darwin": "open", "windows": "explorer"}[runtime.GOOS]
	if err := exec.Command(first(name, "xdg-open"), where).Start(); err != nil { //nolint:gosec,noctx // the browser outlives this command
		a.note("the browser cannot be opened: %v", err)
	}
	return nil
}

// relay hands requests that read on to the server, with the token. A page of another site
// that the browser shows must not come by what the token opens: requests are answered for
// this machine's names only, and none of another origin.
func (a *app) relay(target *url.URL, token string) http.Handler {
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = target.Host
			for _, h := range []string{"Authorization", "Cookie", "Origin", "Referer"} {
				r.Out.Header.Del(h)
			}
			if token != "" {
				r.Out.Header.Set("Authorization", "Bearer "+token)
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			a.detail("%v", err)
			http.Error(w, "the server does not answer", http.StatusBadGateway)
		},
	}
	if a.HTTP != nil && a.HTTP.Transport != nil {
		p.Transport = a.HTTP.Transport
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		site := r.Header.Get("Sec-Fetch-Site")
		switch {
		case !loopback(host), site != "" && site != "same-origin" && site != "none", r.Header.Get("Origin") != "" && r.Header.Get("Origin") != "http://"+r.Host:
			http.Error(w, "this is for this machine only", http.StatusForbidden)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only reading is served here", http.StatusMethodNotAllowed)
		default:
			p.ServeHTTP(w, r)
		}
	})
}
