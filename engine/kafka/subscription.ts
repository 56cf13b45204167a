/**
 * A member of a consumer group: partitions come and go, messages go to `onBatch`, offsets are hints.
 *
 * Guards what kafkajs leaves open. It has no hook for partitions that are lost, so each GROUP_JOIN is
 * compared with what was ours. It fetches a broker's partitions in lockstep, so batches are handed to a
 * lane each and the fetch loop never waits for a handler; a full lane is paused. It can stop without a
 * word, so a watchdog makes a new consumer when nothing has been heard for long. It can't be stopped while
 * it starts, and would then run on as a member that nobody listens to: a consumer that is given up in its
 * start is let go of when the start is over. It can join again while fetches are under way (`restarts.ts`).
 */
import type { Consumer, EachBatchPayload, Kafka } from 'kafkajs';
import { SagaxError } from '../core/errors.ts';
import { Patience, PATIENCE_MS } from '../core/patience.ts';
import type { SubscribeOptions, Subscription } from '../ports.ts';
import { withDeadline } from './failures.ts';
import { groupAssigner } from './group-assigner.ts';
import { Lane, pause, type LaneHost } from './lane.ts';
import { receivedMessage } from './messages.ts';
import type { KafkaSettings } from './options.ts';
import { Restarts } from './restarts.ts';

const DEFAULT_MAX_BATCH = 500;
const COMMIT_INTERVAL_MS = 1_000;
const HEARTBEAT_INTERVAL_MS = 1_000;
/** Batches that kafkajs hands over at once; handing over takes no time, since lanes do the work. */
const CONCURRENT_HANDOVERS = 16;
const REBUILD_PAUSE_MIN_MS = 500;
const REBUILD_PAUSE_MAX_MS = 10_000;
/** What a farewell to the broker may take; its session timeout does the rest. */
const DISCONNECT_LIMIT_MS = 5_000;
const OPEN_RETRY_PAUSE_MS = 500;

export class KafkaSubscription implements Subscription {
  readonly #makeKafka: () => Kafka;
  readonly #settings: KafkaSettings;
  readonly #options: SubscribeOptions;
  readonly #host: LaneHost;
  readonly #lanes = new Map<string, Lane>();
  /** Per partition: what must be over before it may be opened again (revocation, a running batch). */
  readonly #tails = new Map<string, Promise<void>>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();
  readonly #stop = new AbortController();
  readonly #timers: NodeJS.Timeout[] = [];
  /** The one we listen to; null between two of them. */
  #consumer: Consumer | null = null;
  /** Per consumer the end of its start, whatever came of it. */
  readonly #starts = new WeakMap<Consumer, Promise<void>>();
  readonly #restarts = new Restarts();
  #memberId: string | null = null;
  #joinAttempts = 0;
  #lastSignOfLife = performance.now();
  #rebuildPauseMs = REBUILD_PAUSE_MIN_MS;
  readonly #patience = new Patience();
  #messagesOfFetch = 0;
  /** The same for all batches of one fetch. */
  #pauseOfFetch: Promise<void> | null = null;
  #running: Promise<void>;
  #closing: Promise<void> | null = null;

