/** Appends of many shards in one statement: each still has its own fence, its own order and its own faults (I1, I2). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CommitUnknownError, FencedError } from '../../engine/core/errors.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { appendQuery, encodeBatch } from '../../engine/postgres/append.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import type { ShardBatch } from '../../engine/ports.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { noted, sagaId, summary, taken, Writer } from './fixtures.ts';
import { startProxy } from './proxy.ts';

const SHARDS = 16;
let db: TestDatabase;
let ports: PostgresPorts;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: SHARDS, migrate: false, max: 20 });
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

const take = async (shard: number, owner: string): Promise<Writer> =>
  new Writer(await taken(ports.shardLeases.acquire(shard, owner, 60_000, { steal: true })));
const takeAll = (owner: string): Promise<Writer[]> =>
  Promise.all(Array.from({ length: SHARDS }, (_, shard) => take(shard, owner)));

/** A batch with something for every table. */
function fullBatch(w: Writer, saga: string, event: SagaEvent): ShardBatch {
  const logged = w.event(saga, event);
  return w.batch({
    events: [logged],
    nextOffset: BigInt(w.nextSeq),
    publishedSeq: w.nextSeq - 1,
    wakeups: [{ sagaId: saga, dueAt: 1 }],
    summaries: [summary(saga, { streamVersion: logged.streamVersion })],
    snapshots: [
      { sagaId: saga, streamVersion: 1, definitionHash: 'd', stateHash: 's', state: null },
    ],
    deadLetters: [
      {
        topic: 'inbox',
        partition: w.lease.shard,
        offset: 1n,
        key: null,
        headers: {},
        value: null,
        code: 'MESSAGE_INVALID',
        reason: saga,
        at: 1,
      },
    ],
  });
}

/** Rows that each table has of these sagas. */
async function rowsOf(sagas: readonly string[]): Promise<{ [table: string]: number }> {
  const { rows } = await db.pool.query<{ [table: string]: number }>(
    `SELECT (SELECT count(*)::int FROM sagax.events WHERE saga_id = ANY ($1)) AS events,
       (SELECT count(*)::int FROM sagax.wakeups WHERE saga_id = ANY ($1)) AS wakeups,
       (SELECT count(*)::int FROM sagax.sagas WHERE saga_id = ANY ($1)) AS sagas,
       (SELECT count(*)::int FROM sagax.snapshots WHERE saga_id = ANY ($1)) AS snapshots,
       (SELECT count(*)::int FROM sagax.dead_letters WHERE reason = ANY ($1::text[])) AS letters`,
    [sagas],
  );
  return rows[0] ?? {};
}
const every = (n: number) => ({ events: n, wakeups: n, sagas: n, snapshots: n, letters: n });

/** Resolves when a statement that holds `words` waits for a lock. */
async function waitsForLock(words: string): Promise<void> {
  for (let round = 0; round < 2_000; round++) {
    const { rows } = await db.pool.query(
      `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1 AND datname = current_database()`,
      [`%${words}%`],
    );
    if (rows.length > 0) return;
  }
  throw new Error(`No statement with ${words} waits for a lock.`);
}

const reasonOf = (outcome: PromiseSettledResult<unknown>): unknown =>
  outcome.status === 'rejected' ? outcome.reason : null;

/** How many statements wrote the events of these sagas. */
async function statementsOf(sagas: readonly string[]): Promise<number> {
  const { rows } = await db.pool.query<{ n: number }>(
    'SELECT count(DISTINCT xmin::text)::int AS n FROM sagax.events WHERE saga_id = ANY ($1)',
    [sagas],
  );
  return rows[0]?.n ?? -1;
}

