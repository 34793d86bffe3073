//go:build linux

package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// The week is replayed and read as the README says.
func TestDeliveries(t *testing.T) {
	e := serve(t, "deliveries")
	week, err := filepath.Abs(filepath.Join("..", "..", "examples", "deliveries", "week.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	e.holds("replay", e.must("deployment", "replay", week), "252 reports", "inserted")
	again := e.must("deployment", "replay", week)
	e.holds("replay again", again, "252 reports: 252 repeated")
	e.holds("get", e.must("deployment", "get", "--top", "10"), "cart:main-23", "reports:main-3", "Waiting")
	if out := e.must("deployment", "get", "--top", "3", "-o", "json"); strings.Count(out, `"deploymentId"`) != 3 {
		t.Errorf("top 3 is %s", out)
	}
	e.holds("get wide", e.must("deployment", "get", "--ring", "prod", "--service", "cart", "-o", "wide"), "dana")
	e.holds("matrix", e.must("deployment", "matrix"), "PROD/WEST", "billing:main-6", "search:main-92", "healthy")
	diff := e.must("deployment", "diff", "dev", "prod")
	e.holds("diff", diff, "search:main-93", "search:main-92")
	if strings.Contains(diff, "cart") {
		t.Errorf("cart differs: %s", diff)
	}
	e.holds("trace", e.must("deployment", "trace", "search:main-93"), "pull request", "open", "https://ci.example.com/runs/")
	e.holds("trace of the failure", e.must("deployment", "trace", "cart:main-20"), "cluster west", "manifest commit")
	e.holds("rollbacks", e.must("deployment", "rollbacks", "--ring", "prod"), "cart:main-22", "billing:main-6")
	e.holds("dora", e.must("deployment", "dora", "--ring", "prod"), "1 of 17 deployments", "39m", "1h21m")
	if out, code := e.run("", "deployment", "alerts"); code != 1 || !strings.Contains(out, "billing:main-6") {
		t.Errorf("alerts: exit code %d\n%s", code, out)
	}
	e.holds("unlinked", e.must("deployment", "unlinked", "list"), "reports:main-3")

	e.must("start", "ship", "--param", "tag=docs:main-1", "--wait")
	harness.Until(t, soon, "the run has reported itself", func() error {
		page, err := e.Client().Deployments(t.Context(), client.ListDeploymentsParams{ImageTag: "docs:main-1"})
		if err != nil || len(page.Items) != 1 || page.Items[0].Status != waybill.DeploymentComplete {
			return fmt.Errorf("%v: %+v", err, page.Items)
		}
		return nil
	})
	e.holds("trace of our own", e.must("deployment", "trace", "docs:main-1"), "image docs:main-1", "manifest commit", "/api/v1/runs/")

	bad := filepath.Join(t.TempDir(), "bad.ndjson")
	if err := os.WriteFile(bad, []byte("{\"kind\":\"build\",\"image_tag\":\"never:1\",\"time\":\"-1h\"}\n{\"kind\":\"build\",\"time\":\"-1x\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, code := e.run("", "deployment", "replay", bad); code != 1 {
		t.Errorf("a file with a mistake: exit code %d", code)
	}
	if out := e.must("deployment", "get", "--image-tag", "never:1", "-o", "json"); out != "[]" {
		t.Errorf("it reported some of it: %s", out)
	}
}

// ciJob is a job of a pipeline's file: scripts, and the environment that each has.
type ciJob struct {
	name    string
	scripts []ciScript
}

type ciScript struct {
	text string
	env  map[string]string // may hold references of the system
	id   string            // of its outputs
}

// A ci is a system that runs a file, as far as the examples use it.
type ci struct {
	file string
	jobs func(t *testing.T, b []byte) []ciJob
	// env is what the system sets for every script of a run.
	env func(w *ciWorld) map[string]string
	// resolve replaces references in the values of an environment.
	resolve func(text string, w *ciWorld) string
	// outputs reads what a script said for others.
	outputs func(w *ciWorld, id, stdout string)
}

// ciWorld is a run of a file.
type ciWorld struct {
	t                *testing.T
	dir, branch, run string
	vars             map[string]string // of the project
	out              map[string]string // of scripts, by id.name
}

var systems = map[string]ci{
	"GitHubActions": {
		file: "github-actions.yaml",
		jobs: func(t *testing.T, b []byte) []ciJob {
			var f struct {
				Env  map[string]string
				Jobs yaml.MapSlice
			}
			parse(t, b, &f)
			var out []ciJob
			for _, item := range f.Jobs {
				var j struct {
					Env   map[string]string
					Steps []struct {
						ID, Run, Uses string
						Env           map[string]string
					}
				}
				reparse(t, item.Value, &j)
				job := ciJob{name: item.Key.(string)}
				for _, s := range j.Steps {
					if s.Run != "" {
						job.scripts = append(job.scripts, ciScript{s.Run, merged(f.Env, j.Env, s.Env), s.ID})
					}
				}
				out = append(out, job)
			}
			return out
		},
		env: func(w *ciWorld) map[string]string {
			return map[string]string{"GITHUB_REF_NAME": w.branch, "GITHUB_RUN_NUMBER": "12", "GITHUB_OUTPUT": filepath.Join(w.dir, "github-output"), "CI": "true"}
		},
		resolve: func(text string, w *ciWorld) string {
			for from, to := range map[string]string{
				"github.run_id": w.run, "github.server_url": "https://github.example.com", "github.repository": "team/shop", "github.sha": ciCommit,
				"steps.tag.outputs.tag": w.out["tag.tag"], "needs.image.outputs.tag": w.out["tag.tag"],
			} {
				text = strings.ReplaceAll(text, "${{ "+from+" }}", to)
			}
			for _, name := range []string{"WAYBILL_SERVER", "WAYBILL_API_TOKEN", "REGISTRY", "CONFIG_REPO", "MANIFEST_REPO"} {
				text = strings.NewReplacer("${{ vars."+name+" }}", w.vars[name], "${{ secrets."+name+" }}", w.vars[name]).Replace(text)
			}
			return text
		},
		outputs: func(w *ciWorld, id, _ string) {
			b, err := os.ReadFile(filepath.Join(w.dir, "github-output"))
			if err != nil {
				return
			}
			for line := range strings.Lines(string(b)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
				w.out[id+"."+name] = value
			}
		},
	},
	"GitLab": {
		file: "gitlab-ci.yaml",
		jobs: func(t *testing.T, b []byte) []ciJob {
			var f struct {
				Stages    []string
				Variables map[string]string
				Default   struct {
					BeforeScript []string `yaml:"before_script"`
				}
			}
			parse(t, b, &f)
			var all map[string]any
			parse(t, b, &all)
			var out []ciJob
			for _, stage := range f.Stages {
				for name, v := range all {
					if slices.Contains([]string{"stages", "variables", "default"}, name) {
						continue
					}
					var j struct {
						Stage  string
						Script []string
					}
					reparse(t, v, &j)
					if j.Stage == stage {
						text := strings.Join(append(slices.Clone(f.Default.BeforeScript), j.Script...), "\n")
						out = append(out, ciJob{name, []ciScript{{text, f.Variables, ""}}})
					}
				}
			}
			return out
		},
		env: func(w *ciWorld) map[string]string {
			return merged(w.vars, map[string]string{
				"CI_COMMIT_REF_NAME": w.branch, "CI_PIPELINE_IID": "12", "CI_PIPELINE_ID": w.run, "CI_PIPELINE_URL": "https://gitlab.example.com/team/shop/-/pipelines/" + w.run,
				"CI_COMMIT_SHA": ciCommit, "CI_PROJECT_URL": "https://gitlab.example.com/team/shop", "CI": "true",
			})
		},
		resolve: func(text string, _ *ciWorld) string { return text },
		outputs: func(*ciWorld, string, string) {},
	},
	"AzureDevOps": {
		file: "azure-pipelines.yaml",
		jobs: func(t *testing.T, b []byte) []ciJob {
			var f struct {
				Variables []struct{ Name, Value, Group string }
				Stages    []struct {
					Stage     string
					Variables map[string]string
					Jobs      []struct {
						Job   string
						Steps []struct {
							Name, Bash string
							Env        map[string]string
						}
					}
				}
			}
			parse(t, b, &f)
			top := map[string]string{}
			for _, v := range f.Variables {
				if v.Name != "" {
					top[v.Name] = v.Value
				}
			}
			var out []ciJob
			for _, st := range f.Stages {
				for _, j := range st.Jobs {
					job := ciJob{name: j.Job}
					for _, s := range j.Steps {
						job.scripts = append(job.scripts, ciScript{s.Bash, merged(top, st.Variables, s.Env), s.Name})
					}
					out = append(out, job)
				}
			}
			return out
		},
		// Variables are in the environment of scripts, but for those that are secret.
		env: func(w *ciWorld) map[string]string {
			return merged(w.vars, map[string]string{
				"BUILD_SOURCEBRANCH": "refs/heads/" + w.branch, "BUILD_BUILDNUMBER": "12", "BUILD_BUILDID": w.run, "TF_BUILD": "True", "WAYBILL_API_TOKEN": "",
			})
		},
		resolve: func(text string, w *ciWorld) string {
			text = strings.ReplaceAll(text, "$[ stageDependencies.image.image.outputs['tag.value'] ]", w.out["tag.value"])
			for from, to := range map[string]string{
				"Build.BuildId": w.run, "System.CollectionUri": "https://dev.azure.com/team/", "System.TeamProject": "shop", "Build.SourceVersion": ciCommit,
				"Build.Repository.Uri": "https://dev.azure.com/team/shop/_git/shop", "tag.value": w.out["tag.value"], "WAYBILL_API_TOKEN": w.vars["WAYBILL_API_TOKEN"],
			} {
				text = strings.ReplaceAll(text, "$("+from+")", to)
			}
			return text
		},
		outputs: func(w *ciWorld, id, stdout string) {
			for line := range strings.Lines(stdout) {
				if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "##vso[task.setvariable variable="); ok {
					name, value, _ := strings.Cut(rest, "]")
					name, _, _ = strings.Cut(name, ";")
					w.out[id+"."+name] = value
				}
			}
		},
	},
}

const ciCommit = "c0ffee1234567890c0ffee1234567890c0ffee12"

func parse(t *testing.T, b []byte, to any) {
	t.Helper()
	if err := yaml.Unmarshal(b, to); err != nil {
		t.Fatal(err)
	}
}

func reparse(t *testing.T, v, to any) {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	parse(t, b, to)
}

func merged(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// play runs the jobs of a file one after another, as the system would. It returns what
// they printed and whether all of them succeeded.
func (c ci) play(w *ciWorld) (log string, ok bool) {
	w.t.Helper()
	root := filepath.Join("..", "..", "examples", "deliveries", "ci")
	b, err := os.ReadFile(filepath.Join(root, c.file))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, job := range c.jobs(w.t, b) {
		// Each job has a fresh copy of the repository.
		src := filepath.Join(w.dir, "src-"+job.name)
		if err := os.RemoveAll(src); err != nil {
			w.t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(src, "ci"), 0o755); err != nil {
			w.t.Fatal(err)
		}
		for _, name := range []string{"waybill.sh", "jobs.sh"} {
			text, err := os.ReadFile(filepath.Join(root, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(src, "ci", name), text, 0o644)
			}
			if err != nil {
				w.t.Fatal(err)
			}
		}
		for _, s := range job.scripts {
			cmd := exec.CommandContext(w.t.Context(), "bash", "-e", "-c", s.text)
			cmd.Dir = src
			cmd.Env = []string{"PATH=" + filepath.Join(w.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + w.dir, "GIT_CONFIG_NOSYSTEM=1"}
			for k, v := range merged(c.env(w), s.env) {
				if v = c.resolve(v, w); strings.Contains(v, "${{") || strings.Contains(v, "$[") || strings.Contains(v, "$(") {
					w.t.Fatalf("%s: %s=%s is not known to this test", c.file, k, v)
				}
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			out, err := cmd.CombinedOutput()
			log += string(out)
			c.outputs(w, s.id, string(out))
			if err != nil {
				return log, false
			}
		}
	}
	return log, true
}

func TestF48_PipelinesOfCI(t *testing.T) {
	for name, c := range systems {
		t.Run(name, func(t *testing.T) {
			e := serve(t, "deliveries")
			dir := t.TempDir()
			binary := harness.Binary(t)
			write := func(name, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			// Building an image is a program that notes what the server knows when it is called.
			write("bin/waybill", "#!/bin/sh\necho \"$*\" >> "+dir+"/reports\nexec "+binary+" \"$@\"\n")
			write("bin/docker", "#!/bin/sh\necho docker \"$*\" >> "+dir+"/reports\n["+` "$1" != build ] || [ -z "$WAYBILL_SERVER" ] || env -u WAYBILL_API_TOKEN `+binary+" deployment get -o json > "+dir+"/before-build\n[ ! -e "+dir+"/broken ]\n")
			for _, repo := range []string{"config", "manifests"} {
				cmd := exec.CommandContext(t.Context(), "sh", "-c", "git init -q --bare -b main "+repo+".git && git clone -q "+repo+".git seed-"+repo+
					" && cd seed-"+repo+" && git checkout -q -b main && git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m begin && git push -q origin main")
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("git: %v\n%s", err, out)
				}
			}
			token, err := e.Client().CreateToken(t.Context(), client.CreateToken{Name: "ci", Role: waybill.RoleReporter}, "")
			if err != nil {
				t.Fatal(err)
			}
			w := &ciWorld{t: t, dir: dir, branch: "release_1", run: "9001", out: map[string]string{}, vars: map[string]string{
				"WAYBILL_SERVER": "", "WAYBILL_API_TOKEN": "", "REGISTRY": "registry.example.com",
				"CONFIG_REPO": filepath.Join(dir, "config.git"), "MANIFEST_REPO": filepath.Join(dir, "manifests.git"),
			}}
			reports := func() string {
				b, _ := os.ReadFile(filepath.Join(dir, "reports"))
				return string(b)
			}
			// Without variables the pipeline works and reports nothing.
			log, ok := c.play(w)
			if !ok || !strings.Contains(log, "nothing is reported") || strings.Contains(reports(), "deployment create") {
				t.Fatalf("unset: %v\n%s\n%s", ok, log, reports())
			}
			w.vars["WAYBILL_SERVER"], w.vars["WAYBILL_API_TOKEN"], w.run = e.URL(), token.Secret, "9002"
			if log, ok := c.play(w); !ok || strings.Contains(log, "warning: waybill") {
				t.Fatalf("it failed:\n%s", log)
			}
			page, err := e.Client().Deployments(t.Context(), client.ListDeploymentsParams{})
			if err != nil || len(page.Items) != 1 {
				t.Fatalf("%v: %d rows of one pipeline: %+v", err, len(page.Items), page.Items)
			}
			d := page.Items[0]
			if d.ImageTag != "shop:release-1-12" || d.Service != "team/shop" || d.Ring != "dev" || d.Unlinked != "" || d.Status != waybill.DeploymentComplete ||
				d.Commit != ciCommit || d.ManifestCommit == "" || d.Build == nil || d.Config == nil || d.Manifest == nil || d.Build.Status != waybill.StatusSucceeded {
				t.Errorf("%+v", d)
			}
			before, err := os.ReadFile(filepath.Join(dir, "before-build"))
			if err != nil || !strings.Contains(string(before), "shop:release-1-12") {
				t.Errorf("when the image is built, the server knows %s, %v", before, err)
			}
			if text := reports(); !strings.Contains(text, "docker push") || strings.Index(text, "--manifest-commit-id") < strings.LastIndex(text, "--hld-commit-id") {
				t.Errorf("the order is:\n%s", text)
			}
			// A build that fails is seen.
			write("broken", "")
			w.run, w.branch = "9003", "feature/x.y"
			if log, ok := c.play(w); ok {
				t.Fatalf("a broken build succeeds:\n%s", log)
			}
			page, err = e.Client().Deployments(t.Context(), client.ListDeploymentsParams{ImageTag: "shop:feature-x-y-12"})
			if err != nil || len(page.Items) != 1 || page.Items[0].Status != waybill.DeploymentFailed {
				t.Errorf("%v: the failure is %+v", err, page.Items)
			}
		})
	}
}

// Stages of runs are on one row each, whenever the server is killed; so is what tools
// sent, and what they send again because nobody answered.
func TestDeliveriesSurviveKills(t *testing.T) {
	e := serve(t, "deliveries")
	const runs = 4
	for i := range runs {
		e.run("", "start", "ship", "--param", fmt.Sprint("tag=docs:k", i)) // its answer may be cut off, and then it was not accepted
		e.must("deployment", "create", "--p1", fmt.Sprint(i), "--image-tag", fmt.Sprint("web:", i), "--commit-id", "c0ffee1", "--service", "web")
		e.Kill()
		e.Start()
		e.must("deployment", "create", "--p1", fmt.Sprint(i), "--image-tag", fmt.Sprint("web:", i), "--commit-id", "c0ffee1", "--service", "web")
	}
	var rows []waybill.Deployment
	harness.Until(t, soon, "every run is on its row", func() error {
		page, err := e.Client().Deployments(t.Context(), client.ListDeploymentsParams{Service: "docs"})
		if err != nil || len(page.Items) < runs {
			return fmt.Errorf("%d rows, %v", len(page.Items), err)
		}
		for _, d := range page.Items {
			if d.Status != waybill.DeploymentComplete {
				return fmt.Errorf("%s is %s: %s", d.ImageTag, d.Status, d.Reason)
			}
		}
		rows = page.Items
		return nil
	})
	for _, d := range rows {
		for _, st := range []*waybill.DeploymentStage{d.Build, d.Config, d.Manifest} {
			if st == nil || len(st.Runs) != 1 || st.Status != waybill.StatusSucceeded {
				t.Errorf("%s: %+v", d.ImageTag, st)
			}
		}
	}
	page, err := e.Client().Deployments(t.Context(), client.ListDeploymentsParams{Service: "web"})
	if err != nil || len(rows) != runs || len(page.Items) != runs {
		t.Errorf("%d and %d rows, want %d each; %v", len(rows), len(page.Items), runs, err)
	}
}
