/**
 * The one statement that writes a batch: fence, events, position, timers, summaries, snapshots, dead letters.
 *
 * Guards I1 (gapless), I2 (fenced) and I4 (the input offset moves with the events), at any batch size with
 * one prepared statement. Being one statement outside of a transaction, it also guards that a stopped
 * process holds no lock: the server needs nothing more from it.
 *
 * How the fence holds. `fence` locks the shard's row FOR KEY SHARE where the epoch is ours. A take-over
 * changes `epoch`, a key column, so either it waits until this statement has committed, or this statement
 * waits for it, and then READ COMMITTED checks the condition again on the row's new version: the
 * epoch differs, `fence` is empty, and so is everything that selects from it.
 */
import type { SagaSummary, ShardBatch } from '../ports.ts';
import { SagaxError } from '../core/errors.ts';
import { jsonLines, numberArray, toJsonb, toText, toTextOrNull } from './rows.ts';

export interface AppendAnswer {
  /** 1 when the epoch was ours, else 0. */
  held: number;
  /** 1 when the batch was written, else 0. */
  moved: number;
  next_seq: string | null;
  /** A saga whose stream would get a gap, if any. */
  gap: string | null;
}

export const APPEND_SQL = `
WITH fence AS MATERIALIZED (
  SELECT shard FROM sagax.shards WHERE shard = $1::int AND epoch = $2::bigint FOR KEY SHARE
), gap AS MATERIALIZED (
  -- The event before the batch's first one of each stream must be there; the primary key refuses repeats.
  SELECT min(first.saga_id) AS saga_id
  FROM unnest($3::bigint[], $4::int[]) AS first (saga_id, stream_version)
  WHERE NOT EXISTS (SELECT FROM sagax.events e
    WHERE e.saga_id = first.saga_id AND e.stream_version = first.stream_version - 1)
), moved AS (
  UPDATE sagax.shard_positions p SET
    next_seq = p.next_seq + $6::bigint,
    next_offset = greatest(p.next_offset, $7::bigint),
    published_seq = greatest(p.published_seq, $8::bigint)
  FROM fence
  WHERE p.shard = fence.shard AND ($6::bigint = 0 OR p.next_seq = $5::bigint) AND (SELECT saga_id FROM gap) IS NULL
  RETURNING p.shard
), new_events AS (
  INSERT INTO sagax.events (saga_id, namespace, stream_version, shard, shard_seq, epoch, at_ms, type, event)
  SELECT e.saga_id, e.namespace, e.stream_version, moved.shard, $5::bigint + e.ordinal - 1, $2::bigint, e.at_ms, e.type, e.event::jsonb
  FROM moved, unnest($9::bigint[], $10::text[], $11::int[], $12::bigint[], $13::text[],
    string_to_array($14::text, E'\\n')) WITH ORDINALITY AS e (saga_id, namespace, stream_version, at_ms, type, event, ordinal)
), timers_off AS (
  DELETE FROM sagax.wakeups w USING moved WHERE w.saga_id = ANY ($15::bigint[])
), timers_on AS (
  INSERT INTO sagax.wakeups (saga_id, shard, due_at_ms)
  SELECT t.saga_id, moved.shard, t.due_at_ms FROM moved, unnest($16::bigint[], $17::bigint[]) AS t (saga_id, due_at_ms)
  ON CONFLICT (saga_id) DO UPDATE SET due_at_ms = excluded.due_at_ms
    WHERE wakeups.due_at_ms <> excluded.due_at_ms
), new_summaries AS (
  INSERT INTO sagax.sagas (saga_id, namespace, definition, definition_version, status, state, business_key,
    attributes, stream_version, started_at_ms, updated_at_ms, ended_at_ms, pivot_passed, failure_code, failure_message, output)
  SELECT s.saga_id, s.namespace, s.definition, s.definition_version, s.status, s.state, s.business_key,
    s.attributes, s.stream_version, s.started_at_ms, s.updated_at_ms, s.ended_at_ms, s.pivot_passed, s.failure_code, s.failure_message, s.output
  FROM moved, json_to_recordset($18::json) AS s (saga_id bigint, namespace text, definition text, definition_version int,
    status text, state text, business_key text, attributes jsonb, stream_version int, started_at_ms bigint,
    updated_at_ms bigint, ended_at_ms bigint, pivot_passed boolean, failure_code text, failure_message text, output jsonb)
  ON CONFLICT (saga_id) DO UPDATE SET
    definition_version = excluded.definition_version, status = excluded.status, state = excluded.state,
    attributes = excluded.attributes, stream_version = excluded.stream_version, updated_at_ms = excluded.updated_at_ms,
    ended_at_ms = excluded.ended_at_ms, pivot_passed = excluded.pivot_passed, failure_code = excluded.failure_code,
    failure_message = excluded.failure_message, output = excluded.output
), new_snapshots AS (
  INSERT INTO sagax.snapshots (saga_id, stream_version, definition_hash, state_hash, state)
  SELECT s.saga_id, s.stream_version, s.definition_hash, s.state_hash, s.state::jsonb
  FROM moved, unnest($19::bigint[], $20::int[], $21::text[], $22::text[], string_to_array($23::text, E'\\n'))
    AS s (saga_id, stream_version, definition_hash, state_hash, state)
  ON CONFLICT (saga_id) DO UPDATE SET stream_version = excluded.stream_version,
    definition_hash = excluded.definition_hash, state_hash = excluded.state_hash, state = excluded.state
), new_dead_letters AS (
  INSERT INTO sagax.dead_letters (topic, partition, message_offset, key, headers, value, code, reason, at_ms)
  SELECT d.topic, d.partition, d.message_offset, decode(d.key, 'base64'), d.headers, decode(d.value, 'base64'),
    d.code, d.reason, d.at_ms
  FROM moved, json_to_recordset($24::json) AS d (topic text, partition int, message_offset bigint, key text,
    headers jsonb, value text, code text, reason text, at_ms bigint)
)
SELECT (SELECT count(*)::int FROM fence) AS held, (SELECT count(*)::int FROM moved) AS moved,
  (SELECT next_seq FROM sagax.shard_positions WHERE shard = $1::int) AS next_seq, (SELECT saga_id FROM gap) AS gap`;

