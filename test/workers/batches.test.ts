/** Batches on the store in memory: the suite, and a crash at every point. */
import { expect, test } from 'vitest';
import { settle } from '../../engine/memory/clock.ts';
import { transactional } from '../../workers/handlers.ts';
import type { Gate, MemoryTx } from '../../workers/memory/transaction.ts';
import { Pace } from '../../workers/pace.ts';
import { batchSuite } from './support/batch-suite.ts';
import { commandFor, reserve } from './support/contracts.ts';
import { executions } from './support/executions.ts';
import { memoryRig } from './support/memory-rig.ts';

batchSuite('memory', memoryRig);

const saga = (n: number): string => `6${String(n).padStart(17, '0')}`;

test('a crash at any point of a batch leaves each effect there once, or not at all', async () => {
  const rig = memoryRig();
  const outcomes = (gate: Gate, from: number): Promise<unknown> => {
    const handler = transactional<typeof reserve, MemoryTx>(
      reserve,
      async ({ tx, sagaId, reject }) => {
        await rig.add(tx, sagaId, 1);
        if (sagaId === saga(from + 2)) return reject('SoldOut', { left: 0 });
        if (sagaId === saga(from + 3)) throw new Error('no luck');
        return { reservation: sagaId };
      },
    );
    const world = executions(rig, rig.connect(gate), [handler], 'in batches');
    const all = [0, 1, 2, 3, 4].map((n) =>
      world.run(commandFor(reserve, { sagaId: saga(from + n) })).then((reply) => reply.outcome),
    );
    return Promise.all(all);
  };
  const points: string[] = [];
  const wanted = ['succeeded', 'succeeded', 'rejected', 'failed', 'succeeded'];
  expect(await outcomes(async (point) => void points.push(point), 0)).toEqual(wanted);
  for (const point of [
    'withdraw:before',
    'answer:after',
    'commit:before',
    'rollbackToSavepoint:after',
  ]) {
    expect(points).toContain(point);
  }

  for (const index of points.keys()) {
    const from = 10 * (index + 1);
    let [left, dead] = [index, false];
    await outcomes(async () => {
      if (left === 0) dead = true;
      left -= 1;
      // From here on nothing of this worker gets through, as when its process is gone.
      if (dead) throw new Error('crash');
    }, from);
    const before = await Promise.all([0, 1, 2, 3, 4].map((n) => rig.count(saga(from + n))));
    for (const count of before) expect([0, 1], `crash at ${points[index]}`).toContain(count);
    expect(await outcomes(() => Promise.resolve(), from)).toEqual(wanted);
    const counts = await Promise.all([0, 1, 2, 3, 4].map((n) => rig.count(saga(from + n))));
    expect(counts, `crash at ${points[index]}`).toEqual([1, 1, 0, 0, 1]);
  }
});

test('handlers that turn out slow end their batch; those behind go into the next one', async () => {
  const rig = memoryRig();
  const handler = transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, sagaId }) => {
    if (sagaId === saga(0)) await rig.clock.sleep(100);
    await rig.add(tx, sagaId, 1);
    return { reservation: sagaId };
  });
  const pace = new Pace(rig.clock);
  pace.note(reserve.name, 0.1);
  const world = executions(rig, rig.connect(), [handler], 'in batches', { pace });
  const all = [0, 1, 2, 3].map((n) => world.run(commandFor(reserve, { sagaId: saga(n) })));
  await settle();
  await rig.clock.advance(100);
  expect((await Promise.all(all)).map((reply) => reply.outcome)).toEqual(
    all.map(() => 'succeeded'),
  );
  expect(world.batches).toBe(2);
  expect(await rig.count(saga(3))).toBe(1);
});

test('a database that takes long to begin and to store answers costs no second run', async () => {
  const rig = memoryRig();
  let runs = 0;
  const handler = transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, sagaId }) => {
    runs += 1;
    await rig.add(tx, sagaId, 1);
    return { reservation: sagaId };
  });
  const slow = rig.connect(async (point) => {
    if (point === 'begin:before' || point === 'answer:before') await rig.clock.sleep(1_500);
  });
  const world = executions(rig, slow, [handler], 'in batches');
  const all = [0, 1, 2].map((n) => world.run(commandFor(reserve, { sagaId: saga(n) })));
  for (let left = 12; left > 0; left -= 1) await rig.clock.advance(500);
  const outcomes = (await Promise.all(all)).map((reply) => reply.outcome);
  expect(outcomes).toEqual(all.map(() => 'succeeded'));
  expect([world.batches, runs]).toEqual([1, 3]);
});
