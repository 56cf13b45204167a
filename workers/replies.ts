/**
 * The way out for replies: published in order, several at once while the bus is at work, each topic by itself.
 *
 * Guards that no answer is dropped because the bus is away: it is tried again with pauses, and the command
 * keeps its place (its offset is not committed) until the answer is on the bus. Nor may the answers for a topic
 * that isn't there, which a command can name, hold up those for another. The queues are bounded by the
 * worker's in-flight window, since each command waits here for its own answer.
 */
import { SagaxError, type ErrorCode } from '../engine/core/errors.ts';
import type { Bus, BusMessage, Clock } from '../engine/ports.ts';
import { cutText, textOf } from './failures.ts';
import type { Log } from './handlers.ts';

/** Most replies in one call to the bus. */
const MAX_BATCH = 500;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 5_000;
/** Tries of a reply that the bus refuses for another reason than being away: about ten seconds, and what the bus takes. */
const MAX_REFUSALS = 8;

/** The bus is there and does not take this message; in its own words. */
export interface Refusal {
  readonly code: ErrorCode;
  readonly reason: string;
}

/** `stopped`: the worker is at its end. */
export type Published = 'published' | 'stopped' | Refusal;

interface Item {
  readonly message: BusMessage;
  readonly done: (published: Published) => void;
}

export class ReplyPublisher {
  readonly #bus: Bus;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #stop: AbortSignal;
  /** What waits for each topic; a topic is here as long as somebody sends for it. */
  readonly #queues = new Map<string, Item[]>();

  /** @param stop once aborted nothing is tried again */
  constructor(bus: Bus, clock: Clock, log: Log, stop: AbortSignal) {
    this.#bus = bus;
    this.#clock = clock;
    this.#log = log;
    this.#stop = stop;
  }

  /** Resolves when the message is durable on the bus, or will never be. Never rejects. */
  publish(message: BusMessage): Promise<Published> {
    return new Promise((done) => {
      const queue = this.#queues.get(message.topic);
      if (queue === undefined) void this.#run(message.topic, [{ message, done }]);
      else queue.push({ message, done });
    });
  }

  async #run(topic: string, queue: Item[]): Promise<void> {
    this.#queues.set(topic, queue);
    // One turn later, so that answers which come together go together.
    await Promise.resolve();
    while (queue.length > 0) await this.#send(queue.splice(0, MAX_BATCH));
    this.#queues.delete(topic);
  }

  async #send(items: readonly Item[]): Promise<void> {
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = nextPause(pauseMs)) {
      if (this.#stop.aborted) return finish(items, 'stopped');
      const error = await this.#try(items);
      if (error === null) return finish(items, 'published');
      if (!isAway(error)) return this.#sendApart(items, error);
      await this.#clock.sleep(pauseMs, this.#stop);
    }
  }

  /** One of them is at fault: the others must neither fail with it nor wait for it. */
  async #sendApart(items: readonly Item[], error: unknown): Promise<void> {
    const [only, ...others] = items;
    if (only === undefined) return;
    if (others.length === 0) void this.#insist(only, error);
    else for (const item of items) await this.#send([item]);
  }

  /** Beside the queue: a topic may be about to be created. */
  async #insist(item: Item, error: unknown): Promise<void> {
    let refusal = refusalOf(error);
    let refusals = 1;
    for (let pauseMs = FIRST_PAUSE_MS; refusals < MAX_REFUSALS; pauseMs = nextPause(pauseMs)) {
      // What is too large stays so.
      if (refusal.code === 'PAYLOAD_REFUSED') break;
      await this.#clock.sleep(pauseMs, this.#stop);
      if (this.#stop.aborted) return item.done('stopped');
      const again = await this.#try([item]);
      if (again === null) return item.done('published');
      if (isAway(again)) continue;
      refusal = refusalOf(again);
      refusals += 1;
    }
    item.done(refusal);
  }

  /** @returns what went wrong, or null. */
  async #try(items: readonly Item[]): Promise<unknown> {
    try {
      await this.#bus.publish(items.map((item) => item.message));
      return null;
    } catch (error) {
      const fields = { error: textOf(error), replies: items.length };
      this.#log.warn(fields, 'replies could not be published; they are tried again');
      return error ?? new Error('The bus rejected without an error.');
    }
  }
}

function isAway(error: unknown): boolean {
  return error instanceof SagaxError && error.kind === 'retryable';
}

function refusalOf(error: unknown): Refusal {
  return error instanceof SagaxError
    ? { code: error.code, reason: cutText(error.message) }
    : { code: 'INTERNAL', reason: cutText(textOf(error)) };
}

function nextPause(pauseMs: number): number {
  return Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
}

function finish(items: readonly Item[], published: Published): void {
  for (const item of items) item.done(published);
}
