-- A topic of one tenant; the number stands for both in the rows of the queue,
-- where comparing text over and over would cost more than the rest.
CREATE TABLE topic (
  id INTEGER PRIMARY KEY, topic TEXT NOT NULL, tenant TEXT NOT NULL, UNIQUE (topic, tenant)
);
CREATE TABLE paused (topic TEXT PRIMARY KEY) WITHOUT ROWID;

-- The queue: see package store for what a lane is. ready_at, rank and sent_at are
-- microseconds since 1970. A lane is either waiting (rank is null: delayed,
-- backing off or leased until ready_at) or ready (rank orders it), so it stands
-- in exactly one of the two partial indexes. The row holds the lane's first
-- message; most lanes never have a second. What is behind it is in msg.
CREATE TABLE lane (
  id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, key TEXT NOT NULL,
  ready_at INTEGER NOT NULL, rank INTEGER, prio INTEGER NOT NULL,
  token TEXT NOT NULL, owner TEXT NOT NULL,
  attempt INTEGER NOT NULL, fails INTEGER NOT NULL,
  n INTEGER NOT NULL, tail INTEGER NOT NULL, held INTEGER NOT NULL,
  sent_at INTEGER NOT NULL, body BLOB NOT NULL,
  UNIQUE (topic, key)
);
CREATE INDEX lane_waiting ON lane (topic, ready_at) WHERE rank IS NULL;
CREATE INDEX lane_ready ON lane (topic, rank) WHERE rank IS NOT NULL;

CREATE TABLE msg (
  lane INTEGER NOT NULL, seq INTEGER NOT NULL, ready_at INTEGER NOT NULL,
  sent_at INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (lane, seq)
) WITHOUT ROWID;

-- Records of timelines. seq follows the order of commits because there is one writer.
CREATE TABLE event (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, subject TEXT NOT NULL, kind TEXT NOT NULL,
  at INTEGER NOT NULL, data BLOB
);
CREATE INDEX event_subject ON event (subject, tenant, seq);

-- Sums kept in the commit that changes them; internal ones have a tbl that
-- begins with a dot.
CREATE TABLE counter (
  tbl TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY (tbl, tenant, name)
) WITHOUT ROWID;

-- Ids of commits that may be repeated.
CREATE TABLE applied (tenant TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX applied_at ON applied (at);

-- Version of the descriptor by which each table's columns were derived.
CREATE TABLE descriptor (tbl TEXT PRIMARY KEY, version INTEGER NOT NULL, shape TEXT NOT NULL) WITHOUT ROWID;
