/**
 * A group joined again while fetches are under way: the answer to one of before must not be taken for the new
 * assignment's, or what lies between the group's offset and that answer is never read (I10).
 *
 * The consumer is a stand-in that keeps these traits of kafkajs 2.2.4 with several brokers: one broker's fetcher joins
 * again when it meets stale metadata, and the others' run on; offsets begin anew at each join, and a batch
 * that is resolved moves whatever offsets there are; for a pause or a seek an answer is dropped.
 */
import type { Consumer, ConsumerConfig, ConsumerRunConfig, EachBatchPayload, Kafka } from 'kafkajs';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { kafkaSettings } from '../../engine/kafka/options.ts';
import { KafkaSubscription } from '../../engine/kafka/subscription.ts';

const FETCHED = 10;
const LOG_END = 30;

class StandIn {
  readonly events = new Proxy({}, { get: (_, name) => String(name) }) as Consumer['events'];
  readonly #listeners = new Map<string, (event: object) => void>();
  readonly #protocol: () => void;
  #eachBatch: ConsumerRunConfig['eachBatch'];
  /** The group's offset, and this generation's next one. */
  committed = 0;
  #next: number | null = null;
  #seek: number | null = null;
  #paused = false;

  constructor({ partitionAssigners = [] }: ConsumerConfig) {
    const cluster = {} as Parameters<(typeof partitionAssigners)[0]>[0]['cluster'];
    const [assigner] = partitionAssigners.map((make) =>
      make({ cluster, groupId: 'g', logger: {} as never }),
    );
    this.#protocol = () => void assigner?.protocol({ topics: ['t'] });
  }
  on(name: string, listener: (event: object) => void): void {
    this.#listeners.set(name, listener);
  }
  #emit(name: string, payload: object): void {
    this.#listeners.get(name)?.({ payload });
  }
  async connect(): Promise<void> {}
  async subscribe(): Promise<void> {}
  async disconnect(): Promise<void> {}
  async run({ eachBatch }: ConsumerRunConfig): Promise<void> {
    this.#eachBatch = eachBatch;
    this.join(1);
  }
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
  }
  paused(): object[] {
    return this.#paused ? [{ topic: 't', partitions: [0] }] : [];
  }
  seek({ offset }: { offset: string }): void {
    this.#seek = Number(offset);
  }
  async commitOffsets([said]: { offset: string }[]): Promise<void> {
    this.committed = Number(said?.offset);
  }
  /** With a second attempt there was a generation in which others may have had the partition. */
  join(attempts: number): void {
    for (let nth = 0; nth < attempts; nth++) this.#protocol();
    this.#next = null;
    this.#emit('GROUP_JOIN', { memberId: 'm', memberAssignment: { t: [0] } });
  }
  rebalance(): void {
    this.#emit('REBALANCING', {});
    this.join(2);
  }
  /** Asks a broker. @returns what its answer does when it comes */
  fetch(): () => Promise<void> {
    this.#emit('FETCH_START', {});
    this.#next = this.#seek ?? this.#next ?? this.committed;
    this.#seek = null;
    const from = this.#next;
    return async () => {
      const dropped = this.#seek !== null || this.#paused;
      this.#emit('FETCH', {});
      const count = Math.min(FETCHED, LOG_END - from);
      if (dropped || count <= 0) return;
      const offsets = Array.from({ length: count }, (_, i) => String(from + i));
      await this.#eachBatch?.({
        batch: {
          topic: 't',
          partition: 0,
          messages: offsets.map((offset) => ({ offset, key: null, value: null, headers: {} })),
          lastOffset: () => offsets.at(-1),
        },
        resolveOffset: (offset: string) => (this.#next = Number(offset) + 1),
        isRunning: () => true,
        isStale: () => this.#seek !== null,
      } as unknown as EachBatchPayload);
    };
  }
}

let consumer: StandIn;
/** What each assignment was given. */
let given: number[][];
/** Messages below it are done with. */
let doneBelow: bigint;
let subscription: KafkaSubscription;

beforeEach(async () => {
  vi.useFakeTimers();
  given = [];
  doneBelow = 0n;
  const makeKafka = (): Kafka =>
    ({
      consumer: (config: ConsumerConfig) => {
        consumer = new StandIn(config);
        return consumer as unknown as Consumer;
      },
    }) as unknown as Kafka;
  subscription = new KafkaSubscription(makeKafka, kafkaSettings({ brokers: ['127.0.0.1:1'] }), {
    group: 'g',
    topics: ['t'],
    onAssigned: () => {
      given.push([]);
      return Promise.resolve(null);
    },
    onBatch: (batch) => {
      given.at(-1)?.push(...batch.messages.map(({ offset }) => Number(offset)));
      batch.commit(doneBelow);
      return Promise.resolve();
    },
  });
  await subscription.ready();
  // Ten are taken, and the group knows that the first five are done.
  doneBelow = 5n;
  await consumer.fetch()();
  await vi.advanceTimersByTimeAsync(1_500);
});
afterEach(async () => {
  await subscription.close();
  vi.useRealTimers();
});

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from }, (_, i) => from + i);
const readToEnd = async (): Promise<void> => {
  for (let fetches = 0; fetches < 5; fetches++) {
    await consumer.fetch()();
    await vi.advanceTimersByTimeAsync(1_000);
  }
};

it('commits what is done, and holds more than that', () => {
  expect([given, consumer.committed]).toEqual([[range(0, 10)], 5]);
});

it('reads on where the group is, though a fetch from before the join is answered after it', async () => {
  const before = consumer.fetch();
  consumer.join(2);
  await vi.advanceTimersByTimeAsync(0);
  await before();
  await readToEnd();
  expect(given).toEqual([range(0, 10), range(5, LOG_END)]);
});

it('does so at the second join after it too', async () => {
  const before = consumer.fetch();
  consumer.join(2);
  consumer.join(2);
  await vi.advanceTimersByTimeAsync(0);
  await before();
  await readToEnd();
  expect(given.at(-1)).toEqual(range(5, LOG_END));
});

it('reads all again that is not done when two brokers gave the same', async () => {
  const answers = [consumer.fetch(), consumer.fetch()];
  for (const answer of answers) await answer();
  await vi.advanceTimersByTimeAsync(1_000);
  await readToEnd();
  expect(given).toEqual([range(0, 20), range(5, LOG_END)]);
});

it('leaves it to the group where to begin when all fetches had ended', async () => {
  consumer.committed = 20;
  consumer.rebalance();
  await vi.advanceTimersByTimeAsync(0);
  await readToEnd();
  expect(given).toEqual([range(0, 10), range(20, LOG_END)]);
});
