/**
 * One partition that a member of a group owns: one batch at a time goes to `onBatch`.
 *
 * Guards order and back-pressure: what comes while a batch runs waits here, at most a batch of it, and the poller
 * reads for a lane only while it has room. A rejected batch comes again, unchanged, after a growing pause.
 */
import type { BusBatch, ReceivedMessage } from '../ports.ts';
import type { Committed } from './bus-offsets.ts';
import { sleep } from './clock.ts';

const RETRY_PAUSE_MIN_MS = 100;
const RETRY_PAUSE_MAX_MS = 5_000;
/** What may wait beside the batch that runs, in characters of values. */
const MAX_WAITING_CHARS = 1_000_000;

export interface LaneOptions {
  topic: string;
  partition: number;
  partitionId: number;
  epoch: string;
  committed: bigint | null;
  maxBatch: number;
  onBatch: (batch: BusBatch) => Promise<void | { resumeAt: bigint }>;
  /** The lane has room for messages (again). */
  hasRoom: () => void;
  batchFailed: (error: unknown, pauseMs: number) => void;
}

export class BusLane {
  readonly options: LaneOptions;
  /** Offset of the next message to read. */
  next: bigint;
  /** What batches said is done; written down with the next renewal. */
  toCommit: bigint | null = null;
  #open = false;
  #waiting: ReceivedMessage[] = [];
  #waitingChars = 0;
  #running: Promise<void> | null = null;
  readonly #end = new AbortController();

  constructor(options: LaneOptions) {
    this.options = options;
    this.next = options.committed ?? 0n;
  }

  get closed(): boolean {
    return this.#end.signal.aborted;
  }
  /** How many messages may be read for it now. */
  get room(): number {
    if (!this.#open || this.closed || this.#waitingChars >= MAX_WAITING_CHARS) return 0;
    return this.options.maxBatch - this.#waiting.length;
  }

  open(start: bigint | null): void {
    if (start !== null) this.next = start;
    this.#open = true;
    this.options.hasRoom();
  }

  /**
   * Takes what was read for it.
   * @param from where that reading began: what is known already is left out, and when the lane was set back
   * meanwhile, there is a gap before it and nothing is taken
   */
  deliver(from: bigint, messages: readonly ReceivedMessage[]): void {
    if (!this.#open || this.closed || from > this.next) return;
    for (const message of messages) {
      if (message.offset < this.next) continue;
      this.#waiting.push(message);
      this.#waitingChars += message.value?.length ?? 0;
      this.next = message.offset + 1n;
    }
    if (this.#waiting.length > 0) this.#running ??= this.#run();
  }

  /**
   * Takes a message that was handed on, when it is the next one.
   * @returns false when there is something to read: one before it, or itself later, since there is no room
   */
  take({ offset, key, headers, value }: Committed): boolean {
    if (offset < this.next) return true;
    if (offset > this.next || this.room <= 0) return false;
    const { topic, partition } = this.options;
    this.deliver(offset, [{ topic, partition, offset, key, headers, value }]);
    return true;
  }

  /** No further batch begins. */
  close(): void {
    this.#end.abort();
  }

  /** Resolves when no `onBatch` is running; call after `close`. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 && !this.closed) {
      const wasFull = this.room <= 0;
      const messages = this.#waiting.splice(0, this.options.maxBatch);
      this.#waitingChars = 0;
      for (const { value } of this.#waiting) this.#waitingChars += value?.length ?? 0;
      if (wasFull) this.options.hasRoom();
      const last = (messages.at(-1) as ReceivedMessage).offset;
      const resumeAt = await this.#batch(messages);
      if (resumeAt !== null && resumeAt !== last + 1n) this.#setBack(resumeAt);
    }
    this.#running = null;
  }

  /** What was read ahead does not follow any more: it is read again from there. */
  #setBack(next: bigint): void {
    this.next = next;
    this.#waiting = [];
    this.#waitingChars = 0;
    this.options.hasRoom();
  }

  /** @returns where `onBatch` wants to go on, if it said so */
  async #batch(messages: readonly ReceivedMessage[]): Promise<bigint | null> {
    const { topic, partition, onBatch, batchFailed } = this.options;
    const commit = (nextOffset: bigint): void => {
      if (this.toCommit === null || nextOffset > this.toCommit) this.toCommit = nextOffset;
    };
    for (let pauseMs = RETRY_PAUSE_MIN_MS; !this.closed;) {
      try {
        const answer = await onBatch({ topic, partition, messages, commit });
        return answer?.resumeAt ?? null;
      } catch (error) {
        batchFailed(error, pauseMs);
        await sleep(pauseMs, this.#end.signal);
        pauseMs = Math.min(pauseMs * 2, RETRY_PAUSE_MAX_MS);
      }
    }
    return null;
  }
}
