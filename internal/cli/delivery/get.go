package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/delivery/spektate"
)

// watchEvery is the time between two looks of get --watch.
const watchEvery = 5 * time.Second

// get are the flags of get.
type get struct {
	build, commit, deployment, imageTag, ring, service string
	partition, top, output                             string
	watch, noUnicode, hideSeparators                   bool
}

func (a *app) getCmd() *cobra.Command {
	var f get
	cmd := &cobra.Command{
		Use: "get", Aliases: []string{"g"}, Short: "List deployments, those with the newest news first", Args: cobra.NoArgs,
		Long: `List deployments, those with the newest news first. Filters must all be met; their values have no case,
and a service is found with or without its owner.

Under OK stands how the run before it ended: ✓ succeeded, ✗ failed or canceled, … runs or waits,
nothing when nobody said. With --no-unicode these are ok, x and ...`,
		Example: `  waybill deployment get --ring prod --top 10
  waybill deployment get -o wide --watch
  waybill deployment get -o json --image-tag app:1`,
		RunE: func(cmd *cobra.Command, _ []string) error { return failed("get", a.get(cmd.Context(), f)) },
	}
	x := cmd.Flags()
	x.StringVarP(&f.build, "build-id", "b", "", "of this run of the build")
	x.StringVarP(&f.commit, "commit-id", "c", "", "of this commit of the source")
	x.StringVarP(&f.deployment, "deployment-id", "d", "", "with this id")
	x.StringVarP(&f.imageTag, "image-tag", "i", "", "of this image")
	x.StringVarP(&f.ring, "ring", "r", "", "of this ring")
	x.StringVarP(&f.ring, "env", "e", "", "of this ring")
	x.StringVarP(&f.service, "service", "s", "", "of this service")
	x.StringVarP(&f.partition, "partition-key", "p", "", "of this project (INTROSPECTION_PARTITION_KEY)")
	x.StringVarP(&f.top, "top", "t", "50", "at most so many; empty lists all")
	x.StringVarP(&f.output, "output", "o", "normal", "normal, wide or json")
	x.BoolVarP(&f.watch, "watch", "w", false, "look again every 5 seconds until interrupted")
	x.BoolVar(&f.hideSeparators, "hide-separators", false, "leave the lines between columns out")
	x.BoolVar(&f.noUnicode, "no-unicode", false, "use letters of ASCII only")
	x.Lookup("env").Hidden = true // the older name of ring
	return cmd
}

func (a *app) get(ctx context.Context, f get) error {
	if err := oneOf("output", &f.output, "normal", "wide", "json"); err != nil {
		return err
	}
	limit, err := top(f.top)
	if err != nil {
		return err
	}
	s, err := a.load()
	if err != nil {
		return err
	}
	q := client.ListDeploymentsParams{
		Partition: s.partition(f.partition), ID: strings.TrimSpace(f.deployment), Build: strings.TrimSpace(f.build), Commit: strings.TrimSpace(f.commit),
		ImageTag: strings.TrimSpace(f.imageTag), Ring: strings.TrimSpace(f.ring), Service: strings.TrimSpace(f.service),
	}
	look := &look{app: a, flags: f, limit: limit, query: q}
	retry := time.Duration(0)
	if f.watch {
		retry = -1 // the next look is the repetition
	}
	if look.client, err = a.connect(s, retry); err != nil {
		return err
	}
	if !f.watch {
		return look.once(ctx)
	}
	return look.watch(ctx)
}

// top reads how many rows are wanted; 0 is all.
func top(text string) (int, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, errorf(codeValidation, "introspect-get-cmd-err-top", "--top %s is no positive number", text)
	}
	return n, nil
}

// look is a list of deployments that is asked for once or again and again.
type look struct {
	*app
	client *client.Client
	flags  get
	limit  int
	query  client.ListDeploymentsParams
	shown  bool   // the screen holds an earlier list
	noted  string // what was last said of lookups that do not work
}

// rows are the deployments that are asked for.
func (l *look) rows(ctx context.Context) ([]client.Deployment, error) {
	out := []client.Deployment{}
	q := l.query
	for {
		q.Limit = 1000
		if l.limit > 0 {
			q.Limit = min(l.limit-len(out), 1000)
		}
		page, err := l.client.Deployments(ctx, q)
		if err != nil {
			return nil, errorf(codeFlow, "introspect-get-cmd-fetch-err", "the deployments cannot be listed").because(storage(err))
		}
		out = append(out, page.Items...)
		if q.Cursor == "" {
			l.tell(page)
		}
		if page.NextCursor == nil || *page.NextCursor == "" || l.limit > 0 && len(out) >= l.limit {
			return out, nil
		}
		q.Cursor = *page.NextCursor
	}
}

