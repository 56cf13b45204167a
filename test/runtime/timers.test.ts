/** Durable timers: never early, once in effect, at a bounded pace, and never forgotten (I11). */
import { describe, expect, test } from 'vitest';
import type { SagaEvent } from '../../engine/core/events.ts';
import { ManualClock, settle } from '../../engine/memory/index.ts';
import type { EventLog } from '../../engine/ports.ts';
import type { Shard } from '../../engine/runtime/shard.ts';
import { TimerQueue } from '../../engine/runtime/timer-queue.ts';
import { WakeUps } from '../../engine/runtime/wake-ups.ts';
import {
  doneOf,
  failing,
  held,
  inputOf,
  Recorder,
  shardRig,
  signalOf,
  startOf,
  until,
  type ShardRig,
} from './support.ts';

const fired = (rig: ShardRig, sagaId: string) =>
  rig.memory.db.stream(sagaId).filter(({ event }) => event.type === 'TimerFired');
const dueOf = (rig: ShardRig, sagaId: string): number =>
  rig.memory.db
    .stream(sagaId)
    .map(({ event }) => event)
    .filter((event): event is Extract<SagaEvent, { type: 'TimerSet' }> => event.type === 'TimerSet')
    .at(-1)?.dueAt ?? NaN;
const row = (rig: ShardRig, sagaId: string): number | undefined =>
  rig.memory.db.wakeups[0]?.get(sagaId);

async function started(rig: ShardRig, shard: Shard, ms: number, ...ids: string[]): Promise<void> {
  for (let from = 0; from < ids.length; from += 500)
    await shard.handle(
      rig.next(...ids.slice(from, from + 500).map((id) => startOf(id, 'alarm', { ms }))),
    );
}

describe('firing', () => {
  test('at its time, not a millisecond before, and once', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 10_000, '1');
    const dueAt = dueOf(rig, '1');
    expect(row(rig, '1')).toBe(dueAt);
    await rig.clock.advance(9_999);
    expect(fired(rig, '1')).toEqual([]);
    await rig.clock.advance(1);
    expect(fired(rig, '1').map(({ at }) => at)).toEqual([dueAt]);
    await rig.clock.advance(120_000);
    expect(rig.types('1')).toEqual(['SagaStarted', 'TimerSet', 'TimerFired', 'SagaCompleted']);
    expect(row(rig, '1')).toBeUndefined();
    await shard.close();
  });

  test('far ones are read from the log when their time comes near', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 90_000, '1');
    await started(rig, shard, 30 * 86_400_000, '2');
    await rig.clock.advance(89_999);
    expect(fired(rig, '1')).toEqual([]);
    await rig.clock.advance(1);
    expect(fired(rig, '1')).toHaveLength(1);
    await shard.close();
    await rig.clock.advance(30 * 86_400_000 - 90_001);
    const next = await rig.open();
    await rig.clock.advance(0);
    expect(fired(rig, '2')).toEqual([]);
    await rig.clock.advance(1);
    expect(fired(rig, '2')).toHaveLength(1);
    await next.close();
  });

  test('two sagas at the same millisecond both fire', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 500, '1', '2');
    await rig.clock.advance(500);
    expect([fired(rig, '1'), fired(rig, '2')].map((list) => list.length)).toEqual([1, 1]);
    await shard.close();
  });

  test('after a take-over in the middle of a firing, once in effect', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 5_000, '1');
    await rig.clock.advance(4_999);
    const append = held();
    rig.log.next('append', append.fate);
    await rig.clock.advance(1);
    await append.reached;
    const next = await rig.open();
    append.release();
    await rig.clock.advance(1_000);
    expect(rig.losses).toEqual(['fenced']);
    expect(fired(rig, '1')).toHaveLength(1);
    expect(fired(rig, '1')[0]?.epoch).toBe(2);
    await Promise.all([shard.close(), next.close()]);
  });

  test('one that could not be written is due again', async () => {
    const rig = await shardRig();
    const shard = await rig.open({ capacity: 1 });
    await started(rig, shard, 1_000, '1', '2');
    rig.log.next('load', failing());
    await rig.clock.advance(1_000);
    expect(fired(rig, '1')).toEqual([]);
    await rig.clock.advance(250);
    expect([...fired(rig, '1'), ...fired(rig, '2')]).toHaveLength(2);
    await shard.close();
  });

  test('a scan that fails is repeated', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 1_000, '1');
    await shard.close();
    rig.log.next('dueWakeups', failing(), failing());
    const next = await rig.open();
    await rig.clock.advance(1_000);
    expect(fired(rig, '1')).toHaveLength(1);
    await next.close();
  });
});

