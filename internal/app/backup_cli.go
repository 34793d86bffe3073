package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/backup"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// clientFor is a client of the server that the flags of every command name.
func clientFor(cmd *cobra.Command) (*client.Client, error) {
	flag := func(name, variable string) string {
		if f := cmd.Flag(name); f != nil && f.Value.String() != "" {
			return f.Value.String()
		}
		return os.Getenv(variable)
	}
	o := client.Options{Server: flag("server", "WAYBILL_SERVER"), Token: flag("token", "WAYBILL_API_TOKEN")}
	if o.Token == "" {
		o.TokenSource = cli.LoginToken(o.Server)
	}
	return client.New(o)
}

// printResult writes a result as the flags of every command say.
func printResult(cmd *cobra.Command, v any, text string) error {
	if f := cmd.Flag("output"); f != nil && f.Value.String() == "json" {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// backupSummary is the result of backup and restore.
type backupSummary struct {
	backup.Header
	Path    string `json:"path"`
	Files   int    `json:"files"`
	Objects int    `json:"objects"`
	Logs    int    `json:"logs"`
	Bytes   int64  `json:"bytes"`
}

func summary(m *backup.Manifest, path string) backupSummary {
	return backupSummary{Header: m.Header, Path: path, Files: len(m.Files), Objects: m.Count(backup.KindObject), Logs: m.Count(backup.KindLog), Bytes: m.Bytes()}
}

func (s backupSummary) text(what string) string {
	t := fmt.Sprintf("%s\t%s: %s store, %d objects, %d logs, %d bytes, keys %s\n", s.ID, what, s.Engine, s.Objects, s.Logs, s.Bytes, s.Keys)
	if len(s.Missing) > 0 {
		t += fmt.Sprintf("missing\t%d objects that the store names were not there\n", len(s.Missing))
	}
	return t
}

func backupCommand() *cobra.Command {
	var data, where, blobs, keysFor, project string
	var withKeys, withProject bool
	cmd := &cobra.Command{
		Use:   "backup DIR|FILE.tar.zst",
		Short: "Make a backup of a running server, or of a stopped data directory",
		Long: `Make a backup of a running server through its API, or with --data of the data directory of a stopped one.

Into a folder that holds a backup already only what is new is copied; the folder holds one whole backup
at any time. A file is written anew each time.

Without the keys the restored server is a new node and cannot read secrets that the store keeps. The keys
open those secrets: --with-keys puts them into the backup as they are, --keys-for age1… encrypts them.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fault.Arm(os.Getenv(fault.Variable)); err != nil {
				return err
			}
			o := waybill.BackupOptions{Keys: "none", Project: withProject || project != ""}
			switch {
			case withKeys && keysFor != "":
				return waybill.E(waybill.KindInvalid, "--with-keys and --keys-for exclude each other")
			case withKeys:
				o.Keys = "plain"
			case keysFor != "":
				o.Keys = keysFor
			}
			if err := backup.CheckKeys(o.Keys); err != nil {
				return err
			}
			if data == "" && project != "" {
				return waybill.E(waybill.KindInvalid, "--project is for --data; of a running server the project is saved with --with-project")
			}
			ctx := cmd.Context()
			open := func(has map[string]bool) (io.ReadCloser, error) { return runningBackup(ctx, cmd, o, has) }
			if data != "" {
				open = func(has map[string]bool) (io.ReadCloser, error) {
					return stoppedBackup(ctx, data, where, blobs, project, o, has)
				}
			}
			m, err := takeBackup(ctx, args[0], open)
			if err != nil {
				return err
			}
			s := summary(m, args[0])
			return printResult(cmd, s, s.text("saved in "+args[0]))
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "data directory of a server that is stopped")
	f.StringVar(&where, "store", envOr("WAYBILL_STORE", "sqlite"), "with --data: sqlite, or a postgres:// URL (WAYBILL_STORE)")
	f.StringVar(&blobs, "blobs", "", "with --data: folder of objects and logs (default: in the data directory)")
	f.StringVar(&project, "project", "", "with --data: project folder to save as well")
	f.BoolVar(&withProject, "with-project", false, "save the files of the server's project folder as well")
	f.BoolVar(&withKeys, "with-keys", false, "save the keys as they are: whoever has the backup can read all secrets")
	f.StringVar(&keysFor, "keys-for", "", "save the keys, encrypted for this recipient of age (age1…)")
	return cmd
}

// takeBackup keeps what open gives, which is told what is there already.
func takeBackup(ctx context.Context, path string, open func(has map[string]bool) (io.ReadCloser, error)) (*backup.Manifest, error) {
	if backup.IsArchive(path) {
		if _, err := os.Lstat(path); err == nil {
			return nil, waybill.E(waybill.KindConflict, "the file exists").WithOp("write backup", path).WithHint("name another one; archives are not added to")
		}
		r, err := open(nil)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return backup.KeepArchive(ctx, r, path)
	}
	folder, err := backup.OpenFolder(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	r, err := open(folder.Has())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return folder.Keep(ctx, r)
}

func runningBackup(ctx context.Context, cmd *cobra.Command, o waybill.BackupOptions, has map[string]bool) (io.ReadCloser, error) {
	c, err := clientFor(cmd)
	if err != nil {
		return nil, err
	}
	var list []string
	for sha := range has {
		list = append(list, sha)
	}
	return c.Backup(ctx, client.BackupOptions{Keys: o.Keys, Project: o.Project, Has: list})
}

// stoppedBackup makes a backup of a data directory that no server uses.
func stoppedBackup(ctx context.Context, data, where, blobs, project string, o waybill.BackupOptions, has map[string]bool) (io.ReadCloser, error) {
	if _, err := os.Stat(filepath.Join(data, "node")); err != nil {
		return nil, waybill.E(waybill.KindNotFound, "no server has run there: %w", err).WithOp("open data directory", data)
	}
	d, err := openDataDir(data)
	if err != nil {
		return nil, err
	}
	st, err := openStore(ctx, where, d, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if blobs == "" {
		blobs = d.join("blobs")
	}
	b, err := file.Open(blobs)
	if err != nil {
		return nil, errors.Join(err, st.Close(), d.Close())
	}
	o.Has = func(sha string) bool { return has[sha] }
	src := &backupSource{data: d, store: st, blobs: b, project: project, version: version, log: slog.New(slog.DiscardHandler), opt: o}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := src.write(ctx, w)
		w.CloseWithError(err)
	}()
	return &piped{PipeReader: r, end: func() error {
		<-done
		return errors.Join(st.Close(), d.Close())
	}}, nil
}

// piped ends its writer when it is closed.
type piped struct {
	*io.PipeReader
	end func() error
}

func (p *piped) Close() error { return errors.Join(p.PipeReader.Close(), p.end()) }

func restoreCommand() *cobra.Command {
	var o backup.Options
	var where, identity string
	var check bool
	cmd := &cobra.Command{
		Use:   "restore DIR|FILE.tar.zst",
		Short: "Make a data directory of a backup",
		Long: `Make a data directory of a backup, in a folder that is empty or does not exist. Everything is compared with
its checksum. If it breaks off, no server starts in the folder; do it again.

With --store postgres://… the content of the store goes there, into an empty database or schema, whatever
the backup is of. Then start the server:

  waybill up --data DIR

Runs that were open go on; units that ran when the backup was made are lost and tried again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if err := fault.Arm(os.Getenv(fault.Variable)); err != nil {
				return err
			}
			if check {
				m, err := backup.Check(ctx, args[0])
				if err != nil {
					return err
				}
				s := summary(m, args[0])
				return printResult(cmd, s, s.text("whole, of "+m.At.UTC().Format("2006-01-02 15:04:05 MST")))
			}
			if o.Data == "" {
				return waybill.E(waybill.KindInvalid, "name the folder to make: --data DIR")
			}
			if identity != "" {
				var err error
				if o.Identities, err = backup.Identities(identity); err != nil {
					return err
				}
			}
			o.Note = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "waybill: "+format+"\n", args...) }
			o.Store = func(ctx context.Context, m *backup.Manifest, name, path string) error {
				return restoreStore(ctx, o.Data, where, m, name, path)
			}
			m, err := backup.Restore(ctx, args[0], o)
			if err != nil {
				return err
			}
			s := summary(m, o.Data)
			return printResult(cmd, s, s.text("restored into "+o.Data))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "data directory to make")
	f.StringVar(&where, "store", envOr("WAYBILL_STORE", "sqlite"), "where the store goes: sqlite, or a postgres:// URL (WAYBILL_STORE)")
	f.StringVar(&o.Blobs, "blobs", "", "folder for objects and logs (default: in the data directory)")
	f.StringVar(&o.Project, "project", "", "folder for the files of the project, if the backup has them")
	f.StringVar(&identity, "identity", "", "file with the identity of age that opens the keys")
	f.BoolVar(&check, "check", false, "only compare the backup with its checksums")
	return cmd
}

