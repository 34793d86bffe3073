package pipeline

import (
	"fmt"
	"strings"

	"github.com/waybill-run/waybill"
)

// GraphFormats are the formats Plan.Graph writes.
func GraphFormats() []string { return []string{"text", "dot", "mermaid"} }

// Graph draws which step starts after which: as indented text, each step as deep
// as the longest way to it, or in the language of Graphviz or Mermaid. The error
// is of KindInvalid for an unknown format.
func (p *Plan) Graph(format string) (string, error) {
	var b strings.Builder
	switch format {
	case "text":
		fmt.Fprintln(&b, p.Name)
		for depth, level := range p.levels() {
			for _, s := range level {
				b.WriteString(strings.Repeat("  ", min(depth, maxDepth)+1) + s.Name)
				if len(s.Needs) > 0 {
					b.WriteString("  <- " + strings.Join(s.Needs, ", "))
				}
				b.WriteByte('\n')
			}
		}
	case "dot":
		// Names hold nothing that needs escaping between quotes.
		fmt.Fprintf(&b, "digraph %q {\n  rankdir=LR;\n  node [shape=box];\n", p.Name)
		for _, s := range p.Steps {
			fmt.Fprintf(&b, "  %q;\n", s.Name)
		}
		p.edges(func(from, to *Step) { fmt.Fprintf(&b, "  %q -> %q;\n", from.Name, to.Name) })
		b.WriteString("}\n")
	case "mermaid":
		// A name can be a word of the language, so numbers stand for steps.
		b.WriteString("flowchart LR\n")
		for _, s := range p.Steps {
			fmt.Fprintf(&b, "  s%d[%q]\n", s.Index, s.Name)
		}
		p.edges(func(from, to *Step) { fmt.Fprintf(&b, "  s%d --> s%d\n", from.Index, to.Index) })
	default:
		return "", waybill.E(waybill.KindInvalid, "graph format %s: want one of %s", clip(format), strings.Join(GraphFormats(), ", "))
	}
	return b.String(), nil
}

func (p *Plan) edges(draw func(from, to *Step)) {
	for _, s := range p.Steps {
		for _, n := range s.Needs {
			draw(p.byName[n], s)
		}
	}
}
