package app

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/rehearsal"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// rehearsalWorld is what tests of pipelines run in: the engine over a store in a folder
// of its own.
func rehearsalWorld(project string) rehearsal.World {
	runners := localRunners()
	return rehearsal.World{
		Project: project, Parse: ParseOptions(runners), Runners: slices.Sorted(maps.Keys(runners)),
		Store: func(ctx context.Context, dir string) (store.Store, error) {
			return sqlite.Open(ctx, filepath.Join(dir, "store.db"), Schema(), sqlite.Options{})
		},
		Blobs: func(dir string) (blob.Store, error) { return file.Open(dir) },
		Objects: func(st store.Store, b blob.Store) engine.Objects {
			return object.New(st, b, object.Options{Logger: slog.New(slog.DiscardHandler)})
		},
	}
}

func pipelineTestCommand() *cobra.Command {
	var dir, pattern string
	cmd := &cobra.Command{
		Use:   "test [FILE|FOLDER]...",
		Short: "Try pipelines out with simulated steps, and check what comes of it",
		Long: `Try pipelines out: each test names what arrives and what each step does, and what must come of
it. The pipeline runs in this process with every unit simulated; nothing of a step is executed, and
no time is waited for. Without arguments the files in the folder tests of the project are run.

Exit code 1 says that a test failed. "waybill schema test" describes the files.`,
		Annotations: map[string]string{cli.Formats: "junit"},
		RunE: func(cmd *cobra.Command, args []string) error {
			only, err := regexp.Compile(pattern)
			if err != nil {
				return waybill.E(waybill.KindInvalid, "--run: %v", err)
			}
			format, err := cmd.Flags().GetString("output")
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{filepath.Join(dir, "tests")}
			}
			results, err := rehearse(cmd.Context(), dir, args, only)
			if err != nil {
				return err
			}
			if err := report(cmd.OutOrStdout(), format, results); err != nil {
				return err
			}
			failed := 0
			for _, r := range results {
				if !r.OK {
					failed++
				}
			}
			switch {
			case len(results) == 0:
				return waybill.E(waybill.KindNotFound, "there are no tests")
			case failed > 0:
				return fmt.Errorf("%d of %d tests failed", failed, len(results))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "project", ".", "the project `folder`, in which pipelines are looked up")
	cmd.Flags().StringVar(&pattern, "run", "", "run only tests whose name matches this regular `expression`")
	return cmd
}

// rehearse runs the tests of files and folders, several at once, and returns what came
// of them in their order.
func rehearse(ctx context.Context, dir string, args []string, only *regexp.Regexp) ([]rehearsal.Result, error) {
	var files []string
	for _, a := range args {
		st, err := os.Stat(a)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, waybill.E(waybill.KindNotFound, "there is no file or folder %s", a)
		case err != nil:
			return nil, err
		case !st.IsDir():
			files = append(files, a)
			continue
		}
		more, err := rehearsal.Paths(a)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	type work struct {
		file string
		c    rehearsal.Case
	}
	var all []work
	var wrong pipeline.Problems
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		cases, err := rehearsal.Read(f, src)
		var ps pipeline.Problems
		if errors.As(err, &ps) {
			wrong = append(wrong, ps...)
			continue
		} else if err != nil {
			return nil, err
		}
		for _, c := range cases {
			if only.MatchString(c.Name) {
				all = append(all, work{f, c})
			}
		}
	}
	if len(wrong) > 0 {
		return nil, wrong.Invalid()
	}
	results := make([]rehearsal.Result, len(all))
	world, slots := rehearsalWorld(dir), make(chan struct{}, 4)
	var wg sync.WaitGroup
	for i, x := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i] = world.Run(ctx, x.file, x.c)
		})
	}
	wg.Wait()
	return results, ctx.Err()
}

// report writes results as people, programs or CI systems want them.
func report(w io.Writer, format string, results []rehearsal.Result) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if results == nil {
			results = []rehearsal.Result{}
		}
		return enc.Encode(map[string]any{"items": results})
	case "junit":
		return junit(w, results)
	}
	var b strings.Builder
	passed := 0
	for _, r := range results {
		word := "FAIL"
		if r.OK {
			word, passed = "ok  ", passed+1
		}
		fmt.Fprintf(&b, "%s  %s: %s (%s)\n", word, r.File, r.Name, r.Took.Round(time.Millisecond))
		b.WriteString(indent(why(r)))
	}
	fmt.Fprintf(&b, "%d passed, %d failed\n", passed, len(results)-passed)
	_, err := io.WriteString(w, b.String())
	return err
}

// why says what was not as expected.
func why(r rehearsal.Result) string {
	var b strings.Builder
	if r.Error != "" {
		fmt.Fprintln(&b, r.Error)
	}
	for _, d := range r.Diffs {
		fmt.Fprintf(&b, "%s\n  - want %s\n  + got  %s\n", d.Path, d.Want, d.Got)
	}
	if r.Log != "" {
		fmt.Fprintln(&b, r.Log)
	}
	return b.String()
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("      " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}

// junit writes results in the XML that CI systems read.
func junit(w io.Writer, results []rehearsal.Result) error {
	type failure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		File    string   `xml:"file,attr"`
		Time    string   `xml:"time,attr"`
		Failure *failure `xml:"failure,omitempty"`
		Error   *failure `xml:"error,omitempty"`
	}
	type suite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	s := suite{Name: "waybill", Tests: len(results)}
	var took time.Duration
	for _, r := range results {
		c := testcase{Name: r.Name, Class: r.Pipeline, File: r.File, Time: fmt.Sprintf("%.3f", r.Took.Seconds())}
		took += r.Took
		switch {
		case r.Error != "":
			s.Errors++
			c.Error = &failure{Message: r.Error, Text: why(r)}
		case len(r.Diffs) > 0:
			s.Failures++
			c.Failure = &failure{Message: r.Diffs[0].String(), Text: why(r)}
		}
		s.Cases = append(s.Cases, c)
	}
	s.Time = fmt.Sprintf("%.3f", took.Seconds())
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(s); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// schemaCommand prints JSON Schemas.
func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [KIND]",
		Short: "Print the JSON Schema of a kind of file, for editors; without a kind, list them",
		Long: `Print the JSON Schema (draft 2020-12) of a kind of file of a project. Editors complete and check
with it: write it to a file, and name that in the first line of a definition:

    # yaml-language-server: $schema=../pipeline.schema.json

A server has them at /api/v1/schemas/KIND.`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: SchemaKinds(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(SchemaKinds(), "\n"))
				return err
			}
			b, err := FileSchema(args[0])
			if err == nil {
				_, err = cmd.OutOrStdout().Write(b)
			}
			return err
		},
	}
}
