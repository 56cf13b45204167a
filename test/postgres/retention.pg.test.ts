/** Retention: what holds up the log while an old week goes, and what a failure of one part does to the others. */
import type pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { dropStartKeys, oldWeeks } from '../../engine/postgres/retention.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { noted, sagaId, summary, T0, taken, Writer } from './fixtures.ts';

const WEEK_MS = 7 * 24 * 3_600_000;
const retentionMs = 4 * WEEK_MS;
/** As many as are deleted at once, and so many in all that the third piece is not full. */
const PIECE = 5_000;
const KEYS = 2 * PIECE + 1;

let db: TestDatabase;
let ports: PostgresPorts;
let w: Writer;
beforeEach(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 2, migrate: false });
  w = new Writer(await taken(ports.shardLeases.acquire(0, 'me', 600_000)));
});
afterEach(async () => {
  await ports.close();
  await db.drop();
});

/** Weeks after T0, each with one saga in partitions of its own. @returns the sagas' ids */
async function weeksWith(...statuses: ('completed' | 'running')[]): Promise<string[]> {
  const ids = statuses.map((_, week) => sagaId(T0 + week * WEEK_MS));
  const summaries = ids.map((id, week) => summary(id, { status: statuses[week] ?? 'running' }));
  await ports.eventLog.append(
    w.batch({ events: ids.map((id) => w.event(id, noted(1))), summaries }),
  );
  await ports.maintain();
  return ids;
}

function nameOf(table: string, weekMs: number): string {
  return `sagax.${table}_${new Date(weekMs).toISOString().slice(0, 10).replaceAll('-', '')}`;
}

/** `k1` to `k<count>`, each of another saga of the week. */
async function fillKeys(count: number, weekMs = T0): Promise<void> {
  await db.pool.query(
    `INSERT INTO sagax.start_keys (namespace, definition, kind, key, saga_id, fingerprint)
     SELECT 'default', 'order', 'business', 'k' || n, $1::bigint + n, 'f' FROM generate_series(1, $2::int) AS n`,
    [composeSnowflake(weekMs + 1_000, 5, 0), count],
  );
}

async function keysLeft(): Promise<number> {
  const { rows } = await db.pool.query<{ n: number }>(
    'SELECT count(*)::int AS n FROM sagax.start_keys',
  );
  return rows[0]?.n ?? -1;
}

/** Resolves when somebody waits for such a lock. */
async function waiter(what: string): Promise<void> {
  for (;;) {
    const { rows } = await db.pool.query(`SELECT FROM pg_locks WHERE NOT granted AND ${what}`);
    if (rows.length > 0) return;
  }
}
const FOR_THE_LOG = `relation = 'sagax.events'::regclass AND mode = 'AccessExclusiveLock'`;

/** A client in a transaction, until the work is over. */
async function within(work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
  const client = await db.pool.connect();
  try {
    await client.query('BEGIN');
    await work(client);
    await client.query('COMMIT');
  } finally {
    client.release(true);
  }
}

