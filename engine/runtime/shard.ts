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
import type { Clock, EventLog, ReceivedMessage, ShardLease } from '../ports.ts';
import { BatchBuilder } from './batch.ts';
import { Relay, type RelayDeps } from './relay.ts';
import type { Registry } from './registry.ts';
import { SagaStore } from './saga-store.ts';
import type { Telemetry } from './telemetry.ts';
import { TimerQueue } from './timer-queue.ts';

/** Wake-ups taken into one batch, so that a herd of timers does not block replies. */
const WAKES_PER_BATCH = 200;
/** Inbox bytes (UTF-16 units) taken into one batch. */
const BATCH_TEXT_LIMIT = 4_000_000;
/** How far ahead wake-ups are read from the log, and how often. */
const TIMER_HORIZON_MS = 60_000;
const TIMER_SCAN_MS = 30_000;
const TIMER_SCAN_LIMIT = 10_000;
/** Pause between attempts to append while the database does not answer. */
const APPEND_RETRY_MS = 250;
/** How long a shard that closes waits for its batch and its relay, when the database or the bus is away. */
const CLOSE_LIMIT_MS = 5_000;
/** How long an advanced `publishedSeq` may wait for a batch to ride on. */
const PUBLISHED_FLUSH_MS = 1_000;

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

