// Package facetcli is the command "waybill facet": facet indexes of JSON lines,
// without a server.
package facetcli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/facet"
)

// Deps are what the command needs from the program. Zero values are replaced by those
// of the process.
type Deps struct {
	Getenv func(string) string
	// Width is how many columns the terminal behind w has, 0 for none. Nil asks the
	// system.
	Width func(w io.Writer) int
}

// Command returns the command "facet" with all that belongs to it.
func Command(d Deps) *cobra.Command {
	if d.Getenv == nil {
		d.Getenv = os.Getenv
	}
	if d.Width == nil {
		d.Width = width
	}
	c := &cobra.Command{
		Use:   "facet",
		Short: "Index JSON lines, and search them by facets",
		Long: `Index JSON lines, and search them by facets. No server is needed.

An INDEX is a folder, made by "waybill facet build". It can also be in PostgreSQL, as
postgres://HOST/DATABASE#NAME, or in OpenSearch, as opensearch://HOST:9200/NAME
(opensearchs:// over TLS); NAME is the index's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(d.buildCommand(), d.queryCommand(), d.statCommand(), d.verifyCommand(), d.schemaCommand(), d.conformanceCommand(), d.benchCommand())
	return c
}

// width asks the system.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 80
	}
	return n
}

// asJSON reports whether JSON is wanted. The flag is the root command's.
func asJSON(cmd *cobra.Command) bool {
	f := cmd.Flag("output")
	return f != nil && f.Value.String() == "json"
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// note tells something that is no result.
func note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), "waybill: "+format+"\n", args...)
}

// thousands writes an integer with commas.
func thousands[N int | int64 | uint64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// bytesText writes a number of bytes as people say it.
func bytesText(n int64) string {
	f, unit := float64(n), 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, []string{"", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// plural chooses the word for a number.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

// closing closes an index and keeps the first error.
func closing(x facet.Index, err *error) {
	if e := x.Close(); e != nil && *err == nil {
		*err = e
	}
}

// documents is how many an index has.
func documents(ctx context.Context, x facet.Index) (int, error) {
	r, err := x.Search(ctx, facet.Query{})
	return r.Total, err
}

func invalid(format string, args ...any) *waybill.Error {
	return waybill.E(waybill.KindInvalid, format, args...)
}
