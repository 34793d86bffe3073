//go:build linux

// Package elsewhere tests what arrives from other systems, with the program as it
// is built: watched folders and buckets, and queues of other systems. Servers are
// killed while they take something, and each version and each message must still
// start exactly one run.
package elsewhere

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	azqueue "github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/cloud/azuretest"
	"github.com/waybill-run/waybill/internal/cloud/gcstest"
	"github.com/waybill-run/waybill/internal/cloud/s3test"
	"github.com/waybill-run/waybill/internal/source/rabbittest"
)

func TestMain(m *testing.M) { harness.Main(m) }

const take = `
name: take
on:
  object: {bucket: inbox, match: "**"}
  queue: {source: orders}
steps: [{name: one, runner: sim, with: {run_for: 1ms}}]
`

// serve starts a server with the settings, and with what else is in its project.
func serve(t *testing.T, settings string, o harness.Options) *harness.Server {
	t.Helper()
	o.Project = map[string]string{"waybill.yaml": settings, "pipelines/take.yaml": take}
	return harness.New(t, o)
}

// all returns every run.
func all(t *testing.T, s *harness.Server) []client.Run {
	t.Helper()
	var out []client.Run
	p := client.ListRunsParams{Limit: 1000}
	for {
		l, err := s.Client().Runs(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l.Items...)
		if l.NextCursor == nil || *l.NextCursor == "" {
			return out
		}
		p.Cursor = *l.NextCursor
	}
}

// wantRuns waits until there are so many runs and all have succeeded, and a moment
// longer to see whether there are more. Each begins with something of its own.
func wantRuns(t *testing.T, s *harness.Server, n int) {
	t.Helper()
	look := func() error {
		runs := all(t, s)
		if len(runs) != n {
			return fmt.Errorf("%d runs, want %d", len(runs), n)
		}
		seen := map[string]string{}
		for _, r := range runs {
			if r.Status != waybill.StatusSucceeded {
				return fmt.Errorf("run %s is %s: %s", r.ID, r.Status, r.Error)
			}
			what := string(r.Event.Data)
			if r.Event.Object.Key != "" {
				what = r.Event.Object.Key + " " + r.Event.Object.Sha256
			}
			if other, twice := seen[what]; twice {
				return fmt.Errorf("%s started %s and %s", what, other, r.ID)
			}
			seen[what] = r.ID
		}
		return nil
	}
	harness.Until(t, 90*time.Second, "every one starts a run", look)
	time.Sleep(time.Second) // a second run of something would come now
	if err := look(); err != nil {
		t.Error(err)
	}
}

// wantDeath waits until the server has killed itself at a point, and starts it
// again without.
func wantDeath(t *testing.T, s *harness.Server) {
	t.Helper()
	select {
	case <-s.Exited():
	case <-time.After(time.Minute):
		t.Fatal("the server was to end at the point and did not")
	}
	s.Start()
}

// put writes a file in one go.
func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func folderSettings(dir string, more string) string {
	return "buckets: {inbox: {url: 'file://" + dir + "', settle: 200ms, poll: 1s" + more + "}}\n"
}

// A file that is copied into a folder starts one run, and the command line tells.
func TestWatchedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, folderSettings(dir, ", after: 'move:done/'"), harness.Options{})
	put(t, dir, "a.csv", "one")
	put(t, dir, ".hidden", "not yet")
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	wantRuns(t, s, 1)
	harness.Until(t, 10*time.Second, "it is moved", func() error {
		_, err := os.Stat(filepath.Join(dir, "done", "a.csv"))
		return err
	})
	out, err := s.Command("bucket", "scan", "inbox", "--wait").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "status      ok") || !strings.Contains(string(out), "symbolic link") {
		t.Errorf("bucket scan: %v\n%s", err, out)
	}
	put(t, dir, "a.csv", "two")
	wantRuns(t, s, 2)
	s.Stop()
	put(t, dir, "b.csv", "while nobody looks")
	s.Start()
	wantRuns(t, s, 3)
}

