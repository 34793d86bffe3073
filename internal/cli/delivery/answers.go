package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// Questions about deliveries. They take the flags of the rest of the command line:
// -o json is the shape of the API.

// quiet is an exit code of 1 whose reason has been shown.
type quiet struct{}

func (quiet) Error() string { return "" }

// Quiet reports that there is nothing to say.
func (quiet) Quiet() bool { return true }

// question is a command that asks the server something.
type question struct {
	*app
	cmd       *cobra.Command
	partition string
	client    *client.Client
}

// ask makes a command of a question.
func (a *app) ask(use, short string, args cobra.PositionalArgs, f func(ctx context.Context, q *question, args []string) error) *cobra.Command {
	q := &question{app: a}
	cmd := &cobra.Command{Use: use, Short: short, Args: args}
	name := cmd.Name()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q.cmd = cmd
		s, err := a.load()
		if err != nil {
			return failed(name, err)
		}
		q.partition = s.partition(q.partition)
		if q.client, err = a.connect(s, 0); err != nil {
			return failed(name, err)
		}
		err = f(cmd.Context(), q, args)
		if _, ok := err.(quiet); ok {
			return err
		}
		return failed(name, err)
	}
	cmd.Flags().StringVarP(&q.partition, "partition-key", "p", "", "of this project (INTROSPECTION_PARTITION_KEY)")
	return cmd
}

// asked says why there is no answer.
func asked(err error) error {
	var theirs *client.Error
	if errors.As(err, &theirs) && theirs.Kind != waybill.KindUnavailable && theirs.Kind != waybill.KindInternal {
		return errorf(codeFlow, "deployment-answer-err", "the server has no answer to that").because(err)
	}
	return storage(err)
}

