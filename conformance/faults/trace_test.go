//go:build linux

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// drawn writes a lineage as lines: pipelines and objects for ids.
func drawn(l client.Lineage) []string {
	names := map[string]string{}
	for _, n := range l.Nodes {
		if n.Run != nil {
			names[n.ID] = n.Run.Pipeline + " " + string(n.Run.Status)
		} else {
			names[n.ID] = n.Object.Bucket + "/" + n.Object.Key
		}
	}
	out := []string{}
	for _, e := range l.Edges {
		by := ""
		if e.Step != "" {
			by = fmt.Sprintf(" by %s/%d", e.Step, e.Attempt)
		}
		out = append(out, fmt.Sprintf("%s %s%s %s", names[e.From], e.Kind, by, names[e.To]))
	}
	slices.Sort(out)
	return out
}

// From a file to the runs that it started, to what they made, to the runs that this
// started, and back, with a sub-pipeline and a repetition in between, across an end of
// the server by SIGKILL.
func TestObjectToResult(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/cut.yaml": `
name: cut
on: {object: {bucket: inbox, match: "**.txt"}}
steps:
  - name: split
    run: [sh, -c, 'cp "$WAYBILL_OBJECT" a && waybill object put parts "$WAYBILL_RUN/a" a']
  - {name: total, runner: pipeline, with: {pipeline: add}}
`,
		"pipelines/add.yaml": `
name: add
steps:
  - {name: sum, run: [sh, -c, 'wc -l < /dev/null > sum'], outputs: {sum: {file: sum, bucket: totals, key: sum.txt}}}
`,
		"pipelines/count.yaml": `
name: count
on: {object: {bucket: parts, match: "**"}}
steps:
  - name: words
    retry: {max: 1, backoff: 10ms}
    run: [sh, -c, 'wc -w < "$WAYBILL_OBJECT" > words; [ "$WAYBILL_ATTEMPT" = 2 ]']
    outputs: {words: {file: words, bucket: results, key: "words.txt"}}
`,
		"pipelines/watch.yaml": `
name: watch
on: {object: {bucket: parts, match: "**"}}
steps: [{name: look, run: ["false"]}]
`,
	}})
	ctx, c := w.ctx, w.Client()
	w.write(w.path("in.txt"), "one two three\n")
	if out, errs, code := w.cli("object", "put", "inbox", "in.txt", w.path("in.txt")); code != 0 {
		t.Fatalf("object put: code %d\n%s%s", code, out, errs)
	}
	trace := func(bucket, key string, p client.TraceObjectParams) client.Lineage {
		t.Helper()
		return must(c.TraceObject(ctx, bucket, key, p))(t)
	}
	// The key of the part is that of the run.
	var part string
	want := []string{
		"add succeeded made by sum/1 totals/sum.txt", "count succeeded made by words/2 results/words.txt", "cut succeeded called by total/1 add succeeded",
		"cut succeeded made by split/1 PART", "inbox/in.txt started cut succeeded", "PART started count succeeded", "PART started watch failed",
	}
	check := func(what string, l client.Lineage, want ...string) error {
		got := drawn(l)
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], part, "PART")
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	}
	harness.Until(t, soon, "everything has followed from the file", func() error {
		list := must(c.Runs(ctx, client.ListRunsParams{Pipeline: "cut"}))(t)
		if len(list.Items) == 0 {
			return fmt.Errorf("no run of cut yet")
		}
		part = "parts/" + list.Items[0].ID + "/a"
		return check("from the file", trace("inbox", "in.txt", client.TraceObjectParams{}), want...)
	})
	up := []string{"inbox/in.txt started cut succeeded", "cut succeeded made by split/1 PART", "PART started count succeeded", "count succeeded made by words/2 results/words.txt"}
	says := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	says(check("back from the result", trace("results", "words.txt", client.TraceObjectParams{}), up...))
	says(check("back from what the sub-pipeline made", trace("totals", "sum.txt", client.TraceObjectParams{}),
		"inbox/in.txt started cut succeeded", "cut succeeded called by total/1 add succeeded", "add succeeded made by sum/1 totals/sum.txt"))
	says(check("two edges", trace("inbox", "in.txt", client.TraceObjectParams{Depth: 1}), "inbox/in.txt started cut succeeded"))
	if l := trace("inbox", "in.txt", client.TraceObjectParams{Depth: 1}); !l.Truncated || !l.Nodes[1].MoreDown {
		t.Errorf("a trace of depth 1 does not say that there is more: %+v", l)
	}

	// A repetition hangs on the run that it repeats, and makes the next version.
	failed := w.runs("watch")[0].ID
	if out, errs, code := w.cli("run", "retry", failed, "--wait"); code != 1 {
		t.Fatalf("run retry: code %d\n%s%s", code, out, errs)
	}
	want = append(want, "watch failed retried watch failed")
	says(check("with the repetition", trace("inbox", "in.txt", client.TraceObjectParams{}), want...))
	w.Kill()
	w.Start()
	says(check("after an end", trace("inbox", "in.txt", client.TraceObjectParams{}), want...))

	out, errs, code := w.cli("object", "trace", "inbox", "in.txt")
	for _, line := range []string{"object inbox/in.txt", "led to", "└─ started run ", "├─ made by split/1 object " + part, "called by total/1 run ", "retried run ", "made by words/2 object results/words.txt"} {
		if code != 0 || !strings.Contains(out, line) {
			t.Errorf("object trace: code %d, no %q in\n%s%s", code, line, out, errs)
		}
	}
	out, _, _ = w.cli("run", "trace", failed, "--up", "-o", "json")
	var l waybill.Lineage
	if err := json.Unmarshal([]byte(out), &l); err != nil || l.Root != "run/"+failed || len(l.Nodes) != 4 {
		t.Errorf("run trace --up -o json: %v\n%s", err, out)
	}
	if _, errs, code := w.cli("object", "trace", "inbox", "nothing"); code != 1 || !strings.Contains(errs, "there is no object inbox/nothing") {
		t.Errorf("trace of nothing: code %d\n%s", code, errs)
	}
	if _, errs, code := w.cli("object", "trace", "inbox", "in.txt", "--depth", "0"); code != 2 || !strings.Contains(errs, "--depth is from 1 to 50") {
		t.Errorf("depth 0: code %d\n%s", code, errs)
	}
	// A viewer may look.
	token := must(c.CreateToken(ctx, client.CreateToken{Name: "viewer", Role: waybill.RoleViewer}, ""))(t)
	viewer := w.NewClient(client.Options{Token: token.Secret})
	says(check("a viewer's trace", must(viewer.TraceObject(ctx, "inbox", "in.txt", client.TraceObjectParams{}))(t), want...))
	var refused *client.Error
	if err := viewer.DeleteObject(ctx, "inbox", "in.txt"); !errors.As(err, &refused) || refused.Kind != waybill.KindForbidden {
		t.Errorf("a viewer deletes: %v", err)
	}
}
