package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pair is a primary and a streaming standby that every commit waits for, on
// servers, folders and ports of their own.
type Pair struct {
	t       testing.TB
	bin     string
	attr    *syscall.SysProcAttr
	dir     string
	primary *member
	standby *member
}

type member struct {
	dir, port string
	cmd       *exec.Cmd
	exited    chan struct{}
	log       bytes.Buffer
}

// NewPair starts a pair, which is ended with the test. Where there is no PostgreSQL
// the test is skipped, or fails when WAYBILL_REQUIRE_ALL is 1. With sync false
// commits do not wait for the standby.
func NewPair(t testing.TB, sync bool) *Pair {
	t.Helper()
	p, err := newPair(t, sync)
	if err != nil {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatalf("no pair of PostgreSQL servers: %v", err)
		}
		t.Skipf("no pair of PostgreSQL servers: %v", err)
	}
	return p
}

func newPair(t testing.TB, sync bool) (*Pair, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	// What is on the path may be links to a few of the programs.
	if real, err := filepath.EvalSymlinks(filepath.Join(bin, "postgres")); err == nil {
		bin = filepath.Dir(real)
	}
	attr, uid, gid, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "wbpair")
	if err != nil {
		return nil, err
	}
	p := &Pair{t: t, bin: bin, attr: attr, dir: dir}
	t.Cleanup(p.stop)
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	p.primary, p.standby = &member{dir: filepath.Join(dir, "a")}, &member{dir: filepath.Join(dir, "b")}
	for _, m := range []*member{p.primary, p.standby} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		_, m.port, err = net.SplitHostPort(ln.Addr().String())
		ln.Close()
		if err != nil {
			return nil, err
		}
	}
	if err := p.run("initdb", "--no-sync", "--auth=trust", "--username=waybill", "--encoding=UTF8", "--locale=C.UTF-8", "--pgdata="+p.primary.dir); err != nil {
		return nil, err
	}
	if err := p.start(p.primary); err != nil {
		return nil, err
	}
	if err := p.run("pg_basebackup", "-h", "127.0.0.1", "-p", p.primary.port, "-U", "waybill", "-D", p.standby.dir, "-R", "-X", "stream", "-c", "fast", "--no-sync"); err != nil {
		return nil, err
	}
	if err := p.start(p.standby); err != nil {
		return nil, err
	}
	if !sync {
		return p, nil
	}
	for _, q := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		Exec(t, p.of(p.primary), q)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, p.of(p.primary))
		if err != nil {
			return nil, err
		}
		var n int
		err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").Scan(&n)
		conn.Close(ctx)
		if err != nil || n == 1 {
			return p, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *Pair) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = p.dir, p.attr
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func (p *Pair) start(m *member) error {
	m.exited = make(chan struct{})
	m.cmd = exec.Command(filepath.Join(p.bin, "postgres"), "-D", m.dir, "-k", p.dir, "-p", m.port, "-c", "listen_addresses=127.0.0.1",
		"-c", "max_connections=100", "-c", "shared_buffers=64MB", "-c", "hot_standby=on", "-c", "wal_level=replica", "-c", "log_min_messages=fatal")
	m.cmd.Dir, m.cmd.SysProcAttr, m.cmd.Stdout, m.cmd.Stderr = p.dir, p.attr, &m.log, &m.log
	started := make(chan error, 1)
	go func() {
		// The signal on the parent's death is sent when this thread ends.
		runtime.LockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			_ = m.cmd.Wait() // how it ended does not matter
			close(m.exited)
		}
	}()
	if err := <-started; err != nil {
		m.cmd = nil
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, p.of(m))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-m.exited:
			return fmt.Errorf("postgres ended at once: %s", m.log.String())
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Pair) of(m *member) string {
	return fmt.Sprintf("postgres://waybill@127.0.0.1:%s/postgres?sslmode=disable", m.port)
}

// DSN names both servers; who connects with it gets the one that takes writes.
func (p *Pair) DSN() string {
	q := url.Values{"target_session_attrs": {"read-write"}, "connect_timeout": {"2"}, "sslmode": {"disable"}}
	return fmt.Sprintf("postgres://waybill@127.0.0.1:%s,127.0.0.1:%s/postgres?%s", p.primary.port, p.standby.port, q.Encode())
}

// KillPrimary ends the primary and all its backends with SIGKILL, as a machine that
// fails does.
func (p *Pair) KillPrimary() {
	p.t.Helper()
	pid := p.primary.cmd.Process.Pid
	kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // none are known then; they notice by themselves
	_ = p.primary.cmd.Process.Kill()
	for _, k := range bytes.Fields(kids) {
		var child int
		if _, err := fmt.Sscan(string(k), &child); err == nil {
			_ = syscall.Kill(child, syscall.SIGKILL) // it may have ended
		}
	}
	<-p.primary.exited
}

// Promote makes the standby a primary of its own, and returns when it is.
func (p *Pair) Promote() {
	p.t.Helper()
	// A lone primary that waits for a standby would wait for ever.
	if err := os.WriteFile(filepath.Join(p.standby.dir, "postgresql.auto.conf"), nil, 0o600); err != nil {
		p.t.Fatal(err)
	}
	Exec(p.t, p.of(p.standby), "SELECT pg_reload_conf()")
	Exec(p.t, p.of(p.standby), "SELECT pg_promote(true, 30)")
}

func (p *Pair) stop() {
	for _, m := range []*member{p.primary, p.standby} {
		if m == nil || m.cmd == nil {
			continue
		}
		_ = m.cmd.Process.Signal(syscall.SIGQUIT) // nothing in it is worth a checkpoint
		select {
		case <-m.exited:
		case <-time.After(10 * time.Second):
			_ = m.cmd.Process.Kill()
			<-m.exited
		}
	}
	_ = os.RemoveAll(p.dir) // a leftover folder in the temp folder harms nobody
}
