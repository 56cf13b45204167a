/**
 * `EventLog` on Postgres: appends by one fenced statement, reads that prune to the partitions they need.
 *
 * Guards I1, I2 and I4 (see append.ts), and that a lost answer is never taken for a failure.
 */
import { CommitUnknownError, FencedError, type SagaxError } from '../core/errors.ts';
import { OUTBOX_EVENTS, type EventLog, type SagaSnapshot, type ShardBatch } from '../ports.ts';
import type { LoggedEvent } from '../core/events.ts';
import {
  answerOf,
  appendQuery,
  disorder,
  encodeBatch,
  type AppendAnswer,
  type AppendRow,
  type EncodedBatch,
  type Refusal,
} from './append.ts';
import type { BusBeside } from './bus-beside.ts';
import { numbered } from './bus-offsets.ts';
import { Gatherer, type Outcome } from './gather.ts';
import { sqlState, type Database } from './pool.ts';
import { EVENT_COLUMNS, fromJsonb, numberArray, toLoggedEvent, type EventRow } from './rows.ts';

/** Streams loaded by one query; more go in further ones, so that an answer stays within bounds. */
const MAX_LOADED_AT_ONCE = 500;
/** Statements of appends under way at once: while one waits for the disk, the next one is worked out. */
const APPENDS_AT_ONCE = 2;
const LOADS_AT_ONCE = 2;
/** Batches in one statement, and their text: a statement is one commit, and take-overs wait for it. */
const MAX_GATHERED_BATCHES = 64;
const MAX_GATHERED_SIZE = 4_000_000;

type Stream = { snapshot: SagaSnapshot | null; events: LoggedEvent[] };

/** @param bus set when the bus is in this database, so that what a batch has to say goes out with its commit */
export function postgresEventLog(db: Database, bus?: BusBeside): EventLog {
  return {
    append: appender(db, bus),
    load: loader(db),
    readOutbox: async (shard, afterSeq, limit) => {
      const rows = await db.read<EventRow>({
        name: 'sagax-outbox',
        text: `SELECT ${EVENT_COLUMNS} FROM sagax.events
          WHERE shard = $1 AND shard_seq > $2 AND type = ANY ($3) ORDER BY shard_seq LIMIT $4`,
        values: [shard, afterSeq, [...OUTBOX_EVENTS], limit],
      });
      return rows.map(toLoggedEvent);
    },
    dueWakeups: async (shard, until, limit) => {
      const rows = await db.read<{ saga_id: string; due_at_ms: string }>({
        name: 'sagax-wakeups',
        text: `SELECT saga_id, due_at_ms FROM sagax.wakeups WHERE shard = $1 AND due_at_ms <= $2
          ORDER BY due_at_ms, saga_id LIMIT $3`,
        values: [shard, Math.floor(until), limit],
      });
      return rows.map((row) => ({ sagaId: row.saga_id, dueAt: Number(row.due_at_ms) }));
    },
  };
}

/**
 * Appends of different shards that come while others are under way go out as one statement, so that a busy node
 * pays one commit for many shards. Each is still written whole or not at all, by its own fence.
 */
function appender(db: Database, bus?: BusBeside): EventLog['append'] {
  const queue = new Gatherer<EncodedBatch, void>({
    slots: APPENDS_AT_ONCE,
    maxItems: MAX_GATHERED_BATCHES,
    maxSize: MAX_GATHERED_SIZE,
    sizeOf: ({ size }) => size,
    // A shard's appends stay in order, and two statements never wait for the same position.
    keyOf: ({ batch }) => batch.shard,
    together: (batches) => appendTogether(db, batches, bus),
    alone: (one) => appendAlone(db, one, bus),
  });
  return async (batch) => {
    const messages = bus === undefined ? [] : (batch.messages?.() ?? []);
    const said = (await bus?.place(messages)) ?? [];
    await queue.run(encodeBatch(batch, said));
    return { published: said.length > 0 };
  };
}

async function appendAlone(db: Database, one: EncodedBatch, bus?: BusBeside): Promise<void> {
  const query = appendQuery({ free: false, bus: one.said.length > 0 }, [one]);
  let answer: AppendAnswer;
  try {
    answer = answerOf((await db.write<AppendRow>(query)).rows);
  } catch (error) {
    // A row of one of the batch's streams or shard_seqs is there already: the caller's state is behind the log.
    if (sqlState(error) === '23505') throw disorder((error as Error).message, one.batch);
    throw error;
  }
  const refusal = answer.refusals.get(one.batch.shard);
  if (refusal !== undefined) throw refused(refusal, one.batch);
  bus?.committed(numbered(one.said, answer.firsts));
}

/**
 * One statement for batches of different shards. When it was refused whole, nothing of it was written, and
 * each batch is tried by itself: a bad value of one shard stops no other. When its answer was lost, nobody knows of any.
 */
async function appendTogether(
  db: Database,
  batches: readonly EncodedBatch[],
  bus?: BusBeside,
): Promise<Outcome<void>[]> {
  const speaks = batches.some(({ said }) => said.length > 0);
  const query = appendQuery({ free: true, bus: speaks }, batches);
  try {
    const { refusals, firsts } = answerOf((await db.write<AppendRow>(query, { attempts: 1 })).rows);
    const written = batches.filter(({ batch }) => !refusals.has(batch.shard));
    const said = written.flatMap((one) => one.said);
    bus?.committed(numbered(said, firsts));
    return batches.map(({ batch }) => {
      const refusal = refusals.get(batch.shard);
      if (refusal === undefined) return { value: undefined };
      // Its row may only be locked by a take-over: the statement that waits for that tells.
      return refusal.held ? { error: refused(refusal, batch) } : 'alone';
    });
  } catch (error) {
    if (error instanceof CommitUnknownError || sqlState(error) === null) {
      return batches.map(() => ({ error }));
    }
    return batches.map(() => 'alone');
  }
}