test('start keys of a week that is gone are deleted in pieces, and none holds up the log', async () => {
  const [old] = await weeksWith('completed');
  await fillKeys(KEYS);
  // Each piece tells what it holds, and then stands still for as long as the test wants it to.
  await db.pool.query(
    `CREATE TABLE pieces (transaction xid8, keys int, locks int, week regclass);
     CREATE FUNCTION piece() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
     BEGIN
       INSERT INTO pieces SELECT pg_current_xact_id(), (SELECT count(*) FROM gone),
         (SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
          WHERE l.pid = pg_backend_pid() AND c.relname ~ '^(events|sagas|snapshots)'),
         to_regclass('${nameOf('sagas', T0)}');
       PERFORM pg_advisory_xact_lock(1);
       RETURN NULL;
     END $$;
     CREATE TRIGGER piece AFTER DELETE ON sagax.start_keys REFERENCING OLD TABLE AS gone EXECUTE FUNCTION piece()`,
  );
  let report: ReturnType<PostgresPorts['maintain']> | undefined;
  await within(async (client) => {
    await client.query('SELECT pg_advisory_xact_lock(1)');
    report = ports.maintain({ retentionMs });
    await waiter(`locktype = 'advisory' AND objid = 1`);
    const id = sagaId(ports.clock.now());
    await ports.eventLog.append(
      w.batch({ events: [w.event(id, noted(1))], summaries: [summary(id)] }),
    );
    const streams = await ports.eventLog.load([id, old ?? '']);
    expect([...streams.values()].map(({ events }) => events.length)).toEqual([1]);
    // A repeat with a key that is still there finds that its saga may have run, and is refused.
    const key = { namespace: 'default', definition: 'order', businessKey: `k${KEYS}` };
    const repeat = await ports.startKeys.reserve({ ...key, fingerprint: 'f', sagaId: sagaId() });
    expect(repeat.fresh).toBe(false);
    expect(await ports.reader.isKept(repeat.sagaId)).toBe(false);
  });
  expect(await report).toMatchObject({ dropped: [T0], refused: [], skipped: [] });
  expect(await keysLeft()).toBe(0);
  const { rows } = await db.pool.query<{ keys: number; transaction: string }>(
    'SELECT * FROM pieces WHERE keys > 0 ORDER BY transaction',
  );
  expect(rows.map(({ keys }) => keys)).toEqual([PIECE, PIECE, 1]);
  expect(rows).toEqual(rows.map((row) => ({ ...row, locks: 0, week: null })));
  expect(new Set(rows.map(({ transaction }) => transaction)).size).toBe(3);
});

test('a piece that Postgres refuses keeps neither other pieces nor other weeks; the next pass finds it', async () => {
  await weeksWith('completed', 'completed', 'running');
  await fillKeys(KEYS);
  await ports.startKeys.reserve({
    ...{ namespace: 'default', definition: 'order', fingerprint: 'f', businessKey: 'live' },
    sagaId: sagaId(T0 + 2 * WEEK_MS),
  });
  await db.pool.query(
    `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
     BEGIN RAISE EXCEPTION USING ERRCODE = '57014', MESSAGE = 'canceling statement due to statement timeout'; END $$;
     CREATE TRIGGER refuse BEFORE DELETE ON sagax.start_keys FOR EACH ROW WHEN (OLD.key = 'k7000')
       EXECUTE FUNCTION refuse()`,
  );
  const report = await ports.maintain({ retentionMs });
  expect(report.dropped).toEqual([T0, T0 + WEEK_MS]);
  expect(report.skipped).toEqual([
    {
      name: 'start_keys',
      reason: expect.stringMatching(/^1 pieces of up to 5000 keys are left.*57014/) as string,
    },
  ]);
  expect(await keysLeft()).toBe(PIECE + 1);
  await db.pool.query('DROP TRIGGER refuse ON sagax.start_keys');
  expect(await ports.maintain({ retentionMs })).toMatchObject({ dropped: [], skipped: [] });
  // That of the week that is kept.
  expect(await keysLeft()).toBe(1);
});

test('a week that can not be dropped keeps no other; it stays whole, with its keys, and is told', async () => {
  const ids = await weeksWith('completed', 'completed', 'completed');
  await fillKeys(3, T0 + WEEK_MS);
  await db.pool.query(`CREATE VIEW mine AS SELECT count(*) FROM ${nameOf('sagas', T0 + WEEK_MS)}`);
  const report = await ports.maintain({ retentionMs });
  expect(report.dropped).toEqual([T0, T0 + 2 * WEEK_MS]);
  expect(report.refused).toEqual([
    { weekMs: T0 + WEEK_MS, sagas: 1, refusal: expect.stringMatching(/2BP01.*depend/) as string },
  ]);
  const streams = await ports.eventLog.load(ids);
  expect([...streams.keys()]).toEqual([ids[1]]);
  expect(await keysLeft()).toBe(3);
  await db.pool.query('DROP VIEW mine');
  expect((await ports.maintain({ retentionMs })).dropped).toEqual([T0 + WEEK_MS]);
  expect(await keysLeft()).toBe(0);
});

test('a look may take longer than a statement of the log', async () => {
  await weeksWith('completed');
  const hasty = await openPostgres({ url: db.url, migrate: false, statementTimeoutMs: 1_500 });
  let report: ReturnType<PostgresPorts['maintain']> | undefined;
  try {
    await within(async (client) => {
      await client.query(`LOCK TABLE ${nameOf('sagas', T0)} IN ACCESS EXCLUSIVE MODE`);
      report = hasty.maintain({ retentionMs });
      await waiter(`waitstart < clock_timestamp() - interval '2 s'`);
    });
    expect((await report)?.dropped).toEqual([T0]);
  } finally {
    await hasty.close();
  }
});

