// Package armtest is Azure's resource manager for tests, as far as container groups need
// it. It refuses what the real one refuses: versions of the API that it does not know,
// names and fields that are not allowed, changes of a group in transition; it shows no
// secure value to anybody, makes and deletes groups in the background, and keeps the newest
// 4 MB of a log. Containers are processes of this machine.
package armtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the server has.
const (
	Subscription  = "11111111-2222-3333-4444-555555555555"
	ResourceGroup = "units"
	Version       = "2023-05-01"
	Token         = "a-token-of-the-test"
	maxLog        = 4 << 20
)

// Server is a resource manager with one resource group.
type Server struct {
	t   *testing.T
	srv *httptest.Server
	dir string

	mu      sync.Mutex
	groups  map[string]*group
	images  map[string]Image
	faults  []Fault
	asked   map[string]int
	quota   int
	slow    time.Duration
	grace   time.Duration
	live    sync.WaitGroup
	stopped bool
}

// Image is what becomes of an image; all others are there.
type Image struct {
	Refused string // the group is refused: InaccessibleImage, with this text
	Event   string // the group is made, and its pulls fail with this text
}

// Fault is what becomes of requests.
type Fault struct {
	Method, Path string // a part of the path
	Status       int
	Code, Text   string
	RetryAfter   int
	Times        int  // so many requests; 0 means until Mend
	Lost         bool // it is carried out, and its answer is lost
}

// New starts a server that ends with the test.
func New(t *testing.T) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "armtest-")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir, groups: map[string]*group{}, images: map[string]Image{}, asked: map[string]int{}, quota: 100, slow: 5 * time.Millisecond, grace: time.Second}
	s.srv = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.mu.Lock()
		s.stopped = true
		for _, g := range s.groups {
			g.kill()
		}
		s.mu.Unlock()
		s.srv.CloseClientConnections()
		s.srv.Close()
		s.live.Wait()
		os.RemoveAll(dir)
	})
	return s
}

// URL is where the server is.
func (s *Server) URL() string { return s.srv.URL }

// Client is an HTTP client that trusts the server.
func (s *Server) Client() *http.Client { return s.srv.Client() }

// SetImage says what becomes of an image.
func (s *Server) SetImage(name string, i Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[name] = i
}

// SetQuota limits the number of groups.
func (s *Server) SetQuota(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota = n
}

// Slow is how long it takes until a group that is made runs, and one that is deleted is gone.
func (s *Server) Slow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = d
}

// Break makes requests fail.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Mend ends all faults.
func (s *Server) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Asked is how many requests of a method were made.
func (s *Server) Asked(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[method]
}

// Names are the groups there are.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for n := range s.groups {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Show is all that is shown of the groups.
func (s *Server) Show() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []any
	for _, g := range s.groups {
		all = append(all, g.show(true))
	}
	b, err := json.Marshal(all)
	if err != nil {
		s.t.Error(err)
	}
	return string(b)
}

// Sent is the body that a group was made from, secure values included.
func (s *Server) Sent(name string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[name]; g != nil {
		return g.body
	}
	return nil
}

// Put makes a group of somebody else's, with these tags.
func (s *Server) Put(name string, tags map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[name] = &group{s: s, name: name, state: "Succeeded", body: map[string]any{"location": "westeurope", "tags": tags, "properties": map[string]any{"containers": []any{}}}, gone: make(chan struct{})}
}

// Delete deletes a group as somebody else would.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[name]; g != nil {
		g.kill()
		delete(s.groups, name)
	}
}

func problem(w http.ResponseWriter, status int, code, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("x-ms-error-code", code)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": code, "message": fmt.Sprintf(format, args...)}})
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // a client that went away is its own fault
}

var (
	route = regexp.MustCompile(`^/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.ContainerInstance/containerGroups(?:/([^/]+)(?:/(stop|containers/([^/]+)/logs))?)?$`)
	names = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

func (s *Server) serve(w http.ResponseWriter, q *http.Request) {
	s.mu.Lock()
	s.asked[q.Method]++
	fault := s.fault(q)
	s.mu.Unlock()
	m := route.FindStringSubmatch(q.URL.Path)
	switch {
	case fault != nil && !fault.Lost:
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
		problem(w, fault.Status, fault.Code, "%s", fault.Text)
	case q.Header.Get("Authorization") != "Bearer "+Token:
		problem(w, 401, "InvalidAuthenticationToken", "The access token is invalid.")
	case m == nil:
		problem(w, 404, "InvalidResourceType", "The resource type could not be found.")
	case q.URL.Query().Get("api-version") == "":
		problem(w, 400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	case q.URL.Query().Get("api-version") != Version:
		problem(w, 400, "NoRegisteredProviderFound", "No registered resource provider found for API version '%s'.", q.URL.Query().Get("api-version"))
	case m[1] != Subscription:
		problem(w, 404, "SubscriptionNotFound", "The subscription '%s' could not be found.", m[1])
	case !strings.EqualFold(m[2], ResourceGroup):
		problem(w, 404, "ResourceGroupNotFound", "Resource group '%s' could not be found.", m[2])
	case fault != nil:
		s.handle(&discard{h: http.Header{}}, q, m)
		panic(http.ErrAbortHandler)
	default:
		s.handle(w, q, m)
	}
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func (s *Server) fault(q *http.Request) *Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if f.Method != "" && f.Method != q.Method || !strings.Contains(q.URL.Path, f.Path) || f.Times < 0 {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1
			}
		}
		x := *f
		return &x
	}
	return nil
}

