/** Order, concurrency, back-pressure, drain and rebalance. Memory store, time moved by the test. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { partitionOf } from '../../engine/core/shards.ts';
import { memoryBus } from '../../engine/memory/bus.ts';
import { settle } from '../../engine/memory/clock.ts';
import { PlainHost } from '../../engine/memory/host.ts';
import { effect, transactional, type Handler } from '../../workers/handlers.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import { createWorker } from '../../workers/worker.ts';
import { openBench, type Bench } from './support/bench.ts';
import { charge, commandFor, PARTITIONS, PREFIX, reserve } from './support/contracts.ts';
import { keptLog } from './support/logs.ts';
import { memoryRig, type MemoryRig } from './support/memory-rig.ts';

let rig: MemoryRig;
let bench: Bench;

beforeEach(async () => {
  rig = memoryRig();
  bench = await openBench(rig.clock);
});
afterEach(() => bench.close());

/** Sagas whose commands share partition 0. */
const sagas: string[] = [];
for (let n = 1; sagas.length < 200; n += 1) {
  const sagaId = `9${String(n).padStart(17, '0')}`;
  if (partitionOf(sagaId, PARTITIONS) === 0) sagas.push(sagaId);
}
const saga = (n: number): string => sagas[n] as string;

/** A handler that says when it begins and goes on when it is let. */
function gated(): {
  handler: Handler<MemoryTx>;
  begun: string[];
  signals: AbortSignal[];
  most: () => number;
  letGo: (commandId: string) => void;
  letAllGo: () => void;
} {
  const begun: string[] = [];
  const signals: AbortSignal[] = [];
  const waiting = new Map<string, () => void>();
  let open = false;
  let now = 0;
  let most = 0;
  const handler = effect(charge, async ({ commandId, signal }) => {
    begun.push(commandId);
    signals.push(signal);
    now += 1;
    most = Math.max(most, now);
    if (!open) await new Promise<void>((resolve) => waiting.set(commandId, resolve));
    now -= 1;
    return { charge: commandId };
  });
  return {
    handler,
    begun,
    signals,
    most: () => most,
    letGo: (commandId) => waiting.get(commandId)?.(),
    letAllGo: () => {
      open = true;
      for (const go of waiting.values()) go();
    },
  };
}

describe('order and concurrency', () => {
  test("one saga's commands run in order; a long one holds up its own saga only", async () => {
    const gate = gated();
    await bench.start(rig.connect(), [gate.handler]);
    bench.send(
      commandFor(charge, { sagaId: saga(0), n: 1 }),
      commandFor(charge, { sagaId: saga(0), n: 2 }),
      commandFor(charge, { sagaId: saga(1), n: 1 }),
      commandFor(charge, { sagaId: saga(0), n: 3 }),
    );
    await settle();
    expect(gate.begun).toEqual([`${saga(0)}.1`, `${saga(1)}.1`]);
    gate.letGo(`${saga(1)}.1`);
    await bench.replyTo(`${saga(1)}.1`);
    await settle();
    // The lowest unfinished command holds the commit back.
    expect(bench.committed(0)).toBe(null);
    gate.letAllGo();
    await bench.replies(4);
    expect(gate.begun.filter((id) => id.startsWith(saga(0)))).toEqual(
      [1, 2, 3].map((n) => `${saga(0)}.${n}`),
    );
    await settle();
    expect(bench.committed(0)).toBe(4n);
  });

  test('at most `concurrency` handlers run, and all commands get their turn', async () => {
    const gate = gated();
    const worker = await bench.start(rig.connect(), [gate.handler], {
      concurrency: 3,
      maxInFlight: 100,
    });
    bench.send(...Array.from({ length: 30 }, (_, n) => commandFor(charge, { sagaId: saga(n) })));
    await settle();
    expect(gate.begun).toHaveLength(3);
    expect(worker.inFlight).toBe(30);
    for (let n = 0; n < 30; n += 1) {
      gate.letGo(`${saga(n)}.1`);
      await bench.replyTo(`${saga(n)}.1`);
      await settle();
    }
    expect(gate.most()).toBe(3);
    expect(worker.inFlight).toBe(0);
  });

  test('a full window makes the bus wait, and no more is held in memory', async () => {
    const gate = gated();
    const worker = await bench.start(rig.connect(), [gate.handler], {
      concurrency: 2,
      maxInFlight: 5,
    });
    bench.send(...Array.from({ length: 100 }, (_, n) => commandFor(charge, { sagaId: saga(n) })));
    await settle();
    expect(worker.inFlight).toBe(5);
    gate.letAllGo();
    await bench.replies(100);
    await settle();
    expect(bench.committed(0)).toBe(100n);
    expect(worker.inFlight).toBe(0);
  });

  test('behind one unfinished command only so much is run: it would all come again', async () => {
    const gate = gated();
    const quick = transactional<typeof reserve, MemoryTx>(reserve, async () => ({
      reservation: 'r',
    }));
    await bench.start(rig.connect(), [gate.handler, quick], { maxInFlight: 64 });
    bench.send(commandFor(charge, { sagaId: saga(0) }));
    const rest = Array.from({ length: 6_000 }, (_, n) =>
      commandFor(reserve, { sagaId: saga(1), n: n + 1 }),
    );
    bench.send(...rest);
    while (bench.counts.handled.length < 4_999) await settle();
    for (let turn = 0; turn < 20; turn += 1) await settle();
    expect(bench.counts.handled).toHaveLength(4_999);
    gate.letAllGo();
    await bench.replies(6_001);
    await settle();
    expect(bench.committed(0)).toBe(6_001n);
  });
});

