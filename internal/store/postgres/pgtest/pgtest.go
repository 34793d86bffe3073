// Package pgtest gives tests a PostgreSQL schema of their own, which is all that a
// store needs: in the database named by WAYBILL_TEST_POSTGRES, or on a private
// server that is started once for the test process and stopped at its end.
// (Databases of their own would cost each test a checkpoint.)
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The server belongs to the process, as does TestMain.
var (
	mu      sync.Mutex
	running *server
	failed  error
	names   atomic.Int64
)

// Main runs the tests of a package and then stops the server, if one was
// started. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// Stop stops the server, if one was started. It is for packages whose TestMain does
// more than Main.
func Stop() {
	mu.Lock()
	defer mu.Unlock()
	if running != nil {
		running.stop()
		running = nil
	}
}

// DSN returns the URL of a new, empty schema, which is dropped when the test
// ends. Connections made with it bear the schema as their application_name. The
// test is skipped where there is no PostgreSQL, and fails instead when
// WAYBILL_REQUIRE_ALL is 1.
func DSN(t testing.TB) string {
	t.Helper()
	admin, err := adminDSN()
	if err != nil {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatalf("no PostgreSQL: %v", err)
		}
		t.Skipf("no PostgreSQL: %v", err)
	}
	name := fmt.Sprintf("waybill_%d_%d", os.Getpid(), names.Add(1))
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		t.Fatal("WAYBILL_TEST_POSTGRES is not a URL")
	}
	Exec(t, admin, "CREATE SCHEMA "+name)
	t.Cleanup(func() { Exec(t, admin, "DROP SCHEMA "+name+" CASCADE") })
	q := u.Query()
	q.Set("search_path", name)
	q.Set("application_name", name)
	u.RawQuery = q.Encode()
	return u.String()
}

// Exec runs one statement on a connection of its own.
func Exec(t testing.TB, dsn, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func adminDSN() (string, error) {
	if dsn := os.Getenv("WAYBILL_TEST_POSTGRES"); dsn != "" {
		return dsn, nil
	}
	mu.Lock()
	defer mu.Unlock()
	if running == nil && failed == nil {
		running, failed = start()
	}
	if failed != nil {
		return "", failed
	}
	return running.dsn, nil
}

type server struct {
	dir, dsn string
	cmd      *exec.Cmd
	exited   chan struct{}
}

// binaries finds the folder of initdb and postgres.
func binaries() (string, error) {
	var dirs []string
	if p, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	for _, d := range append(dirs, found...) {
		if _, err := os.Stat(filepath.Join(d, "postgres")); err == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("initdb and postgres are not installed and WAYBILL_TEST_POSTGRES is not set")
}

func version(dir string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	if err != nil {
		return 0
	}
	return n
}

func start() (_ *server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	attr, uid, gid, err := unprivileged()
	if err != nil {
		return nil, err
	}
	// A short name: the path of a Unix socket has at most 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "wbpg")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, exited: make(chan struct{})}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	// A locale that does not sort by bytes shows what relies on the default.
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--no-sync", "--auth=trust", "--username=waybill",
		"--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--pgdata="+data)
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	var log bytes.Buffer
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "shared_buffers=128MB", "-c", "max_wal_size=2GB", "-c", "log_min_messages=fatal")
	s.cmd.Dir, s.cmd.SysProcAttr, s.cmd.Stdout, s.cmd.Stderr = dir, attr, &log, &log
	started := make(chan error, 1)
	go func() {
		// The signal on the parent's death is sent when this thread ends.
		runtime.LockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // how it ended is told by the tests that use it
			close(s.exited)
		}
	}()
	if err := <-started; err != nil {
		s.cmd = nil
		return nil, err
	}
	s.dsn = "postgres://waybill@/postgres?host=" + url.QueryEscape(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.dsn)
		if err == nil {
			return s, conn.Close(ctx)
		}
		select {
		case <-s.exited:
			return nil, fmt.Errorf("postgres ended at once: %s", log.Bytes())
		case <-ctx.Done():
			return nil, fmt.Errorf("postgres does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // nothing in it is worth a checkpoint
		select {
		case <-s.exited:
		case <-time.After(10 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.exited
		}
	}
	_ = os.RemoveAll(s.dir) // a leftover folder in the temp folder harms nobody
}
