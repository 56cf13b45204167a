/** Who owns a shard: engine nodes, leases and the bus against each other (I2), and drains that always end. */
import { afterEach, describe, expect, test } from 'vitest';
import { ManualClock, openMemory, settle } from '../../engine/memory/index.ts';
import type {
  Bus,
  EventLog,
  ShardLeases,
  SubscribeOptions,
  Subscription,
} from '../../engine/ports.ts';
import { createEngine, type Engine } from '../../engine/runtime/engine.ts';
import {
  answerLost,
  busAway,
  failing,
  Faults,
  held,
  INBOX,
  job,
  Recorder,
  startOf,
  TOPOLOGY,
  unavailable,
  until,
} from './support.ts';

const TTL_MS = 9_000;

/** A bus whose assignments the test makes; everything else is the memory bus. */
class HandBus {
  readonly port: Bus;
  options: SubscribeOptions | null = null;
  closed = 0;

  constructor(bus: Bus) {
    this.port = {
      ...bus,
      subscribe: (options) => {
        this.options = options;
        return {
          assigned: () => [],
          ready: () => Promise.resolve(),
          close: () => {
            this.closed += 1;
            return Promise.resolve();
          },
        } satisfies Subscription;
      },
    };
  }

  assign = (partition: number) =>
    this.options?.onAssigned?.(INBOX, partition) ?? Promise.resolve(null);
  revoke = (partition: number) => this.options?.onRevoked?.(INBOX, partition) ?? Promise.resolve();
  deliver(partition: number, offset: bigint, ...messages: ReturnType<typeof startOf>[]) {
    let committed: bigint | null = null;
    const done = Promise.resolve(
      this.options?.onBatch({
        topic: INBOX,
        partition,
        messages: messages.map((message, n) => ({
          topic: INBOX,
          partition,
          offset: offset + BigInt(n),
          ...message,
        })),
        commit: (next) => (committed = next),
      }),
    );
    return { done, committed: () => committed };
  }
}

interface Node {
  engine: Engine;
  bus: HandBus;
  publisher: Faults<Bus>;
  log: Faults<EventLog>;
  leases: Faults<ShardLeases>;
  telemetry: Recorder;
}

const draining: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const drain of draining.splice(0)) await drain();
});

function world(shards = 1) {
  const clock = new ManualClock();
  const memory = openMemory({ shards, clock });
  const node = async (owner: string): Promise<Node> => {
    const ports = memory.another(owner);
    const publisher = new Faults(ports.bus);
    const bus = new HandBus({
      ...ports.bus,
      publish: (messages) => publisher.port.publish(messages),
      endOffsets: async (topic) => {
        const ends = await publisher.port.endOffsets(topic);
        // What the test delivers by hand is in no topic.
        return new Map([...ends].map(([partition]) => [partition, 10n]));
      },
    });
    const [log, leases] = [new Faults(ports.eventLog), new Faults(ports.shardLeases)];
    const telemetry = new Recorder();
    const engine = createEngine({
      definitions: [job],
      eventLog: log.port,
      shardLeases: leases.port,
      bus: bus.port,
      clock,
      topology: TOPOLOGY,
      owner,
      telemetry,
      leaseTtlMs: TTL_MS,
    });
    await engine.start();
    draining.push(async () => {
      for (const faults of [publisher, log, leases]) faults.heal();
      const drained = engine.drain();
      await clock.advance(30_000);
      await drained;
    });
    return { engine, bus, publisher, log, leases, telemetry };
  };
  /** As every bus does: asks again until the partition is taken. */
  const assigned = async ({ bus }: Node, partition = 0): Promise<bigint | null> => {
    for (;;) {
      try {
        return await bus.assign(partition);
      } catch {
        await clock.sleep(500);
      }
    }
  };
  const row = (shard = 0) => memory.db.shard(shard);
  const types = (sagaId: string) => memory.db.stream(sagaId).map(({ event }) => event.type);
  return { clock, memory, node, assigned, row, types };
}
const owned = ({ engine }: Node): [number, number][] =>
  engine.shards().map(({ shard, epoch }) => [shard, epoch]);

