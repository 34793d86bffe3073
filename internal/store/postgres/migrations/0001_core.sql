-- Texts compare byte by byte (COLLATE "C") whatever the locale of the database;
-- times are microseconds since 1970 by the store's clock.

-- The queue. A lane is either waiting (rank is null: delayed, backing off or
-- leased until ready_at) or ready (rank orders it), so it stands in exactly one of
-- the two partial indexes. The messages of a lane are contiguous: its head is
-- tail-n+1. due is the latest instant of a message that was sent with a delay
-- behind others.
CREATE TABLE lane (
  topic text COLLATE "C" NOT NULL, tenant text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
  ready_at bigint NOT NULL, rank bigint, prio int NOT NULL,
  token text COLLATE "C" NOT NULL, owner text COLLATE "C" NOT NULL,
  attempt int NOT NULL, fails int NOT NULL,
  n bigint NOT NULL, tail bigint NOT NULL, held bigint NOT NULL, due bigint NOT NULL,
  PRIMARY KEY (topic, tenant, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 1);
CREATE INDEX lane_waiting ON lane (topic, ready_at) WHERE rank IS NULL;
CREATE INDEX lane_ready ON lane (topic, rank) WHERE rank IS NOT NULL;
CREATE INDEX lane_owner ON lane (owner, topic) WHERE token <> '';

-- extra counts deliveries while a message was not the head of its lane; those
-- as head are lane.attempt, so that finishing never reads a message.
CREATE TABLE msg (
  topic text COLLATE "C" NOT NULL, tenant text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, seq bigint NOT NULL,
  sent_at bigint NOT NULL, due bigint NOT NULL, extra int NOT NULL DEFAULT 0, body bytea NOT NULL,
  PRIMARY KEY (topic, tenant, key, seq)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 1);
-- An expression, so that no plan that looks for a key takes this index for it.
CREATE INDEX msg_sent ON msg ((topic || '/' || tenant), sent_at);

CREATE TABLE topic (topic text COLLATE "C" PRIMARY KEY, paused boolean NOT NULL);

-- Records of timelines in the order (pos, seq); see read.go.
CREATE TABLE event (
  pos bigint NOT NULL, seq bigint GENERATED ALWAYS AS IDENTITY,
  tenant text COLLATE "C" NOT NULL, subject text COLLATE "C" NOT NULL, kind text COLLATE "C" NOT NULL,
  at bigint NOT NULL, data bytea NOT NULL,
  PRIMARY KEY (pos, seq)
);
CREATE INDEX event_subject ON event (subject, tenant, pos, seq);

-- Sums kept by the commits that change them. Every committer has a slot of its
-- own, so that none waits for another; readers add them up. Sums of the store
-- itself have a tbl that begins with a dot.
CREATE TABLE counter (
  tbl text COLLATE "C" NOT NULL, tenant text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL,
  slot int NOT NULL, n bigint NOT NULL,
  PRIMARY KEY (tbl, tenant, name, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 500);

-- Ids of commits that may be repeated.
CREATE TABLE applied (
  tenant text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, at bigint NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX applied_at ON applied (at);

-- By which version of a descriptor the columns of a table were derived.
CREATE TABLE descriptor (tbl text COLLATE "C" PRIMARY KEY, version int NOT NULL, shape text NOT NULL);
