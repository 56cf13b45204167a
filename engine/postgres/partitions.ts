/**
 * Weekly partitions of the tables that are kept by saga id, which is time: made ahead, dropped when old.
 *
 * Guards that an insert never waits for a partition (the default one takes what has none), that many
 * nodes may run it at once, and that no partition is dropped while it holds a live saga or an event
 * that is not on the bus yet (I10).
 */
import type pg from 'pg';
import { composeSnowflake, parseSnowflake, SNOWFLAKE_EPOCH_MS } from '../core/ids.ts';
import { OUTBOX_EVENTS } from '../ports.ts';
import { mapError, sqlState } from './pool.ts';

const WEEK_MS = 7 * 24 * 3_600_000;
/** 1970-01-05, a Monday: weeks begin on Mondays, UTC. */
const FIRST_MONDAY_MS = 4 * 24 * 3_600_000;
/** This week and the next two: maintenance may be away for a fortnight before the default partition fills. */
const WEEKS_AHEAD = 2;
/** Weeks made in one pass for rows that the default partition took; the next pass goes on. */
const MAX_WEEKS_PER_PASS = 60;
/** Rows moved out of the default partition in one go: it is locked meanwhile, so the move must be short. */
const MAX_ROWS_MOVED = 50_000;
/** Short, since everything behind a waiting ACCESS EXCLUSIVE lock waits too. The next pass tries again. */
const DDL_LOCK_TIMEOUT_MS = 2_000;
const LOCKED = 'the table was locked by a long transaction; the next pass tries again';
/** Key of the advisory lock under which partitions are made and dropped: "parts" in ASCII. */
const LOCK_KEY = 0x70_61_72_74_73;

const TABLES = {
  events: { fillfactor: 100, key: '(shard, shard_seq)' },
  sagas: { fillfactor: 80, key: null },
  snapshots: { fillfactor: 70, key: null },
} as const;
type TableName = keyof typeof TABLES;
const TABLE_NAMES = Object.keys(TABLES) as TableName[];

export interface PartitionReport {
  created: string[];
  /** Not made now: too many rows in the default partition, or a lock that did not come free. */
  skipped: { name: string; reason: string }[];
}

/** Start of the week that `ms` is in. */
export function weekOf(ms: number): number {
  return Math.floor((ms - FIRST_MONDAY_MS) / WEEK_MS) * WEEK_MS + FIRST_MONDAY_MS;
}

function bounds(week_ms: number): { from: string; to: string } {
  const at = (ms: number): string => composeSnowflake(Math.max(ms, SNOWFLAKE_EPOCH_MS), 0, 0);
  return { from: at(week_ms), to: at(week_ms + WEEK_MS) };
}

function partitionName(table: TableName, week_ms: number): string {
  return `${table}_${new Date(week_ms).toISOString().slice(0, 10).replaceAll('-', '')}`;
}

/** Name of the partition that the saga's summary belongs in; there is one until retention drops the week. */
export function summariesOf(sagaId: string): string {
  return partitionName('sagas', weekOf(parseSnowflake(sagaId).ms));
}

