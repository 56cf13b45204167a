-- breaking: false
--
-- The bus for deployments that run no Kafka: topics with partitions, consumer groups with leases.
--
--   bus_topics        a topic and its partition count, fixed when it is made
--   bus_partitions    one row a partition; its next_offset hands out gapless offsets in commit order
--   bus_messages      the messages; insert only, deleted in chunks once every group has read them
--   bus_members       who is alive in a consumer group
--   bus_assignments   which member reads a partition for a group (lease and epoch), and how far it got.
--                     A group knows a topic by its rows here; its unread messages are kept.
--
-- Lock order. A publish locks its bus_partitions rows in the order of id, then inserts; it holds them until
-- it commits, so a partition's offsets become visible in order and without a gap. Two publishes that share
-- partitions wait for each other and never deadlock. Members lock bus_assignments rows of their own, and
-- take others' with SKIP LOCKED: they never wait while they hold one. Trimming locks nothing that others write.

CREATE TABLE sagax.bus_topics (
  topic      text PRIMARY KEY,
  partitions int NOT NULL CHECK (partitions > 0)
);

CREATE TABLE sagax.bus_partitions (
  id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic       text NOT NULL REFERENCES sagax.bus_topics (topic),
  partition   int NOT NULL CHECK (partition >= 0),
  next_offset bigint NOT NULL DEFAULT 0,
  UNIQUE (topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sagax.bus_messages (
  partition_id int NOT NULL,
  "offset"     bigint NOT NULL,
  key          text,
  -- A JSON object of strings, as text: it is never looked into here.
  headers      text NOT NULL,
  value        text,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (partition_id, "offset")
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);

CREATE TABLE sagax.bus_members (
  group_name text NOT NULL,
  member     text NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (group_name, member)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sagax.bus_assignments (
  group_name   text NOT NULL,
  partition_id int NOT NULL REFERENCES sagax.bus_partitions (id),
  owner        text,
  epoch        bigint NOT NULL DEFAULT 0,
  expires_at   timestamptz,
  -- Offset of the next message that the group has not done; null before its first commit.
  committed    bigint,
  PRIMARY KEY (group_name, partition_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE INDEX bus_assignments_partition ON sagax.bus_assignments (partition_id);