/** The statement's parameters. @throws SagaxError INTERNAL for a batch that is not in order */
export function appendValues(batch: ShardBatch): unknown[] {
  const { events } = batch;
  const firsts = checkOrder(batch);
  const wakeups = newest(batch.wakeups);
  const timers = wakeups.filter((each) => each.dueAt !== null);
  const snapshots = newest(batch.snapshots);
  return [
    batch.shard,
    batch.epoch,
    numberArray(firsts.map(({ sagaId }) => sagaId)),
    numberArray(firsts.map(({ streamVersion }) => streamVersion)),
    events[0]?.shardSeq ?? 0,
    events.length,
    batch.nextOffset?.toString() ?? null,
    batch.publishedSeq ?? null,
    numberArray(events.map(({ sagaId }) => sagaId)),
    events.map(({ namespace }) => namespace),
    numberArray(events.map(({ streamVersion }) => streamVersion)),
    numberArray(events.map(({ at }) => Math.floor(at))),
    events.map(({ event }) => event.type),
    jsonLines(events.map(({ event }) => event)),
    numberArray(wakeups.filter(({ dueAt }) => dueAt === null).map(({ sagaId }) => sagaId)),
    numberArray(timers.map(({ sagaId }) => sagaId)),
    // Up, never down: a timer may be a little late, but not early (I11).
    numberArray(timers.map(({ dueAt }) => Math.ceil(dueAt ?? 0))),
    JSON.stringify(newest(batch.summaries).map(summaryRow)),
    numberArray(snapshots.map(({ sagaId }) => sagaId)),
    numberArray(snapshots.map(({ streamVersion }) => streamVersion)),
    snapshots.map(({ definitionHash }) => definitionHash),
    snapshots.map(({ stateHash }) => stateHash),
    jsonLines(snapshots.map(({ state }) => state)),
    JSON.stringify(batch.deadLetters.map(deadLetterRow)),
  ];
}

