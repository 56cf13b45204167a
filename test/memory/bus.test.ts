/** The memory bus in a world with faults: at least once, order per partition, ownership that moves. */
import { describe, expect, test } from 'vitest';
import { CALM, MemoryBroker, memoryBus, World, type FaultPlan } from '../../engine/memory/index.ts';
import type { BusMessage, Subscription } from '../../engine/ports.ts';

const TOPIC = 't';
const PARTITIONS = 3;

function message(partition: number, value: string): BusMessage {
  return { topic: TOPIC, partition, key: value, headers: {}, value };
}

const ROUGH: FaultPlan = {
  ...CALM,
  latencyMs: [1, 30],
  slowChance: 0.05,
  slowMs: [100, 2_000],
  failChance: 0.05,
  unknownChance: 0.05,
};

describe('memory bus', () => {
  test('under faults, deaths and rebalances everything comes at least once, in order per delivery', async () => {
    for (let seed = 1; seed <= 30; seed++) {
      const world = new World({ seed, faults: ROUGH });
      const broker = new MemoryBroker({ sessionTimeoutMs: 1_000 });
      broker.ensureTopics([{ topic: TOPIC, partitions: PARTITIONS }]);
      const seen = new Set<string>();
      const outOfOrder: string[] = [];
      const open = (name: string): void => {
        const node = world.node(name);
        const bus = memoryBus(broker, node, { commitIntervalMs: 50 });
        bus.subscribe({
          group: 'g',
          topics: [TOPIC],
          maxBatch: 7,
          onBatch: async (batch) => {
            await node.clock.sleep(world.random.int(0, 20));
            if (world.random.chance(0.1)) throw new Error('again, please');
            batch.messages.forEach((received, index) => {
              const before = batch.messages[index - 1];
              if (before !== undefined && before.offset >= received.offset) outOfOrder.push(name);
              seen.add(received.value ?? '');
            });
            batch.commit((batch.messages.at(-1)?.offset ?? 0n) + 1n);
          },
        });
        if (name.endsWith('!')) world.schedule(world.random.int(100, 900), () => node.crash());
      };
      ['a!', 'b!', 'c'].forEach(open);
      world.schedule(700, () => broker.rebalanceAll());
      const producer = memoryBus(broker, world.node('producer'));
      const sent: string[] = [];
      void (async () => {
        for (let i = 0; i < 100; i++) {
          const messages = [0, 1, 2].map((partition) => message(partition, `${partition}.${i}`));
          await producer.publish(messages).then(
            () => sent.push(...messages.map(({ value }) => value)),
            () => undefined,
          );
        }
      })();
      expect(await world.run({}), `seed ${seed}`).toBe('idle');
      expect(sent.length).toBeGreaterThan(200);
      expect(sent.filter((value) => !seen.has(value))).toEqual([]);
      expect(outOfOrder).toEqual([]);
    }
  });

  test('a stopped member goes on delivering what it had; only the new owner may commit', async () => {
    const world = new World({ seed: 5 });
    const broker = new MemoryBroker({ sessionTimeoutMs: 100 });
    broker.ensureTopics([{ topic: TOPIC, partitions: 1 }]);
    const events: string[] = [];
    const open = (name: string, workMs: number): Subscription => {
      const node = world.node(name);
      if (name === 'old') world.schedule(20, () => node.pause(500));
      return memoryBus(broker, node).subscribe({
        group: 'g',
        topics: [TOPIC],
        onAssigned: async () => {
          events.push(`${name} assigned`);
          return null;
        },
        onRevoked: async () => {
          events.push(`${name} revoked`);
        },
        onBatch: async (batch) => {
          await node.clock.sleep(workMs);
          events.push(`${name} has ${batch.messages.map(({ value }) => value).join()}`);
          batch.commit((batch.messages.at(-1)?.offset ?? 0n) + 1n);
        },
      });
    };
    broker.append([message(0, 'x')]);
    open('old', 50);
    world.schedule(15, () => void open('new', 1));
    await world.run({});
    expect(events).toEqual([
      'old assigned',
      'new assigned',
      'new has x',
      'old has x',
      'old revoked',
    ]);
    expect(broker.committed('g', { topic: TOPIC, partition: 0 })).toBe(1n);
  });

  test('close waits for the running batch, revokes, keeps the commit, and leaves the group', async () => {
    const world = new World({ seed: 1 });
    const broker = new MemoryBroker();
    broker.ensureTopics([{ topic: TOPIC, partitions: 2 }]);
    const node = world.node('n');
    const events: string[] = [];
    const bus = memoryBus(broker, node, { commitIntervalMs: 10_000 });
    const subscription = bus.subscribe({
      group: 'g',
      topics: [TOPIC],
      onRevoked: async (_topic, partition) => {
        events.push(`revoked ${partition}`);
      },
      onBatch: async (batch) => {
        events.push('begin');
        await node.clock.sleep(100);
        events.push('end');
        batch.commit(1n);
      },
    });
    broker.append([message(0, 'x')]);
    world.schedule(50, () => void bus.close().then(() => events.push('closed')));
    await world.run({ untilMs: world.now + 1_000 });
    expect(subscription.assigned()).toEqual([]);
    expect(events).toEqual(['begin', 'end', 'revoked 0', 'revoked 1', 'closed']);
    expect(broker.committed('g', { topic: TOPIC, partition: 0 })).toBe(1n);
  });
});
