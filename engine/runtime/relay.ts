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
  #running: Promise<void> | null = null;
  #waiting: (() => void)[] = [];
  #onProgress: () => void;

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
   * Queues what the previous owner may not have published; called before the first `offer`.
   * @param lastSeq the last `shardSeq` of the log at take-over
   */
  async recover(lastSeq: number): Promise<void> {
    let after = this.#publishedSeq;
    for (;;) {
      const page = await this.#deps.eventLog.readOutbox(this.#shard, after, PAGE_LIMIT);
      const last = page.at(-1);
      if (last === undefined) break;
      after = last.shardSeq;
      this.offer(page, page.length < PAGE_LIMIT ? lastSeq : after);
      await this.room();
      if (this.#stop.signal.aborted) return;
      if (page.length < PAGE_LIMIT) return;
    }
    this.offer([], lastSeq);
  }

  /** Hands over committed events, in order. @param upToSeq the last `shardSeq` of their batch */
  offer(events: readonly LoggedEvent[], upToSeq: number): void {
    const outbox = events.filter((logged) => OUTBOX_EVENTS.has(logged.event.type));
    this.#queue.push(...outbox);
    if (this.#queue.length === 0) this.#advance(upToSeq);
    else this.#queuedUpTo = upToSeq;
    if (this.#queue.length > 0) this.#running ??= this.#run();
  }
  #queuedUpTo = 0;

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
    let pauseMs = RETRY_FIRST_MS;
    while (this.#queue.length > 0 && !this.#stop.signal.aborted) {
      const batch = this.#queue.slice(0, PUBLISH_LIMIT);
      try {
        await this.#deps.bus.publish(batch.flatMap((logged) => this.#encode(logged)));
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
      this.#deps.telemetry.count('messages_published_total', batch.length);
      this.#queue = this.#queue.slice(batch.length);
      this.#advance(this.#queue.length === 0 ? this.#queuedUpTo : (batch.at(-1)?.shardSeq ?? 0));
      if (this.#queue.length < BACKLOG_LIMIT) this.#letIn();
    }
    this.#running = null;
  }

  #encode(logged: LoggedEvent): BusMessage[] {
    const message = messageOf(logged, this.#deps.topology);
    return message === null ? [] : [message];
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
