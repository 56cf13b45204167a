/**
 * The example sagas and services, running: an engine on memory ports, workers for all services on real
 * Postgres.
 *
 * Guards that tests await what the log says: each wait ends with the append that makes it true.
 */
import { definitions } from '../../../definitions/index.ts';
import type { LoggedEvent, SagaEvent, SagaEventType } from '../../../engine/core/events.ts';
import {
  MemoryBroker,
  MemoryDatabase,
  memoryPorts,
  PlainHost,
  systemClock,
} from '../../../engine/memory/index.ts';
import type { SagaSummary } from '../../../engine/ports.ts';
import { createEngine } from '../../../engine/runtime/engine.ts';
import { PostgresStore } from '../../../workers/postgres/store.ts';
import { exampleServices } from '../../../workers/services/index.ts';
import { createWorker } from '../../../workers/worker.ts';
import { send } from '../../support/participants.ts';
import type { TestDatabase } from '../../support/postgres.ts';

const PREFIX = 't';
const SHARDS = 2;
const ignore = (): void => undefined;
const log = { debug: ignore, info: ignore, warn: ignore, error: ignore };

export async function startExamples(db: TestDatabase) {
  const summaries = new Map<string, SagaSummary>();
  const events: LoggedEvent[] = [];
  const waits = new Set<() => void>();
  const memory = new MemoryDatabase({
    shards: SHARDS,
    now: () => systemClock.now(),
    observer: {
      appended: (batch) => {
        events.push(...batch.events);
        for (const summary of batch.summaries) summaries.set(summary.sagaId, summary);
        for (const look of waits) look();
      },
    },
  });
  const broker = new MemoryBroker();
  const process = (name: string) => memoryPorts(memory, broker, new PlainHost(systemClock, name));
  const ports = process('engine');
  const topology = { topicPrefix: PREFIX, commandPartitions: 2 };
  const engine = createEngine({ ...ports, definitions, topology, owner: 'engine' });
  await engine.start();
  const workers = await Promise.all(
    exampleServices.map(async (service) => {
      await service.migrate(db.pool);
      const { bus, clock } = process(service.service);
      const worker = createWorker({
        service: service.service,
        store: new PostgresStore({ pool: db.pool, schema: service.schema }),
        handlers: service.handlers({ outside: db.pool }),
        bus,
        clock,
        topicPrefix: PREFIX,
        log,
        commandPartitions: topology.commandPartitions,
        concurrency: 4,
      });
      await worker.start();
      return worker;
    }),
  );

  let sagas = 1_000;
  const put = (
    type: 'start' | 'signal' | 'cancel' | 'reply',
    body: { sagaId: string; [field: string]: unknown },
  ) => send(ports.bus, PREFIX, SHARDS, type, body);

  /** Resolves once `look` finds something, after the append that brings it. The test's own timeout bounds it. */
  function until<T>(look: () => T | undefined): Promise<T> {
    return new Promise((resolve) => {
      const again = (): void => {
        const found = look();
        if (found === undefined) return;
        waits.delete(again);
        resolve(found);
      };
      waits.add(again);
      again();
    });
  }
  const summaryOf = (sagaId: string, fits: (summary: SagaSummary) => boolean) =>
    until(() => {
      const summary = summaries.get(sagaId);
      return summary !== undefined && fits(summary) ? summary : undefined;
    });

  return {
    /** @returns the saga's id */
    async start(definition: string, input: object): Promise<string> {
      const sagaId = String(++sagas);
      await put('start', { sagaId, definition, definitionVersion: 1, input });
      return sagaId;
    },
    signal: (sagaId: string, name: string, payload: object) =>
      put('signal', { sagaId, signalId: `${sagaId}-${name}`, name, payload }),
    cancel: (sagaId: string, reason: string) =>
      put('cancel', { sagaId, requestId: `${sagaId}-cancel`, reason, by: 'test' }),
    /** Completes a pending command as another system would. */
    complete: (sagaId: string, commandId: string, output: object) =>
      put('reply', { sagaId, commandId, outcome: 'succeeded', output }),
    ended: (sagaId: string) => summaryOf(sagaId, ({ endedAt }) => endedAt !== null),
    at: (sagaId: string, state: string) => summaryOf(sagaId, (summary) => summary.state === state),
    logged: (sagaId: string, type: SagaEventType) =>
      until(() => events.find((logged) => logged.sagaId === sagaId && logged.event.type === type)),
    history: (sagaId: string): SagaEvent[] =>
      events.filter((logged) => logged.sagaId === sagaId).map(({ event }) => event),
    deadLetters: () => ports.deadLetters.list({ limit: 10 }),
    async stop(): Promise<void> {
      await Promise.all(workers.map((worker) => worker.drain(5_000)));
      await engine.drain();
    },
  };
}
export type Examples = Awaited<ReturnType<typeof startExamples>>;
