/**
 * The list and search queries that people and the API ask, as a load: how long they take, and what they look at.
 *
 * Guards that "fast" is not luck of a small table: the plans tell which partitions and how many rows were looked at.
 */
import type pg from 'pg';
import { postgresReader, listQuery } from '../engine/postgres/inspect.ts';
import { Database } from '../engine/postgres/index.ts';
import { parseSnowflake } from '../engine/core/ids.ts';
import type { SagaQuery } from '../engine/ports-read.ts';
import { customerOf } from './fill.ts';
import { latencyOf } from './stats.ts';

const HOUR_MS = 3_600_000;
const LIMIT = 50;
const REPEATS = 40;

/** One query of each kind, somewhere in the log. @param sagaIds of sagas that `fillLog` made */
export function listQueries(sagaIds: readonly string[], at: number): { [name: string]: SagaQuery } {
  const index = Math.floor(sagaIds.length * at);
  const sagaId = sagaIds[index] ?? '1';
  const { ms } = parseSnowflake(sagaId);
  const base = { namespace: 'default', limit: LIMIT };
  return {
    newest: base,
    'from the middle': { ...base, beforeSagaId: sagaId },
    status: { ...base, status: ['completed'], beforeSagaId: sagaId },
    'two statuses': { ...base, status: ['completed', 'stuck'], beforeSagaId: sagaId },
    'nothing stuck': { ...base, status: ['stuck'] },
    definition: { ...base, definition: 'order', beforeSagaId: sagaId },
    'business key': { ...base, businessKey: `key-${sagaId}` },
    attribute: {
      ...base,
      attributes: { customer: customerOf(index) },
    },
    'an hour': { ...base, startedFrom: ms - HOUR_MS, startedBefore: ms + 1 },
  };
}

/** @returns the 99th percentile of the slowest kind of query, and the median over all, ms */
export async function timeLists(
  pool: pg.Pool,
  sagaIds: readonly string[],
): Promise<{ p50_ms: number; p99_ms: number; slowest: string }> {
  const reader = postgresReader(new Database(pool));
  const all: number[] = [];
  let worst = { p99_ms: 0, slowest: '' };
  // What a new connection reads of the catalogue with its first query is no list's.
  for (const query of Object.values(listQueries(sagaIds, 0.5))) await reader.list(query);
  for (const name of Object.keys(listQueries(sagaIds, 0))) {
    const samples: number[] = [];
    for (let n = 0; n < REPEATS; n++) {
      const query = listQueries(sagaIds, (n + 0.5) / REPEATS)[name];
      if (query === undefined) continue;
      const begun = performance.now();
      await reader.list(query);
      samples.push(performance.now() - begun);
    }
    all.push(...samples);
    const { p99_ms } = latencyOf(samples);
    if (p99_ms > worst.p99_ms) worst = { p99_ms, slowest: name };
  }
  return { p50_ms: latencyOf(all).p50_ms, ...worst };
}

export interface Plan {
  /** Sequential scans of a partition that looked at rows. */
  seqScans: number;
  /** Rows that were looked at, those thrown away included. */
  rows: number;
  /** Partitions that were looked into. */
  partitions: number;
  text: string;
}

/** What the server did for a statement (EXPLAIN ANALYZE: it is run). */
export async function planOf(pool: pg.Pool, { text, values = [] }: pg.QueryConfig): Promise<Plan> {
  const { rows } = await pool.query<{ 'QUERY PLAN': string }>(
    `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ${text}`,
    values,
  );
  const lines = rows.map((row) => row['QUERY PLAN']);
  const scans = lines.flatMap((line, index) => {
    const scan =
      /(Seq|(?<!Bitmap )Index|Index Only|Bitmap Heap) Scan.* on ((?:sagas|events|snapshots)_\w+).*\(actual rows=([\d.]+) loops=(\d+)/.exec(
        line,
      );
    if (scan === null) return [];
    const below = lines.slice(index + 1);
    const end = below.findIndex((other) => /^\s*->|^\w/.test(other));
    const removed = below
      .slice(0, end === -1 ? undefined : end)
      .map((other) => /Rows Removed by (?:Filter|Index Recheck): (\d+)/.exec(other)?.[1])
      .find((count) => count !== undefined);
    const seen = Number(scan[3]) * Number(scan[4]) + Number(removed ?? 0);
    return [{ kind: scan[1], table: scan[2], seen }];
  });
  return {
    seqScans: scans.filter(({ kind, seen }) => kind === 'Seq' && seen > 0).length,
    rows: scans.reduce((sum, { seen }) => sum + seen, 0),
    partitions: new Set(scans.map(({ table }) => table)).size,
    text: lines.join('\n'),
  };
}

/** The plan of each kind of list query. */
export async function listPlans(
  pool: pg.Pool,
  sagaIds: readonly string[],
): Promise<Map<string, Plan>> {
  const plans = new Map<string, Plan>();
  for (const [name, query] of Object.entries(listQueries(sagaIds, 0.5))) {
    plans.set(name, await planOf(pool, listQuery(query)));
  }
  return plans;
}
