/**
 * Fills a log with finished sagas much faster than they could run: copies of one that did run, by SQL.
 *
 * Guards that what is read and written afterwards meets a log as years of work leave it: the same tables, weekly
 * partitions and indexes, each saga's rows with its own ids, times, business key and shard, gapless per shard
 * (I1). The engine is fenced at the end and reads its positions anew, so it goes on behind the filling.
 */
import type pg from 'pg';
import { composeSnowflake } from '../engine/core/ids.ts';
import { partitionOf } from '../engine/core/shards.ts';
import { ensurePartitions } from '../engine/postgres/partitions.ts';

/** Ids with it are never leased out while this many processes are not there. */
const NODE_ID = 1_023;
const CHUNK = 2_000;
/** Sagas that begin the weeks: with them partitions are made before the mass comes. */
const PIONEERS = 16;
const CUSTOMERS = 5_000;

export interface Filling {
  count: number;
  /** The sagas lie evenly in this time up to `until_ms`. */
  over_ms: number;
  /** Default: now. */
  until_ms?: number;
  /** A saga of the log that has ended: what is copied. */
  templateId: string;
}

const EVENTS_SQL = `
INSERT INTO sagax.events (saga_id, namespace, stream_version, shard, shard_seq, epoch, at_ms, type, event)
SELECT n.saga_id, t.namespace, t.stream_version, n.shard, n.first_seq + t.stream_version - 1, s.epoch,
  n.started_ms + t.at_ms - first.at_ms, t.type, replace(t.event::text, $1::text, n.saga_id::text)::jsonb
FROM unnest($2::bigint[], $3::int[], $4::bigint[], $5::bigint[]) AS n (saga_id, shard, first_seq, started_ms)
JOIN sagax.shards s ON s.shard = n.shard
JOIN sagax.events t ON t.saga_id = $1::bigint
JOIN sagax.events first ON first.saga_id = $1::bigint AND first.stream_version = 1
ORDER BY n.saga_id, t.stream_version`;

const SAGAS_SQL = `
INSERT INTO sagax.sagas (saga_id, namespace, definition, definition_version, status, state, business_key, attributes,
  stream_version, started_at_ms, updated_at_ms, ended_at_ms, pivot_passed, failure_code, failure_message, output)
SELECT n.saga_id, t.namespace, t.definition, t.definition_version, t.status, t.state, 'key-' || n.saga_id,
  jsonb_build_object('customer', n.customer), t.stream_version, n.started_ms,
  n.started_ms + t.updated_at_ms - t.started_at_ms, n.started_ms + t.ended_at_ms - t.started_at_ms,
  t.pivot_passed, t.failure_code, t.failure_message, t.output
FROM unnest($2::bigint[], $3::bigint[], $4::int[]) AS n (saga_id, started_ms, customer)
JOIN sagax.sagas t ON t.saga_id = $1::bigint
ORDER BY n.saga_id`;

/** The customer of the n-th saga: each has his sagas all over the time. */
export function customerOf(index: number): number {
  return (index * 7_919) % CUSTOMERS;
}

interface Place {
  sagaId: string;
  customer: number;
  shard: number;
  started_ms: number;
}

/** @returns the ids of the sagas that were made, oldest first. If it fails, the log is of no use any more. */
export async function fillLog(pool: pg.Pool, filling: Filling): Promise<string[]> {
  const client = await pool.connect();
  try {
    await client.query('SET synchronous_commit = off');
    const nextSeqs = await readPositions(client);
    const { rows } = await client.query<{ n: number }>(
      'SELECT count(*)::int AS n FROM sagax.events WHERE saga_id = $1',
      [filling.templateId],
    );
    const events = rows[0]?.n ?? 0;
    if (events === 0) throw new Error(`The log has no saga ${filling.templateId} to copy.`);
    const places = placesOf(filling, nextSeqs.size);
    const step = Math.max(1, Math.floor(places.length / PIONEERS));
    const pioneers = places.filter((_, index) => index % step === 0);
    await insert(client, filling.templateId, pioneers, nextSeqs, events);
    await ensurePartitions(pool);
    const others = places.filter((_, index) => index % step !== 0);
    for (let from = 0; from < others.length; from += CHUNK) {
      const some = others.slice(from, from + CHUNK);
      await insert(client, filling.templateId, some, nextSeqs, events);
    }
    await movePositions(client, nextSeqs);
    // What autovacuum does with time.
    for (const table of ['events', 'sagas', 'shard_positions']) {
      await client.query(`VACUUM (ANALYZE) sagax.${table}`);
    }
    await client.query('CHECKPOINT');
    return places.map(({ sagaId }) => sagaId);
  } finally {
    client.release(true);
  }
}

async function readPositions(client: pg.PoolClient): Promise<Map<number, number>> {
  const { rows } = await client.query<{ shard: number; next_seq: string }>(
    'SELECT shard, next_seq FROM sagax.shard_positions',
  );
  return new Map(rows.map(({ shard, next_seq }) => [shard, Number(next_seq)]));
}

function placesOf(filling: Filling, shards: number): Place[] {
  const { count, over_ms, until_ms = Date.now() } = filling;
  const from_ms = until_ms - over_ms;
  return Array.from({ length: count }, (_, index) => {
    const started_ms = Math.floor(from_ms + (over_ms * index) / count);
    const sagaId = composeSnowflake(started_ms, NODE_ID, index % 4_096);
    const customer = customerOf(index);
    return { sagaId, customer, started_ms, shard: partitionOf(sagaId, shards) };
  });
}

async function insert(
  client: pg.PoolClient,
  templateId: string,
  places: readonly Place[],
  nextSeqs: Map<number, number>,
  events: number,
): Promise<void> {
  const ids = places.map(({ sagaId }) => sagaId);
  const started = places.map(({ started_ms }) => started_ms);
  const firsts = places.map(({ shard }) => {
    const first = nextSeqs.get(shard) ?? 1;
    nextSeqs.set(shard, first + events);
    return first;
  });
  const shards = places.map(({ shard }) => shard);
  await client.query(EVENTS_SQL, [templateId, ids, shards, firsts, started]);
  const customers = places.map(({ customer }) => customer);
  await client.query(SAGAS_SQL, [templateId, ids, started, customers]);
}

/** All that was copied counts as published. Locks in the order of an append: the shard, then its position. */
async function movePositions(client: pg.PoolClient, nextSeqs: Map<number, number>): Promise<void> {
  await client.query('BEGIN');
  await client.query('UPDATE sagax.shards SET epoch = epoch + 1, owner = NULL, expires_at = NULL');
  await client.query(
    `UPDATE sagax.shard_positions p SET next_seq = n.next_seq, published_seq = n.next_seq - 1
     FROM unnest($1::int[], $2::bigint[]) AS n (shard, next_seq) WHERE p.shard = n.shard`,
    [[...nextSeqs.keys()], [...nextSeqs.values()]],
  );
  await client.query('COMMIT');
}
