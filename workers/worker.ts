/**
 * The worker: takes a service's commands from the bus, runs them through the barrier, answers.
 *
 * Guards that a command is done with (its offset committed) only once its answer is on the bus, that one
 * saga's commands keep their order, and that nothing can stop a partition: neither a bad message nor a
 * long handler. A crash anywhere means that the unfinished commands are delivered again.
 */
import { SagaxError } from '../engine/core/errors.ts';
import {
  DEAD_LETTER_TEXT_LIMIT,
  encodeLetter,
  keptText,
  type DeadLetter,
} from '../engine/core/letters.ts';
import {
  MAX_BODY_BYTES,
  topicNames,
  type CommandBody,
  type ReplyBody,
} from '../engine/core/wire.ts';
import {
  type Bus,
  type BusBatch,
  type BusMessage,
  type Clock,
  type ReceivedMessage,
  type Subscription,
} from '../engine/ports.ts';
import { failed, type ExecuteDeps } from './barrier.ts';
import { Batches, canBatch } from './batches.ts';
import { execute, type ExecuteHow } from './execute.ts';
import { cutText, textOf } from './failures.ts';
import { handlersByName, type Handler, type Log } from './handlers.ts';
import { Lanes, type Task } from './lanes.ts';
import { deadLetterOf, decode, encodeReply, type Decoded, type ReplyRoute } from './messages.ts';
import { guarded, NO_METRICS, type WorkerMetrics } from './metrics.ts';
import { Pace } from './pace.ts';
import { Trust } from './trust.ts';
import type { ParticipantStore } from './ports.ts';
import { ReplyPublisher, type Published } from './replies.ts';
import { ABORT_GRACE_MS } from './run.ts';
import { Slots } from './slots.ts';
import { Watermark } from './watermark.ts';

export interface WorkerOptions<Tx> {
  /** The service's name: first part of its contracts' names, and of its topic `<prefix>.commands.<service>`. */
  service: string;
  store: ParticipantStore<Tx>;
  handlers: readonly Handler<NoInfer<Tx>>[];
  bus: Bus;
  clock: Clock;
  topicPrefix: string;
  log: Log;
  metrics?: WorkerMetrics;
  /**
   * Transactions and effect handlers that run at once in this process. Default 16. Quick transactional handlers
   * share a transaction, one after the other, when commands come faster than transactions end.
   */
  concurrency?: number;
  /** Commands held in memory, running ones included; beyond it the bus waits. Default 4 × concurrency. */
  maxInFlight?: number;
  /** Partitions of the command topic, fixed when it is first created. Default 16. */
  commandPartitions?: number;
  /** Consumer group. Default `sagax.<service>`. */
  group?: string;
  /** Longest time that a transactional handler may hold its transaction. Default 60 000 ms. */
  transactionTimeoutMs?: number;
  /** Whether parked messages are told to the engine too, so that its API lists and redrives them. Default: they are. */
  reportDeadLetters?: boolean;
}

export interface Worker {
  /**
   * On return the store is migrated, the topic is there and the worker takes commands; or it was drained or killed
   * meanwhile, and does nothing any more.
   */
  start(): Promise<void>;
  /**
   * Stops taking commands, lets the running ones end for at most `deadlineMs`, then aborts their signals and
   * leaves. What was not answered is delivered again, here or elsewhere. Never rejects.
   */
  drain(deadlineMs: number): Promise<void>;
  /** Stops as a crash would: handlers aborted, nothing more answered or committed. For tests and the simulator. */
  kill(): Promise<void>;
  /** Resolves when the worker has stopped, by drain or kill. */
  readonly closed: Promise<void>;
  /** Commands held in memory at the moment, running ones included. */
  readonly inFlight: number;
}

/** Most commands of a partition behind an unfinished one: they would all be delivered again after a crash. */
const MAX_SPAN = 5_000;
/** Tries to keep a dead letter; after them it is only in the log, since it must not stop the partition. */
const PARK_TRIES = 6;
const PARK_PAUSE_MS = 100;

/** @throws SagaxError CONFIG_INVALID when a handler is not of this service, or a command has two. */
export function createWorker<Tx>(options: WorkerOptions<Tx>): Worker {
  return new CommandWorker(options);
}

