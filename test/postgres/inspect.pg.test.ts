/** Lists and single sagas; each list walks an index, shown by its plan. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { listQuery } from '../../engine/postgres/inspect.ts';
import type { SagaQuery } from '../../engine/ports-read.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { sagaId, summary, T0, taken, Writer } from './fixtures.ts';

let db: TestDatabase;
let ports: PostgresPorts;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 2, migrate: false });
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

const DAY_MS = 24 * 3_600_000;

const list = async (query: Partial<SagaQuery>): Promise<string[]> =>
  (await ports.reader.list({ namespace: 'default', limit: 100, ...query })).map(
    ({ sagaId: id }) => id,
  );

describe('lists', () => {
  const at = (n: number): string => composeSnowflake(T0 + n * 60_000, 0, 0);
  beforeAll(async () => {
    const w = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 60_000)));
    const rows = [
      summary(at(1), {
        status: 'completed',
        endedAt: T0 + 5,
        output: { total: 3 },
        businessKey: 'k1',
      }),
      summary(at(2), {
        status: 'stuck',
        failureCode: 'COMPENSATION_FAILED',
        failureMessage: 'no',
        pivotPassed: true,
      }),
      summary(at(3), {
        definition: 'trip',
        definitionVersion: 2,
        attributes: { city: 'Ulm', seats: 2, vip: true },
      }),
      summary(at(4), {
        definition: 'trip',
        status: 'compensating',
        attributes: { city: 'Ulm', seats: 3, vip: true },
      }),
      summary(at(5), { businessKey: 'k1' }),
      summary(at(6), { namespace: 'other', businessKey: 'k1' }),
    ].map((row, index) => ({ ...row, startedAt: T0 + (index + 1) * 60_000 }));
    await ports.eventLog.append(w.batch({ summaries: rows }));
  });

  test('newest first, within the namespace, by pages', async () => {
    expect(await list({})).toEqual([5, 4, 3, 2, 1].map(at));
    expect(await list({ limit: 2 })).toEqual([5, 4].map(at));
    expect(await list({ limit: 2, beforeSagaId: at(4) })).toEqual([3, 2].map(at));
    expect(await list({ limit: 2, beforeSagaId: at(1) })).toEqual([]);
    expect(await list({ limit: 0 })).toEqual([]);
    expect(await list({ namespace: 'other' })).toEqual([at(6)]);
    expect(await list({ namespace: 'none' })).toEqual([]);
    expect(await list({ beforeSagaId: 'x' })).toEqual([]);
  });

  test('by definition, version, status, business key, attributes and time, and by all together', async () => {
    expect(await list({ definition: 'trip' })).toEqual([4, 3].map(at));
    expect(await list({ definition: 'trip', definitionVersion: 2 })).toEqual([at(3)]);
    expect(await list({ status: ['running'] })).toEqual([5, 3].map(at));
    expect(await list({ status: ['completed', 'stuck', 'running', 'stuck'] })).toEqual(
      [5, 3, 2, 1].map(at),
    );
    expect(
      await list({ status: ['completed', 'stuck', 'running'], limit: 3, beforeSagaId: at(5) }),
    ).toEqual([3, 2, 1].map(at));
    expect(await list({ status: [] })).toEqual([]);
    expect(await list({ businessKey: 'k1' })).toEqual([5, 1].map(at));
    expect(await list({ attributes: { city: 'Ulm' } })).toEqual([4, 3].map(at));
    expect(await list({ attributes: { city: 'Ulm', seats: 3, vip: true } })).toEqual([at(4)]);
    expect(await list({ attributes: { seats: '3' } })).toEqual([]);
    expect(await list({ attributes: {} })).toHaveLength(5);
    expect(await list({ startedFrom: T0 + 120_000, startedBefore: T0 + 240_000 })).toEqual(
      [3, 2].map(at),
    );
    expect(await list({ startedFrom: 0, startedBefore: 8e15 })).toHaveLength(5);
    expect(
      await list({
        definition: 'trip',
        status: ['running', 'stuck'],
        attributes: { seats: 2 },
        startedFrom: T0,
        startedBefore: T0 + 1e9,
      }),
    ).toEqual([at(3)]);
  });

  test('a start that waited for weeks is found by its time, in the order of ids', async () => {
    const w = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 60_000)));
    const startedAt = T0 + 40 * DAY_MS;
    const ago = (ms: number): string => composeSnowflake(startedAt - ms, 1, 0);
    const [weeks, hour, soon, beyond] = [30 * DAY_MS, 3_600_000, 5, 33 * DAY_MS].map(ago);
    const ids = [weeks, hour, soon, beyond].map(String);
    await ports.eventLog.append(
      w.batch({ summaries: ids.map((id) => ({ ...summary(id), namespace: 'late', startedAt })) }),
    );
    const at = { namespace: 'late', startedFrom: startedAt, startedBefore: startedAt + 1 };
    // What has waited longer than any bus keeps a message is left out.
    expect(await list(at)).toEqual([soon, hour, weeks]);
    expect(await list({ ...at, limit: 2 })).toEqual([soon, hour]);
    expect(await list({ ...at, status: ['stuck', 'running'], beforeSagaId: String(soon) })).toEqual(
      [hour, weeks],
    );
    expect(await list({ ...at, status: [] })).toEqual([]);
    expect(await list({ ...at, startedFrom: startedAt + 1 })).toEqual([]);
  });

  test('get and getMany: within the namespace, whatever the id', async () => {
    expect(await ports.reader.get('default', at(2))).toEqual(
      summary(at(2), {
        status: 'stuck',
        failureCode: 'COMPENSATION_FAILED',
        failureMessage: 'no',
        pivotPassed: true,
        startedAt: T0 + 120_000,
      }),
    );
    expect(await ports.reader.get('default', at(1))).toMatchObject({
      endedAt: T0 + 5,
      output: { total: 3 },
    });
    for (const id of [at(6), '0', 'x', '9223372036854775808', "1'; DROP TABLE sagax.sagas"]) {
      expect(await ports.reader.get('default', id)).toBeNull();
    }
    const many = await ports.reader.getMany([
      { namespace: 'other', sagaId: at(6) },
      { namespace: 'default', sagaId: at(6) },
      { namespace: 'default', sagaId: at(1) },
      { namespace: 'default', sagaId: 'x' },
    ]);
    expect(many.map(({ sagaId: id }) => id).sort()).toEqual([at(1), at(6)]);
    expect(await ports.reader.getMany([])).toEqual([]);
  });

  test('a summary that is written again changes what may change', async () => {
    const w = new Writer(await taken(ports.shardLeases.acquire(1, 'me', 60_000)));
    const id = sagaId();
    await ports.eventLog.append(w.batch({ summaries: [summary(id, { businessKey: 'b' })] }));
    const ended = summary(id, {
      businessKey: 'b',
      status: 'compensated',
      state: 'cancelled',
      streamVersion: 9,
      updatedAt: T0 + 9,
      endedAt: T0 + 9,
      attributes: { a: 1 },
      failureCode: 'STEP_REJECTED',
    });
    await ports.eventLog.append(w.batch({ summaries: [summary(id), ended] }));
    expect(await ports.reader.get('default', id)).toEqual(ended);
  });
});

test('shards: who owns them, until when, how far they are', async () => {
  const lease = await taken(ports.shardLeases.acquire(1, 'me', 60_000));
  const [, shard] = await ports.reader.shards();
  expect(shard).toMatchObject({
    shard: 1,
    owner: 'me',
    epoch: lease.epoch,
    nextSeq: lease.nextSeq,
    nextOffset: '0',
  });
  expect(Math.abs((shard?.expiresAt ?? 0) - ports.clock.now() - 60_000)).toBeLessThan(5_000);
  await ports.reader.ping();
});

describe('each list walks an index (20,000 sagas, no planner switches)', () => {
  const now = Date.now();
  const at = (n: number): string => composeSnowflake(now - 20_000_000 + n * 1_000, 3, 0);
  beforeAll(async () => {
    await db.pool.query(
      `INSERT INTO sagax.sagas (saga_id, namespace, definition, definition_version, status, state, business_key, attributes,
         stream_version, started_at_ms, updated_at_ms)
       SELECT (($1::bigint + n * 1000 - 1735689600000) << 22) | (3 << 12), 'big', 'def-' || n % 400, 1,
         (ARRAY['completed','completed','completed','completed','running','stuck'])[1 + (n * 7) % 6], 's',
         'key-' || n / 2, jsonb_build_object('customer', n % 5000, 'tier', n % 3), 5, $1::bigint + n * 1000, 0
       FROM generate_series(0, 19999) AS n`,
      [now - 20_000_000],
    );
    await db.pool.query('ANALYZE sagax.sagas');
  });

  /** Empty partitions are scanned whole, and why not: what counts is the rows looked at. Names of the indexes and the number of rows that the plan looked at, and the plan itself for a failure's message. */
  async function plan(
    query: Partial<SagaQuery>,
  ): Promise<{ indexes: Set<string>; rows: number; text: string }> {
    const { text, values } = listQuery({ namespace: 'big', limit: 50, ...query });
    const { rows } = await db.pool.query<{ 'QUERY PLAN': string }>(
      `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ${text}`,
      values,
    );
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
    const seen = [...plan.matchAll(/Scan.*\(actual rows=([\d.]+) loops=(\d+)/g)];
    const removed = [...plan.matchAll(/Rows Removed by (?:Filter|Index Recheck): (\d+)/g)];
    return {
      indexes: new Set(
        [
          ...plan.matchAll(
            /Index (?:Only )?Scan.* (?:using|on) sagas_\w*?_((?:namespace|pkey)\w*|attributes\w*)/g,
          ),
        ].map((hit) => hit[1] ?? ''),
      ),
      rows:
        seen.reduce((sum, hit) => sum + Number(hit[1]) * Number(hit[2]), 0) +
        removed.reduce((sum, hit) => sum + Number(hit[1]), 0),
      text: plan,
    };
  }

  test.each<[string, Partial<SagaQuery>, number]>([
    ['namespace', {}, 200],
    ['namespace, from the middle', { beforeSagaId: at(10_000) }, 200],
    ['definition', { definition: 'def-7' }, 200],
    ['definition, from the middle', { definition: 'def-7', beforeSagaId: at(10_000) }, 200],
    ['status', { status: ['stuck'] }, 200],
    ['two statuses', { status: ['stuck', 'running'], beforeSagaId: at(10_000) }, 400],
    ['business key', { businessKey: 'key-77' }, 20],
    ['rare attribute', { attributes: { customer: 4_321 } }, 50],
    ['time', { startedFrom: now - 15_000_000, startedBefore: now - 10_000_000 }, 500],
  ])('%s', async (_name, query, mostRows) => {
    const { indexes, rows, text } = await plan(query);
    expect(indexes.size, text).toBeGreaterThan(0);
    expect(rows, text).toBeLessThanOrEqual(mostRows);
    expect((await list({ namespace: 'big', ...query, limit: 50 })).length).toBeGreaterThan(0);
  });
});
