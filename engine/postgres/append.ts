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
 * Where the bus is in the same database (`Where.bus`), the messages of a batch go out with it: they are there when its
 * events are, and never without them (I10). Locks: shards and positions first, then partitions of the bus by their ids.
 *
 * Every parameter stands in a sub-select, which hides its size from the planner: a plan for known sizes is
 * never cheaper then, so that the server keeps the one generic plan. Planning this statement takes longer than running it.
 */
import type pg from 'pg';
import { SagaxError } from '../core/errors.ts';
import type { SagaSummary, ShardBatch } from '../ports.ts';
import type { FirstOffset, Said } from './bus-offsets.ts';
import { jsonLines, textList, toJsonb, toText, toTextOrNull } from './rows.ts';

/** What the statement answers: the batches that were not written, and where the messages of the others begin. */
export interface AppendAnswer {
  /** By shard. */
  refusals: ReadonlyMap<number, Refusal>;
  firsts: readonly FirstOffset[];
}

/** A row of it. */
export type AppendRow = (Refusal | { shard: null }) & { firsts?: readonly FirstOffset[] | null };

/** A batch that was not written. */
export interface Refusal {
  shard: number;
  /** Whether the epoch was the batch's, and its row free where the statement does not wait for it. */
  held: boolean;
  next_seq: string | null;
  /** A saga whose stream would get a gap, if any. */
  gap: string | null;
}

/** What follows FOR KEY SHARE is left open: `$locked`; and so is what is done on the bus, `$bus`, and the answer. */
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
)$bus
$answer`;

const REFUSALS = `
SELECT b.shard, b.shard IN (SELECT shard FROM fence) AS held, p.next_seq, gap.saga_id AS gap
FROM unnest((SELECT $1::int[])) AS b (shard)
LEFT JOIN sagax.shard_positions p ON p.shard = b.shard LEFT JOIN gap ON gap.shard = b.shard
WHERE b.shard NOT IN (SELECT shard FROM moved)`;

/** Offsets are handed out as by bus-statements.ts, to the messages of the batches that are written. */
const ON_BUS = `, said AS MATERIALIZED (
  SELECT m.* FROM unnest((SELECT $31::int[]), (SELECT $32::int[]), (SELECT $33::text[]), string_to_array((SELECT $34::text), E'\\n'),
      string_to_array((SELECT $35::text), E'\\n')) WITH ORDINALITY AS m (shard, id, key, headers, value, place)
  JOIN moved ON moved.shard = m.shard
), counts AS (
  SELECT id, count(*) AS messages FROM said GROUP BY id
), locked AS MATERIALIZED (
  SELECT p.id FROM sagax.bus_partitions p WHERE p.id = ANY (ARRAY(SELECT id FROM counts)) ORDER BY p.id FOR NO KEY UPDATE
), advanced AS (
  UPDATE sagax.bus_partitions p SET next_offset = p.next_offset + c.messages
  FROM counts c WHERE p.id = c.id AND p.id = ANY (ARRAY(SELECT id FROM locked))
  RETURNING p.id, p.next_offset - c.messages AS first_offset
), new_messages AS (
  INSERT INTO sagax.bus_messages (partition_id, "offset", key, headers, value)
  SELECT m.id, advanced.first_offset + row_number() OVER (PARTITION BY m.id ORDER BY m.place) - 1, m.key, m.headers, m.value
  FROM said m JOIN advanced ON advanced.id = m.id
)`;

/** In each row, and in one when there is no refusal. */
const WITH_FIRSTS = `
SELECT refusal.*, said_at.firsts
FROM (SELECT json_agg(json_build_object('id', id, 'first_offset', first_offset::text)) AS firsts FROM advanced) AS said_at
LEFT JOIN (${REFUSALS}) AS refusal ON true`;

export interface Where {
  /** Whether it passes over a shard whose row a take-over has locked, so that no shard waits for another's. */
  free: boolean;
  /** Whether a batch has messages for the bus. */
  bus: boolean;
}

/** Where it waits for take-overs, "not held" means fenced; where it passes over them, it may mean that one is under way. */
export function appendQuery(where: Where, batches: readonly EncodedBatch[]): pg.QueryConfig {
  return {
    ...(where.bus ? WITH_BUS : ALONE)[where.free ? 'free' : 'waiting'],
    values: valuesOf(batches, where.bus),
  };
}

export function answerOf(rows: readonly AppendRow[]): AppendAnswer {
  const refusals = rows.filter((row): row is Refusal => row.shard !== null);
  return {
    refusals: new Map(refusals.map((row) => [row.shard, row])),
    firsts: rows[0]?.firsts ?? [],
  };
}

const ALONE = statements('sagax-append', '', REFUSALS);
const WITH_BUS = statements('sagax-append-bus', ON_BUS, WITH_FIRSTS);

function statements(
  name: string,
  bus: string,
  answer: string,
): { [how in 'free' | 'waiting']: { name: string; text: string } } {
  const text = (locked: string): string =>
    STATEMENT.replace('$locked', locked)
      .replace('$bus', () => bus)
      .replace('$answer', () => answer);
  return {
    free: { name: `${name}-free`, text: text('SKIP LOCKED') },
    waiting: { name, text: text('') },
  };
}

/** What one batch adds to each parameter of the statement; lists are the inside of an array's text. */
export interface EncodedBatch {
  batch: ShardBatch;
  /** Its messages that go out with it. */
  said: readonly Said[];
  lists: readonly string[];
  /** Size as text, in UTF-16 units: what memory and the wire bear. */
  size: number;
}

type Join = 'array' | 'lines' | 'json';

/** How the parts of many batches become one parameter, by its number. */
const JOINS: { readonly [parameter: number]: Join } = {
  17: 'lines',
  23: 'json',
  29: 'lines',
  30: 'json',
  34: 'lines',
  35: 'lines',
};
/** Parameters of the batches, and all with those of their messages. */
const BATCH_PARAMETERS = 30;
const ALL_PARAMETERS = 35;

/** Each shard may have one batch. */
function valuesOf(batches: readonly EncodedBatch[], bus: boolean): string[] {
  return Array.from({ length: bus ? ALL_PARAMETERS : BATCH_PARAMETERS }, (_, index) => {
    const parts = batches.map(({ lists }) => lists[index] ?? '').filter((part) => part !== '');
    const join = JOINS[index + 1] ?? 'array';
    if (join === 'lines') return parts.join('\n');
    return join === 'json' ? `[${parts.join(',')}]` : `{${parts.join(',')}}`;
  });
}

/**
 * @param said what its events have to say, all of it; with it nothing of the batch is left to publish
 * @throws SagaxError INTERNAL for a batch that is not in order
 */
export function encodeBatch(batch: ShardBatch, said: readonly Said[] = []): EncodedBatch {
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
    (said.length > 0 ? events.at(-1)?.shardSeq : batch.publishedSeq)?.toString() ?? 'NULL',
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
    times(shard, said.length),
    list(said, ({ id }) => id),
    textList(said.map(({ message }) => message.key)),
    said.map(({ message }) => JSON.stringify(message.headers)).join('\n'),
    said.map(({ message }) => message.value).join('\n'),
  ];
  return { batch, said, lists, size: lists.reduce((sum, each) => sum + each.length, 0) };
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