test('it ends early between two weeks or two pieces, and the next pass goes on', async () => {
  await weeksWith('completed', 'completed');
  await fillKeys(KEYS);
  const stop = new AbortController();
  let report: ReturnType<PostgresPorts['maintain']> | undefined;
  await within(async (client) => {
    await client.query(`LOCK TABLE ${nameOf('sagas', T0)} IN ACCESS EXCLUSIVE MODE`);
    report = ports.maintain({ retentionMs, signal: stop.signal });
    await waiter(`relation = '${nameOf('sagas', T0)}'::regclass`);
    stop.abort();
  });
  expect((await report)?.dropped).toEqual([T0]);
  expect(await dropStartKeys(db.pool, T0 + WEEK_MS, [], stop.signal)).toEqual([]);
  expect(await keysLeft()).toBe(KEYS);
  expect((await ports.maintain({ retentionMs })).dropped).toEqual([T0 + WEEK_MS]);
  expect(await keysLeft()).toBe(0);
});

test('a week is old as long as the default partition has a saga of it', async () => {
  const ids = [sagaId(T0 - 1), sagaId(T0), sagaId(T0 + 3 * WEEK_MS)];
  await ports.eventLog.append(w.batch({ summaries: ids.map((id) => summary(id)) }));
  const weeks = await oldWeeks(db.pool, T0 + 3 * WEEK_MS);
  expect(weeks.sort((a, b) => a - b)).toEqual([T0 - WEEK_MS, T0]);
});

test('no lock is asked for while something keeps the week', async () => {
  await weeksWith('running');
  await within(async (client) => {
    await client.query('SELECT count(*) FROM sagax.sagas');
    expect((await ports.maintain({ retentionMs })).refused).toEqual([
      { weekMs: T0, sagas: 1, refusal: '1 sagas have not ended' },
    ]);
  });
});

test('a saga that is written to between the look and the lock keeps its week', async () => {
  const [id] = await weeksWith('completed');
  let report: ReturnType<PostgresPorts['maintain']> | undefined;
  await within(async (client) => {
    // An append that was there before the drop asked for its locks.
    await client.query('LOCK TABLE sagax.events, sagax.sagas IN ROW EXCLUSIVE MODE');
    report = ports.maintain({ retentionMs });
    await waiter(FOR_THE_LOG);
    const { sagaId: saga, shardSeq, epoch } = w.event(id ?? '', noted(2));
    await client.query(
      `INSERT INTO sagax.events (saga_id, namespace, stream_version, shard, shard_seq, epoch, at_ms, type, event)
       VALUES ($1, 'default', 2, 0, $2, $3, 0, 'TimerFired', '{}')`,
      [saga, shardSeq, epoch],
    );
    await client.query('UPDATE sagax.shard_positions SET next_seq = next_seq + 1 WHERE shard = 0');
    await client.query(`UPDATE sagax.sagas SET status = 'running' WHERE saga_id = $1`, [saga]);
  });
  expect(await report).toMatchObject({ dropped: [], refused: [{ weekMs: T0 }] });
  expect((await ports.maintain({ retentionMs })).refused).toEqual([
    { weekMs: T0, sagas: 1, refusal: '1 sagas have not ended' },
  ]);
});

test('while a drop waits for the log, a statement that has it gets to the old week too', async () => {
  const [id] = await weeksWith('completed');
  let report: ReturnType<PostgresPorts['maintain']> | undefined;
  await within(async (client) => {
    await client.query(`SET LOCAL lock_timeout = '500ms'`);
    const load = (saga: string) =>
      client.query('SELECT event FROM sagax.events WHERE saga_id = $1', [saga]);
    await load(sagaId(ports.clock.now()));
    report = ports.maintain({ retentionMs });
    await waiter(FOR_THE_LOG);
    // The other way round it would be a deadlock.
    expect((await load(id ?? '')).rows).toHaveLength(1);
  });
  await report;
  await ports.maintain({ retentionMs });
  expect((await ports.eventLog.load([id ?? ''])).size).toBe(0);
});
