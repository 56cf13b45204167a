/**
 * Retention: drops the partitions of weeks that are over and that nothing keeps, then their start keys.
 *
 * Guards that no week is dropped while it holds a live saga, a timer, or an event that is not on the bus yet (I10);
 * that a start key stays until nothing of its week is left (I4); and that the log is held up for a moment only. What
 * takes long is done without a lock: rows are counted before one is taken, keys are deleted after it is given back, in pieces.
 *
 * Any number of nodes may run it. If the process dies, a week is whole or gone, and keys that were left are found by
 * the next pass. What fails for one week, or for one piece, is told, and stops no other.
 *
 * Locks of a drop, in this order: the week's partitions SHARE UPDATE EXCLUSIVE, for which an autovacuum must go and no
 * statement of the log has to wait; the parents ACCESS EXCLUSIVE; the week's partitions ACCESS EXCLUSIVE. Every statement
 * takes a parent before its partitions; the other way round, one that runs meanwhile could be a deadlock.
 */
import type pg from 'pg';
import { SagaxError } from '../core/errors.ts';
import { SNOWFLAKE_EPOCH_MS } from '../core/ids.ts';
import { OUTBOX_EVENTS } from '../ports.ts';
import {
  bounds,
  FIRST_MONDAY_MS,
  inTransaction,
  LOCKED,
  partitionName,
  TABLE_NAMES,
  WEEK_MS,
  weekOf,
  type Skipped,
} from './partitions.ts';
import { CLIENT_GRACE_MS, isConnectionError, mapError, retryConflicts, sqlState } from './pool.ts';

/** Everything behind a drop that waits for a parent waits too: no longer than this, and before Postgres looks for deadlocks (1 s). */
const STANDSTILL_MS = 200;
/** Start keys deleted in one transaction, which takes some ms. A saga's keys go together. */
const KEYS_AT_ONCE = 5_000;
/** Longest look at a week, whose sagas it reads; the log's own statements get less, and nobody waits for this one. */
const LOOK_MS = 60_000;
/** Most events of a shard that are counted as not being on the bus: one is enough to keep the week. */
const MOST_COUNTED = 1_000;
/** Bits of a Snowflake id below its milliseconds. */
const BELOW_MS_BITS = 22;

export interface OldPartition {
  /** Start of the week, ms. */
  weekMs: number;
  /** Null when they could not be counted. */
  sagas: number | null;
  /** Why it can't be dropped; null when it can. */
  refusal: string | null;
}

export interface RetentionReport {
  /** Starts of the weeks that were dropped, ms. */
  dropped: number[];
  /** Weeks over their time that something keeps. */
  refused: OldPartition[];
  /** Start keys that were left. */
  skipped: Skipped[];
}

export interface RetentionOptions {
  /** For a log over several databases: see `dropStartKeys`. */
  keepStartKeys?: boolean;
  /** Ends it early, between two weeks or two pieces. */
  signal?: AbortSignal | undefined;
}

/** What keeps a week, and where each shard was when that was looked at: what is appended later has at least that `shard_seq`. */
interface Look extends OldPartition {
  shards: number[];
  nextSeqs: string[];
}

/** Weeks that ended before `beforeMs`, oldest first, with what keeps them. */
export async function listOldPartitions(pool: pg.Pool, beforeMs: number): Promise<OldPartition[]> {
  const old: OldPartition[] = [];
  for (const week_ms of await partitionedWeeks(pool, beforeMs)) {
    const { weekMs, sagas, refusal } = await lookAt(pool, week_ms);
    old.push({ weekMs, sagas, refusal });
  }
  return old;
}