describe('assignments', () => {
  test('assigned, revoked and assigned again in quick succession: one owner, one shard, no leak', async () => {
    const { clock, node, row } = world();
    const a = await node('a');
    const acquire = held();
    a.leases.next('acquire', acquire.fate);
    const taken = [a.bus.assign(0)];
    await acquire.reached;
    const revoked = a.bus.revoke(0);
    taken.push(a.bus.assign(0));
    acquire.release();
    await Promise.all([...taken, revoked]);
    await settle();
    expect(owned(a)).toEqual([[0, row().epoch]]);
    expect(row().owner).toBe('a');
    // Every opened shard but the present one has been closed: only one looks for timers.
    const scans = a.log.count('dueWakeups');
    await clock.advance(30_000);
    expect(a.log.count('dueWakeups')).toBe(scans + 1);
  });

  test('revoked while it opens: the shard is given back at once', async () => {
    const { node, row } = world();
    const a = await node('a');
    const acquire = held();
    a.leases.next('acquire', acquire.fate);
    const taken = a.bus.assign(0);
    await acquire.reached;
    await a.bus.revoke(0);
    acquire.release();
    expect(await taken).toBeNull();
    expect(owned(a)).toEqual([]);
    expect(row().owner).toBeNull();
  });

  test('a recovery and an assignment at the same time open one shard after the other', async () => {
    const { clock, memory, node, row } = world();
    const a = await node('a');
    await a.bus.assign(0);
    // A thief takes it; the node finds out by a batch, and tries to get it back.
    await memory.shardLeases.acquire(0, 'thief', TTL_MS, { steal: true });
    await a.bus.deliver(0, 0n, startOf('1')).done.catch(() => undefined);
    expect(owned(a)).toEqual([]);
    await a.bus.revoke(0);
    const acquire = held();
    a.leases.next('acquire', acquire.fate);
    const taken = a.bus.assign(0);
    await acquire.reached;
    // The recovery's pause ends while the assignment is under way.
    await clock.advance(TTL_MS / 3);
    acquire.release();
    await taken;
    await clock.advance(TTL_MS);
    expect(owned(a)).toEqual([[0, row().epoch]]);
    const scans = a.log.count('dueWakeups');
    await clock.advance(30_000);
    expect(a.log.count('dueWakeups')).toBe(scans + 1);
  });

  test('a shard that can not be taken while the database is away is taken when it is back', async () => {
    const { clock, node, assigned } = world();
    const a = await node('a');
    a.leases.always('acquire', failing());
    const taken = assigned(a);
    await clock.advance(60_000);
    expect(owned(a)).toEqual([]);
    a.leases.heal();
    await clock.advance(500);
    expect(await taken).toBe(0n);
    expect(owned(a)).toEqual([[0, 1]]);
  });

  test('a shard that can not be taken and has gone to another node is not taken from it later', async () => {
    const { clock, memory, row } = world(2);
    const join = async (owner: string): Promise<Faults<ShardLeases>> => {
      const ports = memory.another(owner);
      const leases = new Faults(ports.shardLeases);
      if (owner === 'a') leases.always('acquire', failing());
      const options = { definitions: [job], topology: TOPOLOGY, leaseTtlMs: TTL_MS };
      const engine = createEngine({ ...ports, ...options, shardLeases: leases.port, owner });
      await engine.start();
      draining.push(() => engine.drain());
      return leases;
    };
    const cut = await join('a');
    await clock.advance(1_000);
    // The bus gives it one of the two.
    await join('b');
    await clock.advance(1_000);
    cut.heal();
    await clock.advance(TTL_MS);
    expect([row(0), row(1)]).toMatchObject([
      { owner: 'a', epoch: 1 },
      { owner: 'b', epoch: 1 },
    ]);
  });

  test('an inbox that ends below what was applied is refused, with the remedy (I4)', async () => {
    const { clock, memory, node, assigned } = world();
    memory.db.shard(0).nextOffset = 40n;
    const a = await node('a');
    const taken = assigned(a);
    await clock.advance(1_000);
    expect(a.telemetry.lines.find(({ level }) => level === 'error')?.fields).toMatchObject({
      err: { code: 'TOPOLOGY_MISMATCH', message: expect.stringContaining('next_offset') as string },
    });
    memory.db.shard(0).nextOffset = 0n;
    await clock.advance(1_000);
    expect(await taken).toBe(0n);
  });

  test('an end that can not be read holds nothing up', async () => {
    const { node } = world();
    const a = await node('a');
    a.publisher.next('endOffsets', failing(busAway));
    expect(await a.bus.assign(0)).toBe(0n);
  });
});

