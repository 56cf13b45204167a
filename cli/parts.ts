/**
 * The parts that a process can run beside workers (`workers.ts`): engine and API, each started on connections, each with a drain.
 */
import { createApi } from '../api/server.ts';
import type { AnyDefinition } from '../engine/core/define.ts';
import { SagaxError } from '../engine/core/errors.ts';
import { createEngine, type Engine } from '../engine/runtime/engine.ts';
import { createSnowflakes } from '../engine/runtime/snowflake.ts';
import { accessOf, type ApiCommand } from './access.ts';
import type { Closers, Connections } from './connect.ts';
import { keepMaintained } from './upkeep.ts';

export async function startEngine(
  connections: Connections,
  definitions: readonly AnyDefinition[],
  closers: Closers,
): Promise<Engine> {
  const { settings, postgres, bus, telemetry, owner } = connections;
  const engine = createEngine({
    definitions,
    eventLog: postgres.eventLog,
    shardLeases: postgres.shardLeases,
    bus,
    clock: postgres.clock,
    clockOf: (shard) => postgres.clockOf(shard),
    topology: {
      topicPrefix: settings.SAGAX_TOPIC_PREFIX,
      commandPartitions: settings.SAGAX_COMMAND_PARTITIONS,
    },
    owner,
    telemetry: telemetry.telemetry,
    leaseTtlMs: settings.SAGAX_SHARD_LEASE_MS,
    cacheCapacity: settings.SAGAX_CACHE_SAGAS,
  });
  await engine.start();
  // Closed after the engine: what it has under way may take long, and shards are given back at once.
  keepMaintained(connections, closers);
  closers.add(() => engine.drain());
  telemetry.gauge('shards_held', 'Shards that this node holds.', () => engine.shards().length);
  telemetry.gauge('cached_sagas', 'Live sagas in memory.', () =>
    engine.shards().reduce((sum, shard) => sum + shard.cachedSagas, 0),
  );
  return engine;
}

/** @returns the URL that it listens on. @throws SagaxError PORT_TAKEN, CONFIG_INVALID */
export async function startApi(
  connections: Connections,
  definitions: readonly AnyDefinition[],
  closers: Closers,
  command: ApiCommand,
): Promise<string> {
  const { settings, postgres, bus, telemetry, owner } = connections;
  const access = await accessOf(connections, command);
  const ids = await createSnowflakes(
    postgres.nodeIds,
    postgres.clock,
    owner,
    settings.SAGAX_NODE_LEASE_MS,
    telemetry.log,
  );
  closers.add(() => ids.close());
  const api = createApi(
    {
      access,
      bus,
      reader: postgres.reader,
      startKeys: postgres.startKeys,
      deadLetters: postgres.deadLetters,
      ids,
      clock: postgres.clock,
      definitions,
      topology: {
        topicPrefix: settings.SAGAX_TOPIC_PREFIX,
        shards: postgres.shardLeases.shardCount,
        ...(settings.SAGAX_NAMESPACES === undefined
          ? {}
          : { namespaces: settings.SAGAX_NAMESPACES }),
      },
      metrics: telemetry.registry,
    },
    {
      logger: telemetry.log,
      processMetrics: true,
      rateLimitPerS: settings.SAGAX_RATE_LIMIT_PER_S,
      authFailuresPerMin: settings.SAGAX_AUTH_FAILURES_PER_MIN,
      maxConnections: settings.SAGAX_MAX_CONNECTIONS,
      drainMs: settings.SAGAX_DRAIN_MS,
      trustProxy: settings.SAGAX_TRUST_PROXY ?? [],
    },
  );
  // The inbox must be there before the first start is accepted, whoever comes up first.
  await bus.ensureTopics([
    { topic: `${settings.SAGAX_TOPIC_PREFIX}.inbox`, partitions: postgres.shardLeases.shardCount },
  ]);
  try {
    const address = await api.listen({ host: settings.SAGAX_HOST, port: settings.SAGAX_PORT });
    closers.add(() => api.close());
    return address;
  } catch (error) {
    await api.close();
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    throw new SagaxError(
      'PORT_TAKEN',
      `Port ${settings.SAGAX_PORT} on ${settings.SAGAX_HOST} is in use. Stop what listens there, or choose another: SAGAX_PORT=8081 npm start (0 takes a free one).`,
      { cause: error },
    );
  }
}
