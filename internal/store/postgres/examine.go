package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/internal/store"
)

var _ store.Examiner = (*Store)(nil)

// least is the oldest version of PostgreSQL that is tested.
const least = 15

// Examine implements store.Examiner.
func (s *Store) Examine(ctx context.Context, deep bool) []store.Finding {
	var out []store.Finding
	add := func(check string, status store.Status, hint, format string, args ...any) {
		if status == store.OK {
			hint = ""
		}
		out = append(out, store.Finding{Check: "store." + check, Status: status, Detail: fmt.Sprintf(format, args...), Hint: hint})
	}
	set := map[string]string{}
	rows, err := s.read.Query(ctx, `SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'server_version_num', 'synchronous_commit',
		'synchronous_standby_names', 'fsync', 'full_page_writes', 'max_connections', 'max_prepared_transactions', 'data_checksums', 'wal_level')`)
	if err == nil {
		var name, value string
		_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error { set[name] = value; return nil })
	}
	if err != nil {
		add("connection", store.Fail, "look at the database and its address", "%v", s.failed(ctx, "settings", err))
		return out
	}
	num, _ := strconv.Atoi(set["server_version_num"]) // 0 warns
	add("version", pick(num/10000 < least), fmt.Sprintf("use PostgreSQL %d or newer", least), "PostgreSQL %s at %s", set["server_version"], s.where)
	s.examineDurability(ctx, set, add)
	s.examineLoad(ctx, set, add)
	if deep {
		s.examineCounts(ctx, add)
	}
	return out
}

type adder func(check string, status store.Status, hint, format string, args ...any)

func pick(warn bool) store.Status {
	if warn {
		return store.Warn
	}
	return store.OK
}

// examineDurability looks at what becomes of a commit that was acknowledged.
func (s *Store) examineDurability(ctx context.Context, set map[string]string, add adder) {
	if set["fsync"] == "off" || set["full_page_writes"] == "off" {
		add("fsync", store.Fail, "set fsync = on and full_page_writes = on", "fsync is %s, full_page_writes is %s: a crash of the machine can destroy the database", set["fsync"], set["full_page_writes"])
	} else {
		add("fsync", store.OK, "", "fsync and full_page_writes are on")
	}
	var standbys, sync int
	var states []string
	rows, err := s.read.Query(ctx, "SELECT coalesce(application_name, ''), coalesce(sync_state, '') FROM pg_stat_replication WHERE state = 'streaming'")
	if err == nil {
		var name, state string
		_, err = pgx.ForEachRow(rows, []any{&name, &state}, func() error {
			standbys++
			if state == "sync" || state == "quorum" {
				sync++
			}
			if state == "" {
				state = "unknown to this user"
			}
			states = append(states, name+" "+state)
			return nil
		})
	}
	if err != nil {
		add("standby", store.Warn, "", "standbys are not known: %v", s.failed(ctx, "standbys", err))
		return
	}
	commit, names := set["synchronous_commit"], set["synchronous_standby_names"]
	switch {
	case commit == "off":
		add("synchronous_commit", store.Fail, "set synchronous_commit = on for waybill's user or database", "synchronous_commit is off: work that was accepted is lost when PostgreSQL crashes")
	case (commit == "local") && standbys > 0:
		add("synchronous_commit", store.Warn, "set synchronous_commit = on", "synchronous_commit is local: work that was accepted is lost when a standby is promoted")
	default:
		add("synchronous_commit", store.OK, "", "synchronous_commit is %s", commit)
	}
	const hint = "set synchronous_standby_names so that a commit waits for one, see docs/guides/backup.md"
	switch {
	case standbys == 0 && names == "":
		add("standby", store.OK, "", "no standby")
	case standbys == 0:
		add("standby", store.Fail, "start the standby, or empty synchronous_standby_names: commits wait for it", "commits wait for %s, and no standby is connected", names)
	case sync == 0 && strings.Contains(strings.Join(states, " "), "unknown"):
		add("standby", store.Warn, "let waybill's user see it: GRANT pg_monitor TO …", "%d standbys (%s)", standbys, strings.Join(states, ", "))
	case sync == 0:
		add("standby", store.Warn, hint, "%d standbys, none of them synchronous (%s): when one is promoted, the latest work that was accepted can be lost", standbys, strings.Join(states, ", "))
	default:
		add("standby", store.OK, "", "%d standbys (%s)", standbys, strings.Join(states, ", "))
	}
}

// examineLoad looks at connections and at transactions that hold things up.
func (s *Store) examineLoad(ctx context.Context, set map[string]string, add adder) {
	var used, ours int
	var oldest float64
	err := s.read.QueryRow(ctx, `SELECT count(*) FILTER (WHERE backend_type = 'client backend'), count(*) FILTER (WHERE application_name = current_setting('application_name')),
		coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)) FILTER (WHERE backend_xid IS NOT NULL AND datname = current_database()), 0)
		FROM pg_stat_activity`).Scan(&used, &ours, &oldest)
	if err != nil {
		add("connections", store.Warn, "", "connections are not known: %v", s.failed(ctx, "connections", err))
		return
	}
	limit, _ := strconv.Atoi(set["max_connections"])
	// A server needs a pool each for reading and for work, committers and a listener.
	need := int(s.read.Config().MaxConns+s.work.Config().MaxConns) + s.opts.Committers + 2
	add("connections", pick(limit-used < need), "raise max_connections, or set pool_max_conns in the address of the store",
		"%d of %d connections in use, a server of Waybill takes up to %d", used, limit, need)
	add("transactions", pick(oldest > 60), "find it in pg_stat_activity and end it: nobody sees new records meanwhile", "the oldest writing transaction has run for %.0f s", oldest)
}

func (s *Store) examineCounts(ctx context.Context, add adder) {
	var wrong, broken int
	err := s.read.QueryRow(ctx, `WITH c AS (SELECT tenant, name, sum(n)::bigint AS n FROM counter WHERE tbl = '.depth' GROUP BY tenant, name),
			l AS (SELECT tenant, topic, sum(n)::bigint AS n FROM lane GROUP BY tenant, topic)
		SELECT count(*) FILTER (WHERE coalesce(c.n, 0) <> coalesce(l.n, 0)),
			(SELECT count(*) FROM lane x WHERE x.n <> (SELECT count(*) FROM msg m WHERE m.topic = x.topic AND m.tenant = x.tenant AND m.key = x.key))
		FROM c FULL JOIN l ON l.tenant = c.tenant AND l.topic = c.name`).Scan(&wrong, &broken)
	switch {
	case err != nil:
		add("counters", store.Fail, "", "the counters cannot be checked: %v", s.failed(ctx, "counters", err))
	case wrong+broken > 0:
		add("counters", store.Fail, "make a backup, then copy the store into an empty one (waybill store copy), which counts anew",
			"%d topics and %d lanes hold another number of messages than they say", wrong, broken)
	default:
		add("counters", store.OK, "", "counters agree with what they count")
	}
}
