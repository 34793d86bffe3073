package providertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// GitLab answers as a GitLab server does, under /api/v4.
func GitLab(w *World) http.Handler {
	mux := http.NewServeMux()
	missing := func(rw http.ResponseWriter, what string) {
		write(rw, 404, object{"message": "404 " + what + " Not Found"})
	}
	person := func(r *http.Request, login, name string) any {
		if login == "" {
			return nil
		}
		if name == "" {
			name = login
		}
		return object{"id": 77, "name": name, "username": login, "state": "active", "avatar_url": "https://secure.example.com/avatar/" + login, "web_url": "https://" + r.Host + "/" + login}
	}
	handle := func(pattern string, f func(rw http.ResponseWriter, r *http.Request)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /api/v4/projects/{project}"+path, func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if p := r.PathValue("project"); w.Hidden || p != w.Repo && p != strconv.Itoa(w.Project) {
				missing(rw, "Project")
				return
			}
			f(rw, r)
		})
	}
	handle("GET ", func(rw http.ResponseWriter, r *http.Request) {
		write(rw, 200, object{"id": w.Project, "path_with_namespace": w.Repo, "web_url": "https://" + r.Host + "/" + w.Repo, "default_branch": "master", "visibility": "private"})
	})
	handle("GET /pipelines/{id}", func(rw http.ResponseWriter, r *http.Request) {
		x, ok := w.Runs[r.PathValue("id")]
		if !ok {
			write(rw, 404, object{"message": "404 Not found"})
			return
		}
		id, _ := strconv.ParseInt(x.ID, 10, 64)
		write(rw, 200, object{
			"id": id, "iid": 12, "project_id": w.Project, "sha": x.Commit, "ref": x.Branch, "status": x.State, "source": "push", "created_at": stamp(x.Queued), "updated_at": stamp(latestOf(x.Queued, x.Started, x.Finished)),
			"started_at": stamp(x.Started), "finished_at": stamp(x.Finished), "web_url": "https://" + r.Host + "/" + w.Repo + "/-/pipelines/" + x.ID, "before_sha": strings.Repeat("0", 40), "tag": false,
			"user": person(r, "ada", "Ada"), "detailed_status": object{"icon": "status_success", "text": "passed"},
		})
	})
	handle("GET /repository/commits/{sha}", func(rw http.ResponseWriter, r *http.Request) {
		c, ok := w.commit(r.PathValue("sha"))
		if !ok {
			missing(rw, "Commit")
			return
		}
		write(rw, 200, object{"id": c.SHA, "short_id": c.SHA[:8], "title": "Change it", "author_name": c.Name, "author_email": c.Email, "authored_date": stamp(c.At), "committed_date": stamp(c.At), "web_url": "https://" + r.Host + "/" + w.Repo + "/-/commit/" + c.SHA})
	})
	handle("GET /repository/commits/{sha}/refs", func(rw http.ResponseWriter, r *http.Request) {
		write(rw, 200, []object{{"type": "branch", "name": "master"}})
	})
	mux.HandleFunc("GET /api/v4/avatar", func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if a := w.Avatars[r.URL.Query().Get("email")]; a != "" {
			write(rw, 200, object{"avatar_url": a})
			return
		}
		write(rw, 200, object{"avatar_url": nil})
	})
	handle("GET /merge_requests/{iid}", func(rw http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("iid"))
		p, ok := w.Pulls[n]
		if !ok {
			missing(rw, "Not found")
			return
		}
		o := object{
			"id": 75000000 + n, "iid": n, "project_id": w.Project, "title": p.Title, "description": nil, "state": "opened", "created_at": stamp(p.Created), "source_branch": p.Source, "target_branch": p.Target,
			"merged_by": nil, "merge_user": nil, "merged_at": nil, "closed_at": nil, "sha": Digest("head"), "merge_commit_sha": nil, "squash_commit_sha": nil,
			"web_url": fmt.Sprintf("https://%s/%s/-/merge_requests/%d", r.Host, w.Repo, n),
		}
		switch p.State {
		case "merged":
			o["state"], o["merged_at"], o["merged_by"], o["merge_commit_sha"] = "merged", stamp(p.Ended), person(r, p.By, p.ByName), p.Merge
		case "closed":
			o["state"], o["closed_at"] = "closed", stamp(p.Ended)
		}
		write(rw, 200, o)
	})
	handle("GET /repository/tags", func(rw http.ResponseWriter, r *http.Request) {
		var tags []object
		for _, t := range w.Tags {
			if prefix := strings.TrimPrefix(r.URL.Query().Get("search"), "^"); !strings.HasPrefix(t.Name, prefix) {
				continue
			}
			o := object{"name": t.Name, "message": t.Message, "target": t.Object(), "release": nil, "protected": false, "commit": object{"id": t.Commit, "short_id": t.Commit[:8], "author_name": t.Tagger, "authored_date": stamp(t.At), "committed_date": stamp(t.At)}}
			if t.Lightweight {
				o["message"], o["target"] = nil, t.Commit
			}
			tags = append(tags, o)
		}
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		list, more := paged(tags, max(page, 1), w.perPage())
		if more {
			rw.Header().Set("X-Next-Page", strconv.Itoa(max(page, 1)+1))
		}
		if list == nil {
			list = []object{}
		}
		write(rw, 200, list)
	})
	handle("GET /repository/merge_base", func(rw http.ResponseWriter, r *http.Request) {
		refs := r.URL.Query()["refs[]"]
		if len(refs) != 2 {
			write(rw, 400, object{"error": "refs is missing"})
			return
		}
		_, _, common, ok := w.lie(refs[0], refs[1])
		if !ok {
			write(rw, 400, object{"message": "400 Bad request - Could not find ref: " + refs[0]})
			return
		}
		write(rw, 200, object{"id": common, "short_id": common[:8]})
	})
	record := func(rw http.ResponseWriter, r *http.Request, code int) {
		var body map[string]any
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			write(rw, 400, object{"error": "body is invalid"})
			return
		}
		_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v4/projects/"), "/")
		path = strings.TrimPrefix("/"+path, strings.TrimPrefix(w.Repo, strings.SplitN(w.Repo, "/", 2)[0]))
		w.written = append(w.written, Written{path, body})
		write(rw, code, object{"id": 9001, "status": body["status"]})
	}
	handle("POST /statuses/{sha}", func(rw http.ResponseWriter, r *http.Request) {
		record(rw, r, 201)
	})
	handle("GET /deployments", func(rw http.ResponseWriter, r *http.Request) {
		list := []object{}
		for _, x := range w.written {
			switch {
			case x.Path == "/deployments" && x.Body["environment"] == r.URL.Query().Get("environment"):
				list = append([]object{{"id": 9001, "sha": x.Body["sha"], "status": x.Body["status"]}}, list...)
			case x.Path == "/deployments/9001" && len(list) > 0:
				list[0]["status"] = x.Body["status"]
			}
		}
		write(rw, 200, list)
	})
	handle("POST /deployments", func(rw http.ResponseWriter, r *http.Request) { record(rw, r, 201) })
	handle("PUT /deployments/{id}", func(rw http.ResponseWriter, r *http.Request) { record(rw, r, 200) })
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) { write(rw, 404, object{"error": "404 Not Found"}) })
	return w.server(func(r *http.Request) string { return r.Header.Get("Private-Token") }, func(rw http.ResponseWriter) {
		write(rw, 401, object{"message": "401 Unauthorized"})
	}, mux)
}
