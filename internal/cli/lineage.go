package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// traceFlags are those of every trace.
type traceFlags struct {
	up, down     bool
	depth, limit int
}

func (f *traceFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.up, "up", false, "only what it came of")
	cmd.Flags().BoolVar(&f.down, "down", false, "only what came of it")
	cmd.Flags().IntVar(&f.depth, "depth", 10, "how far to follow, 1 to 50")
	cmd.Flags().IntVar(&f.limit, "limit", 200, "how many objects and runs at most, 1 to 1000")
}

// direction is empty for both.
func (f *traceFlags) direction() (string, error) {
	switch {
	case f.depth < 1 || f.depth > 50:
		return "", usage("--depth is from 1 to 50, found %d", f.depth)
	case f.limit < 1 || f.limit > 1000:
		return "", usage("--limit is from 1 to 1000, found %d", f.limit)
	case f.up && !f.down:
		return "up", nil
	case f.down && !f.up:
		return "down", nil
	}
	return "", nil
}

func (a *app) objectTraceCmd() *cobra.Command {
	var f traceFlags
	var version string
	cmd := &cobra.Command{
		Use: "trace BUCKET KEY", Short: "Show what an object came of, and the runs and objects that came of it", Args: cobra.ExactArgs(2),
		Long: "Show which run made an object, from what, and which runs it started, what they made, and so on. Without --version it is the current one; of a deleted object, the newest one that has content.",
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			direction, err := f.direction()
			if err != nil {
				return err
			}
			l, err := c.TraceObject(ctx, args[0], args[1], client.TraceObjectParams{
				Version: version, Direction: client.TraceObjectParamsDirection(direction), Depth: f.depth, Limit: f.limit,
			})
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) { a.lineage(w, l) })
		}),
	}
	f.add(cmd)
	cmd.Flags().StringVar(&version, "version", "", "the version (default the current one)")
	return cmd
}

func (a *app) runTraceCmd() *cobra.Command {
	var f traceFlags
	cmd := &cobra.Command{
		Use: "trace ID", Short: "Show what a run came of, and the objects and runs that came of it", Args: cobra.ExactArgs(1),
		RunE: a.with(func(ctx context.Context, c *client.Client, args []string) error {
			direction, err := f.direction()
			if err != nil {
				return err
			}
			l, err := c.TraceRun(ctx, args[0], client.TraceRunParams{
				Direction: client.TraceRunParamsDirection(direction), Depth: f.depth, Limit: f.limit,
			})
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) { a.lineage(w, l) })
		}),
	}
	f.add(cmd)
	return cmd
}

// drawing is a lineage as a tree: first what led to the root, then what followed from
// it. A node that stands in the tree already is named and not unfolded again.
type drawing struct {
	a        *app
	w        io.Writer
	nodes    map[string]waybill.LineageNode
	from, to map[string][]waybill.LineageEdge // by the end that they are looked up by
	drawn    map[string]bool
}

func (a *app) lineage(w io.Writer, l client.Lineage) {
	d := drawing{a: a, w: w, nodes: map[string]waybill.LineageNode{}, from: map[string][]waybill.LineageEdge{}, to: map[string][]waybill.LineageEdge{}}
	for _, n := range l.Nodes {
		d.nodes[n.ID] = n
	}
	for _, e := range l.Edges {
		d.from[e.From] = append(d.from[e.From], e)
		d.to[e.To] = append(d.to[e.To], e)
	}
	root := d.nodes[l.Root]
	fmt.Fprintln(w, d.text(root))
	for _, part := range []struct {
		head string
		up   bool
	}{{"came of", true}, {"led to", false}} {
		d.drawn = map[string]bool{l.Root: true}
		if len(d.edges(l.Root, part.up)) > 0 || d.more(root, part.up) {
			fmt.Fprintln(w, part.head)
			d.branch(l.Root, "", part.up)
		}
	}
	if l.Truncated {
		fmt.Fprintln(a.Stderr, "there is more where \"…\" stands: raise --depth or --limit, or trace that object or run")
	}
}

func (d *drawing) edges(id string, up bool) []waybill.LineageEdge {
	if up {
		return d.to[id]
	}
	return d.from[id]
}

func (d *drawing) more(n waybill.LineageNode, up bool) bool {
	return up && n.MoreUp || !up && n.MoreDown
}

func (d *drawing) branch(id, indent string, up bool) {
	edges, more := d.edges(id, up), d.more(d.nodes[id], up)
	for i, e := range edges {
		twig, below := "├─ ", "│  "
		if i == len(edges)-1 && !more {
			twig, below = "└─ ", "   "
		}
		other := e.To
		if up {
			other = e.From
		}
		line := indent + twig + verb(e, up) + d.text(d.nodes[other])
		if d.drawn[other] {
			fmt.Fprintln(d.w, line+" (above)")
			continue
		}
		d.drawn[other] = true
		fmt.Fprintln(d.w, line)
		d.branch(other, indent+below, up)
	}
	if more {
		fmt.Fprintln(d.w, indent+"└─ …")
	}
}

// verb says how the node after it follows from, or led to, the one above it.
func verb(e waybill.LineageEdge, up bool) string {
	by := ""
	if e.Step != "" {
		by = fmt.Sprintf(" by %s/%d", clean(e.Step), e.Attempt)
	}
	if !up {
		return string(e.Kind) + by + " "
	}
	switch e.Kind {
	case waybill.LineageRetried:
		return "repeats "
	case waybill.LineageStarted:
		return "started by "
	}
	return string(e.Kind) + by + " of "
}

func (d *drawing) text(n waybill.LineageNode) string {
	var parts []string
	switch {
	case n.Object != nil:
		o := n.Object
		parts = append(parts, "object "+o.Bucket+"/"+o.Key, o.Version)
		if n.Gone {
			return clean(strings.Join(append(parts, "(no longer kept)"), "  "))
		}
		parts = append(parts, bytesText(o.Size))
		if o.State != waybill.LineageCurrent {
			parts = append(parts, string(o.State))
		}
		parts = append(parts, d.a.when(o.CreatedAt))
		// An attempt that made it stands on the line of its run.
		if made := len(d.to[n.ID]) > 0; !made && o.CreatedBy != "" {
			parts = append(parts, "by "+o.CreatedBy)
		}
	case n.Run != nil:
		r := n.Run
		parts = append(parts, "run "+r.ID)
		if r.Pipeline != "" {
			parts = append(parts, r.Pipeline)
		}
		if n.Gone {
			return clean(strings.Join(append(parts, "(no longer kept)"), "  "))
		}
		parts = append(parts, string(r.Status), d.a.when(r.CreatedAt))
		// An object or a run that started it is a line of its own.
		if r.Event.Type != "object" && r.Event.Type != "pipeline" {
			by := r.Event.Type + " " + r.Event.Source
			if r.Event.Subject != "" {
				by += " by " + r.Event.Subject
			}
			parts = append(parts, "from "+by)
		}
		if r.Error != "" {
			parts = append(parts, r.Error)
		}
	}
	return clean(strings.Join(parts, "  "))
}
