/**
 * A log of 20,000 finished sagas over four weeks: every query that is asked of it walks an index, looks at few rows,
 * and goes only to the partitions that it needs. With a log that large the planner has the choice.
 *
 * The log ends in the middle of a week, whenever the test runs: of a week that has just begun, or is almost left out,
 * the planner reads the few rows that there are.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fillLog } from '../../bench/fill.ts';
import { listPlans, listQueries, planOf, type Plan } from '../../bench/lists.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { FencedError } from '../../engine/core/errors.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { listQuery } from '../../engine/postgres/inspect.ts';
import { noted, requested, summary, taken, Writer } from '../postgres/fixtures.ts';
import { checkShards } from '../runtime/orders.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

const SHARDS = 4;
const SAGAS = 20_000;
const EVENTS = 5;
const DAY_MS = 86_400_000;
const OVER_MS = 28 * DAY_MS;
let db: TestDatabase;
let ports: PostgresPorts;
let sagaIds: string[];
let until_ms: number;
let writer: Writer;
let plans: Map<string, Plan>;

beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: SHARDS, migrate: false });
  writer = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 60_000)));
  until_ms = middleOfWeek(ports.clock.now());
  const templateId = composeSnowflake(until_ms, 5, 0);
  const events = [
    writer.event(templateId, noted(1)),
    writer.event(templateId, requested(`${templateId}-1`)),
    ...Array.from({ length: EVENTS - 2 }, (_, n) => writer.event(templateId, noted(n))),
  ];
  const ended = {
    status: 'completed',
    startedAt: until_ms,
    updatedAt: until_ms + 40,
    endedAt: until_ms + 40,
  } as const;
  await ports.eventLog.append(
    writer.batch({ events, summaries: [summary(templateId, { ...ended, streamVersion: EVENTS })] }),
  );
  sagaIds = await fillLog(db.pool, { count: SAGAS, over_ms: OVER_MS, until_ms, templateId });
  plans = await listPlans(db.pool, sagaIds);
}, 120_000);
afterAll(async () => {
  await ports.close();
  await db.drop();
});

/** The last Thursday noon, UTC (1970 began on a Thursday): the weeks of partitions begin on Mondays. */
function middleOfWeek(now_ms: number): number {
  return now_ms - ((now_ms - DAY_MS / 2) % (7 * DAY_MS));
}

describe('the filling', () => {
  test('is a log like any other: gapless, in weekly partitions, with its own ids (I1)', async () => {
    await checkShards(db.pool);
    const { rows } = await db.pool.query<{ n: number; stray: number }>(
      `SELECT count(*)::int AS n, count(*) FILTER (WHERE tableoid = 'sagax.events_default'::regclass)::int AS stray
       FROM sagax.events`,
    );
    expect(rows).toEqual([{ n: (SAGAS + 1) * EVENTS, stray: 0 }]);
    const sagaId = sagaIds[777] as string;
    const history = await ports.reader.history(sagaId, 0, 10);
    expect(history[1]?.event).toMatchObject({ commandId: `${sagaId}-1` });
    expect(await ports.reader.get('default', sagaId)).toMatchObject({
      businessKey: `key-${sagaId}`,
    });
  });

  test('fences who held a shard; a new owner goes on behind it (I2)', async () => {
    const id = composeSnowflake(until_ms, 6, 0);
    const late = writer.batch({ events: [writer.event(id, noted(1))] });
    await expect(ports.eventLog.append(late)).rejects.toThrow(FencedError);
    const next = new Writer(await taken(ports.shardLeases.acquire(0, 'other', 60_000)));
    await ports.eventLog.append(next.batch({ events: [next.event(id, noted(1))] }));
    await checkShards(db.pool);
  });
});

describe('lists', () => {
  /** Most rows that may be looked at for a page of 50, over all partitions. */
  test.each<[string, number]>([
    ['newest', 400],
    ['from the middle', 400],
    ['status', 400],
    ['two statuses', 500],
    ['nothing stuck', 0],
    ['definition', 400],
    ['business key', 1],
    ['attribute', 50],
    // A twelfth of a week's rows, and what BRIN has not summed up yet; without it, all of the month before.
    ['an hour', 2_500],
  ])('%s: no sequential scan, at most %i rows looked at', (name, mostRows) => {
    const plan = plans.get(name) as Plan;
    expect(plan.seqScans, plan.text).toBe(0);
    expect(plan.rows, plan.text).toBeLessThanOrEqual(mostRows);
  });

  test('each kind of query is looked at, and each finds what it should', async () => {
    const queries = listQueries(sagaIds, 0.5);
    expect(Object.keys(queries)).toHaveLength(9);
    for (const [name, query] of Object.entries(queries)) {
      const found = await ports.reader.list(query);
      expect([name, found.length > 0]).toEqual([name, name !== 'nothing stuck']);
    }
  });

  test('partitions that can hold nothing of the answer are not looked into', async () => {
    const { rows } = await db.pool.query(
      `SELECT FROM pg_inherits WHERE inhparent = 'sagax.sagas'::regclass`,
    );
    expect(rows.length).toBeGreaterThanOrEqual(7);
    const oldest = listQueries(sagaIds, 0.02)['from the middle'];
    const plan = await planOf(db.pool, listQuery(oldest ?? { namespace: 'default', limit: 1 }));
    // The oldest week, and the default partition, which may hold anything.
    expect(plan.partitions, plan.text).toBeLessThanOrEqual(2);
    expect(plan.text).not.toContain('sagas_default  (actual rows=1');
  });
});

describe('what the engine and the history ask', () => {
  test.each<[string, string, (id: string) => unknown[], number]>([
    [
      'a history',
      'SELECT * FROM sagax.events WHERE saga_id = $1 AND stream_version > $2 ORDER BY stream_version LIMIT 100',
      (id) => [id, 0],
      1,
    ],
    ['one saga', 'SELECT * FROM sagax.sagas WHERE saga_id = $1', (id) => [id], 1],
  ])('%s: one partition, by its key', async (_, text, values, partitions) => {
    const plan = await planOf(db.pool, { text, values: values(sagaIds[9_999] as string) });
    expect(plan.seqScans, plan.text).toBe(0);
    expect(plan.partitions, plan.text).toBe(partitions);
    expect(plan.rows, plan.text).toBeLessThanOrEqual(EVENTS);
  });

  test('the outbox: the end of the shard by its own index, whatever lies before', async () => {
    const { rows } = await db.pool.query<{ next_seq: string }>(
      'SELECT next_seq FROM sagax.shard_positions WHERE shard = 1',
    );
    const after = Number(rows[0]?.next_seq) - EVENTS - 1;
    const plan = await planOf(db.pool, {
      text: `SELECT * FROM sagax.events WHERE shard = $1 AND shard_seq > $2 AND type = ANY ($3) ORDER BY shard_seq LIMIT 100`,
      values: [1, after, ['StepRequested']],
    });
    expect(plan.seqScans, plan.text).toBe(0);
    expect(plan.rows, plan.text).toBeLessThanOrEqual(EVENTS);
  });
});
