package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// Formats is the annotation of a command that names further values of --output.
const Formats = "waybill.formats"

// validated is the result of pipeline validate.
type validated struct {
	OK       bool                   `json:"ok"`
	Problems []client.SourceProblem `json:"problems"`
	Warnings []client.SourceProblem `json:"warnings"`
	Notes    []client.SourceProblem `json:"notes"` // what cannot be known here
}

func (a *app) pipelineValidateCmd() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "validate [FILE|FOLDER]...",
		Short: "Check the files of a project without a server",
		Long: `Check the files of a project: waybill.yaml, the definitions in pipelines and the tests in tests,
or single files. Everything that is wrong is told at once, with file, line and column; warnings tell
of what is allowed and probably not meant. Without arguments the current folder is checked.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.Validate == nil {
				return waybill.E(waybill.KindUnsupported, "this program cannot check definitions")
			}
			if len(args) == 0 {
				args = []string{"."}
			}
			v := validated{Problems: []client.SourceProblem{}, Warnings: []client.SourceProblem{}, Notes: []client.SourceProblem{}}
			for _, path := range args {
				problems, err := a.Validate(path)
				if err != nil {
					return err
				}
				v.Problems = append(v.Problems, problems...)
				if a.Doubts != nil {
					for _, p := range a.Doubts(path) {
						if p.Warning {
							v.Warnings = append(v.Warnings, p)
						} else {
							v.Notes = append(v.Notes, p)
						}
					}
				}
			}
			v.OK = len(v.Problems) == 0 && (!strict || len(v.Warnings) == 0)
			err := a.print(v, func(w io.Writer) {
				for _, p := range v.Problems {
					fmt.Fprintln(w, problemLine(p))
				}
				for _, p := range v.Warnings {
					fmt.Fprintln(w, "warning: "+problemLine(p))
				}
				for _, p := range v.Notes {
					fmt.Fprintln(w, "note: "+problemLine(p))
				}
				if v.OK {
					fmt.Fprintln(w, "ok")
				}
			})
			switch {
			case err != nil || v.OK:
				return err
			case len(v.Problems) == 0:
				return &failed{fmt.Sprintf("%d warnings, and --strict", len(v.Warnings))}
			}
			return &failed{found(len(v.Problems))}
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "warnings are failures too")
	return cmd
}
