/**
 * What is particular to the bus on Postgres: gapless logs under concurrency, the order of locks, retention,
 * fencing of commits, and a database that goes away and comes back.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BusGroups, heldKey, quota } from '../../engine/postgres/bus-groups.ts';
import { createPostgresBus, type PostgresBus } from '../../engine/postgres/bus.ts';
import { createPool, Database } from '../../engine/postgres/pool.ts';
import { message } from '../conformance/bus-conformance.ts';
import { BusRecorder } from '../conformance/bus-recorder.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';

let database: TestDatabase;
let bus: PostgresBus;
const opened: PostgresBus[] = [];

function open(url: string = database.url): PostgresBus {
  const another = createPostgresBus({ url, publishTimeoutMs: 2_000, leaseMs: 3_000 });
  opened.push(another);
  return another;
}

beforeAll(async () => {
  database = await testDatabase();
  bus = open();
});
afterAll(async () => {
  await Promise.all(opened.map((each) => each.close()));
  await database.drop();
});

async function partitionIds(topic: string): Promise<number[]> {
  const { rows } = await database.pool.query<{ id: number }>(
    'SELECT id FROM sagax.bus_partitions WHERE topic = $1 ORDER BY partition',
    [topic],
  );
  return rows.map(({ id }) => id);
}

async function countMessages(topic: string): Promise<number> {
  const { rows } = await database.pool.query<{ count: string }>(
    'SELECT count(*) FROM sagax.bus_messages WHERE partition_id = ANY ($1)',
    [await partitionIds(topic)],
  );
  return Number(rows[0]?.count);
}

describe('publishing', () => {
  it('gives gapless offsets in order of each publisher, whatever overlaps', async () => {
    const topic = 'gapless';
    await bus.ensureTopics([{ topic, partitions: 3 }]);
    const recorder = new BusRecorder();
    const subscription = bus.subscribe(recorder.options({ group: 'g', topics: [topic] }));
    const publishers = Array.from({ length: 6 }, () => open());
    await Promise.all(
      publishers.map(async (publisher, p) => {
        for (let i = 0; i < 30; i++) {
          // Each one names the partitions in another order: only sorted locks keep them from a deadlock.
          const order = [0, 1, 2].map((partition) => (partition + p + i) % 3);
          await publisher.publish(order.map((partition) => message(topic, partition, `${p}.${i}`)));
        }
      }),
    );
    await recorder.until(() => recorder.messages.length >= 540);
    await subscription.close();
    for (let partition = 0; partition < 3; partition++) {
      const got = recorder.messages.filter((m) => m.partition === partition);
      expect(got.map(({ offset }) => offset)).toEqual(
        Array.from({ length: 180 }, (_, i) => BigInt(i)),
      );
      for (let p = 0; p < 6; p++) {
        const own = got.map(({ value }) => value).filter((value) => value?.startsWith(`${p}.`));
        expect(own).toEqual(Array.from({ length: 30 }, (_, i) => `${p}.${i}`));
      }
    }
  });

  it('locks partitions in the order of their ids, however they are named', async () => {
    const topic = 'locks';
    await bus.ensureTopics([{ topic, partitions: 2 }]);
    const [lower] = await partitionIds(topic);
    const holder = await database.pool.connect();
    await holder.query('BEGIN');
    await holder.query('SELECT FROM sagax.bus_partitions WHERE id = $1 FOR UPDATE', [lower]);
    const both = open().publish([message(topic, 1, 'upper'), message(topic, 0, 'lower')]);
    await waitForLockWait();
    // It waits for the lower one and holds nothing yet: the upper one is free for others.
    await open().publish([message(topic, 1, 'first')]);
    expect(await bus.endOffsets(topic)).toEqual(
      new Map([
        [0, 0n],
        [1, 1n],
      ]),
    );
    await holder.query('COMMIT');
    holder.release();
    await both;
    expect([...(await bus.endOffsets(topic)).values()]).toEqual([1n, 2n]);
  });

  it('refuses a text that Postgres can not hold, and no other call with it', async () => {
    const topic = 'text';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    const [bad, good] = await Promise.allSettled([
      bus.publish([message(topic, 0, 'nul \u0000')]),
      bus.publish([message(topic, 0, 'good')]),
    ]);
    expect(bad).toMatchObject({ status: 'rejected', reason: { code: 'PAYLOAD_REFUSED' } });
    expect(good.status).toBe('fulfilled');
    expect([...(await bus.endOffsets(topic)).values()]).toEqual([1n]);
  });

  /** Resolves when some publish of this database waits for a lock. */
  async function waitForLockWait(): Promise<void> {
    for (;;) {
      const { rows } = await database.pool.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      if (rows.length > 0) return;
    }
  }
});