async function partitionedWeeks(pool: pg.Pool, beforeMs: number): Promise<number[]> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'sagax.sagas'::regclass AND c.relname ~ '^sagas_[0-9]{8}$' ORDER BY 1`,
  );
  return rows.map(({ name }) => weekOfName(name)).filter((week_ms) => isOver(week_ms, beforeMs));
}

function weekOfName(name: string): number {
  return Date.parse(name.replace(/^sagas_(\d{4})(\d{2})(\d{2})$/, '$1-$2-$3T00:00:00Z'));
}

function isOver(week_ms: number, beforeMs: number): boolean {
  return week_ms + WEEK_MS <= beforeMs;
}

async function lookAt(pool: pg.Pool, week_ms: number): Promise<Look> {
  try {
    return await whatKeeps(pool, week_ms);
  } catch (error) {
    return { weekMs: week_ms, sagas: null, refusal: reasonOf(error), shards: [], nextSeqs: [] };
  }
}

/** In a transaction of its own, for a time limit of its own; one that fails is ended with its connection. */
async function whatKeeps(pool: pg.Pool, week_ms: number): Promise<Look> {
  const client = await pool.connect();
  let broken = true;
  try {
    await client.query('BEGIN READ ONLY');
    await client.query(`SET LOCAL statement_timeout = ${LOOK_MS}`);
    const look = await ask(client, week_ms);
    await client.query('COMMIT');
    broken = false;
    return look;
  } finally {
    client.release(broken);
  }
}

interface Found {
  sagas: number;
  live: number;
  timers: number;
  unpublished: number;
  shards: number[];
  next_seqs: string[];
}

async function ask(client: pg.PoolClient, week_ms: number): Promise<Look> {
  const { from, to } = bounds(week_ms);
  const query: pg.QueryConfig & { query_timeout: number } = {
    // The limited look behind what is published is one into the index, whatever the statistics say.
    text: `SELECT s.sagas, s.live,
       (SELECT count(*)::int FROM sagax.wakeups WHERE saga_id >= $1 AND saga_id < $2) AS timers,
       (SELECT count(*)::int FROM sagax.shard_positions p, LATERAL (
          SELECT FROM sagax.events e
          WHERE e.shard = p.shard AND e.shard_seq > p.published_seq AND e.type = ANY($3)
            AND e.saga_id >= $1 AND e.saga_id < $2
          ORDER BY e.shard_seq LIMIT ${MOST_COUNTED}) AS waiting) AS unpublished,
       ARRAY(SELECT shard FROM sagax.shard_positions ORDER BY shard) AS shards,
       ARRAY(SELECT next_seq FROM sagax.shard_positions ORDER BY shard) AS next_seqs
     FROM (SELECT count(*)::int AS sagas,
         count(*) FILTER (WHERE status NOT IN ('completed', 'compensated'))::int AS live
       FROM sagax.sagas WHERE saga_id >= $1 AND saga_id < $2) AS s`,
    values: [from, to, [...OUTBOX_EVENTS]],
    query_timeout: LOOK_MS + CLIENT_GRACE_MS,
  };
  const { rows } = await client.query<Found>(query);
  const found = rows[0];
  if (found === undefined) throw new SagaxError('INTERNAL', 'A count gave no row.');
  const reasons = [
    found.live > 0 ? `${found.live} sagas have not ended` : '',
    found.timers > 0 ? `${found.timers} timers are set` : '',
    found.unpublished > 0 ? `${found.unpublished} events are not on the bus yet` : '',
  ].filter((reason) => reason !== '');
  const refusal = reasons.length === 0 ? null : reasons.join('; ');
  const { sagas, shards, next_seqs: nextSeqs } = found;
  return { weekMs: week_ms, sagas, refusal, shards, nextSeqs };
}

/**
 * Drops the weeks that ended before `beforeMs` and that nothing keeps, and the start keys of weeks that are gone. What
 * is dropped is gone. A week that holds a live saga is left whole, with the reason in the answer.
 * @throws SagaxError DATABASE_UNAVAILABLE
 */
export async function dropOldPartitions(
  pool: pg.Pool,
  beforeMs: number,
  { keepStartKeys = false, signal }: RetentionOptions = {},
): Promise<RetentionReport> {
  const report: RetentionReport = { dropped: [], refused: [], skipped: [] };
  try {
    for (const week_ms of await partitionedWeeks(pool, beforeMs)) {
      if (signal?.aborted === true) return report;
      const look = await lookAt(pool, week_ms);
      const refusal = look.refusal ?? (await drop(pool, look));
      if (refusal === null) report.dropped.push(week_ms);
      else report.refused.push({ weekMs: week_ms, sagas: look.sagas, refusal });
    }
    if (!keepStartKeys)
      report.skipped = await dropStartKeys(pool, beforeMs, await oldWeeks(pool, beforeMs), signal);
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
  return report;
}

/** @returns why the week is still there; null when it is gone */
async function drop(pool: pg.Pool, look: Look): Promise<string | null> {
  try {
    return await retryConflicts(() => inTransaction(pool, (client) => dropWeek(client, look)));
  } catch (error) {
    return reasonOf(error);
  }
}

async function dropWeek(client: pg.PoolClient, look: Look): Promise<string | null> {
  const there: [table: string, name: string][] = [];
  for (const table of TABLE_NAMES) {
    const name = partitionName(table, look.weekMs);
    const { rows } = await client.query<{ there: boolean }>(
      `SELECT to_regclass('sagax.' || $1) IS NOT NULL AS there`,
      [name],
    );
    if (rows[0]?.there === true) there.push([`sagax.${table}`, `sagax.${name}`]);
  }
  if (there.length === 0) return null;
  const names = there.map(([, name]) => name).join(', ');
  await client.query(`LOCK TABLE ${names} IN SHARE UPDATE EXCLUSIVE MODE`);
  await client.query(`SET LOCAL lock_timeout = ${STANDSTILL_MS}`);
  const parents = there.map(([table]) => `ONLY ${table}`).join(', ');
  await client.query(`LOCK TABLE ${parents} IN ACCESS EXCLUSIVE MODE`);
  await client.query(`LOCK TABLE ${names} IN ACCESS EXCLUSIVE MODE`);
  if (await wasWrittenSince(client, look))
    return 'it was written to just now; the next pass looks again';
  for (const [table, name] of there) {
    await client.query(`ALTER TABLE ${table} DETACH PARTITION ${name}`);
    await client.query(`DROP TABLE ${name}`);
  }
  return null;
}

/** Whether an append since the look could have brought a saga of the week back to life: one step in an index for each shard. */
async function wasWrittenSince(client: pg.PoolClient, look: Look): Promise<boolean> {
  const { from, to } = bounds(look.weekMs);
  const { rows } = await client.query<{ written: boolean }>(
    `SELECT EXISTS (SELECT FROM sagax.wakeups WHERE saga_id >= $1 AND saga_id < $2) OR EXISTS (
       SELECT FROM unnest($3::int[], $4::bigint[]) AS seen (shard, next_seq), LATERAL (
         SELECT e.shard_seq FROM sagax.events e
         WHERE e.shard = seen.shard AND e.saga_id >= $1 AND e.saga_id < $2
         ORDER BY e.shard_seq DESC LIMIT 1) AS last
       WHERE last.shard_seq >= seen.next_seq) AS written`,
    [from, to, look.shards, look.nextSeqs],
  );
  return rows[0]?.written !== false;
}

/** Starts of the weeks that ended before `beforeMs` and still have a partition or a row, ms; all of one moment. */
export async function oldWeeks(pool: pg.Pool, beforeMs: number): Promise<number[]> {
  try {
    const { rows } = await pool.query<{ name: string | null; week: string | null }>(
      `SELECT c.relname::text AS name, NULL::bigint AS week FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'sagax.sagas'::regclass AND c.relname ~ '^sagas_[0-9]{8}$'
       UNION ALL SELECT DISTINCT NULL, ((saga_id >> ${BELOW_MS_BITS}) + ${SNOWFLAKE_EPOCH_MS - FIRST_MONDAY_MS}) / ${WEEK_MS}
         FROM sagax.sagas_default WHERE saga_id < $1`,
      [bounds(weekOf(beforeMs)).from],
    );
    return rows
      .map(({ name, week }) =>
        name === null ? Number(week) * WEEK_MS + FIRST_MONDAY_MS : weekOfName(name),
      )
      .filter((week_ms) => isOver(week_ms, beforeMs));
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
}

/**
 * Deletes the start keys of weeks that ended before `beforeMs`, but for those in `kept`, piece by piece. With several
 * databases the keys are in the first, and a week's keys may go only when the week is gone from all: a start that is
 * repeated while its saga lives in another database must find it (I4). Idempotent.
 * @returns what was left since Postgres refused; the next pass finds it
 * @throws SagaxError DATABASE_UNAVAILABLE
 */
export async function dropStartKeys(
  pool: pg.Pool,
  beforeMs: number,
  kept: readonly number[],
  signal?: AbortSignal,
): Promise<Skipped[]> {
  const failures: string[] = [];
  try {
    for (const ids of idsBetween(kept, BigInt(bounds(weekOf(beforeMs)).from)))
      failures.push(...(await deleteKeys(pool, ids, signal)));
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
  if (failures.length === 0) return [];
  const left = `${failures.length} pieces of up to ${KEYS_AT_ONCE} keys are left`;
  return [{ name: 'start_keys', reason: `${left}: ${failures[0]}` }];
}

interface Ids {
  from: bigint;
  to: bigint;
}

/** The ids below `end` that are in none of the weeks. */
function idsBetween(weeks: readonly number[], end: bigint): Ids[] {
  const gaps: Ids[] = [];
  let from = 0n;
  for (const week_ms of [...new Set(weeks)].sort((a, b) => a - b)) {
    const week = bounds(week_ms);
    gaps.push({ from, to: BigInt(week.from) });
    from = BigInt(week.to);
  }
  gaps.push({ from, to: end });
  return gaps.filter(({ from, to }) => from < to);
}

/** @returns why a piece was left, for each that was */
async function deleteKeys(
  pool: pg.Pool,
  { from, to }: Ids,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const failures: string[] = [];
  try {
    for (let low: bigint | null = from; low !== null;) {
      if (signal?.aborted === true) break;
      const next: bigint | null = await beginOfNext(pool, low, to);
      await pool
        .query('DELETE FROM sagax.start_keys WHERE saga_id >= $1 AND saga_id < $2', [
          low,
          next ?? to,
        ])
        .catch((error: unknown) => void failures.push(reasonOf(error)));
      low = next;
    }
  } catch (error) {
    failures.push(reasonOf(error));
  }
  return failures;
}

/** Where the piece behind the one from `low` begins; null when that one is the last. */
async function beginOfNext(pool: pg.Pool, low: bigint, to: bigint): Promise<bigint | null> {
  // Without an upper bound, by which a planner without statistics would take the ids for few, and sort them all.
  const { rows } = await pool.query<{ last: string }>(
    `SELECT saga_id AS last FROM sagax.start_keys WHERE saga_id >= $1
     ORDER BY saga_id LIMIT 1 OFFSET ${KEYS_AT_ONCE - 1}`,
    [low],
  );
  const next = rows[0] === undefined ? to : BigInt(rows[0].last) + 1n;
  return next < to ? next : null;
}

/** What went wrong with one week or piece, in words. @throws `error` when there is no database to go on with, or no answer of one */
function reasonOf(error: unknown): string {
  const state = sqlState(error);
  if (state === null || isConnectionError(error)) throw error;
  if (state === '55P03' || state === '40P01') return LOCKED;
  return `Postgres refused (${state}: ${(error as Error).message}); the next pass tries again`;
}
