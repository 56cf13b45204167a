/**
 * The engine on a real Postgres, event log and bus: connections that are cut in the middle, a database that
 * is away, an input that no statement takes, and two nodes that share the shards.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { order } from '../../definitions/order/saga.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { createPostgresBus } from '../../engine/postgres/bus.ts';
import { openPostgres, type PostgresPorts } from '../../engine/postgres/index.ts';
import type { Bus } from '../../engine/ports.ts';
import { createEngine, type Engine } from '../../engine/runtime/engine.ts';
import { participants, send } from '../support/participants.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { eventually } from '../e2e/processes.ts';
import { startProxy, type Proxy } from '../postgres/proxy.ts';
import { checkShards, happyOrder, ORDER_EVENTS, ORDER_SERVICES, orderInput } from './orders.ts';
import { Recorder } from './support.ts';

const SHARDS = 4;
let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  // Each world's inbox begins at 0, so the shards' positions do too.
  await database.pool.query('UPDATE sagax.shard_positions SET next_offset = 0');
});

let made = 0;
const newId = (): string => composeSnowflake(Date.now(), 7, made++ % 4_096);
let worlds = 0;

interface World {
  topicPrefix: string;
  ports: PostgresPorts;
  bus: Bus;
  start(sagaId: string): Promise<void>;
  ended(sagaIds: readonly string[], limitMs?: number): Promise<void>;
}

/** A client, and participants that answer every command; on connections of their own. */
async function openWorld(): Promise<World> {
  worlds += 1;
  const topicPrefix = `w${worlds}`;
  const ports = await openPostgres({ url: database.url, shards: SHARDS, migrate: false });
  closing.push(() => ports.close());
  const bus = createPostgresBus({ url: database.url, leaseMs: 2_000 });
  closing.push(() => bus.close());
  await bus.ensureTopics([
    ...ORDER_SERVICES.map((service) => ({
      topic: `${topicPrefix}.commands.${service}`,
      partitions: 2,
    })),
  ]);
  const { subscription } = await participants(bus, topicPrefix, ORDER_SERVICES, happyOrder);
  closing.push(() => subscription.close());
  return {
    topicPrefix,
    ports,
    bus,
    // As the API's callers do: what was not answered is said again, and the shard drops a repeat.
    start: (sagaId) =>
      eventually('a start is taken', 10_000, () =>
        send(bus, topicPrefix, SHARDS, 'start', {
          sagaId,
          definition: 'order',
          definitionVersion: 1,
          input: orderInput,
        }).then(
          () => true,
          () => null,
        ),
      ).then(() => undefined),
    ended: async (sagaIds, limitMs = 20_000) => {
      await eventually('all sagas have ended', limitMs, async () => {
        const { rows } = await database.pool.query(
          `SELECT count(*)::int AS n FROM sagax.sagas WHERE status = 'completed' AND saga_id = ANY ($1::bigint[])`,
          [sagaIds],
        );
        return (rows[0] as { n: number }).n === sagaIds.length ? true : null;
      });
    },
  };
}

/** An engine node on connections of its own, to `url`. */
async function startNode(
  { topicPrefix }: World,
  owner: string,
  url = database.url,
): Promise<{ engine: Engine; telemetry: Recorder }> {
  const ports = await openPostgres({ url, shards: SHARDS, migrate: false, applicationName: owner });
  closing.push(() => ports.close());
  const bus = createPostgresBus({ url, leaseMs: 2_000 });
  closing.push(() => bus.close());
  const telemetry = new Recorder();
  const engine = createEngine({
    ...ports,
    bus,
    definitions: [order],
    topology: { topicPrefix, commandPartitions: 2 },
    owner,
    telemetry,
    leaseTtlMs: 3_000,
  });
  await engine.start();
  closing.push(() => engine.drain());
  return { engine, telemetry };
}

async function proxied(): Promise<Proxy> {
  const proxy = await startProxy(database.url);
  closing.push(() => proxy.close());
  return proxy;
}

async function checkAll(sagaIds: readonly string[]): Promise<void> {
  await checkShards(database.pool);
  for (const sagaId of sagaIds) {
    const { rows } = await database.pool.query(
      'SELECT type FROM sagax.events WHERE saga_id = $1 ORDER BY stream_version',
      [sagaId],
    );
    expect((rows as { type: string }[]).map(({ type }) => type)).toEqual(ORDER_EVENTS);
  }
}

