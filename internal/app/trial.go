package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/runner"
)

// trials are the runners of platforms elsewhere, which can be tried out before a server
// uses them.
var trials = map[string]func(raw json.RawMessage, instance, project string, log *slog.Logger) (runner.Runner, error){
	"kubernetes": openKubernetes, "aci": openACI,
}

// trialLimit bounds a trial: pulling an image may take minutes.
const trialLimit = 15 * time.Minute

// tryRunner starts some short units on the platform that a project names, and compares
// what comes back with what the contract of runners promises. Everything that it makes is
// removed.
func tryRunner(ctx context.Context, name, dir, image string) ([]waybill.Finding, error) {
	open := trials[name]
	if open == nil {
		return nil, waybill.E(waybill.KindInvalid, "--runner: kubernetes and aci can be tried, found %q", name)
	}
	if dir == "" {
		return nil, waybill.E(waybill.KindInvalid, "--runner needs --project: the folder whose waybill.yaml names the platform in runners: %s", name)
	}
	set, err := project.ReadSettings(os.DirFS(dir), os.LookupEnv)
	if err != nil {
		return nil, err
	}
	raw, ok := set.Runners[name]
	if !ok {
		return nil, waybill.E(waybill.KindInvalid, "waybill.yaml of %s has no runners: %s", dir, name)
	}
	// An instance of its own, so that it meets nothing of a server.
	instance := waybill.NewID(time.Now())
	opened, err := open(raw, instance, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	r, ok := opened.(runner.Contained)
	if !ok {
		return nil, waybill.E(waybill.KindInternal, "%s is no runner of containers", name)
	}
	t := &trial{name: name, image: image, id: strings.ToLower(strings.ReplaceAll(instance, "-", "")), r: r}
	if x, ok := opened.(interface {
		Examine(context.Context) []waybill.Finding
	}); ok {
		t.found = x.Examine(ctx)
		for _, f := range t.found {
			if f.Status == waybill.FindingFail {
				return t.found, nil
			}
		}
	}
	if t.dir, err = os.MkdirTemp("", "waybill-trial-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(t.dir)
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	t.run(ctx)
	t.tidy()
	return t.found, nil
}

// trial is one try of a runner.
type trial struct {
	name, image, id, dir string
	r                    runner.Contained
	n                    int
	found                []waybill.Finding
}

func (t *trial) check(what string, err error, ok string) bool {
	f := waybill.Finding{Check: t.name + "." + what, Status: waybill.FindingOK, Detail: ok}
	if err != nil {
		f.Status, f.Detail = waybill.FindingFail, err.Error()
		if w := (*waybill.Error)(nil); errors.As(err, &w) {
			f.Hint = w.Hint
		}
	}
	t.found = append(t.found, f)
	return err == nil
}

// spec is a unit that runs a shell script.
func (t *trial) spec(script string, env ...string) (runner.Spec, error) {
	t.n++
	unit := fmt.Sprintf("trial-%s-%d", t.id[:min(20, len(t.id))], t.n)
	dir := filepath.Join(t.dir, unit)
	for _, d := range []string{"work", "out", "in"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			return runner.Spec{}, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "event.json"), []byte(`{"id":"trial"}`), 0o644); err != nil {
		return runner.Spec{}, err
	}
	with, err := json.Marshal(map[string]string{"image": t.image})
	home := t.r.Home()
	return runner.Spec{
		Unit: unit, Args: []string{"/bin/sh", "-c", script}, Dir: dir, Log: filepath.Join(t.dir, unit+".log"), With: with,
		Env:  append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "WAYBILL_EVENT=" + home + "/event.json", "WAYBILL_OUTPUT=" + home + "/out/variables"}, env...),
		Meta: map[string]string{"run": "trial", "step": "trial", "attempt": "1"}, HardStop: time.Now().Add(trialLimit),
	}, err
}

// run goes through the life of some units.
func (t *trial) run(ctx context.Context) {
	const secret = "trial-s3cret-value"
	s, err := t.spec(`echo "one $SECRET"; cat "$WAYBILL_EVENT"; echo; echo "dollar \$(X)"; echo rows=7 > "$WAYBILL_OUTPUT"; exit 3`, "SECRET="+secret)
	if err != nil {
		t.check("trial", err, "")
		return
	}
	s.Mask = [][]byte{[]byte(secret)}
	began := time.Now()
	h, err := t.r.Start(ctx, s)
	if !t.check("start", err, fmt.Sprintf("a unit of %s began in %s", t.image, time.Since(began).Round(time.Second))) {
		return
	}
	again, err := t.r.Start(ctx, s)
	if err == nil && !bytes.Equal(again.Data, h.Data) {
		err = errors.New("a second start of the same unit gave another handle")
	}
	t.check("start.again", err, "starting it again starts nothing")
	e, err := t.r.Wait(ctx, h)
	if err == nil && (e.Code != 3 || e.Reason != "") {
		err = fmt.Errorf("the unit ended with %+v, want code 3", e)
	}
	t.check("exit", err, "its exit code came back")
	log, err := os.ReadFile(s.Log)
	if want := "one ***\n{\"id\":\"trial\"}\ndollar $(X)\n"; err == nil && string(log) != want {
		err = fmt.Errorf("the log is %q, want %q", log, want)
	}
	t.check("log", err, "its log is complete, its secret masked, its event was there")
	out, err := os.ReadFile(filepath.Join(s.Dir, "out", "variables"))
	switch {
	case err == nil && string(out) == "rows=7\n":
		t.check("outputs", nil, "the file of variables came back")
	case errors.Is(err, os.ErrNotExist) && t.name == "aci":
		t.check("outputs", nil, "this platform brings no file of variables back: units use the callback")
	default:
		t.check("outputs", fmt.Errorf("the file of variables holds %q: %w", out, orUnknown(err)), "")
	}
	t.check("recover", t.r.Recover(ctx, h, runner.Spec{Unit: s.Unit}), "it is found again by its name")
	t.check("remove", t.r.Remove(ctx, h), "it was removed")
	if err := t.r.Recover(ctx, h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.check("removed", fmt.Errorf("after its removal the unit is still known: %w", orUnknown(err)), "")
	}
	t.stop(ctx)
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// stop ends a unit that would run on.
func (t *trial) stop(ctx context.Context) {
	s, err := t.spec(`trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 1; done`)
	if err != nil {
		t.check("trial", err, "")
		return
	}
	h, err := t.r.Start(ctx, s)
	if !t.check("stop.start", err, "a unit began that does not end") {
		return
	}
	for {
		if b, err := os.ReadFile(s.Log); err == nil && strings.Contains(string(b), "ready") {
			break
		}
		select {
		case <-ctx.Done():
			t.check("log.prompt", errors.New("its log did not come while it ran"), "")
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.check("log.prompt", nil, "its log came while it ran")
	began := time.Now()
	err = t.r.Stop(ctx, h, 20*time.Second)
	var e runner.Exit
	if err == nil {
		if e, err = t.r.Wait(ctx, h); err == nil && e.Code != 7 {
			err = fmt.Errorf("it ended with %+v, want the code 7 of its answer to SIGTERM", e)
		}
	}
	t.check("stop", err, fmt.Sprintf("it was asked to stop and did, in %s", time.Since(began).Round(time.Second)))
	t.check("stop.remove", t.r.Remove(ctx, h), "it was removed")
}

// tidy removes what is left, also of a trial that was cut short.
func (t *trial) tidy() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	left, err := t.r.List(ctx)
	for _, h := range left {
		err = errors.Join(err, t.r.Remove(ctx, h))
	}
	t.check("tidy", err, "nothing of the trial is left")
}