describe('drain', () => {
  test('running handlers end, waiting commands go to the next worker', async () => {
    const gate = gated();
    const worker = await bench.start(rig.connect(), [gate.handler], { concurrency: 2 });
    bench.send(...Array.from({ length: 10 }, (_, n) => commandFor(charge, { sagaId: saga(n) })));
    await settle();
    const drained = worker.drain(10_000);
    await settle();
    gate.letGo(`${saga(1)}.1`);
    gate.letGo(`${saga(0)}.1`);
    await drained;
    await worker.closed;
    expect(bench.rawReplies()).toHaveLength(2);
    expect(bench.committed(0)).toBe(2n);
    expect(gate.signals.every((signal) => !signal.aborted)).toBe(true);
    const next = gated();
    next.letAllGo();
    await bench.start(rig.connect(), [next.handler]);
    await bench.replies(10);
    expect(next.begun).toHaveLength(8);
    await settle();
    expect(bench.committed(0)).toBe(10n);
  });

  test('a handler that hangs is told at the deadline and then left behind, its work rolled back', async () => {
    let signal: AbortSignal | undefined;
    let late: (() => Promise<void>) | undefined;
    const hanging = transactional<typeof reserve, MemoryTx>(reserve, async (context) => {
      signal = context.signal;
      await rig.add(context.tx, 'sold', 1);
      late = () => context.tx.set('sold', 99);
      return new Promise(() => undefined);
    });
    const worker = await bench.start(rig.connect(), [hanging]);
    bench.send(commandFor(reserve, { sagaId: saga(0) }));
    await settle();
    const drained = worker.drain(5_000);
    await rig.clock.advance(4_999);
    expect(signal?.aborted).toBe(false);
    await rig.clock.advance(1);
    expect(signal?.aborted).toBe(true);
    await rig.clock.advance(2_000);
    await drained;
    await expect(late?.()).rejects.toThrow(/has ended/);
    expect(bench.rawReplies()).toHaveLength(0);
    expect(bench.committed(0)).toBe(null);
    // Nothing was answered and nothing is left: the next worker runs it as if for the first time.
    const next = transactional<typeof reserve, MemoryTx>(reserve, async ({ tx }) => {
      await rig.add(tx, 'sold', 1);
      return { reservation: 'r' };
    });
    await bench.start(rig.connect(), [next]);
    expect((await bench.replies(1))[0]).toMatchObject({ outcome: 'succeeded', attempt: 1 });
    expect(await rig.count('sold')).toBe(1);
  });

  test('a handler that heeds its signal ends at once, unanswered', async () => {
    const heeding = effect(
      charge,
      ({ signal }) =>
        new Promise<never>((_, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason as Error));
        }),
    );
    const worker = await bench.start(rig.connect(), [heeding]);
    bench.send(commandFor(charge, { sagaId: saga(0) }));
    await settle();
    const drained = worker.drain(1_000);
    await rig.clock.advance(1_000);
    await drained;
    expect(bench.rawReplies()).toHaveLength(0);
    // Its lease was ended: the next worker need not wait for it.
    expect(await rig.row(`${saga(0)}.1`)).toMatchObject({ state: 'running', leaseRemainingMs: 0 });
  });

  test('it ends although the bus is away for good', async () => {
    const gate = gated();
    gate.letAllGo();
    const worker = await bench.start(rig.connect(), [gate.handler], {
      publish: () => new Promise(() => undefined),
    });
    bench.send(commandFor(charge, { sagaId: saga(0) }));
    await settle();
    const drained = worker.drain(1_000);
    await rig.clock.advance(10_000);
    await drained;
    expect(bench.committed(0)).toBe(null);
    expect(await rig.row(`${saga(0)}.1`)).toMatchObject({ state: 'done' });
  });

  test.each([
    ['drained', 'start:before'],
    ['killed', 'start:before'],
    ['drained', 'topics'],
    ['killed', 'topics'],
  ])('one that is %s while it starts (%s) takes no part in the group', async (how, at) => {
    const reached = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    const pass = async (point: string): Promise<void> => {
      if (point !== at) return;
      reached.resolve();
      await goOn.promise;
    };
    const bus = memoryBus(bench.broker, new PlainHost(rig.clock));
    const worker = createWorker({
      service: 'shop',
      topicPrefix: PREFIX,
      commandPartitions: PARTITIONS,
      store: rig.connect(pass),
      handlers: [],
      bus: { ...bus, ensureTopics: () => pass('topics') },
      clock: rig.clock,
      log: keptLog(),
    });
    const started = worker.start();
    await reached.promise;
    await (how === 'drained' ? worker.drain(60_000) : worker.kill());
    await worker.closed;
    goOn.resolve();
    await started;
    const gate = gated();
    gate.letAllGo();
    // All partitions are the next one's.
    await bench.start(rig.connect(), [gate.handler]);
    const everywhere = Array.from({ length: 12 }, (_, n) => `9${String(n).padStart(17, '0')}`);
    bench.send(...everywhere.map((sagaId) => commandFor(charge, { sagaId })));
    for (let turn = 0; turn < 50; turn += 1) await settle();
    expect(bench.rawReplies()).toHaveLength(12);
  });

  test('an idle worker drains at once, before its start too', async () => {
    const worker = await bench.start(rig.connect(), []);
    await worker.drain(60_000);
    await worker.closed;
    await worker.drain(60_000);
    await expect(worker.start()).rejects.toThrow(/starts once/);
  });
});

