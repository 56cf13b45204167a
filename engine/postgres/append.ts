/**
 * The one statement that writes batches: fence, events, position, timers, summaries, snapshots, dead letters.
 *
 * Guards I1 (gapless), I2 (fenced) and I4 (the input offset moves with the events), at any batch size with
 * one prepared statement. It takes batches of several shards at once, each with a fence and an answer of its
 * own: a batch that is fenced or out of order writes nothing and keeps no other from being written. Being
 * one statement outside of a transaction, it also guards that a stopped process holds no lock.
 *
 * How the fence holds. `fence` locks the shards' rows FOR KEY SHARE where the epoch is the batch's. A take-over
 * changes `epoch`, a key column, so either it waits until this statement has committed, or this statement
 * waits for it, and then READ COMMITTED checks the condition again on the row's new version: the
 * epoch differs, `fence` lacks the shard, and so does everything that selects from it.
 *
 * Every parameter stands in a sub-select, which hides its size from the planner: a plan for known sizes is
 * never cheaper then, so that the server keeps the one generic plan. Planning this statement takes longer than running it.
 */
import type { SagaSummary, ShardBatch } from '../ports.ts';
import { SagaxError } from '../core/errors.ts';
import { jsonLines, textList, toJsonb, toText, toTextOrNull } from './rows.ts';

/** A batch that was not written; the statement gives no row for those that were. */
export interface Refusal {
  shard: number;
  /** Whether the epoch was the batch's, and its row free where the statement does not wait for it. */
  held: boolean;
  next_seq: string | null;
  /** A saga whose stream would get a gap, if any. */
  gap: string | null;
}

