-- breaking: true
--
-- The event log and what is kept beside it. All of it lives in the schema "sagax".
--
--   settings          counts fixed at creation (shards)
--   shards            who owns a shard: the lease and its epoch, which fences every append (I2)
--   shard_positions   how far a shard got: next inbox offset, next shard_seq, published shard_seq
--   events            the truth: one row per event, gapless per stream and per shard (I1)
--   sagas             one summary row per saga, for lists and search; written with its events
--   snapshots         cached states; may be emptied at any time
--   wakeups           the earliest due timer of each saga that has one
--   dead_letters      messages that could not be applied, for people to look at and redrive
--   start_keys        idempotency and business keys of starts
--   node_ids          leases on the 10-bit node ids of Snowflake ids
--
-- Lock order. An append takes, in one statement: its shards row (FOR KEY SHARE), its shard_positions
-- row (FOR NO KEY UPDATE), then rows of its own sagas. A take-over takes the shards row alone, FOR UPDATE
-- since it changes the key column "epoch": it waits for appends under way, and appends behind it find
-- the new epoch and write nothing. A renewal takes shards rows FOR NO KEY UPDATE, which goes beside FOR KEY
-- SHARE: leases are renewed while a large append runs. That is why the two are two tables.
--
-- Times are ms since the Unix epoch (bigint, *_ms), by the database's clock; leases are timestamptz.
-- Tables by saga are partitioned by ranges of saga_id, which is time; see engine/postgres/partitions.ts,
-- which makes the weekly partitions and owns their storage settings and their (shard, shard_seq) keys.

CREATE TABLE sagax.settings (
  name   text PRIMARY KEY,
  value  jsonb NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE sagax.shards (
  shard      int PRIMARY KEY CHECK (shard >= 0),
  epoch      bigint NOT NULL DEFAULT 0,
  owner      text,
  expires_at timestamptz,
  -- Makes epoch a key column: changing it conflicts with FOR KEY SHARE, changing expires_at does not.
  UNIQUE (shard, epoch)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sagax.shard_positions (
  shard         int PRIMARY KEY REFERENCES sagax.shards (shard),
  next_offset   bigint NOT NULL DEFAULT 0,
  next_seq      bigint NOT NULL DEFAULT 1,
  published_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sagax.events (
  saga_id        bigint NOT NULL,
  namespace      text NOT NULL,
  stream_version int NOT NULL CHECK (stream_version > 0),
  shard          int NOT NULL,
  shard_seq      bigint NOT NULL,
  epoch          bigint NOT NULL,
  at_ms          bigint NOT NULL,
  type           text NOT NULL,
  event          jsonb NOT NULL,
  PRIMARY KEY (saga_id, stream_version)
) PARTITION BY RANGE (saga_id);

CREATE TABLE sagax.sagas (
  saga_id            bigint NOT NULL PRIMARY KEY,
  namespace          text NOT NULL,
  definition         text NOT NULL,
  definition_version int NOT NULL,
  status             text NOT NULL,
  state              text NOT NULL,
  business_key       text,
  attributes         jsonb NOT NULL DEFAULT '{}',
  stream_version     int NOT NULL,
  started_at_ms      bigint NOT NULL,
  updated_at_ms      bigint NOT NULL,
  ended_at_ms        bigint,
  pivot_passed       boolean NOT NULL DEFAULT false,
  failure_code       text,
  failure_message    text,
  output             jsonb
) PARTITION BY RANGE (saga_id);

-- Only columns that seldom change are indexed: most updates of a row touch none and stay HOT.
CREATE INDEX sagas_by_namespace ON sagax.sagas (namespace, saga_id DESC);
CREATE INDEX sagas_by_definition ON sagax.sagas (namespace, definition, saga_id DESC);
CREATE INDEX sagas_by_status ON sagax.sagas (namespace, status, saga_id DESC);
CREATE INDEX sagas_by_business_key ON sagax.sagas (namespace, business_key, saga_id DESC)
  WHERE business_key IS NOT NULL;
CREATE INDEX sagas_by_attributes ON sagax.sagas USING gin (attributes jsonb_path_ops);

CREATE TABLE sagax.snapshots (
  saga_id         bigint NOT NULL PRIMARY KEY,
  stream_version  int NOT NULL,
  definition_hash text NOT NULL,
  state_hash      text NOT NULL,
  state           jsonb NOT NULL
) PARTITION BY RANGE (saga_id);

-- For ids outside of every weekly partition, so that an insert never fails for want of one.
CREATE TABLE sagax.events_default PARTITION OF sagax.events DEFAULT;
CREATE UNIQUE INDEX events_default_shard_seq_key ON sagax.events_default (shard, shard_seq);
CREATE TABLE sagax.sagas_default PARTITION OF sagax.sagas DEFAULT WITH (fillfactor = 80);
CREATE TABLE sagax.snapshots_default PARTITION OF sagax.snapshots DEFAULT WITH (fillfactor = 70);

CREATE TABLE sagax.wakeups (
  saga_id   bigint PRIMARY KEY,
  shard     int NOT NULL,
  due_at_ms bigint NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
CREATE INDEX wakeups_by_due ON sagax.wakeups (shard, due_at_ms, saga_id);

-- Texts that came from outside are bytes of UTF-8: a text column can't hold U+0000.
CREATE TABLE sagax.dead_letters (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic          text NOT NULL,
  partition      int NOT NULL,
  message_offset bigint NOT NULL,
  key            bytea,
  headers        jsonb NOT NULL,
  value          bytea,
  code           text NOT NULL,
  reason         text NOT NULL,
  at_ms          bigint NOT NULL,
  redriven_at_ms bigint
);
CREATE INDEX dead_letters_waiting ON sagax.dead_letters (id DESC) WHERE redriven_at_ms IS NULL;

CREATE TABLE sagax.start_keys (
  namespace   text NOT NULL,
  definition  text NOT NULL,
  kind        text NOT NULL CHECK (kind IN ('idempotency', 'business')),
  key         text NOT NULL,
  saga_id     bigint NOT NULL,
  fingerprint text NOT NULL,
  reserved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (namespace, definition, kind, key)
);
CREATE INDEX start_keys_by_saga ON sagax.start_keys (saga_id);

CREATE TABLE sagax.node_ids (
  node_id    int PRIMARY KEY CHECK (node_id BETWEEN 0 AND 1023),
  epoch      bigint NOT NULL DEFAULT 0,
  owner      text,
  expires_at timestamptz,
  -- No id with this node id carries a time above it; a new holder starts when the clock is past it (I13).
  last_ms    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO sagax.node_ids (node_id) SELECT generate_series(0, 1023);
