/** Effect handlers: leases, takeovers, heartbeats, completion later. Memory store, time moved by the test. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SagaxError } from '../../engine/core/errors.ts';
import { partitionOf } from '../../engine/core/shards.ts';
import { settle } from '../../engine/memory/clock.ts';
import { effect, type EffectContext } from '../../workers/handlers.ts';
import { openBench, type Bench } from './support/bench.ts';
import { charge, commandFor, PARTITIONS, refund, SAGA } from './support/contracts.ts';
import { memoryRig, type MemoryRig } from './support/memory-rig.ts';

type Charge = EffectContext<typeof charge>;

let rig: MemoryRig;
let bench: Bench;

beforeEach(async () => {
  rig = memoryRig();
  bench = await openBench(rig.clock);
});
afterEach(() => bench.close());

const LEASE_MS = 30_000;
const ID = `${SAGA}.1`;
const PARTITION = partitionOf(SAGA, PARTITIONS);

/** A handler whose runs the test ends one by one. */
function held(): {
  handler: ReturnType<typeof effect<typeof charge>>;
  run(
    n: number,
  ): Promise<{ context: Charge; end: (value: unknown) => void; fail: (error: Error) => void }>;
  count(): number;
} {
  type Run = { context: Charge; end: (value: unknown) => void; fail: (error: Error) => void };
  const runs: Run[] = [];
  let watchers: (() => void)[] = [];
  const handler = effect(
    charge,
    (context) =>
      new Promise<never>((resolve, reject) => {
        runs.push({ context, end: resolve as (value: unknown) => void, fail: reject });
        const woken = watchers;
        watchers = [];
        for (const watcher of woken) watcher();
      }),
    { leaseMs: LEASE_MS },
  );
  return {
    handler,
    count: () => runs.length,
    run: async (n) => {
      for (;;) {
        const run = runs[n];
        if (run !== undefined) return run;
        await new Promise<void>((resolve) => watchers.push(resolve));
      }
    },
  };
}

/** Another worker takes the command over, although the lease of the claim may last by our clock. */
async function takeOver(fencingToken: string): Promise<void> {
  const store = rig.connect();
  expect(await store.endLease(ID, fencingToken)).toBe(true);
  const claim = await store.claim(rig.database.rows.get(ID)!.entry, 10 * LEASE_MS);
  expect(claim.claimed).toBe(true);
}

