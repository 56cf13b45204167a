/** The memory adapters on a plain host: the same promises as the Postgres ones. */
import { describe, expect, test } from 'vitest';
import { FencedError, SagaxError } from '../../engine/core/errors.ts';
import type { LoggedEvent, SagaEvent } from '../../engine/core/events.ts';
import { ManualClock, openMemory } from '../../engine/memory/index.ts';
import type { ShardBatch } from '../../engine/ports.ts';

const SHARD = 1;

function logged(
  sagaId: string,
  streamVersion: number,
  shardSeq: number,
  event: SagaEvent,
  epoch = 1,
): LoggedEvent {
  return {
    sagaId,
    namespace: 'default',
    shard: SHARD,
    streamVersion,
    shardSeq,
    epoch,
    at: 1_000 + shardSeq,
    event,
  };
}

function batch(epoch: number, events: LoggedEvent[], more: Partial<ShardBatch> = {}): ShardBatch {
  return {
    shard: SHARD,
    epoch,
    events,
    wakeups: [],
    summaries: [],
    snapshots: [],
    deadLetters: [],
    ...more,
  };
}

const emitted: SagaEvent = { type: 'DomainEventEmitted', event: { type: 'x', nested: { a: 1 } } };
const paused: SagaEvent = { type: 'SagaPaused' };

describe('memory event log and leases', () => {
  test('an append moves the position with its events; a taken-over shard fences the old owner (I2)', async () => {
    const { eventLog, shardLeases } = openMemory();
    const lease = await shardLeases.acquire(SHARD, 'a', 1_000);
    expect(lease).toMatchObject({ epoch: 1, nextSeq: 1, nextOffset: 0n, publishedSeq: 0 });
    await eventLog.append(
      batch(1, [logged('7', 1, 1, emitted), logged('7', 2, 2, paused)], { nextOffset: 5n }),
    );
    expect(await shardLeases.acquire(SHARD, 'b', 1_000)).toBeNull();
    const stolen = await shardLeases.acquire(SHARD, 'b', 1_000, { steal: true });
    expect(stolen).toMatchObject({ epoch: 2, owner: 'b', nextSeq: 3, nextOffset: 5n });
    await expect(eventLog.append(batch(1, [logged('7', 3, 3, paused)]))).rejects.toThrow(
      FencedError,
    );
    expect((await eventLog.load(['7', '8'])).get('7')?.events).toHaveLength(2);
    expect(await shardLeases.renew('a', [{ shard: SHARD, epoch: 1 }], 1_000)).toEqual([SHARD]);
    expect(await shardLeases.renew('b', [{ shard: SHARD, epoch: 2 }], 1_000)).toEqual([]);
  });

  test('a lease ends by the database clock, or when it is given back', async () => {
    const clock = new ManualClock();
    const { shardLeases } = openMemory({ clock });
    await shardLeases.acquire(SHARD, 'a', 1_000);
    await clock.advance(1_001);
    expect(await shardLeases.acquire(SHARD, 'b', 1_000)).toMatchObject({ epoch: 2 });
    await shardLeases.release(SHARD, 'a', 1);
    expect(await shardLeases.acquire(SHARD, 'c', 1_000)).toBeNull();
    await shardLeases.release(SHARD, 'b', 2);
    expect(await shardLeases.acquire(SHARD, 'c', 1_000)).toMatchObject({ epoch: 3 });
  });

  test('a gap in shardSeq or in a stream is refused whole (I1)', async () => {
    const { eventLog, shardLeases, db } = openMemory();
    await shardLeases.acquire(SHARD, 'a', 1_000);
    const gaps = [
      [logged('7', 1, 1, paused), logged('7', 2, 3, paused)],
      [logged('7', 1, 1, paused), logged('7', 3, 2, paused)],
    ];
    for (const events of gaps) {
      await expect(eventLog.append(batch(1, events))).rejects.toThrow(SagaxError);
    }
    expect(db.stream('7')).toEqual([]);
    expect(db.shard(SHARD).nextSeq).toBe(1);
  });

  test('outbox, wake-ups and snapshots', async () => {
    const { eventLog, shardLeases } = openMemory();
    await shardLeases.acquire(SHARD, 'a', 1_000);
    const snapshot = {
      sagaId: '7',
      streamVersion: 1,
      definitionHash: 'd',
      stateHash: 's',
      state: { a: 1 },
    };
    await eventLog.append(
      batch(
        1,
        [logged('7', 1, 1, emitted), logged('7', 2, 2, paused), logged('8', 1, 3, emitted)],
        {
          wakeups: [
            { sagaId: '7', dueAt: 20 },
            { sagaId: '8', dueAt: 10 },
          ],
          snapshots: [snapshot],
        },
      ),
    );
    const outbox = async (after: number, limit: number): Promise<number[]> =>
      (await eventLog.readOutbox(SHARD, after, limit)).map((event) => event.shardSeq);
    expect(await outbox(0, 10)).toEqual([1, 3]);
    expect(await outbox(1, 10)).toEqual([3]);
    expect(await outbox(0, 1)).toEqual([1]);
    expect(await eventLog.dueWakeups(SHARD, 20, 10)).toEqual([
      { sagaId: '8', dueAt: 10 },
      { sagaId: '7', dueAt: 20 },
    ]);
    await eventLog.append(
      batch(1, [], { wakeups: [{ sagaId: '8', dueAt: null }], publishedSeq: 3 }),
    );
    expect(await eventLog.dueWakeups(SHARD, 15, 10)).toEqual([]);
    const loaded = (await eventLog.load(['7'])).get('7');
    expect(loaded).toMatchObject({ snapshot, events: [{ streamVersion: 2 }] });
    const whole = (await eventLog.load(['7'], { ignoreSnapshots: true })).get('7');
    expect(whole).toMatchObject({ snapshot: null, events: [{}, {}] });
  });

  test('what was stored does not change with the object that it came from', async () => {
    const { eventLog, shardLeases } = openMemory();
    await shardLeases.acquire(SHARD, 'a', 1_000);
    const event: SagaEvent = structuredClone(emitted);
    const appended = eventLog.append(batch(1, [logged('7', 1, 1, event)]));
    (event as { event: { type: string } }).event.type = 'changed';
    await appended;
    expect((await eventLog.load(['7'])).get('7')?.events[0]?.event).toEqual(emitted);
  });
});

