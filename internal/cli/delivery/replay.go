package delivery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
)

// maxLine is how many bytes a line of a file of reports may have.
const maxLine = 1 << 20

func (a *app) replayCmd() *cobra.Command {
	var until string
	var dry bool
	cmd := a.ask("replay FILE", "Report what a file of reports tells, in its order", cobra.ExactArgs(1), func(ctx context.Context, q *question, args []string) error {
		end := a.Now().UTC().Truncate(24 * time.Hour)
		if until != "" {
			t, err := time.Parse(time.RFC3339, until)
			if err != nil {
				return errorf(codeValidation, "replay-until-err", "--until %s is no time such as 2006-01-02T15:04:05Z", until)
			}
			end = t.UTC()
		}
		in := io.Reader(a.Stdin)
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return errorf(codeValidation, "replay-file-err", "the file cannot be read").because(err)
			}
			defer f.Close()
			in = f
		}
		reports, err := readReports(in, end)
		if err != nil {
			return err
		}
		did := map[waybill.ReportAction]int{}
		for _, r := range reports {
			if r.report.Partition == "" {
				r.report.Partition = q.partition
			}
			if dry {
				continue
			}
			res, err := q.client.ReportDelivery(ctx, r.report)
			if err != nil {
				return errorf(codeStorage, "replay-report-err", "line %d was refused; the %d before it are reported, and may be again", r.line, sum(did)).because(err)
			}
			did[res.Action]++
		}
		return q.show(map[string]any{"reports": len(reports), "actions": did, "dry_run": dry}, func(w io.Writer) {
			words := []string{}
			for _, k := range []waybill.ReportAction{waybill.ActionInserted, waybill.ActionUpdated, waybill.ActionCopied, waybill.ActionUnlinked, waybill.ActionRepeated, waybill.ActionNone} {
				if did[k] > 0 {
					words = append(words, fmt.Sprintf("%d %s", did[k], k))
				}
			}
			fmt.Fprintln(w, strings.TrimSuffix(fmt.Sprintf("%d reports: %s", len(reports), strings.Join(words, ", ")), ": "))
		})
	})
	cmd.Long = `Report what a file of reports tells, in its order. Each line is a report in JSON, as POST /api/v1/deliveries/reports
takes it; empty lines and those that begin with # are left out. A time may be written as what is to be taken from --until:
"-6d4h30m". The same file with the same --until changes nothing when it is replayed again.`
	cmd.Flags().StringVar(&until, "until", "", "what relative times end at, as 2006-01-02T15:04:05Z (default: the last midnight, UTC)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "read the file and report nothing")
	return cmd
}

func sum(m map[waybill.ReportAction]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// line is a report of a file.
type line struct {
	line   int
	report waybill.DeliveryReport
}

// readReports reads all of a file before anything is reported, so that a file with a
// mistake reports nothing.
func readReports(in io.Reader, end time.Time) ([]line, error) {
	var out []line
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		wrong := func(err error) error {
			return errorf(codeValidation, "replay-line-err", "line %d is no report", n).because(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(text, &fields); err != nil {
			return nil, wrong(err)
		}
		for _, key := range []string{"time", "queued_at", "finished_at", "committed_at"} {
			var s string
			if json.Unmarshal(fields[key], &s) != nil || !strings.HasPrefix(s, "-") {
				continue
			}
			back, err := relative(s[1:])
			if err != nil {
				return nil, wrong(fmt.Errorf("%s: %w", key, err))
			}
			fields[key], _ = json.Marshal(end.Add(-back)) // a time can be written
		}
		body, err := json.Marshal(fields)
		if err != nil {
			return nil, wrong(err)
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		x := line{line: n}
		if err := d.Decode(&x.report); err != nil {
			return nil, wrong(err)
		}
		kinds := []waybill.ReportKind{waybill.ReportBuild, waybill.ReportConfig, waybill.ReportManifest, waybill.ReportRun, waybill.ReportReview, waybill.ReportSync}
		if !slices.Contains(kinds, x.report.Kind) {
			return nil, wrong(fmt.Errorf("kind %.40q is not build, config, manifest, run, review or sync", x.report.Kind))
		}
		out = append(out, x)
	}
	if err := lines.Err(); err != nil {
		return nil, errorf(codeValidation, "replay-file-err", "the file cannot be read").because(err)
	}
	return out, nil
}

// relative reads a duration with days in front: 6d4h30m.
func relative(s string) (time.Duration, error) {
	days := time.Duration(0)
	if d, rest, ok := strings.Cut(s, "d"); ok {
		n, err := time.ParseDuration(d + "h")
		if err != nil {
			return 0, fmt.Errorf("%.40q is no duration such as 6d4h30m", s)
		}
		if days, s = 24*n, rest; s == "" {
			return days, nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("%.40q is no duration such as 6d4h30m", s)
	}
	return days + v, nil
}
