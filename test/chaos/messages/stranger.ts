/**
 * A stranger on the broker: reads what goes by, and writes whatever it likes into any partition.
 *
 * Guards that each message that a campaign wrote is told apart from the engine's own, by INJECTED_HEADER, whose
 * value names its kind; and that it is counted only once the broker has it.
 */
import {
  Consumer,
  MessagesStreamModes,
  ProduceAcks,
  Producer,
  stringDeserializers,
  stringSerializers,
} from '@platformatic/kafka';
import { INJECTED_HEADER, type MessageRow } from '../checker/evidence.ts';

export interface Injection {
  kind: string;
  topic: string;
  partition: number;
  key?: string;
  headers?: { [name: string]: string };
  /** Null: a record without a value. */
  value: string | null;
}

export type Seen = MessageRow & { headers: { [name: string]: string } };

const CLIENT = { clientId: 'stranger', retries: 8, retryDelay: 250, timeout: 10_000 };

export class Stranger {
  /** How many of each kind the broker has. */
  readonly sent = new Map<string, number>();
  readonly #brokers: string[];
  readonly #producer: Producer<string, string, string, string>;
  readonly #closers: (() => Promise<void>)[] = [];

  constructor(brokers: readonly string[]) {
    this.#brokers = [...brokers];
    this.#producer = new Producer({
      ...CLIENT,
      bootstrapBrokers: this.#brokers,
      serializers: stringSerializers,
      autocreateTopics: false,
    });
  }

  get total(): number {
    return [...this.sent.values()].reduce((sum, count) => sum + count, 0);
  }

  /** On return the broker has them, in this order per partition. */
  async send(
    injections: readonly Injection[],
    compression: 'none' | 'zstd' | 'snappy' | 'lz4' = 'none',
  ): Promise<void> {
    if (injections.length === 0) return;
    await this.#producer.send({
      acks: ProduceAcks.ALL,
      compression,
      messages: injections.map(({ kind, topic, partition, key, headers, value }) => ({
        topic,
        partition,
        ...(key === undefined ? {} : { key }),
        headers: { ...headers, [INJECTED_HEADER]: kind },
        // A record without a value is written by leaving it out.
        ...(value === null ? {} : { value }),
      })),
    });
    for (const { kind } of injections) this.sent.set(kind, (this.sent.get(kind) ?? 0) + 1);
  }

  /** Reads topics from their beginning, own injections left out. On return it reads. */
  async watch(topics: readonly string[], onMessage: (message: Seen) => void): Promise<void> {
    const consumer = new Consumer({
      ...CLIENT,
      bootstrapBrokers: this.#brokers,
      groupId: `stranger-${process.pid}-${Date.now()}`,
      deserializers: stringDeserializers,
      maxWaitTime: 50,
    });
    const stream = await consumer.consume({
      topics: [...topics],
      mode: MessagesStreamModes.EARLIEST,
    });
    const reading = (async () => {
      for await (const message of stream) {
        const { topic, partition, offset, key, value } = message;
        const headers = Object.fromEntries(message.headers);
        if (headers[INJECTED_HEADER] !== undefined) continue;
        onMessage({ topic, partition, offset: Number(offset), key, headers, value });
      }
    })();
    this.#closers.push(async () => {
      await stream.close();
      await reading;
      await consumer.close(true);
    });
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0)) await close();
    await this.#producer.close();
  }
}