describe('one statement for many shards', () => {
  test('shards that append at the same time share a commit', async () => {
    const writers = await takeAll('me');
    const sagas = writers.map(() => sagaId());
    const batches = writers.map((w, index) => fullBatch(w, sagas[index] ?? '', noted(1)));
    await Promise.all(batches.map((batch) => ports.eventLog.append(batch)));
    expect(await rowsOf(sagas)).toEqual(every(SHARDS));
    expect(await statementsOf(sagas)).toBe(1);
    for (const [index, w] of writers.entries()) {
      expect((await ports.eventLog.load([sagas[index] ?? ''])).get(sagas[index] ?? '')).toEqual({
        snapshot: expect.objectContaining({ streamVersion: 1 }) as unknown,
        events: [],
      });
      expect(await take(w.lease.shard, 'me')).toMatchObject({
        lease: { nextSeq: w.nextSeq, nextOffset: BigInt(w.nextSeq), publishedSeq: w.nextSeq - 1 },
      });
    }
  });

  test('I2: fenced ones write nothing, and keep no other from being written', async () => {
    const writers = await takeAll('old');
    const stolen = [3, 7, 15];
    await Promise.all(stolen.map((shard) => take(shard, 'new')));
    const sagas = writers.map(() => sagaId());
    const outcomes = await Promise.allSettled(
      writers.map((w, index) => ports.eventLog.append(fullBatch(w, sagas[index] ?? '', noted(1)))),
    );
    outcomes.forEach((outcome, shard) => {
      expect(reasonOf(outcome) instanceof FencedError).toBe(stolen.includes(shard));
      expect(outcome.status).toBe(stolen.includes(shard) ? 'rejected' : 'fulfilled');
    });
    expect(await rowsOf(stolen.map((shard) => sagas[shard] ?? ''))).toEqual(every(0));
    expect(await rowsOf(sagas)).toEqual(every(SHARDS - stolen.length));
    expect(await statementsOf(sagas)).toBe(1);
  });

  test('I1: one out of order writes nothing, and keeps no other from being written', async () => {
    const writers = await takeAll('me');
    const sagas = writers.map(() => sagaId());
    const batches = writers.map((w, index) => fullBatch(w, sagas[index] ?? '', noted(1)));
    const ahead = batches[2]?.events[0];
    const gap = batches[9]?.events[0];
    if (ahead === undefined || gap === undefined) throw new Error('no events');
    ahead.shardSeq += 5;
    gap.streamVersion += 1;
    const outcomes = await Promise.allSettled(batches.map((one) => ports.eventLog.append(one)));
    const failed = outcomes.flatMap((outcome, shard) =>
      outcome.status === 'rejected' ? [[shard, outcome.reason.message]] : [],
    );
    expect(failed).toEqual([
      [2, expect.stringMatching(/begins at shard_seq \d+, the shard goes on at \d+/)],
      [9, expect.stringMatching(/gap in its stream versions/)],
    ]);
    expect(await rowsOf([sagas[2] ?? '', sagas[9] ?? ''])).toEqual(every(0));
    expect(await rowsOf(sagas)).toEqual(every(SHARDS - 2));
  });

  test('a statement that is refused whole hits only the shards whose fault it was', async () => {
    const writers = await takeAll('me');
    const sagas = writers.map(() => sagaId());
    const batches = writers.map((w, index) => fullBatch(w, sagas[index] ?? '', noted(1)));
    // A stream that is there already, and a value that no column takes.
    const repeated = sagas[5] ?? '';
    await ports.eventLog.append(batches[5] ?? writers[5]!.batch());
    const again = { ...batches[5]!.events[0]!, shardSeq: writers[5]!.nextSeq };
    batches[5] = writers[5]!.batch({ events: [again] });
    batches[11] = writers[11]!.batch({
      summaries: [summary(sagaId(), { streamVersion: 2 ** 40 })],
    });
    const outcomes = await Promise.allSettled(batches.map((one) => ports.eventLog.append(one)));
    const failed = outcomes.flatMap((outcome, shard) =>
      outcome.status === 'rejected' ? [[shard, outcome.reason]] : [],
    );
    expect(failed).toEqual([
      [5, expect.objectContaining({ code: 'INTERNAL' })],
      [11, expect.objectContaining({ code: '22003' })],
    ]);
    expect(await rowsOf(sagas)).toEqual(every(SHARDS - 1));
    expect(await rowsOf([repeated])).toEqual(every(1));
  });

  test('its answer is lost: unknown for every shard in it, and all is there', async () => {
    const proxy = await startProxy(db.url);
    const far = await openPostgres({ url: proxy.url, migrate: false, shards: SHARDS });
    try {
      const writers = await takeAll('far');
      const sagas = writers.map(() => sagaId());
      const needle: SagaEvent = { type: 'TimerFired', timerId: 'needle-of-a-group' };
      const batches = writers.map((w, index) => fullBatch(w, sagas[index] ?? '', needle));
      const sent = proxy.cutAfter('needle-of-a-group');
      const outcomes = Promise.allSettled(batches.map((one) => far.eventLog.append(one)));
      await sent;
      for (const outcome of await outcomes)
        expect(reasonOf(outcome)).toBeInstanceOf(CommitUnknownError);
      proxy.mend();
      expect(await rowsOf(sagas)).toEqual(every(SHARDS));
      expect(await statementsOf(sagas)).toBe(1);
    } finally {
      await far.close();
      await proxy.close();
    }
  });

  test('large ones are spread over statements, and all arrive', async () => {
    const writers = await takeAll('me');
    const sagas = writers.map(() => sagaId());
    const payload = 'x'.repeat(1_500_000);
    await Promise.all(
      writers.map((w, index) =>
        ports.eventLog.append(
          fullBatch(w, sagas[index] ?? '', {
            type: 'SignalReceived',
            signalId: 's',
            name: 'n',
            payload,
          }),
        ),
      ),
    );
    expect(await rowsOf(sagas)).toEqual(every(SHARDS));
    // 1.5 million characters each, at most 4 million in one.
    expect(await statementsOf(sagas)).toBe(SHARDS / 2);
  });
});