function weekOfName(name: string): number {
  return Date.parse(name.replace(/^sagas_(\d{4})(\d{2})(\d{2})$/, '$1-$2-$3T00:00:00Z'));
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

export interface OldPartition {
  /** Start of the week, ms. */
  weekMs: number;
  sagas: number;
  /** Why it can't be dropped; null when it can. */
  refusal: string | null;
}

/** Weeks that ended before `beforeMs`, oldest first, with what keeps them. */
export async function listOldPartitions(pool: pg.Pool, beforeMs: number): Promise<OldPartition[]> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'sagax.sagas'::regclass AND c.relname ~ '^sagas_[0-9]{8}$' ORDER BY 1`,
  );
  const old: OldPartition[] = [];
  for (const { name } of rows) {
    const week_ms = weekOfName(name);
    if (week_ms + WEEK_MS > beforeMs) continue;
    old.push({ weekMs: week_ms, ...(await whatKeeps(pool, week_ms)) });
  }
  return old;
}

async function whatKeeps(
  client: pg.Pool | pg.PoolClient,
  week_ms: number,
): Promise<{ sagas: number; refusal: string | null }> {
  const { from, to } = bounds(week_ms);
  const { rows } = await client.query<{
    sagas: number;
    live: number;
    timers: number;
    unpublished: number;
  }>(
    `SELECT
       (SELECT count(*)::int FROM sagax.sagas WHERE saga_id >= $1 AND saga_id < $2) AS sagas,
       (SELECT count(*)::int FROM sagax.sagas WHERE saga_id >= $1 AND saga_id < $2
          AND status NOT IN ('completed', 'compensated')) AS live,
       (SELECT count(*)::int FROM sagax.wakeups WHERE saga_id >= $1 AND saga_id < $2) AS timers,
       (SELECT count(*)::int FROM sagax.shard_positions p JOIN sagax.events e
          ON e.shard = p.shard AND e.shard_seq > p.published_seq AND e.type = ANY($3)
          WHERE e.saga_id >= $1 AND e.saga_id < $2) AS unpublished`,
    [from, to, [...OUTBOX_EVENTS]],
  );
  const row = rows[0] ?? { sagas: 0, live: 0, timers: 0, unpublished: 0 };
  const reasons = [
    row.live > 0 ? `${row.live} sagas have not ended` : '',
    row.timers > 0 ? `${row.timers} timers are set` : '',
    row.unpublished > 0 ? `${row.unpublished} events are not on the bus yet` : '',
  ].filter((reason) => reason !== '');
  return { sagas: row.sagas, refusal: reasons.length === 0 ? null : reasons.join('; ') };
}

/**
 * Drops the weeks that ended before `beforeMs` and that nothing keeps, with their start keys. What is
 * dropped is gone. A week that holds a live saga is left whole, with the reason in the answer.
 * @param options.keepStartKeys for a log over several databases: see `dropStartKeys`
 */
export async function dropOldPartitions(
  pool: pg.Pool,
  beforeMs: number,
  options: { keepStartKeys: boolean } = { keepStartKeys: false },
): Promise<{ dropped: number[]; refused: OldPartition[] }> {
  const dropped: number[] = [];
  const refused: OldPartition[] = [];
  try {
    for (const old of await listOldPartitions(pool, beforeMs)) {
      const drop = (client: pg.PoolClient): Promise<string | null> =>
        dropWeek(client, old.weekMs, options.keepStartKeys);
      const kept = await inTransaction(pool, drop).catch((error: unknown) => {
        if (sqlState(error) === '55P03' || sqlState(error) === '40P01') return LOCKED;
        throw error;
      });
      if (kept === null) dropped.push(old.weekMs);
      else refused.push({ ...old, refusal: kept });
    }
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
  return { dropped, refused };
}

async function dropWeek(
  client: pg.PoolClient,
  week_ms: number,
  keepStartKeys: boolean,
): Promise<string | null> {
  const { from, to } = bounds(week_ms);
  const names = TABLE_NAMES.map((table) => [table, partitionName(table, week_ms)] as const);
  const there: (readonly [TableName, string])[] = [];
  for (const pair of names) {
    const { rows } = await client.query<{ there: boolean }>(
      `SELECT to_regclass('sagax.' || $1) IS NOT NULL AS there`,
      [pair[1]],
    );
    if (rows[0]?.there === true) there.push(pair);
  }
  // Locked before looking: no append can bring a saga of that week back to life in between.
  for (const [, name] of there)
    await client.query(`LOCK TABLE sagax.${name} IN ACCESS EXCLUSIVE MODE`);
  const { refusal } = await whatKeeps(client, week_ms);
  if (refusal !== null) return refusal;
  for (const [table, name] of there) {
    await client.query(`ALTER TABLE sagax.${table} DETACH PARTITION sagax.${name}`);
    await client.query(`DROP TABLE sagax.${name}`);
  }
  if (!keepStartKeys) {
    await client.query('DELETE FROM sagax.start_keys WHERE saga_id >= $1 AND saga_id < $2', [
      from,
      to,
    ]);
  }
  return null;
}

/** Starts of the weeks that ended before `beforeMs` and still have a partition or a row, ms. */
export async function oldWeeks(pool: pg.Pool, beforeMs: number): Promise<number[]> {
  try {
    const { rows } = await pool.query<{ name: string | null; low: string | null }>(
      `SELECT c.relname::text AS name, NULL::bigint AS low FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'sagax.sagas'::regclass AND c.relname ~ '^sagas_[0-9]{8}$'
       UNION ALL SELECT NULL, saga_id FROM sagax.sagas_default WHERE saga_id < $1`,
      [bounds(weekOf(beforeMs)).from],
    );
    const weeks = rows.map(({ name, low }) =>
      name === null ? weekOf(parseSnowflake(low ?? '0').ms) : weekOfName(name),
    );
    return [...new Set(weeks)].filter((week_ms) => week_ms + WEEK_MS <= beforeMs);
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
}

/**
 * Deletes the start keys of weeks that ended before `beforeMs`, but for those in `kept`. With several databases the
 * keys are in the first, and a week's keys may go only when the week is gone from all: a start that is repeated
 * while its saga lives in another database must find it (I4). Idempotent.
 */
export async function dropStartKeys(
  pool: pg.Pool,
  beforeMs: number,
  kept: readonly number[],
): Promise<void> {
  const ranges = kept.map(bounds);
  try {
    await pool.query(
      `DELETE FROM sagax.start_keys k WHERE k.saga_id < $1 AND NOT EXISTS (
         SELECT FROM unnest($2::bigint[], $3::bigint[]) AS kept (low, high)
         WHERE k.saga_id >= kept.low AND k.saga_id < kept.high)`,
      [bounds(weekOf(beforeMs)).from, ranges.map(({ from }) => from), ranges.map(({ to }) => to)],
    );
  } catch (error) {
    throw mapError(error, 'repeatable');
  }
}

async function inTransaction<T>(
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
