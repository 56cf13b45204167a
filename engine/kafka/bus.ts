/**
 * The bus on Kafka: the port's methods over kafkajs, which has its one home in this folder.
 *
 * Guards the port's promises (`ports.ts`): durable on return, BUS_UNAVAILABLE in bounded time, topics
 * with the partition count that was asked for. A crash loses what `publish` has not answered, and
 * repeats what was delivered and not committed.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Kafka, type Admin } from 'kafkajs';
import { SagaxError } from '../core/errors.ts';
import type { Bus, BusMessage, SubscribeOptions, Subscription, TopicSpec } from '../ports.ts';
import { SharedAdmin } from './admin.ts';
import { registerCodecs } from './codecs.ts';
import { lightenEncoder } from './encoder.ts';
import { topicFaultOf, topicNotYet, unavailable, type TopicFault } from './failures.ts';
import { KnownTopics } from './known-topics.ts';
import {
  filterTimeoutWarning,
  kafkaSettings,
  type KafkaBusOptions,
  type KafkaSettings,
} from './options.ts';
import { KafkaPublisher } from './publisher.ts';
import { quietenRequestQueues } from './quiet.ts';
import { assertSubscribable, KafkaSubscription } from './subscription.ts';

const ADMIN_LIMIT_MS = 15_000;
const PING_LIMIT_MS = 3_000;
/** Topics take a moment to be known everywhere after they were made; they are looked at again this often. */
const TOPIC_LOOK_EVERY_MS = 100;
const TOPIC_LIMIT_MS = 15_000;
/**
 * Messages bear the broker's time. With the producer's, a broker refuses all that comes from a machine whose clock is
 * an hour ahead (since Kafka 4.0), and deletes early what comes from one whose clock is days behind.
 */
const BROKERS_TIME = { name: 'message.timestamp.type', value: 'LogAppendTime' };

/** @throws SagaxError CONFIG_INVALID. Nothing is connected before the first call. */
export function createKafkaBus(options: KafkaBusOptions): Bus {
  return new KafkaBus(kafkaSettings(options));
}

class KafkaBus implements Bus {
  readonly kind = 'kafka';
  readonly #settings: KafkaSettings;
  readonly #topics: KnownTopics;
  readonly #publisher: KafkaPublisher;
  readonly #subscriptions = new Set<KafkaSubscription>();
  readonly #admin: SharedAdmin;
  #closed = false;

  constructor(settings: KafkaSettings) {
    registerCodecs();
    filterTimeoutWarning();
    const isAsExpected = [quietenRequestQueues(), lightenEncoder()].every(Boolean);
    if (!isAsExpected) {
      settings.log.debug({}, 'this kafkajs is built otherwise: parts of it are left as they are');
    }
    this.#settings = settings;
    this.#admin = new SharedAdmin(settings);
    this.#topics = new KnownTopics((topic) => this.#faultOf(topic), settings.publishTimeoutMs);
    this.#publisher = new KafkaPublisher(new Kafka(settings.client), settings, this.#topics);
  }

  publish(messages: readonly BusMessage[]): Promise<void> {
    return this.#publisher.publish(messages);
  }