// The server is killed between having an object and knowing it, and at random.
func TestFB06_KilledWhileTaking(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, folderSettings(dir, ", after: delete"), harness.Options{Stopped: true})
	n := 0
	for _, point := range []string{"watch.put:1", "watch.put:5", "watch.finish:2", "watch.put:3"} {
		for range 10 {
			n++
			put(t, dir, fmt.Sprintf("k%03d", n), fmt.Sprint("content ", n))
		}
		if err := s.Launch("WAYBILL_KILL_AT=" + point); err != nil {
			t.Fatal(err)
		}
		wantDeath(t, s)
		wantRuns(t, s, n)
		s.Stop()
	}
	s.Start()
	for range 4 {
		for range 25 {
			n++
			put(t, dir, fmt.Sprintf("k%03d", n), fmt.Sprint("content ", n))
		}
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		s.Kill()
		s.Start()
	}
	wantRuns(t, s, n)
	harness.Until(t, 30*time.Second, "the folder is empty", func() error {
		left, err := os.ReadDir(dir)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d files are left", len(left))
		}
		return err
	})
}

// Two servers watch one folder: each file once, also when the one that watches dies.
func TestFB06_TwoServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := serve(t, folderSettings(dir, ""), harness.Options{Store: "postgres", Args: []string{"--lease", "2s"}})
	second := first.Sibling()
	for i := range 30 {
		put(t, dir, fmt.Sprintf("a%02d", i), fmt.Sprint("a ", i))
	}
	wantRuns(t, second, 30)
	b, err := second.Client().WatchedBucket(t.Context(), "inbox")
	if err != nil {
		t.Fatal(err)
	}
	h, err := first.Client().Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	watching, other := second, first
	if b.Node == h.Node {
		watching, other = first, second
	}
	watching.Kill()
	for i := range 30 {
		put(t, dir, fmt.Sprintf("b%02d", i), fmt.Sprint("b ", i))
	}
	wantRuns(t, other, 60)
}

// Buckets of the clouds, each with a server that is killed while it takes from it.
func TestWatchedClouds(t *testing.T) {
	t.Parallel()
	type server interface {
		URL(bucket string) string
		Put(t *testing.T, key, content, attempt string)
	}
	for name, start := range map[string]func(t *testing.T) (server, string){
		"S3":     func(t *testing.T) (server, string) { return s3test.Start(t), s3test.Bucket },
		"Google": func(t *testing.T) (server, string) { return gcstest.Start(t), gcstest.Bucket },
		"Azure":  func(t *testing.T) (server, string) { return azuretest.Start(t), azuretest.Container },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cloud, bucket := start(t)
			s := serve(t, "buckets: {inbox: {url: '"+cloud.URL(bucket)+"', prefix: in/, poll: 1s, after: 'move:done/'}}\n", harness.Options{Stopped: true})
			for i := range 10 {
				cloud.Put(t, fmt.Sprintf("in/k%d", i), fmt.Sprint("content ", i), "")
				cloud.Put(t, fmt.Sprintf("out/k%d", i), "not looked at", "")
			}
			if err := s.Launch("WAYBILL_KILL_AT=watch.put:3"); err != nil {
				t.Fatal(err)
			}
			wantDeath(t, s)
			wantRuns(t, s, 10)
			cloud.Put(t, "in/k1", "another version", "")
			wantRuns(t, s, 11)
			if log := s.Log(); strings.Contains(log, azuretest.Key) || strings.Contains(log, "s3cr3t") {
				t.Error("credentials stand in the log")
			}
		})
	}
}

