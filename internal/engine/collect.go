package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// collect judges an ended unit: its exit, its callback and what it returned.
func (u *unit) collect(ctx context.Context, exit runner.Exit, stopped *outcome) (*store.Commit, error) {
	now := u.e.now()
	u.records = append(u.records, record{"attempt.collecting", map[string]any{"attempt": u.key(), "exit_code": exit.Code}, now})
	u.a.LogBytes, u.a.Truncated = exit.LogBytes, exit.Truncated
	// A container's log may be had again before it is removed; see archive.
	if _, ok := u.run.(runner.Contained); !ok && exit.LogFault != "" {
		u.a.LogsLost = exit.LogFault
		u.records = append(u.records, record{"attempt.logs_lost", map[string]any{"attempt": u.key(), "reason": exit.LogFault}, now})
	}
	if exit.Reason != runner.ReasonStartFailed {
		code := exit.Code
		u.a.ExitCode, u.a.Signal = &code, exit.Signal
		if !exit.StartedAt.IsZero() {
			u.a.StartedAt = exit.StartedAt.UTC()
		}
	}
	if stopped != nil && stopped.status != waybill.StatusSucceeded {
		if err := u.salvage(ctx); err != nil {
			return nil, err
		}
		return u.end(ctx, *stopped)
	}
	cb := u.a.Callback
	if cb == nil && exit.OK() && u.step.Callback == pipeline.CallbackRequired {
		var err error
		if cb, err = u.awaitCallback(ctx); err != nil {
			return nil, err
		}
		if cb == nil && u.a.Stop != "" {
			return u.end(ctx, u.asked())
		}
		if cb == nil {
			return u.end(ctx, outcome{waybill.StatusFailed, "no_callback", "ended without the callback it owes"})
		}
	}
	o := outcome{status: waybill.StatusSucceeded}
	switch {
	case cb != nil && cb.Status != waybill.StatusSucceeded:
		o = outcome{waybill.StatusFailed, "callback", orElse(cb.Error, cb.Message, "the unit reported a failure")}
	case cb != nil && !exit.OK() && stopped == nil && u.step.StrictExit:
		o = outcome{waybill.StatusFailed, orElse(exit.Reason, "exit"), "reported success and then ended with " + describe(exit)}
	case cb != nil && !exit.OK() && stopped == nil:
		u.records = append(u.records, record{"attempt.warning", map[string]any{
			"attempt": u.key(), "warning": "reported success and then ended with " + describe(exit),
		}, now})
	case cb == nil && !exit.OK():
		o = outcome{waybill.StatusFailed, orElse(exit.Reason, "exit"), describe(exit)}
		if exit.Reason == runner.ReasonHardStop {
			o.status = waybill.StatusTimedOut
		}
	}
	if o.status == waybill.StatusSucceeded {
		if err := u.returned(ctx, cb); err != nil {
			if ctx.Err() != nil || waybill.IsKind(err, waybill.KindUnavailable) {
				return nil, err
			}
			o = outcome{waybill.StatusFailed, "bad_output", err.Error()}
		}
	}
	if o.status != waybill.StatusSucceeded {
		if err := u.salvage(ctx); err != nil {
			return nil, err
		}
	}
	return u.end(ctx, o)
}

// salvage keeps the files of a unit that did not succeed, as far as they are there: what
// it wrote before is often what tells why. They are shown with the attempt, and are no
// results of the step.
func (u *unit) salvage(ctx context.Context) error {
	vars := u.a.Returned.Clone()
	masked, err := u.files(ctx, &vars, false)
	if err != nil {
		return err
	}
	if len(masked) > 0 {
		u.records = append(u.records, maskedRecord(u.a, masked, u.e.now()))
	}
	u.a.Returned = vars
	return nil
}

// lost judges an attempt whose unit's end nobody will know. What the unit had
// reported counts, if it is all that the step returns.
func (u *unit) lost(ctx context.Context, o outcome) (*store.Commit, error) {
	cb := u.a.Callback
	if cb == nil {
		return u.end(ctx, o)
	}
	if cb.Status != waybill.StatusSucceeded {
		return u.end(ctx, outcome{waybill.StatusFailed, "callback", orElse(cb.Error, cb.Message, "the unit reported a failure")})
	}
	if err := u.returned(ctx, cb); err != nil {
		if ctx.Err() != nil || waybill.IsKind(err, waybill.KindUnavailable) {
			return nil, err
		}
		return u.end(ctx, o)
	}
	u.records = append(u.records, record{"attempt.warning", map[string]any{
		"attempt": u.key(), "warning": "reported success and then was lost: " + o.err,
	}, u.e.now()})
	return u.end(ctx, outcome{status: waybill.StatusSucceeded})
}

