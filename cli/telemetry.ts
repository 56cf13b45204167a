/** Log lines by pino and figures by prom-client, behind the runtime's own port. */
import { pino, type Logger as PinoLogger } from 'pino';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { CounterName, HistogramName, Telemetry } from '../engine/runtime/telemetry.ts';
import type { WorkerMetrics } from '../workers/metrics.ts';

const COUNTERS: { readonly [K in CounterName]: { help: string; labels?: readonly string[] } } = {
  inputs_accepted_total: { help: 'Inputs that changed a saga.' },
  inputs_ignored_total: { help: 'Repeats and late answers, which changed nothing.' },
  inputs_skipped_total: { help: "Inbox messages below the shard's offset, applied before." },
  dead_letters_total: {
    help: 'Messages parked because they can not be applied.',
    labels: ['code'],
  },
  events_appended_total: { help: 'Events appended to the log.' },
  messages_published_total: { help: 'Commands and domain events put on the bus.' },
  messages_forwarded_total: { help: 'Inbox messages that had come to the wrong partition.' },
  publish_failures_total: { help: 'Publications that failed and were tried again.' },
  shards_taken_total: { help: 'Shards taken over by this node.' },
  shards_lost_total: { help: 'Shards lost by this node.', labels: ['reason'] },
  snapshots_discarded_total: { help: 'Snapshots that did not fit their hashes.' },
  replay_divergences_total: { help: 'Sagas stopped because their log could not be replayed.' },
  sagas_ended_total: { help: 'Sagas that ended.', labels: ['status'] },
  sagas_stuck_total: { help: 'Times that a saga became stuck and needs a person.' },
};

const HISTOGRAMS: { readonly [K in HistogramName]: { help: string; buckets: number[] } } = {
  batch_messages: {
    help: 'Inbox messages in a batch.',
    buckets: [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
  },
  append_seconds: {
    help: 'Time of an append to the event log.',
    buckets: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5],
  },
  timer_lateness_seconds: {
    help: 'How late a due timer was taken up.',
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30],
  },
};

export interface ProcessTelemetry {
  log: PinoLogger;
  registry: Registry;
  telemetry: Telemetry;
  workerMetrics: WorkerMetrics;
  /** A gauge that is read whenever the figures are asked for. */
  gauge(name: string, help: string, read: () => number): void;
}

export function createTelemetry(level: string): ProcessTelemetry {
  const log = pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: errorFields, error: errorFields },
  });
  const registry = new Registry();
  const counters = mapValues(
    COUNTERS,
    (name, { help, labels }) =>
      new Counter({
        name: `sagax_${name}`,
        help,
        labelNames: [...(labels ?? [])],
        registers: [registry],
      }),
  );
  const histograms = mapValues(
    HISTOGRAMS,
    (name, { help, buckets }) =>
      new Histogram({ name: `sagax_${name}`, help, buckets, registers: [registry] }),
  );
  return {
    log,
    registry,
    telemetry: {
      log,
      count: (name, n = 1, labels = {}) => counters[name].inc(labels, n),
      observe: (name, value) => histograms[name].observe(value),
    },
    workerMetrics: createWorkerMetrics(registry),
    gauge: (name, help, read) =>
      void new Gauge({
        name: `sagax_${name}`,
        help,
        registers: [registry],
        collect() {
          this.set(read());
        },
      }),
  };
}

/** Of an error only what tells: drivers hang connections, with all that is in them, on theirs. */
function errorFields(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) };
  const { code } = error as { code?: unknown };
  const cause = error.cause instanceof Error ? { cause: errorFields(error.cause) } : {};
  return { type: error.name, code, message: error.message, stack: error.stack, ...cause };
}

function createWorkerMetrics(registry: Registry): WorkerMetrics {
  const labelNames = ['service', 'command', 'op'];
  const registers = [registry];
  const handled = new Counter({
    name: 'sagax_commands_handled_total',
    help: 'Commands dealt with by this process.',
    labelNames: [...labelNames, 'outcome'],
    registers,
  });
  const duplicates = new Counter({
    name: 'sagax_commands_repeated_total',
    help: 'Commands that had been answered before; the stored answer went out again.',
    labelNames,
    registers,
  });
  const parked = new Counter({
    name: 'sagax_commands_parked_total',
    help: 'Messages on a command topic that could not be read.',
    labelNames: ['service', 'code'],
    registers,
  });
  const seconds = new Histogram({
    name: 'sagax_handler_seconds',
    help: 'Time that a handler ran.',
    labelNames,
    buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 120],
    registers,
  });
  return {
    handled: (outcome, labels) => handled.inc({ ...labels, outcome }),
    duplicate: (labels) => duplicates.inc({ ...labels }),
    parked: (code, { service }) => parked.inc({ service, code }),
    handlerMs: (ms, labels) => seconds.observe({ ...labels }, ms / 1000),
  };
}

function mapValues<K extends string, V, R>(
  table: { readonly [P in K]: V },
  map: (key: K, value: V) => R,
): { [P in K]: R } {
  return Object.fromEntries(
    Object.entries<V>(table).map(([key, value]) => [key, map(key as K, value)]),
  ) as { [P in K]: R };
}
