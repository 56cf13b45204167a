/** Leases of shards and node ids, Snowflake ids made under them, and the database's clock (I2, I13). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { parseSnowflake } from '../../engine/core/ids.ts';
import { openClock } from '../../engine/postgres/clock.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import { createSnowflakes } from '../../engine/runtime/snowflake.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { taken } from './fixtures.ts';

let db: TestDatabase;
let ports: PostgresPorts;
beforeAll(async () => {
  db = await testDatabase();
  ports = await openPostgres({ url: db.url, shards: 8, migrate: false, max: 20 });
});
afterAll(async () => {
  await ports.close();
  await db.drop();
});

/** Ends a lease now, as if its time were over. */
const expire = (table: 'shards' | 'node_ids', where: string) =>
  db.pool.query(
    `UPDATE sagax.${table} SET expires_at = clock_timestamp() - interval '1 ms' WHERE ${where}`,
  );

describe('shard leases', () => {
  test('one owner at a time; expiry and stealing bump the epoch', async () => {
    const { shardLeases } = ports;
    const a = await taken(shardLeases.acquire(0, 'a', 60_000));
    expect(a).toEqual({
      shard: 0,
      owner: 'a',
      epoch: 1,
      nextOffset: 0n,
      nextSeq: 1,
      publishedSeq: 0,
    });
    expect(await shardLeases.acquire(0, 'b', 60_000)).toBeNull();
    expect((await taken(shardLeases.acquire(0, 'a', 60_000))).epoch).toBe(2);
    await expire('shards', 'shard = 0');
    expect((await taken(shardLeases.acquire(0, 'b', 60_000))).epoch).toBe(3);
    expect((await taken(shardLeases.acquire(0, 'c', 60_000, { steal: true }))).epoch).toBe(4);
    await expect(shardLeases.acquire(8, 'a', 1_000)).rejects.toThrow(/no shard 8; there are 8/);
  });

  test('of twenty that acquire at once, one gets it', async () => {
    const got = await Promise.all(
      Array.from({ length: 20 }, (_, index) => ports.shardLeases.acquire(1, `n${index}`, 60_000)),
    );
    expect(got.filter((lease) => lease !== null)).toHaveLength(1);
  });

  test('renew extends what is held in one call, and names what is not ours any more', async () => {
    const { shardLeases } = ports;
    const held = await Promise.all(
      [2, 3, 4].map((shard) => taken(shardLeases.acquire(shard, 'r', 50))),
    );
    await shardLeases.acquire(3, 'thief', 60_000, { steal: true });
    // Run out, but nobody took it: the owner may go on.
    await expire('shards', 'shard = 4');
    expect(await shardLeases.renew('r', held, 60_000)).toEqual([3]);
    expect(await shardLeases.renew('other', held, 60_000)).toEqual([2, 3, 4]);
    expect(await shardLeases.renew('r', [], 60_000)).toEqual([]);
    const rows = await ports.reader.shards();
    const now = ports.clock.now();
    for (const shard of [2, 4]) {
      expect(rows[shard]?.expiresAt).toBeGreaterThan(now + 50_000);
      expect(rows[shard]).toMatchObject({ owner: 'r', epoch: 1 });
    }
  });

  test('release gives it back at once; a late release of an old owner does nothing', async () => {
    const { shardLeases } = ports;
    const old = await taken(shardLeases.acquire(5, 'old', 60_000));
    await shardLeases.release(5, 'old', old.epoch);
    const next = await taken(shardLeases.acquire(5, 'next', 60_000));
    expect(next.epoch).toBe(old.epoch + 1);
    await shardLeases.release(5, 'old', old.epoch);
    await shardLeases.release(5, 'next', old.epoch);
    expect((await ports.reader.shards())[5]).toMatchObject({ owner: 'next' });
  });

  test('the shard count is fixed when the database is set up', async () => {
    await expect(openPostgres({ url: db.url, migrate: false, shards: 9 })).rejects.toMatchObject({
      code: 'TOPOLOGY_MISMATCH',
      message: expect.stringMatching(/with 8 shards, the setting says 9/) as string,
    });
    await expect(openPostgres({ url: db.url, migrate: false, shards: 0 })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
    const same = await openPostgres({ url: db.url, migrate: false });
    expect(same.shardLeases.shardCount).toBe(8);
    await same.close();
  });
});

describe('node ids (I13)', () => {
  test('twenty at once get twenty; an id comes back only after its high-water time', async () => {
    const { nodeIds } = ports;
    const got = await Promise.all(
      Array.from({ length: 20 }, (_, index) => nodeIds.acquire(`n${index}`, 60_000)),
    );
    expect(new Set(got.map(({ nodeId }) => nodeId)).size).toBe(20);
    // All others are as good as unusable; then one is released, with ids used up to a second from now.
    await db.pool.query(`UPDATE sagax.node_ids SET last_ms = 8e15::bigint WHERE owner IS NULL`);
    await expect(nodeIds.acquire('late', 1_000)).rejects.toMatchObject({
      code: 'NODE_IDS_EXHAUSTED',
    });
    const first = got[0];
    if (first === undefined) throw new Error('No id.');
    await nodeIds.release(first.nodeId, first.epoch, ports.clock.now() + 60_000);
    await expect(nodeIds.acquire('late', 1_000)).rejects.toMatchObject({
      code: 'NODE_IDS_EXHAUSTED',
    });
    const past = Math.floor(ports.clock.now()) - 10_000;
    await db.pool.query('UPDATE sagax.node_ids SET last_ms = $1 WHERE node_id = $2', [
      past,
      first.nodeId,
    ]);
    expect(await nodeIds.acquire('late', 60_000)).toEqual({
      nodeId: first.nodeId,
      epoch: first.epoch + 1,
      startAboveMs: past,
    });
    // The old holder has lost it, and can't give away what is another's.
    expect(await nodeIds.renew(first.nodeId, first.epoch, 1_000)).toBe(false);
    await nodeIds.release(first.nodeId, first.epoch, 0);
    await expect(nodeIds.acquire('later', 1_000)).rejects.toMatchObject({
      code: 'NODE_IDS_EXHAUSTED',
    });
  });

  test('an expired lease is not enough: its ids may lie ahead of the clock', async () => {
    const { nodeIds } = ports;
    await db.pool.query('UPDATE sagax.node_ids SET last_ms = 0, owner = NULL WHERE node_id = 1000');
    const held = await nodeIds.acquire('a', 30_000);
    expect(held.nodeId).toBe(1000);
    await expire('node_ids', 'node_id = 1000');
    await expect(nodeIds.acquire('b', 1_000)).rejects.toMatchObject({ code: 'NODE_IDS_EXHAUSTED' });
    // Nobody took it, so its holder may go on.
    expect(await nodeIds.renew(held.nodeId, held.epoch, 30_000)).toBe(true);
  });

  test('the one that is longest unused is taken; renewals keep the high-water time ahead', async () => {
    const { nodeIds } = ports;
    await db.pool.query(`UPDATE sagax.node_ids SET owner = NULL, last_ms = node_id + 1000`);
    await db.pool.query('UPDATE sagax.node_ids SET last_ms = 5 WHERE node_id = 77');
    const held = await nodeIds.acquire('a', 1_000);
    expect(held).toMatchObject({ nodeId: 77, startAboveMs: 5 });
    await nodeIds.renew(held.nodeId, held.epoch, 60_000);
    const { rows } = await db.pool.query<{ last_ms: string }>(
      'SELECT last_ms FROM sagax.node_ids WHERE node_id = 77',
    );
    expect(Number(rows[0]?.last_ms)).toBeGreaterThan(ports.clock.now() + 50_000);
  });
});

describe('snowflakes', () => {
  test('two sources make unlike ids, increasing; a closed one gives its node id back and makes none', async () => {
    const [a, b] = await Promise.all(
      ['closing', 'going-on'].map((owner) =>
        createSnowflakes(ports.nodeIds, ports.clock, owner, 30_000),
      ),
    );
    if (a === undefined || b === undefined) throw new Error('No source.');
    const ids = Array.from({ length: 10_000 }, () => [a.next(), b.next()] as const);
    expect(new Set(ids.flat()).size).toBe(20_000);
    for (let n = 1; n < ids.length; n++) {
      expect(BigInt(ids[n]?.[0] ?? 0) > BigInt(ids[n - 1]?.[0] ?? 0)).toBe(true);
    }
    expect(Math.abs(parseSnowflake(a.next()).ms - ports.clock.now())).toBeLessThan(5_000);
    await a.close();
    expect(() => a.next()).toThrow(expect.objectContaining({ code: 'NODE_LEASE_LOST' }));
    const { rows } = await db.pool.query(`SELECT 1 FROM sagax.node_ids WHERE owner = 'closing'`);
    expect(rows).toEqual([]);
    await b.close();
  });

  test('a stolen node id: the next renewal notices, and goes on with another one', async () => {
    const source = await createSnowflakes(ports.nodeIds, ports.clock, 's', 300);
    const before = parseSnowflake(source.next()).nodeId;
    await db.pool.query(
      `UPDATE sagax.node_ids SET epoch = epoch + 1, owner = 'x' WHERE node_id = $1`,
      [before],
    );
    // In between the old one may still be used, up to the end of its lease, and then ids are refused.
    const nodeIdNow = (): number => {
      try {
        return parseSnowflake(source.next()).nodeId;
      } catch {
        return before;
      }
    };
    await expect.poll(nodeIdNow, { timeout: 5_000, interval: 20 }).not.toBe(before);
    await source.close();
  });

  test('a clock that leaps ahead: no id beyond the time up to which the node id is leased, until it is renewed', async () => {
    const [time, leased] = [{ wall_ms: 1_800_000_000_000 }, { until_ms: 0 }];
    let slept: () => void = () => undefined;
    const clock = {
      now: () => time.wall_ms,
      monotonic: () => 1_000,
      sleep: (_ms: number, signal?: AbortSignal) =>
        new Promise<boolean>((resolve) => {
          slept = () => resolve(true);
          signal?.addEventListener('abort', () => resolve(false));
        }),
    };
    const lease = (): void => void (leased.until_ms = time.wall_ms + 10_000);
    const nodeIds = {
      ...ports.nodeIds,
      acquire: async () => (lease(), { nodeId: 5, epoch: 1, startAboveMs: 0 }),
      renew: async () => (lease(), true),
      release: async () => undefined,
    };
    const source = await createSnowflakes(nodeIds, clock, 'o', 10_000);
    expect(parseSnowflake(source.next()).ms).toBeLessThan(leased.until_ms);
    time.wall_ms += 60_000;
    expect(() => source.next()).toThrow(expect.objectContaining({ code: 'NODE_LEASE_LOST' }));
    slept();
    await new Promise((resolve) => setImmediate(resolve));
    expect(parseSnowflake(source.next()).ms).toBe(time.wall_ms);
    expect(time.wall_ms).toBeLessThan(leased.until_ms);
    await source.close();
  });

  test('a renewal that does not come: no ids past the deadline, until one does', async () => {
    const time = { ms: 1_000 };
    let reachable = true;
    let slept: () => void = () => undefined;
    const clock = {
      now: () => 1_800_000_000_000 + time.ms,
      monotonic: () => time.ms,
      sleep: (_ms: number, signal?: AbortSignal) =>
        new Promise<boolean>((resolve) => {
          slept = () => resolve(true);
          signal?.addEventListener('abort', () => resolve(false));
        }),
    };
    const nodeIds = {
      ...ports.nodeIds,
      acquire: async () => ({ nodeId: 5, epoch: 1, startAboveMs: 0 }),
      renew: async () => {
        if (!reachable) throw new SagaxError('DATABASE_UNAVAILABLE', 'away');
        return true;
      },
      release: async () => undefined,
    };
    const settle = () => new Promise((resolve) => setImmediate(resolve));
    const source = await createSnowflakes(nodeIds, clock, 'o', 10_000);
    reachable = false;
    time.ms += 7_900;
    source.next();
    slept();
    await settle();
    time.ms += 200;
    expect(() => source.next()).toThrow(expect.objectContaining({ code: 'NODE_LEASE_LOST' }));
    reachable = true;
    slept();
    await settle();
    expect(parseSnowflake(source.next())).toMatchObject({ nodeId: 5, ms: clock.now() });
    await source.close();
  });
});

describe('the clock', () => {
  test("is the database's, whatever ours says, and never goes back", async () => {
    let skew_ms = 0;
    const clock = await openClock(ports.db, { monotonic: () => performance.now() + skew_ms });
    const { rows } = await db.pool.query<{ at: number }>(
      'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS at',
    );
    expect(Math.abs(clock.now() - (rows[0]?.at ?? 0))).toBeLessThan(100);
    expect(clock.errorMs()).toBeLessThan(50);
    expect(Number.isInteger(clock.now())).toBe(true);
    // Our own clock leaps by a minute; the next measurement takes that out again, and `now` waits for it.
    skew_ms = 60_000;
    const ahead = clock.now();
    await clock.measure();
    expect(clock.now()).toBe(ahead);
    clock.close();
  });

  test('sleeps can be ended, and may be longer than a timer can', async () => {
    const { clock } = ports;
    expect(await clock.sleep(1)).toBe(true);
    expect(await clock.sleep(5, AbortSignal.abort())).toBe(false);
    const stop = new AbortController();
    const long = clock.sleep(2 ** 33, stop.signal);
    // A timer that took the whole would overflow, and fire within a millisecond.
    await clock.sleep(5);
    stop.abort();
    expect(await long).toBe(false);
  });
});