/** What follows FOR KEY SHARE is left open: `$locked`. */
const STATEMENT = `
WITH fence AS MATERIALIZED (
  SELECT b.* FROM unnest((SELECT $1::int[]), (SELECT $2::bigint[]), (SELECT $3::bigint[]), (SELECT $4::int[]),
    (SELECT $5::bigint[]), (SELECT $6::bigint[])) AS b (shard, epoch, first_seq, events, next_offset, published_seq)
  JOIN sagax.shards s ON s.shard = b.shard AND s.epoch = b.epoch
  ORDER BY b.shard FOR KEY SHARE OF s $locked
), gap AS MATERIALIZED (
  -- The event before the batch's first one of each stream must be there; the primary key refuses repeats.
  SELECT * FROM sagax.stream_gaps((SELECT $7::int[]), (SELECT $8::bigint[]), (SELECT $9::int[]))
), moved AS (
  UPDATE sagax.shard_positions p SET
    next_seq = p.next_seq + fence.events,
    next_offset = greatest(p.next_offset, fence.next_offset),
    published_seq = greatest(p.published_seq, fence.published_seq)
  FROM fence
  WHERE p.shard = fence.shard AND (fence.events = 0 OR p.next_seq = fence.first_seq)
    AND NOT EXISTS (SELECT FROM gap WHERE gap.shard = fence.shard)
  RETURNING p.shard, fence.epoch
), new_events AS (
  INSERT INTO sagax.events (saga_id, namespace, stream_version, shard, shard_seq, epoch, at_ms, type, event)
  SELECT e.saga_id, e.namespace, e.stream_version, moved.shard, e.shard_seq, moved.epoch, e.at_ms, e.type, e.event::jsonb
  FROM unnest((SELECT $10::int[]), (SELECT $11::bigint[]), (SELECT $12::bigint[]), (SELECT $13::text[]), (SELECT $14::int[]),
      (SELECT $15::bigint[]), (SELECT $16::text[]), string_to_array((SELECT $17::text), E'\\n'))
    AS e (shard, shard_seq, saga_id, namespace, stream_version, at_ms, type, event)
  JOIN moved ON moved.shard = e.shard
), timers_off AS (
  DELETE FROM sagax.wakeups w
  USING moved, unnest((SELECT $18::int[]), (SELECT $19::bigint[])) AS t (shard, saga_id)
  WHERE t.shard = moved.shard AND w.saga_id = t.saga_id
), timers_on AS (
  INSERT INTO sagax.wakeups (saga_id, shard, due_at_ms)
  SELECT t.saga_id, moved.shard, t.due_at_ms
  FROM unnest((SELECT $20::int[]), (SELECT $21::bigint[]), (SELECT $22::bigint[])) AS t (shard, saga_id, due_at_ms)
  JOIN moved ON moved.shard = t.shard
  ON CONFLICT (saga_id) DO UPDATE SET due_at_ms = excluded.due_at_ms
    WHERE wakeups.due_at_ms <> excluded.due_at_ms
), new_summaries AS (
  INSERT INTO sagax.sagas (saga_id, namespace, definition, definition_version, status, state, business_key,
    attributes, stream_version, started_at_ms, updated_at_ms, ended_at_ms, pivot_passed, failure_code, failure_message, output)
  SELECT s.saga_id, s.namespace, s.definition, s.definition_version, s.status, s.state, s.business_key,
    s.attributes, s.stream_version, s.started_at_ms, s.updated_at_ms, s.ended_at_ms, s.pivot_passed, s.failure_code, s.failure_message, s.output
  FROM json_to_recordset((SELECT $23::json)) AS s (shard int, saga_id bigint, namespace text, definition text, definition_version int,
    status text, state text, business_key text, attributes jsonb, stream_version int, started_at_ms bigint,
    updated_at_ms bigint, ended_at_ms bigint, pivot_passed boolean, failure_code text, failure_message text, output jsonb)
  JOIN moved ON moved.shard = s.shard
  ON CONFLICT (saga_id) DO UPDATE SET
    definition_version = excluded.definition_version, status = excluded.status, state = excluded.state,
    attributes = excluded.attributes, stream_version = excluded.stream_version, updated_at_ms = excluded.updated_at_ms,
    ended_at_ms = excluded.ended_at_ms, pivot_passed = excluded.pivot_passed, failure_code = excluded.failure_code,
    failure_message = excluded.failure_message, output = excluded.output
), new_snapshots AS (
  INSERT INTO sagax.snapshots (saga_id, stream_version, definition_hash, state_hash, state)
  SELECT s.saga_id, s.stream_version, s.definition_hash, s.state_hash, s.state::jsonb
  FROM unnest((SELECT $24::int[]), (SELECT $25::bigint[]), (SELECT $26::int[]), (SELECT $27::text[]), (SELECT $28::text[]),
      string_to_array((SELECT $29::text), E'\\n')) AS s (shard, saga_id, stream_version, definition_hash, state_hash, state)
  JOIN moved ON moved.shard = s.shard
  ON CONFLICT (saga_id) DO UPDATE SET stream_version = excluded.stream_version,
    definition_hash = excluded.definition_hash, state_hash = excluded.state_hash, state = excluded.state
), new_dead_letters AS (
  INSERT INTO sagax.dead_letters (topic, partition, message_offset, key, headers, value, code, reason, at_ms)
  SELECT d.topic, d.partition, d.message_offset, decode(d.key, 'base64'), d.headers, decode(d.value, 'base64'),
    d.code, d.reason, d.at_ms
  FROM json_to_recordset((SELECT $30::json)) AS d (shard int, topic text, partition int, message_offset bigint, key text,
    headers jsonb, value text, code text, reason text, at_ms bigint)
  JOIN moved ON moved.shard = d.shard
)
SELECT b.shard, b.shard IN (SELECT shard FROM fence) AS held, p.next_seq, gap.saga_id AS gap
FROM unnest((SELECT $1::int[])) AS b (shard)
LEFT JOIN sagax.shard_positions p ON p.shard = b.shard LEFT JOIN gap ON gap.shard = b.shard
WHERE b.shard NOT IN (SELECT shard FROM moved)`;

/** Waits for a take-over that is under way: with it, "not held" means fenced. */
export const APPEND_SQL = STATEMENT.replace('$locked', '');
/** Passes over a shard whose row a take-over has locked, so that no shard waits for another's: "not held" may mean that. */
export const APPEND_FREE_SQL = STATEMENT.replace('$locked', 'SKIP LOCKED');

