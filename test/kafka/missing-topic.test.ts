/**
 * Messages to a topic that nothing can be published to: refused in a way that says so, and no others with them.
 *
 * The clients are stand-ins whose answers are those of brokers and of kafkajs 2.2.4, which tries a send that names
 * such a topic for about five seconds and then fails all of it.
 */
import type { ProducerBatch } from 'kafkajs';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createKafkaBus } from '../../engine/kafka/bus.ts';
import type { Bus } from '../../engine/ports.ts';
import { message } from '../conformance/bus-conformance.ts';

class BrokerSays extends Error {
  readonly type: string;
  constructor(type: string) {
    super(type);
    this.type = type;
  }
}

/** Topic → what is wrong with it: when it is looked for, and when it is sent to. */
const world = vi.hoisted(() => ({
  looks: new Map<string, string>(),
  sends: new Map<string, string>(),
  asked: [] as string[],
  sent: [] as string[],
}));
const TRIED_MS = 5_000;

vi.mock('kafkajs', async (original) => ({
  ...(await original<object>()),
  Kafka: class {
    admin(): object {
      return {
        connect: () => Promise.resolve(),
        disconnect: () => Promise.resolve(),
        fetchTopicMetadata: async ({ topics: [topic = ''] }: { topics: string[] }) => {
          world.asked.push(topic);
          const fault = world.looks.get(topic);
          if (fault !== undefined) throw new BrokerSays(fault);
          return { topics: [{ name: topic, partitions: [{}] }] };
        },
      };
    }
    producer(): object {
      return {
        connect: () => Promise.resolve(),
        disconnect: () => Promise.resolve(),
        sendBatch: async ({ topicMessages = [] }: ProducerBatch) => {
          for (const { topic } of topicMessages) {
            const fault = world.sends.get(topic);
            if (fault === undefined) continue;
            if (fault !== 'UNKNOWN_TOPIC_OR_PARTITION') throw new BrokerSays(fault);
            await new Promise((resolve) => setTimeout(resolve, TRIED_MS));
            throw new Error('KafkaJSNumberOfRetriesExceeded', { cause: new BrokerSays(fault) });
          }
          world.sent.push(
            ...topicMessages.flatMap(({ messages }) => messages.map(({ value }) => String(value))),
          );
          return topicMessages.map(({ topic }) => ({
            topicName: topic,
            partition: 0,
            errorCode: 0,
          }));
        },
      };
    }
  },
}));

let bus: Bus;
beforeEach(() => {
  vi.useFakeTimers();
  world.looks.clear();
  world.sends.clear();
  world.asked.length = 0;
  world.sent.length = 0;
  bus = createKafkaBus({ brokers: ['127.0.0.1:1'] });
});
afterEach(async () => {
  await bus.close();
  vi.useRealTimers();
});

const missing = (topic: string): void => {
  world.looks.set(topic, 'UNKNOWN_TOPIC_OR_PARTITION');
  world.sends.set(topic, 'UNKNOWN_TOPIC_OR_PARTITION');
};
/** Publishes, and says after how many ms it came to what. */
const outcome = async (...messages: Parameters<typeof message>[]): Promise<[string, number]> => {
  const from = performance.now();
  const said = await bus.publish(messages.map((one) => message(...one))).then(
    () => 'published',
    (error: unknown) => (error as { code: string }).code,
  );
  return [said, performance.now() - from];
};
const after = async <T>(ms: number, work: Promise<T>): Promise<T> => {
  await vi.advanceTimersByTimeAsync(ms);
  return work;
};

it('lets others go out at once while a topic is looked for, and then says that it is not there', async () => {
  missing('no');
  const refused = outcome(['no', 0, 'lost']);
  const mixed = outcome(['yes', 0, 'with it'], ['no', 0, 'lost']);
  expect(await after(0, outcome(['yes', 0, 'a']))).toEqual(['published', 0]);
  await vi.advanceTimersByTimeAsync(10_000);
  for (const [said, ms] of await Promise.all([refused, mixed])) {
    expect(said).toBe('TOPOLOGY_MISMATCH');
    expect(ms).toBeGreaterThan(3_000);
    expect(ms).toBeLessThan(5_500);
  }
  expect(world.sent).toEqual(['a']);
  // It has had its patience.
  expect(await after(0, outcome(['no', 0, 'lost']))).toEqual(['TOPOLOGY_MISMATCH', 0]);
});

it('publishes to a topic that appears a moment later', async () => {
  world.looks.set('new', 'UNKNOWN_TOPIC_OR_PARTITION');
  const published = outcome(['new', 0, 'a']);
  await vi.advanceTimersByTimeAsync(1_500);
  world.looks.clear();
  const [said, ms] = await after(3_000, published);
  expect(said).toBe('published');
  expect(ms).toBeLessThan(3_500);
  world.asked.length = 0;
  expect(await after(0, outcome(['new', 0, 'b']))).toEqual(['published', 0]);
  expect(world.asked).toEqual([]);
});

it('tells the good from the bad when a topic that was there is gone', async () => {
  await after(0, Promise.all([outcome(['yes', 0, 'a']), outcome(['gone', 0, 'b'])]));
  missing('gone');
  const [before, bad, behind] = await after(
    TRIED_MS,
    Promise.all([outcome(['yes', 0, 'c']), outcome(['gone', 0, 'lost']), outcome(['yes', 0, 'd'])]),
  );
  expect([before[0], bad[0], behind[0]]).toEqual(['published', 'TOPOLOGY_MISMATCH', 'published']);
  expect(world.sent).toEqual(['a', 'b', 'c', 'd']);
});

it('does not blame a topic for one that the producer had before', async () => {
  await after(0, outcome(['yes', 0, 'a']));
  // kafkajs asks for all topics that the producer was ever given; a new one has forgotten them.
  world.sends.set('yes', 'UNKNOWN_TOPIC_OR_PARTITION');
  const published = outcome(['yes', 0, 'b']);
  await vi.advanceTimersByTimeAsync(TRIED_MS - 1);
  world.sends.clear();
  expect(await after(1, published)).toEqual(['published', TRIED_MS]);
});

it.each([
  ['INVALID_TOPIC_EXCEPTION', 'TOPOLOGY_MISMATCH'],
  ['TOPIC_AUTHORIZATION_FAILED', 'CONFIG_INVALID'],
])('refuses what brokers answer with %s by %s, neighbours not', async (fault, code) => {
  world.sends.set('__bad', fault);
  const [good, bad] = await after(
    0,
    Promise.all([outcome(['yes', 0, 'a']), outcome(['__bad', 0, 'b'])]),
  );
  expect([good[0], bad[0]]).toEqual(['published', code]);
  world.looks.set('hidden', fault);
  expect(await after(0, outcome(['hidden', 0, 'c']))).toEqual([code, 0]);
});

it.each(['', 'a b', 'x'.repeat(40_000)])('refuses a name that no topic can have', async (name) => {
  expect(await after(0, outcome([name, 0, 'a']))).toEqual(['TOPOLOGY_MISMATCH', 0]);
  expect(world.asked).toEqual([]);
});

it('says that the bus is away when nobody can be asked', async () => {
  world.looks.set('any', 'NETWORK_EXCEPTION');
  expect((await after(0, outcome(['any', 0, 'a'])))[0]).toBe('BUS_UNAVAILABLE');
});
