//go:build linux

package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/httpd/openapitest"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

// Options of a server. The zero value is one with an empty project on SQLite.
type Options struct {
	// Store is "sqlite" (the default), "postgres" for a schema of its own on a
	// PostgreSQL server, which skips the test where there is none, or the URL of one.
	Store string
	// Project is the project folder: content by path. Files below bin/ and those that
	// end in .sh are executable. {{dir}} in a file is replaced by Dir.
	Project map[string]string
	Env     []string // added to the environment of the server, NAME=value
	Args    []string // added to the arguments of "waybill up"
	Tags    []string // build tags
	// Stopped leaves the server stopped until Start.
	Stopped bool

	project, blobs string // shared with siblings
}

// Server is a server of its own data directory, project folder and address. Its
// methods are safe for concurrent use, except that Start, TryStart, Kill and Stop
// are the business of one goroutine at a time.
type Server struct {
	t       testing.TB
	o       Options
	dir     string
	binary  string
	address string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	client *client.Client
}

// New makes a server and, unless told otherwise, starts it and waits until it is
// healthy. It is ended with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, o: o, binary: Binary(t, o.Tags...), address: freeAddress(t)}
	if o.Store == "postgres" {
		s.o.Store = pgtest.DSN(t)
	}
	s.dir = tempDir(t)
	s.exited = make(chan struct{})
	close(s.exited)
	if s.o.project == "" {
		s.o.project = filepath.Join(s.dir, "project")
		s.WriteProject(o.Project)
		if err := os.MkdirAll(s.o.project, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if s.o.blobs == "" {
		s.o.blobs = filepath.Join(s.dir, "blobs")
	}
	t.Cleanup(s.finish)
	if !o.Stopped {
		s.Start()
	}
	return s
}

// Sibling makes another server of the same store, project and blobs, which must be
// PostgreSQL's.
func (s *Server) Sibling() *Server {
	s.t.Helper()
	if !strings.HasPrefix(s.o.Store, "postgres") {
		s.t.Fatal("only servers on PostgreSQL can have siblings")
	}
	return New(s.t, s.o)
}

// WriteProject writes files of the project folder. A running server does not read
// them again by itself.
func (s *Server) WriteProject(files map[string]string) {
	s.t.Helper()
	for name, content := range files {
		path := filepath.Join(s.o.project, name)
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") || strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(strings.ReplaceAll(content, "{{dir}}", s.dir)), mode)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// freeAddress is one at which nobody listens. Its port is outside of the range
// from which the kernel takes those of outgoing connections, so that it is still
// free when the server starts again.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		if ln, err := net.Listen("tcp", address); err == nil {
			ln.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// Dir is a folder of the server for the test's own files; it is outside of the data
// directory and removed with the test.
func (s *Server) Dir() string { return s.dir }

// DataDir is the data directory.
func (s *Server) DataDir() string { return filepath.Join(s.dir, "data") }

// ProjectDir is the project folder, which siblings share.
func (s *Server) ProjectDir() string { return s.o.project }

// BlobsDir is the folder of objects and logs, which siblings share.
func (s *Server) BlobsDir() string { return s.o.blobs }

// Store is "", "sqlite" or the URL of PostgreSQL.
func (s *Server) Store() string { return s.o.Store }

// URL is where the server listens, when it runs.
func (s *Server) URL() string { return "http://" + s.address }

// Binary is the program.
func (s *Server) Binary() string { return s.binary }

// Command returns a command of the program as a user would type it, for this
// server.
func (s *Server) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, args...)
	cmd.Dir = s.dir
	cmd.Env = append(environ(), "WAYBILL_SERVER="+s.URL())
	return cmd
}

// Client returns the server's client. It repeats what may be repeated for half a
// minute, so that it rides out restarts.
func (s *Server) Client() *client.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		s.client = s.NewClient(client.Options{RetryFor: 30 * time.Second})
	}
	return s.client
}

// NewClient returns a client with options, of which Server and HTTP are set here.
func (s *Server) NewClient(o client.Options) *client.Client {
	s.t.Helper()
	o.Server, o.HTTP = s.URL(), &http.Client{Transport: s.Transport()}
	c, err := client.New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Transport checks every answer against the contract. An answer that broke off,
// because the server was killed, is an error of the connection.
func (s *Server) Transport() http.RoundTripper {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	s.t.Cleanup(tr.CloseIdleConnections)
	return openapitest.Transport{T: s.t, Next: whole{tr}}
}

// whole reads JSON answers to their end before it hands them on.
type whole struct{ next http.RoundTripper }

func (w whole) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.next.RoundTrip(r)
	if err != nil || !strings.Contains(res.Header.Get("Content-Type"), "json") {
		return res, err
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// environ is this process's environment without what would reach into the server.
func environ() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WAYBILL_") {
			env = append(env, v)
		}
	}
	return env
}

// Start starts the server and waits until it is healthy. The environment is that
// of this start only.
func (s *Server) Start(env ...string) {
	s.t.Helper()
	if err := s.TryStart(env...); err != nil {
		s.t.Fatal(err)
	}
}