describe('leases', () => {
  test('a zombie whose lease was taken over stores nothing and answers nothing', async () => {
    const zombies = held();
    const heirs = held();
    await bench.start(rig.connect(), [zombies.handler]);
    bench.send(commandFor(charge));
    const zombie = await zombies.run(0);
    await bench.start(rig.connect(), [heirs.handler], { group: 'another' });
    await rig.clock.advance(LEASE_MS + 1_000);
    const heir = await heirs.run(0);
    expect(zombie.context.signal.aborted).toBe(true);
    expect(heir.context.idempotencyKey).toBe(ID);
    expect(heir.context.idempotencyKey).toBe(zombie.context.idempotencyKey);
    expect(BigInt(heir.context.fencingToken)).toBeGreaterThan(BigInt(zombie.context.fencingToken));
    zombie.end({ charge: 'from the dead' });
    await settle();
    expect(bench.rawReplies()).toHaveLength(0);
    heir.end({ charge: 'alive' });
    expect((await bench.replies(1))[0]).toMatchObject({ output: { charge: 'alive' } });
    expect(await rig.row(ID)).toMatchObject({ state: 'done', output: { charge: 'alive' } });
    expect([...bench.counts.handled].sort()).toEqual(['lost', 'succeeded']);
    await settle();
    // The zombie's worker is done with it as well: another has answered.
    expect(bench.committed(PARTITION)).toBe(1n);
    expect(bench.committed(PARTITION, 'another')).toBe(1n);
  });

  test('without a takeover, a handler that outlived its lease is still heard', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge));
    const run = await runs.run(0);
    await rig.clock.advance(LEASE_MS + 1);
    expect(run.context.signal.aborted).toBe(true);
    run.end({ charge: 'late' });
    expect((await bench.replies(1))[0]).toMatchObject({
      outcome: 'succeeded',
      output: { charge: 'late' },
    });
  });

  test('one that never ends is left behind after twice its lease; the next attempt runs it anew', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler], { concurrency: 1 });
    bench.send(commandFor(charge), commandFor(charge, { attempt: 2 }));
    const hung = await runs.run(0);
    await rig.clock.advance(2 * LEASE_MS + 1);
    expect((await bench.replies(1))[0]).toMatchObject({
      attempt: 1,
      outcome: 'failed',
      retryable: true,
      failure: { code: 'LEASE_LOST' },
    });
    (await runs.run(1)).end({ charge: 'second' });
    expect((await bench.replies(2))[1]).toMatchObject({ attempt: 2, outcome: 'succeeded' });
    hung.end({ charge: 'first' });
    await settle();
    expect(await rig.row(ID)).toMatchObject({ output: { charge: 'second' } });
  });

  test('one that never ends and was taken over meanwhile is not answered for', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge));
    const run = await runs.run(0);
    await rig.clock.advance(LEASE_MS + 1);
    await takeOver(run.context.fencingToken);
    await rig.clock.advance(LEASE_MS);
    expect(bench.counts.handled).toEqual(['lost']);
    expect(bench.rawReplies()).toHaveLength(0);
  });

  test('heartbeats extend the lease, tell the engine now and then, and fail once it is lost', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge));
    const run = await runs.run(0);
    for (let beat = 0; beat < 20; beat += 1) {
      await run.context.heartbeat({ beat });
      await rig.clock.advance(LEASE_MS / 6);
    }
    // 20 beats, 5 s apart, told at most each 10 s.
    expect(bench.heartbeats()).toHaveLength(10);
    expect(bench.heartbeats()[1]).toMatchObject({
      commandId: ID,
      attempt: 1,
      details: { beat: 2 },
    });
    const ids = bench.rawReplies().map((message) => message.headers['ce_id']);
    expect(new Set(ids).size).toBe(ids.length);
    expect(run.context.signal.aborted).toBe(false);
    // The database's clock runs ahead of ours and another takes the command over: a heartbeat finds it out.
    await takeOver(run.context.fencingToken);
    await expect(run.context.heartbeat()).rejects.toThrow(/outlived its lease/);
    // It does not heed; left behind in the end, it is still another's to answer.
    await rig.clock.advance(LEASE_MS);
    expect(bench.rawReplies()).toHaveLength(10);
    expect(bench.counts.handled).toEqual(['lost']);
  });

  test('while the bus is away, heartbeats extend the lease and do not pile up', async () => {
    const runs = held();
    let away = true;
    await bench.start(rig.connect(), [runs.handler], {
      publish: () =>
        away ? Promise.reject(new SagaxError('BUS_UNAVAILABLE', 'away')) : Promise.resolve(),
    });
    bench.send(commandFor(charge));
    const run = await runs.run(0);
    for (let beat = 0; beat < 20; beat += 1) {
      await run.context.heartbeat();
      await rig.clock.advance(LEASE_MS / 2);
    }
    expect(run.context.signal.aborted).toBe(false);
    away = false;
    run.end({ charge: 'c' });
    await rig.clock.advance(10_000);
    await bench.replies(1);
    expect(bench.heartbeats()).toHaveLength(1);
  });

  test("another's live claim is waited for, and its answer is the answer", async () => {
    const first = held();
    const second = held();
    await bench.start(rig.connect(), [first.handler]);
    bench.send(commandFor(charge));
    const run = await first.run(0);
    await bench.start(rig.connect(), [second.handler], { group: 'another' });
    await rig.clock.advance(5_000);
    run.end({ charge: 'once' });
    await bench.replies(1);
    await rig.clock.advance(5_000);
    const replies = await bench.replies(2);
    expect(replies[0]).toEqual(replies[1]);
    expect(second.count()).toBe(0);
  });

  test('a claim that is extended without end is not waited for without end', async () => {
    const first = held();
    const second = held();
    await bench.start(rig.connect(), [first.handler]);
    bench.send(commandFor(charge));
    const run = await first.run(0);
    await bench.start(rig.connect(), [second.handler], { group: 'another' });
    for (let beat = 0; beat < 4; beat += 1) {
      await run.context.heartbeat();
      await rig.clock.advance(LEASE_MS / 3);
    }
    expect((await bench.replies(1))[0]).toMatchObject({
      outcome: 'failed',
      retryable: true,
      failure: { code: 'STILL_RUNNING' },
    });
    expect(second.count()).toBe(0);
  });
});