/** The last entry of each saga: one statement can't write a row twice. */
function newest<T extends { sagaId: string }>(entries: readonly T[]): T[] {
  return [...new Map(entries.map((each) => [each.sagaId, each])).values()];
}

/** Checks the batch in itself, and gives the first event of each stream that is not a stream's beginning. */
function checkOrder(batch: ShardBatch): { sagaId: string; streamVersion: number }[] {
  const last = new Map<string, number>();
  const firsts: { sagaId: string; streamVersion: number }[] = [];
  const firstSeq = batch.events[0]?.shardSeq ?? 0;
  batch.events.forEach((event, index) => {
    if (event.shard !== batch.shard || event.epoch !== batch.epoch) {
      throw disorder(`event ${index} is of shard ${event.shard}, epoch ${event.epoch}`, batch);
    }
    if (event.shardSeq !== firstSeq + index) {
      throw disorder(
        `event ${index} has shard_seq ${event.shardSeq}, not ${firstSeq + index}`,
        batch,
      );
    }
    const before = last.get(event.sagaId);
    if (before === undefined && event.streamVersion > 1) firsts.push(event);
    if (before !== undefined ? event.streamVersion !== before + 1 : event.streamVersion < 1) {
      throw disorder(
        `saga ${event.sagaId} goes from stream version ${before ?? 0} to ${event.streamVersion}`,
        batch,
      );
    }
    last.set(event.sagaId, event.streamVersion);
  });
  return firsts;
}

export function disorder(what: string, batch: ShardBatch): SagaxError {
  return new SagaxError(
    'INTERNAL',
    `A batch for shard ${batch.shard} at epoch ${batch.epoch} is out of order: ${what}. Nothing was written; ` +
      'load the shard again, and report this.',
  );
}

function summaryRow(summary: SagaSummary): object {
  return {
    saga_id: summary.sagaId,
    namespace: summary.namespace,
    definition: summary.definition,
    definition_version: summary.definitionVersion,
    status: summary.status,
    state: toText(summary.state),
    business_key: toTextOrNull(summary.businessKey),
    attributes: searchable(summary.attributes),
    stream_version: summary.streamVersion,
    started_at_ms: Math.floor(summary.startedAt),
    updated_at_ms: Math.floor(summary.updatedAt),
    ended_at_ms: summary.endedAt === null ? null : Math.floor(summary.endedAt),
    pivot_passed: summary.pivotPassed,
    failure_code: toTextOrNull(summary.failureCode),
    failure_message: toTextOrNull(summary.failureMessage),
    output: summary.output === null ? null : storable(summary.output),
  };
}

/** Attributes as they are stored and asked for: plain jsonb, so that containment can use the index. */
export function searchable(attributes: SagaSummary['attributes']): SagaSummary['attributes'] {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, value]) => [
      toText(name),
      typeof value === 'string' ? toText(value) : value,
    ]),
  );
}

function deadLetterRow(letter: ShardBatch['deadLetters'][number]): object {
  return {
    topic: toText(letter.topic),
    partition: letter.partition,
    message_offset: letter.offset.toString(),
    key: base64(letter.key),
    headers: storable(letter.headers),
    value: base64(letter.value),
    code: letter.code,
    reason: toText(letter.reason),
    at_ms: Math.floor(letter.at),
  };
}

/** A value as it goes into a jsonb column by way of a larger JSON text. */
function storable(value: unknown): unknown {
  return JSON.parse(toJsonb(value)) as unknown;
}

function base64(text: string | null): string | null {
  return text === null ? null : Buffer.from(text, 'utf8').toString('base64');
}