// restoreStore brings the content of a store to its place and checks that it is the
// one that the manifest names.
func restoreStore(ctx context.Context, data, where string, m *backup.Manifest, name, path string) error {
	quiet := slog.New(slog.DiscardHandler)
	target := filepath.Join(data, storeFile)
	toFile := where == "" || where == "sqlite"
	if toFile && name == storeFile {
		if err := os.Rename(path, target); err != nil {
			return err
		}
	}
	var st store.Store
	var err error
	if toFile {
		st, err = sqlite.Open(ctx, target, Schema(), sqlite.Options{Logger: quiet, MustExist: name == storeFile})
	} else {
		st, err = openStore(ctx, where, nil, quiet)
	}
	if err != nil {
		return err
	}
	if !toFile || name != storeFile {
		err = importInto(ctx, st, name, path)
	}
	var id string
	if err == nil {
		id, err = instanceOf(ctx, st)
	}
	if err == nil && id != m.Instance {
		err = waybill.E(waybill.KindInvalid, "the store in the backup is %q, its manifest names %q", id, m.Instance)
	}
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	if err == nil && toFile {
		// From now on an absent file means a lost one.
		if err = os.Chmod(target, 0o600); err == nil {
			_, _, err = (&dataDir{path: data}).once("store.used", func() string { return "sqlite" })
		}
	}
	return err
}

func importInto(ctx context.Context, st store.Store, name, path string) (err error) {
	switch name {
	case storeFile:
		from, err := sqlite.Open(ctx, path, Schema(), sqlite.Options{MustExist: true})
		if err != nil {
			return err
		}
		return errors.Join(st.Import(ctx, from.Export(ctx)), from.Close())
	case storeText:
		return backup.Unpack(path, func(r io.Reader) error { return st.Import(ctx, store.ReadItems(r)) })
	}
	return waybill.E(waybill.KindConflict, "the backup holds its store in %s, which this version of Waybill does not read", strings.TrimSpace(name))
}
