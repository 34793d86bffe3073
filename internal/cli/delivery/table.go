package delivery

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/delivery/spektate"
)

// The columns, their order and their names are those that people and scripts know from the
// older command line.

type tableOptions struct {
	wide, ascii, separators bool
	now                     time.Time
}

type column struct {
	name  string
	right bool
	cell  func(*client.Deployment) string
}

// table is a list of deployments as text.
type table struct {
	columns []column
	rows    []client.Deployment
}

func newTable(rows []client.Deployment, o tableOptions) *table {
	t := &table{rows: rows}
	add := func(name string, right bool, cell func(*client.Deployment) string) {
		t.columns = append(t.columns, column{name, right, cell})
	}
	line := "│"
	if o.ascii {
		line = "|"
	}
	separator := func() {
		if o.separators {
			add(line, false, func(*client.Deployment) string { return line })
		}
	}
	stage := func(name string, of func(*client.Deployment) *waybill.DeploymentStage, commit func(*client.Deployment) string) {
		add(name, true, func(d *client.Deployment) string {
			if r := of(d).Last(); r != nil {
				return r.Run
			}
			return ""
		})
		add("Commit", false, func(d *client.Deployment) string { return short(commit(d)) })
		add("OK", false, func(d *client.Deployment) string { return result(of(d), o.ascii) })
	}
	if o.wide {
		add("Start Time", false, func(d *client.Deployment) string { return started(d) })
	}
	add("Status", false, func(d *client.Deployment) string { return spektate.Word(d.Status) })
	add("Service", false, func(d *client.Deployment) string { return d.DisplayService() })
	add("Ring", false, func(d *client.Deployment) string { return d.Ring })
	if o.wide {
		add("Author", false, func(d *client.Deployment) string { return name(d.Author) })
	}
	add("Image Tag", false, func(d *client.Deployment) string { return d.ImageTag })
	separator()
	stage("Image Creation", func(d *client.Deployment) *waybill.DeploymentStage { return d.Build }, func(d *client.Deployment) string { return d.Commit })
	separator()
	stage("Metadata Update", func(d *client.Deployment) *waybill.DeploymentStage { return d.Config }, func(d *client.Deployment) string { return d.ConfigCommit })
	separator()
	if o.wide {
		add("Approval PR", true, func(d *client.Deployment) string { return d.PullRequest })
		add("Merged By", false, func(d *client.Deployment) string { return mergedBy(d) })
	}
	stage("Ready to Deploy", func(d *client.Deployment) *waybill.DeploymentStage { return d.Manifest }, func(d *client.Deployment) string { return d.ManifestCommit })
	separator()
	add("Duration", true, func(d *client.Deployment) string { return spektate.Of(d, o.now).Duration + " mins" })
	if o.wide && anyIn(rows) {
		add("Cluster Sync", false, func(d *client.Deployment) string { return clusters(d) })
	}
	return t
}

func anyIn(rows []client.Deployment) bool {
	for i := range rows {
		if len(spektate.Here(&rows[i])) > 0 {
			return true
		}
	}
	return false
}

// clusters are those that a deployment is in. Of one that failed there it says so.
func clusters(d *client.Deployment) string {
	var names []string
	for _, c := range spektate.Here(d) {
		n := c.Cluster
		if c.State == waybill.ClusterFailed {
			n += " (failed)"
		}
		names = append(names, n)
	}
	return strings.Join(names, ", ")
}

func mergedBy(d *client.Deployment) string {
	if d.Review == nil {
		return ""
	}
	return first(name(d.Review.Merger), d.Review.MergedBy)
}

func name(p *waybill.Person) string {
	if p == nil {
		return ""
	}
	return first(p.Name, p.Username)
}

// started is when the first stage that says so began.
func started(d *client.Deployment) string {
	for _, s := range []*waybill.DeploymentStage{d.Build, d.Manifest} {
		r := s.Last()
		if r == nil {
			continue
		}
		for _, t := range []time.Time{r.StartedAt, r.QueuedAt} {
			if !t.IsZero() {
				return t.Local().Format("2006-01-02 15:04:05")
			}
		}
	}
	return ""
}

// result is a glyph for how the last run of a stage ended.
func result(s *waybill.DeploymentStage, ascii bool) string {
	r := s.Last()
	if r == nil {
		return ""
	}
	status := r.Status
	if status == "" {
		status = s.Status
	}
	glyph := map[waybill.Outcome][2]string{
		waybill.StatusSucceeded: {"✓", "ok"},
		waybill.StatusFailed:    {"✗", "x"}, waybill.StatusTimedOut: {"✗", "x"}, waybill.StatusLost: {"✗", "x"}, waybill.StatusCanceled: {"✗", "x"},
		waybill.StatusQueued: {"…", "..."}, waybill.StatusRunning: {"…", "..."}, waybill.StatusWaiting: {"…", "..."},
		waybill.StatusSkipped: {"-", "-"},
	}[status]
	text := glyph[0]
	if ascii {
		text = glyph[1]
	}
	if r.Expired { // its provider has forgotten it; this is what was known
		text = strings.TrimSpace(text + " expired")
	}
	return text
}

// short is a commit as it is shown.
func short(commit string) string {
	if len(commit) > 7 && strings.Trim(strings.ToLower(commit), "0123456789abcdef") == "" {
		return commit[:7]
	}
	return commit
}

// String is the table with its head.
func (t *table) String() string {
	lines := [][]string{make([]string, len(t.columns))}
	for i, c := range t.columns {
		lines[0][i] = c.name
	}
	for i := range t.rows {
		cells := make([]string, len(t.columns))
		for j, c := range t.columns {
			cells[j] = clean(c.cell(&t.rows[i]))
		}
		lines = append(lines, cells)
	}
	widths := make([]int, len(t.columns))
	for _, cells := range lines {
		for j, c := range cells {
			widths[j] = max(widths[j], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		var line strings.Builder
		for j, c := range cells {
			if j > 0 {
				line.WriteByte(' ')
			}
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(c))
			if t.columns[j].right {
				line.WriteString(pad + c)
			} else {
				line.WriteString(c + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// Cells are the texts of a row, for those that look at them one by one.
func (t *table) cells(row int) []string {
	out := make([]string, len(t.columns))
	for j, c := range t.columns {
		out[j] = clean(c.cell(&t.rows[row]))
	}
	return out
}

// head are the names of the columns.
func (t *table) head() []string {
	out := make([]string, len(t.columns))
	for j, c := range t.columns {
		out[j] = c.name
	}
	return out
}

// plural is a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
