/**
 * Weekly partitions of the tables that are kept by saga id, which is time: made ahead; dropped by retention.ts.
 *
 * Guards that an insert never waits for a partition (the default one takes what has none), and that many
 * nodes may run it at once.
 */
import type pg from 'pg';
import { composeSnowflake, parseSnowflake, SNOWFLAKE_EPOCH_MS } from '../core/ids.ts';
import { mapError, sqlState } from './pool.ts';

export const WEEK_MS = 7 * 24 * 3_600_000;
/** 1970-01-05, a Monday: weeks begin on Mondays, UTC. */
export const FIRST_MONDAY_MS = 4 * 24 * 3_600_000;
/** This week and the next two: maintenance may be away for a fortnight before the default partition fills. */
const WEEKS_AHEAD = 2;
/** Weeks made in one pass for rows that the default partition took; the next pass goes on. */
const MAX_WEEKS_PER_PASS = 60;
/** Rows moved out of the default partition in one go: it is locked meanwhile, so the move must be short. */
const MAX_ROWS_MOVED = 50_000;
/** Short, since everything behind a waiting ACCESS EXCLUSIVE lock waits too. The next pass tries again. */
const DDL_LOCK_TIMEOUT_MS = 2_000;
export const LOCKED = 'the table was locked by a long transaction; the next pass tries again';
/** Key of the advisory lock under which partitions are made and dropped: "parts" in ASCII. */
const LOCK_KEY = 0x70_61_72_74_73;

const TABLES = {
  events: { fillfactor: 100, key: '(shard, shard_seq)' },
  sagas: { fillfactor: 80, key: null },
  snapshots: { fillfactor: 70, key: null },
} as const;
type TableName = keyof typeof TABLES;
/** In the order in which an append locks them. */
export const TABLE_NAMES = Object.keys(TABLES) as TableName[];

export interface PartitionReport {
  created: string[];
  skipped: Skipped[];
}

/** What this pass left to the next one. */
export interface Skipped {
  /** A partition that was not made, or the table that has rows left to delete. */
  name: string;
  /** Too many rows in the default partition, a lock that did not come free, a statement that Postgres refused. */
  reason: string;
}

/** Start of the week that `ms` is in. */
export function weekOf(ms: number): number {
  return Math.floor((ms - FIRST_MONDAY_MS) / WEEK_MS) * WEEK_MS + FIRST_MONDAY_MS;
}

/** The ids of a week: from the first one up to, but without, the second. */
export function bounds(week_ms: number): { from: string; to: string } {
  const at = (ms: number): string => composeSnowflake(Math.max(ms, SNOWFLAKE_EPOCH_MS), 0, 0);
  return { from: at(week_ms), to: at(week_ms + WEEK_MS) };
}

export function partitionName(table: TableName, week_ms: number): string {
  return `${table}_${new Date(week_ms).toISOString().slice(0, 10).replaceAll('-', '')}`;
}

/** Name of the partition that the saga's summary belongs in; there is one until retention drops the week. */
export function summariesOf(sagaId: string): string {
  return partitionName('sagas', weekOf(parseSnowflake(sagaId).ms));
}

/**
 * Makes the partitions of this week and the next two, and of weeks whose rows the default partition holds.
 * Idempotent. If the process dies, some are made; the next pass makes the rest.
 * @throws SagaxError DATABASE_UNAVAILABLE
 */