  constructor(makeKafka: () => Kafka, settings: KafkaSettings, options: SubscribeOptions) {
    this.#makeKafka = makeKafka;
    this.#settings = settings;
    this.#options = options;
    this.#host = {
      onBatch: options.onBatch,
      maxBatch: options.maxBatch ?? DEFAULT_MAX_BATCH,
      roomMade: (lane) => this.#resumeIfRoom(lane),
      seek: (lane, offset) => this.#seek(lane, offset),
      batchFailed: (lane, error, pauseMs) =>
        this.#warn(
          { ...at(lane), err: error, pause_ms: pauseMs },
          'onBatch failed; it comes again',
        ),
    };
    this.#every(COMMIT_INTERVAL_MS, () => void this.#commit());
    this.#every(settings.sessionTimeoutMs / 2, () => this.#watch());
    this.#running = this.#start();
  }

  assigned(): { topic: string; partition: number }[] {
    return [...this.#lanes.values()].map(({ topic, partition }) => ({ topic, partition }));
  }

  ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Resolves when `close` is done. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#stop.abort();
    this.#timers.forEach((timer) => clearInterval(timer));
    const lanes = [...this.#lanes.values()];
    lanes.forEach((lane) => lane.close());
    await Promise.all(lanes.map((lane) => lane.idle()));
    await this.#commit();
    this.#lanes.clear();
    lanes.forEach((lane) => this.#revoke(lane));
    await Promise.all(this.#tails.values());
    // `onRevoked` may have said more to commit.
    await this.#commit(lanes);
    await withDeadline(this.#running, DISCONNECT_LIMIT_MS).catch(() => undefined);
    await this.#disconnect(this.#consumer);
    this.#ready.resolve();
    this.#closed.resolve();
  }

  // ---- one consumer after another

  /** Starts a consumer, and again until one runs or is given up: then `#rebuild` does the same. */
  async #start(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const consumer = this.#makeConsumer();
      this.#consumer = consumer;
      this.#lastSignOfLife = performance.now();
      const start = this.#startOne(consumer);
      this.#starts.set(
        consumer,
        start.catch(() => undefined),
      );
      try {
        await start;
        return;
      } catch (error) {
        if (!this.#wants(consumer)) return;
        this.#warn({ err: error }, 'the consumer did not start; trying again');
        // Nobody's while we wait, or the watchdog would start a second row of consumers.
        this.#consumer = null;
        void this.#disconnect(consumer);
        await this.#rebuildPause();
      }
    }
  }

  async #startOne(consumer: Consumer): Promise<void> {
    await consumer.connect();
    if (!this.#wants(consumer)) return;
    await consumer.subscribe({ topics: [...this.#options.topics], fromBeginning: true });
    if (!this.#wants(consumer)) return;
    await consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      partitionsConsumedConcurrently: CONCURRENT_HANDOVERS,
      eachBatch: (payload) => {
        this.#handOver(consumer, payload);
        return this.#fetchPause();
      },
    });
  }

  #wants(consumer: Consumer): boolean {
    return this.#consumer === consumer && !this.#stop.signal.aborted;
  }

  #rebuild(why: string, error?: unknown): void {
    if (this.#stop.signal.aborted) return;
    this.#warn({ err: error, pause_ms: this.#rebuildPauseMs }, `${why}; making a new consumer`);
    const gone = this.#consumer;
    this.#consumer = null;
    this.#loseAll();
    this.#running = (async () => {
      await Promise.all([this.#disconnect(gone), this.#rebuildPause()]);
      await this.#start();
    })();
  }

  async #rebuildPause(): Promise<void> {
    await pause(this.#rebuildPauseMs, this.#stop.signal);
    this.#rebuildPauseMs = Math.min(this.#rebuildPauseMs * 2, REBUILD_PAUSE_MAX_MS);
  }

  #makeConsumer(): Consumer {
    this.#restarts.fetchesEnded();
    const { sessionTimeoutMs, rebalanceTimeoutMs, fetchWaitMs, client } = this.#settings;
    // A client of its own: kafkajs shares committed offsets among a client's consumers of one group.
    const consumer = this.#makeKafka().consumer({
      groupId: this.#options.group,
      sessionTimeout: sessionTimeoutMs,
      rebalanceTimeout: rebalanceTimeoutMs,
      heartbeatInterval: Math.min(HEARTBEAT_INTERVAL_MS, sessionTimeoutMs / 4),
      maxWaitTimeInMs: fetchWaitMs,
      allowAutoTopicCreation: false,
      partitionAssigners: [groupAssigner({ owned: () => this.#ownedForJoin() })],
      // One place restarts: `#rebuild`.
      retry: { ...client.retry, restartOnFailure: () => Promise.resolve(false) },
    });
    const current = (listener: () => void) => (): void => {
      if (this.#consumer === consumer) listener();
    };
    const alive = current(() => (this.#lastSignOfLife = performance.now()));
    consumer.on(
      consumer.events.FETCH_START,
      current(() => this.#restarts.fetchBegins()),
    );
    consumer.on(consumer.events.FETCH, () => {
      alive();
      this.#fetched();
    });
    consumer.on(consumer.events.HEARTBEAT, alive);
    // A rebalance ends our say over offsets: what is known now is said now, so that less comes twice.
    consumer.on(
      consumer.events.REBALANCING,
      current(() => {
        // Said when all fetches have ended; a join that one of them makes says nothing.
        this.#restarts.fetchesEnded();
        void this.#commit();
      }),
    );
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) =>
      current(() => this.#joined(consumer, payload.memberId, payload.memberAssignment))(),
    );
    consumer.on(consumer.events.CRASH, ({ payload }) =>
      current(() => this.#rebuild('the consumer stopped', payload.error))(),
    );
    return consumer;
  }

  #watch(): void {
    const silentMs = performance.now() - this.#lastSignOfLife;
    const { sessionTimeoutMs, rebalanceTimeoutMs } = this.#settings;
    // Joining may take a whole rebalance; a member that gives up in it only makes the next one longer.
    const limitMs = Math.max(3 * sessionTimeoutMs, rebalanceTimeoutMs + sessionTimeoutMs);
    if (this.#consumer === null || silentMs < limitMs) return;
    this.#rebuild(`nothing was heard from the consumer for ${Math.round(silentMs)} ms`);
  }

  /**
   * Lets go of a consumer; when this takes too long, it is still done later. Never before its start is over:
   * kafkajs forgets what it stops, and what joins the group after that could never be stopped again.
   */
  async #disconnect(consumer: Consumer | null): Promise<void> {
    if (consumer === null) return;
    const gone = (async () => {
      await this.#starts.get(consumer);
      await consumer.disconnect();
    })();
    await withDeadline(gone, DISCONNECT_LIMIT_MS).catch((error: unknown) =>
      this.#warn({ err: error }, 'leaving the group failed; its session timeout will do it'),
    );
  }

  // ---- assignment

  #ownedForJoin(): string[] {
    this.#joinAttempts += 1;
    return [...this.#lanes.keys()];
  }

  /**
   * Runs to its end before the first fetch of the new generation (kafkajs emits synchronously), so the
   * pauses and seeks made here are never late.
   */
  #joined(consumer: Consumer, memberId: string, assignment: { [topic: string]: number[] }): void {
    this.#lastSignOfLife = performance.now();
    this.#rebuildPauseMs = REBUILD_PAUSE_MIN_MS;
    // A new member id, or a generation that we had no part in: others may have owned what was ours.
    if (this.#memberId !== memberId || this.#joinAttempts > 1) this.#loseAll();
    this.#memberId = memberId;
    this.#joinAttempts = 0;
    if (this.#stop.signal.aborted) return;
    const ours = new Set<string>();
    const openings: Promise<void>[] = [];
    for (const [topic, partitions] of Object.entries(assignment)) {
      for (const partition of partitions) {
        ours.add(`${topic}/${partition}`);
        openings.push(this.#keepOrOpen(consumer, topic, partition));
      }
    }
    for (const lane of [...this.#lanes.values()]) if (!ours.has(lane.key)) this.#lose(lane);
    void Promise.all(openings).then(() => this.#ready.resolve());
  }

  #keepOrOpen(consumer: Consumer, topic: string, partition: number): Promise<void> {
    const kept = this.#lanes.get(`${topic}/${partition}`);
    if (kept !== undefined) {
      // kafkajs would begin again at the committed offset.
      if (kept.next !== null) this.#seek(kept, kept.next);
      return Promise.resolve();
    }
    const start = this.#restarts.startOf(`${topic}/${partition}`);
    const lane = new Lane(topic, partition, this.#host, start);
    this.#lanes.set(lane.key, lane);
    consumer.pause([{ topic, partitions: [partition] }]);
    if (start !== null) this.#seek(lane, start);
    const opening = this.#open(consumer, lane);
    this.#addTail(lane.key, opening);
    return opening;
  }

  async #open(consumer: Consumer, lane: Lane): Promise<void> {
    await this.#tails.get(lane.key);
    while (!lane.closed) {
      try {
        const start = (await this.#options.onAssigned?.(lane.topic, lane.partition)) ?? null;
        if (lane.closed || this.#consumer !== consumer) return;
        if (start !== null) {
          lane.next = start;
          this.#seek(lane, start);
        }
        lane.open();
        consumer.resume([{ topic: lane.topic, partitions: [lane.partition] }]);
        return;
      } catch (error) {
        this.#warn({ ...at(lane), err: error }, 'onAssigned failed; trying again');
        await pause(OPEN_RETRY_PAUSE_MS, this.#stop.signal);
      }
    }
  }

  /**
   * The log begins again below what was read: its topic was deleted and made anew, or lost its end. Where to
   * read on is for the reader to say, so the partition goes and comes back. What was fetched comes again then.
   */
  #beginAgain(consumer: Consumer, lane: Lane, offset: bigint): void {
    this.#warn(
      { ...at(lane), expected: String(lane.next), offset: String(offset) },
      'the log begins again below what was read; the partition is opened anew',
    );
    this.#lose(lane, offset);
    const over = this.#tails.get(lane.key);
    // A reader who insists on an offset that isn't there would have us do this without a pause.
    this.#addTail(
      lane.key,
      (async () => {
        await over;
        await pause(OPEN_RETRY_PAUSE_MS, this.#stop.signal);
      })(),
    );
    void this.#keepOrOpen(consumer, lane.topic, lane.partition);
  }

  #loseAll(): void {
    for (const lane of [...this.#lanes.values()]) this.#lose(lane);
  }

  #lose(lane: Lane, logBegins: bigint | null = null): void {
    this.#lanes.delete(lane.key);
    this.#restarts.lost(lane.key, lane.doneBelow, logBegins);
    lane.close();
    this.#revoke(lane);
  }

  /** `onRevoked` waits for a running `onAssigned`, and for no batch; the partition opens again when all of it is over. */
  #revoke(lane: Lane): void {
    const opening = this.#tails.get(lane.key);
    const { topic, partition } = lane;
    const revoked = (async () => {
      await opening;
      await this.#options.onRevoked?.(topic, partition);
    })().catch((error: unknown) => this.#warn({ ...at(lane), err: error }, 'onRevoked failed'));
    this.#addTail(
      lane.key,
      Promise.all([revoked, lane.idle()]).then(() => undefined),
    );
  }

  #addTail(key: string, tail: Promise<void>): void {
    this.#tails.set(key, tail);
    void tail.finally(() => {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    });
  }

  // ---- messages

  /** Never waits: what it can't take is not fetched again before there is room, since the lane is paused. */
  #handOver(consumer: Consumer, payload: EachBatchPayload): void {
    const { batch, resolveOffset, isRunning, isStale } = payload;
    const { topic, partition } = batch;
    const lane = this.#lanes.get(`${topic}/${partition}`);
    if (this.#consumer !== consumer || lane === undefined || !isRunning() || isStale()) return;
    const messages = batch.messages.map((message) => receivedMessage(topic, partition, message));
    this.#messagesOfFetch += messages.length;
    const [first] = messages;
    if (first !== undefined && !lane.offer(messages)) {
      return this.#beginAgain(consumer, lane, first.offset);
    }
    resolveOffset(batch.lastOffset());
    if (lane.full) consumer.pause([{ topic, partitions: [partition] }]);
  }

  /** A fetch is done, and what it brought is handed over next. */
  #fetched(): void {
    this.#patience.found(this.#messagesOfFetch, performance.now());
    this.#messagesOfFetch = 0;
    this.#pauseOfFetch = null;
  }

  /** Resolves when the next fetch may go out: kafkajs waits for what each batch of this one returns. */
  async #fetchPause(): Promise<void> {
    if (!this.#patience.pays(performance.now())) return;
    this.#pauseOfFetch ??= pause(PATIENCE_MS, this.#stop.signal);
    await this.#pauseOfFetch;
  }

  #resumeIfRoom(lane: Lane): void {
    if (!lane.hasRoom || lane.closed) return;
    this.#withConsumer((consumer) => {
      const paused = consumer
        .paused()
        .some(
          ({ topic, partitions }) => topic === lane.topic && partitions.includes(lane.partition),
        );
      if (paused) consumer.resume([{ topic: lane.topic, partitions: [lane.partition] }]);
    });
  }

  #seek(lane: Lane, offset: bigint): void {
    this.#withConsumer((consumer) =>
      consumer.seek({ topic: lane.topic, partition: lane.partition, offset: offset.toString() }),
    );
  }

  /** A consumer that is being stopped throws at any call; its partitions are lost anyway. */
  #withConsumer(call: (consumer: Consumer) => void): void {
    if (this.#consumer === null) return;
    try {
      call(this.#consumer);
    } catch (error) {
      this.#settings.log.debug({ err: error, group: this.#options.group }, 'the consumer is gone');
    }
  }

  // ---- offsets

  /** Says what is done, for partitions that are ours. A hint: a failure costs duplicates, nothing else. */
  async #commit(lanes: Iterable<Lane> = this.#lanes.values()): Promise<void> {
    const due = [...lanes].filter(
      ({ toCommit, committed }) =>
        toCommit !== null && (committed === null || toCommit > committed),
    );
    const consumer = this.#consumer;
    if (due.length === 0 || consumer === null) return;
    const said = due.map((lane) => ({ lane, offset: lane.toCommit as bigint }));
    try {
      await withDeadline(
        consumer.commitOffsets(
          said.map(({ lane: { topic, partition }, offset }) => ({
            topic,
            partition,
            offset: offset.toString(),
          })),
        ),
        DISCONNECT_LIMIT_MS,
      );
      for (const { lane, offset } of said) lane.committed = offset;
    } catch (error) {
      this.#warn({ err: error }, 'offsets could not be committed; they are said again later');
    }
  }

  #every(ms: number, work: () => void): void {
    const timer = setInterval(work, ms);
    timer.unref();
    this.#timers.push(timer);
  }

  #warn(fields: object, message: string): void {
    if (this.#stop.signal.aborted) return;
    this.#settings.log.warn({ group: this.#options.group, ...fields }, message);
  }
}

function at(lane: Lane): { topic: string; partition: number } {
  return { topic: lane.topic, partition: lane.partition };
}

/** @throws SagaxError CONFIG_INVALID */
export function assertSubscribable(options: SubscribeOptions): void {
  if (options.group !== '' && options.topics.length > 0 && (options.maxBatch ?? 1) >= 1) return;
  throw new SagaxError(
    'CONFIG_INVALID',
    'A subscription needs a group, at least one topic, and a maxBatch of at least 1.',
  );
}
