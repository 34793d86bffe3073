package providertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// AzureDevOps answers as a server of Azure DevOps does. A world's repository is
// organization/project/name.
func AzureDevOps(w *World) http.Handler {
	mux := http.NewServeMux()
	missing := func(rw http.ResponseWriter, what string) {
		write(rw, 404, object{"$id": "1", "message": "TF401: " + what + " does not exist, or you have no permission to see it.", "typeKey": "NotFoundException", "errorCode": 0})
	}
	list := func(rw http.ResponseWriter, r *http.Request, all []object) {
		n, _ := strconv.Atoi(r.URL.Query().Get("continuationToken"))
		per := w.perPage()
		if top, _ := strconv.Atoi(r.URL.Query().Get("$top")); top > 0 {
			per = min(per, top)
		}
		some, more := paged(all, n+1, per)
		if more {
			rw.Header().Set("X-MS-ContinuationToken", strconv.Itoa(n+1))
		}
		if some == nil {
			some = []object{}
		}
		write(rw, 200, object{"count": len(some), "value": some})
	}
	in := func(pattern string, f func(rw http.ResponseWriter, r *http.Request)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /{org}/{project}/_apis"+path, func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.Hidden || !strings.HasPrefix(w.Repo, r.PathValue("org")+"/"+r.PathValue("project")+"/") {
				missing(rw, "the project "+r.PathValue("project"))
				return
			}
			f(rw, r)
		})
	}
	code := func(pattern string, f func(rw http.ResponseWriter, r *http.Request)) {
		method, path, _ := strings.Cut(pattern, " ")
		in(method+" /git/repositories/{repo}"+path, func(rw http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(w.Repo, "/"+r.PathValue("repo")) {
				missing(rw, "the repository "+r.PathValue("repo"))
				return
			}
			f(rw, r)
		})
	}
	project := func(r *http.Request) string {
		return "https://" + r.Host + "/" + r.PathValue("org") + "/" + r.PathValue("project")
	}
	person := func(r *http.Request, login, name string) any {
		if login == "" && name == "" {
			return nil
		}
		if name == "" {
			name = login
		}
		return object{"displayName": name, "uniqueName": login, "id": "e890", "url": "https://identity.example.com/" + login, "imageUrl": "https://" + r.Host + "/avatars/" + login, "descriptor": "aad.x"}
	}
	in("GET /build/builds", func(rw http.ResponseWriter, r *http.Request) {
		var out []object
		ids := strings.Split(r.URL.Query().Get("buildIds"), ",")
		if len(ids) > 200 {
			write(rw, 400, object{"message": "too many ids"})
			return
		}
		slices.Sort(ids)
		for _, id := range ids {
			x, ok := w.Runs[id]
			if !ok || x.Release {
				continue
			}
			n, _ := strconv.ParseInt(id, 10, 64)
			o := object{
				"id": n, "buildNumber": x.Number, "status": x.State, "queueTime": stamp(x.Queued), "lastChangedDate": stamp(latestOf(x.Queued, x.Started, x.Finished)), "sourceBranch": "refs/heads/" + x.Branch, "sourceVersion": x.Commit,
				"requestedFor": person(r, "ada@example.com", "Ada"), "reason": "manual", "priority": "normal", "properties": object{},
				"_links":     object{"web": object{"href": project(r) + "/_build/results?buildId=" + id}},
				"definition": object{"id": 135, "name": "app"},
				"repository": object{"id": x.SourceRepo, "type": "GitHub", "clean": nil, "checkoutSubmodules": false},
			}
			if x.SourceRepo == "" {
				o["repository"] = object{"id": "a4bb", "type": "TfsGit", "name": w.Repo[strings.LastIndex(w.Repo, "/")+1:], "url": project(r) + "/_git/" + w.Repo[strings.LastIndex(w.Repo, "/")+1:]}
			}
			if x.Result != "" {
				o["result"] = x.Result
			}
			if !x.Started.IsZero() {
				o["startTime"] = stamp(x.Started)
			}
			if !x.Finished.IsZero() {
				o["finishTime"] = stamp(x.Finished)
			}
			out = append(out, o)
		}
		list(rw, r, out)
	})
	in("GET /build/builds/{id}/timeline", func(rw http.ResponseWriter, r *http.Request) {
		x, ok := w.Runs[r.PathValue("id")]
		if !ok {
			missing(rw, "the build")
			return
		}
		records := []object{{"id": "6c12", "type": "Checkpoint", "name": "Checkpoint", "state": "completed", "result": "succeeded", "attempt": 1, "startTime": nil, "lastModified": "0001-01-01T00:00:00"}}
		for i, result := range x.Stages {
			o := object{"id": fmt.Sprint("aada", i), "type": "Stage", "name": fmt.Sprint("stage", i+1), "order": i + 1, "state": "completed", "result": result, "attempt": 1, "identifier": fmt.Sprint("stage", i+1)}
			if result == "" {
				o["state"], o["result"] = "inProgress", nil
			}
			records = append(records, o, object{"id": fmt.Sprint("task", i), "type": "Task", "name": "Checkout", "order": 2, "state": "completed", "result": "succeeded", "attempt": 1})
		}
		slices.Reverse(records)
		write(rw, 200, object{"records": records, "id": "7200", "changeId": 50})
	})
	in("GET /release/deployments", func(rw http.ResponseWriter, r *http.Request) {
		var out []object
		for _, id := range strings.Split(r.URL.Query().Get("releaseIdFilter"), ",") {
			x, ok := w.Runs[id]
			if !ok || !x.Release {
				continue
			}
			n, _ := strconv.ParseInt(id, 10, 64)
			page := project(r) + "/_release?releaseId=" + id + "&_a=release-summary"
			out = append(out, object{
				"id": n + 5, "attempt": 1, "deploymentStatus": x.State, "operationStatus": "Approved", "reason": "automated",
				"queuedOn": stamp(x.Queued), "startedOn": stamp(x.Started), "completedOn": stamp(x.Finished), "lastModifiedOn": stamp(latestOf(x.Queued, x.Started, x.Finished)),
				"requestedFor": person(r, "service", "Release Management"), "releaseEnvironment": object{"id": n + 5, "name": x.Environment},
				"release": object{"id": n, "name": x.Number, "webAccessUri": page, "_links": object{"web": object{"href": page}}, "artifacts": []object{{
					"type": "AzureContainerRepository", "alias": "_app", "isPrimary": true,
					"definitionReference": object{"version": object{"id": x.Image, "name": x.Image}, "registryurl": object{"id": "registry.example.com", "name": "registry"}},
				}}},
			})
		}
		list(rw, r, out)
	})
	code("GET /commits/{sha}", func(rw http.ResponseWriter, r *http.Request) {
		c, ok := w.commit(r.PathValue("sha"))
		if !ok {
			missing(rw, "the commit")
			return
		}
		who := object{"name": c.Name, "email": c.Email, "date": stamp(c.At), "imageUrl": "https://" + r.Host + "/avatars/" + c.Email}
		write(rw, 200, object{"commitId": c.SHA, "treeId": Digest("tree"), "author": who, "committer": who, "comment": "Change it", "parents": []string{}})
	})
	code("GET /pullrequests/{id}", func(rw http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		p, ok := w.Pulls[n]
		if !ok {
			missing(rw, "the pull request")
			return
		}
		o := object{
			"pullRequestId": n, "codeReviewId": n, "status": "active", "title": p.Title, "creationDate": stamp(p.Created), "sourceRefName": "refs/heads/" + p.Source, "targetRefName": "refs/heads/" + p.Target,
			"mergeStatus": "succeeded", "isDraft": false, "reviewers": []object{}, "repository": object{"name": r.PathValue("repo"), "webUrl": project(r) + "/_git/" + r.PathValue("repo")},
			"lastMergeCommit": object{"commitId": Digest("preview")},
		}
		switch p.State {
		case "merged":
			o["status"], o["closedDate"], o["closedBy"], o["lastMergeCommit"] = "completed", stamp(p.Ended), person(r, p.By, p.ByName), object{"commitId": p.Merge}
		case "closed":
			o["status"], o["closedDate"] = "abandoned", stamp(p.Ended)
		}
		write(rw, 200, o)
	})
	code("GET /refs", func(rw http.ResponseWriter, r *http.Request) {
		var out []object
		for _, t := range w.Tags {
			if !strings.HasPrefix("tags/"+t.Name, r.URL.Query().Get("filter")) {
				continue
			}
			id := t.Object()
			if t.Lightweight {
				id = t.Commit
			}
			out = append(out, object{"name": "refs/tags/" + t.Name, "objectId": id, "creator": person(r, "ada@example.com", "Ada")})
		}
		list(rw, r, out)
	})
	code("GET /annotatedtags/{id}", func(rw http.ResponseWriter, r *http.Request) {
		for _, t := range w.Tags {
			if !t.Lightweight && t.Object() == r.PathValue("id") {
				// Without a zone, as it is answered.
				write(rw, 200, object{"name": t.Name, "objectId": t.Object(), "taggedObject": object{"objectId": t.Commit, "objectType": "commit"}, "taggedBy": object{"name": t.Tagger, "email": "sync@example.com", "date": t.At.UTC().Format("2006-01-02T15:04:05")}, "message": t.Message + "\n"})
				return
			}
		}
		missing(rw, "the annotated tag")
	})
	code("GET /diffs/commits", func(rw http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		ahead, behind, common, ok := w.lie(q.Get("baseVersion"), q.Get("targetVersion"))
		if !ok {
			missing(rw, "the commit")
			return
		}
		write(rw, 200, object{"allChangesIncluded": true, "changeCounts": object{"Edit": 1}, "changes": []object{}, "commonCommit": common, "aheadCount": ahead, "behindCount": behind})
	})
	code("POST /commits/{sha}/statuses", func(rw http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			write(rw, 400, object{"message": "bad body"})
			return
		}
		w.written = append(w.written, Written{"/statuses/" + r.PathValue("sha"), body})
		write(rw, 201, object{"id": 1})
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) { missing(rw, "the page") })
	return w.server(func(r *http.Request) string {
		_, token, _ := r.BasicAuth()
		return token
	}, func(rw http.ResponseWriter) {
		// No 401: a page to log in.
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		rw.WriteHeader(http.StatusNonAuthoritativeInfo)
		fmt.Fprint(rw, "<!DOCTYPE html><title>Sign In</title>")
	}, mux)
}