// awaitCallback waits a while for a callback that is owed: it may be on its way,
// held up by the unit's own retries while no server was there.
func (u *unit) awaitCallback(ctx context.Context) (*waybill.Callback, error) {
	if len(u.records) > 0 { // make the attempt visible as it stands
		if err := u.change(ctx, func(a *waybill.Attempt) { a.Phase = waybill.PhaseCollecting }); err != nil {
			return nil, err
		}
	}
	limit := time.NewTimer(u.e.o.CallGrace)
	defer limit.Stop()
	for {
		if u.a.Callback != nil || u.a.Stop != "" {
			return u.a.Callback, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-u.changed:
		case <-limit.C:
			return nil, nil
		}
		if err := u.reload(ctx); err != nil {
			return nil, err
		}
		if u.a.Phase == waybill.PhaseTerminal {
			return nil, errNotOurs
		}
	}
}

// returned gathers what the unit returned: variables set while it ran, then its
// output file, then its callback, then declared files. A later value wins.
func (u *unit) returned(ctx context.Context, cb *waybill.Callback) error {
	vars := u.a.Returned.Clone()
	files := u.e.homeOf(u.run, u.a.Unit)
	switch f, err := openPlain(filepath.Dir(files.output), filepath.Base(files.output)); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		got, err := pipeline.ParseOutputs(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("the output file: %w", err)
		}
		vars.Merge(got)
	}
	if cb != nil {
		vars.Merge(cb.Variables)
	}
	masked := []string{}
	if vars.Len() > 0 {
		var err error
		if masked, err = maskVars(u.masks(ctx), &vars); err != nil {
			return err
		}
	}
	hidden, err := u.files(ctx, &vars, true)
	masked = append(masked, hidden...)
	if err != nil {
		return err
	}
	if len(masked) > 0 {
		u.records = append(u.records, maskedRecord(u.a, masked, u.e.now()))
	}
	if err := u.e.externalize(ctx, &vars); err != nil {
		return err
	}
	if _, _, err := u.step.BindOutputs(vars, u.plan.Prefix); err != nil {
		return err
	}
	if err := u.puts(ctx, vars); err != nil {
		return err
	}
	u.a.Returned = vars
	return nil
}

// files stores the files that the step declares as outputs, and returns the names of
// those in which secrets were masked. Without all, those that are there are stored and
// what is wrong with others is let pass.
func (u *unit) files(ctx context.Context, vars *waybill.Vars, all bool) (masked []string, err error) {
	for _, o := range u.step.Outputs {
		if o.File == "" {
			continue
		}
		ref, masks, err := u.file(ctx, o.File)
		if masks > 0 {
			masked = append(masked, o.Name)
		}
		switch {
		case err == nil:
			vars.Set(o.Name, waybill.FileValue(ref))
		case ctx.Err() != nil || waybill.IsKind(err, waybill.KindUnavailable):
			return masked, err
		case !all, errors.Is(err, os.ErrNotExist) && o.Optional:
		case errors.Is(err, os.ErrNotExist):
			return masked, waybill.E(waybill.KindInvalid, "output %s: there is no file %s", o.Name, o.File)
		default:
			return masked, fmt.Errorf("output %s: %w", o.Name, err)
		}
	}
	return masked, nil
}

// open opens a file that the unit wrote: below its working directory, or anywhere in the
// file system of a container.
func (u *unit) open(ctx context.Context, name string) (io.ReadCloser, error) {
	h := u.e.homeOf(u.run, u.a.Unit)
	c, ok := u.run.(runner.Contained)
	if !ok || !path.IsAbs(name) {
		return openPlain(h.work, name)
	}
	if rest, ok := strings.CutPrefix(path.Clean(name), h.inside+"/"); ok {
		return openPlain(h.dir, rest)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(c.CopyOut(ctx, u.h, path.Clean(name), w)) }()
	return r, nil
}

// file stores a file that the unit wrote, with the secrets of its step masked, and
// returns how often that was needed.
func (u *unit) file(ctx context.Context, name string) (waybill.FileRef, int, error) {
	f, err := u.open(ctx, name)
	if err != nil {
		return waybill.FileRef{}, 0, err
	}
	defer f.Close()
	var from io.Reader = f
	var masks func() int
	if len(u.step.Secrets()) > 0 {
		r := u.masks(ctx).Reader(f)
		from, masks = r, r.Masks
	}
	ref, err := u.e.o.Blobs.Put(ctx, from, 0)
	n := 0
	if masks != nil {
		n = masks()
	}
	return waybill.FileRef{SHA256: ref.SHA256, Size: ref.Size, Name: filepath.Base(name)}, n, err
}

// externalize stores values that are too large to keep in a run as content.
func (e *Engine) externalize(ctx context.Context, vars *waybill.Vars) error {
	for _, n := range vars.Names() {
		v, _ := vars.Get(n)
		if len(v) <= waybill.MaxInline {
			continue
		}
		isText := len(v) > 0 && v[0] == '"'
		data, name := []byte(v), n+".json"
		if isText {
			data, name = []byte(v.Text()), n
		}
		ref, err := e.o.Blobs.Put(ctx, bytes.NewReader(data), 0)
		if err != nil {
			return err
		}
		vars.Set(n, waybill.FileValue(waybill.FileRef{SHA256: ref.SHA256, Size: ref.Size, Name: name, Text: isText}))
	}
	return nil
}

