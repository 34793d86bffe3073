package facetcli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/facet"
)

// status is the result of stat as JSON.
type status struct {
	Engine  string        `json:"engine"`
	Docs    int           `json:"docs"`
	Seq     facet.Seq     `json:"seq"`
	Schema  facet.Schema  `json:"schema"`
	Fields  []fieldStatus `json:"fields"`
	Storage *facet.Stats  `json:"storage,omitempty"` // of an index in a folder
}

type fieldStatus struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Multi    bool   `json:"multi"`
	Words    bool   `json:"words"`
	Distinct int    `json:"distinct"`
	Missing  int    `json:"missing"`
	Bytes    int64  `json:"bytes,omitempty"`
}

func (d Deps) statCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stat INDEX",
		Short: "Say what is in an index, and how much space it takes",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			x, err := open(cmd.Context(), args[0], facet.Schema{}, false)
			if err != nil {
				return err
			}
			defer closing(x, &err)
			s, err := stat(cmd, x)
			if err != nil {
				return err
			}
			if asJSON(cmd) {
				return printJSON(cmd.OutOrStdout(), s)
			}
			c := d.canvas(cmd.OutOrStdout())
			c.status(s)
			return c.err
		},
	}
}

func stat(cmd *cobra.Command, x facet.Index) (s status, err error) {
	s.Engine, s.Schema = x.Caps().Engine, x.Schema()
	var q facet.Query
	for _, f := range s.Schema.Fields {
		if f.Facetable() {
			q.Facets = append(q.Facets, facet.FacetReq{Field: f.Name, Size: 1})
		}
	}
	r, err := x.Search(cmd.Context(), q)
	if err != nil {
		return s, err
	}
	if e, ok := x.(*facet.Engine); ok {
		stats, err := e.Stats()
		if err != nil {
			return s, err
		}
		s.Storage = &stats
	}
	s.Docs, s.Seq = r.Total, r.Seq
	facets := r.Facets
	for _, f := range s.Schema.Fields {
		st := fieldStatus{Name: f.Name, Kind: f.Kind.String(), Multi: f.Multi, Words: f.Words}
		if f.Facetable() {
			st.Distinct, st.Missing = facets[0].Distinct, facets[0].Missing
			facets = facets[1:]
		}
		if s.Storage != nil {
			st.Bytes = s.Storage.Fields[f.Name]
		}
		s.Fields = append(s.Fields, st)
	}
	return s, nil
}

func (c *canvas) status(s status) {
	c.printf("%s  %s\n", c.paint(bold, plural(s.Docs, "document", "documents")), c.paint(dim, fmt.Sprintf("%s, sequence %d", s.Engine, s.Seq)))
	if st := s.Storage; st != nil {
		docs := max(st.Docs, 1)
		source := st.Parts["source"]
		c.printf("%s in %s; index %s B a document, documents %s B\n", bytesText(st.Bytes), plural(len(st.Segments), "segment", "segments"),
			thousands((st.Bytes-source)/int64(docs)), thousands(source/int64(docs)))
		if st.Deleted > 0 {
			c.printf("%s still take space\n", plural(st.Deleted, "deleted document", "deleted documents"))
		}
	}
	name := 5
	for _, f := range s.Fields {
		name = max(name, cells(clean(f.Name)))
	}
	name = min(name, c.width/2)
	c.printf("\n%s\n", c.paint(dim, fmt.Sprintf("%s  %-14s %12s %12s %10s", pad("FIELD", name), "KIND", "VALUES", "WITHOUT", "SPACE")))
	for _, f := range s.Fields {
		kind := f.Kind
		if f.Multi {
			kind += ", multi"
		}
		if f.Words {
			kind += ", words"
		}
		values, missing, space := thousands(f.Distinct), thousands(f.Missing), "-"
		if f.Kind == facet.KindRange.String() {
			values, missing = "-", "-"
		}
		if f.Bytes > 0 {
			space = bytesText(f.Bytes)
		}
		c.printf("%s  %-14s %12s %12s %10s\n", pad(cut(clean(f.Name), name), name), kind, values, missing, space)
	}
}

// verified is the result of verify as JSON.
type verified struct {
	OK       bool     `json:"ok"`
	Docs     int      `json:"docs"`
	Bytes    int64    `json:"bytes"`
	Problems []string `json:"problems"`
}

func (d Deps) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Compare every file of an index with its checksums",
		Long: `Compare every file of an index with its checksums, and name those that are not what was
written. Exit code 1 if there is one.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if strings.Contains(args[0], "://") {
				return invalid("only an index in a folder has files to be verified")
			}
			there, err := hasIndex(args[0])
			if err != nil {
				return err
			}
			if !there {
				return waybill.E(waybill.KindNotFound, "there is no index in %s", args[0])
			}
			x, err := facet.Open(args[0], facet.Schema{}, facet.Options{Salvage: true, ScrubEvery: -1})
			if err != nil {
				return err
			}
			defer closing(x, &err)
			err = x.Verify(cmd.Context())
			if err != nil && !errors.Is(err, facet.ErrCorrupt) {
				return err
			}
			st, serr := x.Stats()
			if serr != nil {
				return serr
			}
			v := verified{Docs: st.Docs, Bytes: st.Bytes, Problems: slices.Clone(st.Refused)}
			if err != nil {
				v.Problems = append(v.Problems, strings.Split(err.Error(), "\n")...)
			}
			v.OK = len(v.Problems) == 0
			return v.report(cmd, args[0])
		},
	}
}

func (v verified) report(cmd *cobra.Command, dir string) error {
	if asJSON(cmd) {
		if v.Problems == nil {
			v.Problems = []string{}
		}
		if err := printJSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	} else if v.OK {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is as it was written: %s, %s\n", dir, plural(v.Docs, "document", "documents"), bytesText(v.Bytes))
		return err
	} else {
		for _, p := range v.Problems {
			fmt.Fprintln(cmd.OutOrStdout(), p)
		}
	}
	if v.OK {
		return nil
	}
	return waybill.E(waybill.KindInternal, "%s is damaged; %s can be read", dir, plural(v.Docs, "document", "documents")).
		WithHint("restore the files named, or build the index anew")
}

func (d Deps) schemaCommand() *cobra.Command {
	var id string
	var sample int
	cmd := &cobra.Command{
		Use:   "schema [FILE...]",
		Short: "Guess the schema of JSON lines, and print it to be edited",
		Example: `  waybill facet schema films.jsonl > films.schema
  waybill facet build films films.jsonl --schema films.schema`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"-"}
			}
			b := build{id: id, sample: sample, cmd: cmd, in: &input{files: args, stdin: cmd.InOrStdin()}}
			s, err := b.guess()
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().StringVar(&id, "id", "id", "`NAME` under which documents have their id")
	cmd.Flags().IntVar(&sample, "sample", 10_000, "documents to guess from")
	return cmd
}
