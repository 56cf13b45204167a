/** The worker's loop on the memory store, the memory bus and a clock that the test moves. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { MAX_BODY_BYTES, type CommandBody } from '../../engine/core/wire.ts';
import { settle } from '../../engine/memory/clock.ts';
import { effect, transactional, type Handler } from '../../workers/handlers.ts';
import type { MemoryTx } from '../../workers/memory/transaction.ts';
import { createWorker } from '../../workers/worker.ts';
import { openBench, type Bench } from './support/bench.ts';
import {
  charge,
  commandFor,
  INBOX,
  messageFor,
  PARTITIONS,
  release,
  reserve,
  SAGA,
} from './support/contracts.ts';
import { keptLog } from './support/logs.ts';
import { memoryRig, type MemoryRig } from './support/memory-rig.ts';

let rig: MemoryRig;
let bench: Bench;

beforeEach(async () => {
  rig = memoryRig();
  bench = await openBench(rig.clock);
});
afterEach(() => bench.close());

const sagaOf = (n: number): string => `9${String(n).padStart(17, '0')}`;

const counting = (key = 'sold'): Handler<MemoryTx> =>
  transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, input, commandId }) => {
    await rig.add(tx, key, input.count);
    return { reservation: `for ${commandId}` };
  });

describe('replies', () => {
  test('a reply goes where the command says, under its trace', async () => {
    await bench.start(rig.connect(), [counting()]);
    const command = commandFor(reserve, { replyTo: { topic: INBOX, partition: 3 }, attempt: 2 });
    bench.broker.append([messageFor(command, '00-aaaa-bbbb-01')]);
    const [reply] = await bench.replies(1);
    expect(reply).toEqual({
      commandId: `${SAGA}.1`,
      sagaId: SAGA,
      namespace: 'default',
      attempt: 2,
      outcome: 'succeeded',
      output: { reservation: `for ${SAGA}.1` },
    });
    const [raw] = bench.rawReplies();
    expect(raw).toMatchObject({ partition: 3, key: SAGA });
    expect(raw?.headers).toMatchObject({
      ce_type: 'sagax.reply.v1',
      ce_id: `${SAGA}.1#2#succeeded`,
      ce_source: '/sagax/workers/shop',
      ce_traceparent: '00-aaaa-bbbb-01',
    });
    expect(await rig.count('sold')).toBe(1);
  });

  test('an answer that was stored but not told is told when the command comes again', async () => {
    let cut = true;
    const worker = await bench.start(rig.connect(), [counting()], {
      publish: () =>
        cut ? Promise.reject(new SagaxError('BUS_UNAVAILABLE', 'away')) : Promise.resolve(),
    });
    bench.send(commandFor(reserve));
    await settle();
    expect(await rig.count('sold')).toBe(1);
    // Dies between the commit and the reply.
    await worker.kill();
    const partition = partitionOf(SAGA, PARTITIONS);
    expect(bench.committed(partition)).toBe(null);
    cut = false;
    await bench.start(rig.connect(), [counting()]);
    const [reply] = await bench.replies(1);
    expect(reply).toMatchObject({ outcome: 'succeeded', output: { reservation: `for ${SAGA}.1` } });
    expect(await rig.count('sold')).toBe(1);
    expect(bench.counts.duplicates).toBe(1);
  });

  test('while the bus is away the command keeps its place; then the reply goes out', async () => {
    let failures = 3;
    await bench.start(rig.connect(), [counting()], {
      publish: () => {
        failures -= 1;
        return failures >= 0
          ? Promise.reject(new SagaxError('BUS_UNAVAILABLE', 'away'))
          : Promise.resolve();
      },
    });
    bench.send(commandFor(reserve));
    await settle();
    const partition = partitionOf(SAGA, PARTITIONS);
    expect(bench.committed(partition)).toBe(null);
    await rig.clock.advance(1_000);
    expect(await bench.replies(1)).toHaveLength(1);
    await settle();
    expect(bench.committed(partition)).toBe(1n);
  });

  test('a success too large to be told is not stored', async () => {
    await bench.start(rig.connect(), [
      transactional<typeof reserve, MemoryTx>(reserve, async ({ tx }) => {
        await rig.add(tx, 'sold', 1);
        return { reservation: 'x'.repeat(MAX_BODY_BYTES) };
      }),
    ]);
    bench.send(commandFor(reserve));
    const [reply] = await bench.replies(1);
    expect(reply).toMatchObject({
      outcome: 'failed',
      retryable: false,
      failure: { code: 'PAYLOAD_REFUSED' },
    });
    expect(await rig.count('sold')).toBe(0);
    expect(await rig.row(`${SAGA}.1`)).toBe(null);
  });
});

describe('duplicates and disorder (I8)', () => {
  test('fifty copies of a do: one effect, one answer', async () => {
    const worker = await bench.start(rig.connect(), [counting()]);
    const second = await bench.start(rig.connect(), [counting()], { group: 'another' });
    bench.send(...Array.from({ length: 25 }, () => commandFor(reserve)));
    const replies = await bench.replies(50);
    expect(new Set(replies.map((reply) => JSON.stringify(reply))).size).toBe(1);
    expect(await rig.count('sold')).toBe(1);
    expect(bench.counts.runs).toBe(1);
    await Promise.all([worker.drain(1_000), second.drain(1_000)]);
  });

  test('a compensation that comes first does nothing, and the step never runs', async () => {
    const undo = transactional<typeof release, MemoryTx>(release, async ({ tx }) => {
      await rig.add(tx, 'undone', 1);
      return {};
    });
    await bench.start(rig.connect(), [counting(), undo]);
    bench.send(commandFor(release, { op: 'compensate' }), commandFor(reserve));
    const replies = await bench.replies(2);
    expect(replies.map((reply) => reply.outcome)).toEqual(['succeeded', 'superseded']);
    expect([await rig.count('sold'), await rig.count('undone')]).toEqual([0, 0]);
  });

  test('a step after its settlement never runs', async () => {
    await bench.start(rig.connect(), [counting()]);
    bench.send(commandFor(reserve, { op: 'settle' }), commandFor(reserve, { attempt: 2 }));
    const replies = await bench.replies(2);
    expect(replies.map((reply) => reply.outcome)).toEqual(['neverRan', 'superseded']);
    expect(await rig.count('sold')).toBe(0);
  });

  test('a rejection sticks, and keeps nothing of the work', async () => {
    let left = 0;
    await bench.start(rig.connect(), [
      transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, reject }) => {
        await rig.add(tx, 'sold', 1);
        return left === 0 ? reject('SoldOut', { left }, 'none') : { reservation: 'r' };
      }),
    ]);
    bench.send(commandFor(reserve));
    await bench.replies(1);
    left = 5;
    bench.send(commandFor(reserve, { attempt: 2 }));
    const replies = await bench.replies(2);
    for (const reply of replies) {
      expect(reply).toMatchObject({
        outcome: 'rejected',
        failure: { code: 'SoldOut', message: 'none', data: { left: 0 } },
      });
    }
    expect(await rig.count('sold')).toBe(0);
  });

  test('whatever the store does to it at any point, the effect is there once', async () => {
    const points: string[] = [];
    const note = rig.connect(async (point) => void points.push(point));
    const first = await bench.start(note, [counting('dry run')]);
    bench.send(commandFor(reserve, { sagaId: sagaOf(0) }));
    await bench.replies(1);
    await first.kill();
    expect(points).toContain('commit:after');
    // A crash at every point that the dry run passed, and at the same point once more.
    for (const [index, point] of points.entries()) {
      const key = `crash at ${index}`;
      const command = commandFor(reserve, { sagaId: sagaOf(index + 1), n: index + 1 });
      for (let life = 0; life < 2; life += 1) {
        const crashed = Promise.withResolvers<void>();
        let left = points.slice(0, index + 1).filter((one) => one === point).length;
        const store = rig.connect(async (at) => {
          if (at === point && (left -= 1) === 0) {
            crashed.resolve();
            store.kill();
          }
        });
        const dying = bench.start(store, [counting(key)]).catch(() => undefined);
        if (life === 0) bench.send(command);
        await crashed.promise;
        await (await dying)?.kill();
      }
      const survivor = await bench.start(rig.connect(), [counting(key)]);
      expect((await bench.replyTo(command.commandId)).outcome, point).toBe('succeeded');
      expect(await rig.count(key), point).toBe(1);
      await survivor.drain(1_000);
    }
  });
});

describe('failures', () => {
  test('what is thrown rolls everything back and is answered as retryable, cut to size', async () => {
    let broken = true;
    await bench.start(rig.connect(), [
      transactional<typeof reserve, MemoryTx>(reserve, async ({ tx }) => {
        await rig.add(tx, 'sold', 1);
        if (broken) throw new Error(`out of \0 paper ${'!'.repeat(5_000)}`);
        return { reservation: 'r' };
      }),
    ]);
    bench.send(commandFor(reserve));
    const [reply] = await bench.replies(1);
    expect(reply).toMatchObject({ outcome: 'failed', retryable: true });
    if (reply?.outcome !== 'failed') throw new Error('not failed');
    expect(reply.failure.code).toBe('HANDLER_FAILED');
    expect(reply.failure.message).toMatch(/^Error: out of . paper !+…$/);
    expect(reply.failure.message.length).toBeLessThanOrEqual(1_000);
    expect(await rig.row(`${SAGA}.1`)).toBe(null);
    broken = false;
    bench.send(commandFor(reserve, { attempt: 2 }));
    expect((await bench.replies(2))[1]).toMatchObject({ outcome: 'succeeded', attempt: 2 });
    expect(await rig.count('sold')).toBe(1);
  });

  test.each([
    ['no handler', commandFor(release), 'NO_HANDLER', true],
    [
      'input that does not fit',
      commandFor(reserve, { input: { item: 7 } }),
      'INPUT_INVALID',
      false,
    ],
    ['a deadline that has passed', commandFor(reserve, { deadlineAt: 1 }), 'STEP_TIMED_OUT', true],
    [
      'effect: input that does not fit',
      commandFor(charge, { input: null }),
      'INPUT_INVALID',
      false,
    ],
    [
      'effect: a deadline that has passed',
      commandFor(charge, { deadlineAt: 1 }),
      'STEP_TIMED_OUT',
      true,
    ],
  ])('%s', async (_, command, code, retryable) => {
    await bench.start(rig.connect(), [counting(), effect(charge, async () => ({ charge: 'c' }))]);
    bench.send(command);
    const [reply] = await bench.replies(1);
    expect(reply).toMatchObject({ outcome: 'failed', retryable, failure: { code } });
    expect(bench.counts.runs).toBe(0);
    // Nothing that a settlement could take for an effect in flight.
    expect(await rig.row(command.commandId)).toBe(null);
  });

  test.each([
    ['an output that does not fit', async () => ({ nothing: true }) as never],
    ['an output that is not JSON', async () => ({ reservation: 'r', at: new Date() }) as never],
    [
      'a rejection that the contract does not know',
      async (context: any) => context.reject('Nope', {}),
    ],
    [
      'a rejection whose data does not fit',
      async (context: any) => context.reject('SoldOut', { left: 'x' }),
    ],
  ])(
    '%s is a defect of the handler: nothing is kept',
    async (_, run: (context: any) => Promise<any>) => {
      await bench.start(rig.connect(), [
        transactional<typeof reserve, MemoryTx>(reserve, async (context) => {
          await rig.add(context.tx, 'sold', 1);
          return run(context);
        }),
      ]);
      bench.send(commandFor(reserve));
      expect((await bench.replies(1))[0]).toMatchObject({
        outcome: 'failed',
        retryable: true,
        failure: { code: 'OUTPUT_INVALID' },
      });
      expect([await rig.count('sold'), await rig.row(`${SAGA}.1`)]).toEqual([0, null]);
    },
  );

  test.each([
    [
      reserve,
      transactional<typeof reserve, MemoryTx>(reserve, async ({ tx, reject }) => {
        await rig.add(tx, 'undone', 1);
        return reject('SoldOut', { left: 0 });
      }),
    ],
    [charge, effect(charge, async ({ reject }) => reject('Declined', { why: 'no' }))],
  ])('a compensation that rejects is answered as failed, and stays owed', async (undo, handler) => {
    const step = transactional<typeof release, MemoryTx>(release, async () => ({}));
    await bench.start(rig.connect(), [step, handler]);
    bench.send(commandFor(release), commandFor(undo, { op: 'compensate' }));
    expect((await bench.replies(2))[1]).toMatchObject({
      outcome: 'failed',
      retryable: true,
      failure: { code: 'COMPENSATION_REJECTED' },
    });
    const row = await rig.row(`${SAGA}.1.c`);
    expect([undefined, 'running']).toContain(row?.state);
    expect(await rig.count('undone')).toBe(0);
  });

  test('a transaction that is held for too long is rolled back', async () => {
    let signal: AbortSignal | undefined;
    const hanging = transactional<typeof reserve, MemoryTx>(reserve, async (context) => {
      signal = context.signal;
      await rig.add(context.tx, 'sold', 1);
      return new Promise(() => undefined);
    });
    await bench.start(rig.connect(), [hanging], { transactionTimeoutMs: 3_000 });
    bench.send(commandFor(reserve));
    await settle();
    await rig.clock.advance(3_000);
    expect(signal?.aborted).toBe(true);
    await rig.clock.advance(1_000);
    expect((await bench.replies(1))[0]).toMatchObject({
      outcome: 'failed',
      retryable: true,
      failure: { code: 'HANDLER_TIMEOUT' },
    });
    expect([await rig.count('sold'), await rig.row(`${SAGA}.1`)]).toEqual([0, null]);
  });

  test('a serialization failure is tried again inside', async () => {
    let conflicts = 3;
    const store = rig.connect(async (point) => {
      if (point === 'commit:before' && (conflicts -= 1) >= 0) {
        throw Object.assign(new Error('could not serialize access'), { code: '40001' });
      }
    });
    await bench.start(store, [counting()]);
    bench.send(commandFor(reserve));
    await settle();
    await rig.clock.advance(1_000);
    expect((await bench.replies(1))[0]?.outcome).toBe('succeeded');
    expect(bench.counts.runs).toBe(4);
    expect(await rig.count('sold')).toBe(1);
  });
});

describe('set-up', () => {
  const options = () => ({
    service: 'shop',
    topicPrefix: 'test',
    store: rig.connect(),
    bus: {} as never,
    clock: rig.clock,
    log: keptLog(),
  });
  const wrong: [string, () => unknown, RegExp][] = [
    [
      'two handlers of a command',
      () => createWorker({ ...options(), handlers: [counting(), counting()] }),
      /two handlers/,
    ],
    [
      'a handler of another service',
      () => createWorker({ ...options(), service: 'bank', handlers: [counting()] }),
      /worker of "shop"/,
    ],
    [
      'no concurrency',
      () => createWorker({ ...options(), handlers: [], concurrency: 0 }),
      /concurrency is 0/,
    ],
  ];
  test.each(wrong)('%s is refused', (_, create, message) => {
    expect(create).toThrow(message);
    expect(create).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });

  test('logs of a handler say which command they are about', async () => {
    await bench.start(rig.connect(), [
      transactional<typeof reserve, MemoryTx>(reserve, async ({ log }) => {
        log.info({ shelf: 7 }, 'reserved');
        return { reservation: 'r' };
      }),
    ]);
    bench.send(commandFor(reserve, { attempt: 3 }) satisfies CommandBody);
    await bench.replies(1);
    expect(bench.lines.find((line) => line.message === 'reserved')?.fields).toEqual({
      service: 'shop',
      commandId: `${SAGA}.1`,
      sagaId: SAGA,
      attempt: 3,
      shelf: 7,
    });
  });
});
