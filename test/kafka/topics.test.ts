/**
 * Making topics while the brokers don't yet agree on what there is: looked at again, not given up.
 *
 * The admin client is a stand-in whose answers are those that brokers were seen to give.
 */
import { describe, expect, it, vi } from 'vitest';
import { createKafkaBus } from '../../engine/kafka/bus.ts';

class BrokerSays extends Error {
  readonly type: string;
  constructor(type: string) {
    super(type);
    this.type = type;
  }
}
const { admin } = vi.hoisted(() => ({
  admin: {
    connect: vi.fn<() => Promise<void>>(() => Promise.resolve()),
    disconnect: vi.fn<() => Promise<void>>(() => Promise.resolve()),
    listTopics: vi.fn<() => Promise<string[]>>(),
    fetchTopicMetadata: vi.fn<() => Promise<object>>(),
    createTopics: vi.fn<() => Promise<boolean>>(),
  },
}));
vi.mock('kafkajs', async (original) => ({
  ...(await original<object>()),
  Kafka: class {
    admin(): typeof admin {
      return admin;
    }
  },
}));

const spec = { topic: 't', partitions: 2 };
const there = { topics: [{ name: 't', partitions: [{}, {}] }] };

it('goes on when a topic that was just made is not known everywhere yet', async () => {
  admin.listTopics.mockResolvedValueOnce([]).mockResolvedValue(['t']);
  admin.createTopics.mockRejectedValueOnce(new BrokerSays('UNKNOWN_TOPIC_OR_PARTITION'));
  admin.fetchTopicMetadata
    .mockRejectedValueOnce(new BrokerSays('LEADER_NOT_AVAILABLE'))
    .mockResolvedValue(there);
  const bus = createKafkaBus({ brokers: ['127.0.0.1:1'] });
  await bus.ensureTopics([spec]);
  expect(admin.createTopics).toHaveBeenCalledTimes(1);
  expect(admin.fetchTopicMetadata).toHaveBeenCalledTimes(2);
  await bus.close();
});

it('makes a topic again that was still being deleted', async () => {
  admin.createTopics.mockReset().mockResolvedValue(true);
  admin.listTopics.mockReset().mockResolvedValueOnce(['t']).mockResolvedValueOnce([]);
  admin.listTopics.mockResolvedValue(['t']);
  admin.fetchTopicMetadata
    .mockReset()
    .mockRejectedValueOnce(new BrokerSays('UNKNOWN_TOPIC_OR_PARTITION'))
    .mockResolvedValue(there);
  const bus = createKafkaBus({ brokers: ['127.0.0.1:1'] });
  await bus.ensureTopics([spec]);
  expect(admin.createTopics).toHaveBeenCalledTimes(1);
  await bus.close();
});

it('does not try again what no waiting mends', async () => {
  admin.listTopics.mockReset().mockResolvedValue([]);
  admin.createTopics.mockReset().mockRejectedValue(new BrokerSays('TOPIC_AUTHORIZATION_FAILED'));
  const bus = createKafkaBus({ brokers: ['127.0.0.1:1'] });
  await expect(bus.ensureTopics([spec])).rejects.toMatchObject({ code: 'BUS_UNAVAILABLE' });
  expect(admin.createTopics).toHaveBeenCalledTimes(1);
  await bus.close();
});

describe('services that ask at once by one client', () => {
  const client = (): void => {
    for (const call of Object.values(admin)) call.mockReset();
    admin.connect.mockResolvedValue();
    admin.disconnect.mockResolvedValue();
    admin.listTopics.mockResolvedValue(['t']);
  };

  it.each([new Error('Closed connection'), new BrokerSays('TOPIC_AUTHORIZATION_FAILED')])(
    'have their answers although one had %o, and it is closed after the last',
    async (failure) => {
      client();
      const second = Promise.withResolvers<object>();
      admin.fetchTopicMetadata
        .mockRejectedValueOnce(failure)
        .mockReturnValueOnce(second.promise)
        .mockResolvedValue(there);
      // As kafkajs does it: a request that is on its way fails when its client is closed.
      admin.disconnect.mockImplementation(() => {
        second.reject(new Error('Closed connection'));
        return Promise.resolve();
      });
      const bus = createKafkaBus({ brokers: ['127.0.0.1:1'] });
      const asked = [bus.ensureTopics([spec]), bus.ensureTopics([spec])];
      await expect(asked[0]).rejects.toMatchObject({ code: 'BUS_UNAVAILABLE' });
      // The next one has a client of its own.
      await bus.ensureTopics([spec]);
      expect(admin.connect).toHaveBeenCalledTimes(2);
      expect(admin.disconnect).not.toHaveBeenCalled();
      second.resolve(there);
      await asked[1];
      expect(admin.disconnect).toHaveBeenCalledTimes(1);
      await bus.close();
      expect(admin.disconnect).toHaveBeenCalledTimes(2);
    },
  );

  it('wait on when they are told that a topic is not there yet, and none is cut off', async () => {
    client();
    const second = Promise.withResolvers<object>();
    admin.fetchTopicMetadata
      .mockRejectedValueOnce(new BrokerSays('UNKNOWN_TOPIC_OR_PARTITION'))
      .mockReturnValueOnce(second.promise)
      .mockResolvedValue(there);
    const bus = createKafkaBus({ brokers: ['127.0.0.1:1'] });
    const asked = [bus.ensureTopics([spec]), bus.ensureTopics([spec])];
    await asked[0];
    expect(admin.disconnect).not.toHaveBeenCalled();
    second.resolve(there);
    await asked[1];
    await bus.close();
  });
});