function refused({ held, gap, next_seq }: Refusal, batch: ShardBatch): SagaxError {
  if (!held) {
    return new FencedError(
      `Shard ${batch.shard} has left epoch ${batch.epoch}: another node owns it. Drop all memory of the shard.`,
    );
  }
  return gap !== null
    ? disorder(`saga ${gap} would get a gap in its stream versions (I1)`, batch)
    : disorder(
        `it begins at shard_seq ${batch.events[0]?.shardSeq}, the shard goes on at ${next_seq}`,
        batch,
      );
}

interface SnapshotRow {
  saga_id: string;
  stream_version: number;
  definition_hash: string;
  state_hash: string;
  state: unknown;
}

/**
 * Snapshots and events come from one statement, so from one moment. The event's columns are null in a
 * snapshot's row. The lateral joins look each saga up by itself, in the one partition that can have it (LIMIT
 * and ORDER BY keep the planner from making other joins of them while the tables are small).
 * Parameters are hidden from the planner for the same reason as in append.ts.
 */
export const LOAD_SQL = `
WITH wanted AS MATERIALIZED (
  SELECT ids.saga_id, s.stream_version, s.definition_hash, s.state_hash, s.state
  FROM unnest((SELECT $1::bigint[])) AS ids (saga_id)
  LEFT JOIN LATERAL (SELECT * FROM sagax.snapshots s
    WHERE NOT (SELECT $2::boolean) AND s.saga_id = ids.saga_id LIMIT 1) s ON true
)
SELECT saga_id, NULL AS namespace, stream_version, NULL::int AS shard, NULL::bigint AS shard_seq, NULL::bigint AS epoch,
  NULL::bigint AS at_ms, state AS event, definition_hash, state_hash
FROM wanted WHERE stream_version IS NOT NULL
UNION ALL
SELECT e.*, NULL, NULL
FROM wanted, LATERAL (
  SELECT ${EVENT_COLUMNS} FROM sagax.events e
  WHERE e.saga_id = wanted.saga_id AND e.stream_version > coalesce(wanted.stream_version, 0)
  ORDER BY e.stream_version
) e`;

/** Loads of different shards that come while others are under way go out as one query, like appends. */
function loader(db: Database): EventLog['load'] {
  const queue = new Gatherer<readonly string[], Map<string, Stream>>({
    slots: LOADS_AT_ONCE,
    maxItems: MAX_LOADED_AT_ONCE,
    maxSize: MAX_LOADED_AT_ONCE,
    sizeOf: (sagaIds) => sagaIds.length,
    together: async (wanted) => {
      try {
        const streams = await load(db, wanted.flat(), false);
        return wanted.map((sagaIds) => ({ value: only(sagaIds, streams) }));
      } catch (error) {
        // What the server refused may be the fault of one of them; without a server all fail alike.
        return wanted.map(() => (sqlState(error) === null ? { error } : 'alone'));
      }
    },
    alone: (sagaIds) => load(db, sagaIds, false),
  });
  return async (sagaIds, options) => {
    const streams = new Map<string, Stream>();
    for (let from = 0; from < sagaIds.length; from += MAX_LOADED_AT_ONCE) {
      const some = sagaIds.slice(from, from + MAX_LOADED_AT_ONCE);
      const found = await (options?.ignoreSnapshots === true
        ? load(db, some, true)
        : queue.run(some));
      for (const [sagaId, stream] of found) streams.set(sagaId, stream);
    }
    return streams;
  };
}

function only(sagaIds: readonly string[], streams: Map<string, Stream>): Map<string, Stream> {
  const found = new Map<string, Stream>();
  for (const sagaId of sagaIds) {
    const stream = streams.get(sagaId);
    if (stream !== undefined) found.set(sagaId, stream);
  }
  return found;
}

async function load(
  db: Database,
  sagaIds: readonly string[],
  ignoreSnapshots: boolean,
): Promise<Map<string, Stream>> {
  const streams = new Map<string, Stream>();
  const rows = await db.read<EventRow & Partial<SnapshotRow>>({
    name: 'sagax-load',
    text: LOAD_SQL,
    values: [numberArray([...new Set(sagaIds)]), ignoreSnapshots],
  });
  for (const row of rows) {
    const stream = streams.get(row.saga_id) ?? { snapshot: null, events: [] };
    streams.set(row.saga_id, stream);
    if (row.shard === null) {
      stream.snapshot = {
        sagaId: row.saga_id,
        streamVersion: row.stream_version,
        definitionHash: row.definition_hash ?? '',
        stateHash: row.state_hash ?? '',
        state: fromJsonb(row.event),
      };
    } else {
      stream.events.push(toLoggedEvent(row));
    }
  }
  // The union's order is the plan's business; a stream's order is ours.
  for (const { events } of streams.values()) {
    events.sort((a, b) => a.streamVersion - b.streamVersion);
  }
  return streams;
}