// show writes a result: as JSON in the shape of the API, or as text.
func (q *question) show(v any, text func(w io.Writer)) error {
	if f := q.cmd.Flags().Lookup("output"); f != nil && f.Value.String() == "json" {
		enc := json.NewEncoder(q.Stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	var b strings.Builder
	text(&b)
	_, err := io.WriteString(q.Stdout, b.String())
	return err
}

// none says that a list is empty, where people look.
func (q *question) none(n int, format string, args ...any) {
	if n == 0 {
		q.note(format, args...)
	}
}

// grid writes rows in aligned columns, the head first; nothing of no rows.
func grid(w io.Writer, rows [][]string, head ...string) {
	if len(rows) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for i, row := range append([][]string{head}, rows...) {
		for j, cell := range row {
			if j > 0 {
				fmt.Fprint(t, "\t")
			}
			if cell = clean(cell); cell == "" && i > 0 {
				cell = "-"
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
}

// when shows a time: how long ago on a terminal, exactly elsewhere.
func (a *app) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if !a.Terminal(a.Stdout) {
		return t.UTC().Format(time.RFC3339)
	}
	if d := a.Now().Sub(t); d >= 0 {
		return span(d) + " ago"
	}
	return "in " + span(t.Sub(a.Now()))
}

// span is a duration in its largest unit or two.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// age reads a duration: of Go, or whole days (d) and weeks (w).
func age(flag, text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, err := strconv.Atoi(strings.TrimSuffix(text, unit)); err == nil && strings.HasSuffix(text, unit) && n > 0 && n < 36500 {
			return time.Duration(n) * d, nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= time.Second && d < 36500*24*time.Hour {
		return d, nil
	}
	return 0, errorf(codeValidation, "duration-err", "--%s is a time such as 90d, 2w or 36h, found %q", flag, text)
}

func (a *app) answers() []*cobra.Command {
	return []*cobra.Command{
		a.traceCmd(), a.showCmd(), a.matrixCmd(), a.diffCmd(), a.lagCmd(), a.rollbacksCmd(), a.doraCmd(), a.unlinkedCmd(), a.alertsCmd(), a.pruneCmd(), a.rebuildCmd(), a.providersCmd(),
	}
}

func (a *app) traceCmd() *cobra.Command {
	cmd := a.ask("trace REF", "Show every hop of the deployments that a reference leads to", cobra.ExactArgs(1), func(ctx context.Context, q *question, args []string) error {
		if strings.TrimSpace(args[0]) == "" {
			return errorf(codeValidation, "reference-err", "an empty reference leads to nothing")
		}
		l, err := q.client.TraceDelivery(ctx, q.partition, args[0])
		if err != nil {
			return asked(err)
		}
		return q.show(l, func(w io.Writer) {
			for i, t := range l.Items {
				if i > 0 {
					fmt.Fprintln(w)
				}
				d := t.Deployment
				fmt.Fprintf(w, "%s  %s  %s (%s)\n", d.ID, clean(title(&d)), d.Status, clean(d.Reason))
				var rows [][]string
				for _, h := range t.Hops {
					rows = append(rows, []string{"  " + string(h.Stage), h.What, h.Status, h.Run, a.when(h.Time), h.URL})
				}
				grid(w, rows, "  STAGE", "WHAT", "STATUS", "RUN", "TIME", "LINK")
			}
		})
	})
	cmd.Long = "Show every hop, with its time and link, of the deployments that a reference leads to: a commit of any of the repositories\n(seven digits will do), an image tag or digest, a pull request, a run or an id. Exits with 1 when it leads to none."
	cmd.Example = "  waybill deployment trace c626394\n  waybill deployment trace sha256:9f86d081…\n  waybill deployment trace '#42'"
	return cmd
}

func title(d *client.Deployment) string {
	out := d.DisplayService()
	if out == "" {
		out = "(no service)"
	}
	if d.ImageTag != "" {
		out += " " + d.ImageTag
	}
	if d.Ring != "" {
		out += " for " + d.Ring
	}
	return out
}

func (a *app) showCmd() *cobra.Command {
	return a.ask("show ID", "Show a deployment and every event that it follows from", cobra.ExactArgs(1), func(ctx context.Context, q *question, args []string) error {
		d, err := q.client.Deployment(ctx, q.partition, args[0])
		if err != nil {
			return asked(err)
		}
		return q.show(d, func(w io.Writer) {
			fmt.Fprintf(w, "%s  %s  %s (%s)\n", d.ID, clean(title(&d.Deployment)), d.Status, clean(d.Reason))
			var rows [][]string
			for _, x := range [][2]string{
				{"commit", d.Commit}, {"image", d.ImageTag}, {"digest", d.ImageDigest}, {"config commit", d.ConfigCommit}, {"pull request", d.PullRequest},
				{"manifest commit", d.ManifestCommit}, {"unlinked", d.Unlinked}, {"former ids", strings.Join(d.Former, ", ")},
			} {
				if x[1] != "" {
					rows = append(rows, []string{"  " + x[0], x[1]})
				}
			}
			for _, c := range d.Clusters {
				rows = append(rows, []string{"  cluster", fmt.Sprintf("%s %s since %s (by %s)", c.Cluster, c.State, a.when(c.Since), c.Match)})
			}
			grid(w, rows, "  WHAT", "VALUE")
			rows = nil
			for _, e := range d.Events {
				rows = append(rows, []string{strconv.FormatInt(e.Seq, 10), a.when(e.ReceivedAt), string(e.Report.Kind), e.Report.Provider, e.By, payload(e.Report)})
			}
			fmt.Fprintln(w)
			grid(w, rows, "EVENT", "RECEIVED", "KIND", "SOURCE", "BY", "REPORT")
		})
	})
}

// payload is what a report says besides what stands in columns of its own.
func payload(r waybill.DeliveryReport) string {
	r.Kind, r.Provider, r.Partition = "", "", ""
	b, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return strings.Replace(strings.Replace(string(b), `"kind":"",`, "", 1), `"kind":""`, "", 1)
}

func (a *app) matrixCmd() *cobra.Command {
	var service, ring string
	cmd := a.ask("matrix", "Show what of every service is in which ring and cluster", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		m, err := q.client.DeliveryMatrix(ctx, client.GetDeliveryMatrixParams{Partition: q.partition, Service: service, Ring: ring})
		if err != nil {
			return asked(err)
		}
		q.none(len(m.Cells), "nothing was deployed")
		return q.show(m, func(w io.Writer) { q.matrix(w, m) })
	})
	cmd.Long = "Show what of every service is in which ring and cluster: tag, age and state. The column of a ring alone is what its newest manifests say."
	cmd.Flags().StringVarP(&service, "service", "s", "", "only this service")
	cmd.Flags().StringVarP(&ring, "ring", "r", "", "only this ring")
	return cmd
}

// matrix has a line for each service and a column for each ring and cluster.
func (q *question) matrix(w io.Writer, m client.DeliveryMatrix) {
	var columns, services []string
	at, line := map[string]int{}, map[string]int{}
	for _, c := range m.Cells {
		if col := place(c); at[col] == 0 {
			at[col] = len(columns) + 1
			columns = append(columns, col)
		}
		if line[c.Service] == 0 {
			services = append(services, c.Service)
			line[c.Service] = len(services)
		}
	}
	slices.Sort(columns)
	for i, c := range columns {
		at[c] = i + 1
	}
	rows := make([][]string, len(services))
	for i, s := range services {
		rows[i] = make([]string, len(columns)+1)
		rows[i][0] = waybill.DisplayService(s)
	}
	for _, c := range m.Cells {
		text := c.ImageTag + " " + span(max(0, m.At.Sub(c.Since)))
		if c.State != "" {
			text += " " + string(c.State)
		}
		rows[line[c.Service]-1][at[place(c)]] = text
	}
	head := make([]string, 0, len(columns)+1)
	head = append(head, "SERVICE")
	for _, c := range columns {
		head = append(head, strings.ToUpper(c))
	}
	grid(w, rows, head...)
}

func place(c client.MatrixCell) string {
	if c.Cluster == "" {
		return c.Ring
	}
	return c.Ring + "/" + c.Cluster
}

func (a *app) diffCmd() *cobra.Command {
	var exit bool
	cmd := a.ask("diff FROM TO", "Show the services that are not the same in two rings", cobra.ExactArgs(2), func(ctx context.Context, q *question, args []string) error {
		l, err := q.client.DiffRings(ctx, q.partition, args[0], args[1])
		if err != nil {
			return asked(err)
		}
		q.none(len(l.Items), "%s and %s are the same", args[0], args[1])
		err = q.show(l, func(w io.Writer) {
			var rows [][]string
			for _, d := range l.Items {
				rows = append(rows, []string{waybill.DisplayService(d.Service), d.From, d.To, behind(d.Behind), commits(d.ToCommit, d.FromCommit), d.Compare})
			}
			grid(w, rows, "SERVICE", strings.ToUpper(args[0]), strings.ToUpper(args[1]), "BEHIND", "COMMITS", "LINK")
		})
		if err == nil && exit && len(l.Items) > 0 {
			return quiet{}
		}
		return err
	})
	cmd.Flags().BoolVar(&exit, "exit-code", false, "exit with 1 when they differ")
	return cmd
}

func behind(n int) string {
	if n < 0 {
		return "unknown"
	}
	return strconv.Itoa(n)
}

func commits(from, to string) string {
	switch {
	case from == "" && to == "":
		return ""
	case from == "" || to == "":
		return short(from + to)
	}
	return short(from) + ".." + short(to)
}

func (a *app) lagCmd() *cobra.Command {
	return a.ask("lag FROM TO", "Show how far ring TO is behind ring FROM, service by service", cobra.ExactArgs(2), func(ctx context.Context, q *question, args []string) error {
		l, err := q.client.RingLag(ctx, q.partition, args[0], args[1])
		if err != nil {
			return asked(err)
		}
		return q.show(l, func(w io.Writer) {
			var rows [][]string
			for _, x := range l.Items {
				late := ""
				if x.Seconds > 0 {
					late = span(seconds(x.Seconds))
				}
				rows = append(rows, []string{waybill.DisplayService(x.Service), x.From, x.To, behind(x.Behind), late})
			}
			grid(w, rows, "SERVICE", strings.ToUpper(args[0]), strings.ToUpper(args[1]), "BEHIND", "FOR")
		})
	})
}

func (a *app) rollbacksCmd() *cobra.Command {
	var service, ring string
	cmd := a.ask("rollbacks", "Show what to go back to, cluster by cluster", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		l, err := q.client.Rollbacks(ctx, client.ListRollbacksParams{Partition: q.partition, Ring: ring, Service: service})
		if err != nil {
			return asked(err)
		}
		q.none(len(l.Items), "no cluster was told of")
		return q.show(l, func(w io.Writer) {
			var rows [][]string
			for _, r := range l.Items {
				back := ""
				if r.RolledBack {
					back = "rolled back"
				}
				rows = append(rows, []string{waybill.DisplayService(r.Service), r.Ring, r.Cluster, r.Current, back, r.ImageTag, r.ImageDigest, short(r.ManifestCommit), a.when(r.HealthyAt)})
			}
			grid(w, rows, "SERVICE", "RING", "CLUSTER", "NOW", "", "BACK TO", "DIGEST", "MANIFESTS", "HEALTHY")
		})
	})
	cmd.Long = "Show what to go back to, cluster by cluster: the last deployment before the present one that was healthy there and has another image."
	cmd.Flags().StringVarP(&service, "service", "s", "", "only this service")
	cmd.Flags().StringVarP(&ring, "ring", "r", "", "only this ring")
	return cmd
}

func (a *app) doraCmd() *cobra.Command {
	var service, ring, window, from, until string
	cmd := a.ask("dora", "Measure the delivery to a ring", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		p := client.MeasureDeliveryParams{Partition: q.partition, Ring: ring, Service: service, Until: a.Now()}
		length, err := age("window", window)
		if err != nil {
			return err
		}
		for _, x := range []struct {
			flag, text string
			to         *time.Time
		}{{"until", until, &p.Until}, {"from", from, &p.From}} {
			if x.text == "" {
				continue
			}
			if *x.to, err = time.Parse(time.RFC3339, x.text); err != nil {
				if *x.to, err = time.Parse(time.DateOnly, x.text); err != nil {
					return errorf(codeValidation, "time-err", "--%s is a day such as 2026-03-31, or a time such as 2026-03-31T12:00:00Z, found %q", x.flag, x.text)
				}
			}
		}
		if p.From.IsZero() {
			p.From = p.Until.Add(-length)
		}
		m, err := q.client.MeasureDelivery(ctx, p)
		if err != nil {
			return asked(err)
		}
		return q.show(m, func(w io.Writer) {
			what := "all services"
			if m.Service != "" {
				what = m.Service
			}
			fmt.Fprintf(w, "%s to %s, %s to %s\n", clean(what), clean(m.Ring), m.From.Format(time.RFC3339), m.Until.Format(time.RFC3339))
			of := func(n, all int) string { return fmt.Sprintf("%d of %d deployments", n, all) }
			dash := func(n int, text string) string {
				if n == 0 {
					return "-"
				}
				return text
			}
			grid(w, [][]string{
				{"change lead time, median", dash(m.Timed, span(seconds(m.LeadTime))), of(m.Timed, m.Deployments)},
				{"change lead time, p90", dash(m.Timed, span(seconds(m.LeadTimeP90))), ""},
				{"deployment frequency", fmt.Sprintf("%.2f a day", m.Frequency), fmt.Sprintf("%d deployments", m.Deployments)},
				{"change fail rate", dash(m.Deployments, fmt.Sprintf("%.1f %%", 100*m.FailRate)), of(m.Failed, m.Deployments)},
				{"failed deployment recovery, median", dash(m.Recovered, span(seconds(m.Recovery))), fmt.Sprintf("%d of %d failures", m.Recovered, m.Failed)},
				{"deployment rework rate", dash(m.Deployments, fmt.Sprintf("%.1f %%", 100*m.ReworkRate)), of(m.Rework, m.Deployments)},
			}, "METRIC", "VALUE", "OF")
			for _, x := range m.Approximate {
				fmt.Fprintf(w, "approximate: %s\n", clean(x))
			}
		})
	})
	cmd.Long = "Measure the delivery to a ring: the five metrics of dora.dev. What they stand on is told, and is in docs/deliveries.md."
	f := cmd.Flags()
	f.StringVarP(&ring, "ring", "r", "", "the ring that counts as production")
	f.StringVarP(&service, "service", "s", "", "only this service")
	f.StringVar(&window, "window", "30d", "`time` before the end that is measured")
	f.StringVar(&from, "from", "", "begin of what is measured, instead of --window")
	f.StringVar(&until, "until", "", "end of what is measured (default now)")
	_ = cmd.MarkFlagRequired("ring")
	return cmd
}

func (a *app) unlinkedCmd() *cobra.Command {
	var limit int
	var cursor string
	list := a.ask("list", "List what was reported and belongs to nothing that is known", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		if limit < 1 || limit > 1000 {
			return errorf(codeValidation, "limit-err", "--limit is from 1 to 1000, found %d", limit)
		}
		l, err := q.client.Unlinked(ctx, client.ListUnlinkedParams{Partition: q.partition, Limit: limit, Cursor: cursor})
		if err != nil {
			return asked(err)
		}
		q.none(len(l.Items), "everything belongs to something")
		if l.NextCursor != nil {
			q.note("there is more, see it with --cursor %s", *l.NextCursor)
		}
		return q.show(l, func(w io.Writer) {
			var rows [][]string
			for _, x := range l.Items {
				rows = append(rows, []string{x.ID, string(x.Kind), x.What, a.when(x.Since), x.Reason})
			}
			grid(w, rows, "ID", "KIND", "WHAT", "SINCE", "REASON")
		})
	})
	list.Flags().IntVar(&limit, "limit", 50, "how many at most")
	list.Flags().StringVar(&cursor, "cursor", "", "where the page before ended")
	attach := a.ask("attach ID DEPLOYMENT", "Tie an entry of the list, or a deployment, to a deployment", cobra.ExactArgs(2), func(ctx context.Context, q *question, args []string) error {
		res, err := q.client.ReportDelivery(ctx, client.DeliveryReport{
			Kind: waybill.ReportAttach, Provider: "native", Partition: q.partition, Deployment: args[0], Target: args[1], Time: a.Now(),
		})
		if err != nil {
			return asked(err)
		}
		return q.show(res, func(w io.Writer) {
			for _, d := range res.Deployments {
				fmt.Fprintf(w, "%s  %s  %s\n", d.ID, clean(title(&d)), d.Status)
			}
		})
	})
	cmd := &cobra.Command{Use: "unlinked", Short: "List what belongs to nothing that is known, and tie it to a deployment", Args: cobra.NoArgs, RunE: list.RunE}
	cmd.AddCommand(list, attach)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return failed("unlinked", errorf(codeValidation, "subcommand-err", "unlinked needs a command: list or attach"))
	}
	return cmd
}

