/**
 * For tests of the runtime: ports that can be made to fail, hang or lose an answer, small definitions, and
 * one shard on memory ports in a time that the test moves.
 */
import { assign, setup } from 'xstate';
import type { decide as coreDecide } from '../../engine/core/decide.ts';
import { CommitUnknownError, SagaxError } from '../../engine/core/errors.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { CE_TYPES, encodeMessage } from '../../engine/core/wire.ts';
import { ManualClock, openMemory, settle } from '../../engine/memory/index.ts';
import type { Bus, EventLog, ReceivedMessage, ShardLeases } from '../../engine/ports.ts';
import { createRegistry } from '../../engine/runtime/registry.ts';
import { Shard, type LossReason } from '../../engine/runtime/shard.ts';
import type { CounterName, Telemetry } from '../../engine/runtime/telemetry.ts';
import { actors, define, ends } from '../core/machines.ts';

// ---------------------------------------------------------------- faults

type Call = () => Promise<unknown>;
export type Fate = (call: Call, args: unknown[]) => Promise<unknown>;

export const unavailable = (): SagaxError =>
  new SagaxError('DATABASE_UNAVAILABLE', 'The database does not answer.');
export const busAway = (): SagaxError =>
  new SagaxError('BUS_UNAVAILABLE', 'The bus does not answer.');

/** Nothing is done. */
export function failing(makeError: () => Error = unavailable): Fate {
  return () => {
    throw makeError();
  };
}
/** It is done, and its answer is lost. */
export const answerLost: Fate = async (call) => {
  await call();
  throw new CommitUnknownError('The connection broke.');
};
/** It is not done, and nobody knows. */
export const unknownNotDone: Fate = () =>
  Promise.reject(new CommitUnknownError('The connection broke.'));

export interface Held {
  fate: Fate;
  /** Resolves when the call has been made; it goes on when `release` is called. */
  reached: Promise<void>;
  release: () => void;
}
export function held(): Held {
  const reached = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const fate: Fate = async (call) => {
    reached.resolve();
    await go.promise;
    return call();
  };
  return { fate, reached: reached.promise, release: () => go.resolve() };
}

/** A fate that throws is a call that rejects. */
async function run(fate: Fate, call: Call, args: unknown[]): Promise<unknown> {
  return fate(call, args);
}

/** A port whose next calls can be given a fate; by method. */
export class Faults<T extends object> {
  readonly port: T;
  readonly calls = new Map<string, number>();
  readonly #next = new Map<string, Fate[]>();
  readonly #always = new Map<string, Fate>();

  constructor(port: T) {
    this.port = new Proxy(port, {
      get: (target, name) => {
        const value = Reflect.get(target, name, target) as unknown;
        if (typeof value !== 'function' || typeof name !== 'string') return value;
        return (...args: unknown[]) => {
          const call = (): Promise<unknown> =>
            (value as (...given: unknown[]) => Promise<unknown>).apply(target, args);
          this.calls.set(name, (this.calls.get(name) ?? 0) + 1);
          const fate = this.#next.get(name)?.shift() ?? this.#always.get(name);
          return fate === undefined ? call() : run(fate, call, args);
        };
      },
    });
  }

  /** The next calls of `method`, in order. */
  next(method: keyof T & string, ...fates: Fate[]): void {
    this.#next.set(method, [...(this.#next.get(method) ?? []), ...fates]);
  }
  always(method: keyof T & string, fate: Fate): void {
    this.#always.set(method, fate);
  }
  heal(): void {
    this.#next.clear();
    this.#always.clear();
  }
  count(method: keyof T & string): number {
    return this.calls.get(method) ?? 0;
  }
}

// ---------------------------------------------------------------- telemetry

export class Recorder implements Telemetry {
  readonly counts = new Map<CounterName, number>();
  readonly labels: { name: CounterName; labels: { [name: string]: string } }[] = [];
  readonly lines: { level: string; message: string; fields: object }[] = [];
  readonly log = {
    debug: () => undefined,
    info: (fields: object, message: string) => this.#line('info', fields, message),
    warn: (fields: object, message: string) => this.#line('warn', fields, message),
    error: (fields: object, message: string) => this.#line('error', fields, message),
  };
  count = (name: CounterName, n = 1, labels: { [name: string]: string } = {}): void => {
    this.counts.set(name, (this.counts.get(name) ?? 0) + n);
    this.labels.push({ name, labels });
  };
  observe = (): void => undefined;

  of(name: CounterName): number {
    return this.counts.get(name) ?? 0;
  }
  #line(level: string, fields: object, message: string): void {
    this.lines.push({ level, message, fields });
  }
}

// ---------------------------------------------------------------- definitions

const built = setup({ actors });

/** One step, `do-a`, then done. */
export const job = define(
  built.createMachine({
    initial: 'working',
    states: {
      working: { invoke: { src: 'a', input: {}, onDone: 'done', onError: 'undoing' } },
      ...ends,
    } as never,
  }),
  { name: 'job' },
);

