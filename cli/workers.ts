/**
 * The workers of a process: those of the user's services, or of the examples.
 *
 * Guards that each service's tables are there before it takes a command, however many processes set them up at once.
 */
import { SagaxError } from '../engine/core/errors.ts';
import { createPool, mapError, retryConflicts } from '../engine/postgres/index.ts';
import { createWorker, postgresStore, type Handler, type PgTx } from '../workers/index.ts';
import { exampleServices } from '../workers/services/index.ts';
import type { Closers, Connections } from './connect.ts';
import { loadServices } from './modules.ts';

type Pool = ReturnType<typeof createPool>;

interface Runnable {
  service: string;
  schema: string;
  migrate(pool: Pool): Promise<void>;
  handlers(pool: Pool): readonly Handler<PgTx>[];
}

/**
 * Starts workers for the services of SAGAX_WORKERS, or else for the examples; of these, for those that SAGAX_SERVICES names.
 * @returns the services' names
 * @throws SagaxError CONFIG_INVALID, DATABASE_UNAVAILABLE, BUS_UNAVAILABLE
 */
export async function startWorkers(connections: Connections, closers: Closers): Promise<string[]> {
  const { settings, bus, postgres, telemetry } = connections;
  const services = chosen(await available(settings.SAGAX_WORKERS), settings.SAGAX_SERVICES);
  const pool = createPool({
    url: settings.SAGAX_PARTICIPANT_DATABASE_URL ?? connections.databaseUrl,
    applicationName: `${connections.owner}-participants`.slice(0, 63),
    max: Math.max(4, Math.min(settings.SAGAX_WORKER_CONCURRENCY + 4, 20)),
    pipeline: true,
    onIdleError: (error) => {
      if (closers.isClosing) return;
      telemetry.log.warn({ err: error }, 'an idle participant connection died; it is replaced');
    },
  });
  closers.add(() => pool.end());
  for (const service of services) await prepare(() => service.migrate(pool));
  const workers = services.map(({ service, schema, handlers }) =>
    createWorker({
      service,
      handlers: handlers(pool),
      store: postgresStore({ pool, schema }),
      bus,
      clock: postgres.clock,
      topicPrefix: settings.SAGAX_TOPIC_PREFIX,
      commandPartitions: settings.SAGAX_COMMAND_PARTITIONS,
      concurrency: settings.SAGAX_WORKER_CONCURRENCY,
      group: `${settings.SAGAX_TOPIC_PREFIX}.${service}`,
      log: telemetry.log,
      metrics: telemetry.workerMetrics,
    }),
  );
  closers.add(() => Promise.all(workers.map((worker) => worker.drain(settings.SAGAX_DRAIN_MS))));
  await Promise.all(workers.map((worker) => prepare(() => worker.start())));
  return services.map(({ service }) => service);
}

async function available(path: string | undefined): Promise<Runnable[]> {
  if (path === undefined) {
    return exampleServices.map((example) => ({
      ...example,
      handlers: (outside) => example.handlers({ outside }),
    }));
  }
  return (await loadServices(path)).map((service) => ({
    ...service,
    handlers: () => service.handlers,
  }));
}

function chosen(services: Runnable[], wanted: readonly string[] | undefined): Runnable[] {
  if (wanted === undefined) return services;
  const missing = wanted.filter((name) => !services.some(({ service }) => service === name));
  if (missing.length > 0) {
    const known = services.map(({ service }) => service).join(', ');
    throw new SagaxError(
      'CONFIG_INVALID',
      `SAGAX_SERVICES names ${missing.join(', ')}; there are: ${known}.`,
    );
  }
  return services.filter(({ service }) => wanted.includes(service));
}

/**
 * Sets something up in the participants' database, again while it loses against another process that does the same.
 * @throws SagaxError DATABASE_UNAVAILABLE, CONFIG_INVALID
 */
async function prepare(work: () => Promise<void>): Promise<void> {
  await retryConflicts(work).catch((error: unknown) => {
    throw mapError(error, 'repeatable');
  });
}