/** One assignment of a partition to us. */
class Assignment {
  readonly watermark = new Watermark();
  revoked = false;
  commit: ((nextOffset: bigint) => void) | null = null;
}

class CommandWorker<Tx> implements Worker {
  readonly closed: Promise<void>;
  readonly #options: WorkerOptions<Tx>;
  readonly #how: ExecuteHow<Tx>;
  readonly #metrics: WorkerMetrics;
  readonly #lanes: Lanes;
  readonly #replies: ReplyPublisher;
  readonly #assignments = new Map<string, Assignment>();
  readonly #routes = new WeakMap<CommandBody, ReplyRoute>();
  /** Aborted when running handlers are to end. */
  readonly #stop = new AbortController();
  /** Aborted when nothing may leave any more. */
  readonly #end = new AbortController();
  #resolveClosed: () => void = () => undefined;
  #subscription: Subscription | null = null;
  #draining = false;
  #heartbeats = 0;
  readonly #telling = new WeakSet<CommandBody>();
  readonly #released = Promise.withResolvers<void>();

  constructor(options: WorkerOptions<Tx>) {
    const { concurrency = 16, bus, clock, log } = options;
    const { maxInFlight = 4 * concurrency } = options;
    assertLimits({ concurrency, maxInFlight });
    this.#options = options;
    this.#metrics = guarded(options.metrics ?? NO_METRICS, log);
    this.#lanes = new Lanes(maxInFlight);
    this.#replies = new ReplyPublisher(bus, clock, log, this.#end.signal);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    const deps: ExecuteDeps<Tx> = {
      service: options.service,
      handlers: handlersByName(options.service, options.handlers),
      store: options.store,
      clock,
      log,
      metrics: this.#metrics,
      pace: new Pace(clock),
      trust: new Trust(),
      slots: new Slots(concurrency),
      transactionTimeoutMs: options.transactionTimeoutMs ?? 60_000,
      encode: (reply, command) => this.#encode(reply, command),
      sendHeartbeat: (reply, command) => this.#sendHeartbeat(reply, command),
    };
    const { store } = options;
    const batches = canBatch(store) ? new Batches(deps, store, this.#stop.signal) : null;
    this.#how = { ...deps, batches };
  }

  get inFlight(): number {
    return this.#lanes.inFlight;
  }