// TryStart is Start for servers that may refuse to start: then the error holds
// what they said.
func (s *Server) TryStart(env ...string) error {
	if err := s.Launch(env...); err != nil {
		return err
	}
	return s.Healthy()
}

// Launch starts the server and does not wait.
func (s *Server) Launch(env ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.exited:
	default:
		return errors.New("the server is running already")
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "--- start %s %s\n", s.address, strings.Join(env, " "))
	args := []string{"up", "--listen", s.address, "--data", s.DataDir(), "--project", s.o.project, "--blobs", s.o.blobs}
	if s.o.Store != "" {
		args = append(args, "--store", s.o.Store)
	}
	cmd := exec.Command(s.binary, append(args, s.o.Args...)...)
	cmd.Dir = s.dir
	cmd.Env = append(append(environ(), s.o.Env...), env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: a Ctrl-C at the test is not one at the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // how it ended is in its ProcessState
		close(exited)
	}()
	return nil
}

// Healthy waits until a launched server is healthy. It returns an error when the
// server ends before.
func (s *Server) Healthy() error {
	exited := s.Exited()
	c, err := client.New(client.Options{Server: s.URL()})
	if err != nil {
		return err
	}
	err = Await(time.Minute, func() error {
		select {
		case <-exited:
			return nil
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		h, err := c.Health(ctx)
		if err == nil && h.Status != client.HealthStatusOk {
			err = fmt.Errorf("the server is %s: %v", h.Status, h.Checks)
		}
		return err
	})
	select {
	case <-exited:
		return fmt.Errorf("the server ended at its start with code %d:\n%s", s.ExitCode(), s.logTail())
	default:
	}
	if err != nil {
		return fmt.Errorf("the server is not healthy: %w\n%s", err, s.logTail())
	}
	return nil
}

// Exited is closed when the server of the latest start has ended.
func (s *Server) Exited() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exited
}

// Running reports whether the server's process is there.
func (s *Server) Running() bool {
	select {
	case <-s.Exited():
		return false
	default:
		return true
	}
}

// ExitCode is how the server of the latest start ended: -1 when by a signal, or
// when it still runs.
func (s *Server) ExitCode() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.exited:
		if s.cmd != nil {
			return s.cmd.ProcessState.ExitCode()
		}
	default:
	}
	return -1
}

// PID is that of the server of the latest start.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

// Signal sends a signal to the server, and to nothing that it started.
func (s *Server) Signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig) // it may have ended
	}
}

// Kill ends the server with SIGKILL and waits for its end. Units and their
// supervisor live on.
func (s *Server) Kill() {
	s.Signal(syscall.SIGKILL)
	<-s.Exited()
}

// Stop ends the server in order. That it takes longer than half a minute or does not
// exit with 0 fails the test.
func (s *Server) Stop() {
	s.t.Helper()
	s.Signal(syscall.SIGTERM)
	select {
	case <-s.Exited():
	case <-time.After(30 * time.Second):
		s.Signal(syscall.SIGQUIT) // tells where it hangs
		<-s.Exited()
		s.t.Errorf("the server does not stop:\n%s", s.logTail())
		return
	}
	if code := s.ExitCode(); code != 0 {
		s.t.Errorf("the server stopped with code %d:\n%s", code, s.logTail())
	}
}

// Units are the processes of units of this server.
func (s *Server) Units() []Process {
	var units []Process
	for _, p := range processes(s.DataDir() + "/") {
		if p.Unit != "" {
			units = append(units, p)
		}
	}
	return units
}

// Processes are all processes that have to do with the server's folder: itself,
// its supervisor, its units, and siblings, which share the project in it.
func (s *Server) Processes() []Process { return processes(s.dir + "/") }

// UnitDirs are the names of the folders of units that are left.
func (s *Server) UnitDirs() []string {
	entries, err := os.ReadDir(filepath.Join(s.DataDir(), "units"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("folders of units: %v", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// Log is what the server has written in all its lives; a line that begins with
// "--- start" stands before each.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("log of the server: %v", err)
	}
	return string(b)
}

// logTail is the end of the log without the requests that were answered.
func (s *Server) logTail() string {
	var b strings.Builder
	for line := range strings.Lines(s.Log()) {
		if !strings.Contains(line, "msg=request") || strings.Contains(line, " status=500 ") {
			b.WriteString(line)
		}
	}
	text := b.String()
	if len(text) > 6000 {
		text = "…" + text[len(text)-6000:]
	}
	return text
}

// finish ends all that the server started.
func (s *Server) finish() {
	s.Signal(syscall.SIGKILL)
	if err := end(s.dir + "/"); err != nil {
		s.t.Error(err)
	}
	<-s.Exited()
	text := s.Log()
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "panicked", "fatal error: "} {
		if strings.Contains(text, bad) {
			i := strings.Index(text, bad)
			s.t.Errorf("the log of the server holds %q:\n%s", bad, text[i:min(i+8000, len(text))])
		}
	}
	if s.t.Failed() {
		s.t.Logf("log of %s:\n%s", s.address, s.logTail())
	}
}