// storage says that it is the keeper of deployments that failed.
func storage(err error) error {
	return errorf(codeStorage, "deployment-server-err", "the server did not answer with deployments").because(err)
}

func (l *look) once(ctx context.Context) error {
	rows, err := l.rows(ctx)
	if err != nil {
		return err
	}
	if len(rows) == 0 && l.flags.output != "json" {
		l.note("no deployments found")
	}
	return l.print(l.Stdout, rows)
}

// tell says, once when, that what is shown may be old or not complete: runs, authors, pull
// requests and clusters come from providers, who may not answer the server.
func (l *look) tell(page client.DeploymentList) {
	var words []string
	if page.Stale {
		text := "what is shown may be old"
		if page.Age > 0 {
			text = fmt.Sprintf("what is shown may be %s old", (time.Duration(page.Age) * time.Second).Round(time.Second))
		}
		words = append(words, text)
	}
	if l.flags.output == "wide" && len(page.Notes) > 0 {
		words = append(words, "some columns may be incomplete: "+strings.Join(page.Notes, "; "))
	}
	text := strings.Join(words, "; ")
	if text != "" && text != l.noted {
		l.note("%s", text)
	}
	l.noted = text
}

func (l *look) print(w io.Writer, rows []client.Deployment) error {
	now := l.Now()
	if l.flags.output == "json" {
		list := make([]spektate.Deployment, len(rows))
		for i := range rows {
			list[i] = spektate.Of(&rows[i], now)
			list[i].Author, list[i].PullRequest = nil, nil
		}
		return printJSON(w, list)
	}
	if len(rows) == 0 {
		return nil
	}
	t := newTable(rows, tableOptions{wide: l.flags.output == "wide", ascii: l.flags.noUnicode, separators: !l.flags.hideSeparators, now: now})
	_, err := io.WriteString(w, t.String())
	return err
}

// watch looks again and again until it is interrupted. What cannot be right later ends it;
// what may pass is told, and the next look follows.
func (l *look) watch(ctx context.Context) error {
	for {
		began := l.Now()
		// An answer that comes later than the next look is due is of no use.
		one, cancel := context.WithTimeout(ctx, watchEvery)
		rows, err := l.rows(one)
		cancel()
		switch kind := client.KindOf(err); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			if err := l.redraw(rows); err != nil {
				return err
			}
		case !l.shown && (kind == waybill.KindInvalid || kind == waybill.KindMalformed || kind == waybill.KindUnauthorized || kind == waybill.KindForbidden || kind == waybill.KindNotFound):
			return err
		case errors.Is(err, context.DeadlineExceeded):
			l.note("warning: the server did not answer within %s", watchEvery)
		default:
			l.note("warning: %v", root(err))
		}
		if err := l.Wait(ctx, max(0, watchEvery-l.Now().Sub(began))); err != nil {
			return nil // interrupted, which is how it ends
		}
	}
}

// root is the last cause.
func root(err error) error {
	for {
		var chain *Error
		if !errors.As(err, &chain) || chain.Err == nil {
			return err
		}
		err = chain.Err
	}
}

// redraw puts a list where the earlier one stood, on a terminal; elsewhere it follows it.
func (l *look) redraw(rows []client.Deployment) error {
	var b strings.Builder
	if err := l.print(&b, rows); err != nil {
		return err
	}
	text := b.String()
	if len(rows) == 0 && l.flags.output != "json" {
		text = "no deployments found\n"
	}
	// JSON is for programs, also on a terminal: cut to the screen it would be none.
	if !l.Terminal(l.Stdout) || l.flags.output == "json" {
		if l.shown && l.flags.output != "json" {
			text = "\n" + text
		}
		l.shown = true
		_, err := io.WriteString(l.Stdout, text)
		return err
	}
	width, height := l.size()
	out := "\x1b[H" // home; the lines are written over, so that nothing flickers
	if !l.shown {
		out = "\x1b[2J\x1b[H"
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if height > 2 && len(lines) > height-1 {
		more := len(lines) - (height - 2)
		lines = append(lines[:height-2], fmt.Sprintf("(%d more)", more))
	}
	for _, line := range lines {
		out += cut(line, width) + "\x1b[K\r\n"
	}
	l.shown = true
	_, err := io.WriteString(l.Stdout, out+"\x1b[J")
	return err
}

// size is that of the terminal, zero when it cannot be told.
func (l *look) size() (width, height int) {
	if f, ok := l.Stdout.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			return w, h
		}
	}
	return 0, 0
}

// cut shortens a line to a width, so that it takes one line of a terminal.
func cut(line string, width int) string {
	if width < 1 {
		return line
	}
	r := []rune(line)
	if len(r) > width {
		return string(r[:width])
	}
	return line
}
