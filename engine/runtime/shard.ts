/**
 * One shard while it is ours: takes inputs in order, decides, and commits batch after batch.
 *
 * Guards I1, I2 and I4: one writer, one batch at a time, each batch in one fenced append that also moves
 * the input offset. While a batch commits the next one gathers. A crash loses only what was not
 * committed, and that comes again from the inbox. When the fence says no, all memory is dropped.
 */
import { decide as coreDecide } from '../core/decide.ts';
import { CommitUnknownError, FencedError, SagaxError } from '../core/errors.ts';
import type { LoggedEvent } from '../core/events.ts';
import type {
  Appended,
  BusMessage,
  Clock,
  EventLog,
  ReceivedMessage,
  ShardLease,
} from '../ports.ts';
import { BatchBuilder } from './batch.ts';
import { NewSagas } from './new-sagas.ts';
import { Relay, type RelayDeps } from './relay.ts';
import type { Registry } from './registry.ts';
import { SagaStore } from './saga-store.ts';
import type { Telemetry } from './telemetry.ts';
import { WakeUps } from './wake-ups.ts';

/** Wake-ups taken into one batch, so that a herd of timers does not block replies. */
const WAKES_PER_BATCH = 200;
/** Inbox text (UTF-16 units) in one batch: with what its events repeat of it, an append stays within tens of MB. */
const BATCH_TEXT_LIMIT = 4_000_000;
/** Pause before a batch that failed is tried again. */
const APPEND_RETRY_MS = 250;
/** How long a shard that closes waits for its batch and its relay, when the database or the bus is away. */
const CLOSE_LIMIT_MS = 5_000;
/** How long an advanced `publishedSeq` may wait for a batch to ride on. */
const PUBLISHED_FLUSH_MS = 1_000;
/** No saga has this id; reading it shows whether the log can be read at all. */
const PROBE_ID = '1';

export interface ShardDeps extends RelayDeps {
  eventLog: EventLog;
  clock: Clock;
  registry: Registry;
  telemetry: Telemetry;
  shardCount: number;
  /** Most live sagas kept in memory by this shard. */
  cacheCapacity: number;
  /** The pure core; replaced only by the simulator's deliberate breaks. */
  decide?: typeof coreDecide;
}

/** Why a shard stopped: fenced by another owner, the outcome of a commit is not known, or memory is behind the log. */
export type LossReason = 'fenced' | 'unknown' | 'stale';

interface Work {
  messages: readonly ReceivedMessage[];
  done: (result: { resumeAt: bigint } | undefined) => void;
  failed: (error: Error) => void;
}

export class Shard {
  readonly number: number;
  readonly epoch: number;
  readonly #deps: ShardDeps;
  readonly #relay: Relay;
  readonly #store: SagaStore;
  readonly #newSagas: NewSagas;
  readonly #wakeUps: WakeUps;
  readonly #onLost: (reason: LossReason) => void;
  readonly #stop = new AbortController();
  /** Where messages were missing and have been asked for once. */
  #gapAskedFrom: bigint | null = null;
  #nextOffset: bigint;
  #nextSeq: number;
  #persistedSeq: number;
  #work: Work[] = [];
  #running: Promise<void> | null = null;
  #recovery: Promise<void> = Promise.resolve();
  #timers: Promise<void> | null = null;
  #flushing: Promise<void> | null = null;

  constructor(deps: ShardDeps, lease: ShardLease, onLost: (reason: LossReason) => void) {
    this.#deps = deps;
    this.number = lease.shard;
    this.epoch = lease.epoch;
    this.#nextOffset = lease.nextOffset;
    this.#nextSeq = lease.nextSeq;
    this.#persistedSeq = lease.publishedSeq;
    this.#onLost = onLost;
    this.#relay = new Relay(deps, lease.shard, lease.publishedSeq, () => this.#noteProgress());
    this.#store = new SagaStore({ ...deps, capacity: deps.cacheCapacity });
    this.#newSagas = new NewSagas(deps.clock.now());
    this.#wakeUps = new WakeUps(deps, lease.shard, () => this.#kick());
  }