/** Waits for `input.ms`, emits nothing, and is done; `later` makes it wait again, `boom` throws. */
export const alarm = define(
  setup({
    actors,
    delays: { ms: ({ context }) => (context as { ms: number }).ms },
    actions: {
      count: assign(({ context }: { context: unknown }) => ({
        told: ((context as { told?: number }).told ?? 0) + 1,
      })) as never,
      throwing: assign(() => {
        throw new Error('a bug of the definition');
      }) as never,
    },
  }).createMachine({
    context: ({ input }) => ({ ms: (input as { ms: number }).ms, told: 0 }) as never,
    initial: 'waiting',
    states: {
      waiting: {
        after: { ms: 'done' },
        on: {
          later: { target: 'waiting', reenter: true },
          tell: { actions: 'count' as never },
          boom: { actions: 'throwing' as never },
        },
      },
      ...ends,
      undoing: { type: 'final' },
    } as never,
  }),
  { name: 'alarm', signals: ['later', 'tell', 'boom'] },
);

// ---------------------------------------------------------------- messages

export const TOPOLOGY = { topicPrefix: 't', commandPartitions: 2 };
export const INBOX = 't.inbox';

type InputType = 'start' | 'signal' | 'cancel' | 'operator' | 'reply';

export function inputOf(
  type: InputType,
  body: { sagaId: string; [field: string]: unknown },
): { key: string; headers: { [name: string]: string }; value: string } {
  return encodeMessage(
    {
      type: CE_TYPES[type],
      id: `${type}-${body.sagaId}`,
      source: '/test',
      at: 0,
      sagaId: body.sagaId,
    },
    { namespace: 'default', ...body },
  );
}

export const startOf = (sagaId: string, definition = 'job', input: object = {}) =>
  inputOf('start', { sagaId, definition, definitionVersion: 1, input });
export const doneOf = (sagaId: string, n = 1) =>
  inputOf('reply', { sagaId, commandId: `${sagaId}.${n}`, outcome: 'succeeded', output: {} });
let signals = 0;
export const signalOf = (sagaId: string, name: string) =>
  inputOf('signal', { sagaId, signalId: `s${++signals}`, name, payload: {} });

/** `count` saga ids that belong to a shard. */
export function idsIn(shard: number, shardCount: number, count: number, from = 1_000): string[] {
  const ids: string[] = [];
  for (let id = from; ids.length < count; id++)
    if (partitionOf(String(id), shardCount) === shard) ids.push(String(id));
  return ids;
}

// ---------------------------------------------------------------- one shard

export interface ShardRig {
  clock: ManualClock;
  memory: ReturnType<typeof openMemory>;
  log: Faults<EventLog>;
  bus: Faults<Bus>;
  leases: Faults<ShardLeases>;
  telemetry: Recorder;
  losses: LossReason[];
  /** Takes the shard (from whoever has it) and opens it. */
  open(options?: {
    definitions?: AnyDefinition[];
    capacity?: number;
    decide?: typeof coreDecide;
    log?: EventLog;
  }): Promise<Shard>;
  /** The next messages of the partition, as the bus would give them. */
  next(...messages: ReturnType<typeof inputOf>[]): ReceivedMessage[];
  types(sagaId: string): string[];
  commands(): string[];
}

/** Shard 0 of `shards` (default 1), in a time that stands still. */
export async function shardRig(
  shards = 1,
  options: { busInLog?: boolean } = {},
): Promise<ShardRig> {
  const clock = new ManualClock();
  const memory = openMemory({ shards, clock, ...options });
  const log = new Faults(memory.eventLog);
  const bus = new Faults(memory.bus);
  const leases = new Faults(memory.shardLeases);
  const telemetry = new Recorder();
  const losses: LossReason[] = [];
  let offset = 0n;
  await memory.bus.ensureTopics([
    { topic: INBOX, partitions: shards },
    { topic: 't.events', partitions: 2 },
    { topic: 't.commands.svc', partitions: 2 },
  ]);
  return {
    clock,
    memory,
    log,
    bus,
    leases,
    telemetry,
    losses,
    open: async (options = {}) => {
      const lease = await leases.port.acquire(0, 'owner', 10_000, { steal: true });
      if (lease === null) throw new Error('The shard is leased to another.');
      const shard = new Shard(
        {
          eventLog: options.log ?? log.port,
          bus: bus.port,
          clock,
          registry: createRegistry(options.definitions ?? [job, alarm]),
          telemetry,
          topology: TOPOLOGY,
          shardCount: shards,
          cacheCapacity: options.capacity ?? 100,
          ...(options.decide === undefined ? {} : { decide: options.decide }),
        },
        lease,
        (reason) => losses.push(reason),
      );
      shard.open();
      await settle();
      return shard;
    },
    next: (...messages) =>
      messages.map((message) => ({ topic: INBOX, partition: 0, offset: offset++, ...message })),
    types: (sagaId) => memory.db.stream(sagaId).map(({ event }) => event.type),
    commands: () =>
      memory.broker
        .record('t.commands.svc')
        .map(({ value }) => (JSON.parse(value ?? '{}') as { commandId: string }).commandId),
  };
}

/** Lets everything run that can without time passing, until it holds. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  for (let round = 0; round < 5_000; round++) {
    if (holds()) return;
    await settle();
  }
  throw new Error(`never came true: ${what}`);
}
