package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) imageCmd() *cobra.Command {
	cmd := group("image", "Make images, and look after those that the runner oci keeps",
		append(a.ImageCommands, a.imageLoadCmd(), a.imageListCmd(), a.imageRemoveCmd(), a.imagePruneCmd())...)
	cmd.Long = `Make images of single programs without Docker, and look after those that the runner oci keeps
unpacked on the server's machine. The images of other runners are those of their platforms.`
	return cmd
}

// withImages calls f with the images of a server or, with a data folder, of one that is
// stopped.
func (a *app) withImages(ctx context.Context, data string, f func(imageStore) error) (err error) {
	if data == "" {
		c, err := a.client(0)
		if err != nil {
			return err
		}
		return f(c)
	}
	if a.OpenImages == nil {
		return waybill.E(waybill.KindUnsupported, "this program cannot open a data folder")
	}
	images, closer, err := a.OpenImages(ctx, data)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := closer.Close(); err == nil {
			err = cerr
		}
	}()
	return f(localImages{images})
}

// imageStore is what these commands need; a client has it.
type imageStore interface {
	Images(ctx context.Context) (client.ImageList, error)
	LoadImage(ctx context.Context, r io.Reader, name string) ([]client.Image, error)
	RemoveImage(ctx context.Context, name string) (client.ImagesRemoved, error)
	PruneImages(ctx context.Context, unused time.Duration) (client.ImagesRemoved, error)
}

// localImages are those of a data folder.
type localImages struct{ of waybill.Images }

// Images implements imageStore.
func (l localImages) Images(ctx context.Context) (client.ImageList, error) {
	all, err := l.of.Images(ctx)
	return client.ImageList{Items: all.Items, Bytes: all.Bytes, Quota: all.Quota}, err
}

// LoadImage implements imageStore.
func (l localImages) LoadImage(ctx context.Context, r io.Reader, name string) ([]client.Image, error) {
	return l.of.LoadImage(ctx, r, name)
}

// RemoveImage implements imageStore.
func (l localImages) RemoveImage(ctx context.Context, name string) (client.ImagesRemoved, error) {
	n, err := l.of.RemoveImage(ctx, name)
	return client.ImagesRemoved{Count: 1, Bytes: n}, err
}

// PruneImages implements imageStore.
func (l localImages) PruneImages(ctx context.Context, unused time.Duration) (client.ImagesRemoved, error) {
	n, freed, err := l.of.PruneImages(ctx, unused)
	return client.ImagesRemoved{Count: n, Bytes: freed}, err
}

func dataFlag(cmd *cobra.Command, data *string) {
	cmd.Flags().StringVar(data, "data", "", "data folder of a stopped server, instead of asking one that runs")
}

func (a *app) imageLoadCmd() *cobra.Command {
	var data, tag string
	cmd := &cobra.Command{
		Use: "load FILE", Short: "Load the images of an archive (- reads standard input)", Args: cobra.ExactArgs(1),
		Long: `Load the images of an archive, as waybill image pack and docker save write it, into what the
runner oci keeps. Steps that name them need no registry then. An image that was loaded goes like any
other when there is no more room for it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := a.Stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close() // it was only read
				in = f
			}
			return a.withImages(cmd.Context(), data, func(s imageStore) error {
				loaded, err := s.LoadImage(cmd.Context(), in, tag)
				if err != nil {
					return err
				}
				return a.print(map[string]any{"items": loaded}, func(w io.Writer) {
					for _, i := range loaded {
						fmt.Fprintf(w, "%s\t%s\t%s\n", clean(i.Name), clean(i.Digest), bytesText(i.Size))
					}
				})
			})
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVarP(&tag, "tag", "t", "", "`name:tag` for the image of an archive that has one, instead of its own")
	return cmd
}

func (a *app) imageListCmd() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "list", Short: "List the images that the runner oci keeps", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withImages(cmd.Context(), data, func(s imageStore) error {
				l, err := s.Images(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(l, func(w io.Writer) {
					table(w, "image platform size layers state used digest", func(row func(...any)) {
						for _, i := range l.Items {
							state := "unused"
							switch {
							case !i.Whole:
								state = "not whole"
							case i.InUse:
								state = "in use"
							}
							row(i.Name, i.Platform, bytesText(i.Size), i.Layers, state, a.when(i.UsedAt), i.Digest)
						}
					})
					fmt.Fprintf(w, "\n%s of %s\n", bytesText(l.Bytes), bytesText(l.Quota))
				})
			})
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func (a *app) imageRemoveCmd() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "remove IMAGE", Short: "Remove an image and the layers that nothing else needs", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withImages(cmd.Context(), data, func(s imageStore) error {
				out, err := s.RemoveImage(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) { fmt.Fprintf(w, "%s\tremoved\t%s\n", clean(args[0]), bytesText(out.Bytes)) })
			})
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func (a *app) imagePruneCmd() *cobra.Command {
	var data string
	var unused time.Duration
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove the images that no unit runs with", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unused < 0 || unused%time.Second != 0 {
				return usage("--unused-for wants whole seconds")
			}
			return a.withImages(cmd.Context(), data, func(s imageStore) error {
				out, err := s.PruneImages(cmd.Context(), unused)
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) { fmt.Fprintf(w, "%d images removed\t%s\n", out.Count, bytesText(out.Bytes)) })
			})
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().DurationVar(&unused, "unused-for", 0, "only those that were not used for so long")
	return cmd
}
