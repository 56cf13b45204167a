/** Weekly partitions: made ahead by many nodes at once, dropped only when nothing keeps them. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { ensurePartitions, weekOf } from '../../engine/postgres/partitions.ts';
import { listOldPartitions } from '../../engine/postgres/retention.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { noted, requested, sagaId, summary, T0, taken, Writer } from './fixtures.ts';

const WEEK_MS = 7 * 24 * 3_600_000;
const TABLES = ['events', 'sagas', 'snapshots'] as const;

let db: TestDatabase;
let ports: PostgresPorts;
let w: Writer;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 2, migrate: false });
  w = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 600_000)));
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

const names = (ms: number) =>
  TABLES.map(
    (table) => `${table}_${new Date(weekOf(ms)).toISOString().slice(0, 10).replaceAll('-', '')}`,
  );
async function tableOf(id: string): Promise<string[]> {
  const { rows } = await db.pool.query<{ name: string }>(
    `SELECT tableoid::regclass::text AS name FROM sagax.events WHERE saga_id = $1
     UNION ALL SELECT tableoid::regclass::text FROM sagax.sagas WHERE saga_id = $1
     UNION ALL SELECT tableoid::regclass::text FROM sagax.snapshots WHERE saga_id = $1`,
    [id],
  );
  return rows.map(({ name }) => name.replace('sagax.', ''));
}
const append = (id: string, status: 'running' | 'completed') =>
  ports.eventLog.append(
    w.batch({
      events: [w.event(id, noted(1))],
      summaries: [summary(id, { status, startedAt: T0 })],
      snapshots: [{ sagaId: id, streamVersion: 1, definitionHash: '', stateHash: '', state: {} }],
    }),
  );

test('weeks begin on Mondays, UTC', () => {
  expect(weekOf(T0)).toBe(T0);
  expect(weekOf(T0 - 1)).toBe(T0 - WEEK_MS);
  expect(weekOf(T0 + WEEK_MS - 1)).toBe(T0);
});

test('migration made this week and the next two; a saga of now goes into its week', async () => {
  const now = ports.clock.now();
  for (const ms of [now, now + WEEK_MS, now + 2 * WEEK_MS]) {
    for (const name of names(ms)) {
      const { rows } = await db.pool.query('SELECT to_regclass($1) IS NOT NULL AS there', [
        `sagax.${name}`,
      ]);
      expect(rows, name).toEqual([{ there: true }]);
    }
  }
  const id = sagaId(now);
  await append(id, 'running');
  expect(await tableOf(id)).toEqual(names(now));
});

test('an id of any other time goes into the default partition, and is moved when its week is made', async () => {
  const [old, next] = [sagaId(T0), sagaId(T0 + WEEK_MS)];
  await append(old, 'completed');
  await append(next, 'running');
  expect(await tableOf(old)).toEqual(TABLES.map((table) => `${table}_default`));
  // Four nodes at once make each partition once.
  const reports = await Promise.all(Array.from({ length: 4 }, () => ensurePartitions(db.pool)));
  expect(reports.flatMap(({ skipped }) => skipped)).toEqual([]);
  expect(reports.flatMap(({ created }) => created).sort()).toEqual(
    [...names(T0), ...names(T0 + WEEK_MS)].sort(),
  );
  expect(await tableOf(old)).toEqual(names(T0));
  expect(await tableOf(next)).toEqual(names(T0 + WEEK_MS));
  expect((await ports.eventLog.load([old])).get(old)?.events).toHaveLength(0);
  expect(
    (await ports.eventLog.load([old], { ignoreSnapshots: true })).get(old)?.events,
  ).toHaveLength(1);
  // The indexes are those of the parent, so lists and uniqueness hold in it too.
  const { rows } = await db.pool.query<{ n: number }>(
    `SELECT (SELECT count(*)::int FROM pg_index WHERE indrelid = of) AS n
       FROM unnest(ARRAY['sagax.sagas', 'sagax.' || $1]::regclass[]) AS of`,
    [names(T0)[1]],
  );
  expect(rows[0]?.n).toBeGreaterThan(0);
  expect(rows[1]).toEqual(rows[0]);
});

test('a table that is locked for long is left for the next pass', async () => {
  const id = sagaId(T0 + 5 * WEEK_MS);
  await append(id, 'completed');
  const client = await db.pool.connect();
  await client.query('BEGIN');
  await client.query('SELECT 1 FROM sagax.events_default LIMIT 1');
  const report = await ensurePartitions(db.pool);
  expect(report.skipped).toEqual([
    {
      name: names(T0 + 5 * WEEK_MS)[0],
      reason: expect.stringMatching(/locked by a long/) as string,
    },
  ]);
  await client.query('COMMIT');
  client.release();
  expect((await ensurePartitions(db.pool)).created).toEqual([names(T0 + 5 * WEEK_MS)[0]]);
});

test('an old week is dropped with its keys; one with a live saga, a timer or an unpublished event is refused', async () => {
  const [ended, live, timed, unpublished] = [0, 1, 5, 9].map((weeks) => T0 + weeks * WEEK_MS) as [
    number,
    number,
    number,
    number,
  ];
  const timedId = sagaId(timed);
  const unpublishedId = sagaId(unpublished);
  await ports.eventLog.append(
    w.batch({
      events: [w.event(timedId, noted(1)), w.event(unpublishedId, requested(`${unpublishedId}.1`))],
      summaries: [
        summary(timedId, { status: 'completed' }),
        summary(unpublishedId, { status: 'completed' }),
      ],
      wakeups: [{ sagaId: timedId, dueAt: 1 }],
    }),
  );
  await ports.maintain();
  const keyOf = (id: string) => ({
    namespace: 'default',
    definition: 'order',
    fingerprint: 'f',
    sagaId: id,
    businessKey: id,
  });
  const endedId = sagaId(ended);
  await ports.startKeys.reserve(keyOf(endedId));

  const before = ports.clock.now() - 4 * WEEK_MS;
  expect(await listOldPartitions(db.pool, before)).toEqual([
    { weekMs: ended, sagas: 1, refusal: null },
    { weekMs: live, sagas: 1, refusal: '1 sagas have not ended' },
    { weekMs: timed, sagas: 2, refusal: '1 timers are set' },
    { weekMs: unpublished, sagas: 1, refusal: '1 events are not on the bus yet' },
  ]);
  const report = await ports.maintain({ retentionMs: 4 * WEEK_MS });
  expect(report.dropped).toEqual([ended]);
  expect(report.refused.map(({ weekMs }) => weekMs)).toEqual([live, timed, unpublished]);
  const { rows } = await db.pool.query('SELECT to_regclass($1) AS there', [
    `sagax.${names(ended)[0]}`,
  ]);
  expect(rows).toEqual([{ there: null }]);
  expect(await ports.reader.isKept(endedId)).toBe(false);
  expect(await ports.reader.isKept(sagaId(live + WEEK_MS - 1))).toBe(true);
  expect(await ports.reader.isKept(sagaId(ports.clock.now()))).toBe(true);
  // The key is free again.
  const other = sagaId();
  expect(
    await ports.startKeys.reserve({ ...keyOf(endedId), sagaId: other, fingerprint: 'g' }),
  ).toEqual({ sagaId: other, fresh: true });

  await ports.eventLog.append(
    w.batch({ publishedSeq: w.nextSeq - 1, wakeups: [{ sagaId: timedId, dueAt: null }] }),
  );
  expect((await ports.maintain({ retentionMs: 4 * WEEK_MS })).dropped).toEqual([
    timed,
    unpublished,
  ]);
  expect(
    (await ports.maintain({ retentionMs: 4 * WEEK_MS })).refused.map(({ weekMs }) => weekMs),
  ).toEqual([live]);
});