describe('the kept wake-up', () => {
  test('is left when the timer moves later, wakes once for nothing, and is then written true', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 1_000, '1');
    const first = dueOf(rig, '1');
    await rig.clock.advance(600);
    await shard.handle(rig.next(signalOf('1', 'later')));
    const second = dueOf(rig, '1');
    expect(second).toBe(first + 600);
    expect(row(rig, '1')).toBe(first);
    await rig.clock.advance(400);
    expect(fired(rig, '1')).toEqual([]);
    expect(row(rig, '1')).toBe(second);
    await rig.clock.advance(600);
    expect(fired(rig, '1').map(({ at }) => at)).toEqual([second]);
    await shard.close();
  });

  test('is taken away at the end, and the ended saga is neither read nor woken again', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    // The step's timer would be due long after its answer.
    await started(rig, shard, 20_000, '1');
    await shard.handle(rig.next(startOf('2'), doneOf('2')));
    await rig.clock.advance(20_000);
    expect(rig.types('1').at(-1)).toBe('SagaCompleted');
    expect(rig.memory.db.wakeups[0]?.size).toBe(0);
    await rig.clock.advance(1_000);
    const [appends, loads] = [rig.log.count('append'), rig.log.count('load')];
    await rig.clock.advance(120_000);
    expect([rig.log.count('append'), rig.log.count('load')]).toEqual([appends, loads]);
    await shard.close();
  });

  test('of a saga that ended before its timer was due costs nothing at that time', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 20_000, '1');
    await shard.handle(
      rig.next(inputOf('cancel', { sagaId: '1', requestId: 'c', reason: 'r', by: 'b' })),
    );
    expect(rig.types('1').at(-1)).toBe('SagaCompensated');
    await rig.clock.advance(1_500);
    const [appends, loads] = [rig.log.count('append'), rig.log.count('load')];
    await rig.clock.advance(60_000);
    expect([rig.log.count('append'), rig.log.count('load')]).toEqual([appends, loads]);
    await shard.close();
  });

  test('of a saga that can not be woken here is put off, and fires when its version is back', async () => {
    const rig = await shardRig();
    const shard = await rig.open();
    await started(rig, shard, 1_000, '1');
    await shard.close();
    await rig.clock.advance(1_000);
    const now = rig.clock.now();
    const without = await rig.open({ definitions: [] });
    await until('it is put off', () => row(rig, '1') === now + 60_000);
    const loads = rig.log.count('load');
    await rig.clock.advance(59_000);
    expect(rig.log.count('load')).toBe(loads);
    await without.close();
    const next = await rig.open();
    await rig.clock.advance(1_000);
    expect(fired(rig, '1')).toHaveLength(1);
    await next.close();
  });
});

