/** Several commands in one transaction: each gets the row and the reply that it would get by itself (I8). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CommandBody, ReplyBody } from '../../../engine/core/wire.ts';
import { transactional, type Handler } from '../../../workers/handlers.ts';
import type { ParticipantStore } from '../../../workers/ports.ts';
import { commandFor, release, reserve } from './contracts.ts';
import { executions, trusting, type Executions } from './executions.ts';
import { Slots } from '../../../workers/slots.ts';
import { Trust } from '../../../workers/trust.ts';
import type { StoreRig } from './stores.ts';

export function batchSuite<Tx>(
  name: string,
  open: () => StoreRig<Tx> | Promise<StoreRig<Tx>>,
): void {
  let rig: StoreRig<Tx>;
  let store: ParticipantStore<Tx>;
  let sagas = 0;
  const nextSaga = (): string => `7${String((sagas += 1)).padStart(17, '0')}`;
  const doing = (item: string, more: Partial<CommandBody> = {}): CommandBody =>
    commandFor(reserve, { sagaId: nextSaga(), input: { item, count: 1 }, ...more });

  beforeAll(async () => {
    rig = await open();
    store = rig.connect();
    await store.start();
  });
  afterAll(() => rig.close());

  /** What each item has the handler do; the work is one more in the saga's counter. */
  const handlers = (doors: { [item: string]: Promise<unknown> }): Handler<Tx>[] => [
    transactional<typeof reserve, Tx>(reserve, async ({ tx, input, sagaId, commandId, reject }) => {
      if (input.item !== 'wait') await rig.add(tx, sagaId, 1);
      await doors[input.item];
      if (input.item === 'throw') throw new Error('no luck');
      if (input.item === 'reject') return reject('SoldOut', { left: 0 }, 'none');
      if (input.item === 'misfit') return { reservation: 7 } as never;
      return { reservation: commandId };
    }),
    transactional<typeof release, Tx>(release, async ({ tx, sagaId, original }) => {
      await rig.add(tx, sagaId, -1);
      expect(original?.output).toEqual({ reservation: original?.commandId });
      return {};
    }),
  ];

  /** What comes at once goes together. */
  const together = (world: Executions, commands: readonly CommandBody[]): Promise<ReplyBody[]> =>
    Promise.all(commands.map((command) => world.run(command)));

  describe(`${name}: many commands in one transaction`, () => {
    test.each([
      ['with a way back for each', new Trust()],
      // What must be taken back costs the batch, and each of its commands runs by itself.
      ['without', trusting(2, reserve, release)],
      ['begun together', trusting(1, reserve, release)],
    ])('each command has its own reply and row, %s', async (_, trust) => {
      const alone = executions(rig, store, handlers({}), 'one by one');
      const [done, undone, rejected, late] = ['good', 'good', 'reject', 'good'].map((item) =>
        doing(item),
      ) as [CommandBody, CommandBody, CommandBody, CommandBody];
      const undo = (step: CommandBody): CommandBody =>
        commandFor(release, { sagaId: step.sagaId, op: 'compensate' });
      for (const command of [done, undone, rejected, undo(late)]) await alone.run(command);

      const world = executions(rig, store, handlers({}), 'in batches', { trust });
      const cases: [CommandBody, object, string | null, number][] = [
        [doing('good'), { outcome: 'succeeded' }, 'done', 1],
        [doing('throw'), { outcome: 'failed', failure: { code: 'HANDLER_FAILED' } }, null, 0],
        [doing('reject'), { outcome: 'rejected', failure: { code: 'SoldOut' } }, 'rejected', 0],
        [done, { outcome: 'succeeded', output: { reservation: done.commandId } }, 'done', 1],
        [rejected, { outcome: 'rejected', failure: { message: 'none' } }, 'rejected', 0],
        [undo(undone), { outcome: 'succeeded', output: {} }, 'done', 0],
        [undo(doing('never')), { outcome: 'succeeded', output: null }, 'superseded', 0],
        [late, { outcome: 'superseded' }, 'superseded', 0],
        [doing('misfit'), { outcome: 'failed', failure: { code: 'OUTPUT_INVALID' } }, null, 0],
        [doing('good', { input: { no: 1 } }), { failure: { code: 'INPUT_INVALID' } }, null, 0],
        [doing('good'), { outcome: 'succeeded' }, 'done', 1],
      ];
      const replies = await together(
        world,
        cases.map(([command]) => command),
      );

      expect(world.batches).toBe(1);
      for (const [index, [command, reply, state, count]] of cases.entries()) {
        const { commandId, sagaId } = command;
        expect(replies[index], String(index)).toMatchObject({ commandId, ...reply });
        const row = await rig.row(command.of ?? commandId);
        expect(row?.state ?? null, String(index)).toBe(state);
        expect(await rig.count(sagaId), String(index)).toBe(count);
      }
      // What has no row runs anew, and what has one does not.
      const again = executions(rig, store, handlers({}), 'in batches');
      const thrown = { ...cases[1]![0], input: { item: 'good', count: 1 }, attempt: 2 };
      expect(await again.run(thrown)).toMatchObject({ outcome: 'succeeded' });
      expect(await again.run(cases[0]![0])).toEqual(replies[0]);
      expect(await rig.count(cases[0]![0].sagaId)).toBe(1);
    });

    test.each([
      ['one after the other', 'hang', new Trust()],
      // Two uses of the memory store would not be begun together.
      ['begun together', 'wait', trusting(1, reserve)],
    ])(
      'one that hangs costs the others a while, and only itself its answer, %s',
      async (_, item, trust) => {
        const doors = { [item]: new Promise(() => undefined) };
        const world = executions(rig, store, handlers(doors), 'in batches', {
          transactionTimeoutMs: 200,
          trust,
        });
        const commands = ['good', item, 'good'].map((each) => doing(each));
        const running = together(world, commands);
        for (let left = 8; left > 0; left -= 1) await rig.elapse(200);
        const replies = await running;
        expect(replies.map((reply) => reply.outcome)).toEqual(['succeeded', 'failed', 'succeeded']);
        expect(replies[1]).toMatchObject({ failure: { code: 'HANDLER_TIMEOUT' } });
        expect(await Promise.all(commands.map(({ sagaId }) => rig.count(sagaId)))).toEqual([
          1, 0, 1,
        ]);
        expect(await rig.row(commands[1]!.commandId)).toBe(null);
        // It is known now, and the next one does not hold anybody up.
        const before = world.batches;
        expect(await world.run(doing('good'))).toMatchObject({ outcome: 'succeeded' });
        expect(world.batches).toBe(before);
      },
    );

    test('a row that another transaction has holds the others up for a while only', async () => {
      const commands = [doing('good'), doing('good'), doing('good')] as const;
      const inserted = Promise.withResolvers<void>();
      const goOn = Promise.withResolvers<void>();
      const holding = rig.connect().transaction(async (barrier) => {
        await barrier.insert({ ...commands[1], op: 'do', of: null }, 'running');
        inserted.resolve();
        await goOn.promise;
        throw new Error('the other has given up');
      });
      await inserted.promise;
      const slots = new Slots(2);
      const world = executions(rig, store, handlers({}), 'in batches', { slots });
      const [first, held, last] = commands.map((command) => world.run(command));
      for (let left = 8; left > 0; left -= 1) await rig.elapse(200);
      const others = await Promise.all([first!, last!]);
      expect(others.map((reply) => reply.outcome)).toEqual(['succeeded', 'succeeded']);
      goOn.resolve();
      await expect(holding).rejects.toThrow('given up');
      expect((await held!).outcome).toBe('succeeded');
    });

    test('two workers with the same commands: one effect and one answer each', async () => {
      const commands = Array.from({ length: 12 }, () => doing('good'));
      const worlds = [commands, commands.toReversed()].map(async (some) => {
        const world = executions(rig, rig.connect(), handlers({}), 'in batches');
        return together(world, some);
      });
      const [one = [], other = []] = await Promise.all(worlds);
      expect(one.map((reply) => reply.outcome)).toEqual(commands.map(() => 'succeeded'));
      expect(one).toEqual(other.toReversed());
      for (const { sagaId } of commands) expect(await rig.count(sagaId)).toBe(1);
    });
  });
}
