package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/waybill-run/waybill/internal/store"
)

var _ interface {
	store.Examiner
	store.Snapshotter
} = (*Store)(nil)

// quickLimit is the size up to which a look that is not deep checks every page.
const quickLimit = 1 << 30

// Examine implements store.Examiner.
func (s *Store) Examine(ctx context.Context, deep bool) []store.Finding {
	out := []store.Finding{s.examinePages(ctx, deep), s.examineLog()}
	if deep {
		out = append(out, s.examineCounts(ctx))
	}
	return out
}

func (s *Store) examinePages(ctx context.Context, deep bool) store.Finding {
	f := store.Finding{Check: "store.integrity", Status: store.OK}
	var size int64
	if st, err := os.Stat(s.path); err == nil {
		size = st.Size()
	}
	if !deep && size > quickLimit {
		f.Detail = fmt.Sprintf("%s in one file, not checked", bytes(size))
		f.Hint = "check all of it with --deep"
		return f
	}
	check := "quick_check"
	if deep {
		check = "integrity_check"
	}
	rows, err := s.read.QueryContext(ctx, "PRAGMA "+check+"(20)")
	var bad []string
	if err == nil {
		for rows.Next() {
			var line string
			if err = rows.Scan(&line); err != nil {
				break
			}
			if line != "ok" {
				bad = append(bad, line)
			}
		}
		err = errors.Join(err, errorsOf(rows))
	}
	switch {
	case err != nil:
		f.Status, f.Detail, f.Hint = store.Fail, "the file cannot be checked: "+err.Error(), hintBackup
	case len(bad) > 0:
		f.Status, f.Detail, f.Hint = store.Fail, "the file is damaged: "+strings.Join(bad, "; "), hintBackup
	default:
		f.Detail = fmt.Sprintf("%s, %s: ok", bytes(size), strings.ReplaceAll(check, "_", " "))
	}
	return f
}

func (s *Store) examineLog() store.Finding {
	f := store.Finding{Check: "store.log", Status: store.OK}
	st, err := os.Stat(s.path + "-wal")
	if err != nil {
		f.Detail = "no write-ahead log"
		return f
	}
	f.Detail = "write-ahead log of " + bytes(st.Size())
	if st.Size() > 4*logPatience {
		f.Status = store.Warn
		f.Hint = "somebody has been reading the store for long; end programs that have store.db open"
	}
	return f
}

// examineCounts adds up what counters should say.
func (s *Store) examineCounts(ctx context.Context) store.Finding {
	f := store.Finding{Check: "store.counters", Status: store.OK, Detail: "counters agree with what they count"}
	var wrong int
	err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM topic t
		WHERE coalesce((SELECT sum(l.n) FROM lane l WHERE l.topic=t.id), 0) <> coalesce((SELECT c.n FROM counter c WHERE c.tbl='.depth' AND c.tenant=t.tenant AND c.name=t.topic), 0)
		   OR (SELECT coalesce(sum(l.n-1), 0) FROM lane l WHERE l.topic=t.id) <> (SELECT count(*) FROM msg m JOIN lane l ON l.id=m.lane WHERE l.topic=t.id)`).Scan(&wrong)
	switch {
	case err != nil:
		f.Status, f.Detail = store.Fail, "the counters cannot be checked: "+err.Error()
	case wrong > 0:
		f.Status, f.Detail = store.Fail, fmt.Sprintf("%d topics hold another number of messages than they say", wrong)
		f.Hint = "make a backup, then copy the store into an empty one (waybill store copy), which counts anew"
	}
	return f
}

// bytes writes a size for people.
func bytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d KiB", (n+1023)/1024)
}
