package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/doctor"
	"github.com/waybill-run/waybill/internal/store"
)

// sampled is how many objects a look that is not deep compares with their checksums.
const sampled = 50

// Doctor implements waybill.Operations.
func (o *operations) Doctor(ctx context.Context, deep bool) ([]waybill.Finding, error) {
	s := o.s
	e := examination{ctx: ctx, deep: deep, data: s.data.path, store: o.store, blobs: s.blobs, log: s.log}
	e.machine(s.begun)
	e.content()
	e.secrets(func() error { return s.kept.Check(ctx) })
	e.project(s.c.Project)
	s.polling.examine(&e)
	for _, p := range platforms {
		if x, ok := s.runners[p.name].(interface {
			Examine(context.Context) []waybill.Finding
		}); ok {
			e.found = append(e.found, x.Examine(ctx)...)
		}
	}
	return e.found, ctx.Err()
}

// examination is one look at a server or at a data directory.
type examination struct {
	ctx   context.Context
	deep  bool
	data  string
	store store.Store
	blobs *file.Store
	log   *slog.Logger
	found []waybill.Finding
}

func (e *examination) add(check string, status waybill.FindingStatus, hint, format string, args ...any) {
	e.found = append(e.found, doctor.F(check, status, hint, format, args...))
}

// problem adds an error as a finding.
func (e *examination) problem(check string, err error) {
	hint := ""
	var w *waybill.Error
	if errors.As(err, &w) {
		hint = w.Hint
	}
	e.add(check, waybill.FindingFail, hint, "%v", err)
}

func (e *examination) machine(begun time.Time) {
	e.found = append(e.found, doctor.Disk("data", e.data)...)
	e.found = append(e.found, doctor.Permissions(e.data, append([]string{storeFile, storeFile + "-wal"}, keyNames...)...)...)
	e.found = append(e.found, doctor.Clock(begun)...)
	e.found = append(e.found, doctor.Limits()...)
	if logs, err := filepath.Glob(filepath.Join(e.data, storeFile+".schema-*")); err == nil && len(logs) > 0 {
		e.add("data.kept", waybill.FindingOK, "", "%d copies of the store from before a migration; remove them when they are no longer wanted", len(logs))
	}
}

// content looks at the store and at what it refers to.
func (e *examination) content() {
	info := e.store.Info()
	e.add("store.engine", waybill.FindingOK, "", "%s, schema %d, %s", info.Engine, info.Schema, info.Where)
	if x, ok := e.store.(store.Examiner); ok {
		e.found = append(e.found, x.Examine(e.ctx, e.deep)...)
	}
	e.queues()
	e.attempts()
	if e.blobs != nil {
		e.objects()
	}
}

func (e *examination) queues() {
	topics, err := e.store.Topics(e.ctx, "*")
	if err != nil {
		e.problem("queues", err)
		return
	}
	var dead, depth int64
	var bad, paused []string
	for _, t := range topics {
		depth += t.Depth
		if t.Dead > 0 {
			dead += t.Dead
			bad = append(bad, fmt.Sprintf("%s %d", t.Topic, t.Dead))
		}
		if t.Paused {
			paused = append(paused, t.Topic)
		}
	}
	if dead > 0 {
		e.add("queues.dead", waybill.FindingWarn, "look at them with: waybill queue peek TOPIC --dead, then redrive or purge", "%d dead letters: %s", dead, strings.Join(bad, ", "))
	} else {
		e.add("queues.dead", waybill.FindingOK, "", "no dead letters, %d messages", depth)
	}
	if len(paused) > 0 {
		e.add("queues.paused", waybill.FindingWarn, "go on with: waybill resume TOPIC", "paused: %s", strings.Join(paused, ", "))
	}
}