  /** Offset of the next inbox message to apply. */
  get nextOffset(): bigint {
    return this.#nextOffset;
  }

  get isOpen(): boolean {
    return !this.#stop.signal.aborted;
  }

  /** Live sagas in memory. */
  get cachedSagas(): number {
    return this.#store.size;
  }

  /**
   * Begins to publish what the previous owner left, and to look for due timers. Neither is waited for: with
   * the bus away the first may take long, and the shard must be renewed and can be closed meanwhile.
   */
  open(): void {
    this.#recovery = this.#relay.recover(this.#nextSeq - 1);
    this.#timers = this.#wakeUps.run();
  }

  /**
   * Applies messages of the shard's inbox partition. Resolves when their effect is committed.
   * @returns where to go on reading, when the messages are not the next ones
   * @throws when the shard is lost or closed meanwhile; the messages come again
   */
  async handle(messages: readonly ReceivedMessage[]): Promise<{ resumeAt: bigint } | undefined> {
    for (const part of partsOf(messages)) {
      const answer = await this.#enqueue(part);
      if (answer !== undefined) return answer;
    }
    return undefined;
  }

  #enqueue(messages: readonly ReceivedMessage[]): Promise<{ resumeAt: bigint } | undefined> {
    if (!this.isOpen) return Promise.reject(this.#lostError());
    return new Promise((resolve, reject) => {
      this.#work.push({ messages, done: resolve, failed: reject });
      this.#kick();
    });
  }

  /** Ends the running batch, publishes what is committed if the bus takes it, and stops. */
  async close(): Promise<void> {
    if (this.isOpen) {
      const ended = Promise.resolve(this.#running).then(() => this.#relay.flush());
      const limit = new AbortController();
      const stop = (): void => limit.abort();
      this.#stop.signal.addEventListener('abort', stop, { once: true });
      await Promise.race([ended, this.#deps.clock.sleep(CLOSE_LIMIT_MS, limit.signal)]);
      limit.abort();
      if (this.isOpen) await this.#flushPublished();
    }
    this.#shutDown();
    await Promise.all([this.#running, this.#recovery, this.#timers, this.#flushing]);
  }

  /** Stops at once: what is under way is fenced, or comes again. */
  lose(reason: LossReason): void {
    if (!this.isOpen) return;
    this.#shutDown();
    this.#deps.telemetry.count('shards_lost_total', 1, { reason });
    this.#onLost(reason);
  }

  #shutDown(): void {
    this.#stop.abort();
    this.#wakeUps.stop();
    this.#relay.stop();
    for (const work of this.#work) work.failed(this.#lostError());
    this.#work = [];
  }

  #lostError(): Error {
    return new FencedError(`Shard ${this.number} is no longer held under epoch ${this.epoch}.`);
  }

  #kick(): void {
    if (this.isOpen) this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    while (this.isOpen && (this.#work.length > 0 || this.#wakeUps.dueCount > 0)) {
      const work = this.#takeWork();
      const wakes = this.#wakeUps.take(WAKES_PER_BATCH);
      try {
        const resumeAt = await this.#applyAgain(
          work.flatMap(({ messages }) => messages),
          wakes,
        );
        for (const { done } of work) done(resumeAt === null ? undefined : { resumeAt });
      } catch (error) {
        for (const { failed } of work) failed(error as Error);
        if (!this.isOpen) break;
        await this.#failed(error, wakes);
      }
    }
    this.#running = null;
  }

  async #failed(error: unknown, wakes: readonly string[]): Promise<void> {
    if (error instanceof FencedError) return this.lose('fenced');
    if (error instanceof CommitUnknownError) return this.lose('unknown');
    // The log refused the batch as out of order: trying it again from the same memory could never end.
    if (error instanceof SagaxError && error.code === 'INTERNAL') {
      this.#deps.telemetry.log.error({ shard: this.number, err: error }, 'a batch was refused');
      return this.lose('stale');
    }
    // Nothing was written (a read failed, say): the bus brings the messages again.
    this.#wakeUps.putBack(wakes);
    this.#deps.telemetry.log.error(
      { shard: this.number, err: error },
      'a batch failed; it is tried again',
    );
    await this.#deps.clock.sleep(APPEND_RETRY_MS, this.#stop.signal);
  }

  #takeWork(): Work[] {
    const taken: Work[] = [];
    let text = 0;
    while (this.#work.length > 0 && text < BATCH_TEXT_LIMIT) {
      const next = this.#work.shift();
      if (next === undefined) break;
      for (const message of next.messages) text += textOf(message);
      taken.push(next);
    }
    return taken;
  }

