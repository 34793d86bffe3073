package providertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func write(rw http.ResponseWriter, code int, v any) {
	rw.Header().Set("Content-Type", "application/json; charset=utf-8")
	rw.WriteHeader(code)
	_ = json.NewEncoder(rw).Encode(v)
}

type object = map[string]any

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// GitHub answers as a GitHub server does, under /api/v3 and at the root.
func GitHub(w *World) http.Handler {
	mux := http.NewServeMux()
	missing := func(rw http.ResponseWriter) {
		write(rw, 404, object{"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"})
	}
	person := func(r *http.Request, login string) any {
		if login == "" {
			return nil
		}
		return object{"login": login, "id": 4242, "node_id": "MDQ6", "avatar_url": "https://avatars.example.com/" + login, "html_url": "https://" + r.Host + "/" + login, "type": "User", "site_admin": false}
	}
	handle := func(pattern string, f func(rw http.ResponseWriter, r *http.Request)) {
		method, path, _ := strings.Cut(pattern, " ")
		h := func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.Hidden || r.PathValue("owner")+"/"+r.PathValue("name") != w.Repo {
				missing(rw)
				return
			}
			f(rw, r)
		}
		mux.HandleFunc(method+" /repos/{owner}/{name}"+path, h)
	}
	handle("GET ", func(rw http.ResponseWriter, r *http.Request) {
		write(rw, 200, object{"id": 1, "full_name": w.Repo, "private": true, "default_branch": "main"})
	})
	run := func(job bool) func(http.ResponseWriter, *http.Request) {
		return func(rw http.ResponseWriter, r *http.Request) {
			x, ok := w.Runs[r.PathValue("id")]
			if !ok || x.Job != job {
				missing(rw)
				return
			}
			id, _ := strconv.ParseInt(x.ID, 10, 64)
			var conclusion any
			if x.Result != "" {
				conclusion = x.Result
			}
			page := "https://" + r.Host + "/" + w.Repo + "/"
			o := object{"id": id, "head_sha": x.Commit, "head_branch": x.Branch, "status": x.State, "conclusion": conclusion, "name": "Build", "node_id": "MDg6"}
			if job {
				o["run_id"], o["html_url"] = id/4, page+"runs/"+x.ID
				o["started_at"], o["completed_at"] = stamp(x.Started), stamp(x.Finished)
				o["steps"] = []object{{"name": "Set up job", "status": "completed", "conclusion": "success", "number": 1}}
			} else {
				n, _ := strconv.Atoi(x.Number)
				o["run_number"], o["run_attempt"], o["event"], o["html_url"] = n, 1, "push", page+"actions/runs/"+x.ID
				o["created_at"], o["run_started_at"] = stamp(x.Queued), stamp(x.Started)
				o["updated_at"] = stamp(latestOf(x.Queued, x.Started, x.Finished))
				o["triggering_actor"] = person(r, "octo-ada")
				o["repository"] = object{"full_name": w.Repo, "html_url": "https://" + r.Host + "/" + w.Repo}
			}
			write(rw, 200, o)
		}
	}
	handle("GET /actions/runs/{id}", run(false))
	handle("GET /actions/jobs/{id}", run(true))
	handle("GET /commits/{sha}", func(rw http.ResponseWriter, r *http.Request) {
		c, ok := w.commit(r.PathValue("sha"))
		if !ok {
			write(rw, 422, object{"message": "No commit found for SHA: " + r.PathValue("sha")})
			return
		}
		who := object{"name": c.Name, "email": c.Email, "date": stamp(c.At)}
		write(rw, 200, object{"sha": c.SHA, "commit": object{"author": who, "committer": who, "message": "Change it", "tree": object{"sha": Digest(c.SHA)}}, "author": person(r, c.Login), "committer": person(r, c.Login), "parents": []object{}})
	})
	handle("GET /pulls/{number}", func(rw http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("number"))
		p, ok := w.Pulls[n]
		if !ok {
			missing(rw)
			return
		}
		o := object{
			"number": n, "state": "open", "title": p.Title, "body": nil, "html_url": fmt.Sprintf("https://%s/%s/pull/%d", r.Host, w.Repo, n), "created_at": stamp(p.Created), "updated_at": stamp(p.Created),
			"closed_at": nil, "merged_at": nil, "merge_commit_sha": Digest("preview"), "merged_by": nil, "user": person(r, "octo-ada"),
			"head": object{"ref": p.Source, "sha": Digest("head")}, "base": object{"ref": p.Target, "sha": Digest("base")},
		}
		if p.State != "open" {
			o["state"], o["closed_at"] = "closed", stamp(p.Ended)
		}
		if p.State == "merged" {
			o["merged_at"], o["merged_by"], o["merge_commit_sha"] = stamp(p.Ended), person(r, p.By), p.Merge
		}
		write(rw, 200, o)
	})
	handle("GET /git/matching-refs/tags/{prefix...}", func(rw http.ResponseWriter, r *http.Request) {
		var refs []object
		for _, t := range w.Tags {
			if !strings.HasPrefix(t.Name, r.PathValue("prefix")) {
				continue
			}
			sha, kind := t.Object(), "tag"
			if t.Lightweight {
				sha, kind = t.Commit, "commit"
			}
			refs = append(refs, object{"ref": "refs/tags/" + t.Name, "node_id": "MDM6", "object": object{"sha": sha, "type": kind}})
		}
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		list, more := paged(refs, max(page, 1), w.perPage())
		if more {
			q := r.URL.Query()
			q.Set("page", strconv.Itoa(max(page, 1)+1))
			rw.Header().Set("Link", fmt.Sprintf(`<http://%s%s?%s>; rel="next", <http://%s/last>; rel="last"`, r.Host, r.URL.EscapedPath(), q.Encode(), r.Host))
		}
		if list == nil {
			list = []object{}
		}
		write(rw, 200, list)
	})
	handle("GET /git/tags/{sha}", func(rw http.ResponseWriter, r *http.Request) {
		for _, t := range w.Tags {
			if t.Object() == r.PathValue("sha") && !t.Lightweight {
				write(rw, 200, object{"sha": t.Object(), "tag": t.Name, "message": t.Message + "\n", "tagger": object{"name": t.Tagger, "email": "sync@example.com", "date": stamp(t.At)}, "object": object{"sha": t.Commit, "type": "commit"}})
				return
			}
		}
		missing(rw)
	})
	handle("GET /compare/{two}", func(rw http.ResponseWriter, r *http.Request) {
		base, head, _ := strings.Cut(r.PathValue("two"), "...")
		ahead, behind, common, ok := w.lie(base, head)
		if !ok {
			missing(rw)
			return
		}
		status := "identical"
		if ahead > 0 {
			status = "ahead"
		} else if behind > 0 {
			status = "behind"
		}
		write(rw, 200, object{"status": status, "ahead_by": ahead, "behind_by": behind, "total_commits": ahead, "merge_base_commit": object{"sha": common}, "commits": []object{}})
	})
	record := func(rw http.ResponseWriter, r *http.Request, code int, answer object) {
		var body map[string]any
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			write(rw, 400, object{"message": "Problems parsing JSON"})
			return
		}
		_, path, _ := strings.Cut(r.URL.Path, w.Repo)
		w.written = append(w.written, Written{path, body})
		write(rw, code, answer)
	}
	handle("POST /statuses/{sha}", func(rw http.ResponseWriter, r *http.Request) { record(rw, r, 201, object{"id": 1}) })
	handle("POST /deployments", func(rw http.ResponseWriter, r *http.Request) { record(rw, r, 201, object{"id": 7001}) })
	handle("GET /deployments", func(rw http.ResponseWriter, r *http.Request) {
		list := []object{}
		for _, x := range w.written {
			if x.Path == "/deployments" && x.Body["ref"] == r.URL.Query().Get("sha") && x.Body["environment"] == r.URL.Query().Get("environment") && x.Body["task"] == r.URL.Query().Get("task") {
				list = append(list, object{"id": 7001})
			}
		}
		write(rw, 200, list)
	})
	handle("GET /deployments/{id}/statuses", func(rw http.ResponseWriter, r *http.Request) {
		list := []object{}
		for _, x := range w.written {
			if x.Path == "/deployments/"+r.PathValue("id")+"/statuses" {
				list = append([]object{x.Body}, list...)
			}
		}
		write(rw, 200, list)
	})
	handle("POST /deployments/{id}/statuses", func(rw http.ResponseWriter, r *http.Request) { record(rw, r, 201, object{"id": 2}) })
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) { missing(rw) })
	return w.server(func(r *http.Request) string {
		return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	}, func(rw http.ResponseWriter) {
		write(rw, 401, object{"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"})
	}, stripAPI("/api/v3", mux))
}

// stripAPI serves h at the root and below a prefix.
func stripAPI(prefix string, h http.Handler) http.Handler {
	below := http.StripPrefix(prefix, h)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, prefix+"/") {
			below.ServeHTTP(rw, r)
			return
		}
		h.ServeHTTP(rw, r)
	})
}

func latestOf(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}