// What cannot be reached is told, and found when it can be.
func TestBucketThatCannotBeReached(t *testing.T) {
	t.Parallel()
	cloud := s3test.Start(t)
	cloud.Put(t, "a", "one", "")
	s := serve(t, "buckets:\n  inbox: {url: '"+cloud.URL(s3test.Bucket)+"', poll: 1s}\n  wrong: {url: '"+cloud.WrongURL()+"', poll: 1s}\n  missing: {url: '"+cloud.URL("nowhere")+"', poll: 1s}\n", harness.Options{})
	wantRuns(t, s, 1)
	cloud.Down(true)
	harness.Until(t, 30*time.Second, "it is told", func() error {
		l, err := s.Client().Buckets(t.Context())
		if err != nil {
			return err
		}
		for _, b := range l.Watched {
			if b.Status != "failing" || b.Error == "" || strings.Contains(b.Error, "s3cr3t") {
				return fmt.Errorf("%+v", b)
			}
		}
		return nil
	})
	h, err := s.Client().Health(t.Context())
	if err != nil || h.Status != client.HealthStatusOk || !strings.Contains(h.Checks["bucket wrong"], "refused") || h.Checks["store"] != "ok" {
		t.Errorf("%+v, %v", h, err)
	}
	cloud.Put(t, "b", "two", "")
	cloud.Down(false)
	wantRuns(t, s, 2)
}

// Messages of other systems' queues: the server is killed after the commit and before
// the acknowledgment, after it, and at random.
func TestMessagesWhileKilled(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) (settings string, send func(id, body string), left func() int){
		"RabbitMQ": func(t *testing.T) (string, func(string, string), func() int) {
			node := rabbittest.Start(t)
			node.Declare(t, "orders")
			return "kind: rabbitmq, url: '" + node.URL + "'",
				func(id, body string) { node.Send(t, "orders", id, []byte(body), nil) },
				func() int { return node.Left(t, "orders") }
		},
		"Azure": func(t *testing.T) (string, func(string, string), func() int) {
			server := azuretest.Start(t)
			credential, err := azqueue.NewSharedKeyCredential(azuretest.Account, azuretest.Key)
			if err != nil {
				t.Fatal(err)
			}
			q, err := azqueue.NewQueueClientWithSharedKeyCredential(server.Queues+"/orders", credential, nil)
			if err == nil {
				_, err = q.Create(t.Context(), nil)
			}
			u, perr := url.Parse(server.Queues)
			if err != nil || perr != nil {
				t.Fatal(err, perr)
			}
			u.User = url.UserPassword(azuretest.Account, azuretest.Key)
			return "kind: azure-queue, visibility: 3s, url: '" + u.String() + "'",
				func(_, body string) {
					if _, err := q.EnqueueMessage(t.Context(), body, nil); err != nil {
						t.Error(err)
					}
				},
				func() int {
					p, err := q.GetProperties(context.WithoutCancel(t.Context()), nil)
					if err != nil {
						t.Fatal(err)
					}
					return int(*p.ApproximateMessagesCount)
				}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings, send, left := start(t)
			s := serve(t, "sources: {orders: {queue: orders, "+settings+"}}\n", harness.Options{Stopped: true})
			n := 0
			more := func(count int) {
				for range count {
					n++
					id := ""
					if n%2 == 0 {
						id = fmt.Sprint("id-", n)
					}
					send(id, fmt.Sprintf(`{"n":%d}`, n))
				}
			}
			for _, point := range []string{"source.committed:1", "source.acked:1", "source.committed:2"} {
				more(40)
				if err := s.Launch("WAYBILL_KILL_AT=" + point); err != nil {
					t.Fatal(err)
				}
				wantDeath(t, s)
				wantRuns(t, s, n)
				s.Stop()
			}
			s.Start()
			for range 3 {
				more(60)
				time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
				s.Kill()
				s.Start()
			}
			wantRuns(t, s, n)
			harness.Until(t, 30*time.Second, "all are acknowledged", func() error {
				if l := left(); l > 0 {
					return fmt.Errorf("%d are left", l)
				}
				return nil
			})
			l, err := s.Client().Sources(t.Context())
			if err != nil || len(l.Items) != 1 || l.Items[0].Status != "ok" || strings.Contains(l.Items[0].URL, "@") {
				t.Errorf("%+v, %v", l, err)
			}
			dead, err := s.Client().DeadLetters(t.Context(), "event", client.ListDeadLettersParams{})
			if err != nil && !strings.Contains(err.Error(), "no queue") || len(dead.Items) > 0 {
				t.Errorf("%d dead letters, %v", len(dead.Items), err)
			}
		})
	}
}
