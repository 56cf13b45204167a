/**
 * Engine nodes on real Kafka: they share the shards, a drain hands over at once, and a node that was stopped
 * for longer than its session and its lease writes nothing when it goes on.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { order } from '../../definitions/order/saga.ts';
import { composeSnowflake } from '../../engine/core/ids.ts';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import { openPostgres } from '../../engine/postgres/index.ts';
import type { Bus } from '../../engine/ports.ts';
import { createEngine, type Engine } from '../../engine/runtime/engine.ts';
import { eventually, startProcess, type SagaxProcess } from '../e2e/processes.ts';
import { kafkaBrokers } from '../support/kafka.ts';
import { participants, send } from '../support/participants.ts';
import { testDatabase, type TestDatabase } from '../support/postgres.ts';
import { checkShards, happyOrder, ORDER_EVENTS, ORDER_SERVICES, orderInput } from './orders.ts';

const SHARDS = 4;
const LEASE_MS = 3_000;
const brokers = kafkaBrokers();

describe.skipIf(brokers === null)('the engine on Kafka', () => {
  let database: TestDatabase;
  let topicPrefix: string;
  let bus: Bus;
  const closing: (() => Promise<unknown>)[] = [];
  let made = 0;
  const newIds = (count: number): string[] =>
    Array.from({ length: count }, () => composeSnowflake(Date.now(), 8, made++));

  beforeAll(async () => {
    database = await testDatabase();
    topicPrefix = `rt-${randomBytes(4).toString('hex')}`;
    bus = createKafkaBus({ brokers: brokers ?? [] });
    await bus.ensureTopics([
      { topic: `${topicPrefix}.inbox`, partitions: SHARDS },
      ...ORDER_SERVICES.map((service) => ({
        topic: `${topicPrefix}.commands.${service}`,
        partitions: 2,
      })),
    ]);
    await participants(bus, topicPrefix, ORDER_SERVICES, happyOrder);
  });
  afterAll(async () => {
    await bus?.close();
    await database?.drop();
  });
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
  });

  const startNode = async (owner: string): Promise<Engine> => {
    const ports = await openPostgres({ url: database.url, shards: SHARDS, migrate: false });
    closing.push(() => ports.close());
    const own = createKafkaBus({ brokers: brokers ?? [] });
    closing.push(() => own.close());
    const engine = createEngine({
      ...ports,
      bus: own,
      definitions: [order],
      topology: { topicPrefix, commandPartitions: 2 },
      owner,
      leaseTtlMs: LEASE_MS,
    });
    await engine.start();
    closing.push(() => engine.drain());
    return engine;
  };
  const startAll = async (ids: readonly string[]): Promise<void> => {
    await Promise.all(
      ids.map((sagaId) =>
        send(bus, topicPrefix, SHARDS, 'start', {
          sagaId,
          definition: 'order',
          definitionVersion: 1,
          input: orderInput,
        }),
      ),
    );
  };
  const checkEnded = async (ids: readonly string[], limitMs: number): Promise<void> => {
    await eventually('all sagas have ended', limitMs, async () => {
      const { rows } = await database.pool.query(
        `SELECT count(*)::int AS n FROM sagax.sagas WHERE status = 'completed' AND saga_id = ANY ($1::bigint[])`,
        [ids],
      );
      return (rows[0] as { n: number }).n === ids.length ? true : null;
    });
    await checkShards(database.pool);
    const { rows } = await database.pool.query(
      `SELECT saga_id, array_agg(type ORDER BY stream_version) AS types FROM sagax.events
        WHERE saga_id = ANY ($1::bigint[]) GROUP BY saga_id`,
      [ids],
    );
    for (const { types } of rows as { types: string[] }[]) expect(types).toEqual(ORDER_EVENTS);
  };

  test('two nodes share the shards, and one that drains hands its over at once', async () => {
    const a = await startNode('node-a');
    const b = await startNode('node-b');
    await eventually('both have half of them', 30_000, () =>
      Promise.resolve(a.shards().length === 2 && b.shards().length === 2 ? true : null),
    );
    const ids = newIds(40);
    await startAll(ids.slice(0, 20));
    const begun = performance.now();
    await a.drain();
    await eventually('the other has all', 20_000, () =>
      Promise.resolve(b.shards().length === SHARDS ? true : null),
    );
    // A member that leaves is not waited for: well below the session's 10 s.
    expect(performance.now() - begun).toBeLessThan(8_000);
    await startAll(ids.slice(20));
    await checkEnded(ids, 30_000);
  });

  test(
    'a zombie writes nothing: stopped beyond its session and its lease, it finds itself replaced',
    { timeout: 120_000 },
    async () => {
      const zombie = startProcess('engine', {
        DATABASE_URL: database.url,
        KAFKA_BROKERS: (brokers ?? []).join(','),
        SAGAX_TOPIC_PREFIX: topicPrefix,
        SAGAX_SHARDS: String(SHARDS),
        SAGAX_COMMAND_PARTITIONS: '2',
        SAGAX_SHARD_LEASE_MS: String(LEASE_MS),
        SAGAX_HEALTH_PORT: '0',
      });
      closing.push(async () => {
        zombie.kill('SIGKILL');
        await zombie.ended;
      });
      await zombie.line(/the engine runs/);
      const owners = async (): Promise<Map<string, number>> => {
        const { rows } = await database.pool.query(
          'SELECT owner, count(*)::int AS n FROM sagax.shards WHERE owner IS NOT NULL GROUP BY owner',
        );
        return new Map((rows as { owner: string; n: number }[]).map(({ owner, n }) => [owner, n]));
      };
      /** Either the fence tells it, or its group: then it has joined anew and taken shards under new epochs. */
      const disowned = (one: SagaxProcess): Promise<unknown> =>
        eventually('it knows that it was replaced', 60_000, async () => {
          if (/another owner has the shard|has another owner/.test(one.said())) return true;
          const { rowCount } = await database.pool.query(
            `SELECT FROM sagax.shards WHERE owner LIKE '%#' || $1 || '-%'`,
            [one.pid],
          );
          return (rowCount ?? 0) > 0 ? true : null;
        }).catch((error: unknown) => {
          throw new Error(`${String(error)}; it said:\n${one.said()}`);
        });
      await eventually('it has every shard', 30_000, async () =>
        [...(await owners()).values()].includes(SHARDS) ? true : null,
      );
      const ids = newIds(60);
      // In the middle of its work: messages fetched, batches under way, commands to publish.
      await startAll(ids.slice(0, 40));
      zombie.kill('SIGSTOP');
      const b = await startNode('node-b');
      await eventually('the other node has every shard', 60_000, () =>
        Promise.resolve(b.shards().length === SHARDS ? true : null),
      );
      const taken = new Map(b.shards().map(({ shard, epoch }) => [shard, epoch]));
      await startAll(ids.slice(40, 50));
      zombie.kill('SIGCONT');
      await disowned(zombie);
      await startAll(ids.slice(50));
      await checkEnded(ids, 60_000);
      // What is below the take-over's epoch was written before it: checkShards saw no epoch go down.
      const { rows } = await database.pool.query(
        'SELECT shard, max(epoch)::int AS epoch FROM sagax.events GROUP BY shard',
      );
      for (const { shard, epoch } of rows as { shard: number; epoch: number }[])
        expect(epoch).toBeGreaterThanOrEqual(taken.get(shard) ?? Infinity);
    },
  );
});