// attempts looks for units that could not be removed, and for folders of units that
// no open attempt has.
func (e *examination) attempts() {
	var stuck, open int
	live := map[string]bool{}
	for after := ""; ; {
		page, err := e.store.Query(e.ctx, store.Query{Table: "attempt", Tenant: "*", Limit: 1000, After: after})
		if err != nil {
			e.problem("attempts", err)
			return
		}
		for _, row := range page.Rows {
			var a waybill.Attempt
			if json.Unmarshal(row.Val, &a) != nil {
				continue
			}
			if a.Cleanup == waybill.CleanupFailed {
				stuck++
			}
			if a.Phase != waybill.PhaseTerminal {
				open++
			}
			if a.Phase != waybill.PhaseTerminal || a.Cleanup != waybill.CleanupNone && a.Cleanup != waybill.CleanupGone {
				live[a.Unit] = true
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if stuck > 0 {
		e.add("units.cleanup", waybill.FindingWarn, "see why with: waybill queue peek cleanup --dead, then: waybill queue redrive cleanup --all", "%d units could not be removed", stuck)
	} else {
		e.add("units.cleanup", waybill.FindingOK, "", "no unit is left over, %d attempts are open", open)
	}
	dirs, err := os.ReadDir(filepath.Join(e.data, "units"))
	if err != nil {
		return // a directory in which no server has run
	}
	var old []string
	for _, d := range dirs {
		info, err := d.Info()
		if err == nil && !live[d.Name()] && time.Since(info.ModTime()) > time.Hour {
			old = append(old, d.Name())
		}
	}
	if len(old) > 0 {
		e.add("units.folders", waybill.FindingWarn, "remove them from "+filepath.Join(e.data, "units"), "%d folders of units that nobody knows, such as %s", len(old), old[0])
	} else {
		e.add("units.folders", waybill.FindingOK, "", "%d folders of units", len(dirs))
	}
}

// objects looks whether content is there, and compares some of it with its checksum.
func (e *examination) objects() {
	var all, missing, damaged, read int
	first := ""
	seen := map[string]bool{}
	err := references(e.ctx, e.store, func(sha string) {
		if seen[sha] || e.ctx.Err() != nil {
			return
		}
		seen[sha] = true
		all++
		r, err := e.blobs.Open(e.ctx, sha)
		if err != nil {
			missing++
			if first == "" {
				first = sha
			}
			return
		}
		defer r.Close() // it was only read
		if !e.deep && read >= sampled {
			return
		}
		read++
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil || hex.EncodeToString(h.Sum(nil)) != sha {
			damaged++
			if first == "" {
				first = sha
			}
		}
	})
	const hint = "bring it back from a backup, see docs/guides/backup.md"
	switch {
	case err != nil:
		e.problem("blobs.content", err)
	case missing+damaged > 0:
		e.add("blobs.content", waybill.FindingFail, hint, "of %d contents that the store names %d are missing and %d of %d that were read are damaged, such as %s", all, missing, damaged, read, first)
	default:
		e.add("blobs.content", waybill.FindingOK, "", "all %d contents that the store names are there, %d were read", all, read)
	}
	if !e.deep {
		return
	}
	var loose int
	var bytes int64
	if err := e.blobs.Walk(e.ctx, func(ref blob.Ref, at time.Time) error {
		if !seen[ref.SHA256] && time.Since(at) > 24*time.Hour {
			loose++
			bytes += ref.Size
		}
		return nil
	}); err != nil {
		e.problem("blobs.loose", err)
		return
	}
	e.add("blobs.loose", waybill.FindingOK, "", "%d contents of %d bytes that nothing names any more; they go with the next sweep", loose, bytes)
}

func (e *examination) secrets(check func() error) {
	if err := check(); err != nil {
		e.problem("secrets.key", err)
		return
	}
	e.add("secrets.key", waybill.FindingOK, "", "the key fits the secrets of the store")
}

func (e *examination) project(dir string) {
	if dir == "" {
		return
	}
	problems, err := validate(dir)
	switch {
	case err != nil:
		e.add("project", waybill.FindingFail, "name the folder with --project", "%v", err)
	case len(problems) > 0:
		p := problems[0]
		e.add("project", waybill.FindingFail, "see all of it with: waybill pipeline validate "+dir, "%d problems in %s, the first in %s line %d: %s", len(problems), dir, p.File, p.Line, p.Msg)
	default:
		e.add("project", waybill.FindingOK, "", "no problems in %s", dir)
	}
}

func doctorCommand() *cobra.Command {
	var data, where, blobs, projectDir, keyFile, listen, try, image string
	var deep bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with a server, or with a stopped data directory",
		Long: `Look at all parts of a running server through its API, or with --data at the data directory of a stopped one:
disk, clock, limits, store, queues, units, objects, secrets, project and the providers of deliveries. Fails when a check fails; warnings are
things that work, but not as they should or not for long.

With --deep everything that is stored is read and compared with its checksums.

With --runner kubernetes or aci the platform that the project's waybill.yaml names is tried out, without a server:
some short units are started, followed, stopped and removed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var found []waybill.Finding
			var err error
			if try != "" {
				found, err = tryRunner(cmd.Context(), try, projectDir, image)
			} else if data == "" {
				found, err = askDoctor(cmd, deep)
			} else {
				found, err = examineStopped(cmd.Context(), data, where, blobs, projectDir, keyFile, listen, deep)
			}
			if err != nil {
				return err
			}
			if err := printResult(cmd, map[string]any{"status": doctor.Worst(found), "items": found}, findingTable(found)); err != nil {
				return err
			}
			if doctor.Worst(found) == waybill.FindingFail {
				return waybill.E(waybill.KindUnavailable, "not all is well")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "data directory of a server that is stopped")
	f.StringVar(&where, "store", envOr("WAYBILL_STORE", "sqlite"), "with --data: sqlite, or a postgres:// URL (WAYBILL_STORE)")
	f.StringVar(&blobs, "blobs", "", "with --data: folder of objects and logs (default: in the data directory)")
	f.StringVar(&projectDir, "project", "", "with --data or --runner: project folder")
	f.StringVar(&keyFile, "secret-key-file", "", "with --data: file with the key of secrets, if it is not in the data directory")
	f.StringVar(&listen, "listen", "127.0.0.1:4040", "with --data: address that the server will serve on")
	f.StringVar(&try, "runner", "", "kubernetes or aci: try it out with the settings of --project")
	f.StringVar(&image, "image", "busybox:1.37", "with --runner: image of the units, which has a shell")
	f.BoolVar(&deep, "deep", false, "read everything that is stored")
	return cmd
}

func askDoctor(cmd *cobra.Command, deep bool) ([]waybill.Finding, error) {
	c, err := clientFor(cmd)
	if err != nil {
		return nil, err
	}
	l, err := c.Doctor(cmd.Context(), deep)
	if client.KindOf(err) == waybill.KindUnavailable {
		fmt.Fprintln(cmd.ErrOrStderr(), "waybill: of a server that is stopped, look at its data directory: waybill doctor --data DIR")
	}
	if err != nil {
		return nil, err
	}
	out := make([]waybill.Finding, len(l.Items))
	for i, f := range l.Items {
		out[i] = waybill.Finding{Check: f.Check, Status: waybill.FindingStatus(f.Status), Detail: f.Detail, Hint: f.Hint}
	}
	if v, err := c.Version(cmd.Context()); err == nil {
		f := doctor.F("version", waybill.FindingOK, "", "server %s, this program %s", v.Version, version)
		if v.Version != version {
			f = doctor.F("version", waybill.FindingWarn, "use the same version on both sides", "server %s, this program %s", v.Version, version)
		}
		out = append(out, f)
	}
	return out, nil
}

// examineStopped looks at a data directory. What it cannot open is a finding.
func examineStopped(ctx context.Context, data, where, blobs, projectDir, keyFile, listen string, deep bool) ([]waybill.Finding, error) {
	abs, err := filepath.Abs(data)
	if err != nil {
		return nil, err
	}
	e := examination{ctx: ctx, deep: deep, data: abs, log: slog.New(slog.DiscardHandler)}
	if _, err := os.Stat(abs); err != nil { // it is not made
		e.problem("data.folder", err)
		return e.found, nil
	}
	e.machine(time.Now())
	e.found = append(e.found, doctor.Port(listen))
	e.project(projectDir)
	if _, err := os.Stat(filepath.Join(abs, "node")); err != nil {
		e.add("data.node", waybill.FindingWarn, "start one: waybill up --data "+data, "no server has run in %s", abs)
		return e.found, nil
	}
	d, err := openDataDir(abs)
	if err != nil {
		var w *waybill.Error
		if waybill.IsKind(err, waybill.KindConflict) && errors.As(err, &w) {
			w = w.WithHint("ask the server itself: waybill doctor --server URL")
			err = w
		}
		e.problem("data.lock", err)
		return e.found, nil
	}
	defer d.Close()
	st, err := openStore(ctx, where, d, e.log)
	if err != nil {
		e.problem("store.open", err)
		return e.found, nil
	}
	defer st.Close()
	e.store = st
	if blobs == "" {
		blobs = d.join("blobs")
	}
	if _, err := os.Stat(blobs); err == nil {
		if e.blobs, err = file.Open(blobs); err != nil {
			e.problem("blobs.open", err)
		}
	} else {
		e.problem("blobs.open", err)
	}
	e.content()
	e.secrets(func() error { return checkSecretKey(ctx, st, d, keyFile) })
	e.add("version", waybill.FindingOK, "", "this program is %s", version)
	return e.found, ctx.Err()
}

func findingTable(found []waybill.Finding) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, f := range found {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Status, f.Check, oneLine(f.Detail))
		if f.Hint != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", oneLine(f.Hint))
		}
	}
	_ = t.Flush() // a builder takes everything
	return b.String()
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}
