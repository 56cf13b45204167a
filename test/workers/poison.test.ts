/** Messages that are no commands: parked, answered when they say to whom, and never in anybody's way. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DEAD_LETTER_TEXT_LIMIT, decodeLetter, isLetter } from '../../engine/core/letters.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { settle } from '../../engine/memory/clock.ts';
import { transactional, type Handler } from '../../workers/handlers.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import { openBench, type Bench } from './support/bench.ts';
import {
  COMMANDS,
  commandFor,
  messageFor,
  PARTITIONS,
  reserve,
  SAGA,
} from './support/contracts.ts';
import { memoryRig, type MemoryRig } from './support/memory-rig.ts';

let rig: MemoryRig;
let bench: Bench;

beforeEach(async () => {
  rig = memoryRig();
  bench = await openBench(rig.clock);
});
afterEach(() => bench.close());

const counting = (): Handler<MemoryTx> =>
  transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, input }) => {
    await rig.add(tx, 'sold', input.count);
    return { reservation: 'r' };
  });

/** Another saga of the same partition. */
const OTHER = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12'].find(
  (sagaId) => partitionOf(sagaId, PARTITIONS) === partitionOf(SAGA, PARTITIONS),
)!;

describe('poison messages', () => {
  const partition = partitionOf(SAGA, PARTITIONS);
  const raw = (
    value: string | null,
    headers: { [name: string]: string } = messageFor(commandFor(reserve)).headers,
  ) => ({
    topic: COMMANDS,
    partition,
    key: SAGA,
    headers,
    value,
  });
  const withBody = (change: object): ReturnType<typeof raw> =>
    raw(JSON.stringify({ ...commandFor(reserve), ...change }));

  test('each is parked, and the partition goes on', async () => {
    const poison = [
      raw('not JSON'),
      raw(null),
      raw('{}', {}),
      raw('['.repeat(100_000)),
      raw(`{"__proto__":{"a":1}}`),
      raw(JSON.stringify({ ...commandFor(reserve), replyTo: undefined })),
      raw('"\ufffd\u0000"'),
    ];
    await bench.start(rig.connect(), [counting()]);
    for (const message of poison) bench.sendRaw(message);
    bench.send(commandFor(reserve));
    expect((await bench.replies(1))[0]?.outcome).toBe('succeeded');
    expect(rig.database.deadLetters.map((letter) => letter.offset)).toEqual(
      poison.map((_, index) => BigInt(index)),
    );
    expect(bench.counts.parked).toHaveLength(poison.length);
    await settle();
    expect(bench.committed(partition)).toBe(BigInt(poison.length + 1));
    expect(bench.lines.filter((line) => line.message.includes('parked'))).toHaveLength(
      poison.length,
    );
  });

  test.each([
    ['an op that does not exist', withBody({ op: 'undo' })],
    ['a compensation of nothing', withBody({ op: 'compensate' })],
    ['a settlement of another saga', withBody({ op: 'settle', of: '5.1' })],
    ['a command id of another saga', withBody({ sagaId: '5' })],
    [
      'an input with a forbidden key',
      raw(JSON.stringify(commandFor(reserve)).replace('"item"', '"__proto__"')),
    ],
    ['an attempt that is none', withBody({ attempt: 0 })],
  ])('%s is parked, and whoever asked is told that it will never work', async (_, message) => {
    await bench.start(rig.connect(), [counting()]);
    bench.sendRaw(message);
    const [reply] = await bench.replies(1);
    expect(reply).toMatchObject({
      commandId: `${SAGA}.1`,
      attempt: 1,
      outcome: 'failed',
      retryable: false,
    });
    expect(rig.database.deadLetters).toHaveLength(1);
    expect(await rig.count('sold')).toBe(0);
  });

  test('each is told to the engine, whole where it can be redriven, whatever is in it', async () => {
    const poison = [raw('not JSON'), raw(null), raw('"\ud800\u0000"'), raw('é'.repeat(70_000))];
    await bench.start(rig.connect(), [counting()]);
    for (const message of poison) bench.sendRaw(message);
    bench.send(commandFor(reserve));
    await bench.replies(1);
    await settle();
    const letters = bench.rawReplies().filter(isLetter).map(decodeLetter);
    expect(letters).toEqual(
      poison.map(({ topic, key, headers, value }, index) => ({
        topic,
        partition,
        offset: BigInt(index),
        key,
        headers,
        value: value?.slice(0, DEAD_LETTER_TEXT_LIMIT) ?? null,
        code: 'MESSAGE_INVALID',
        reason: expect.any(String) as string,
        at: rig.clock.now(),
      })),
    );
    // Reports lie in a partition that every deployment has, and belong to no saga.
    expect(
      bench
        .rawReplies()
        .filter(isLetter)
        .map((one) => one.partition),
    ).toEqual([0, 0, 0, 0]);
  });

  test('a worker that is told not to report does not', async () => {
    await bench.start(rig.connect(), [counting()], { reportDeadLetters: false });
    bench.sendRaw(raw('not JSON'));
    bench.send(commandFor(reserve));
    await bench.replies(1);
    expect(bench.rawReplies().filter(isLetter)).toEqual([]);
  });

  test('a dead letter that can not be kept does not stop the partition', async () => {
    const store = rig.connect(async (point) => {
      if (point === 'park:before') throw new Error('disk full');
    });
    await bench.start(store, [counting()]);
    bench.sendRaw(raw('not JSON'));
    bench.send(commandFor(reserve, { sagaId: OTHER }));
    await bench.replies(1);
    await rig.clock.advance(60_000);
    expect(bench.committed(partition)).toBe(2n);
    expect(bench.lines.some((line) => line.level === 'error')).toBe(true);
  });
});
