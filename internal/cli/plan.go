package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// printPlan shows what a run would do.
func printPlan(w io.Writer, p client.RunPlan) {
	fmt.Fprintf(w, "pipeline  %s, version %d\n", clean(p.Pipeline), p.Version)
	for _, x := range []struct {
		what string
		vars waybill.Vars
	}{{"param", p.Params}, {"var", p.Vars}} {
		for _, n := range x.vars.Names() {
			v, _ := x.vars.Get(n)
			fmt.Fprintf(w, "%-9s %s = %s\n", x.what, clean(n), clean(v.Text()))
		}
	}
	for _, s := range p.Slots {
		fmt.Fprintf(w, "%-9s %s, at most %d at once, else %s\n", "slot", clean(s.Key), s.Limit, clean(string(s.Policy)))
	}
	group := ""
	for i, s := range p.Steps {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(w, "\n%s\n", clean(group))
		}
		fmt.Fprintf(w, "\n%d. %s (%s", i+1, clean(s.Name), clean(s.Runner))
		if len(s.Needs) > 0 {
			fmt.Fprintf(w, ", after %s", clean(strings.Join(s.Needs, ", ")))
		}
		fmt.Fprintf(w, ", timeout %s", s.Timeout)
		if s.Retries > 0 {
			fmt.Fprintf(w, ", tried again %d times", s.Retries)
		}
		fmt.Fprintln(w, ")")
		switch {
		case s.If != "" && s.Runs == waybill.PlannedNo:
			fmt.Fprintf(w, "   skipped: %s is false\n", clean(s.If))
		case s.If != "" && s.Runs == waybill.PlannedUnknown:
			fmt.Fprintf(w, "   if    %s   (not known yet)\n", clean(s.If))
		case s.If != "":
			fmt.Fprintf(w, "   if    %s   (true)\n", clean(s.If))
		}
		printUnit(w, "   ", s.Args, s.Env, s.With)
		for _, path := range slices.Sorted(maps.Keys(s.Inputs)) {
			b, _ := json.Marshal(s.Inputs[path])
			fmt.Fprintf(w, "   in    %s: %s\n", clean(path), clean(string(b)))
		}
		if s.CellsOf != "" {
			fmt.Fprintf(w, "   cells not known yet, %d at once\n", s.Parallel)
		}
		for _, c := range s.Cells {
			b, _ := json.Marshal(c.Values)
			fmt.Fprintf(w, "   cell %d %s\n", c.Index, clean(string(b)))
			printUnit(w, "      ", c.Args, c.Env, c.With)
		}
		if len(s.Unknown) > 0 {
			fmt.Fprintf(w, "   not known yet: %s\n", clean(strings.Join(s.Unknown, "; ")))
		}
		if s.Problem != "" {
			fmt.Fprintf(w, "   it would fail: %s\n", clean(s.Problem))
		}
	}
}

func printUnit(w io.Writer, at string, args []string, env map[string]string, with json.RawMessage) {
	if len(args) > 0 {
		words := make([]string, len(args))
		for i, x := range args {
			if words[i] = x; x == "" || strings.ContainsAny(x, " \t\n\"'$") {
				b, _ := json.Marshal(x)
				words[i] = string(b)
			}
		}
		fmt.Fprintf(w, "%srun   %s\n", at, clean(strings.Join(words, " ")))
	}
	for _, n := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(w, "%senv   %s=%s\n", at, clean(n), clean(env[n]))
	}
	if len(with) > 0 {
		fmt.Fprintf(w, "%swith  %s\n", at, clean(string(with)))
	}
}

func (a *app) pipelineReloadCmd() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Take up what has changed in the server's project folder, and tell what is wrong in it", Args: cobra.NoArgs,
		RunE: a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			r, err := c.ReloadProject(ctx)
			if err != nil {
				return err
			}
			err = a.print(r, func(w io.Writer) {
				for _, x := range r.Applied {
					fmt.Fprintf(w, "applied   %s, version %d\n", clean(x.Name), x.Version)
				}
				for _, n := range r.Retired {
					fmt.Fprintf(w, "retired   %s\n", clean(n))
				}
				for _, n := range r.Settings {
					fmt.Fprintf(w, "setting   %s\n", clean(n))
				}
				for _, n := range r.Restart {
					fmt.Fprintf(w, "restart   needed for %s\n", clean(n))
				}
				for _, p := range r.Problems {
					fmt.Fprintf(w, "problem   %s\n", problemLine(client.SourceProblem{File: p.File, Line: p.Line, Column: p.Column, Msg: p.Msg, Hint: p.Hint}))
				}
				if len(r.Applied)+len(r.Retired)+len(r.Settings)+len(r.Restart)+len(r.Problems) == 0 {
					fmt.Fprintln(w, "nothing has changed")
				}
			})
			if err == nil && len(r.Problems) > 0 {
				return &failed{found(len(r.Problems))}
			}
			return err
		}),
	}
}
