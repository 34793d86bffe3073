package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/client"
)

// Words of completion come from the server, if it answers soon: nobody waits for
// a shell that hangs at a tab.
const (
	completeFor  = 1500 * time.Millisecond
	completeMost = 100
)

// words finds what a word may be. Each may be followed by a tab and a description.
// args are the words before it.
type words func(ctx context.Context, c *client.Client, args []string, typed string) ([]string, error)

func fixed(list ...string) words {
	return func(context.Context, *client.Client, []string, string) ([]string, error) { return list, nil }
}

// ask returns the words that begin with what was typed.
func (a *app) ask(f words, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	// In a list separated by commas the last one is completed.
	before := ""
	if i := strings.LastIndexByte(typed, ','); i >= 0 {
		before, typed = typed[:i+1], typed[i+1:]
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeFor)
	defer cancel()
	c, err := a.client(-1) // not again and again
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, err := f(ctx, c, args, typed)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, w := range found {
		if strings.HasPrefix(w, typed) {
			out = append(out, before+clean1(w))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// clean1 makes a word with its description safe for a terminal.
func clean1(w string) string {
	word, text, ok := strings.Cut(w, "\t")
	if !ok {
		return clean(word)
	}
	return clean(word) + "\t" + clean(text)
}

// complete completes the value of a flag.
func (a *app) complete(cmd *cobra.Command, flag string, f words) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.ask(f, args, typed)
	})
	if err != nil {
		panic(err) // the flag was just made
	}
}

// first completes the first argument, and nothing after it.
func (a *app) first(f words) cobra.CompletionFunc { return a.each(f) }

// each completes one argument after another.
func (a *app) each(fs ...words) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) >= len(fs):
			return nil, cobra.ShellCompDirectiveNoFileComp
		case fs[len(args)] == nil:
			return nil, cobra.ShellCompDirectiveDefault // a file, or nothing we know
		}
		return a.ask(fs[len(args)], args, typed)
	}
}

func (a *app) pipelineNames(ctx context.Context, c *client.Client, _ []string, _ string) ([]string, error) {
	l, err := c.Pipelines(ctx, client.ListPipelinesParams{Limit: 1000})
	out := make([]string, 0, len(l.Items))
	for _, p := range l.Items {
		out = append(out, describe(p.Name, p.Summary))
	}
	return out, err
}

func describe(word, text string) string {
	if line, _, _ := strings.Cut(text, "\n"); line != "" {
		return word + "\t" + shorten(line, 60)
	}
	return word
}

// runIDs are the newest runs.
func (a *app) runIDs(ctx context.Context, c *client.Client, _ []string, _ string) ([]string, error) {
	l, err := c.Runs(ctx, client.ListRunsParams{Limit: completeMost})
	out := make([]string, 0, len(l.Items))
	for _, r := range l.Items {
		out = append(out, describe(r.ID, r.Pipeline+" "+string(r.Status)+" "+a.ago(r.CreatedAt)))
	}
	return out, err
}

func (a *app) ago(t time.Time) string { return span(max(0, a.Now().Sub(t))) + " ago" }

// stepNames are those of the run that was named before.
func (a *app) stepNames(ctx context.Context, c *client.Client, args []string, _ string) ([]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	r, err := c.Run(ctx, args[0])
	out := make([]string, 0, len(r.Steps))
	for _, s := range r.Steps {
		out = append(out, describe(s.Name, string(s.Status)))
	}
	return out, err
}

func (a *app) topics(ctx context.Context, c *client.Client, _ []string, _ string) ([]string, error) {
	l, err := c.Queues(ctx)
	out := make([]string, 0, len(l.Items))
	for _, q := range l.Items {
		out = append(out, q.Topic)
	}
	slices.Sort(out)
	return out, err
}

func (a *app) buckets(ctx context.Context, c *client.Client, _ []string, _ string) ([]string, error) {
	l, err := c.Buckets(ctx)
	return l.Items, err
}

// objectKeys are those of the bucket that was named before.
func (a *app) objectKeys(ctx context.Context, c *client.Client, args []string, typed string) ([]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	l, err := c.Objects(ctx, args[0], client.ListObjectsParams{Prefix: typed, Limit: completeMost})
	out := make([]string, 0, len(l.Items))
	for _, o := range l.Items {
		out = append(out, o.Key)
	}
	return out, err
}

func (a *app) ruleNames(ctx context.Context, c *client.Client, _ []string, _ string) ([]string, error) {
	l, err := c.Notifications(ctx)
	out := make([]string, 0, len(l.Items))
	for _, n := range l.Items {
		out = append(out, n.Name)
	}
	return out, err
}

// completions gives the commands of a tree their dynamic completion, by the words
// in their lines of use, so that each command does not need to say so itself.
func (a *app) completions(root *cobra.Command) {
	kinds := map[string]words{
		"ID": a.runIDs, "PIPELINE": a.pipelineNames, "TOPIC": a.topics, "BUCKET": a.buckets, "KEY": a.objectKeys, "RULE": a.ruleNames,
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.RunE == nil || c.ValidArgsFunction != nil {
			return
		}
		var fs []words
		known := false
		for _, word := range strings.Fields(c.Use)[1:] {
			word = strings.Trim(word, "[]…")
			f := kinds[word]
			if word == "ID" && c.Parent() != nil && c.Parent().Name() != "run" {
				f = nil // of something else
			}
			if word == "NAME" && c.Parent() != nil && c.Parent().Name() == "pipeline" {
				f = a.pipelineNames
			}
			known = known || f != nil
			fs = append(fs, f)
		}
		if known {
			c.ValidArgsFunction = a.each(fs...)
		}
		for flag, f := range map[string]words{"step": a.stepNames, "from": a.stepNames} {
			if known && c.Flags().Lookup(flag) != nil {
				a.complete(c, flag, f)
			}
		}
	}
	walk(root)
	a.complete(root, "output", fixed("text", "json"))
}
