/**
 * One partition that a member of a group owns: one batch at a time goes to `onBatch`.
 *
 * Guards order and back-pressure: the poller reads for a lane only while it wants, and it wants
 * nothing while a batch runs. A rejected batch comes again, unchanged, after a growing pause.
 */
import type { BusBatch, ReceivedMessage } from '../ports.ts';
import { sleep } from './clock.ts';

const RETRY_PAUSE_MIN_MS = 100;
const RETRY_PAUSE_MAX_MS = 5_000;

export interface LaneOptions {
  topic: string;
  partition: number;
  partitionId: number;
  epoch: string;
  committed: bigint | null;
  maxBatch: number;
  onBatch: (batch: BusBatch) => Promise<void | { resumeAt: bigint }>;
  /** The lane wants messages (again). */
  wants: () => void;
  batchFailed: (error: unknown, pauseMs: number) => void;
}

export class BusLane {
  readonly options: LaneOptions;
  /** Offset of the next message to read. */
  next: bigint;
  /** What batches said is done; written down with the next renewal. */
  toCommit: bigint | null = null;
  #open = false;
  #running: Promise<void> | null = null;
  readonly #end = new AbortController();

  constructor(options: LaneOptions) {
    this.options = options;
    this.next = options.committed ?? 0n;
  }

  get closed(): boolean {
    return this.#end.signal.aborted;
  }
  get wanting(): boolean {
    return this.#open && !this.closed && this.#running === null;
  }

  open(start: bigint | null): void {
    if (start !== null) this.next = start;
    this.#open = true;
    this.options.wants();
  }

  /** Takes what was read for it, from `next` on; a lane that has stopped wanting takes nothing. */
  deliver(messages: readonly ReceivedMessage[]): void {
    if (!this.wanting || messages.length === 0) return;
    this.#running = this.#run(messages).finally(() => {
      this.#running = null;
      this.options.wants();
    });
  }

  /** No further batch begins. */
  close(): void {
    this.#end.abort();
  }

  /** Resolves when no `onBatch` is running; call after `close`. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(messages: readonly ReceivedMessage[]): Promise<void> {
    const { topic, partition, onBatch, batchFailed } = this.options;
    const commit = (nextOffset: bigint): void => {
      if (this.toCommit === null || nextOffset > this.toCommit) this.toCommit = nextOffset;
    };
    for (let pauseMs = RETRY_PAUSE_MIN_MS; !this.closed;) {
      try {
        const answer = await onBatch({ topic, partition, messages, commit });
        this.next = answer?.resumeAt ?? (messages.at(-1) as ReceivedMessage).offset + 1n;
        return;
      } catch (error) {
        batchFailed(error, pauseMs);
        await sleep(pauseMs, this.#end.signal);
        pauseMs = Math.min(pauseMs * 2, RETRY_PAUSE_MAX_MS);
      }
    }
  }
}