describe('memory node ids, start keys, dead letters', () => {
  test('a node id comes back only above its high-water time (I13)', async () => {
    const clock = new ManualClock();
    const { nodeIds } = openMemory({ clock });
    const first = await nodeIds.acquire('a', 10_000);
    const second = await nodeIds.acquire('b', 10_000);
    expect(second.nodeId).not.toBe(first.nodeId);
    await nodeIds.release(first.nodeId, first.epoch, clock.now() + 4_000);
    expect(await nodeIds.renew(first.nodeId, first.epoch, 10_000)).toBe(false);
    expect(await nodeIds.renew(second.nodeId, second.epoch, 10_000)).toBe(true);
    const taken = new Set<number>();
    for (let i = 0; i < 1_022; i++) taken.add((await nodeIds.acquire('c', 10_000)).nodeId);
    expect(taken.has(first.nodeId)).toBe(false);
    await expect(nodeIds.acquire('d', 10_000)).rejects.toThrow('1024');
    await clock.advance(4_001);
    const reissued = await nodeIds.acquire('d', 10_000);
    expect(reissued.nodeId).toBe(first.nodeId);
    expect(reissued.startAboveMs).toBe(clock.now() - 1);
  });

  test('a start key: a repeat gets the same saga, another request is refused', async () => {
    const { startKeys } = openMemory();
    const start = { namespace: 'default', definition: 'order', fingerprint: 'f' };
    const one = { ...start, sagaId: '1', idempotencyKey: 'k', businessKey: 'b' };
    expect(await startKeys.reserve(one)).toEqual({ sagaId: '1', fresh: true });
    expect(await startKeys.reserve({ ...one, sagaId: '2' })).toEqual({ sagaId: '1', fresh: false });
    await expect(startKeys.reserve({ ...one, sagaId: '3', fingerprint: 'g' })).rejects.toThrow(
      'belongs to saga 1',
    );
    expect(await startKeys.reserve({ ...one, sagaId: '4', namespace: 'n' })).toMatchObject({
      fresh: true,
    });
  });

  test('dead letters are listed newest first and redriven once', async () => {
    const { eventLog, shardLeases, deadLetters } = openMemory();
    await shardLeases.acquire(SHARD, 'a', 1_000);
    const letter = {
      topic: 't',
      partition: 0,
      key: null,
      headers: {},
      value: 'x',
      code: 'MESSAGE_INVALID',
      reason: 'no JSON',
      at: 1,
    };
    await eventLog.append(
      batch(1, [], { deadLetters: [1n, 2n].map((offset) => ({ ...letter, offset })) }),
    );
    const ids = (await deadLetters.list({ limit: 10 })).map((found) => found.id);
    expect(ids).toEqual(['2', '1']);
    expect(await deadLetters.list({ limit: 10, beforeId: '2' })).toMatchObject([{ offset: 1n }]);
    expect([await deadLetters.markRedriven('1'), await deadLetters.markRedriven('1')]).toEqual([
      true,
      false,
    ]);
    expect((await deadLetters.list({ limit: 10 })).map((found) => found.id)).toEqual(['2']);
  });
});
