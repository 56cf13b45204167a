/**
 * A bus, topics and workers around a store: what a worker test puts commands into and reads replies from.
 */
import { MemoryBroker, type BrokerOptions } from '../../../engine/memory/broker.ts';
import { memoryBus } from '../../../engine/memory/bus.ts';
import { PlainHost } from '../../../engine/memory/host.ts';
import { isLetter } from '../../../engine/core/letters.ts';
import { replyBodySchema, type CommandBody, type ReplyBody } from '../../../engine/core/wire.ts';
import type { Bus, BusMessage, Clock, ReceivedMessage } from '../../../engine/ports.ts';
import type { Handler } from '../../../workers/handlers.ts';
import type { WorkerMetrics } from '../../../workers/metrics.ts';
import type { ParticipantStore } from '../../../workers/ports.ts';
import { createWorker, type Worker, type WorkerOptions } from '../../../workers/worker.ts';
import { COMMANDS, INBOX, messageFor, PARTITIONS, PREFIX } from './contracts.ts';
import { keptLog, type LogLine } from './logs.ts';

export interface Counts {
  handled: string[];
  duplicates: number;
  parked: string[];
  runs: number;
}

export interface Bench {
  readonly broker: MemoryBroker;
  readonly lines: LogLine[];
  readonly counts: Counts;
  /** Starts a worker; `publish` stands before the bus's own, to fail or hold a reply. */
  start<Tx>(
    store: ParticipantStore<Tx>,
    handlers: Handler<NoInfer<Tx>>[],
    options?: Partial<WorkerOptions<Tx>> & { publish?: Bus['publish'] },
  ): Promise<Worker>;
  send(...commands: CommandBody[]): void;
  sendRaw(message: BusMessage | Omit<ReceivedMessage, 'offset'>): void;
  /** The first `count` replies that are no heartbeats, as soon as they are there. */
  replies(count: number): Promise<ReplyBody[]>;
  /** The first reply to a command that is no heartbeat, as soon as it is there. */
  replyTo(commandId: string): Promise<ReplyBody>;
  heartbeats(): ReplyBody[];
  rawReplies(): readonly ReceivedMessage[];
  /** Offset that the group has committed, by partition. */
  committed(partition: number, group?: string): bigint | null;
  close(): Promise<void>;
}

export async function openBench(clock: Clock, options: BrokerOptions = {}): Promise<Bench> {
  const broker = new MemoryBroker(options);
  broker.ensureTopics([{ topic: INBOX, partitions: PARTITIONS }]);
  broker.ensureTopics([{ topic: COMMANDS, partitions: PARTITIONS }]);
  const log = keptLog();
  const counts: Counts = { handled: [], duplicates: 0, parked: [], runs: 0 };
  const metrics: WorkerMetrics = {
    handled: (outcome) => void counts.handled.push(outcome),
    duplicate: () => void (counts.duplicates += 1),
    parked: (code) => void counts.parked.push(code),
    handlerMs: () => void (counts.runs += 1),
  };
  const workers: Worker[] = [];
  let watchers: (() => void)[] = [];
  const [answers, beats]: [ReplyBody[], ReplyBody[]] = [[], []];
  const told = (messages: readonly BusMessage[]): void => {
    for (const message of messages) {
      if (message.topic !== INBOX || isLetter(message)) continue;
      const reply = replyBodySchema.parse(JSON.parse(message.value));
      (reply.outcome === 'heartbeat' ? beats : answers).push(reply);
    }
    const woken = watchers;
    watchers = [];
    for (const watcher of woken) watcher();
  };
  const published = (): Promise<void> => new Promise((resolve) => watchers.push(resolve));
  return {
    broker,
    lines: log.lines,
    counts,
    start: async (store, handlers, options = {}) => {
      const { publish, ...rest } = options;
      const bus = memoryBus(broker, new PlainHost(clock), { onPublished: told });
      const worker = createWorker({
        service: 'shop',
        topicPrefix: PREFIX,
        commandPartitions: PARTITIONS,
        store,
        handlers,
        bus: publish === undefined ? bus : { ...bus, publish: wrap(bus, publish) },
        clock,
        log,
        metrics,
        ...rest,
      });
      workers.push(worker);
      await worker.start();
      return worker;
    },
    send: (...commands) => broker.append(commands.map((command) => messageFor(command))),
    sendRaw: (message) => broker.appendRaw(message),
    replies: async (count) => {
      while (answers.length < count) await published();
      return [...answers];
    },
    replyTo: async (commandId) => {
      for (;;) {
        const reply = answers.find((one) => one.commandId === commandId);
        if (reply !== undefined) return reply;
        await published();
      }
    },
    heartbeats: () => beats,
    rawReplies: () => broker.record(INBOX),
    committed: (partition, group = 'sagax.shop') =>
      broker.committed(group, { topic: COMMANDS, partition }),
    close: async () => {
      await Promise.all(workers.map((worker) => worker.kill()));
    },
  };
}

function wrap(bus: Bus, publish: Bus['publish']): Bus['publish'] {
  return async (messages) => {
    await publish(messages);
    await bus.publish(messages);
  };
}
