PRAGMA application_id=1465467468;
PRAGMA user_version=1;
CREATE TABLE applied (tenant TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE counter (
  tbl TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY (tbl, tenant, name)
) WITHOUT ROWID;
CREATE TABLE descriptor (tbl TEXT PRIMARY KEY, version INTEGER NOT NULL, shape TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, subject TEXT NOT NULL, kind TEXT NOT NULL,
  at INTEGER NOT NULL, data BLOB
);
CREATE TABLE lane (
  id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, key TEXT NOT NULL,
  ready_at INTEGER NOT NULL, rank INTEGER, prio INTEGER NOT NULL,
  token TEXT NOT NULL, owner TEXT NOT NULL,
  attempt INTEGER NOT NULL, fails INTEGER NOT NULL,
  n INTEGER NOT NULL, tail INTEGER NOT NULL, held INTEGER NOT NULL,
  sent_at INTEGER NOT NULL, body BLOB NOT NULL,
  UNIQUE (topic, key)
);
CREATE TABLE msg (
  lane INTEGER NOT NULL, seq INTEGER NOT NULL, ready_at INTEGER NOT NULL,
  sent_at INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (lane, seq)
) WITHOUT ROWID;
CREATE TABLE paused (topic TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE t_dead (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL,
		val BLOB NOT NULL, counters TEXT NOT NULL, c_topic TEXT, c_dead_at INTEGER, UNIQUE (key, tenant));
CREATE TABLE t_thing (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL,
		val BLOB NOT NULL, counters TEXT NOT NULL, c_n INTEGER, UNIQUE (key, tenant));
CREATE TABLE topic (
  id INTEGER PRIMARY KEY, topic TEXT NOT NULL, tenant TEXT NOT NULL, UNIQUE (topic, tenant)
);
INSERT INTO applied (tenant, id, at) VALUES ('default', 'once-0', 1767225600000000);
INSERT INTO applied (tenant, id, at) VALUES ('default', 'once-1', 1767225600000000);
INSERT INTO applied (tenant, id, at) VALUES ('default', 'once-2', 1767225600000000);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('.depth', 'default', 'bad', 0);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('.depth', 'default', 'later', 3);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('.depth', 'default', 't', 3);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('.lanes', 'default', 'bad', 0);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('.lanes', 'default', 'later', 1);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('.lanes', 'default', 't', 1);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('dead', 'default', 'topic:bad', 1);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('thing', 'default', 'all', 3);
INSERT INTO counter (tbl, tenant, name, n) VALUES ('thing', 'other', 'all', 1);
INSERT INTO descriptor (tbl, version, shape) VALUES ('dead', 1, 'topic:0 dead_at:1 (topic,dead_at) (dead_at) ');
INSERT INTO descriptor (tbl, version, shape) VALUES ('thing', 1, 'n:1 (n) ');
INSERT INTO event (seq, tenant, subject, kind, at, data) VALUES (1, 'default', 's', 'k', 1767225600000000, X'30');
INSERT INTO event (seq, tenant, subject, kind, at, data) VALUES (2, 'default', 's', 'k', 1767225600000000, X'31');
INSERT INTO event (seq, tenant, subject, kind, at, data) VALUES (3, 'default', 's', 'k', 1767225600000000, X'32');
INSERT INTO lane (id, topic, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, sent_at, body) VALUES (1, 1, 'lane', 1767225600000000, 1767225600000000, 0, '', '', 0, 0, 3, 3, 0, 1767225600000000, X'30');
INSERT INTO lane (id, topic, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, sent_at, body) VALUES (2, 2, 'l', 1767229200000000, NULL, 0, '', '', 0, 0, 3, 3, 0, 1767225600000000, X'78');
INSERT INTO msg (lane, seq, ready_at, sent_at, body) VALUES (1, 2, 1767225600000000, 1767225600000000, X'31');
INSERT INTO msg (lane, seq, ready_at, sent_at, body) VALUES (1, 3, 1767225600000000, 1767225600000000, X'32');
INSERT INTO msg (lane, seq, ready_at, sent_at, body) VALUES (2, 2, 1767229200000000, 1767225600000000, X'78');
INSERT INTO msg (lane, seq, ready_at, sent_at, body) VALUES (2, 3, 1767229200000000, 1767225600000000, X'78');
INSERT INTO paused (topic) VALUES ('later');
INSERT INTO t_dead (id, tenant, key, rev, val, counters, c_topic, c_dead_at) VALUES (1, 'default', 'bad/019b76da-a800-7000-ac8b-75a19bf21006', 1, X'7B22746F706963223A22626164222C226B6579223A2262222C22626F6479223A226347397063323975222C22726561736F6E223A226974206E6576657220776F726B73222C22617474656D7074223A312C226661696C73223A302C2273656E745F6174223A22323032362D30312D30315430303A30303A30305A222C22646561645F6174223A22323032362D30312D30315430303A30303A30305A227D', 'topic:bad', 'bad', 1767225600000);
INSERT INTO t_thing (id, tenant, key, rev, val, counters, c_n) VALUES (1, 'default', 'k0', 2, X'7B226E223A31317D', 'all', 11);
INSERT INTO t_thing (id, tenant, key, rev, val, counters, c_n) VALUES (2, 'default', 'k1', 1, X'7B226E223A397D', 'all', 9);
INSERT INTO t_thing (id, tenant, key, rev, val, counters, c_n) VALUES (3, 'default', 'k2', 1, X'7B226E223A387D', 'all', 8);
INSERT INTO t_thing (id, tenant, key, rev, val, counters, c_n) VALUES (4, 'other', 'k0', 1, X'7B226E223A377D', 'all', 7);
INSERT INTO topic (id, topic, tenant) VALUES (1, 't', 'default');
INSERT INTO topic (id, topic, tenant) VALUES (2, 'later', 'default');
INSERT INTO topic (id, topic, tenant) VALUES (3, 'bad', 'default');
INSERT OR REPLACE INTO sqlite_sequence (name, seq) VALUES ('event', 3);
CREATE INDEX applied_at ON applied (at);
CREATE INDEX event_subject ON event (subject, tenant, seq);
CREATE INDEX lane_ready ON lane (topic, rank) WHERE rank IS NOT NULL;
CREATE INDEX lane_waiting ON lane (topic, ready_at) WHERE rank IS NULL;
CREATE INDEX t_dead_0 ON t_dead (tenant, c_topic, c_dead_at, key);
CREATE INDEX t_dead_1 ON t_dead (tenant, c_dead_at, key);
CREATE INDEX t_thing_0 ON t_thing (tenant, c_n, key);
