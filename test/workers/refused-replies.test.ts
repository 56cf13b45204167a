/** Replies that don't get onto the bus: the asker, the command and everybody else. Memory store, time moved by the test. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { settle } from '../../engine/memory/clock.ts';
import { transactional, type Handler } from '../../workers/handlers.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import { openBench, type Bench } from './support/bench.ts';
import { commandFor, INBOX, PARTITIONS, reserve, SAGA } from './support/contracts.ts';
import { memoryRig, type MemoryRig } from './support/memory-rig.ts';

let rig: MemoryRig;
let bench: Bench;

beforeEach(async () => {
  rig = memoryRig();
  bench = await openBench(rig.clock);
});
afterEach(() => bench.close());

/** Sagas whose commands come in one partition. */
const PARTITION = partitionOf(SAGA, PARTITIONS);
const SAGAS: string[] = [];
for (let n = 1; SAGAS.length < 3; n += 1) {
  const sagaId = `9${String(n).padStart(17, '0')}`;
  if (partitionOf(sagaId, PARTITIONS) === PARTITION) SAGAS.push(sagaId);
}

const counting = (): Handler<MemoryTx> =>
  transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, input, commandId }) => {
    await rig.add(tx, 'sold', input.count);
    return { reservation: `for ${commandId}` };
  });

test('a reply that the bus refuses is kept as a dead letter, and holds nobody up', async () => {
  const goOn = Promise.withResolvers<void>();
  let calls = 0;
  await bench.start(rig.connect(), [counting()], {
    // The first reply is held until the others are ready, so that they go out in one call.
    publish: () => ((calls += 1) === 1 ? goOn.promise : Promise.resolve()),
  });
  const [first, before, after] = SAGAS;
  const lost = commandFor(reserve, { replyTo: { topic: INBOX, partition: 99 } });
  const others = [first, before, after].map((sagaId) => commandFor(reserve, { sagaId: sagaId! }));
  bench.send(others[0]!, others[1]!, lost, others[2]!);
  await settle();
  expect(calls).toBe(1);
  goOn.resolve();
  const replies = await bench.replies(3);
  expect(replies.map((reply) => reply.commandId)).toEqual(others.map((one) => one.commandId));
  expect(rig.database.deadLetters).toHaveLength(0);
  await rig.clock.advance(60_000);
  expect(rig.database.deadLetters[0]?.reason).toContain('partition 99');
  expect(bench.committed(PARTITION)).toBe(4n);
});

test('replies for a topic that can not be had hold up no others', async () => {
  const lost = { topic: 'no.such.topic', partition: 0 };
  await bench.start(rig.connect(), [counting()], {
    publish: (messages) =>
      messages.some(({ topic }) => topic === lost.topic)
        ? Promise.reject(new SagaxError('BUS_UNAVAILABLE', 'away'))
        : Promise.resolve(),
  });
  const [one, another, third] = SAGAS as [string, string, string];
  bench.send(
    commandFor(reserve, { sagaId: one, replyTo: lost }),
    commandFor(reserve, { sagaId: another }),
  );
  expect(await bench.replies(1)).toMatchObject([{ sagaId: another }]);
  await rig.clock.advance(60_000);
  bench.send(commandFor(reserve, { sagaId: third }));
  expect(await bench.replies(2)).toMatchObject([{ sagaId: another }, { sagaId: third }]);
  // Its own command keeps its place.
  await settle();
  expect(bench.committed(PARTITION)).toBe(null);
});
