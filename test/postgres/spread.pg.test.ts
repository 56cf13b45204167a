/**
 * The log over two databases on two servers: who has which shard, lists over both, one that is away, lists of
 * databases that are not the ones it was set up with.
 */
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { FencedError } from '../../engine/core/errors.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { openPostgres } from '../../engine/postgres/index.ts';
import { weekOf } from '../../engine/postgres/partitions.ts';
import { openSpread, type LogPorts, type SpreadOptions } from '../../engine/postgres/spread.ts';
import type { DeadLetter } from '../../engine/ports.ts';
import type { MissingPart, SagaQuery } from '../../engine/ports-read.ts';
import { eventually } from '../e2e/processes.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { secondPostgres, type SecondPostgres } from '../support/second-postgres.ts';
import { noted, requested, summary, T0, taken, Writer } from './fixtures.ts';

const SHARDS = 6;
let second: SecondPostgres;
beforeAll(async () => {
  second = await secondPostgres();
});
afterAll(() => second.drop());

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

let made = 0;
interface Log {
  urls: [string, string];
  pools: [pg.Pool, pg.Pool];
  open(options?: Partial<SpreadOptions>): Promise<LogPorts>;
}

/** Two new databases. */
async function newLog(): Promise<Log> {
  const first: TestDatabase = await testDatabase();
  closing.push(() => first.drop());
  made += 1;
  const url = await second.database(`log_${made}`);
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  pool.on('error', () => undefined);
  closing.push(() => pool.end());
  const urls: [string, string] = [first.url, url];
  const open = async (options: Partial<SpreadOptions> = {}): Promise<LogPorts> => {
    const ports = await openSpread({ urls, shards: SHARDS, ...options });
    closing.push(() => ports.close());
    return ports;
  };
  return { urls, pools: [first.pool, pool], open };
}

/** An id at a minute after T0 that lives in the shard. */
function idIn(shard: number, minute: number): string {
  for (let sequence = 0; sequence < 4_096; sequence++) {
    const id = composeSnowflake(T0 + minute * 60_000, 1, sequence);
    if (partitionOf(id, SHARDS) === shard) return id;
  }
  throw new Error('No such id.');
}

async function writers(ports: LogPorts): Promise<Writer[]> {
  const leases = Array.from({ length: SHARDS }, (_, shard) =>
    taken(ports.shardLeases.acquire(shard, 'me', 60_000)),
  );
  return (await Promise.all(leases)).map((lease) => new Writer(lease));
}

/** One saga a minute, over the shards in turn. @returns their ids, oldest first */
async function fill(ports: LogPorts, count: number): Promise<string[]> {
  const all = await writers(ports);
  const ids: string[] = [];
  for (let n = 0; n < count; n++) {
    // Five of seven minutes in a row on one database, so that pages of the two are of unlike density.
    const shard = n % 7 < 5 ? (n * 2) % SHARDS : (n * 2 + 1) % SHARDS;
    const id = idIn(shard, n);
    ids.push(id);
    const w = all[shard] as Writer;
    const status = n % 3 === 0 ? 'completed' : 'running';
    const row = summary(id, { status, startedAt: T0 + n * 60_000, attributes: { tier: n % 2 } });
    await ports.eventLog.append(w.batch({ events: [w.event(id, noted(n))], summaries: [row] }));
  }
  return ids;
}

async function pages(ports: LogPorts, query: Partial<SagaQuery>, limit: number): Promise<string[]> {
  const seen: string[] = [];
  for (let before: string | undefined; ; before = seen.at(-1)) {
    const cursor = before === undefined ? {} : { beforeSagaId: before };
    const page = await ports.reader.list({ namespace: 'default', limit, ...query, ...cursor });
    seen.push(...page.map(({ sagaId }) => sagaId));
    if (page.length < limit) return seen;
  }
}

