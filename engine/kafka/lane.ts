/**
 * One partition's way from the fetch loop to `onBatch`: a short queue, one batch at a time.
 *
 * Guards order and back-pressure per partition: `onBatch` runs apart from the fetch loop, so a slow
 * partition holds up neither the others nor the heartbeat. A rejected batch comes again, unchanged,
 * after a growing pause. The lane dies with the assignment; what is then still running is fenced above.
 */
import type { BusBatch, ReceivedMessage } from '../ports.ts';

/** A lane asks for more below `maxBatch` queued messages and for less above this multiple of it. */
const HIGH_WATER_BATCHES = 2;
const HIGH_WATER_BYTES = 4_000_000;
const RETRY_PAUSE_MIN_MS = 100;
const RETRY_PAUSE_MAX_MS = 5_000;

export interface LaneHost {
  onBatch: (batch: BusBatch) => Promise<void | { resumeAt: bigint }>;
  maxBatch: number;
  /** The lane has room again. */
  roomMade(lane: Lane): void;
  /** Read on from `offset`; the queue is empty. */
  seek(lane: Lane, offset: bigint): void;
  batchFailed(lane: Lane, error: unknown, pauseMs: number): void;
}

export class Lane {
  readonly topic: string;
  readonly partition: number;
  readonly #host: LaneHost;
  #queue: ReceivedMessage[] = [];
  #queuedBytes = 0;
  #open = false;
  #running: Promise<void> | null = null;
  readonly #end = new AbortController();
  /** Offset of the next message to queue; null before the first one, unless the start is known. */
  next: bigint | null;
  /** Offset of the first message that was queued, or the start. */
  #first: bigint | null;
  /** Highest offset that a batch said is done, and that the group knows. */
  toCommit: bigint | null = null;
  committed: bigint | null = null;

  /** @param start where it reads from; null: where the group has got to */
  constructor(topic: string, partition: number, host: LaneHost, start: bigint | null) {
    this.topic = topic;
    this.partition = partition;
    this.#host = host;
    this.next = start;
    this.#first = start;
  }

  get key(): string {
    return `${this.topic}/${this.partition}`;
  }
  get closed(): boolean {
    return this.#end.signal.aborted;
  }
  /** What the group has got to, or less: all below it is done. Null when the lane has nothing to go by. */
  get doneBelow(): bigint | null {
    return this.committed ?? this.#first;
  }
  get full(): boolean {
    return (
      this.#queue.length >= this.#host.maxBatch * HIGH_WATER_BATCHES ||
      this.#queuedBytes >= HIGH_WATER_BYTES
    );
  }
  get hasRoom(): boolean {
    return this.#queue.length < this.#host.maxBatch && this.#queuedBytes < HIGH_WATER_BYTES / 2;
  }

  /** Deliveries may begin. */
  open(): void {
    this.#open = true;
    this.#wake();
  }

  /**
   * Queues messages in offset order.
   * @returns false when they begin below what was queued before: nothing was taken, since the log isn't the one
   *   that was read (each fetch asks for what is behind the last one)
   */
  offer(messages: readonly ReceivedMessage[]): boolean {
    if (this.closed) return true;
    const first = messages[0]?.offset;
    if (first !== undefined && this.next !== null && first < this.next) return false;
    this.#first ??= first ?? null;
    for (const message of messages) {
      this.#queue.push(message);
      this.#queuedBytes += bytesOf(message);
      this.next = message.offset + 1n;
    }
    this.#wake();
    return true;
  }

  commit(nextOffset: bigint): void {
    if (this.toCommit === null || nextOffset > this.toCommit) this.toCommit = nextOffset;
  }

  /** No further batch begins. */
  close(): void {
    this.#end.abort();
    this.#queue = [];
  }

  /** Resolves when no `onBatch` is running; call after `close`. */
  async idle(): Promise<void> {
    await this.#running;
  }

  #wake(): void {
    if (!this.#open || this.closed || this.#running !== null || this.#queue.length === 0) return;
    this.#running = this.#deliver().finally(() => {
      this.#running = null;
      this.#wake();
    });
  }

  async #deliver(): Promise<void> {
    while (this.#queue.length > 0 && !this.closed) {
      const messages = this.#queue.slice(0, this.#host.maxBatch);
      const answer = await this.#deliverUntilTaken(messages);
      if (this.closed) return;
      if (answer === undefined) {
        this.#queue.splice(0, messages.length);
        for (const message of messages) this.#queuedBytes -= bytesOf(message);
      } else {
        this.#queue = [];
        this.#queuedBytes = 0;
        this.next = answer.resumeAt;
        if (this.#first !== null && this.next < this.#first) this.#first = this.next;
        this.#host.seek(this, answer.resumeAt);
      }
      this.#host.roomMade(this);
    }
  }

  async #deliverUntilTaken(
    messages: readonly ReceivedMessage[],
  ): Promise<{ resumeAt: bigint } | undefined> {
    const { topic, partition } = this;
    for (let pauseMs = RETRY_PAUSE_MIN_MS; !this.closed;) {
      try {
        const batch = { topic, partition, messages, commit: this.commit.bind(this) };
        return (await this.#host.onBatch(batch)) ?? undefined;
      } catch (error) {
        this.#host.batchFailed(this, error, pauseMs);
        await pause(pauseMs, this.#end.signal);
        pauseMs = Math.min(pauseMs * 2, RETRY_PAUSE_MAX_MS);
      }
    }
    return undefined;
  }
}

function bytesOf(message: ReceivedMessage): number {
  return (message.value?.length ?? 0) + 200;
}

/** Resolves after `ms`, or at once when aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
  });
}
