package process

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/footprint"
)

// supervisor is the parent of all units of one folder.
type supervisor struct {
	o        SupervisorOptions
	log      *slog.Logger
	dir      string
	instance string
	hello    hello
	journal  *journal
	cgroups  *cgroups // nil where none can be made
	null     int      // /dev/null, the input of every unit
	spawn    chan func()

	// reap is held over a fork and over the collection of a dead child, so that a
	// child is known before its end is.
	reap sync.Mutex
	pids map[int]*unit

	mu      sync.Mutex
	units   map[string]*unit
	clients int
	running int       // units that were begun and have not ended
	begun   int       // units that were begun
	idle    time.Time // when the last client or unit went
	closing bool      // it was idle for long enough
}

// Supervise is the supervisor: the whole work of a process that [New] starts. It
// must be called early in main and its return must end the process. It returns
// nil when it was idle for long enough; an error of kind conflict when another
// supervisor serves dir; and nil after ctx has ended, with all units killed,
// which are reported lost from then on because nobody knows how they would have
// ended.
func Supervise(ctx context.Context, dir string, o SupervisorOptions) error {
	if o.IdleExit <= 0 {
		o.IdleExit = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := settleProcess(); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return waybill.E(waybill.KindConflict, "another supervisor serves this folder: %w", err).WithOp("supervise", dir)
	}
	s := &supervisor{
		o: o, log: o.Logger, dir: dir,
		pids: map[int]*unit{}, units: map[string]*unit{}, spawn: make(chan func(), 64),
		idle: time.Now(),
	}
	if err := s.begin(); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	defer s.end()
	return s.serve(ctx)
}

// settleProcess makes this process fit to be the parent of units.
func settleProcess() error {
	// A few threads and a small heap: it sits next to everything else.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetMemoryLimit(64 << 20)
	// Orphans of units become our children, so that their end is seen.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	// What Go opens is closed on exec; the rest was inherited from whoever started
	// the server, and must reach no unit and not stay open after the server.
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, e := range fds {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

func (s *supervisor) begin() error {
	var err error
	if s.instance, err = instanceOf(s.dir); err != nil {
		return err
	}
	if s.null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	boot := bootID()
	self, _ := statProc(os.Getpid())
	s.hello = hello{
		Protocol: protocol, Instance: s.instance, PID: os.Getpid(), Start: self.start, Boot: boot, Since: time.Now(), Masks: true,
	}
	var previous line
	if s.journal, previous, err = openJournal(s.dir, s.log); err != nil {
		return err
	}
	// Units without an end were running when the supervisor before us died.
	var mains []*record
	lost := 0
	for name, r := range s.journal.records {
		if r.exit == nil {
			lost++
			if r.pid != 0 && previous.Boot == boot {
				mains = append(mains, r)
			}
		}
		s.units[name] = endedUnit(name, r.exit)
	}
	swept := sweepLeftovers(s.instance, previous.Cgroup, mains)
	if lost > 0 || swept > 0 {
		s.log.Warn("an earlier supervisor died with units running", "lost", lost, "killed", swept)
	}
	head := line{Op: lineHead, At: time.Now(), PID: os.Getpid(), Start: self.start, Boot: boot}
	if !s.o.NoCgroup {
		if s.cgroups, err = newCgroups(s.instance); err != nil {
			s.log.Info("units run without control groups of their own", "reason", err)
		} else {
			head.Cgroup = s.cgroups.dir
		}
	}
	if err := s.journal.begin(head); err != nil {
		return err
	}
	go s.spawner()
	go s.reaper()
	return nil
}

// instanceOf returns the name of the folder's instance, made on first use.
func instanceOf(dir string) (string, error) {
	path := filepath.Join(dir, "instance")
	b, err := os.ReadFile(path)
	if name := strings.TrimSpace(string(b)); err == nil && len(name) == 16 {
		return name, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var id [8]byte
	rand.Read(id[:])
	name := hex.EncodeToString(id[:])
	if err := os.WriteFile(path+".new", []byte(name+"\n"), 0o600); err != nil {
		return "", err
	}
	return name, os.Rename(path+".new", path)
}

// spawner runs every fork on one thread that lives as long as the process: the
// kernel kills a unit when the thread that forked it ends.
func (s *supervisor) spawner() {
	runtime.LockOSThread()
	for fn := range s.spawn {
		fn()
	}
}

// reaper collects dead children: units, and orphans of units.
func (s *supervisor) reaper() {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	// The server's terminal is none of ours. Taken with Notify and not ignored,
	// because units would inherit that.
	noise := make(chan os.Signal, 1)
	signal.Notify(noise, unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	for {
		s.collect()
		select {
		case <-sig:
		case <-noise:
		}
	}
}

func (s *supervisor) collect() {
	s.reap.Lock()
	defer s.reap.Unlock()
	for {
		pid := deadChild()
		if pid == 0 {
			return
		}
		u := s.pids[pid]
		if u == nil {
			s.orphanEnded(pid)
			continue
		}
		if u.hand.pending() && s.handOver(u, pid) {
			continue
		}
		// Until it is collected, its pid names its group and session and nothing
		// else. Nobody signals it after reaped is set.
		u.mu.Lock()
		unix.Kill(-pid, unix.SIGKILL)
		u.status = wait(pid)
		u.reaped = true
		u.endedAt = time.Now()
		u.mu.Unlock()
		delete(s.pids, pid)
		u.mainEnded()
	}
}

// deadChild returns the pid of a child that has ended, without collecting it, or 0.
func deadChild() int {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == nil {
			return siginfoPID(&info)
		}
		if err != unix.EINTR {
			return 0
		}
	}
}

func wait(pid int) unix.WaitStatus {
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			return ws
		}
	}
}

// serve accepts clients until ctx ends or nothing needs the supervisor any more.
// restAfter is how long no unit must have begun before memory is given back.
const restAfter = 5 * time.Second

// rest gives memory back when a time of work is over; starting is one, too.
func (s *supervisor) rest(ctx context.Context) {
	tick := time.NewTicker(restAfter)
	defer tick.Stop()
	for before, rested := 0, false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		begun := s.begun
		s.mu.Unlock()
		switch {
		case begun != before:
			before, rested = begun, false
		case !rested:
			footprint.Release()
			rested = true
		}
	}
}

