/**
 * An API over the memory adapters, for tests of the border: no engine runs, so tests say themselves what
 * became of a saga (`become`), and see what was put into the inbox (`inbox`).
 */
import { Registry } from 'prom-client';
import { assign, setup } from 'xstate';
import { z } from 'zod';
import { createApi } from '../../api/server.ts';
import type { AccessDeps, ApiOptions } from '../../api/deps.ts';
import {
  command,
  compensatable,
  compensateAll,
  defineSaga,
  pivot,
  retriable,
  type AnyDefinition,
  type SignalEvent,
} from '../../engine/core/index.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { SnowflakeGenerator } from '../../engine/core/ids.ts';
import { decodeInbox, type InboxInput } from '../../engine/core/wire.ts';
import { memoryAccess, openMemory, systemClock } from '../../engine/memory/index.ts';
import type { Bus, BusMessage, Clock, SagaSummary } from '../../engine/ports.ts';
import type { DeadLetters, SagaReader, StartKeys } from '../../engine/ports-read.ts';

const bookFlight = command('travel.book-flight', {
  input: z.object({ city: z.string() }),
  output: z.object({ seat: z.string() }),
  rejections: { SoldOut: z.object({ next: z.string() }) },
});
const cancelFlight = command('travel.cancel-flight', {
  input: z.object({ seat: z.string() }),
  output: z.object({}),
});
const pay = command('money.pay', {
  input: z.object({ cents: z.int() }),
  output: z.object({ id: z.string() }),
});
const tell = command('mail.tell', { input: z.object({}), output: z.object({}) });

const visitInput = z.object({
  city: z.string().min(1),
  cents: z.int().positive().default(100),
  note: z.unknown().optional(),
});
const visitSignals = { approve: z.object({ by: z.string().min(1) }) };

function visitMachine() {
  return setup({
    types: {
      input: {} as z.output<typeof visitInput>,
      context: {} as { city: string; cents: number; seat: string },
      events: {} as SignalEvent<typeof visitSignals>,
    },
    actors: {
      book: compensatable(bookFlight, {
        compensateWith: cancelFlight,
        compensation: ({ output }) => ({ seat: output.seat }),
        timeout: '10s',
      }),
      pay: pivot(pay),
      tell: retriable(tell),
      compensate: compensateAll(),
    },
    guards: { expensive: ({ context }) => context.cents > 1_000 },
  }).createMachine({
    id: 'visit',
    context: ({ input }) => ({ city: input.city, cents: input.cents, seat: '' }),
    initial: 'booking',
    states: {
      booking: {
        invoke: {
          src: 'book',
          input: ({ context }) => ({ city: context.city }),
          onDone: {
            target: 'checking',
            actions: assign({ seat: ({ event }) => event.output.seat }),
          },
          onError: 'compensating',
        },
      },
      checking: { always: [{ guard: 'expensive', target: 'waiting' }, { target: 'paying' }] },
      waiting: { on: { approve: 'paying' }, after: { 60_000: 'compensating' } },
      paying: {
        invoke: {
          src: 'pay',
          input: ({ context }) => ({ cents: context.cents }),
          onDone: 'telling',
          onError: 'compensating',
        },
      },
      telling: { invoke: { src: 'tell', input: {}, onDone: 'done' } },
      compensating: { invoke: { src: 'compensate', onDone: 'cancelled' } },
      done: { type: 'final' },
      cancelled: { type: 'final' },
    },
  });
}

export const visit: AnyDefinition = defineSaga({
  name: 'visit',
  version: 1,
  description: 'A visit to a city.',
  machine: visitMachine(),
  input: visitInput,
  signals: visitSignals,
});
export const visit2: AnyDefinition = defineSaga({
  name: 'visit',
  version: 2,
  machine: visitMachine(),
  input: visitInput,
  signals: visitSignals,
});

export interface Overrides {
  bus?: Partial<Pick<Bus, 'publish' | 'ping'>>;
  reader?: Partial<SagaReader>;
  startKeys?: Partial<StartKeys>;
  deadLetters?: Partial<DeadLetters>;
  clock?: Clock;
  nextId?: () => string;
  namespaces?: readonly string[];
  /** Default: both versions of `visit`. */
  definitions?: readonly AnyDefinition[];
  /** Default: everyone is let in, as by `npm start`. */
  access?: Partial<AccessDeps>;
  options?: ApiOptions;
}

export interface Answered {
  method: string;
  route: string;
  status: number;
  contentType: string;
  payload: string;
}

export interface TestRoute {
  method: 'GET' | 'POST';
  url: string;
  access: string;
  allNamespaces: boolean;
  audited: boolean;
}

export type TestApi = Awaited<ReturnType<typeof openApi>>;

