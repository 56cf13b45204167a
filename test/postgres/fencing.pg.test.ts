/** The fence under real races, and connections that break at the worst moment (I2). */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FencedError, CommitUnknownError } from '../../engine/core/errors.ts';
import { appendQuery, encodeBatch } from '../../engine/postgres/append.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { noted, sagaId, summary, taken, Writer } from './fixtures.ts';
import { startProxy } from './proxy.ts';

let db: TestDatabase;
let ports: PostgresPorts;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 16, migrate: false, max: 20 });
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

const take = async (shard: number, owner: string): Promise<Writer> =>
  new Writer(await taken(ports.shardLeases.acquire(shard, owner, 60_000, { steal: true })));

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

async function inTransaction(work: (client: pg.PoolClient) => Promise<void>): Promise<void> {
  const client = await db.pool.connect();
  try {
    await client.query('BEGIN');
    await work(client);
  } finally {
    await client.query('ROLLBACK');
    client.release();
  }
}

describe('I2: an append needs the epoch of the shard', () => {
  test('a fenced writer writes nothing at all', async () => {
    const old = await take(0, 'old');
    const saga = sagaId();
    await ports.eventLog.append(old.batch({ events: [old.event(saga, noted(1))], nextOffset: 1n }));
    await take(0, 'new');
    const late = old.batch({
      events: [old.event(saga, noted(2))],
      nextOffset: 2n,
      publishedSeq: 1,
      wakeups: [{ sagaId: saga, dueAt: 1 }],
      summaries: [summary(saga)],
      snapshots: [
        { sagaId: saga, streamVersion: 1, definitionHash: '', stateHash: '', state: null },
      ],
    });
    await expect(ports.eventLog.append(late)).rejects.toBeInstanceOf(FencedError);
    await expect(ports.eventLog.append(old.batch({ nextOffset: 3n }))).rejects.toBeInstanceOf(
      FencedError,
    );
    const lease = await taken(ports.shardLeases.acquire(0, 'new', 1_000));
    expect(lease).toMatchObject({ nextOffset: 1n, nextSeq: 2, publishedSeq: 0 });
    expect((await ports.eventLog.load([saga])).get(saga)).toMatchObject({
      snapshot: null,
      events: { length: 1 },
    });
    expect(await ports.reader.get('default', saga)).toBeNull();
    expect(await ports.eventLog.dueWakeups(0, 10, 10)).toEqual([]);
  });

  test('a take-over waits for an append under way, and sees the position behind it', async () => {
    const old = await take(1, 'old');
    const batch = old.batch({ events: [old.event(sagaId(), noted(1))], nextOffset: 5n });
    await inTransaction(async (client) => {
      await client.query(appendQuery({ free: false, bus: false }, [encodeBatch(batch)]));
      const takeOver = ports.shardLeases.acquire(1, 'new', 1_000, { steal: true });
      await waitsForLock('UPDATE sagax.shards SET epoch');
      // A renewal of the same row goes on meanwhile: a large append does not cost the owner its leases.
      expect(await ports.shardLeases.renew('old', [old.lease], 60_000)).toEqual([]);
      await client.query('COMMIT');
      expect(await takeOver).toMatchObject({
        nextOffset: 5n,
        nextSeq: 2,
        epoch: old.lease.epoch + 1,
      });
    });
  });

  test('an append that waits for a take-over finds the new epoch and writes nothing', async () => {
    const old = await take(2, 'old');
    const saga = sagaId();
    await inTransaction(async (client) => {
      await client.query('UPDATE sagax.shards SET epoch = epoch + 1 WHERE shard = 2');
      const late = ports.eventLog.append(old.batch({ events: [old.event(saga, noted(1))] }));
      const outcome = late.catch((error: unknown) => error);
      await waitsForLock('FOR KEY SHARE');
      await client.query('COMMIT');
      expect(await outcome).toBeInstanceOf(FencedError);
    });
    expect((await ports.eventLog.load([saga])).size).toBe(0);
  });

  test('an append that waits for a take-over which is rolled back goes through', async () => {
    const owner = await take(3, 'owner');
    await inTransaction(async (client) => {
      await client.query('UPDATE sagax.shards SET epoch = epoch + 1 WHERE shard = 3');
      const append = ports.eventLog.append(
        owner.batch({ events: [owner.event(sagaId(), noted(1))] }),
      );
      await waitsForLock('FOR KEY SHARE');
      await client.query('ROLLBACK');
      await append;
      expect(await taken(ports.shardLeases.acquire(3, 'owner', 1_000))).toMatchObject({
        nextSeq: 2,
      });
    });
  });

  test('zombies that append as fast as they can while the shard changes hands: no stale row, no gap', async () => {
    const shard = 4;
    const saga = sagaId();
    const until = performance.now() + 3_000;
    const acknowledged = new Map<number, number>();
    let takeOvers = 0;
    let fenced = 0;
    const BATCH = 100;
    // Eight nodes that all believe the shard is theirs until they are fenced, and then steal it back.
    const node = async (name: string): Promise<void> => {
      while (performance.now() < until) {
        const writer = await take(shard, name);
        takeOvers++;
        writer.versions.set(saga, writer.nextSeq - 1);
        try {
          for (let n = 0; n < 20; n++) {
            // Long enough that a take-over often falls into the middle of the statement.
            const events = Array.from({ length: BATCH }, () => writer.event(saga, noted(n)));
            await ports.eventLog.append(
              writer.batch({ events, nextOffset: BigInt(writer.nextSeq) }),
            );
            acknowledged.set(
              writer.lease.epoch,
              (acknowledged.get(writer.lease.epoch) ?? 0) + BATCH,
            );
          }
        } catch (error) {
          if (!(error instanceof FencedError)) throw error;
          fenced++;
        }
      }
    };
    await Promise.all(Array.from({ length: 8 }, (_, index) => node(`n${index}`)));

    const { rows } = await db.pool.query<{
      epoch: string;
      shard_seq: string;
      stream_version: number;
    }>(
      'SELECT epoch, shard_seq, stream_version FROM sagax.events WHERE shard = $1 ORDER BY shard_seq',
      [shard],
    );
    expect(fenced).toBeGreaterThan(20);
    expect(takeOvers).toBeGreaterThan(fenced);
    expect(rows.length).toBeGreaterThan(100);
    // I1: both gapless; I2: epochs never go down along the log.
    rows.forEach((row, index) => {
      expect(Number(row.shard_seq)).toBe(index + 1);
      expect(row.stream_version).toBe(index + 1);
      expect(Number(row.epoch)).toBeGreaterThanOrEqual(Number(rows[index - 1]?.epoch ?? 0));
    });
    // What was acknowledged is there, what was fenced is not.
    const stored = Map.groupBy(rows, (row) => Number(row.epoch));
    expect(new Map([...stored].map(([epoch, events]) => [epoch, events.length]))).toEqual(
      acknowledged,
    );
    const lease = await taken(ports.shardLeases.acquire(shard, 'last', 1_000, { steal: true }));
    expect(lease.nextSeq).toBe(rows.length + 1);
    // The offset moved with the events: it is what the last batch said.
    expect(lease.nextOffset).toBe(BigInt(lease.nextSeq));
  });
});

