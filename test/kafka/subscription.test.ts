/**
 * One consumer after another: who is given up never comes to life, and no two are started side by side. And when the
 * next fetch may go out.
 *
 * The consumers are stand-ins that keep one trait of kafkajs 2.2.4: what is stopped while it joins is
 * forgotten by `disconnect`, and then runs on as a member of the group that nothing can stop.
 */
import type { Consumer, ConsumerRunConfig, EachBatchPayload, Kafka } from 'kafkajs';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { kafkaSettings } from '../../engine/kafka/options.ts';
import { KafkaSubscription } from '../../engine/kafka/subscription.ts';

const SESSION_MS = 1_500;
const REBALANCE_MS = 15_000;
/** Silence after which the watchdog gives a consumer up, and its next look. */
const GIVEN_UP_MS = REBALANCE_MS + 2 * SESSION_MS;

class StandIn {
  readonly connecting = Promise.withResolvers<void>();
  readonly joining = Promise.withResolvers<void>();
  readonly events = new Proxy({}, { get: (_, name) => String(name) }) as Consumer['events'];
  readonly #listeners = new Map<string, (event: object) => void>();
  #eachBatch: ConsumerRunConfig['eachBatch'];
  #offset = 0;
  #joinBegun = false;
  #joined = false;
  #forgotten = false;
  disconnects = 0;

  on(name: string, listener: (event: object) => void): void {
    this.#listeners.set(name, listener);
  }
  connect(): Promise<void> {
    return this.connecting.promise;
  }
  subscribe(): Promise<void> {
    return Promise.resolve();
  }
  pause(): void {}
  resume(): void {}
  async run({ eachBatch }: ConsumerRunConfig): Promise<void> {
    this.#eachBatch = eachBatch;
    this.#joinBegun = true;
    await this.joining.promise;
    this.#joined = true;
    this.#listeners.get('GROUP_JOIN')?.({
      payload: { memberId: 'm', memberAssignment: { t: [0] } },
    });
  }
  disconnect(): Promise<void> {
    this.disconnects += 1;
    if (this.#joined && !this.#forgotten) this.#joined = false;
    else if (this.#joinBegun) this.#forgotten = true;
    return Promise.resolve();
  }
  beat(): void {
    this.#listeners.get('HEARTBEAT')?.({ payload: {} });
  }
  /** A fetch that brings as many messages of the one partition. Resolves when the next one may go out. */
  async fetch(messages: number): Promise<void> {
    this.#listeners.get('FETCH')?.({ payload: {} });
    const offsets = Array.from({ length: messages }, () => String(this.#offset++));
    await this.#eachBatch?.({
      batch: {
        topic: 't',
        partition: 0,
        messages: offsets.map((offset) => ({ offset, key: null, value: null, headers: {} })),
        firstOffset: () => offsets[0] ?? null,
        lastOffset: () => offsets.at(-1) ?? '',
      },
      resolveOffset: () => undefined,
      isRunning: () => true,
      isStale: () => false,
    } as unknown as EachBatchPayload);
  }
  get joinBegun(): boolean {
    return this.#joinBegun;
  }
  get isMember(): boolean {
    return this.#joined;
  }
}

let made: StandIn[];
let subscription: KafkaSubscription;

beforeEach(() => {
  vi.useFakeTimers();
  made = [];
  const makeKafka = (): Kafka =>
    ({
      consumer: () => {
        const one = new StandIn();
        made.push(one);
        return one as unknown as Consumer;
      },
    }) as unknown as Kafka;
  const settings = kafkaSettings({
    brokers: ['127.0.0.1:1'],
    sessionTimeoutMs: SESSION_MS,
    rebalanceTimeoutMs: REBALANCE_MS,
  });
  subscription = new KafkaSubscription(makeKafka, settings, {
    group: 'g',
    topics: ['t'],
    onBatch: () => Promise.resolve(),
  });
});
afterEach(() => {
  vi.useRealTimers();
});

const nth = (index: number): StandIn => {
  const one = made[index];
  if (one === undefined) throw new Error(`Only ${made.length} consumers were made.`);
  return one;
};
/** Lets time pass with a heartbeat every second from whoever is a member. */
const pass = async (ms: number): Promise<void> => {
  for (let left = ms; left > 0; left -= 1_000) {
    await vi.advanceTimersByTimeAsync(Math.min(left, 1_000));
    for (const one of made) if (one.isMember) one.beat();
  }
};
const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

it('does not join with a consumer that was given up while it connected', async () => {
  await pass(GIVEN_UP_MS + 6_000);
  expect(made.length).toBe(2);
  nth(1).connecting.resolve();
  nth(1).joining.resolve();
  await subscription.ready();
  nth(0).connecting.resolve();
  await settle();
  expect(nth(0).joinBegun).toBe(false);
  expect(nth(0).disconnects).toBe(1);
  await pass(2 * GIVEN_UP_MS);
  expect(made.length).toBe(2);
});

it('takes a consumer that was given up while it joined out of the group when it has joined', async () => {
  nth(0).connecting.resolve();
  await pass(GIVEN_UP_MS + 6_000);
  expect(made.length).toBe(2);
  nth(1).connecting.resolve();
  nth(1).joining.resolve();
  await subscription.ready();
  nth(0).joining.resolve();
  await settle();
  expect([nth(0).isMember, nth(1).isMember]).toEqual([false, true]);
});

it('leaves no member behind when it is closed while it joins', async () => {
  nth(0).connecting.resolve();
  await settle();
  expect(nth(0).joinBegun).toBe(true);
  const closed = subscription.close();
  await pass(11_000);
  await closed;
  nth(0).joining.resolve();
  await settle();
  expect(nth(0).isMember).toBe(false);
});

it('waits for a rebalance to its end, though its session is much shorter', async () => {
  nth(0).connecting.resolve();
  await pass(REBALANCE_MS);
  nth(0).joining.resolve();
  await subscription.ready();
  await pass(GIVEN_UP_MS);
  expect(made.length).toBe(1);
});

it('starts one consumer at a time while none can start', async () => {
  const outage_ms = 120_000;
  for (let passed = 0; passed < outage_ms; passed += 1_000) {
    made.forEach((one) => one.connecting.reject(new Error('connect ECONNREFUSED')));
    await pass(1_000);
  }
  // A pause doubles from half a second up to 10 s.
  expect(made.length).toBeLessThan(20);
  const before = made.length;
  await pass(11_000);
  expect(made.length - before).toBeLessThanOrEqual(1);
  made.forEach((one) => {
    one.connecting.resolve();
    one.joining.resolve();
  });
  await subscription.ready();
  await pass(GIVEN_UP_MS);
  expect(made.filter((one) => one.isMember).length).toBe(1);
});

it('fetches on at once while messages are few, and waits for company where there are many', async () => {
  nth(0).connecting.resolve();
  nth(0).joining.resolve();
  await settle();
  const pauseAfter = async (messages: number, every_ms: number): Promise<number> => {
    const from = performance.now();
    const over = nth(0)
      .fetch(messages)
      .then(() => performance.now() - from);
    await vi.advanceTimersByTimeAsync(every_ms);
    return over;
  };
  for (let n = 0; n < 30; n++) expect(await pauseAfter(1, 10)).toBe(0);
  for (let n = 0; n < 30; n++) await pauseAfter(8, 10);
  expect(await pauseAfter(8, 10)).toBeGreaterThan(1);
  for (let n = 0; n < 30; n++) await pauseAfter(1, 10);
  expect(await pauseAfter(1, 10)).toBe(0);
});