describe('two databases', () => {
  test('each has the shards of its place, and only those', async () => {
    const { pools, open } = await newLog();
    const ports = await open();
    const again = await open();
    expect(again.logId).toBe(ports.logId);
    expect((await ports.reader.shards()).map(({ shard }) => shard)).toEqual([0, 1, 2, 3, 4, 5]);
    for (const [index, pool] of pools.entries()) {
      const { rows } = await pool.query<{ shard: number }>(
        'SELECT shard FROM sagax.shard_positions ORDER BY shard',
      );
      expect(rows.map(({ shard }) => shard % 2)).toEqual([index, index, index]);
    }
  });

  test('appends, loads, outbox and wake-ups go to the database of the shard; a fence holds there (I2)', async () => {
    const { pools, open } = await newLog();
    const ports = await open();
    const all = await writers(ports);
    const ids = [0, 1, 2, 3].map((shard) => idIn(shard, shard));
    for (const [shard, id] of ids.entries()) {
      const w = all[shard] as Writer;
      const events = [w.event(id, noted(1)), w.event(id, requested(`${id}-1`))];
      await ports.eventLog.append(w.batch({ events, wakeups: [{ sagaId: id, dueAt: T0 }] }));
      expect(await ports.eventLog.readOutbox(shard, 0, 10)).toEqual([events[1]]);
      expect(await ports.eventLog.dueWakeups(shard, T0, 10)).toEqual([{ sagaId: id, dueAt: T0 }]);
    }
    const streams = await ports.eventLog.load([...ids, idIn(5, 9)]);
    expect([...streams.keys()].sort()).toEqual([...ids].sort());
    for (const id of ids)
      expect(streams.get(id)?.events).toEqual(await ports.reader.history(id, 0, 9));
    for (const [index, pool] of pools.entries()) {
      const { rows } = await pool.query<{ shard: number }>(
        'SELECT DISTINCT shard FROM sagax.events ORDER BY shard',
      );
      expect(rows.map(({ shard }) => shard)).toEqual([index, index + 2]);
    }
    await taken(ports.shardLeases.acquire(3, 'other', 60_000, { steal: true }));
    const w = all[3] as Writer;
    const late = w.batch({ events: [w.event(ids[3] as string, noted(2))] });
    await expect(ports.eventLog.append(late)).rejects.toThrow(FencedError);
    const held = all.map(({ lease }) => ({ shard: lease.shard, epoch: lease.epoch }));
    expect(await ports.shardLeases.renew('me', held, 60_000)).toEqual([3]);
  });

  test.each<[string, Partial<SagaQuery>, (n: number) => boolean]>([
    ['all', {}, () => true],
    ['a status', { status: ['completed'] }, (n) => n % 3 === 0],
    ['two statuses', { status: ['completed', 'running'] }, () => true],
    ['an attribute', { attributes: { tier: 1 } }, (n) => n % 2 === 1],
    [
      'a time',
      { startedFrom: T0 + 600_000, startedBefore: T0 + 2_400_000 },
      (n) => n >= 10 && n < 40,
    ],
  ])(
    'lists of %s go over both, newest first, page by page, without gap or repeat',
    async (_, query, isIn) => {
      const ports = await (await newLog()).open();
      const ids = await fill(ports, 50);
      const expected = ids.filter((_id, n) => isIn(n)).toReversed();
      for (const limit of [1, 7, 100]) expect(await pages(ports, query, limit)).toEqual(expected);
      const keys = ids.map((sagaId) => ({ namespace: 'default', sagaId }));
      expect((await ports.reader.getMany(keys)).map(({ sagaId }) => sagaId).sort()).toEqual(
        [...ids].sort(),
      );
      expect(await ports.reader.get('default', ids[6] as string)).toMatchObject({ sagaId: ids[6] });
    },
  );

  test('dead letters of both: newest first, page by page; each is found by its id and redriven once', async () => {
    const { pools, open } = await newLog();
    const ports = await open();
    const all = await writers(ports);
    const reasons: string[] = [];
    for (let n = 0; n < 12; n++) {
      const w = all[n % 5] as Writer;
      const letter: DeadLetter = {
        topic: 'sagax.inbox',
        partition: w.lease.shard,
        offset: BigInt(n),
        key: '1',
        headers: {},
        value: '{',
        code: 'MESSAGE_INVALID',
        reason: `letter ${n}`,
        at: T0,
      };
      reasons.unshift(letter.reason);
      await ports.eventLog.append(w.batch({ deadLetters: [letter] }));
      // Ids tell milliseconds: within one, the order of two databases is left open.
      await pools[0].query('SELECT pg_sleep(0.002)');
    }
    const seen: { id: string; reason: string }[] = [];
    for (let beforeId: string | undefined; ; beforeId = seen.at(-1)?.id) {
      const page = await ports.deadLetters.list({
        limit: 5,
        ...(beforeId === undefined ? {} : { beforeId }),
      });
      seen.push(...page);
      if (page.length < 5) break;
    }
    expect(seen.map(({ reason }) => reason)).toEqual(reasons);
    expect(new Set(seen.map(({ id }) => id)).size).toBe(12);
    for (const { id, reason } of seen) {
      expect(await ports.deadLetters.get(id)).toMatchObject({ id, reason });
      expect(await ports.deadLetters.markRedriven(id)).toBe(true);
      expect(await ports.deadLetters.markRedriven(id)).toBe(false);
    }
    expect(await ports.deadLetters.list({ limit: 5 })).toEqual([]);
  });

  test('start keys stay until the week has gone from both databases', async () => {
    const { pools, open } = await newLog();
    const ports = await open();
    const old_ms = weekOf(ports.clock.now() - 40 * 86_400_000) + 1_000;
    const idOf = (shard: number): string => {
      for (let n = 0; ; n++) {
        const id = composeSnowflake(old_ms, 2, n);
        if (partitionOf(id, SHARDS) === shard) return id;
      }
    };
    const all = await writers(ports);
    const [ended, live] = [idOf(0), idOf(1)];
    for (const [shard, id, status] of [
      [0, ended, 'completed'],
      [1, live, 'running'],
    ] as const) {
      const w = all[shard] as Writer;
      await ports.eventLog.append(w.batch({ summaries: [summary(id, { status })] }));
      const key = { namespace: 'default', definition: 'order', fingerprint: 'f' };
      await ports.startKeys.reserve({ ...key, sagaId: id, businessKey: `b-${shard}` });
    }
    await ports.maintain();
    const retentionMs = 20 * 86_400_000;
    const kept = async (): Promise<unknown> =>
      (await pools[0].query('SELECT key FROM sagax.start_keys ORDER BY key')).rows;
    // The first database drops the week, the second keeps it for a live saga: so does the key of that saga.
    const report = await ports.maintain({ retentionMs });
    expect(report.dropped).toEqual([weekOf(old_ms)]);
    expect(report.refused).toHaveLength(1);
    expect(await kept()).toEqual([{ key: 'b-0' }, { key: 'b-1' }]);
    // By its key the ended one is still found, by its id no more: it must not be started again.
    expect(await ports.reader.get('default', ended)).toBeNull();
    expect(await ports.reader.isKept(ended)).toBe(false);
    expect(await ports.reader.isKept(live)).toBe(true);
    const w = all[1] as Writer;
    await ports.eventLog.append(w.batch({ summaries: [summary(live, { status: 'completed' })] }));
    await ports.maintain({ retentionMs });
    expect(await kept()).toEqual([]);
  });
});

