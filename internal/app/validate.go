package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/rehearsal"
)

// validate checks a file of a project, or all of a project folder: its settings, its
// definitions and its tests. The error is for what cannot be read at all.
func validate(path string) ([]client.SourceProblem, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var all pipeline.Problems
	add := func(err error) error {
		var ps pipeline.Problems
		if errors.As(err, &ps) {
			all = append(all, ps...)
			return nil
		}
		return err
	}
	o := ParseOptions(localRunners())
	name := strings.TrimPrefix(filepath.ToSlash(path), "./")
	switch {
	case st.IsDir():
		_, err = project.Read(os.DirFS(path), o)
		err = errors.Join(add(err), addTests(path, add))
	case filepath.Base(path) == "waybill.yaml":
		var set pipeline.Problems
		_, err = project.ReadSettings(os.DirFS(filepath.Dir(path)), os.LookupEnv)
		if errors.As(err, &set) {
			for i := range set {
				set[i].File = name
			}
			err = set
		}
		err = add(err)
	default:
		var src []byte
		if src, err = os.ReadFile(path); err != nil {
			return nil, err
		}
		if filepath.Base(filepath.Dir(path)) == "tests" {
			_, err = rehearsal.Read(name, src)
		} else {
			_, err = pipeline.Parse(name, src, o)
		}
		err = add(err)
	}
	out := make([]client.SourceProblem, len(all))
	for i, p := range all {
		out[i] = client.SourceProblem{Msg: p.Msg, File: p.File, Line: p.Line, Column: p.Column, Hint: p.Hint}
	}
	return out, err
}

// addTests checks the tests of a project.
func addTests(dir string, add func(error) error) error {
	files, err := rehearsal.Paths(filepath.Join(dir, "tests"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		src, rerr := os.ReadFile(f)
		if rerr != nil {
			return rerr
		}
		rel, rerr := filepath.Rel(dir, f)
		if rerr != nil {
			rel = f
		}
		if _, rerr := rehearsal.Read(filepath.ToSlash(rel), src); add(rerr) != nil {
			return rerr
		}
	}
	return err
}