describe('retention', () => {
  it('deletes what every group has done, in chunks, and nothing that one has not', async () => {
    const topic = 'retention';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    await bus.publish(Array.from({ length: 20 }, (_, i) => message(topic, 0, `${i}`)));
    const subscriptions = ['quick', 'slow'].map((group) => {
      const recorder = new BusRecorder();
      return {
        recorder,
        subscription: bus.subscribe(recorder.options({ group, topics: [topic] })),
      };
    });
    await Promise.all(
      subscriptions.map(({ recorder }) => recorder.until(() => recorder.messages.length === 20)),
    );
    const [quick, slow] = subscriptions;
    quick?.recorder.batches[0]?.commit(20n);
    await quick?.subscription.close();
    // The slow one has committed nothing at all yet.
    expect(await bus.trim()).toBe(0);
    slow?.recorder.batches[0]?.commit(12n);
    await slow?.subscription.close();
    expect(await bus.trim(5)).toBe(5);
    expect(await bus.trim(5)).toBe(5);
    expect(await bus.trim(5)).toBe(2);
    expect(await bus.trim(5)).toBe(0);
    expect(await countMessages(topic)).toBe(8);
    // A group that reads on finds all that it had not done.
    const again = new BusRecorder();
    const more = bus.subscribe(again.options({ group: 'slow', topics: [topic] }));
    await again.until(() => again.messages.length === 8);
    expect(await bus.forgetGroup('slow')).toBe(false);
    await more.close();
    expect(again.messages[0]?.offset).toBe(12n);
    expect(await bus.forgetGroup('slow')).toBe(true);
    expect(await bus.trim()).toBe(8);
  });

  it('keeps what nobody has read for a week, then cuts it', async () => {
    const topic = 'unheard';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    await bus.publish(['a', 'b', 'c'].map((value) => message(topic, 0, value)));
    await database.pool.query(
      `UPDATE sagax.bus_messages SET at = at - interval '8 days'
        WHERE partition_id = ANY ($1) AND "offset" < 2`,
      [await partitionIds(topic)],
    );
    expect(await bus.trim()).toBe(2);
    expect(await countMessages(topic)).toBe(1);
  });
});

describe('groups', () => {
  it('fences what a former owner says', async () => {
    const topic = 'fence';
    await bus.ensureTopics([{ topic, partitions: 1 }]);
    const ids = await partitionIds(topic);
    const pool = createPool({ url: database.url, max: 2 });
    const groups = new BusGroups(new Database(pool), 60_000);
    await groups.register('fenced', ids);
    const [old] = await groups.take('fenced', 'old', ids, 1);
    expect(await groups.take('fenced', 'new', ids, 1)).toEqual([]);
    await database.pool.query(
      `UPDATE sagax.bus_assignments SET expires_at = clock_timestamp() - interval '1 s'
        WHERE group_name = 'fenced'`,
    );
    const [taken] = await groups.take('fenced', 'new', ids, 1);
    const held = (epoch: string | undefined, commit: bigint): Parameters<typeof heldKey>[0] => ({
      group: 'fenced',
      partitionId: ids[0] as number,
      epoch: epoch ?? '',
      commit,
    });
    const zombie = held(old?.epoch, 99n);
    const owner = held(taken?.epoch, 7n);
    const renewed = await groups.renew([{ group: 'fenced', member: 'new' }], [zombie, owner], null);
    expect([...renewed]).toEqual([heldKey(owner)]);
    await groups.release([zombie]);
    const { rows } = await database.pool.query(
      `SELECT owner, committed FROM sagax.bus_assignments WHERE group_name = 'fenced'`,
    );
    expect(rows).toEqual([{ owner: 'new', committed: '7' }]);
    await pool.end();
  });

  it('shares add up, whatever the numbers', () => {
    for (let partitions = 0; partitions <= 13; partitions++) {
      for (let size = 1; size <= 6; size++) {
        const members = Array.from({ length: size }, (_, i) => `m${i}`);
        const shares = members.map((member) => quota(partitions, members, member));
        expect(shares.reduce((sum, share) => sum + share)).toBe(partitions);
        expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1);
      }
    }
    expect(quota(4, ['a'], 'stranger')).toBe(0);
  });

  it('waits for a topic that is made later', async () => {
    const recorder = new BusRecorder();
    const subscription = bus.subscribe(recorder.options({ group: 'early', topics: ['later'] }));
    await bus.ensureTopics([{ topic: 'later', partitions: 1 }]);
    await bus.publish([message('later', 0, 'x')]);
    await recorder.until(() => recorder.messages.length === 1);
    expect(recorder.values).toEqual(['x']);
    await subscription.close();
  });
});

describe('a database that goes away', () => {
  it('fails publishing in bounded time, and goes on when it is back', async () => {
    const topic = 'outage';
    await bus.ensureTopics([{ topic, partitions: 2 }]);
    const proxy = new Proxy(database.url);
    await proxy.open();
    const far = open(proxy.url);
    const recorder = new BusRecorder();
    const subscription = far.subscribe(recorder.options({ group: 'outage', topics: [topic] }));
    await far.publish([message(topic, 0, 'before')]);
    await recorder.until(() => recorder.values.includes('before'));
    await proxy.cut();
    const started = performance.now();
    await expect(far.publish([message(topic, 0, 'lost?')])).rejects.toMatchObject({
      code: 'BUS_UNAVAILABLE',
    });
    await expect(far.ping()).rejects.toMatchObject({ code: 'BUS_UNAVAILABLE' });
    expect(performance.now() - started).toBeLessThan(6_000);
    await bus.publish([message(topic, 1, 'meanwhile')]);
    await proxy.open();
    await recorder.until(() => recorder.values.includes('meanwhile'));
    await far.publish([message(topic, 0, 'after')]);
    await recorder.until(() => recorder.values.includes('after'));
    await subscription.close();
    await far.close();
    await proxy.cut();
  });
});

/** A way to the database that can be cut. */
class Proxy {
  readonly #target: URL;
  readonly #sockets = new Set<Socket>();
  #server: Server | null = null;
  #port = 0;

  constructor(databaseUrl: string) {
    this.#target = new URL(databaseUrl);
  }

  get url(): string {
    const url = new URL(this.#target);
    url.hostname = '127.0.0.1';
    url.port = `${this.#port}`;
    return url.toString();
  }

  async open(): Promise<void> {
    const { hostname, port } = this.#target;
    this.#server = createServer((client) => {
      const upstream = connect(Number(port || 5432), hostname);
      for (const socket of [client, upstream]) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => this.#sockets.delete(socket));
      }
      client.pipe(upstream).pipe(client);
    }).listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as { port: number }).port;
  }

  async cut(): Promise<void> {
    const closed = once(this.#server as Server, 'close');
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