describe('lists of databases that are not the log', () => {
  const mismatch = (words: RegExp): object =>
    expect.objectContaining({
      code: 'TOPOLOGY_MISMATCH',
      message: expect.stringMatching(words) as string,
    });

  test('another order, number or shard count is refused, and nothing is changed', async () => {
    const { urls, open } = await newLog();
    await open();
    const [a, b] = urls;
    const order = /number 1 of 2 is refused: it was set up as number 2 of 2.*SAGAX_LOG_DATABASES/s;
    await expect(openSpread({ urls: [b, a] })).rejects.toEqual(mismatch(order));
    await expect(openPostgres({ url: a })).rejects.toEqual(mismatch(/set up as number 1 of 2/));
    await expect(openPostgres({ url: b })).rejects.toEqual(mismatch(/set up as number 2 of 2/));
    const empty = await second.database(`empty_${(made += 1)}`);
    await expect(openSpread({ urls: [a, b, empty] })).rejects.toEqual(mismatch(/number 1 of 2/));
    await expect(openSpread({ urls, shards: 8 })).rejects.toEqual(mismatch(/set up with 6 shards/));
    await expect(openSpread({ urls: [a, a] })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const twice = `${a}?application_name=twice`;
    await expect(openSpread({ urls: [a, twice] })).rejects.toEqual(mismatch(/number 2 of 2/));
    await open();
  });

  test('an empty database in the place of a lost one is refused; so is one of another log', async () => {
    const one = await newLog();
    const two = await newLog();
    await one.open();
    await two.open();
    const empty = await second.database(`lost_${(made += 1)}`);
    const lost = /number 2 of 2 is refused: it is empty.*backup/s;
    await expect(openSpread({ urls: [one.urls[0], empty] })).rejects.toEqual(mismatch(lost));
    const foreign = openSpread({ urls: [one.urls[0], two.urls[1]] });
    await expect(foreign).rejects.toEqual(mismatch(/it belongs to the log/));
  });

  test('a single database does not become one of two', async () => {
    const { urls, pools } = await newLog();
    const single = await openPostgres({ url: urls[0], shards: SHARDS });
    await single.close();
    await expect(openSpread({ urls })).rejects.toEqual(mismatch(/number 1 of 1/));
    // Set up before places were recorded.
    await pools[0].query(`DELETE FROM sagax.settings WHERE name = 'log'`);
    await expect(openSpread({ urls })).rejects.toEqual(mismatch(/only database of its log/));
    const again = await openPostgres({ url: urls[0] });
    expect(again.shardLeases.shardCount).toBe(SHARDS);
    await again.close();
  });

  test('five processes that set a new log up at once agree', async () => {
    const { open } = await newLog();
    const all = await Promise.all(Array.from({ length: 5 }, () => open()));
    expect(new Set(all.map(({ logId }) => logId)).size).toBe(1);
  });
});

describe('one database is away', () => {
  const key = {
    namespace: 'default',
    definition: 'order',
    fingerprint: 'f',
    sagaId: '7',
    businessKey: 'k',
  };
  const back = async (ports: LogPorts): Promise<void> => {
    await eventually('both answer', 15_000, async () => {
      const missing: MissingPart[] = [];
      await ports.reader.ping({ onMissing: (part) => missing.push(part) });
      return missing.length === 0 ? true : null;
    });
  };

  test('its rows are missing, and said to be; the other goes on; it is found again', async () => {
    const troubles: string[] = [];
    const ports = await (await newLog()).open({ onTrouble: (what) => troubles.push(what) });
    const ids = await fill(ports, 14);
    const all = await writers(ports);
    const here = ids.filter((id) => partitionOf(id, SHARDS) % 2 === 0).toReversed();
    const there = ids.filter((id) => partitionOf(id, SHARDS) % 2 === 1);
    await second.stop();
    try {
      const query = { namespace: 'default', limit: 100 };
      await expect(ports.reader.list(query)).rejects.toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
        message: expect.stringContaining('log database 2 of 2 (127.0.0.1:') as string,
      });
      const missing: MissingPart[] = [];
      const options = { onMissing: (part: MissingPart) => missing.push(part) };
      const listed = await ports.reader.list(query, options);
      expect(listed.map(({ sagaId }) => sagaId)).toEqual(here);
      expect(missing).toEqual([expect.objectContaining({ part: 2, parts: 2, shards: [1, 3, 5] })]);
      expect(missing[0]?.holds(there[0] as string)).toBe(true);
      expect(missing[0]?.holds(here[0] as string)).toBe(false);
      const keys = ids.map((sagaId) => ({ namespace: 'default', sagaId }));
      expect(await ports.reader.getMany(keys, options)).toHaveLength(here.length);
      expect(await ports.reader.shards(options)).toHaveLength(3);
      await ports.reader.ping(options);
      expect(missing).toHaveLength(4);
      await expect(ports.reader.ping()).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
      await expect(ports.reader.get('default', there[0] as string)).rejects.toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
      });
      const onlyThere = there.map((sagaId) => ({ namespace: 'default', sagaId }));
      await expect(ports.reader.getMany(onlyThere, options)).rejects.toThrow(/2 of 2/);
      // Leases and appends of the other go on.
      const w = all[0] as Writer;
      await ports.eventLog.append(w.batch({ events: [] }));
      const held = all.map(({ lease }) => ({ shard: lease.shard, epoch: lease.epoch }));
      expect(await ports.shardLeases.renew('me', held, 60_000)).toEqual([]);
      expect(troubles.join('\n')).toMatch(/log database 2 of 2 .* does not answer/);
      expect(troubles.join('\n')).toMatch(/leases in the log database 2 of 2 .* not be renewed/);
    } finally {
      await second.start();
    }
    await back(ports);
    expect(await pages(ports, {}, 5)).toEqual(ids.toReversed());
    expect(troubles.at(-1)).toMatch(/answers again/);
  });

  test('a process that starts meanwhile serves the other, and takes it in when it comes', async () => {
    const { open } = await newLog();
    const before = await open();
    const ids = await fill(before, 14);
    await second.stop();
    let ports: LogPorts;
    try {
      ports = await open();
      await taken(ports.shardLeases.acquire(2, 'new', 60_000, { steal: true }));
      await expect(ports.shardLeases.acquire(1, 'new', 60_000)).rejects.toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
      });
    } finally {
      await second.start();
    }
    await back(ports);
    await taken(ports.shardLeases.acquire(1, 'new', 60_000, { steal: true }));
    expect(await pages(ports, {}, 5)).toEqual(ids.toReversed());
    expect(Math.abs(ports.clockOf(1).now() - ports.clock.now())).toBeLessThan(1_000);
  });

  test('without the first one, what is global waits, and the shards of the others go on', async () => {
    const { urls, open } = await newLog();
    const turned: [string, string] = [await second.database(`first_${(made += 1)}`), urls[0]];
    const before = await open({ urls: turned });
    await before.startKeys.reserve(key);
    await second.stop();
    let ports: LogPorts;
    try {
      const away = { code: 'DATABASE_UNAVAILABLE' };
      ports = await open({ urls: turned });
      for (const each of [before, ports]) {
        const lease = await taken(each.shardLeases.acquire(1, 'me', 60_000, { steal: true }));
        const w = new Writer(lease);
        await each.eventLog.append(w.batch({ events: [w.event(idIn(1, w.nextSeq), noted(1))] }));
        await expect(each.nodeIds.acquire('me', 1_000)).rejects.toMatchObject(away);
        await expect(each.startKeys.reserve(key)).rejects.toMatchObject(away);
        await expect(each.apiKeys.list()).rejects.toMatchObject(away);
        await expect(each.maintain()).rejects.toMatchObject(away);
      }
    } finally {
      await second.start();
    }
    await back(ports);
    expect(await ports.startKeys.reserve(key)).toEqual({ sagaId: '7', fresh: false });
    expect(await ports.nodeIds.acquire('me', 1_000)).toMatchObject({ epoch: 1 });
  });
});
