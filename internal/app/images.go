package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
)

// imageKeeper is a runner that keeps images itself.
type imageKeeper interface{ Images() waybill.Images }

// images are those of the runner that keeps some, nil if there is none.
func (s *Server) images() waybill.Images {
	for _, p := range platforms {
		if k, ok := s.runners[p.name].(imageKeeper); ok {
			if i := k.Images(); i != nil {
				return i
			}
		}
	}
	return nil
}

// imagePackCommand makes images without a server.
func imagePackCommand() *cobra.Command {
	var r image.Recipe
	var tags, files []string
	var out string
	cmd := &cobra.Command{
		Use: "pack PROGRAM", Short: "Make an image of a static program", Args: cobra.ExactArgs(1),
		Long: `Make an image that holds a static program for Linux and nothing that it does not need: /bin/NAME,
which is its entrypoint, /tmp, /etc/passwd and /etc/group, and what --file adds. The same program and
options make the same bytes and the same digest, whenever and wherever.

The archive is read by "waybill image load", docker load, podman and containerd.`,
		Example: `  CGO_ENABLED=0 go build -o crunch ./crunch
  waybill image pack crunch -t demo/crunch:v1 -o crunch.tar
  waybill image load crunch.tar        # or: docker load -i crunch.tar`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Program = args[0]
			for _, f := range files {
				from, to, ok := strings.Cut(f, ":")
				if !ok || from == "" || to == "" {
					return waybill.E(waybill.KindInvalid, "--file %q: expected FILE:/PATH/IN/IMAGE", f)
				}
				r.Files = append(r.Files, image.File{From: from, To: to})
			}
			if len(tags) == 0 {
				return waybill.E(waybill.KindInvalid, "the image needs a name").WithHint("add -t name:tag")
			}
			img, err := image.Pack(r)
			if err != nil {
				return err
			}
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			if out == "-" {
				return image.WriteArchive(cmd.OutOrStdout(), img, tags...)
			}
			f, err := os.CreateTemp(filepath.Dir(out), ".waybill-*")
			if err != nil {
				return err
			}
			defer os.Remove(f.Name()) // it has its name by then, if all went well
			err = image.WriteArchive(f, img, tags...)
			if err == nil {
				err = f.Chmod(0o644)
			}
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err == nil {
				err = os.Rename(f.Name(), out)
			}
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\t%s\n", tags[0], digest, out)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&tags, "tag", "t", nil, "`name:tag` of the image; repeatable")
	// The form of the result, elsewhere: there is but one here.
	f.StringVarP(&out, "output", "o", "image.tar", "`file` to write; - is standard output")
	f.StringArrayVar(&files, "file", nil, "further file or folder and its place, as `FROM:TO`; repeatable")
	f.StringArrayVar(&r.Args, "arg", nil, "argument of the program; repeatable")
	f.StringArrayVar(&r.Env, "env", nil, "`NAME=value` of its environment; repeatable")
	f.StringVar(&r.User, "user", "", "user it runs as, as numbers: 65534:65534")
	f.StringVar(&r.Workdir, "workdir", "", "its working directory")
	return cmd
}

// openImages opens the images in the data folder of a server that is stopped.
func openImages(_ context.Context, data string) (waybill.Images, io.Closer, error) {
	if _, err := os.Stat(data); err != nil {
		return nil, nil, err
	}
	return openImageStore(filepath.Join(data, "oci", "images"))
}

// packProgram makes an image of a program alone.
func packProgram(program, tag, file string) error {
	img, err := image.Pack(image.Recipe{Program: program})
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	err = image.WriteArchive(f, img, tag)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