test('a take-over of one shard that takes its time holds up no other shard', async () => {
  const writers = await takeAll('old');
  const sagas = writers.map(() => sagaId());
  const client = await db.pool.connect();
  try {
    await client.query('BEGIN');
    await client.query('UPDATE sagax.shards SET epoch = epoch + 1 WHERE shard = 6');
    const appends = writers.map((w, index) =>
      ports.eventLog.append(fullBatch(w, sagas[index] ?? '', noted(1))),
    );
    const fenced = appends[6]?.catch((error: unknown) => error);
    await Promise.all(appends.filter((_, shard) => shard !== 6));
    await client.query('COMMIT');
    expect(await fenced).toBeInstanceOf(FencedError);
  } finally {
    client.release();
  }
  expect(await rowsOf([sagas[6] ?? ''])).toEqual(every(0));
  expect(await rowsOf(sagas)).toEqual(every(SHARDS - 1));
});

test('I2: a statement of many shards and a take-over of one: the one waits for the other', async () => {
  const writers = await takeAll('old');
  const batches = writers.map((w) => fullBatch(w, sagaId(), noted(1)));
  const client = await db.pool.connect();
  try {
    await client.query('BEGIN');
    const { rows } = await client.query(
      appendQuery(
        { free: true, bus: false },
        batches.map((batch) => encodeBatch(batch)),
      ),
    );
    expect(rows).toEqual([]);
    const lease = ports.shardLeases.acquire(4, 'new', 1_000, { steal: true });
    await waitsForLock('UPDATE sagax.shards SET epoch');
    await client.query('COMMIT');
    // What the statement wrote is in the position that the new owner reads.
    expect(await lease).toMatchObject({ nextSeq: writers[4]?.nextSeq });
  } finally {
    client.release();
  }
});

test('no scan of a partitioned table is part of the plan that a lock wait sets up anew', async () => {
  const choice = [true, false];
  const all = choice.flatMap((free) => choice.map((bus) => appendQuery({ free, bus }, [])));
  for (const { text } of all) {
    const { rows } = await db.pool.query<{ 'QUERY PLAN': string }>(
      `EXPLAIN (GENERIC_PLAN) ${text}`,
    );
    const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
    expect(plan).toContain('LockRows');
    expect(plan).toContain('Function Scan on stream_gaps');
    expect(plan).not.toMatch(/Scan .*on (events|sagas|snapshots)/);
    expect(plan).not.toMatch(/^\s*(->\s+)?(Merge )?Append /m);
  }
});

