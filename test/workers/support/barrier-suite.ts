/**
 * What every participant store must hold, and the whole table of barrier states × ops on it (I8).
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CommandBody, ReplyBody } from '../../../engine/core/wire.ts';
import { effect, transactional, type Handler } from '../../../workers/handlers.ts';
import type { Barrier, BarrierEntry, ParticipantStore } from '../../../workers/ports.ts';
import { BOOK, charge, commandFor, refund, release, reserve } from './contracts.ts';
import { Slots } from '../../../workers/slots.ts';
import { executions } from './executions.ts';
import type { StoreRig } from './stores.ts';

type State = 'absent' | 'live' | 'expired' | 'done' | 'rejected' | 'pending' | 'superseded';

/** How long another's claim is live in the table: long enough to be met, short enough to be waited out. */
const OTHERS_LEASE_MS = 150;

interface Row {
  op: CommandBody['op'];
  state: State;
  kind: 'transactional' | 'effect';
  outcome: ReplyBody['outcome'];
  code?: string;
  /** Whether the handler of the command ran. */
  runs: boolean;
  /** The row of the step afterwards. */
  after: string | null;
  /** For compensations that ran: the value in the output of `original`; null: no output. */
  original?: string | null;
}

const row = (
  op: Row['op'],
  kind: Row['kind'],
  state: State,
  outcome: Row['outcome'],
  runs: boolean,
  after: string | null,
  more: Partial<Row> = {},
): Row => ({ op, kind, state, outcome, runs, after, ...more });

const STILL_RUNNING = { code: 'STILL_RUNNING' };
const STILL_PENDING = { code: 'STILL_PENDING' };
const STORED = { original: 'first' };

export const TABLE: Row[] = [
  row('do', 'transactional', 'absent', 'succeeded', true, 'done'),
  row('do', 'transactional', 'live', 'failed', false, 'running', STILL_RUNNING),
  row('do', 'transactional', 'expired', 'succeeded', true, 'done'),
  row('do', 'transactional', 'done', 'succeeded', false, 'done'),
  row('do', 'transactional', 'rejected', 'rejected', false, 'rejected'),
  row('do', 'transactional', 'pending', 'pending', false, 'pending'),
  row('do', 'transactional', 'superseded', 'superseded', false, 'superseded'),
  row('do', 'effect', 'absent', 'succeeded', true, 'done'),
  row('do', 'effect', 'live', 'succeeded', true, 'done'),
  row('do', 'effect', 'expired', 'succeeded', true, 'done'),
  row('do', 'effect', 'done', 'succeeded', false, 'done'),
  row('do', 'effect', 'rejected', 'rejected', false, 'rejected'),
  row('do', 'effect', 'pending', 'pending', false, 'pending'),
  row('do', 'effect', 'superseded', 'superseded', false, 'superseded'),
  ...(['transactional', 'effect'] as const).flatMap((kind) => [
    row('settle', kind, 'absent', 'neverRan', false, 'superseded'),
    row('settle', kind, 'live', 'failed', false, 'running', STILL_RUNNING),
    row('settle', kind, 'expired', 'succeeded', true, 'done'),
    row('settle', kind, 'done', 'succeeded', false, 'done'),
    row('settle', kind, 'rejected', 'rejected', false, 'rejected'),
    row('settle', kind, 'pending', 'failed', false, 'pending', STILL_PENDING),
    row('settle', kind, 'superseded', 'neverRan', false, 'superseded'),
    row('compensate', kind, 'absent', 'succeeded', false, 'superseded'),
    row('compensate', kind, 'live', 'failed', false, 'running', STILL_RUNNING),
    row('compensate', kind, 'expired', 'failed', false, 'running', STILL_RUNNING),
    row('compensate', kind, 'done', 'succeeded', true, 'done', STORED),
    row('compensate', kind, 'rejected', 'succeeded', false, 'rejected'),
    row('compensate', kind, 'pending', 'succeeded', true, 'pending', { original: null }),
    row('compensate', kind, 'superseded', 'succeeded', false, 'superseded'),
  ]),
];