export async function openApi(overrides: Overrides = {}) {
  const clock = overrides.clock ?? systemClock;
  const memory = openMemory({ shards: 4, clock });
  await memory.bus.ensureTopics([{ topic: 'test.inbox', partitions: 4 }]);
  const published: BusMessage[] = [];
  const publishes: number[] = [];
  const ids = new SnowflakeGenerator({
    nodeId: 1,
    now: () => clock.now(),
    leaseHolds: () => true,
    startAboveMs: 0,
  });
  const bus = {
    publish: async (messages: readonly BusMessage[]) => {
      await memory.bus.publish(messages);
      published.push(...messages);
      publishes.push(messages.length);
    },
    ping: () => memory.bus.ping(),
    ...overrides.bus,
  };
  const metrics = new Registry();
  const access = memoryAccess(clock);
  const app = createApi(
    {
      bus,
      reader: { ...memory.reader, ...overrides.reader },
      startKeys: { ...memory.startKeys, ...overrides.startKeys },
      deadLetters: { ...memory.deadLetters, ...overrides.deadLetters },
      access: { required: false, ...access, ...overrides.access },
      ids: overrides.nextId === undefined ? ids : { next: overrides.nextId },
      clock,
      definitions: overrides.definitions ?? [visit, visit2],
      topology: {
        topicPrefix: 'test',
        shards: 4,
        ...(overrides.namespaces !== undefined && { namespaces: overrides.namespaces }),
      },
      metrics,
    },
    { visibilityWaitMs: 50, ...overrides.options },
  );
  const routes: TestRoute[] = [];
  app.addHook('onRoute', ({ method, url, config }) => {
    for (const each of [method].flat()) {
      if (each === 'HEAD') continue;
      const { access = 'none', allNamespaces = false, audited = false } = config ?? {};
      routes.push({ method: each as TestRoute['method'], url, access, allNamespaces, audited });
    }
  });
  const answered: Answered[] = [];
  app.addHook('onSend', async (request, reply, payload) => {
    answered.push({
      method: request.method.toLowerCase(),
      // As the OpenAPI document writes it.
      route: (request.routeOptions.url ?? '').replace(/:(\w+)/g, '{$1}'),
      status: reply.statusCode,
      contentType: String(reply.getHeader('content-type') ?? '').split(';')[0] ?? '',
      payload: typeof payload === 'string' ? payload : '',
    });
    return payload;
  });
  await app.ready();
  return {
    app,
    /** Every answer so far, for checks against the OpenAPI document. */
    answered,
    memory,
    /** Every route, with whom it is for. */
    routes,
    /** Keys and audit entries as they are stored. */
    access,
    ids,
    /** All that was published, decoded. */
    inbox: (): InboxInput[] => published.map(decodeInbox),
    published,
    publishes,
    /** The saga's summary from now on; with it the shared poller finds out. */
    become: (summary: Partial<SagaSummary> & { sagaId: string }): SagaSummary => {
      const known = memory.db.summaries.get(summary.sagaId);
      const next = { ...(known ?? blankSummary(clock.now())), ...summary };
      memory.db.summaries.set(summary.sagaId, next);
      return next;
    },
    /** Appends events to the saga's stream, as its shard would, and moves its summary along. */
    log: (sagaId: string, ...events: SagaEvent[]): void => {
      const stream = memory.db.streams.get(sagaId) ?? [];
      memory.db.streams.set(sagaId, stream);
      for (const event of events) {
        const streamVersion = stream.length + 1;
        const at = { shard: 0, shardSeq: streamVersion, epoch: 1 };
        const logged = {
          sagaId,
          namespace: 'default',
          streamVersion,
          ...at,
          at: clock.now(),
          event,
        };
        stream.push({
          sagaId,
          streamVersion,
          ...at,
          type: event.type,
          text: JSON.stringify(logged),
        });
      }
      const known = memory.db.summaries.get(sagaId) ?? { ...blankSummary(clock.now()), sagaId };
      memory.db.summaries.set(sagaId, { ...known, streamVersion: stream.length });
    },
  };
}

function blankSummary(now: number): SagaSummary {
  return {
    sagaId: '1',
    namespace: 'default',
    definition: 'visit',
    definitionVersion: 2,
    status: 'running',
    state: 'booking',
    businessKey: null,
    attributes: {},
    streamVersion: 1,
    startedAt: now,
    updatedAt: now,
    endedAt: null,
    pivotPassed: false,
    failureCode: null,
    failureMessage: null,
    output: null,
  };
}

/** A stream's beginning: started, and its first step requested. */
export const beginning = (sagaId: string): SagaEvent[] => [
  {
    type: 'SagaStarted',
    namespace: 'default',
    definition: 'visit',
    definitionVersion: 2,
    definitionHash: visit2.hash,
    input: { city: 'Rome', cents: 100 },
  },
  {
    type: 'StepRequested',
    commandId: `${sagaId}.1`,
    step: 'book',
    actorId: '0.visit.booking',
    class: 'compensatable',
    command: 'travel.book-flight',
    input: { city: 'Rome' },
    compensateWith: 'travel.cancel-flight',
  },
];