func (s *Server) handle(w http.ResponseWriter, q *http.Request, m []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := m[3]
	g := s.groups[name]
	missing := func() {
		problem(w, 404, "ResourceNotFound", "The Resource 'Microsoft.ContainerInstance/containerGroups/%s' under resource group '%s' was not found.", name, ResourceGroup)
	}
	switch {
	case name == "" && q.Method == http.MethodGet:
		s.list(w, q)
	case q.Method == http.MethodPut && m[4] == "":
		s.put(w, q, name)
	case g == nil && q.Method == http.MethodDelete:
		w.WriteHeader(204)
	case g == nil:
		missing()
	case q.Method == http.MethodGet && m[4] == "":
		send(w, 200, g.show(true))
	case q.Method == http.MethodPatch && m[4] == "":
		var patch map[string]any
		if json.NewDecoder(q.Body).Decode(&patch) != nil || len(patch) != 1 || patch["tags"] == nil {
			problem(w, 400, "InvalidRequestContent", "only tags and zones can be updated")
			return
		}
		g.body["tags"] = patch["tags"]
		send(w, 200, g.show(false))
	case q.Method == http.MethodDelete && m[4] == "":
		if g.state == "Pending" || g.state == "Creating" {
			problem(w, 409, "ContainerGroupTransitioning", "The container group '%s' is still transitioning, please retry later.", name)
			return
		}
		if g.state != "Deleting" {
			g.state = "Deleting"
			g.kill()
			s.later(func() {
				if s.groups[name] == g {
					delete(s.groups, name)
				}
			})
		}
		w.Header().Set("Location", s.srv.URL+"/operations/"+name)
		w.WriteHeader(202)
	case q.Method == http.MethodPost && m[4] == "stop":
		if g.state == "Pending" || g.state == "Creating" || g.state == "Deleting" {
			problem(w, 409, "ContainerGroupTransitioning", "The container group '%s' is still transitioning, please retry later.", name)
			return
		}
		g.stop()
		w.WriteHeader(204)
	case q.Method == http.MethodGet && strings.HasSuffix(m[4], "/logs"):
		if g.run == nil {
			problem(w, 400, "ContainerNotFound", "The container '%s' is not running yet.", m[5])
			return
		}
		send(w, 200, map[string]any{"content": g.run.log()})
	default:
		problem(w, 405, "MethodNotAllowed", "%s is not allowed here", q.Method)
	}
}

// later does something after a while. s.mu is held then.
func (s *Server) later(f func()) {
	d := s.slow
	if s.stopped {
		return
	}
	s.live.Go(func() {
		time.Sleep(d) // what takes time in Azure
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	})
}

func (s *Server) list(w http.ResponseWriter, q *http.Request) {
	var all []string
	for n := range s.groups {
		all = append(all, n)
	}
	slices.Sort(all)
	from, _ := strconv.Atoi(q.URL.Query().Get("$skiptoken"))
	const page = 20
	answer := map[string]any{}
	value := []any{}
	for _, n := range all[min(from, len(all)):min(from+page, len(all))] {
		value = append(value, s.groups[n].show(false))
	}
	answer["value"] = value
	if from+page < len(all) {
		answer["nextLink"] = fmt.Sprintf("%s%s?api-version=%s&$skiptoken=%d", s.srv.URL, q.URL.Path, Version, from+page)
	}
	send(w, 200, answer)
}

func (s *Server) put(w http.ResponseWriter, q *http.Request, name string) {
	b, err := io.ReadAll(io.LimitReader(q.Body, 5<<20))
	if err != nil || len(b) > 4<<20 {
		problem(w, 413, "RequestContentTooLarge", "The request content size exceeds the maximum size of 4 MB")
		return
	}
	var body map[string]any
	if err := json.Unmarshal(b, &body); err != nil {
		problem(w, 400, "InvalidRequestContent", "The request content was invalid and could not be deserialized: '%v'.", err)
		return
	}
	if old := s.groups[name]; old != nil {
		if old.state != "Succeeded" && old.state != "Failed" {
			problem(w, 409, "ContainerGroupTransitioning", "The container group '%s' is still transitioning, please retry later.", name)
			return
		}
		s.t.Errorf("the group %s was changed although it is there: Azure would start its container again", name)
	}
	if !names.MatchString(name) || strings.Contains(name, "--") {
		problem(w, 400, "InvalidContainerGroupName", "The container group name '%s' is invalid.", name)
		return
	}
	if code, text := check(body); code != "" {
		problem(w, 400, code, "%s", text)
		return
	}
	g := &group{s: s, name: name, body: body, state: "Pending", gone: make(chan struct{})}
	image := s.images[g.image()]
	switch {
	case image.Refused != "":
		problem(w, 400, "InaccessibleImage", "%s", image.Refused)
		return
	case len(s.groups) >= s.quota:
		problem(w, 409, "ContainerGroupQuotaReached", "Resource type 'Microsoft.ContainerInstance/containerGroups' container group quota 'ContainerGroups' exceeded in region 'westeurope'. Limit: '%d', Usage: '%d' Requested: '1'.", s.quota, len(s.groups))
		return
	}
	s.groups[name] = g
	w.Header().Set("Azure-AsyncOperation", s.srv.URL+"/operations/"+name)
	send(w, 201, g.show(true))
	s.later(func() {
		if s.groups[name] != g || g.state != "Pending" {
			return
		}
		g.state = "Creating"
		if image.Event != "" {
			g.state = "Succeeded"
			g.event("Pulling", "pulling image")
			g.event("Failed", image.Event)
			return
		}
		s.later(func() {
			if s.groups[name] == g && g.state == "Creating" {
				g.state = "Succeeded"
				g.start()
			}
		})
	})
}