describe('leases', () => {
  test('renewals that fail for a while lose nothing when nobody took the shard', async () => {
    const { clock, node, row, types } = world();
    const a = await node('a');
    await a.bus.assign(0);
    a.leases.always('renew', failing());
    await clock.advance(3 * TTL_MS);
    expect(row().expiresAt ?? 0).toBeLessThan(clock.now());
    a.leases.heal();
    await clock.advance(TTL_MS / 3);
    expect(row().expiresAt ?? 0).toBeGreaterThan(clock.now());
    await a.bus.deliver(0, 0n, startOf('1')).done;
    expect(types('1')).toHaveLength(2);
    expect(owned(a)).toEqual([[0, 1]]);
  });

  test('a lease lost while the database is away is found at the next renewal, and not fought for', async () => {
    const { clock, node, memory, row } = world();
    const a = await node('a');
    const b = await node('b');
    await a.bus.assign(0);
    a.leases.always('renew', failing());
    a.leases.always('acquire', failing());
    await clock.advance(2 * TTL_MS);
    await b.bus.assign(0);
    a.leases.heal();
    await clock.advance(4 * TTL_MS);
    expect(owned(a)).toEqual([]);
    expect(owned(b)).toEqual([[0, 2]]);
    expect(row()).toMatchObject({ owner: 'b', epoch: 2 });
    expect(a.telemetry.of('shards_lost_total')).toBe(1);
    // b dies without a word: a, whom the bus never told otherwise, has it once its lease is over.
    const lease = row().expiresAt ?? 0;
    b.leases.always('renew', failing());
    await clock.advance(lease - clock.now());
    expect(owned(a)).toEqual([]);
    await clock.advance(TTL_MS);
    expect(owned(a)).toEqual([[0, 3]]);
    expect(memory.db.shard(0).owner).toBe('a');
  });

  test('one lost shard that can not end holds up no renewal of the others', async () => {
    const { clock, node, memory, row } = world(3);
    const a = await node('a');
    for (const shard of [0, 1, 2]) await a.bus.assign(shard);
    // Its batch waits for a database that does not answer, and would do so for ever.
    const append = held();
    a.log.always('append', append.fate);
    const stuck = a.bus.deliver(0, 0n, startOf('1')).done;
    stuck.catch(() => undefined);
    await append.reached;
    await memory.shardLeases.acquire(0, 'thief', 60_000, { steal: true });
    await clock.advance(5 * TTL_MS);
    for (const shard of [1, 2]) expect(row(shard).expiresAt ?? 0).toBeGreaterThan(clock.now());
    expect(owned(a).map(([shard]) => shard)).toEqual([1, 2]);
    append.release();
    await expect(stuck).rejects.toMatchObject({ code: 'FENCED' });
  });

  test('after a commit of unknown outcome the shard is read anew, and the message applied once', async () => {
    const { clock, node, types } = world();
    const a = await node('a');
    await a.bus.assign(0);
    a.log.next('append', answerLost);
    await expect(a.bus.deliver(0, 0n, startOf('1')).done).rejects.toMatchObject({
      code: 'COMMIT_UNKNOWN',
    });
    const again = a.bus.deliver(0, 0n, startOf('1'));
    await again.done;
    expect(again.committed()).toBe(1n);
    expect(types('1')).toEqual(['SagaStarted', 'StepRequested']);
    await clock.advance(TTL_MS);
    expect(owned(a)).toEqual([[0, 2]]);
  });

  test('… but it is not stolen back from a node that took it meanwhile', async () => {
    const { clock, node, row } = world();
    const a = await node('a');
    const b = await node('b');
    await a.bus.assign(0);
    a.log.next('append', answerLost);
    a.leases.always('acquire', failing());
    await a.bus.deliver(0, 0n, startOf('1')).done.catch(() => undefined);
    await clock.advance(1_000);
    await b.bus.assign(0);
    a.leases.heal();
    await clock.advance(3 * TTL_MS);
    expect(row()).toMatchObject({ owner: 'b', epoch: 2 });
    expect(owned(b)).toEqual([[0, 2]]);
  });

  test('a shard that is lost again and again is not opened in a busy loop', async () => {
    const { clock, node, row } = world();
    const a = await node('a');
    await a.bus.assign(0);
    a.log.always('append', answerLost);
    for (let n = 0; n < 5; n++) {
      await a.bus.deliver(0, 0n, startOf(String(n + 1))).done.catch(() => undefined);
    }
    const { epoch } = row();
    await clock.advance(0);
    await settle();
    expect(row().epoch).toBeLessThanOrEqual(epoch + 1);
    a.log.heal();
    await clock.advance(TTL_MS);
    expect(owned(a)).toHaveLength(1);
  });
});

