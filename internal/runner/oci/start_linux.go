package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Start implements [runner.Runner].
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h, err := r.start(ctx, s)
	return h, failed("start", s.Unit, err)
}

func (r *Runner) start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	none := runner.Handle{Runner: Name, Unit: s.Unit}
	if !unitName.MatchString(s.Unit) {
		return none, waybill.E(waybill.KindInvalid, "%q is no name of a unit", s.Unit)
	}
	if s.Dir == "" || s.Log == "" {
		return none, waybill.E(waybill.KindInvalid, "a home and a log are needed")
	}
	var set container.Settings
	err := runner.Decode(s.With, &set)
	if err == nil {
		err = set.Check(false)
	}
	if err == nil {
		err = checkArgs(s.Args, &set)
	}
	for _, v := range s.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.ContainsRune(v, 0) {
			err = waybill.E(waybill.KindInvalid, "%q in the environment is not NAME=value", name)
		}
	}
	if err != nil {
		return none, err
	}
	if s.Dir, err = filepath.Abs(s.Dir); err == nil {
		s.Log, err = filepath.Abs(s.Log)
	}
	if err != nil {
		return none, err
	}
	st, err := r.open()
	if err != nil {
		return none, err
	}
	done, err := r.take(ctx, s.Unit)
	if err != nil {
		return none, err
	}
	defer done()
	rec, err := r.load(s.Unit)
	if err != nil {
		return none, fmt.Errorf("the record of the unit: %w", err)
	}
	if rec != nil {
		known, err := r.known(ctx, rec)
		if err != nil {
			return none, err
		}
		if known {
			return r.handle(rec), nil
		}
		// A server was killed before it had begun: what it made is made anew.
		if err := r.scrap(ctx, st, rec); err != nil {
			return none, err
		}
	}
	if err := r.possible(st, &set); err != nil {
		return none, err
	}
	rt, err := st.chooser.get(ctx)
	if err != nil {
		return none, err
	}
	img, err := st.images.Get(ctx, image.Request{Image: set.Image, Pull: set.PullPolicy(), Secret: set.PullSecret, Platform: set.Platform})
	if err != nil {
		return none, err
	}
	rec = &record{
		Unit: s.Unit, Image: img.Name, Layers: img.Layers, Dir: s.Dir, Network: r.network(&set), At: time.Now().UTC(),
		ID: "waybill-" + st.instance[:8] + "-" + s.Unit, Labels: container.Labels(s.Unit, s.Meta),
	}
	if !r.rootless {
		rec.Cgroup = "/waybill-" + st.instance[:8] + "/" + s.Unit
	}
	rec.Labels[container.LabelInstance] = st.instance
	if v := s.Meta["instance"]; v != "" {
		rec.Labels[container.LabelInstance] = v
	}
	if err := r.enter(st, rec, img.Release); err != nil {
		return none, err
	}
	if err := r.launch(ctx, st, rt, rec, &set, img, s); err != nil {
		if rec.Begun {
			return none, err // what became of it is found out by the next start
		}
		if serr := r.scrap(context.WithoutCancel(ctx), st, rec); serr != nil {
			r.log.Warn("what was made for a unit that cannot be started could not be removed", "unit", s.Unit, "error", serr)
		}
		return none, err
	}
	return r.handle(rec), nil
}

// known reports whether a unit was started, whatever became of it.
func (r *Runner) known(ctx context.Context, rec *record) (bool, error) {
	if rec.Exit != nil {
		return true, nil
	}
	if !rec.Begun {
		return false, nil
	}
	err := r.o.Inner.Recover(ctx, inner(rec.Unit), runner.Spec{})
	if err == nil {
		return true, nil
	}
	if !waybill.IsKind(err, waybill.KindLost) {
		return false, err
	}
	// Lost is both: unknown, and known to have had an end that nobody saw.
	units, err := r.o.Inner.List(ctx)
	if err != nil {
		return false, err
	}
	for _, u := range units {
		if u.Unit == rec.Unit {
			return true, nil
		}
	}
	return false, nil
}

// network is the one that a unit is given.
func (r *Runner) network(set *container.Settings) string {
	switch {
	case set.Network != "":
		return set.Network
	case r.rootless:
		return container.NetworkHost
	}
	return container.NetworkBridge
}

// possible says what of the settings this machine cannot do.
func (r *Runner) possible(st *state, set *container.Settings) error {
	for _, l := range []struct {
		controller, setting string
		asked               bool
	}{{"memory", "memory", set.Memory > 0}, {"cpu", "cpu", set.CPU > 0}, {"pids", "pids", set.Pids > 0}} {
		if l.asked {
			if err := st.limits.need(l.controller, l.setting); err != nil {
				return err
			}
		}
	}
	if !r.rootless {
		return nil
	}
	if set.Network == container.NetworkBridge {
		return waybill.E(waybill.KindInvalid, "network: a bridge can only be made by root, and this server runs as user %d", os.Geteuid()).
			WithHint("set network: host or network: none, or run the server as root")
	}
	if len(set.CapAdd) > 0 {
		r.log.Debug("capabilities of a unit hold in its user namespace only")
	}
	return nil
}

// enter makes the unit's folder with its record, which is how the next server knows that
// there may be something to remove.
func (r *Runner) enter(st *state, rec *record, release func()) error {
	err := os.Mkdir(r.unitDir(rec.Unit), 0o700)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err == nil {
		err = r.save(rec)
	}
	if err != nil {
		release()
		return fmt.Errorf("record the unit: %w", err)
	}
	if old, had := st.pins.Swap(rec.Unit, release); had {
		old.(func())()
	}
	return nil
}
