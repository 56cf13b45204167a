/**
 * The relay of one shard: puts what was committed on the bus, in order of `shardSeq`.
 *
 * Guards I10: an event is published only after its commit, and at least once: a new owner begins at
 * `publishedSeq + 1` of the log. If the process dies between publication and the next append, the same
 * messages go out again, and participants drop them by command id.
 */
import type { LoggedEvent } from '../core/events.ts';
import { OUTBOX_EVENTS, type Bus, type BusMessage, type Clock, type EventLog } from '../ports.ts';
import { messageOf, type Topology } from './outbox.ts';
import type { Telemetry } from './telemetry.ts';

/** Messages in one publication. */
const PUBLISH_LIMIT = 500;
/** Events waiting to be published beyond which the shard takes no new batch (the bus is slow or down). */
const BACKLOG_LIMIT = 5_000;
const PAGE_LIMIT = 1_000;
const RETRY_FIRST_MS = 50;
const RETRY_LONGEST_MS = 2_000;

export interface RelayDeps {
  bus: Bus;
  eventLog: EventLog;
  clock: Clock;
  topology: Topology;
  telemetry: Telemetry;
}

export class Relay {
  readonly #deps: RelayDeps;
  readonly #shard: number;
  readonly #stop = new AbortController();
  #queue: LoggedEvent[] = [];
  #publishedSeq: number;
  /** Where the log stands behind the last event of the queue. */
  #queuedUpTo = 0;
  #running: Promise<void> | null = null;
  #waiting: (() => void)[] = [];
  readonly #onProgress: () => void;

  constructor(deps: RelayDeps, shard: number, publishedSeq: number, onProgress: () => void) {
    this.#deps = deps;
    this.#shard = shard;
    this.#publishedSeq = publishedSeq;
    this.#onProgress = onProgress;
  }

  /** Everything up to here is on the bus. */
  get publishedSeq(): number {
    return this.#publishedSeq;
  }

  /**
   * Queues what the previous owner may not have published, page by page as the bus takes it. Never rejects;
   * resolves when all is queued, or the relay has stopped. Nothing is offered before that.
   * @param lastSeq the last `shardSeq` of the log at take-over
   */
  async recover(lastSeq: number): Promise<void> {
    let after = this.#publishedSeq;
    while (after < lastSeq) {
      const page = await this.#readPage(after);
      if (page === null) return;
      // Behind a page that is not full there is nothing more to publish.
      after = page.length < PAGE_LIMIT ? lastSeq : (page.at(-1)?.shardSeq ?? lastSeq);
      this.offer(page, after);
      await this.room();
    }
  }

  /** @returns null when the relay has stopped */
  async #readPage(after: number): Promise<LoggedEvent[] | null> {
    const { eventLog, clock, telemetry } = this.#deps;
    for (let pauseMs = RETRY_FIRST_MS; !this.#stop.signal.aborted;) {
      try {
        const page = await eventLog.readOutbox(this.#shard, after, PAGE_LIMIT);
        return this.#stop.signal.aborted ? null : page;
      } catch (error) {
        telemetry.log.warn(
          { shard: this.#shard, err: error },
          'what is to be published could not be read; it is tried again',
        );
        await clock.sleep(pauseMs, this.#stop.signal);
        pauseMs = Math.min(RETRY_LONGEST_MS, pauseMs * 2);
      }
    }
    return null;
  }

  /** Hands over committed events, in order. @param upToSeq the last `shardSeq` of their batch */
  offer(events: readonly LoggedEvent[], upToSeq: number): void {
    for (const logged of events) if (OUTBOX_EVENTS.has(logged.event.type)) this.#queue.push(logged);
    if (this.#queue.length === 0) return this.#advance(upToSeq);
    this.#queuedUpTo = upToSeq;
    // After `stop` nothing runs any more: what is queued is the next owner's to publish.
    if (!this.#stop.signal.aborted) this.#running ??= this.#run();
  }

  /** Whether all that was offered is on the bus. Only then may later events go out by another way. */
  get isIdle(): boolean {
    return this.#queue.length === 0;
  }

  /** What these events have to say on the bus, for a log that can put it there with their commit. */
  messagesOf(events: readonly LoggedEvent[]): BusMessage[] {
    const outbox = events.filter(({ event }) => OUTBOX_EVENTS.has(event.type));
    return outbox.flatMap((logged) => this.#encode(logged));
  }

  /** They went out with the commit of their events. @param upToSeq the last `shardSeq` of their batch */
  wentOut(messages: number, upToSeq: number): void {
    this.#deps.telemetry.count('messages_published_total', messages);
    this.#publishedSeq = Math.max(upToSeq, this.#publishedSeq);
  }

  /** Resolves when the backlog is small enough for another batch, or the relay has stopped. */
  room(): Promise<void> {
    if (this.#queue.length < BACKLOG_LIMIT || this.#stop.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Resolves when all that was offered is on the bus, or the relay has stopped. */
  async flush(): Promise<void> {
    await this.#running;
  }

  stop(): void {
    this.#stop.abort();
    this.#letIn();
  }

  async #run(): Promise<void> {
    // When nothing of the queue can be a message, nothing below waits, and the end would come before `#running` is set.
    await Promise.resolve();
    let pauseMs = RETRY_FIRST_MS;
    while (this.#queue.length > 0 && !this.#stop.signal.aborted) {
      const batch = this.#queue.slice(0, PUBLISH_LIMIT);
      const messages = batch.flatMap((logged) => this.#encode(logged));
      try {
        if (messages.length > 0) await this.#deps.bus.publish(messages);
      } catch (error) {
        this.#deps.telemetry.count('publish_failures_total');
        this.#deps.telemetry.log.warn(
          { shard: this.#shard, waiting: this.#queue.length, err: error },
          'publishing failed; it is tried again',
        );
        await this.#deps.clock.sleep(pauseMs, this.#stop.signal);
        pauseMs = Math.min(RETRY_LONGEST_MS, pauseMs * 2);
        continue;
      }
      pauseMs = RETRY_FIRST_MS;
      this.#deps.telemetry.count('messages_published_total', messages.length);
      this.#queue = this.#queue.slice(batch.length);
      this.#advance(this.#queue.length === 0 ? this.#queuedUpTo : (batch.at(-1)?.shardSeq ?? 0));
      if (this.#queue.length < BACKLOG_LIMIT) this.#letIn();
    }
    this.#running = null;
  }

  /** What can't be a message never will be: it must not keep the shard's other commands back (its step times out). */
  #encode(logged: LoggedEvent): BusMessage[] {
    try {
      const message = messageOf(logged, this.#deps.topology);
      return message === null ? [] : [message];
    } catch (error) {
      const { sagaId, streamVersion } = logged;
      this.#deps.telemetry.count('publish_failures_total');
      this.#deps.telemetry.log.error(
        { sagaId, streamVersion, err: error },
        'an event can not be put on the bus and is passed over',
      );
      return [];
    }
  }

  #advance(seq: number): void {
    if (seq <= this.#publishedSeq) return;
    this.#publishedSeq = seq;
    this.#onProgress();
  }

  #letIn(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}
