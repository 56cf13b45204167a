/**
 * The API's side of the inbox: inputs become messages, and messages go to the bus in natural batches.
 *
 * Guards I4: `send` resolves only when the bus has said that the message is durable, so a 2xx means
 * that the input will be applied. While one publish is under way the next batch gathers, so a busy API
 * makes few, large publishes and an idle one adds no delay. If the process dies before `send` resolves, the
 * message may or may not be there; the caller got no answer and sends it again.
 */
import { SagaxError } from '../engine/core/errors.ts';
import { partitionOf } from '../engine/core/shards.ts';
import { CE_TYPES, encodeMessage, topicNames, type InboxInput } from '../engine/core/wire.ts';
import type { Bus, BusMessage, Clock } from '../engine/ports.ts';
import { ApiError } from './problems.ts';

/** CloudEvents `source` of everything that comes from the REST API. */
export const API_SOURCE = '/sagax/api';

/** Messages in one publish: beyond this a batch only adds delay for those in it. */
const MAX_BATCH = 500;

interface Waiting {
  messages: readonly BusMessage[];
  done: () => void;
  failed: (error: unknown) => void;
}

export class Inbox {
  readonly #bus: Pick<Bus, 'publish'>;
  readonly #clock: Clock;
  readonly #topic: string;
  readonly #shards: number;
  readonly #maxQueued: number;
  #waiting: Waiting[] = [];
  /** Messages that were handed in and are not durable yet. */
  #queued = 0;
  #publishing = false;

  constructor(options: {
    bus: Pick<Bus, 'publish'>;
    clock: Clock;
    topicPrefix: string;
    shards: number;
    maxQueuedMessages: number;
  }) {
    this.#bus = options.bus;
    this.#clock = options.clock;
    this.#topic = topicNames(options.topicPrefix).inbox;
    this.#shards = options.shards;
    this.#maxQueued = options.maxQueuedMessages;
  }

  get shards(): number {
    return this.#shards;
  }

  get queued(): number {
    return this.#queued;
  }

  /** Called before anything is reserved, so that an overload leaves nothing half accepted. @throws OVERLOADED */
  assertRoom(count = 1): void {
    if (this.#queued + count > this.#maxQueued) {
      throw new SagaxError(
        'OVERLOADED',
        `${this.#queued} messages wait for the bus, and ${this.#maxQueued} is the limit of this process. Try again after the time in Retry-After.`,
      );
    }
  }

  /**
   * @param id CloudEvents id: names the message over all its publications
   * @throws ApiError PAYLOAD_REFUSED with 413 when the message is too large for the bus
   */
  message(id: string, input: InboxInput, traceparent: string | undefined): BusMessage {
    const { type, body } = input;
    const envelope = {
      type: CE_TYPES[type],
      id,
      source: API_SOURCE,
      at: this.#clock.now(),
      sagaId: body.sagaId,
      traceparent,
    };
    try {
      return this.#place(encodeMessage(envelope, body));
    } catch (error) {
      if (error instanceof SagaxError && error.code === 'PAYLOAD_REFUSED') {
        throw new ApiError('PAYLOAD_REFUSED', error.message, { status: 413 });
      }
      throw error;
    }
  }

  /** A message with the partition of its key, in the inbox. */
  #place(message: { key: string; headers: { [name: string]: string }; value: string }): BusMessage {
    return { topic: this.#topic, partition: partitionOf(message.key, this.#shards), ...message };
  }

  /**
   * On return every message is durable. Messages of one call stay together and in order.
   * @throws SagaxError OVERLOADED nothing was sent; BUS_UNAVAILABLE any of them may be there
   */
  async send(messages: readonly BusMessage[]): Promise<void> {
    if (messages.length === 0) return;
    this.assertRoom(messages.length);
    this.#queued += messages.length;
    try {
      await new Promise<void>((done, failed) => {
        this.#waiting.push({ messages, done, failed });
        void this.#drain();
      });
    } finally {
      this.#queued -= messages.length;
    }
  }

  async #drain(): Promise<void> {
    if (this.#publishing) return;
    this.#publishing = true;
    try {
      while (this.#waiting.length > 0) {
        const batch = this.#takeBatch();
        try {
          await this.#bus.publish(batch.flatMap((entry) => entry.messages));
          for (const entry of batch) entry.done();
        } catch (error) {
          for (const entry of batch) entry.failed(error);
        }
      }
    } finally {
      this.#publishing = false;
    }
  }

  #takeBatch(): Waiting[] {
    let count = 0;
    let entries = 0;
    for (const entry of this.#waiting) {
      if (entries > 0 && count + entry.messages.length > MAX_BATCH) break;
      count += entry.messages.length;
      entries += 1;
    }
    return this.#waiting.splice(0, entries);
  }
}