test('a node that is stopped in the middle of its appends holds up nobody, and is fenced when it wakes', async () => {
  const shard = 14;
  const code = `
    import { openPostgres } from ${JSON.stringify(new URL('../../engine/postgres/index.ts', import.meta.url).href)};
    import { sagaId, noted, Writer } from ${JSON.stringify(new URL('./fixtures.ts', import.meta.url).href)};
    const ports = await openPostgres({ url: ${JSON.stringify(db.url)}, migrate: false });
    for await (const _line of process.stdin) {
      const w = new Writer(await ports.shardLeases.acquire(${shard}, 'stopped', 60_000, { steal: true }));
      const saga = sagaId(Date.now());
      try {
        for (let n = 1; ; n++) {
          await ports.eventLog.append(w.batch({ events: Array.from({ length: 50 }, () => w.event(saga, noted(n))) }));
          if (n === 3) console.log('appending');
        }
      } catch (error) {
        console.log(error.code);
      }
    }`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  try {
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    for (let round = 0; round < 10; round++) {
      child.stdin.write('go\n');
      expect((await lines.next()).value).toBe('appending');
      child.kill('SIGSTOP');
      const from = performance.now();
      const lease = await taken(
        ports.shardLeases.acquire(shard, 'rescuer', 60_000, { steal: true }),
      );
      expect(performance.now() - from).toBeLessThan(2_000);
      const w = new Writer(lease);
      await ports.eventLog.append(w.batch({ events: [w.event(sagaId(Date.now()), noted(0))] }));
      child.kill('SIGCONT');
      expect((await lines.next()).value).toBe('FENCED');
    }
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

describe('a connection that breaks under an append', () => {
  test('after it was sent: CommitUnknownError, and the events are there', async () => {
    const proxy = await startProxy(db.url);
    const far = await openPostgres({ url: proxy.url, migrate: false, shards: 16 });
    try {
      const w = await take(8, 'far');
      const saga = sagaId();
      // The first append prepares the statement; the second is known by its saga id alone.
      await far.eventLog.append(w.batch({ events: [w.event(saga, noted(1))] }));
      const event = w.event(saga, { type: 'TimerFired', timerId: 'needle-in-the-stream' });
      const sent = proxy.cutAfter('needle-in-the-stream');
      const outcome = far.eventLog
        .append(w.batch({ events: [event] }))
        .catch((error: unknown) => error);
      await sent;
      expect(await outcome).toBeInstanceOf(CommitUnknownError);
      proxy.mend();
      expect(await taken(far.shardLeases.acquire(8, 'far', 1_000, { steal: true }))).toMatchObject({
        nextSeq: 3,
      });
      expect((await far.eventLog.load([saga])).get(saga)?.events.at(-1)).toEqual(event);
    } finally {
      await far.close();
      await proxy.close();
    }
  });

  test('before the server saw it: unknown too, since nobody can tell; nothing is there', async () => {
    const proxy = await startProxy(db.url);
    const far = await openPostgres({ url: proxy.url, migrate: false, shards: 16 });
    try {
      const w = await take(9, 'far');
      proxy.cutBefore('lost-needle');
      const batch = w.batch({
        events: [w.event(sagaId(), { type: 'TimerFired', timerId: 'lost-needle' })],
      });
      await expect(far.eventLog.append(batch)).rejects.toBeInstanceOf(CommitUnknownError);
      proxy.mend();
      // The same batch again: this is what a caller does that has found its position unchanged.
      await far.eventLog.append(batch);
    } finally {
      await far.close();
      await proxy.close();
    }
  });

  test('ended by the server while it waits: unknown; and the next call gets a new connection', async () => {
    const w = await take(10, 'owner');
    const batch = w.batch({ events: [w.event(sagaId(), noted(1))] });
    await inTransaction(async (client) => {
      await client.query('SELECT 1 FROM sagax.shards WHERE shard = 10 FOR UPDATE');
      const outcome = ports.eventLog.append(batch).catch((error: unknown) => error);
      await waitsForLock('FOR KEY SHARE');
      await db.pool.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR KEY SHARE%'
         AND datname = current_database()`,
      );
      expect(await outcome).toBeInstanceOf(CommitUnknownError);
    });
    await ports.eventLog.append(batch);
  });

  test('no connection at all: DATABASE_UNAVAILABLE, for nothing can have been written', async () => {
    const proxy = await startProxy(db.url);
    const far = await openPostgres({
      url: proxy.url,
      migrate: false,
      shards: 16,
      connectTimeoutMs: 500,
    });
    const w = await take(11, 'far');
    await proxy.close();
    // The first call may find a connection that died just now; from the second on, none is to be had.
    await expect(far.reader.ping()).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    const append = far.eventLog.append(w.batch({ events: [w.event(sagaId(), noted(1))] }));
    await expect(append).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    await expect(far.eventLog.load([sagaId()])).rejects.toMatchObject({
      code: 'DATABASE_UNAVAILABLE',
    });
    await far.close();
  });
});

describe('waiting has limits', () => {
  test('a lock that does not come free in time: nothing written, and said to be retryable', async () => {
    const hasty = await openPostgres({
      url: db.url,
      migrate: false,
      shards: 16,
      lockTimeoutMs: 50,
    });
    const w = await take(12, 'owner');
    const batch = w.batch({ events: [w.event(sagaId(), noted(1))] });
    await inTransaction(async (client) => {
      await client.query('SELECT 1 FROM sagax.shards WHERE shard = 12 FOR UPDATE');
      await expect(hasty.eventLog.append(batch)).rejects.toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
        kind: 'retryable',
      });
    });
    await hasty.eventLog.append(batch);
    await hasty.close();
  });

  test('a statement over its time', async () => {
    const hasty = await openPostgres({
      url: db.url,
      migrate: false,
      shards: 16,
      statementTimeoutMs: 100,
    });
    await expect(hasty.db.read({ text: 'SELECT pg_sleep(5)' })).rejects.toMatchObject({
      code: 'DATABASE_UNAVAILABLE',
    });
    await hasty.close();
  });
});