/** What one batch adds to each parameter of the statement; lists are the inside of an array's text. */
export interface EncodedBatch {
  batch: ShardBatch;
  lists: readonly string[];
  /** Size as text, in UTF-16 units: what memory and the wire bear. */
  size: number;
}

/** How the parts of many batches become one parameter. */
const JOINS: readonly ('array' | 'lines' | 'json')[] = Array.from({ length: 30 }, (_, index) => {
  if (index === 16 || index === 28) return 'lines';
  return index === 22 || index === 29 ? 'json' : 'array';
});

/** The parameters for these batches. Each shard may have one of them. */
export function valuesOf(batches: readonly EncodedBatch[]): string[] {
  return JOINS.map((join, index) => {
    const parts = batches.map(({ lists }) => lists[index] ?? '').filter((part) => part !== '');
    if (join === 'lines') return parts.join('\n');
    return join === 'json' ? `[${parts.join(',')}]` : `{${parts.join(',')}}`;
  });
}

/** The parameters for one batch. @throws SagaxError INTERNAL for a batch that is not in order */
export function appendValues(batch: ShardBatch): string[] {
  return valuesOf([encodeBatch(batch)]);
}

/** @throws SagaxError INTERNAL for a batch that is not in order */
export function encodeBatch(batch: ShardBatch): EncodedBatch {
  const { events, shard } = batch;
  const firsts = checkOrder(batch);
  const wakeups = newest(batch.wakeups);
  const on = wakeups.filter((each) => each.dueAt !== null);
  const off = wakeups.filter((each) => each.dueAt === null);
  const snapshots = newest(batch.snapshots);
  const lists = [
    `${shard}`,
    `${batch.epoch}`,
    `${events[0]?.shardSeq ?? 0}`,
    `${events.length}`,
    batch.nextOffset?.toString() ?? 'NULL',
    batch.publishedSeq?.toString() ?? 'NULL',
    times(shard, firsts.length),
    list(firsts, ({ sagaId }) => sagaId),
    list(firsts, ({ streamVersion }) => streamVersion),
    times(shard, events.length),
    list(events, ({ shardSeq }) => shardSeq),
    list(events, ({ sagaId }) => sagaId),
    textList(events.map(({ namespace }) => namespace)),
    list(events, ({ streamVersion }) => streamVersion),
    list(events, ({ at }) => Math.floor(at)),
    textList(events.map(({ event }) => event.type)),
    jsonLines(events.map(({ event }) => event)),
    times(shard, off.length),
    list(off, ({ sagaId }) => sagaId),
    times(shard, on.length),
    list(on, ({ sagaId }) => sagaId),
    // Up, never down: a timer may be a little late, but not early (I11).
    list(on, ({ dueAt }) => Math.ceil(dueAt ?? 0)),
    list(newest(batch.summaries), (summary) => JSON.stringify(summaryRow(shard, summary))),
    times(shard, snapshots.length),
    list(snapshots, ({ sagaId }) => sagaId),
    list(snapshots, ({ streamVersion }) => streamVersion),
    textList(snapshots.map(({ definitionHash }) => definitionHash)),
    textList(snapshots.map(({ stateHash }) => stateHash)),
    jsonLines(snapshots.map(({ state }) => state)),
    list(batch.deadLetters, (letter) => JSON.stringify(deadLetterRow(shard, letter))),
  ];
  return { batch, lists, size: lists.reduce((sum, each) => sum + each.length, 0) };
}

function list<T>(entries: readonly T[], text: (entry: T) => string | number): string {
  return entries.map(text).join(',');
}

function times(shard: number, count: number): string {
  return count === 0 ? '' : `${shard}${`,${shard}`.repeat(count - 1)}`;
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

function summaryRow(shard: number, summary: SagaSummary): object {
  return {
    shard,
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

function deadLetterRow(shard: number, letter: ShardBatch['deadLetters'][number]): object {
  return {
    shard,
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
