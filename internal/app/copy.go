package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// copied is the result of a copy.
type copied struct {
	From   string           `json:"from"`
	To     string           `json:"to"`
	Counts map[string]int64 `json:"counts"`
	Sum    string           `json:"sum"`
}

func storeCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "copy --from STORE --to STORE",
		Short: "Copy a store that nobody uses into an empty one",
		Long: `Copy all that a store holds into an empty one: rows, messages with their order, attempts and times, dead
letters, timelines. A store is sqlite:DIR, the data directory of a server, or a postgres:// URL. All servers
of both must be stopped. The copy is made as a whole or not at all, and compared with what it was made of.

  waybill store copy --from sqlite:.waybill --to postgres://waybill@db/waybill
  waybill up --data .waybill --store postgres://waybill@db/waybill

Objects, logs and keys stay where they are; a server on the copy goes on with the data directory it had.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return waybill.E(waybill.KindInvalid, "name both stores: --from STORE --to STORE")
			}
			c, err := copyStore(cmd.Context(), from, to)
			if err != nil {
				return err
			}
			var b strings.Builder
			for _, kind := range slices.Sorted(maps.Keys(c.Counts)) {
				fmt.Fprintf(&b, "%-24s %d\n", strings.TrimPrefix(kind, "."), c.Counts[kind])
			}
			fmt.Fprintf(&b, "copied and compared: %s\n", c.Sum)
			return printResult(cmd, c, b.String())
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "sqlite:DIR, or a postgres:// URL")
	cmd.Flags().StringVar(&to, "to", "", "sqlite:DIR, or a postgres:// URL; it must be empty")
	group := &cobra.Command{Use: "store", Short: "Work on stores that nobody uses", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	group.AddCommand(cmd)
	return group
}

// openFor opens a store by the name that users give it, with a lock on its data
// directory where it has one.
func openFor(ctx context.Context, name string, fresh bool) (store.Store, func() error, error) {
	quiet := slog.New(slog.DiscardHandler)
	dir, local := strings.CutPrefix(name, "sqlite:")
	if !local {
		if name == "sqlite" {
			return nil, nil, waybill.E(waybill.KindInvalid, "name the data directory of the store: sqlite:DIR")
		}
		st, err := openStore(ctx, name, nil, quiet)
		if err != nil {
			return nil, nil, err
		}
		return st, st.Close, nil
	}
	_, err := os.Stat(filepath.Join(dir, storeFile))
	if !fresh && err != nil {
		return nil, nil, waybill.E(waybill.KindNotFound, "there is no store: %w", err).WithOp("open", name)
	}
	made := errors.Is(err, os.ErrNotExist)
	d, err := openDataDir(dir)
	if err != nil {
		return nil, nil, err
	}
	if made {
		// A server that used another store in this directory has left the mark of none.
		if _, err := os.Stat(d.join("store.used")); err == nil {
			return nil, nil, errors.Join(waybill.E(waybill.KindConflict, "the data directory had a store, and it is missing").WithOp("open", name), d.Close())
		}
	}
	st, err := openStore(ctx, "sqlite", d, quiet)
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	return st, func() error { return errors.Join(st.Close(), d.Close()) }, nil
}

// copyStore copies a store and compares the copy.
func copyStore(ctx context.Context, fromName, toName string) (c copied, err error) {
	from, closeFrom, err := openFor(ctx, fromName, false)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, closeFrom()) }()
	to, closeTo, err := openFor(ctx, toName, true)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, closeTo()) }()
	c.From, c.To = from.Info().Where, to.Info().Where
	if err := unused(ctx, from); err != nil {
		return c, err
	}
	items, err := renumbered(ctx, from, to)
	if err != nil {
		return c, err
	}
	var was store.Digest
	if err := to.Import(ctx, store.Digested(items, &was)); err != nil {
		var w *waybill.Error
		if errors.As(err, &w) {
			return c, w.WithOp("copy into", c.To)
		}
		return c, err
	}
	is, err := store.DigestOf(ctx, to)
	if err == nil {
		err = was.Compare(is)
	}
	if err == nil {
		err = sameCounts(ctx, from, to)
	}
	if err != nil {
		return c, waybill.E(waybill.KindInternal, "the copy is not what it was made of: %w", err).WithHint("do not use it: empty %s and copy again", c.To)
	}
	c.Counts, c.Sum = is.Counts, is.Sum()
	return c, nil
}

// unused refuses a store whose servers live.
func unused(ctx context.Context, st store.Store) error {
	rows, err := st.Scan(ctx, "", "node", "", 0)
	if err != nil || st.Info().Engine == "sqlite" { // there the lock says it
		return err
	}
	for _, r := range rows {
		var n struct {
			At    time.Time `json:"at"`
			Lease string    `json:"lease"`
		}
		if err := json.Unmarshal(r.Val, &n); err != nil {
			continue
		}
		lease, err := time.ParseDuration(n.Lease)
		if err != nil {
			lease = 15 * time.Second
		}
		if left := lease - st.Now().Sub(n.At); left > 0 {
			return waybill.E(waybill.KindConflict, "server %s used the store %s ago", r.Key, st.Now().Sub(n.At).Round(time.Second)).
				WithOp("copy", st.Info().Where).WithHint("stop all its servers, and wait for %s if one was killed", left.Round(time.Second))
		}
	}
	return nil
}

// sameCounts compares what lists and pages show.
func sameCounts(ctx context.Context, a, b store.Store) error {
	for _, t := range append(Schema(), store.Dead()) {
		x, err := a.Counts(ctx, "", t.Name)
		if err != nil {
			return err
		}
		y, err := b.Counts(ctx, "", t.Name)
		if err != nil {
			return err
		}
		if !maps.Equal(x, y) {
			return fmt.Errorf("counters of %s: %v against %v", t.Name, x, y)
		}
	}
	x, err := a.Topics(ctx, "*")
	if err != nil {
		return err
	}
	y, err := b.Topics(ctx, "*")
	if err != nil {
		return err
	}
	type depth struct{ n, dead, lanes int64 }
	depths := func(stats []store.TopicStat) map[string]depth {
		m := map[string]depth{}
		for _, s := range stats {
			m[s.Tenant+"/"+s.Topic] = depth{s.Depth, s.Dead, s.Lanes}
		}
		return m
	}
	if p, q := depths(x), depths(y); !maps.Equal(p, q) {
		return fmt.Errorf("topics: %v against %v", p, q)
	}
	return nil
}

// tableFeed is the table whose rows hold a place in the event log.
const tableFeed = "feed"

// renumbered is the export of a store as another one needs it: SQLite numbers events
// anew, and the places of feeds go along.
func renumbered(ctx context.Context, from, to store.Store) (iter.Seq2[store.Item, error], error) {
	if from.Info().Engine != "postgres" || to.Info().Engine != "sqlite" {
		return from.Export(ctx), nil
	}
	places := map[string]int64{} // cursor → how many events are not behind it
	for i, err := range from.Export(ctx) {
		if err != nil {
			return nil, err
		}
		switch {
		case i.Row != nil && i.Row.Table == tableFeed:
			if c := feedCursor(i.Row.Val); c != "" {
				places[c] = 0
			}
		case i.Event != nil:
			for c := range places {
				if !behind(string(i.Event.Cursor), c) {
					places[c]++
				}
			}
		}
	}
	return func(yield func(store.Item, error) bool) {
		for i, err := range from.Export(ctx) {
			if err == nil && i.Row != nil && i.Row.Table == tableFeed {
				if c := feedCursor(i.Row.Val); c != "" {
					var row map[string]json.RawMessage
					if err = json.Unmarshal(i.Row.Val, &row); err == nil {
						row["cursor"] = json.RawMessage(fmt.Sprintf(`"%d"`, places[c]))
						r := *i.Row
						r.Val, err = json.Marshal(row)
						i.Row = &r
					}
				}
			}
			if !yield(i, err) {
				return
			}
		}
	}, nil
}

func feedCursor(val []byte) string {
	var row struct {
		Cursor string `json:"cursor"`
	}
	if json.Unmarshal(val, &row) != nil {
		return ""
	}
	return row.Cursor
}

// behind reports whether the event at a cursor of PostgreSQL comes after another.
func behind(a, b string) bool {
	var p, q [2]int64
	if _, err := fmt.Sscanf(a, "%d.%d", &p[0], &p[1]); err != nil {
		return true
	}
	if _, err := fmt.Sscanf(b, "%d.%d", &q[0], &q[1]); err != nil {
		return true
	}
	return p[0] > q[0] || p[0] == q[0] && p[1] > q[1]
}