// end returns the commit that ends the attempt. It is made by the queue's worker
// together with the end of the message.
func (u *unit) end(ctx context.Context, o outcome) (*store.Commit, error) {
	u.hide(ctx)
	if o.err != "" {
		o.err = u.masks(ctx).String(o.err)
	}
	if o.status == waybill.StatusFailed || o.status == waybill.StatusTimedOut || o.status == waybill.StatusLost {
		if path, err := u.e.o.Blobs.LogFile(u.a.Run, u.a.Unit); err == nil {
			u.a.LogTail = tail(path, 2000)
		}
	}
	keep := time.Duration(0)
	if o.status == waybill.StatusFailed || o.status == waybill.StatusTimedOut {
		keep = u.step.KeepFailed
	}
	c, err := u.e.endCommit(u.a, u.rev, o, u.records, keep)
	if err == nil {
		c.Events = append(c.Events, u.audit...)
	}
	return c, err
}

// endCommit closes an attempt. What is left of its unit is kept for a while before it is
// cleaned up.
func (e *Engine) endCommit(a *waybill.Attempt, rev int64, o outcome, records []record, keep time.Duration) (*store.Commit, error) {
	now := e.now()
	x := *a
	x.Phase, x.Status, x.Reason, x.Error, x.FinishedAt = waybill.PhaseTerminal, o.status, o.reason, o.err, now
	key := x.Key()
	p, err := put(tableAttempt, key, rev, x)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(runMsg{Kind: "ended", Attempt: key})
	if err != nil {
		return nil, err
	}
	data := map[string]any{"attempt": key, "step": x.Step, "status": o.status}
	if o.err != "" {
		data["error"], data["reason"] = o.err, o.reason
	}
	if x.ExitCode != nil {
		data["exit_code"] = *x.ExitCode
	}
	records = append(records[:len(records):len(records)], record{"attempt.ended", data, now})
	c := &store.Commit{
		Tenant: x.Tenant, Puts: []store.Put{p}, Events: events(x.Run, records),
		Sends: []store.Send{{Topic: queue.TopicRun, Key: x.Run, Body: body}},
	}
	if x.Cleanup == waybill.CleanupPending {
		body, err := json.Marshal(cleanupMsg{Attempt: key, Unit: x.Unit, Runner: x.Runner, Node: x.Node, Handle: x.Handle})
		if err != nil {
			return nil, err
		}
		c.Sends = append(c.Sends, store.Send{Topic: queue.TopicCleanup, Key: key, Body: body, Delay: keep})
	}
	return c, nil
}

// describe says in words how a unit ended.
func describe(x runner.Exit) string {
	switch {
	case x.Message != "":
		return x.Message
	case x.Reason == runner.ReasonOOM:
		return "killed for using too much memory"
	case x.Reason == runner.ReasonHardStop:
		return "killed at its hard limit"
	case x.Signal != "":
		return "ended by " + x.Signal
	}
	return fmt.Sprintf("exit code %d", x.Code)
}

func orElse(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// tail returns the last lines of a file as valid text, at most n bytes.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	from := max(size-n, 0)
	b := make([]byte, size-from)
	if _, err := f.ReadAt(b, from); err != nil && err != io.EOF {
		return ""
	}
	if from > 0 {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\uFFFD"))
	}
	return strings.TrimRight(string(b), "\n")
}

// localCopy puts stored content into a folder and returns its path.
func (e *Engine) localCopy(ctx context.Context, dir string, f waybill.FileRef) (string, error) {
	in := filepath.Join(dir, f.SHA256[:min(len(f.SHA256), 12)])
	path := filepath.Join(in, base(f.Name))
	if st, err := os.Stat(path); err == nil && st.Size() == f.Size {
		return path, nil
	}
	if err := os.MkdirAll(in, 0o755); err != nil {
		return "", diskError("copy an object", err)
	}
	src, err := e.o.Blobs.Open(ctx, f.SHA256)
	if err != nil {
		return "", fmt.Errorf("copy of %s: %w", f.Name, err)
	}
	defer src.Close()
	tmp := path + ".part"
	dst, err := os.Create(tmp)
	if err != nil {
		return "", diskError("copy an object", err)
	}
	_, err = io.Copy(dst, src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return "", diskError("copy an object", err)
	}
	return path, nil
}

// base is a name that is safe as the last part of a path.
func base(name string) string {
	name = filepath.Base(name)
	if name == "." || name == "/" || name == ".." || name == "" {
		return "object"
	}
	return name
}

// program finds a relative program path in the project folder.
func (e *Engine) program(arg string) string {
	if e.o.Project == "" || filepath.IsAbs(arg) || !strings.Contains(arg, "/") {
		return arg
	}
	return filepath.Join(e.o.Project, arg)
}

// diskError tells a full disk, which passes, from other faults of files.
func diskError(op string, err error) error {
	kind := waybill.KindInternal
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) {
		kind = waybill.KindUnavailable
	}
	x := waybill.E(kind, "%w", err)
	x.Op = op
	return x
}