  subscribe(options: SubscribeOptions): Subscription {
    assertSubscribable(options);
    if (this.#closed) throw unavailable('this bus has been closed');
    const makeKafka = (): Kafka => new Kafka(this.#settings.client);
    const subscription = new KafkaSubscription(makeKafka, this.#settings, options);
    this.#subscriptions.add(subscription);
    void subscription.closed.then(() => this.#subscriptions.delete(subscription));
    return subscription;
  }

  async ensureTopics(specs: readonly TopicSpec[]): Promise<void> {
    const wanted = new Map(specs.map(({ topic, partitions }) => [topic, partitions]));
    const giveUpAt = performance.now() + TOPIC_LIMIT_MS;
    for (let round = 1; ; round++) {
      const left = await this.#makeMissing(wanted);
      if (left === null) return this.#topics.add(wanted.keys());
      if (performance.now() > giveUpAt) throw left;
      if (round > 1) await delay(TOPIC_LOOK_EVERY_MS);
    }
  }

  /** @returns null when all are there, else what to say if they never are */
  async #makeMissing(wanted: ReadonlyMap<string, number>): Promise<SagaxError | null> {
    try {
      const missing = await this.#admin.ask(
        (admin) => this.#missingTopics(admin, wanted),
        ADMIN_LIMIT_MS,
      );
      if (missing.length === 0) return null;
      await this.#admin.ask((admin) => this.#createTopics(admin, missing), ADMIN_LIMIT_MS);
      const names = missing.map(({ topic }) => topic).join(', ');
      return unavailable(`the topics ${names} did not appear`);
    } catch (error) {
      if (error instanceof SagaxError && topicNotYet(error.cause)) return error;
      throw error;
    }
  }

  async endOffsets(topic: string): Promise<Map<number, bigint>> {
    const offsets = await this.#admin.ask(
      (admin) => admin.fetchTopicOffsets(topic),
      ADMIN_LIMIT_MS,
    );
    const sorted = offsets.sort((a, b) => a.partition - b.partition);
    return new Map(sorted.map(({ partition, offset }) => [partition, BigInt(offset)]));
  }

  async ping(): Promise<void> {
    await this.#admin.ask((admin) => admin.describeCluster(), PING_LIMIT_MS);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#subscriptions].map((subscription) => subscription.close()));
    await this.#publisher.close();
    await this.#admin.close();
  }

  async #faultOf(topic: string): Promise<TopicFault | null> {
    return this.#admin.ask(async (admin) => {
      try {
        await admin.fetchTopicMetadata({ topics: [topic] });
        return null;
      } catch (error) {
        const fault = topicFaultOf(error);
        if (fault === null) throw error;
        return fault;
      }
    }, ADMIN_LIMIT_MS);
  }

  async #missingTopics(
    admin: Admin,
    wanted: ReadonlyMap<string, number>,
  ): Promise<{ topic: string; partitions: number }[]> {
    const known = new Set(await admin.listTopics());
    const present = [...wanted.keys()].filter((topic) => known.has(topic));
    if (present.length > 0) {
      const { topics } = await admin.fetchTopicMetadata({ topics: present });
      for (const { name, partitions } of topics) {
        assertPartitions(name, partitions.length, wanted.get(name) ?? 0);
      }
    }
    return [...wanted]
      .filter(([topic]) => !known.has(topic))
      .map(([topic, partitions]) => ({ topic, partitions }));
  }

  async #createTopics(admin: Admin, missing: readonly TopicSpec[]): Promise<void> {
    const { replicationFactor } = this.#settings;
    try {
      await admin.createTopics({
        waitForLeaders: true,
        timeout: 5_000,
        topics: missing.map(({ topic, partitions }) => ({
          topic,
          numPartitions: partitions,
          replicationFactor,
          configEntries: [BROKERS_TIME],
        })),
      });
    } catch (error) {
      // Another process made some of them at the same time: the next round compares what is there.
      if (!isAlreadyThere(error)) throw error;
    }
  }
}

function assertPartitions(topic: string, found: number, wanted: number): void {
  if (found === wanted) return;
  throw new SagaxError(
    'TOPOLOGY_MISMATCH',
    `Topic ${topic} has ${found} partitions, and ${wanted} are wanted. Set the partition count to ${found}, ` +
      'or use another topic prefix: adding partitions to a topic in use moves keys to other partitions.',
  );
}

function isAlreadyThere(error: unknown): boolean {
  const { type, errors } = error as { type?: string; errors?: { type?: string }[] };
  return (
    type === 'TOPIC_ALREADY_EXISTS' ||
    (errors?.every((item) => item.type === 'TOPIC_ALREADY_EXISTS') ?? false)
  );
}