func (a *app) alertsCmd() *cobra.Command {
	var stuck, silent string
	cmd := a.ask("alerts", "List what somebody should look at; exits with 1 when there is anything", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		after, err := age("stuck", stuck)
		if err != nil {
			return err
		}
		unheard, err := age("silent", silent)
		if err != nil {
			return err
		}
		l, err := q.client.DeliveryAlerts(ctx, q.partition, after, unheard)
		if err != nil {
			return asked(err)
		}
		q.none(len(l.Items), "nothing is stuck, unsynced, adrift or silent")
		err = q.show(l, func(w io.Writer) {
			var rows [][]string
			for _, x := range l.Items {
				rows = append(rows, []string{string(x.Kind), a.when(x.Since), x.Deployment, x.Text})
			}
			grid(w, rows, "KIND", "SINCE", "DEPLOYMENT", "WHAT")
		})
		if err == nil && len(l.Items) > 0 {
			return quiet{}
		}
		return err
	})
	cmd.Long = `List what somebody should look at, and exit with 1 when there is anything:
stuck     the next stage of a deployment has not been told of for long
unsynced  a cluster has not taken the newest manifests of its ring for long
drift     a cluster is at a revision that no deployment is known of
silent    a cluster has not been heard of for long`
	cmd.Flags().StringVar(&stuck, "stuck", "1h", "`time` after which a deployment is stuck, a cluster unsynced or adrift")
	cmd.Flags().StringVar(&silent, "silent", "1d", "`time` after which a cluster is silent")
	return cmd
}