test('two nodes that both append to all shards while these change hands: no stale row, no gap', async () => {
  const far = await openPostgres({ url: db.url, migrate: false, shards: SHARDS, max: 20 });
  const before = await takeAll('before');
  const starts = new Map(before.map(({ lease }) => [lease.shard, lease.nextSeq]));
  const streams = before.map(() => sagaId());
  const acknowledged = new Map<string, number>();
  const until = performance.now() + 3_000;
  const fenced: number[] = [];
  const loop = async (node: PostgresPorts, name: string, shard: number): Promise<void> => {
    const saga = streams[shard] ?? '';
    while (performance.now() < until) {
      const w = new Writer(
        await taken(node.shardLeases.acquire(shard, name, 60_000, { steal: true })),
      );
      w.versions.set(saga, w.nextSeq - (starts.get(shard) ?? 0));
      try {
        for (let n = 0; n < 10; n++) {
          const events = Array.from({ length: 10 }, () => w.event(saga, noted(n)));
          await node.eventLog.append(w.batch({ events, nextOffset: BigInt(w.nextSeq) }));
          const key = `${shard} ${w.lease.epoch}`;
          acknowledged.set(key, (acknowledged.get(key) ?? 0) + events.length);
        }
      } catch (error) {
        if (!(error instanceof FencedError)) throw error;
        fenced.push(shard);
      }
    }
  };
  await Promise.all(
    streams.flatMap((_, shard) => [loop(ports, 'near', shard), loop(far, 'far', shard)]),
  );
  await far.close();

  expect(new Set(fenced).size).toBe(SHARDS);
  const { rows } = await db.pool.query<{
    shard: number;
    epoch: string;
    shard_seq: string;
    stream_version: number;
    tx: string;
  }>(
    `SELECT shard, epoch, shard_seq, stream_version, xmin::text AS tx FROM sagax.events
     WHERE saga_id = ANY ($1) ORDER BY shard, shard_seq`,
    [streams],
  );
  // Statements of several shards did race with the take-overs.
  const shardsOfTx = Map.groupBy(rows, ({ tx }) => tx).values();
  const widths = [...shardsOfTx].map((some) => new Set(some.map(({ shard }) => shard)).size);
  expect(Math.max(...widths)).toBeGreaterThan(SHARDS / 2);
  const stored = new Map<string, number>();
  for (const [shard, events] of Map.groupBy(rows, (row) => row.shard)) {
    // I1: both gapless; I2: epochs never go down along the log.
    events.forEach((row, index) => {
      expect(Number(row.shard_seq)).toBe((starts.get(shard) ?? 0) + index);
      expect(row.stream_version).toBe(index + 1);
      expect(Number(row.epoch)).toBeGreaterThanOrEqual(Number(events[index - 1]?.epoch ?? 0));
      stored.set(`${shard} ${row.epoch}`, (stored.get(`${shard} ${row.epoch}`) ?? 0) + 1);
    });
    const w = await take(shard, 'last');
    expect(w.nextSeq).toBe((starts.get(shard) ?? 0) + events.length);
    expect(w.lease.nextOffset).toBe(BigInt(w.nextSeq));
  }
  // What was acknowledged is there, what was fenced is not.
  expect(stored).toEqual(acknowledged);
});

describe('loads', () => {
  test('of different shards at the same time give each its own streams', async () => {
    const writers = await takeAll('me');
    const sagas = writers.map(() => [sagaId(), sagaId()]);
    await Promise.all(
      writers.map((w, index) =>
        ports.eventLog.append(
          w.batch({ events: (sagas[index] ?? []).map((saga) => w.event(saga, noted(index))) }),
        ),
      ),
    );
    const loaded = await Promise.all(
      sagas.map((ids) => ports.eventLog.load([...ids, sagaId(), ids[0] ?? ''])),
    );
    loaded.forEach((streams, index) => {
      expect([...streams.keys()].sort()).toEqual([...(sagas[index] ?? [])].sort());
      for (const stream of streams.values()) {
        expect(stream.events.map(({ event }) => event)).toEqual([noted(index)]);
      }
    });
  });

  test('an id that the database refuses fails its own load alone', async () => {
    const w = await take(0, 'me');
    const saga = sagaId();
    await ports.eventLog.append(w.batch({ events: [w.event(saga, noted(1))] }));
    const [good, bad] = await Promise.allSettled([
      ports.eventLog.load([saga]),
      ports.eventLog.load(['9999999999999999999']),
    ]);
    expect(good).toMatchObject({ status: 'fulfilled', value: { size: 1 } });
    expect(bad).toMatchObject({ status: 'rejected', reason: { code: '22003' } });
  });
});
