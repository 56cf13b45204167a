/**
 * `EventLog` on Postgres: appends by one fenced statement, reads that prune to the partitions they need.
 *
 * Guards I1, I2 and I4 (see append.ts), and that a lost answer is never taken for a failure.
 */
import { FencedError } from '../core/errors.ts';
import { OUTBOX_EVENTS, type EventLog, type SagaSnapshot, type ShardBatch } from '../ports.ts';
import type { LoggedEvent } from '../core/events.ts';
import { APPEND_SQL, appendValues, disorder, type AppendAnswer } from './append.ts';
import { sqlState, type Database } from './pool.ts';
import { EVENT_COLUMNS, fromJsonb, numberArray, toLoggedEvent, type EventRow } from './rows.ts';

/** Streams loaded by one query; more go in further ones, so that an answer stays within bounds. */
const MAX_LOADED_AT_ONCE = 500;

type Stream = { snapshot: SagaSnapshot | null; events: LoggedEvent[] };

export function postgresEventLog(db: Database): EventLog {
  return {
    append: (batch) => append(db, batch),
    load: async (sagaIds, options) => {
      const streams = new Map<string, Stream>();
      for (let from = 0; from < sagaIds.length; from += MAX_LOADED_AT_ONCE) {
        const some = sagaIds.slice(from, from + MAX_LOADED_AT_ONCE);
        await load(db, some, options?.ignoreSnapshots === true, streams);
      }
      return streams;
    },
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

async function append(db: Database, batch: ShardBatch): Promise<void> {
  const values = appendValues(batch);
  const query = { name: 'sagax-append', text: APPEND_SQL, values };
  let answer: AppendAnswer | undefined;
  try {
    answer = (await db.write<AppendAnswer>(query)).rows[0];
  } catch (error) {
    // A row of one of the batch's streams or shard_seqs is there already: the caller's state is behind the log.
    if (sqlState(error) === '23505') throw disorder((error as Error).message, batch);
    throw error;
  }
  if (answer?.moved === 1) return;
  if (answer?.held !== 1) {
    throw new FencedError(
      `Shard ${batch.shard} has left epoch ${batch.epoch}: another node owns it. Drop all memory of the shard.`,
    );
  }
  throw answer.gap !== null
    ? disorder(`saga ${answer.gap} would get a gap in its stream versions (I1)`, batch)
    : disorder(
        `it begins at shard_seq ${batch.events[0]?.shardSeq}, the shard goes on at ${answer.next_seq}`,
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
 * snapshot's row. The lateral join looks each saga up by itself, in the one partition that can have it.
 */
export const LOAD_SQL = `
WITH wanted AS MATERIALIZED (
  SELECT ids.saga_id, s.stream_version, s.definition_hash, s.state_hash, s.state
  FROM unnest($1::bigint[]) AS ids (saga_id)
  LEFT JOIN LATERAL (SELECT * FROM sagax.snapshots s WHERE NOT $2 AND s.saga_id = ids.saga_id) s ON true
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

async function load(
  db: Database,
  sagaIds: readonly string[],
  ignoreSnapshots: boolean,
  streams: Map<string, Stream>,
): Promise<void> {
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
}