func (a *app) pruneCmd() *cobra.Command {
	var older string
	var keep int
	var dry bool
	cmd := a.ask("prune", "Forget deployments that are old", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		d, err := age("older-than", older)
		if err != nil {
			return err
		}
		if keep < 0 {
			return errorf(codeValidation, "keep-err", "--keep is not negative, found %d", keep)
		}
		p, err := q.client.PruneDeliveries(ctx, client.PruneRequest{Partition: q.partition, OlderThanSeconds: int64(d / time.Second), Keep: keep, DryRun: dry})
		if err != nil {
			return asked(err)
		}
		verb := "were forgotten"
		if dry {
			verb = "would be forgotten"
		}
		q.note("%d deployments from before %s %s; %d stay because they are somewhere now", len(p.Deployments), p.Before.Format(time.RFC3339), verb, p.Live)
		return q.show(p, func(w io.Writer) {
			var rows [][]string
			for _, x := range p.Deployments {
				rows = append(rows, []string{x.ID, waybill.DisplayService(x.Service), x.Ring, x.ImageTag, a.when(x.UpdatedAt)})
			}
			grid(w, rows, "ID", "SERVICE", "RING", "IMAGE", "UPDATED")
		})
	})
	cmd.Long = `Forget deployments that are older than some time and not among the newest of their service and ring. What a cluster
runs now, or the newest manifests of a ring say, stays. The events stay: making the deployments again from them
does not bring back what was forgotten.`
	cmd.Example = "  waybill deployment prune --older-than 90d --keep 5 --dry-run"
	cmd.Flags().StringVar(&older, "older-than", "", "`time` since the last news, such as 90d")
	cmd.Flags().IntVar(&keep, "keep", 5, "how many of each service and ring stay whatever their age")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only list them")
	_ = cmd.MarkFlagRequired("older-than")
	return cmd
}

func (a *app) rebuildCmd() *cobra.Command {
	cmd := a.ask("rebuild", "Make the deployments again from their events", cobra.NoArgs, func(ctx context.Context, q *question, _ []string) error {
		r, err := q.client.RebuildDeliveries(ctx, q.partition)
		if err != nil {
			return asked(err)
		}
		return q.show(r, func(w io.Writer) {
			fmt.Fprintf(w, "%d deployments follow from %d events; %d stored values were corrected\n", r.Rows, r.Events, r.Fixed)
		})
	})
	cmd.Long = "Make the deployments of a project again from the events that were reported, and correct what is stored where it differs. Reports go on meanwhile."
	return cmd
}