describe('outcomes', () => {
  test('what is thrown leaves the row running with its lease ended: the next attempt runs at once', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge));
    (await runs.run(0)).fail(new Error('gateway down'));
    expect((await bench.replies(1))[0]).toMatchObject({
      outcome: 'failed',
      retryable: true,
      failure: { code: 'HANDLER_FAILED', message: 'Error: gateway down' },
    });
    expect(await rig.row(ID)).toMatchObject({ state: 'running', leaseRemainingMs: 0 });
    bench.send(commandFor(charge, { attempt: 2 }));
    (await runs.run(1)).end({ charge: 'c' });
    expect((await bench.replies(2))[1]).toMatchObject({ attempt: 2, outcome: 'succeeded' });
  });

  test('a settlement runs a crashed effect again, under the key of the step', async () => {
    const runs = held();
    const worker = await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge));
    await runs.run(0);
    await worker.kill();
    bench.send(commandFor(charge, { op: 'settle', input: null }));
    const heirs = held();
    await bench.start(rig.connect(), [heirs.handler]);
    // The redelivered do waits for the dead worker's lease and then runs; the settlement comes behind it.
    await rig.clock.advance(LEASE_MS + 1_000);
    const heir = await heirs.run(0);
    expect(heir.context.idempotencyKey).toBe(ID);
    heir.end({ charge: 'found' });
    expect(await bench.replyTo(`${ID}.s`)).toMatchObject({
      outcome: 'succeeded',
      output: { charge: 'found' },
    });
    expect(heirs.count()).toBe(1);
  });

  test('a settlement alone learns the outcome, with the input that was stored', async () => {
    const store = rig.connect();
    const step = commandFor(charge);
    const entry = { ...step, op: 'do' as const, of: null };
    const claim = await store.claim(entry, LEASE_MS);
    if (claim.claimed) await store.endLease(ID, claim.fencingToken);
    const runs = held();
    await bench.start(store, [runs.handler]);
    bench.send(commandFor(charge, { op: 'settle', input: null }));
    const run = await runs.run(0);
    expect(run.context).toMatchObject({ commandId: ID, idempotencyKey: ID, input: step.input });
    run.end(run.context.reject('Declined', { why: 'limit' }));
    expect((await bench.replies(1))[0]).toMatchObject({
      commandId: `${ID}.s`,
      outcome: 'rejected',
      failure: { code: 'Declined', data: { why: 'limit' } },
    });
    expect(await rig.row(ID)).toMatchObject({ state: 'rejected' });
  });

  test('pending is stored and answered again; a settlement finds it pending', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge));
    const run = await runs.run(0);
    run.end(run.context.pending());
    expect((await bench.replies(1))[0]).toMatchObject({ outcome: 'pending', attempt: 1 });
    bench.send(commandFor(charge, { attempt: 2 }), commandFor(charge, { op: 'settle' }));
    const replies = await bench.replies(3);
    expect(replies[1]).toMatchObject({ outcome: 'pending', attempt: 2 });
    expect(replies[2]).toMatchObject({ outcome: 'failed', failure: { code: 'STILL_PENDING' } });
    expect(runs.count()).toBe(1);
  });

  test('a compensation by an effect runs once, with what the step had done', async () => {
    const refunds: unknown[] = [];
    await bench.start(rig.connect(), [
      effect(charge, async () => ({ charge: 'c-1' })),
      effect(refund, async ({ original, idempotencyKey }) => {
        refunds.push({ original, idempotencyKey });
        return {};
      }),
    ]);
    const undo = commandFor(refund, { op: 'compensate' });
    bench.send(commandFor(charge), undo, { ...undo, attempt: 2 });
    const replies = await bench.replies(3);
    expect(replies.map((reply) => reply.outcome)).toEqual(['succeeded', 'succeeded', 'succeeded']);
    expect(refunds).toEqual([
      {
        idempotencyKey: `${ID}.c`,
        original: { commandId: ID, input: { item: 'book', count: 1 }, output: { charge: 'c-1' } },
      },
    ]);
  });

  test('an outcome that can not be stored at once is stored a little later, not repeated', async () => {
    let failures = 3;
    const store = rig.connect(async (point) => {
      if (point === 'record:before' && (failures -= 1) >= 0) throw new Error('database away');
    });
    const runs = held();
    await bench.start(store, [runs.handler]);
    bench.send(commandFor(charge));
    (await runs.run(0)).end({ charge: 'c' });
    await settle();
    await rig.clock.advance(1_000);
    expect((await bench.replies(1))[0]).toMatchObject({ outcome: 'succeeded' });
    expect(runs.count()).toBe(1);
  });

  test('an outcome that was stored, though no answer said so, is told: nobody else would', async () => {
    const store = rig.connect(async (point) => {
      if (point === 'record:after') throw new Error('the answer is lost');
    });
    const runs = held();
    await bench.start(store, [runs.handler]);
    bench.send(commandFor(charge));
    (await runs.run(0)).end({ charge: 'c' });
    await settle();
    await rig.clock.advance(10_000);
    const [reply] = await bench.replies(1);
    expect(reply).toMatchObject({ outcome: 'succeeded', output: { charge: 'c' } });
    expect(runs.count()).toBe(1);
  });

  test('past its deadline a handler is told, and left behind when it does not heed', async () => {
    const runs = held();
    await bench.start(rig.connect(), [runs.handler]);
    bench.send(commandFor(charge, { deadlineAt: rig.clock.now() + 5_000 }));
    const run = await runs.run(0);
    await rig.clock.advance(5_000);
    expect(run.context.signal.aborted).toBe(true);
    expect(bench.rawReplies()).toHaveLength(0);
    await rig.clock.advance(1_000);
    expect((await bench.replies(1))[0]).toMatchObject({ failure: { code: 'STEP_TIMED_OUT' } });
    // It may still be at work, so its claim runs out by itself: a settlement has to wait for that.
    bench.send(commandFor(charge, { op: 'settle' }));
    expect((await bench.replies(2))[1]).toMatchObject({ failure: { code: 'STILL_RUNNING' } });
  });
});