/** The output of a step's row: `first` was stored by `arrange`, `fresh` comes from the handler. */
function outputOf({ kind }: Row, value: string): { [name: string]: string } {
  return { [kind === 'effect' ? 'charge' : 'reservation']: value };
}

function wantedOriginal(expected: Row): unknown {
  return typeof expected.original === 'string' ? outputOf(expected, expected.original) : null;
}

function wantedReply(expected: Row): object {
  const { code, op, outcome, runs } = expected;
  if (outcome === 'failed') return { outcome, retryable: true, failure: { code } };
  if (outcome !== 'succeeded') return { outcome };
  if (op === 'compensate') return { outcome, output: runs ? {} : null };
  return { outcome, output: outputOf(expected, runs ? 'fresh' : 'first') };
}

interface Run {
  command: string;
  commandId: string;
  key: string | null;
  original: unknown;
}

/** @param way whether transactional handlers that are known to be quick may share a transaction */
export function barrierSuite<Tx>(
  name: string,
  open: () => StoreRig<Tx> | Promise<StoreRig<Tx>>,
  way: 'one by one' | 'in batches',
): void {
  let rig: StoreRig<Tx>;
  let store: ParticipantStore<Tx>;
  const runs: Run[] = [];
  let sagas = 0;
  const nextSaga = (): string => `8${String((sagas += 1)).padStart(17, '0')}`;

  beforeAll(async () => {
    rig = await open();
    store = rig.connect();
    await store.start();
  });
  afterAll(() => rig.close());

  const handlers = (): Handler<Tx>[] => {
    const note = (
      command: string,
      context: { commandId: string; original: unknown },
      key = '',
    ): void =>
      void runs.push({
        command,
        commandId: context.commandId,
        key: key === '' ? null : key,
        original: context.original,
      });
    return [
      transactional<typeof reserve, Tx>(reserve, async (context) => {
        note(reserve.name, context);
        await rig.add(context.tx, context.sagaId, context.input.count);
        return { reservation: 'fresh' };
      }),
      transactional<typeof release, Tx>(release, async (context) => {
        note(release.name, context);
        await rig.add(context.tx, context.sagaId, -context.input.count);
        return {};
      }),
      effect(charge, async (context) => {
        note(charge.name, context, context.idempotencyKey);
        return { charge: 'fresh' };
      }),
      effect(refund, async (context) => {
        note(refund.name, context, context.idempotencyKey);
        return {};
      }),
    ];
  };

  const run = async (command: CommandBody): Promise<ReplyBody> => {
    const world = executions(rig, store, handlers(), way);
    const running = world.run(command);
    await rig.elapse(OTHERS_LEASE_MS * 4);
    const reply = await running;
    const alone =
      way === 'one by one' ||
      command.op === 'settle' ||
      command.command === charge.name ||
      command.command === refund.name;
    expect(world.batches).toBe(alone ? 0 : 1);
    return reply;
  };

  const entryOf = (command: CommandBody): BarrierEntry => ({
    commandId: command.commandId,
    sagaId: command.sagaId,
    namespace: command.namespace,
    command: command.command,
    op: 'do',
    of: null,
    input: command.input,
    attempt: 1,
  });

  /** Brings the step's row into a state by the store's own means. */
  const arrange = async (state: State, step: CommandBody): Promise<void> => {
    const entry = entryOf(step);
    if (state === 'absent') return;
    if (state === 'superseded') {
      await store.transaction((barrier) => barrier.insert({ ...entry, input: null }, 'superseded'));
      return;
    }
    const claim = await store.claim(entry, state === 'live' ? OTHERS_LEASE_MS : 60_000);
    if (!claim.claimed) throw new Error('The row was there before.');
    const record = (outcome: Parameters<typeof store.record>[2]): Promise<boolean> =>
      store.record(step.commandId, claim.fencingToken, outcome);
    const output = step.command === reserve.name ? { reservation: 'first' } : { charge: 'first' };
    const failure = { code: 'No', message: 'first', data: { left: 0 } };
    if (state === 'expired')
      expect(await store.endLease(step.commandId, claim.fencingToken)).toBe(true);
    if (state === 'done') expect(await record({ state: 'done', output })).toBe(true);
    if (state === 'rejected') expect(await record({ state: 'rejected', failure })).toBe(true);
    if (state === 'pending') expect(await record({ state: 'pending' })).toBe(true);
  };

  describe(`${name}, ${way}: barrier states × ops (I8)`, () => {
    test.each(TABLE)('$op by a $kind handler on $state → $outcome', async (expected) => {
      const sagaId = nextSaga();
      const effects = expected.kind === 'effect';
      const stepContract = effects ? charge : reserve;
      const contract = expected.op === 'compensate' ? (effects ? refund : release) : stepContract;
      const step = commandFor(stepContract, { sagaId });
      await arrange(expected.state, step);
      runs.length = 0;

      const command = commandFor(contract, { sagaId, op: expected.op });
      const reply = await run(command);

      expect(reply).toMatchObject({ commandId: command.commandId, ...wantedReply(expected) });
      const original =
        expected.op === 'compensate'
          ? { commandId: step.commandId, input: BOOK, output: wantedOriginal(expected) }
          : null;
      // Whoever runs an effect, the other system must see the key of the command whose effect it is.
      const commandId = expected.op === 'compensate' ? command.commandId : step.commandId;
      const wanted = {
        command: contract.name,
        commandId,
        key: effects ? commandId : null,
        original,
      };
      expect(runs).toEqual(expected.runs ? [wanted] : []);
      expect((await rig.row(step.commandId))?.state ?? null).toBe(expected.after);

      // Whatever was answered for good is answered again, and nothing runs a second time.
      if (expected.outcome === 'failed') return;
      runs.length = 0;
      expect(await run({ ...command, attempt: 2 })).toEqual({ ...reply, attempt: 2 });
      expect(runs).toEqual([]);
    });
  });

  test(`${name}, ${way}: branches of a handler that was rejected write nothing after it`, async () => {
    const sagaId = nextSaga();
    let branches: Promise<PromiseSettledResult<void>[]> | undefined;
    const rejecting = transactional<typeof reserve, Tx>(reserve, async ({ tx, reject }) => {
      const goingOn = async (): Promise<void> => {
        for (;;) await rig.add(tx, sagaId, 1);
      };
      const failing = async (): Promise<void> => {
        await rig.add(tx, sagaId, 1);
        throw new Error('the other half is impossible');
      };
      const going = Array.from({ length: 4 }, goingOn);
      branches = Promise.allSettled(going);
      return Promise.all([...going, failing()]).then(
        () => ({ reservation: 'never' }),
        () => reject('SoldOut', { left: 0 }),
      );
    });
    const command = commandFor(reserve, { sagaId });
    const world = executions(rig, store, [rejecting], way);
    expect(await world.run(command)).toMatchObject({ outcome: 'rejected' });
    for (const branch of (await branches) ?? []) {
      expect(branch).toMatchObject({ reason: { message: expect.stringMatching(/has ended/) } });
    }
    expect(await rig.count(sagaId)).toBe(0);
    expect((await rig.row(command.commandId))?.state).toBe('rejected');
  });

  if (way === 'in batches') return;

  describe(`${name}: store conformance`, () => {
    test('an insert waits for another of the same row, and then sees what became of it', async () => {
      const entry = entryOf(commandFor(reserve, { sagaId: nextSaga() }));
      const inserted = Promise.withResolvers<void>();
      const goOn = Promise.withResolvers<void>();
      const first = store.transaction(async (barrier) => {
        expect(await barrier.insert(entry, 'running')).toBe(true);
        inserted.resolve();
        await goOn.promise;
        await barrier.answer(entry.commandId, { state: 'done', output: 1 });
      });
      await inserted.promise;
      let secondIsIn = false;
      const second = rig.connect().transaction(async (barrier) => {
        const ours = await barrier.insert(entry, 'superseded');
        secondIsIn = true;
        return { ours, row: await barrier.read(entry.commandId) };
      });
      // A statement of a third transaction goes through meanwhile, the second one does not.
      await store.transaction((barrier) => barrier.read('1.1'));
      expect(secondIsIn).toBe(false);
      goOn.resolve();
      await first;
      expect(await second).toMatchObject({ ours: false, row: { state: 'done', output: 1 } });
    });

    test('a row that another transaction has is waited for no longer than a handler', async () => {
      const [step, ...others] = Array.from({ length: 4 }, nextSaga);
      const [late, undoing, settling] = others;
      const waiting = [
        commandFor(reserve, { sagaId: step! }),
        commandFor(release, { sagaId: late!, op: 'compensate' }),
        commandFor(refund, { sagaId: undoing!, op: 'compensate' }),
        commandFor(reserve, { sagaId: settling!, op: 'settle' }),
      ];
      const inserted = Promise.withResolvers<void>();
      const goOn = Promise.withResolvers<void>();
      const holding = rig.connect().transaction(async (barrier) => {
        for (const sagaId of [step!, ...others]) {
          await barrier.insert(entryOf(commandFor(reserve, { sagaId })), 'running');
        }
        inserted.resolve();
        await goOn.promise;
        throw new Error('the other has given up');
      });
      await inserted.promise;
      runs.length = 0;
      const options = { transactionTimeoutMs: 100, slots: new Slots(waiting.length) };
      const world = executions(rig, store, handlers(), way, options);
      const running = Promise.all(waiting.map((command) => world.run(command)));
      for (let left = 12; left > 0; left -= 1) await rig.elapse(100);
      const timedOut = { outcome: 'failed', retryable: true, failure: { code: 'HANDLER_TIMEOUT' } };
      expect(await running).toMatchObject(waiting.map(() => timedOut));
      expect(runs).toEqual([]);
      goOn.resolve();
      await expect(holding).rejects.toThrow('given up');
      // Nothing is left of them that would hold up the next try.
      expect((await world.run({ ...waiting[0]!, attempt: 2 })).outcome).toBe('succeeded');
    });

    test('a rolled back transaction leaves neither row nor work, and the waiter gets the row', async () => {
      const sagaId = nextSaga();
      const entry = entryOf(commandFor(reserve, { sagaId }));
      const inserted = Promise.withResolvers<void>();
      const goOn = Promise.withResolvers<void>();
      const first = store.transaction(async (barrier) => {
        await barrier.insert(entry, 'running');
        await rig.add(barrier.tx, sagaId, 5);
        inserted.resolve();
        await goOn.promise;
        throw new Error('crash');
      });
      await inserted.promise;
      const second = rig.connect().transaction((barrier) => barrier.insert(entry, 'superseded'));
      goOn.resolve();
      await expect(first).rejects.toThrow('crash');
      expect(await second).toBe(true);
      expect(await rig.count(sagaId)).toBe(0);
      expect((await rig.row(entry.commandId))?.state).toBe('superseded');
    });

    test('going back to the savepoint keeps the row and drops the work', async () => {
      const sagaId = nextSaga();
      const entry = entryOf(commandFor(reserve, { sagaId }));
      const failure = { code: 'No', message: '' };
      await store.transaction(async (barrier) => {
        await barrier.insert(entry, 'running');
        await barrier.savepoint();
        await rig.add(barrier.tx, sagaId, 5);
        await barrier.rollbackToSavepoint();
        await barrier.answer(entry.commandId, { state: 'rejected', failure });
      });
      expect(await rig.count(sagaId)).toBe(0);
      expect(await rig.row(entry.commandId)).toMatchObject({ state: 'rejected', failure });
    });

    test('tokens grow with each claim; an old claim can neither extend, record nor end the lease', async () => {
      const entry = entryOf(commandFor(charge, { sagaId: nextSaga() }));
      const { commandId } = entry;
      const first = await store.claim(entry, 60_000);
      if (!first.claimed) throw new Error('not claimed');
      expect(await store.claim(entry, 60_000)).toMatchObject({
        claimed: false,
        row: { state: 'running', input: BOOK },
      });
      expect(await store.extend(commandId, first.fencingToken, 60_000)).toBe(true);
      expect(await store.endLease(commandId, first.fencingToken)).toBe(true);
      const second = await store.claim(entry, 60_000);
      if (!second.claimed) throw new Error('not claimed');
      expect(BigInt(second.fencingToken)).toBeGreaterThan(BigInt(first.fencingToken));
      expect(await store.extend(commandId, first.fencingToken, 60_000)).toBe(false);
      expect(await store.endLease(commandId, first.fencingToken)).toBe(false);
      expect(
        await store.record(commandId, first.fencingToken, { state: 'done', output: 'old' }),
      ).toBe(false);
      const outcome = { state: 'done', output: 'new' } as const;
      expect(await store.record(commandId, second.fencingToken, outcome)).toBe(true);
      // The answer to a record may be lost; repeating it is harmless.
      expect(await store.record(commandId, second.fencingToken, outcome)).toBe(true);
      expect(await store.record(commandId, second.fencingToken, { state: 'pending' })).toBe(false);
      expect(await rig.row(commandId)).toMatchObject(outcome);
    });

    test('a transaction that takes over an ended claim fences it', async () => {
      const entry = entryOf(commandFor(charge, { sagaId: nextSaga() }));
      const { commandId } = entry;
      const claim = await store.claim(entry, 60_000);
      if (!claim.claimed) throw new Error('not claimed');
      const takeOver = (): Promise<boolean> =>
        store.transaction((barrier) => barrier.takeOver(commandId));
      expect(await takeOver()).toBe(false);
      await store.endLease(commandId, claim.fencingToken);
      expect(await takeOver()).toBe(true);
      expect(await store.record(commandId, claim.fencingToken, { state: 'pending' })).toBe(false);
    });

    test('of many claims at once one gets through', async () => {
      const entry = entryOf(commandFor(charge, { sagaId: nextSaga() }));
      const claims = await Promise.all(
        Array.from({ length: 20 }, () => rig.connect().claim(entry, 60_000)),
      );
      expect(claims.filter((claim) => claim.claimed)).toHaveLength(1);
    });

    test('tx is dead once its transaction has ended', async () => {
      const sagaId = nextSaga();
      const kept = await store.transaction(async (barrier) => barrier.tx);
      await expect((async () => rig.add(kept, sagaId, 1))()).rejects.toThrow(/has ended/);
      expect(await rig.count(sagaId)).toBe(0);
    });

    test.each(['rejected', 'done'] as const)('tx is dead once it is told %s', async (state) => {
      const sagaId = nextSaga();
      const entry = entryOf(commandFor(reserve, { sagaId }));
      const late = async (barrier: Barrier<Tx>): Promise<void> => {
        await expect((async () => rig.add(barrier.tx, sagaId, 1))()).rejects.toThrow(/has ended/);
      };
      await store.transaction(async (barrier) => {
        await barrier.insert(entry, 'running');
        await barrier.savepoint();
        if (state === 'rejected') {
          const failure = { code: 'No', message: '' };
          const told = barrier.rollbackToSavepoint();
          await late(barrier);
          await told;
          await late(barrier);
          await barrier.answer(entry.commandId, { state, failure });
        } else {
          const told = barrier.answer(entry.commandId, { state, output: 1 });
          await late(barrier);
          await told;
        }
        await late(barrier);
      });
      expect(await rig.count(sagaId)).toBe(0);
      expect((await rig.row(entry.commandId))?.state).toBe(state);
    });

    test('a dead letter is kept once, whatever is in it', async () => {
      const letter = {
        topic: 'test.commands.shop',
        partition: 3,
        offset: 9_007_199_254_740_993n,
        key: 'k\0',
        headers: { a: 'b\0' },
        value: '\ud800 \0 text',
        code: 'MESSAGE_INVALID',
        reason: 'not JSON: \0',
        at: 1_767_225_600_000,
      };
      const before = await rig.letters();
      await store.park(letter);
      await store.park(letter);
      expect(await rig.letters()).toBe(before + 1);
    });
  });
}