  /**
   * One batch, a second time as it is after a pause when it failed with an error that has no code: what fails by
   * chance must not cost a good message.
   * @returns where to go on reading, or null
   */
  async #applyAgain(
    messages: readonly ReceivedMessage[],
    wakes: readonly string[],
  ): Promise<bigint | null> {
    try {
      return await this.#batch(messages, wakes);
    } catch (error) {
      if (!this.isOpen || error instanceof SagaxError) throw error;
      this.#deps.telemetry.log.warn(
        { shard: this.number, err: error },
        'a batch failed; it is tried once more',
      );
      await this.#deps.clock.sleep(APPEND_RETRY_MS, this.#stop.signal);
      return this.#applyOrSplit(messages, wakes);
    }
  }

  /**
   * One batch; when something in it can't be read or written (not a failure of the database, those have
   * codes), the halves of it, until the culprit stands alone and is given up. So one bad input never
   * stops a shard (I12).
   * @returns where to go on reading, or null
   */
  async #applyOrSplit(
    messages: readonly ReceivedMessage[],
    wakes: readonly string[],
  ): Promise<bigint | null> {
    try {
      return await this.#batch(messages, wakes);
    } catch (error) {
      if (!this.isOpen || error instanceof SagaxError) throw error;
      if (messages.length + wakes.length > 1) return this.#applyHalves(messages, wakes);
      // If nothing can be read or written at all, it is not this input's fault.
      await this.#deps.eventLog.load([PROBE_ID]);
      return await this.#batch(messages, wakes, error as Error);
    }
  }

  async #applyHalves(
    messages: readonly ReceivedMessage[],
    wakes: readonly string[],
  ): Promise<bigint | null> {
    const isMixed = messages.length > 0 && wakes.length > 0;
    const middle = isMixed ? messages.length : Math.ceil(messages.length / 2);
    const cut = isMixed ? 0 : Math.ceil(wakes.length / 2);
    const resumeAt = await this.#applyOrSplit(messages.slice(0, middle), wakes.slice(0, cut));
    if (resumeAt !== null) {
      this.#wakeUps.putBack(wakes.slice(cut));
      return resumeAt;
    }
    return this.#applyOrSplit(messages.slice(middle), wakes.slice(cut));
  }

  /** @param giveUp set when the only input of the batch can't be applied, with what was thrown */
  async #batch(
    messages: readonly ReceivedMessage[],
    wakes: readonly string[],
    giveUp?: Error,
  ): Promise<bigint | null> {
    const { clock, eventLog, telemetry } = this.#deps;
    await this.#recovery;
    await this.#relay.room();
    // Whoever waited for the bus may have been closed meanwhile.
    if (!this.isOpen) throw this.#lostError();
    const builder = new BatchBuilder({
      ...this.#deps,
      decide: this.#deps.decide ?? coreDecide,
      shard: this.number,
      epoch: this.epoch,
      nextOffset: this.#nextOffset,
      nextSeq: this.#nextSeq,
      store: this.#store,
      newSagas: this.#newSagas,
      gapAskedFrom: this.#gapAskedFrom,
      now: clock.now(),
    });
    if (giveUp === undefined) await builder.apply(messages, wakes);
    else builder.giveUp(messages, wakes, giveUp);
    await builder.forward();
    if (!builder.isEmpty) {
      const publishedSeq = this.#relay.publishedSeq;
      const batch = builder.build(publishedSeq > this.#persistedSeq ? publishedSeq : undefined);
      const messages = this.#messagesOf(batch.events);
      const begun = clock.monotonic();
      const { published } = await this.#append(() =>
        eventLog.append(messages === null ? batch : { ...batch, messages }),
      );
      telemetry.observe('append_seconds', (clock.monotonic() - begun) / 1000);
      telemetry.observe('batch_messages', builder.messageCount);
      telemetry.count('events_appended_total', batch.events.length);
      this.#persistedSeq = Math.max(batch.publishedSeq ?? 0, this.#persistedSeq);
      this.#committed(builder);
      if (published) this.#wentOut(messages?.().length ?? 0);
      else this.#relay.offer(batch.events, this.#nextSeq - 1);
    }
    // Only now: a batch that failed has asked for nothing.
    this.#gapAskedFrom = builder.resumeAt ?? this.#gapAskedFrom;
    return builder.resumeAt;
  }

  #committed(builder: BatchBuilder): void {
    this.#nextOffset = builder.nextOffset;
    this.#nextSeq = builder.nextSeq;
    builder.keep();
    for (const wakeup of builder.wakeups) this.#wakeUps.note(wakeup.sagaId, wakeup.dueAt);
  }

  #wentOut(messages: number): void {
    this.#persistedSeq = this.#nextSeq - 1;
    this.#relay.wentOut(messages, this.#persistedSeq);
  }

  /** Made when a log asks for them, and once. @returns null when there are none to go out with the commit */
  #messagesOf(events: readonly LoggedEvent[]): (() => readonly BusMessage[]) | null {
    if (!this.#relay.isIdle) return null;
    let made: readonly BusMessage[] | undefined;
    return () => (made ??= this.#relay.messagesOf(events));
  }

  /** Appends, however long the database is away; only the fence or an unknown outcome ends it. */
  async #append(append: () => Promise<Appended>): Promise<Appended> {
    for (;;) {
      try {
        return await append();
      } catch (error) {
        const mayRetry = error instanceof SagaxError && error.code === 'DATABASE_UNAVAILABLE';
        if (!mayRetry || !this.isOpen) throw error;
        this.#deps.telemetry.log.warn(
          { shard: this.number, err: error },
          'the event log does not answer; the batch waits',
        );
        await this.#deps.clock.sleep(APPEND_RETRY_MS, this.#stop.signal);
        if (!this.isOpen) throw this.#lostError();
      }
    }
  }

  /** An advanced `publishedSeq` rides on the next batch, or on an append of its own when none comes. */
  #noteProgress(): void {
    if (this.isOpen) this.#flushing ??= this.#flushLater();
  }

  async #flushLater(): Promise<void> {
    await this.#deps.clock.sleep(PUBLISHED_FLUSH_MS, this.#stop.signal);
    if (this.isOpen && this.#running === null) await this.#flushPublished();
    this.#flushing = null;
    // It went on during the flush, or a batch was running that had left before it.
    if (this.#relay.publishedSeq > this.#persistedSeq) this.#noteProgress();
  }

  async #flushPublished(): Promise<void> {
    const publishedSeq = this.#relay.publishedSeq;
    if (publishedSeq <= this.#persistedSeq) return;
    try {
      await this.#deps.eventLog.append({
        shard: this.number,
        epoch: this.epoch,
        events: [],
        publishedSeq,
        wakeups: [],
        summaries: [],
        snapshots: [],
        deadLetters: [],
      });
      this.#persistedSeq = Math.max(publishedSeq, this.#persistedSeq);
    } catch (error) {
      if (error instanceof FencedError) this.lose('fenced');
      // Otherwise it is only a hint that comes late: a new owner publishes a little more again.
    }
  }
}

/** Messages in pieces of about BATCH_TEXT_LIMIT. */
function partsOf(messages: readonly ReceivedMessage[]): ReceivedMessage[][] {
  const parts: ReceivedMessage[][] = [];
  let text = Infinity;
  for (const message of messages) {
    if (text >= BATCH_TEXT_LIMIT) {
      parts.push([]);
      text = 0;
    }
    parts.at(-1)?.push(message);
    text += textOf(message);
  }
  return parts;
}

function textOf(message: ReceivedMessage): number {
  return message.value?.length ?? 0;
}