describe('a herd', () => {
  test('is fired in batches of 200, and replies come in between', async () => {
    const rig = await shardRig();
    const shard = await rig.open({ capacity: 5_000 });
    const ids = Array.from({ length: 2_000 }, (_, n) => String(n + 1_000));
    await started(rig, shard, 5_000, ...ids);
    await shard.handle(rig.next(startOf('7')));
    const sizes: number[] = [];
    let firedBeforeReply = NaN;
    rig.memory.db.observer.appended = (batch) => {
      const timers = batch.events.filter(({ event }) => event.type === 'TimerFired').length;
      if (timers > 0) sizes.push(timers);
      if (batch.events.some(({ sagaId }) => sagaId === '7'))
        firedBeforeReply = sizes.reduce((sum, size) => sum + size, 0);
    };
    const append = held();
    rig.log.next('append', append.fate);
    const advanced = rig.clock.advance(5_000);
    await append.reached;
    const replied = shard.handle(rig.next(doneOf('7')));
    append.release();
    await Promise.all([advanced, replied]);
    await until('all have fired', () => sizes.reduce((sum, size) => sum + size, 0) === 2_000);
    expect(Math.max(...sizes)).toBe(200);
    expect(firedBeforeReply).toBeLessThanOrEqual(400);
    for (const id of ids) expect(fired(rig, id)).toHaveLength(1);
    await shard.close();
  });

  /** A log that holds only wake-ups, and a shard that works them off. */
  function herd(rows: Map<string, number>, readMs = 0) {
    const clock = new ManualClock(0);
    let scans = 0;
    let reading = false;
    let longest = 0;
    let latest = 0;
    const eventLog = {
      dueWakeups: async (_: number, until: number, limit: number) => {
        scans += 1;
        reading = true;
        const due = [...rows].filter(([, dueAt]) => dueAt <= until).sort(([, a], [, b]) => a - b);
        await (readMs === 0 ? settle() : clock.sleep(readMs));
        reading = false;
        return due.slice(0, limit).map(([sagaId, dueAt]) => ({ sagaId, dueAt }));
      },
    } as unknown as EventLog;
    let running = false;
    const taken: string[] = [];
    const work = async (): Promise<void> => {
      if (running) return;
      running = true;
      while (wakeUps.dueCount > 0) {
        longest = Math.max(longest, wakeUps.size);
        const ids = wakeUps.take(200);
        await settle();
        for (const id of ids) {
          const dueAt = rows.get(id);
          if (dueAt === undefined || dueAt > clock.now()) continue;
          taken.push(id);
          latest = Math.max(latest, clock.now() - dueAt);
          rows.delete(id);
          wakeUps.note(id, null);
        }
      }
      running = false;
    };
    const wakeUps = new WakeUps(
      { eventLog, clock, telemetry: new Recorder() },
      0,
      () => void work(),
    );
    return { clock, wakeUps, taken, figures: () => ({ scans, longest, latest, reading }) };
  }

  test('of 100,000 overdue ones is read page by page, each page once', async () => {
    const rows = new Map(Array.from({ length: 100_000 }, (_, n) => [String(n + 1), -n]));
    const { clock, wakeUps, taken, figures } = herd(rows);
    const running = wakeUps.run();
    await until('all are taken', () => taken.length === 100_000);
    expect(new Set(taken).size).toBe(100_000);
    // 10,000 a page, of which at most 1,200 were read before; none is read in a busy loop.
    expect(figures().scans).toBeLessThanOrEqual(13);
    expect(figures().longest).toBeLessThanOrEqual(12_000);
    await clock.advance(30_000);
    wakeUps.stop();
    await running;
  });

  test('of 100,000 at one time to come fires then, and never before', async () => {
    const rows = new Map(Array.from({ length: 100_000 }, (_, n) => [String(n + 1), 45_000]));
    const { clock, wakeUps, taken, figures } = herd(rows);
    const running = wakeUps.run();
    await clock.advance(44_999);
    expect(taken).toEqual([]);
    expect(figures().scans).toBeLessThanOrEqual(3);
    await clock.advance(1);
    await until('all are taken', () => taken.length === 100_000);
    expect(new Set(taken).size).toBe(100_000);
    wakeUps.stop();
    await running;
  });

  test('is not held up by the reading of what comes after it', async () => {
    // 200 a second for a minute and a half, and a log that takes 300 ms to be read.
    const rows = new Map(
      Array.from({ length: 18_000 }, (_, n) => [String(n + 1), 1_000 + n * 5] as const),
    );
    const { clock, wakeUps, taken, figures } = herd(rows, 300);
    const running = wakeUps.run();
    for (let at = 0; at <= 91_000; at += 5) await clock.advance(5);
    expect(taken).toHaveLength(18_000);
    expect(figures().latest).toBeLessThanOrEqual(5);
    // 2,000 a page, half of which are read twice.
    expect(figures().scans).toBeLessThanOrEqual(24);
    wakeUps.stop();
    await clock.advance(300);
    await running;
  });

  test('more wake-ups than memory may hold are read from the log in time', async () => {
    const rows = new Map<string, number>();
    const { clock, wakeUps, taken, figures } = herd(rows);
    const running = wakeUps.run();
    await clock.advance(0);
    for (let n = 1; n <= 60_000; n++) {
      const dueAt = 1_000 + (n % 50_000);
      rows.set(String(n), dueAt);
      wakeUps.note(String(n), dueAt);
    }
    expect(wakeUps.size).toBe(50_000);
    for (let at = 0; at <= 52_000; at += 1_000) {
      await clock.advance(1_000);
      await until('the batches are done', () => !figures().reading && wakeUps.dueCount === 0);
      // What memory had no room for may be late by the period in which the log is looked into.
      const late = [...rows.values()].filter((dueAt) => dueAt <= clock.now() - 1_000);
      expect(late).toEqual([]);
    }
    expect(taken).toHaveLength(60_000);
    expect(figures().longest).toBeLessThanOrEqual(62_000);
    wakeUps.stop();
    await running;
  });
});

test('entries of sagas that have ended do not pile up', async () => {
  const clock = new ManualClock(0);
  const eventLog = { dueWakeups: () => Promise.resolve([]) } as unknown as EventLog;
  const wakeUps = new WakeUps({ eventLog, clock, telemetry: new Recorder() }, 0, () => undefined);
  const running = wakeUps.run();
  await clock.advance(0);
  for (let n = 1; n <= 100_000; n++) {
    wakeUps.note(String(n), 30_000);
    if (n > 100) wakeUps.note(String(n - 100), null);
  }
  expect(wakeUps.size).toBeLessThanOrEqual(1_300);
  wakeUps.stop();
  await running;
});

describe('TimerQueue', () => {
  test('gives what was put in, earliest first', () => {
    const queue = new TimerQueue();
    const times = Array.from({ length: 500 }, (_, n) => (n * 7_919) % 503);
    times.forEach((dueAt, n) => queue.push({ dueAt, sagaId: String(n) }));
    expect(queue.peek()?.dueAt).toBe(Math.min(...times));
    const out: number[] = [];
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) out.push(next.dueAt);
    expect(out).toEqual([...times].sort((a, b) => a - b));
    expect(queue.size).toBe(0);
  });
});