describe('drains', () => {
  test('give every shard back, so that another may have it at once', async () => {
    const { node, row } = world(2);
    const a = await node('a');
    await Promise.all([a.bus.assign(0), a.bus.assign(1)]);
    await a.engine.drain();
    expect([row(0).owner, row(1).owner]).toEqual([null, null]);
    const b = await node('b');
    expect(await b.bus.assign(0)).toBe(0n);
    expect(row(0)).toMatchObject({ owner: 'b', epoch: 2 });
  });

  test.each([
    ['the database', (log: Faults<EventLog>) => log.always('append', failing(unavailable))],
    [
      'a bus with a full backlog',
      (_: unknown, bus: Faults<Bus>) => bus.always('publish', failing(busAway)),
    ],
  ])('end in bounded time though %s is away and a batch waits for it', async (_, away) => {
    const clock = new ManualClock();
    const memory = openMemory({ shards: 1, clock });
    const log = new Faults(memory.eventLog);
    const bus = new Faults(memory.bus);
    const engine = createEngine({
      definitions: [job],
      eventLog: log.port,
      shardLeases: memory.shardLeases,
      bus: bus.port,
      clock,
      topology: TOPOLOGY,
      owner: 'a',
    });
    await engine.start();
    away(log, bus);
    const other = memory.another('client').bus;
    for (let n = 0; n < 12; n++) {
      await other.publish(
        Array.from({ length: 500 }, (__, i) => ({
          topic: INBOX,
          partition: 0,
          ...startOf(String(n * 500 + i + 1)),
        })),
      );
    }
    await clock.advance(10_000);
    let drained = false;
    const draining = engine.drain().then(() => (drained = true));
    await clock.advance(6_000);
    await until('it is drained', () => drained);
    await draining;
    expect(memory.db.shard(0).owner).toBeNull();
  });

  test('end though a shard is just being opened and the database is away', async () => {
    const { clock, node, assigned } = world();
    const a = await node('a');
    a.leases.always('acquire', failing());
    const taken = assigned(a);
    await clock.advance(1_000);
    await a.engine.drain();
    await clock.advance(500);
    expect(await taken).toBeNull();
  });

  test('while they last, leases are renewed', async () => {
    const { clock, node, row } = world();
    const a = await node('a');
    await a.bus.assign(0);
    await clock.advance(TTL_MS / 3);
    expect(row().expiresAt).toBe(clock.now() + TTL_MS);
    await a.engine.drain();
    expect(row().owner).toBeNull();
  });
});