  async start(): Promise<void> {
    const { bus, service, store, topicPrefix, commandPartitions = 16 } = this.#options;
    if (this.#subscription !== null || this.#draining) {
      throw new SagaxError('CONFIG_INVALID', 'A worker starts once; create another one.');
    }
    const topic = topicNames(topicPrefix).commands(service);
    const isToldToStop = (): boolean => this.#draining;
    await store.start();
    if (!isToldToStop()) await store.shareCommits?.(bus);
    if (!isToldToStop()) await bus.ensureTopics([{ topic, partitions: commandPartitions }]);
    // It has closed already: nobody would take its member out of the group again.
    if (isToldToStop()) return;
    this.#subscription = bus.subscribe({
      group: this.#options.group ?? `sagax.${service}`,
      topics: [topic],
      onAssigned: async (_topic, partition) => {
        this.#assign(partition);
        return null;
      },
      onRevoked: async (_topic, partition) => this.#revoke(partition),
      onBatch: (batch) => this.#take(batch),
    });
    await this.#subscription.ready();
  }

  async drain(deadlineMs: number): Promise<void> {
    if (this.#draining) return this.closed;
    this.#draining = true;
    this.#lanes.wake();
    const { clock } = this.#options;
    const timers = new AbortController();
    const idle = this.#lanes.idle();
    const late = clock.sleep(deadlineMs, timers.signal).then(async (slept) => {
      if (!slept) return;
      this.#stop.abort();
      // Handlers that don't heed their signal are left behind; then the bus may still be away.
      const over = await clock.sleep(2 * ABORT_GRACE_MS, timers.signal);
      if (over) this.#end.abort();
    });
    await Promise.race([idle, late]);
    timers.abort();
    await this.#close();
  }

  async kill(): Promise<void> {
    this.#draining = true;
    this.#end.abort();
    this.#stop.abort();
    this.#lanes.wake();
    await this.#close();
  }

  async #close(): Promise<void> {
    this.#stop.abort();
    this.#end.abort();
    this.#released.resolve();
    try {
      await this.#subscription?.close();
    } catch (error) {
      this.#options.log.warn({ error: textOf(error) }, 'the subscription did not close cleanly');
    }
    this.#resolveClosed();
  }

  #assign(partition: number): Assignment {
    const assignment = new Assignment();
    this.#assignments.set(String(partition), assignment);
    return assignment;
  }

  /** Commands that wait are dropped, they come to the new owner; running ones end, and the barrier fences them. */
  #revoke(partition: number): void {
    const assignment = this.#assignments.get(String(partition));
    if (assignment === undefined) return;
    assignment.revoked = true;
    this.#assignments.delete(String(partition));
    this.#lanes.wake();
  }

  /** Takes a batch into the window; it returns when all of it was taken, long before it is done. */
  async #take(batch: BusBatch): Promise<void> {
    const assignment =
      this.#assignments.get(String(batch.partition)) ?? this.#assign(batch.partition);
    assignment.commit = (nextOffset) => batch.commit(nextOffset);
    const unwanted = (): boolean => this.#draining || assignment.revoked;
    for (const message of batch.messages) {
      if (unwanted()) break;
      const decoded = decode(message);
      const done = assignment.watermark.take(message.offset);
      const task: Task = {
        key: keyOf(message, decoded),
        wanted: () => !unwanted(),
        run: async () => {
          if (!(await this.#handle(message, decoded, task.wanted))) return;
          const nextOffset = done();
          if (nextOffset !== null && !assignment.revoked && !this.#end.signal.aborted) {
            assignment.commit?.(nextOffset);
          }
        },
      };
      const hasRoom = (): boolean => assignment.watermark.span <= MAX_SPAN;
      if (!(await this.#lanes.put(task, unwanted, hasRoom))) break;
    }
    // While draining no further batch is asked for: it would only be given back.
    if (this.#draining) await this.#released.promise;
  }

  /** @returns whether the message is done with. Never rejects. */
  async #handle(
    message: ReceivedMessage,
    decoded: Decoded,
    wanted: () => boolean,
  ): Promise<boolean> {
    try {
      return decoded.kind === 'command'
        ? await this.#run(decoded.command, decoded.route, message, wanted)
        : await this.#park(message, decoded);
    } catch (error) {
      // A defect of ours would come back with each delivery: it must not hold the partition up.
      this.#options.log.error({ error, offset: String(message.offset) }, 'a defect of the worker');
      return this.#keep(message, 'INTERNAL', cutText(textOf(error)));
    }
  }

  async #run(
    command: CommandBody,
    route: ReplyRoute,
    message: ReceivedMessage,
    wanted: () => boolean,
  ): Promise<boolean> {
    const labels = { service: this.#options.service, command: command.command, op: command.op };
    this.#routes.set(command, route);
    const execution = await execute(this.#how, command, this.#stop.signal, wanted);
    if (execution.kind === 'unfinished') return false;
    if (execution.kind === 'lost') {
      this.#metrics.handled('lost', labels);
      return true;
    }
    this.#metrics.handled(execution.reply.outcome, labels);
    if (execution.repeated) this.#metrics.duplicate(labels);
    return execution.published || this.#answer(execution.message, command, message);
  }

  async #answer(
    reply: BusMessage,
    command: CommandBody,
    message: ReceivedMessage,
  ): Promise<boolean> {
    const published = await this.#replies.publish(reply);
    if (typeof published === 'string') return published === 'published';
    const { code, reason } = published;
    const said = cutText(`The bus refused the reply: ${reason}`);
    // The command itself can be read: it is kept whole, to be redriven when the cause is mended.
    if (!(await this.#keep(message, code, said, message.value))) return false;
    if (code !== 'PAYLOAD_REFUSED') return true;
    // The asker can still be told. What was done stands, and a settlement would find it.
    const answer = failed(command, { code, message: said }, false);
    return (await this.#replies.publish(this.#encode(answer, command))) !== 'stopped';
  }

  async #park(message: ReceivedMessage, poison: Decoded & { kind: 'poison' }): Promise<boolean> {
    if (!(await this.#keep(message, poison.code, poison.reason))) return false;
    if (poison.answer === null) return !this.#end.signal.aborted;
    const { reply, route } = poison.answer;
    const { service, clock } = this.#options;
    const encoded = encodeReply(service, reply, route, clock.now());
    return (await this.#replies.publish(encoded)) !== 'stopped';
  }

  /**
   * @param text what the engine is told of the message's own
   * @returns whether the message is done with: kept here as well as may be, and told to the engine
   */
  async #keep(
    message: ReceivedMessage,
    code: string,
    reason: string,
    text = keptText(message.value, code),
  ): Promise<boolean> {
    const { clock, log, service, store } = this.#options;
    const place = { topic: message.topic, partition: message.partition };
    const fields = { service, code, reason, ...place, offset: String(message.offset) };
    this.#metrics.parked(code, { service });
    const letter = deadLetterOf(message, code, reason, clock.now());
    for (let tries = 1; tries <= PARK_TRIES; tries += 1) {
      try {
        await store.park(letter);
        log.warn(fields, 'a message was parked');
        break;
      } catch (error) {
        log.error({ ...fields, error: textOf(error) }, 'a dead letter could not be kept');
        await clock.sleep(PARK_PAUSE_MS * 2 ** (tries - 1), this.#stop.signal);
      }
    }
    return this.#report({ ...letter, value: text });
  }

  /** Tells the engine. An inbox that refuses the report must not hold the partition up: the letter is kept here. */
  async #report(letter: DeadLetter): Promise<boolean> {
    const { log, service, topicPrefix, reportDeadLetters = true } = this.#options;
    if (!reportDeadLetters) return true;
    // It belongs to no saga, and any partition will do: this one there always is.
    const place = { topic: topicNames(topicPrefix).inbox, partition: 0 };
    const told = await this.#tell({ ...place, ...encodeLetter(service, letter) });
    if (typeof told === 'string') return told === 'published';
    const { value } = letter;
    if (told.code === 'PAYLOAD_REFUSED' && (value?.length ?? 0) > DEAD_LETTER_TEXT_LIMIT) {
      // Better cut than not at all.
      return this.#report({ ...letter, value: keptText(value, told.code) });
    }
    log.error(
      { service, ...place, ...told },
      'a dead letter is kept here only: its report was refused',
    );
    return true;
  }

  /** An engine does not read a longer one, whatever the bus takes. */
  #tell(report: BusMessage): Promise<Published> {
    const bytes = Buffer.byteLength(report.value);
    if (bytes <= MAX_BODY_BYTES) return this.#replies.publish(report);
    const reason = `A report of ${bytes} bytes is over the limit of ${MAX_BODY_BYTES}.`;
    return Promise.resolve({ code: 'PAYLOAD_REFUSED', reason });
  }

  #encode(reply: ReplyBody, command: CommandBody): ReturnType<typeof encodeReply> {
    const { service, clock } = this.#options;
    return encodeReply(service, reply, this.#routeOf(command), clock.now());
  }

  #routeOf(command: CommandBody): ReplyRoute {
    return this.#routes.get(command) ?? { ...command.replyTo, traceparent: undefined };
  }

  /** At most one heartbeat a command waits for the bus: when the bus is away they don't pile up. */
  #sendHeartbeat(reply: ReplyBody, command: CommandBody): void {
    if (this.#telling.has(command)) return;
    this.#telling.add(command);
    const { service, clock, log } = this.#options;
    try {
      this.#heartbeats += 1;
      const route = this.#routeOf(command);
      const message = encodeReply(service, reply, route, clock.now(), this.#heartbeats);
      void this.#replies.publish(message).then(() => this.#telling.delete(command));
    } catch (error) {
      this.#telling.delete(command);
      log.warn({ error: textOf(error), commandId: command.commandId }, 'a heartbeat was not sent');
    }
  }
}

function keyOf(message: ReceivedMessage, decoded: Decoded): string {
  if (decoded.kind === 'command') return decoded.command.sagaId;
  return message.key ?? `${message.partition}#${message.offset}`;
}

function assertLimits(limits: { concurrency: number; maxInFlight: number }): void {
  for (const [name, value] of Object.entries(limits)) {
    if (Number.isInteger(value) && value >= 1) continue;
    throw new SagaxError('CONFIG_INVALID', `${name} is ${value}; it must be a whole number ≥ 1.`);
  }
}