export async function ensurePartitions(pool: pg.Pool): Promise<PartitionReport> {
  const report: PartitionReport = { created: [], skipped: [] };
  try {
    for (const table of TABLE_NAMES) {
      for (const week_ms of await missingWeeks(pool, table))
        await createPartition(pool, table, week_ms, report);
    }
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
  return report;
}

async function missingWeeks(pool: pg.Pool, table: TableName): Promise<number[]> {
  const { rows } = await pool.query<{ now_ms: string; low: string | null; names: string[] }>(
    `SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
       (SELECT min(saga_id) FROM sagax.${table}_default WHERE saga_id >= $1) AS low,
       ARRAY(SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'sagax.${table}'::regclass) AS names`,
    [bounds(weekOf(SNOWFLAKE_EPOCH_MS)).to],
  );
  const row = rows[0];
  if (row === undefined) return [];
  const last = weekOf(Number(row.now_ms)) + WEEKS_AHEAD * WEEK_MS;
  const there = new Set(row.names);
  const weeks: number[] = [];
  for (let week_ms = last; week_ms >= weekOf(Number(row.now_ms)); week_ms -= WEEK_MS)
    weeks.unshift(week_ms);
  for (let low = row.low; low !== null && weeks.length < MAX_WEEKS_PER_PASS;) {
    const week_ms = weekOf(parseSnowflake(low).ms);
    if (week_ms > last) break;
    if (!weeks.includes(week_ms)) weeks.push(week_ms);
    const next = await pool.query<{ low: string | null }>(
      `SELECT min(saga_id) AS low FROM sagax.${table}_default WHERE saga_id >= $1`,
      [bounds(week_ms).to],
    );
    low = next.rows[0]?.low ?? null;
  }
  return weeks.filter((week_ms) => !there.has(partitionName(table, week_ms)));
}

async function createPartition(
  pool: pg.Pool,
  table: TableName,
  week_ms: number,
  report: PartitionReport,
): Promise<void> {
  const name = partitionName(table, week_ms);
  try {
    const made = await inTransaction(pool, (client) => build(client, table, name, bounds(week_ms)));
    if (made === 'made') report.created.push(name);
    else if (made !== 'there') report.skipped.push({ name, reason: made });
  } catch (error) {
    if (sqlState(error) !== '55P03') throw error;
    report.skipped.push({
      name,
      reason: LOCKED,
    });
  }
}

async function build(
  client: pg.PoolClient,
  table: TableName,
  name: string,
  { from, to }: { from: string; to: string },
): Promise<string> {
  const { rows } = await client.query<{ there: boolean; waiting: number }>(
    `SELECT to_regclass('sagax.' || $1) IS NOT NULL AS there, (SELECT count(*)::int FROM (SELECT 1 FROM
       sagax.${table}_default WHERE saga_id >= $2 AND saga_id < $3 LIMIT ${MAX_ROWS_MOVED + 1}) AS few) AS waiting`,
    [name, from, to],
  );
  if (rows[0]?.there === true) return 'there';
  if ((rows[0]?.waiting ?? 0) > MAX_ROWS_MOVED) {
    return `the default partition holds over ${MAX_ROWS_MOVED} rows of that week; move them while the engine is stopped`;
  }
  const { fillfactor, key } = TABLES[table];
  await client.query(
    `CREATE TABLE sagax.${name} (LIKE sagax.${table} INCLUDING ALL) WITH (fillfactor = ${fillfactor})`,
  );
  // A unique key over a partitioned table would need saga_id in it; within a week it can do without (I1).
  if (key !== null)
    await client.query(`CREATE UNIQUE INDEX ${name}_shard_seq_key ON sagax.${name} ${key}`);
  await client.query(`LOCK TABLE sagax.${table}_default IN ACCESS EXCLUSIVE MODE`);
  await client.query(
    `WITH moved AS (DELETE FROM sagax.${table}_default WHERE saga_id >= ${from} AND saga_id < ${to} RETURNING *)
     INSERT INTO sagax.${name} SELECT * FROM moved`,
  );
  // Attached rather than created in place: that locks the parent against nothing but other such changes.
  await client.query(
    `ALTER TABLE sagax.${table} ATTACH PARTITION sagax.${name} FOR VALUES FROM (${from}) TO (${to})`,
  );
  return 'made';
}

/** One transaction, alone among those that make or drop partitions. */
export async function inTransaction<T>(
  pool: pg.Pool,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  // One that can't be rolled back is still in its transaction: an append must not get it.
  let broken = false;
  try {
    await client.query('BEGIN');
    // Waiting for another node's pass is no trouble to anyone; waiting for a table is, hence the second limit.
    await client.query('SELECT pg_advisory_xact_lock($1)', [LOCK_KEY]);
    await client.query(`SET LOCAL lock_timeout = ${DDL_LOCK_TIMEOUT_MS}`);
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => (broken = true));
    throw error;
  } finally {
    client.release(broken);
  }
}
