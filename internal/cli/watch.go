package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// watch shows the progress of a run until it has ended, and prints it then. It
// fails if the run did not succeed.
func (a *app) watch(ctx context.Context, c *client.Client, id string) error {
	if a.format == "text" {
		a.note("run %s", id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- c.FollowEvents(ctx, id, "", func(client.Record) error {
			select {
			case changed <- struct{}{}:
			default: // a look is due already
			}
			return nil
		})
	}()
	show := a.progress()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var run client.RunDetail
	look := func() error {
		d, err := c.Run(ctx, id)
		if err == nil {
			run = d
			show.update(d)
		}
		return err
	}
	for {
		var err error
		select {
		case <-changed:
			err = look()
		case <-tick.C:
			show.update(run)
			continue
		case err = <-ended:
			if err == nil {
				if err = look(); err == nil {
					return a.outcome(run)
				}
			}
		}
		if ctx.Err() != nil {
			show.end()
			a.note("run %s goes on without being watched", id)
			a.note("hint: see it with: waybill run show %s; stop it with: waybill run cancel %s", id, id)
			return &failed{}
		}
		if err != nil {
			show.end()
			return err
		}
	}
}

// outcome prints a run that has ended.
func (a *app) outcome(run client.RunDetail) error {
	if err := a.print(run, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\n", clean(run.ID), run.Status) }); err != nil {
		return err
	}
	if run.Status == waybill.StatusSucceeded {
		return nil
	}
	if run.Error != "" {
		return &failed{fmt.Sprintf("run %s %s: %s", run.ID, statusWords(run.Status), run.Error)}
	}
	return &failed{fmt.Sprintf("run %s %s", run.ID, statusWords(run.Status))}
}

func statusWords(s waybill.Status) string {
	switch s {
	case waybill.StatusTimedOut:
		return "timed out"
	case waybill.StatusCanceled:
		return "was canceled"
	case waybill.StatusLost:
		return "was lost"
	}
	return string(s)
}

// progress shows the steps of a run as they change.
type progress struct {
	a     *app
	live  bool
	drawn int                       // lines on the terminal
	last  map[string]waybill.Status // what was told of each step
}

func (a *app) progress() *progress {
	return &progress{a: a, live: a.Terminal(a.Stderr), last: map[string]waybill.Status{}}
}

func (p *progress) update(run client.RunDetail) {
	if !p.live {
		for _, s := range run.Steps {
			if p.last[s.Name] == s.Status || s.Status == waybill.StatusQueued {
				continue
			}
			p.last[s.Name] = s.Status
			p.a.note("%s", p.line(s, 0))
		}
		return
	}
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	width := 0
	for _, s := range run.Steps {
		width = max(width, len(clean(s.Name)))
	}
	for _, s := range run.Steps {
		fmt.Fprintf(&b, "\x1b[2K%s\n", p.line(s, width))
	}
	p.drawn = len(run.Steps)
	fmt.Fprint(p.a.Stderr, b.String())
}

func (p *progress) line(s client.Step, width int) string {
	text := fmt.Sprintf("%-*s  %s", width, clean(s.Name), strings.ReplaceAll(string(s.Status), "_", " "))
	if width == 0 {
		text = fmt.Sprintf("step %s: %s", clean(s.Name), s.Status)
	}
	if s.Attempts > 1 {
		text += fmt.Sprintf(", attempt %d", s.Attempts)
	}
	if d := p.a.took(s.StartedAt, s.FinishedAt); d != "" && (p.live || s.Status.Terminal()) {
		text += " (" + d + ")"
	}
	if s.Error != "" {
		text += ": " + shorten(clean(s.Error), 60)
	}
	return text
}

// end leaves the terminal below what was drawn.
func (p *progress) end() {
	if p.live && p.drawn > 0 {
		fmt.Fprintln(p.a.Stderr)
	}
}

func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