/** Why a shard stopped: fenced by another owner, or the outcome of a commit is not known. */
export type LossReason = 'fenced' | 'unknown';

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
  readonly #timers = new TimerQueue();
  readonly #onLost: (reason: LossReason) => void;
  readonly #stop = new AbortController();
  #nextOffset: bigint;
  #nextSeq: number;
  #persistedSeq: number;
  #work: Work[] = [];
  #wakes = new Set<string>();
  #running: Promise<void> | null = null;
  #timerLoop: Promise<void> | null = null;
  #timerSleep = new AbortController();
  #horizonAt = 0;
  #flushDueAt: number | null = null;
  readonly #gap: { askedFrom: bigint | null } = { askedFrom: null };

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

  /** Publishes what the previous owner left, and starts the timers. */
  async open(): Promise<void> {
    await this.#relay.recover(this.#nextSeq - 1);
    this.#timerLoop = this.#runTimers();
  }

  /**
   * Applies messages of the shard's inbox partition. Resolves when their effect is committed.
   * @returns where to go on reading, when the messages are not the next ones
   * @throws when the shard is lost or closed meanwhile; the messages come again
   */
  handle(messages: readonly ReceivedMessage[]): Promise<{ resumeAt: bigint } | undefined> {
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
      await Promise.race([ended, this.#deps.clock.sleep(CLOSE_LIMIT_MS, this.#stop.signal)]);
      if (this.isOpen) await this.#flushPublished();
    }
    this.#shutDown();
    await this.#running;
    await this.#timerLoop;
  }

  #shutDown(): void {
    this.#stop.abort();
    this.#timerSleep.abort();
    this.#relay.stop();
    for (const work of this.#work) work.failed(this.#lostError());
    this.#work = [];
  }

  #lose(reason: LossReason): void {
    if (!this.isOpen) return;
    this.#shutDown();
    this.#deps.telemetry.count('shards_lost_total', 1, { reason });
    this.#onLost(reason);
  }

  #lostError(): Error {
    return new FencedError(`Shard ${this.number} is no longer held under epoch ${this.epoch}.`);
  }

  #kick(): void {
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    while (this.isOpen && (this.#work.length > 0 || this.#wakes.size > 0)) {
      const work = this.#takeWork();
      const wakes = [...this.#wakes].slice(0, WAKES_PER_BATCH);
      for (const sagaId of wakes) this.#wakes.delete(sagaId);
      try {
        const resumeAt = await this.#batch(work, wakes);
        for (const { done } of work) done(resumeAt === null ? undefined : { resumeAt });
      } catch (error) {
        for (const { failed } of work) failed(error as Error);
        if (!this.isOpen) break;
        if (error instanceof FencedError) this.#lose('fenced');
        else if (error instanceof CommitUnknownError) this.#lose('unknown');
        else {
          // Nothing was written (a read failed, say): the bus brings the messages again.
          for (const sagaId of wakes) this.#wakes.add(sagaId);
          this.#deps.telemetry.log.error(
            { shard: this.number, err: error },
            'a batch failed; it is tried again',
          );
          await this.#deps.clock.sleep(APPEND_RETRY_MS, this.#stop.signal);
        }
      }
    }
    this.#running = null;
  }

  #takeWork(): Work[] {
    const taken: Work[] = [];
    let text = 0;
    while (this.#work.length > 0 && text < BATCH_TEXT_LIMIT) {
      const next = this.#work.shift();
      if (next === undefined) break;
      for (const message of next.messages) text += message.value?.length ?? 0;
      taken.push(next);
    }
    return taken;
  }

  async #batch(work: readonly Work[], wakes: readonly string[]): Promise<bigint | null> {
    const { clock, eventLog, telemetry } = this.#deps;
    await this.#relay.room();
    const builder = new BatchBuilder({
      ...this.#deps,
      decide: this.#deps.decide ?? coreDecide,
      shard: this.number,
      epoch: this.epoch,
      nextOffset: this.#nextOffset,
      nextSeq: this.#nextSeq,
      store: this.#store,
      gap: this.#gap,
      now: clock.now(),
    });
    await builder.apply(
      work.flatMap(({ messages }) => messages),
      wakes,
    );
    await builder.forward();
    if (!builder.isEmpty) {
      const publishedSeq = this.#relay.publishedSeq;
      const batch = builder.build(publishedSeq > this.#persistedSeq ? publishedSeq : undefined);
      const begun = clock.monotonic();
      await this.#append(() => eventLog.append(batch));
      telemetry.observe('append_seconds', (clock.monotonic() - begun) / 1000);
      telemetry.observe('batch_messages', builder.messageCount);
      telemetry.count('events_appended_total', batch.events.length);
      this.#persistedSeq = batch.publishedSeq ?? this.#persistedSeq;
      this.#committed(builder, batch.events);
    }
    return builder.resumeAt;
  }

  #committed(builder: BatchBuilder, events: readonly LoggedEvent[]): void {
    this.#nextOffset = builder.nextOffset;
    this.#nextSeq = builder.nextSeq;
    builder.keep();
    for (const wakeup of builder.wakeups) this.#noteWakeup(wakeup.sagaId, wakeup.dueAt);
    this.#relay.offer(events, this.#nextSeq - 1);
  }

  /** Appends, however long the database is away; only the fence or an unknown outcome ends it. */
  async #append(append: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await append();
        return;
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

  /** An advanced `publishedSeq` rides on the next batch, or on one of its own when none comes. */
  #noteProgress(): void {
    if (this.#flushDueAt !== null || !this.isOpen) return;
    this.#flushDueAt = this.#deps.clock.now() + PUBLISHED_FLUSH_MS;
    this.#timerSleep.abort();
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
      this.#persistedSeq = publishedSeq;
    } catch (error) {
      if (error instanceof FencedError) this.#lose('fenced');
      // Otherwise it is only a hint that comes late: a new owner publishes a little more again.
    }
  }

  // ------------------------------------------------------------------ timers

  #noteWakeup(sagaId: string, dueAt: number | null): void {
    if (dueAt === null || dueAt > this.#horizonAt) return;
    const isFirst = dueAt < (this.#timers.peek()?.dueAt ?? Infinity);
    this.#timers.push({ dueAt, sagaId });
    if (isFirst) this.#timerSleep.abort();
  }

  async #runTimers(): Promise<void> {
    const { clock } = this.#deps;
    let scanDueAt = 0;
    while (this.isOpen) {
      const now = clock.now();
      if (now >= scanDueAt) scanDueAt = (await this.#scanTimers(now)) ?? now + APPEND_RETRY_MS;
      if (this.#flushDueAt !== null && now >= this.#flushDueAt) {
        this.#flushDueAt = null;
        if (this.#running === null) await this.#flushPublished();
      }
      this.#takeDue(clock.now());
      const nextAt = Math.min(
        this.#timers.peek()?.dueAt ?? Infinity,
        scanDueAt,
        this.#flushDueAt ?? Infinity,
      );
      this.#timerSleep = new AbortController();
      if (!this.isOpen) return;
      await clock.sleep(Math.max(1, nextAt - clock.now()), this.#timerSleep.signal);
    }
  }

  /** @returns when to scan again; null when the log could not be read. */
  async #scanTimers(now: number): Promise<number | null> {
    const until = now + TIMER_HORIZON_MS;
    try {
      // Set before the read: a wake-up that is committed meanwhile must be seen by one of the two.
      this.#horizonAt = until;
      const due = await this.#deps.eventLog.dueWakeups(this.number, until, TIMER_SCAN_LIMIT);
      for (const wakeup of due) this.#timers.push(wakeup);
      const last = due.at(-1);
      if (due.length < TIMER_SCAN_LIMIT || last === undefined) return now + TIMER_SCAN_MS;
      this.#horizonAt = last.dueAt;
      return Math.max(now + 1, Math.min(last.dueAt, now + TIMER_SCAN_MS));
    } catch (error) {
      this.#deps.telemetry.log.warn(
        { shard: this.number, err: error },
        'due timers could not be read; it is tried again',
      );
      return null;
    }
  }

  #takeDue(now: number): void {
    for (
      let first = this.#timers.peek();
      first !== undefined && first.dueAt <= now;
      first = this.#timers.peek()
    ) {
      this.#timers.pop();
      this.#deps.telemetry.observe('timer_lateness_seconds', Math.max(0, now - first.dueAt) / 1000);
      this.#wakes.add(first.sagaId);
    }
    if (this.#wakes.size > 0) this.#kick();
  }
}
