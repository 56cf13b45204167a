-- The participant's inbox: one row per command, the barrier of the worker runtime. It lives in the
-- participant's own database, so that it commits together with the participant's own changes.
--
-- {{inbox}}    what became of each command: a repeat gets its stored answer
-- {{letters}}  messages that are no valid command, kept to be looked at and sent again
-- {{tokens}}   fencing tokens: each claim of a command gets a greater one than any before it
--
-- Lock order: a compensation takes the row of the step first (by inserting it), then its own; a step and
-- a settlement take one row only; the participant's own rows come after these.
--
-- Retention: a row that is gone makes a late command look like a new one, and a compensation of its step
-- look like one of a step that never ran. Keep rows longer than the longest saga and the longest redelivery.

CREATE SEQUENCE {{tokens}};

CREATE TABLE {{inbox}} (
  -- Without the attempt: all attempts of a command share one row.
  command_id text COLLATE "C" PRIMARY KEY,
  saga_id bigint NOT NULL,
  namespace text NOT NULL,
  command text NOT NULL,
  op text NOT NULL CHECK (op IN ('do', 'compensate')),
  -- For a compensation: the step that it takes back.
  of_command_id text COLLATE "C",
  -- superseded: a compensation or settlement came first, the step will never run.
  state text NOT NULL CHECK (state IN ('running', 'done', 'rejected', 'pending', 'superseded')),
  attempt integer NOT NULL,
  input jsonb,
  -- The output of what is done, the failure of what was rejected.
  answer jsonb,
  -- Set for claims of effect handlers: who may store the outcome.
  fencing_token bigint,
  lease_expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
  -- Each row is updated once or twice, in columns that are in no index: room on the page keeps that cheap.
) WITH (fillfactor = 70);

-- For pruning by age: rows come in the order of time, so a BRIN index is enough and costs nearly nothing.
CREATE INDEX ON {{inbox}} USING brin (created_at);

CREATE TABLE {{letters}} (
  topic text NOT NULL,
  partition integer NOT NULL,
  -- Not named "offset", which is a reserved word.
  message_offset bigint NOT NULL,
  key text,
  headers jsonb NOT NULL,
  value text,
  code text NOT NULL,
  reason text NOT NULL,
  parked_at timestamptz NOT NULL,
  PRIMARY KEY (topic, partition, message_offset)
);