func (s *supervisor) serve(ctx context.Context) error {
	l, err := listen(s.dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.watchIdle(ctx, cancel)
	go s.rest(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) {
				s.log.Error("a client could not be accepted", "error", err)
				time.Sleep(50 * time.Millisecond) // until a unit has ended
				continue
			}
			return fmt.Errorf("accept a client: %w", err)
		}
		if err := samePeer(c); err != nil {
			s.log.Warn("a client was turned away", "error", err)
			c.Close()
			continue
		}
		if !s.admit() {
			c.Close()
			return nil
		}
		go func() {
			defer s.leave()
			s.session(c)
		}()
	}
}

// listen makes the socket. The lock is held, so what is there is a leftover.
func listen(dir string) (*net.UnixListener, error) {
	os.Remove(filepath.Join(dir, socketName))
	var l *net.UnixListener
	err := socketPath(dir, func(path string) error {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its path may be one that is gone by then
	if err := os.Chmod(filepath.Join(dir, socketName), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// admit counts a client in, unless the supervisor has decided to go.
func (s *supervisor) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.clients++
	}
	return !s.closing
}

func (s *supervisor) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients--
	s.idle = time.Now()
}

// watchIdle ends the supervisor when nothing needs it. A client that connects at
// that very moment is cut off before it is served, and starts the next supervisor.
func (s *supervisor) watchIdle(ctx context.Context, end func()) {
	tick := time.NewTicker(max(s.o.IdleExit/4, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		s.closing = s.clients == 0 && s.running == 0 && time.Since(s.idle) >= s.o.IdleExit
		done := s.closing
		s.mu.Unlock()
		if done {
			end()
			return
		}
	}
}

// end leaves nothing behind but the journal. The process ends after it.
func (s *supervisor) end() {
	s.reap.Lock() // for good: nothing is started or reported any more
	for pid, u := range s.pids {
		if u.leaf != nil {
			killCgroup(u.leaf.dir)
		}
		unix.Kill(-pid, unix.SIGKILL)
	}
	s.journal.mu.Lock() // for good, too
	if s.cgroups != nil {
		s.cgroups.close()
	}
	os.Remove(filepath.Join(s.dir, socketName))
}

// session serves one client.
func (s *supervisor) session(c *net.UnixConn) {
	defer c.Close()
	w := newFrameWriter(c)
	defer w.close()
	go w.run()
	if err := w.send(s.hello); err != nil {
		return
	}
	defer s.forgetAll(w)
	r := newFrameReader(c)
	for {
		var q request
		if err := r.read(&q); err != nil {
			return
		}
		s.handle(w, q)
	}
}

// handle does what a request asks. Only what may take long leaves this goroutine.
func (s *supervisor) handle(w *frameWriter, q request) {
	reply := func(res response) {
		res.ID = q.ID
		w.send(res)
	}
	if u := s.starting(q.Unit); u != nil && q.Op != opStart {
		go func() {
			<-u.ready
			s.handle(w, q)
		}()
		return
	}
	switch q.Op {
	case opStart:
		go func() { reply(s.start(q.Spec)) }()
	case opState:
		if u := s.find(q.Unit); u == nil || u.lost() {
			reply(lostResponse(q.Unit))
			return
		}
		reply(response{})
	case opWait:
		u := s.find(q.Unit)
		if u == nil {
			reply(lostResponse(q.Unit))
			return
		}
		if res, ended := u.result(w, q.ID); ended {
			reply(res)
		}
	case opForget:
		if u := s.find(q.Unit); u != nil {
			u.forget(w, q.Of)
		}
	case opStop:
		if u := s.find(q.Unit); u != nil {
			u.stop(q.Grace)
		}
		reply(response{})
	case opRemove:
		go func() { reply(s.remove(q.Unit)) }()
	case opList:
		s.mu.Lock()
		names := make([]string, 0, len(s.units))
		for name := range s.units {
			names = append(names, name)
		}
		s.mu.Unlock()
		reply(response{Units: names})
	default:
		reply(response{Kind: waybill.KindUnsupported, Msg: "the supervisor does not know the operation " + strconv.Quote(q.Op)})
	}
}

func lostResponse(unit string) response {
	return response{Kind: waybill.KindLost, Msg: "unit " + unit + " is unknown here or its end was not seen"}
}

// starting returns the unit of a name while it is not decided whether it runs.
// That may take long where a disk does not answer.
func (s *supervisor) starting(name string) *unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[name]
	if u == nil {
		return nil
	}
	select {
	case <-u.ready:
		return nil
	default:
		return u
	}
}

// find returns the unit of a name once it is decided whether it runs.
func (s *supervisor) find(name string) *unit {
	s.mu.Lock()
	u := s.units[name]
	s.mu.Unlock()
	if u != nil {
		<-u.ready
		if u.void {
			return nil
		}
	}
	return u
}

// forgetAll drops all waits of a client.
func (s *supervisor) forgetAll(w *frameWriter) {
	s.mu.Lock()
	units := make([]*unit, 0, s.running)
	for _, u := range s.units {
		units = append(units, u)
	}
	s.mu.Unlock()
	for _, u := range units {
		u.forget(w, 0)
	}
}

func (s *supervisor) remove(name string) response {
	u := s.find(name)
	if u == nil {
		return response{}
	}
	u.kill("")
	<-u.done
	s.mu.Lock()
	if s.units[name] != u {
		s.mu.Unlock()
		return response{}
	}
	delete(s.units, name)
	s.mu.Unlock()
	if err := s.journal.add(line{Op: lineRemove, Unit: name}); err != nil {
		s.log.Error("a removal is not in the journal yet", "unit", name, "error", err)
	}
	return response{}
}
