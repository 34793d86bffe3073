package armtest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// group is a container group. All of it is guarded by s.mu.
type group struct {
	s      *Server
	name   string
	body   map[string]any
	state  string // of the provisioning
	view   string // Running, Succeeded, Failed, Stopped
	events []map[string]any
	run    *process
	now    map[string]any // currentState
	killed bool
	asked  bool // it was stopped
	gone   chan struct{}
}

func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func list(v any) []any { l, _ := v.([]any); return l }

func text(v any, keys ...string) string { s, _ := at(v, keys...).(string); return s }

func (g *group) container() map[string]any {
	if l := list(at(g.body, "properties", "containers")); len(l) > 0 {
		m, _ := l[0].(map[string]any)
		return m
	}
	return nil
}

func (g *group) image() string { return text(g.container(), "properties", "image") }

var (
	tagBad  = regexp.MustCompile(`[<>%&\\?/]`)
	envForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// check says what the resource provider would not take.
func check(body map[string]any) (code, message string) {
	bad := func(code, format string, args ...any) (string, string) { return code, fmt.Sprintf(format, args...) }
	if text(body, "location") == "" {
		return bad("LocationRequired", "The location property is required for this definition.")
	}
	tags, _ := body["tags"].(map[string]any)
	if len(tags) > 50 {
		return bad("TooManyTags", "The number of tags %d is over the limit of 50", len(tags))
	}
	for k, v := range tags {
		if s, ok := v.(string); !ok || len(s) > 256 || tagBad.MatchString(k) {
			return bad("InvalidTagNameCharacters", "The tag %q is invalid", k)
		}
	}
	p := at(body, "properties")
	if s := text(p, "osType"); s != "Linux" && s != "Windows" {
		return bad("InvalidOsType", "The os type '%s' is invalid.", s)
	}
	if s := text(p, "restartPolicy"); s != "Never" && s != "Always" && s != "OnFailure" && s != "" {
		return bad("InvalidRestartPolicy", "The restart policy '%s' is invalid", s)
	}
	volumes := map[string]bool{}
	for _, v := range list(at(p, "volumes")) {
		kinds := 0
		for _, k := range []string{"emptyDir", "secret", "azureFile", "gitRepo"} {
			if at(v, k) != nil {
				kinds++
			}
		}
		if kinds != 1 || !names.MatchString(text(v, "name")) {
			return bad("InvalidVolume", "The volume '%s' is invalid", text(v, "name"))
		}
		for k, x := range mapOf(at(v, "secret")) {
			s, ok := x.(string)
			if _, err := base64.StdEncoding.DecodeString(s); !ok || err != nil || strings.Contains(k, "/") || k == "" {
				return bad("InvalidSecretVolume", "The secret '%s' in volume is not a valid base64 string", k)
			}
		}
		volumes[text(v, "name")] = true
	}
	containers := list(at(p, "containers"))
	if len(containers) == 0 {
		return bad("MissingContainers", "The container group has no containers")
	}
	for _, c := range containers {
		if !names.MatchString(text(c, "name")) {
			return bad("InvalidContainerName", "The container name '%s' is invalid", text(c, "name"))
		}
		x := at(c, "properties")
		if text(x, "image") == "" {
			return bad("MissingImage", "The image is required")
		}
		cpu, _ := at(x, "resources", "requests", "cpu").(float64)
		memory, _ := at(x, "resources", "requests", "memoryInGB").(float64)
		if cpu <= 0 || memory <= 0 || math.Abs(memory*10-math.Round(memory*10)) > 1e-6 {
			return bad("InvalidContainerResourceRequests", "cpu %v, memory %v", cpu, memory)
		}
		seen := map[string]bool{}
		for _, e := range list(at(x, "environmentVariables")) {
			name := text(e, "name")
			_, plain := at(e, "value").(string)
			_, secure := at(e, "secureValue").(string)
			if !envForm.MatchString(name) || seen[name] || plain == secure {
				return bad("InvalidContainerEnvironmentVariable", "The environment variable '%s' is invalid", name)
			}
			seen[name] = true
		}
		paths := map[string]bool{}
		for _, m := range list(at(x, "volumeMounts")) {
			path := text(m, "mountPath")
			if !volumes[text(m, "name")] {
				return bad("VolumeMountNotFound", "The volume mount '%s' is not found", text(m, "name"))
			}
			for other := range paths {
				if path == other || strings.HasPrefix(path, other+"/") || strings.HasPrefix(other, path+"/") {
					return bad("DuplicateVolumeMountPath", "The mount path '%s' is in another one", path)
				}
			}
			if strings.Contains(path, ":") {
				return bad("InvalidVolumeMountPath", "The mount path '%s' is invalid", path)
			}
			paths[path] = true
		}
	}
	for _, c := range list(at(p, "imageRegistryCredentials")) {
		if text(c, "server") == "" || (text(c, "identity") == "") == (text(c, "password") == "") {
			return bad("InvalidImageRegistryCredential", "credentials need a server, and a password or an identity")
		}
		if id := text(c, "identity"); id != "" && at(body, "identity", "userAssignedIdentities", id) == nil {
			return bad("InvalidImageRegistryIdentity", "The identity '%s' is none of the group", id)
		}
	}
	return "", ""
}

func mapOf(v any) map[string]any { m, _ := v.(map[string]any); return m }

func (g *group) event(name, message string) {
	now := time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
	g.events = append(g.events, map[string]any{"count": 1, "firstTimestamp": now, "lastTimestamp": now, "name": name, "message": message, "type": "Normal"})
}

// show is what is answered: no secure value is in it. A list has no instance view.
func (g *group) show(view bool) map[string]any {
	out := map[string]any{
		"id":   "/subscriptions/" + Subscription + "/resourceGroups/" + ResourceGroup + "/providers/Microsoft.ContainerInstance/containerGroups/" + g.name,
		"name": g.name, "type": "Microsoft.ContainerInstance/containerGroups", "location": g.body["location"], "tags": g.body["tags"],
	}
	p := map[string]any{"provisioningState": g.state, "osType": "Linux", "restartPolicy": at(g.body, "properties", "restartPolicy")}
	var containers []any
	for _, c := range list(at(g.body, "properties", "containers")) {
		x := map[string]any{}
		for k, v := range mapOf(at(c, "properties")) {
			x[k] = v
		}
		var env []any
		for _, e := range list(x["environmentVariables"]) {
			shown := map[string]any{"name": text(e, "name")}
			if v := at(e, "value"); v != nil {
				shown["value"] = v
			}
			env = append(env, shown)
		}
		x["environmentVariables"] = env
		if view {
			v := map[string]any{"restartCount": 0, "events": g.events}
			if g.now != nil {
				v["currentState"] = g.now
			}
			x["instanceView"] = v
		}
		containers = append(containers, map[string]any{"name": text(c, "name"), "properties": x})
	}
	p["containers"] = containers
	var volumes []any
	for _, v := range list(at(g.body, "properties", "volumes")) {
		shown := map[string]any{"name": text(v, "name")}
		if at(v, "secret") != nil {
			shown["secret"] = map[string]any{}
		} else {
			shown["emptyDir"] = map[string]any{}
		}
		volumes = append(volumes, shown)
	}
	p["volumes"] = volumes
	if view {
		p["instanceView"] = map[string]any{"state": g.view, "events": []any{}}
	}
	out["properties"] = p
	return out
}

// process is a container that runs.
type process struct {
	cmd  *exec.Cmd
	path string
	mu   sync.Mutex
}

// log is the newest of what was written.
func (p *process) log() string {
	f, err := os.Open(p.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(0, info.Size()-maxLog)
	b := make([]byte, info.Size()-from)
	n, _ := f.ReadAt(b, from) // what was written meanwhile comes the next time
	return string(b[:n])
}

func stamp() string { return time.Now().UTC().Truncate(time.Second).Format(time.RFC3339) }

// start runs the container. g.s.mu is held.
func (g *group) start() {
	s, p := g.s, at(g.container(), "properties")
	home := filepath.Join(s.dir, g.name+"-"+fmt.Sprint(time.Now().UnixNano()))
	fail := func(err error) {
		g.view, g.now = "Failed", map[string]any{"state": "Terminated", "exitCode": 128, "finishTime": stamp(), "detailStatus": "StartError"}
		g.event("Failed", "Error: failed to create containerd task: "+err.Error())
	}
	if s.stopped {
		return
	}
	volumes := map[string]any{}
	for _, v := range list(at(g.body, "properties", "volumes")) {
		volumes[text(v, "name")] = v
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		fail(err)
		return
	}
	for _, m := range list(at(p, "volumeMounts")) {
		dir := home + text(m, "mountPath")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			fail(err)
			return
		}
		for k, v := range mapOf(at(volumes[text(m, "name")], "secret")) {
			b, err := base64.StdEncoding.DecodeString(v.(string))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, k), b, 0o444)
			}
			if err != nil {
				fail(err)
				return
			}
		}
	}
	inside := strings.NewReplacer("/waybill/", home+"/waybill/")
	args := []string{"/bin/true"}
	if l := list(at(p, "command")); len(l) > 0 {
		args = nil
		for _, a := range l {
			args = append(args, inside.Replace(a.(string)))
		}
	}
	f, err := os.OpenFile(filepath.Join(home, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		fail(err)
		return
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = home, f, f, &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = []string{"Fabric_NodeIPOrFQDN=10.0.0.1"}
	for _, e := range list(at(p, "environmentVariables")) {
		v, _ := at(e, "value").(string)
		if x, ok := at(e, "secureValue").(string); ok {
			v = x
		}
		cmd.Env = append(cmd.Env, text(e, "name")+"="+inside.Replace(v))
	}
	began := stamp()
	if err := cmd.Start(); err != nil {
		f.Close()
		g.run = &process{path: f.Name()}
		fail(err)
		return
	}
	g.run = &process{cmd: cmd, path: f.Name()}
	g.view, g.now = "Running", map[string]any{"state": "Running", "startTime": began, "detailStatus": ""}
	g.event("Started", "Started container")
	ended := make(chan struct{})
	if n, ok := at(p, "livenessProbe", "initialDelaySeconds").(float64); ok {
		s.live.Go(func() {
			t := time.NewTimer(time.Duration(n) * time.Second)
			defer t.Stop()
			select {
			case <-t.C:
				s.mu.Lock()
				g.event("Unhealthy", "Liveness probe failed: connection refused")
				g.event("Killing", "Container unit failed liveness probe, will be restarted")
				g.mustEnd()
				s.mu.Unlock()
			case <-ended:
			}
		})
	}
	s.live.Go(func() {
		err := cmd.Wait()
		close(ended)
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it started ends with it
		f.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status := exit.Sys().(syscall.WaitStatus)
			code = status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
		}
		g.killed = true
		detail := "Completed"
		g.view = "Succeeded"
		if code != 0 {
			detail, g.view = "Error", "Failed"
		}
		if g.asked {
			g.view = "Stopped"
		}
		g.now = map[string]any{"state": "Terminated", "exitCode": code, "startTime": began, "finishTime": stamp(), "detailStatus": detail}
	})
}

// mustEnd kills the container. g.s.mu is held.
func (g *group) mustEnd() {
	if g.run != nil && g.run.cmd != nil && !g.killed {
		syscall.Kill(-g.run.cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (g *group) kill() { g.mustEnd() }

// stop ends the container with Azure's own grace. g.s.mu is held.
func (g *group) stop() {
	g.asked = true
	if g.run == nil || g.run.cmd == nil || g.killed {
		if g.now == nil {
			g.view = "Stopped"
		}
		return
	}
	syscall.Kill(g.run.cmd.Process.Pid, syscall.SIGTERM)
	s := g.s
	s.live.Go(func() {
		time.Sleep(s.grace) // Azure's own
		s.mu.Lock()
		defer s.mu.Unlock()
		g.mustEnd()
	})
}