describe('the engine on Postgres', () => {
  test('orders end right while every connection is terminated, again and again', async () => {
    const world = await openWorld();
    await startNode(world, 'node-a');
    const ids = Array.from({ length: 80 }, newId);
    let cut = 0;
    for (const [index, id] of ids.entries()) {
      await world.start(id);
      if (index % 10 !== 9) continue;
      const { rows } = await database.pool.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IN ('node-a', 'sagax-bus')`,
      );
      cut += rows.length;
    }
    expect(cut).toBeGreaterThan(16);
    await world.ended(ids);
    await checkAll(ids);
  });

  test.each([
    ['after the server has committed', (proxy: Proxy) => proxy.cutAfter('sagax-append')],
    [
      'before the server sees it',
      (proxy: Proxy) => Promise.resolve(proxy.cutBefore('sagax-append')),
    ],
  ])('an append whose connection breaks %s is applied once', async (_, cut) => {
    const world = await openWorld();
    const proxy = await proxied();
    const { telemetry, engine } = await startNode(world, 'node-a', proxy.url);
    const first = newId();
    await world.start(first);
    await world.ended([first]);
    const broken = cut(proxy);
    const ids = Array.from({ length: 10 }, newId);
    for (const id of ids) await world.start(id);
    await broken;
    await eventually('a shard was lost', 10_000, () =>
      Promise.resolve(telemetry.of('shards_lost_total') > 0 ? true : null),
    );
    proxy.mend();
    await world.ended(ids);
    await checkAll(ids);
    expect(engine.shards().some(({ epoch }) => epoch > 1)).toBe(true);
  });

  test('a database that is away delays, and loses nothing', async () => {
    const world = await openWorld();
    const proxy = await proxied();
    const { telemetry } = await startNode(world, 'node-a', proxy.url);
    const ids = Array.from({ length: 10 }, newId);
    for (const id of ids.slice(0, 5)) await world.start(id);
    // Every connection breaks, and so does every new one.
    proxy.cutBefore('');
    for (const id of ids.slice(5)) await world.start(id);
    await eventually('renewals have failed for longer than the lease', 15_000, () => {
      const failed = telemetry.lines.filter(({ message }) => message.includes('be renewed'));
      return Promise.resolve(failed.length >= 4 ? true : null);
    });
    const { rows } = await database.pool.query(
      'SELECT count(*)::int AS n FROM sagax.shards WHERE owner IS NOT NULL AND expires_at < now()',
    );
    expect(rows).toEqual([{ n: SHARDS }]);
    proxy.mend();
    await world.ended(ids);
    await checkAll(ids);
  });

  test('a drain ends although the database is away', async () => {
    const world = await openWorld();
    const proxy = await proxied();
    const { engine } = await startNode(world, 'node-a', proxy.url);
    const ids = Array.from({ length: 5 }, newId);
    for (const id of ids.slice(0, 2)) await world.start(id);
    await world.ended(ids.slice(0, 2));
    proxy.cutBefore('');
    for (const id of ids.slice(2)) await world.start(id);
    const begun = performance.now();
    await engine.drain();
    expect(performance.now() - begun).toBeLessThan(15_000);
    expect(engine.shards()).toEqual([]);
    await startNode(world, 'node-b');
    await world.ended(ids);
    await checkAll(ids);
  });

  test('an id that no statement takes is parked, and the shard goes on', async () => {
    const world = await openWorld();
    await startNode(world, 'node-a');
    const ids = Array.from({ length: 12 }, newId);
    const tooLarge = ['9999999999999999999', '9999999999999999998', '9300000000000000000'];
    for (const [index, id] of ids.entries()) {
      await world.start(id);
      const bad = tooLarge[index];
      if (bad !== undefined) await world.start(bad);
    }
    await world.ended(ids);
    await checkAll(ids);
    const letters = await eventually('all bad ones are parked', 10_000, async () => {
      const { rows } = await database.pool.query(
        `SELECT convert_from(key, 'UTF8') AS key, code FROM sagax.dead_letters`,
      );
      return rows.length === tooLarge.length ? (rows as { key: string; code: string }[]) : null;
    });
    expect(letters.map(({ key }) => key).sort()).toEqual([...tooLarge].sort());
  });

  test('two nodes share the shards; one that drains hands its over at once', async () => {
    const world = await openWorld();
    const a = await startNode(world, 'node-a');
    const b = await startNode(world, 'node-b');
    await eventually('both have half of them', 15_000, () =>
      Promise.resolve(
        a.engine.shards().length === 2 && b.engine.shards().length === 2 ? true : null,
      ),
    );
    const ids = Array.from({ length: 30 }, newId);
    for (const id of ids.slice(0, 15)) await world.start(id);
    const begun = performance.now();
    await a.engine.drain();
    await eventually('the other has all', 10_000, () =>
      Promise.resolve(b.engine.shards().length === SHARDS ? true : null),
    );
    // Less than any lease has to run.
    expect(performance.now() - begun).toBeLessThan(2_000);
    for (const id of ids.slice(15)) await world.start(id);
    await world.ended(ids);
    await checkAll(ids);
  });
});