describe('rebalance', () => {
  test('commands that wait for a partition that went away are dropped; running ones end, uncommitted', async () => {
    let owner = 0;
    const moving = await openBench(rig.clock, {
      assign: (partitions, members) => partitions.map(() => owner % members),
    });
    const [gate, other] = [gated(), gated()];
    await moving.start(rig.connect(), [gate.handler], { concurrency: 1 });
    moving.send(...Array.from({ length: 5 }, (_, n) => commandFor(charge, { sagaId: saga(n) })));
    await settle();
    expect(gate.begun).toEqual([`${saga(0)}.1`]);
    other.letAllGo();
    await moving.start(rig.connect(), [other.handler], { concurrency: 8 });
    owner = 1;
    moving.broker.rebalanceAll();
    await Promise.all([1, 2, 3, 4].map((n) => moving.replyTo(`${saga(n)}.1`)));
    expect(gate.begun).toHaveLength(1);
    expect(moving.committed(0)).toBe(null);
    gate.letAllGo();
    await moving.replyTo(`${saga(0)}.1`);
    // The new owner looks again, and finds the answer of the old one, who can't commit any more.
    await rig.clock.advance(2_000);
    expect(other.begun.sort()).toEqual([1, 2, 3, 4].map((n) => `${saga(n)}.1`).sort());
    expect(moving.counts).toMatchObject({ runs: 5, duplicates: 1 });
    expect(moving.committed(0)).toBe(5n);
    await moving.close();
  });
});
