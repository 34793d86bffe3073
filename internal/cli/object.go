package cli

import (
	"context"
	"fmt"
	"io"
	"mime"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

func (a *app) objectCmd() *cobra.Command {
	return group("object", "Put, get, list, trace and delete objects", a.objectPutCmd(), a.objectGetCmd(), a.objectListCmd(), a.objectTraceCmd(), a.objectDeleteCmd())
}

func (a *app) objectPutCmd() *cobra.Command {
	var contentType string
	cmd := &cobra.Command{
		Use: "put BUCKET KEY FILE", Short: "Store a file as an object (- reads standard input)", Args: cobra.ExactArgs(3),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			in := a.Stdin
			if args[2] != "-" {
				f, err := os.Open(args[2])
				if err != nil {
					return err
				}
				defer f.Close() // it was only read
				in = f
			}
			o, err := c.PutObject(ctx, args[0], args[1], first(contentType, mime.TypeByExtension(filepath.Ext(args[1]))), in)
			if err != nil {
				return err
			}
			return a.print(o, func(w io.Writer) {
				fmt.Fprintf(w, "%s/%s\t%s\t%s\n", clean(o.Bucket), clean(o.Key), clean(o.Version), bytesText(o.Size))
			})
		}),
	}
	cmd.Flags().StringVar(&contentType, "content-type", "", "what it is (default by the ending of the key)")
	return cmd
}

func (a *app) objectGetCmd() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "get BUCKET KEY [FILE]", Short: "Write an object to a file or to standard output", Args: cobra.RangeArgs(2, 3),
		Long: "Write an object to a file or to standard output. A file appears under its name only when all of it has arrived and was checked.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			in, err := c.Object(ctx, args[0], args[1], version)
			if err != nil {
				return err
			}
			defer in.Close() // it was only read
			return a.save(args[2:], in)
		}),
	}
	cmd.Flags().StringVar(&version, "version", "", "the version (default the current one)")
	return cmd
}

// save writes content to the file that was named, if one was, or to standard output.
func (a *app) save(file []string, in io.Reader) error {
	if len(file) == 0 || file[0] == "-" {
		_, err := io.Copy(a.Stdout, in)
		return err
	}
	return saveAs(file[0], in)
}

// saveAs writes a file whole or not at all.
func saveAs(name string, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".waybill-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // it may be closed already
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func (a *app) objectListCmd() *cobra.Command {
	var p client.ListObjectsParams
	cmd := &cobra.Command{
		Use: "list [BUCKET]", Short: "List the objects of a bucket, or the buckets", Args: cobra.MaximumNArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 0 {
				l, err := c.Buckets(ctx)
				if err != nil {
					return err
				}
				return a.print(l, func(w io.Writer) {
					for _, name := range l.Items {
						fmt.Fprintln(w, clean(name))
					}
				})
			}
			l, err := c.Objects(ctx, args[0], p)
			if err != nil {
				return err
			}
			defer a.more(l.NextCursor)
			return a.print(l, func(w io.Writer) {
				table(w, "key size created by", func(row func(...any)) {
					for _, o := range l.Items {
						row(o.Key, bytesText(o.Size), a.when(o.CreatedAt), o.CreatedBy)
					}
				})
			})
		}),
	}
	cmd.Flags().StringVar(&p.Prefix, "prefix", "", "keys that begin with this only")
	listFlags(cmd, &p.Limit, &p.Cursor)
	return cmd
}

func (a *app) objectDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete BUCKET KEY", Short: "Delete an object; older versions stay readable", Args: cobra.ExactArgs(2),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteObject(ctx, args[0], args[1]); err != nil {
				return err
			}
			return a.print(map[string]any{"bucket": args[0], "key": args[1], "deleted": true}, func(w io.Writer) {
				fmt.Fprintf(w, "%s/%s\tdeleted\n", clean(args[0]), clean(args[1]))
			})
		}),
	}
}
