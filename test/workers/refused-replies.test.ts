/** Replies that don't get onto the bus: the asker, the command and everybody else. Memory store, time moved by the test. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { DEAD_LETTER_TEXT_LIMIT, decodeLetter, isLetter } from '../../engine/core/letters.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { settle } from '../../engine/memory/clock.ts';
import { transactional, type Handler } from '../../workers/handlers.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import { openBench, type Bench } from './support/bench.ts';
import { commandFor, INBOX, messageFor, PARTITIONS, reserve, SAGA } from './support/contracts.ts';
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
  expect(rig.database.deadLetters).toMatchObject([
    {
      code: 'TOPOLOGY_MISMATCH',
      reason: expect.stringContaining(`has no "${INBOX}/99"`) as string,
    },
  ]);
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

test('a reply too large for the bus: the asker is told why, and the command is kept whole', async () => {
  const limit = 300;
  const refused = new SagaxError('PAYLOAD_REFUSED', 'over the message.max.bytes of the broker');
  await bench.start(
    rig.connect(),
    [
      transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, input }) => {
        await rig.add(tx, 'sold', input.count);
        return { reservation: 'x'.repeat(limit) };
      }),
    ],
    {
      publish: (messages) =>
        messages.some((one) => !isLetter(one) && one.value.length > limit)
          ? Promise.reject(refused)
          : Promise.resolve(),
    },
  );
  const command = commandFor(reserve, { input: { item: 'b'.repeat(100_000), count: 1 } });
  bench.send(command);
  expect(await bench.replies(1)).toEqual([
    {
      commandId: command.commandId,
      sagaId: SAGA,
      namespace: 'default',
      attempt: 1,
      outcome: 'failed',
      retryable: false,
      failure: {
        code: 'PAYLOAD_REFUSED',
        message: expect.stringContaining(refused.message) as string,
      },
    },
  ]);
  await settle();
  expect(bench.rawReplies().filter(isLetter).map(decodeLetter)).toMatchObject([
    {
      code: 'PAYLOAD_REFUSED',
      reason: expect.stringContaining(refused.message) as string,
      value: messageFor(command).value,
    },
  ]);
  expect(bench.committed(PARTITION)).toBe(1n);
  // What was done stands: a settlement finds it.
  expect(await rig.row(command.commandId)).toMatchObject({ state: 'done' });
  expect(await rig.count('sold')).toBe(1);
});

test.each([
  ['the bus', { item: 'b'.repeat(100_000), most_bytes: 90_000 }],
  // The report has the text in JSON twice more, which quotes make longer each time.
  ['an engine', { item: '"'.repeat(400_000), most_bytes: Infinity }],
])('a dead letter whose report is too large for %s is reported cut', async (_, sizes) => {
  await bench.start(rig.connect(), [counting()], {
    publish: (messages) =>
      messages.some(({ topic, value }) => topic !== INBOX || value.length > sizes.most_bytes)
        ? Promise.reject(new SagaxError('PAYLOAD_REFUSED', 'too large'))
        : Promise.resolve(),
  });
  const command = commandFor(reserve, {
    input: { item: sizes.item, count: 1 },
    replyTo: { topic: 'small', partition: 0 },
  });
  bench.send(command);
  await settle();
  const { value } = messageFor(command);
  expect(bench.rawReplies().filter(isLetter).map(decodeLetter)).toMatchObject([
    { code: 'PAYLOAD_REFUSED', value: value.slice(0, DEAD_LETTER_TEXT_LIMIT) },
  ]);
  expect(bench.committed(PARTITION)).toBe(1n);
});
