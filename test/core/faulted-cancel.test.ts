/** A cancel of a saga whose machine is at fault: the way out, which loses no answer and does not undo a pivot (I4, I7). */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import { z } from 'zod';
import { command, compensatable } from '../../engine/core/index.ts';
import { SagaDriver, neverRan, no, ok, type Answer } from '../support/saga-driver.ts';
import { actors, decisive, define, doStep, ends, hasty, oops, type Edition } from './machines.ts';

describe('a compensation mapping that throws', () => {
  const x = (edition: Edition) =>
    compensatable(undoableContract, {
      compensateWith: undoContract,
      compensation: ({ output }) => (edition.isBad ? oops() : { output }),
      timeout: '1s',
      retry: hasty,
    });
  const undoableContract = command('svc.do-x', { input: z.any(), output: z.any() });
  const undoContract = command('svc.undo-x', { input: z.any(), output: z.any() });
  const mapped = (edition: Edition) =>
    define(
      setup({
        actors: { ...actors, x: x(edition), p: decisive('p', { timeout: '9s' }) },
      }).createMachine({
        id: 'm',
        initial: 'x',
        context: {},
        states: {
          x: doStep('x', 'a', 'p'),
          a: { ...doStep('a', 'undoing', 'undoing'), on: { 'saga.cancel': 'undoing' } },
          p: doStep('p', 'r', 'undoing'),
          r: doStep('r', 'done'),
          ...ends,
        },
      } as never),
    );

  test('is met again in its turn, and a cancel does not lose the answer that it faulted on', () => {
    const edition = { isBad: true };
    const saga = SagaDriver.start(mapped(edition));
    saga.reply('x', ok());
    saga.reply('a', ok());
    saga.reply('a:compensate', ok());
    expect(saga.last('InputFaulted').cause.type).toBe('CompensationSucceeded');
    saga.cancel();
    expect(saga.live.phase).toBe('aborting');
    expect(saga.last('InputFaulted').cause.type).toBe('CompensationSucceeded');
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    expect(saga.outstanding()).toEqual(['x:compensate']);
    saga.reply('x:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test('a fault on a fault: the first one’s input is kept behind the second’s', () => {
    const edition = { isBad: true };
    const both = define(
      setup({ actors: { ...actors, x: x(edition) } }).createMachine({
        id: 'm',
        type: 'parallel',
        context: { n: 0 },
        states: {
          one: { initial: 'x', states: { x: doStep('x', 'over', 'over'), over: {} } },
          two: {
            initial: 'b',
            states: {
              b: {
                invoke: {
                  src: 'b',
                  input: {},
                  onDone: {
                    target: 'over',
                    actions: assign({ n: () => (edition.isBad ? oops() : 1) }),
                  },
                  onError: 'over',
                },
              },
              over: {},
            },
          },
        },
      } as never),
    );
    const saga = SagaDriver.start(both);
    saga.reply('x', ok());
    saga.reply('b', ok());
    expect(saga.last('InputFaulted').cause.type).toBe('StepSucceeded');
    saga.cancel();
    expect(saga.last('InputFaulted').cause.type).toBe('CancelRequested');
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    expect(saga.outstanding().sort()).toEqual(['b:compensate', 'x:compensate']);
    saga.reply('b:compensate', ok());
    saga.reply('x:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  /** x is given up; its settlement says it was done, and its mapping throws while the pivot is in flight. */
  const inPivot = (edition: Edition) => {
    const saga = SagaDriver.start(mapped(edition));
    saga.advance(1_000);
    expect(saga.outstanding()).toEqual(['x:settle', 'p']);
    saga.reply('x:settle', ok());
    expect(saga.status).toBe('stuck');
    return saga;
  };

  test('while the pivot is in flight a cancel waits: the pivot may have passed (I7)', () => {
    const edition = { isBad: true };
    const saga = inPivot(edition);
    saga.cancel();
    expect(saga.live.phase).toBe('forward');
    saga.reply('p', ok());
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    expect(saga.live.pivot).toBe('passed');
    expect(saga.last('CancelRefused').failure.code).toBe('PIVOT_PASSED');
    expect(saga.outstanding().sort()).toEqual(['r', 'x:compensate']);
  });

  test('the same, and the pivot says no: the cancel is applied', () => {
    const edition = { isBad: true };
    const saga = inPivot(edition);
    saga.cancel();
    saga.reply('p', no());
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    saga.reply('x:compensate', ok());
    expect(saga.status).toBe('compensated');
  });
});

describe('a cancel of a faulted saga loses no answer that came before it', () => {
  /** a is left in flight by `skip`, then b's answer faults. */
  const machine = (edition: Edition) =>
    define(
      setup({ actors }).createMachine({
        id: 'm',
        initial: 'a',
        context: { n: 0 },
        states: {
          a: { ...doStep('a', 'b', 'undone'), on: { skip: 'b' } },
          b: {
            invoke: {
              src: 'b',
              input: {},
              onDone: {
                target: 'done',
                actions: assign({ n: () => (edition.isBad ? oops() : 1) }),
              },
              onError: 'undone',
            },
          },
          ...ends,
        },
      } as never),
      { signals: ['skip'] },
    );

  test.each<[string, Answer, string[]]>([
    ['it was done', ok(), ['a:compensate', 'b:settle']],
    ['it never ran', neverRan, ['b:settle']],
  ])('a settlement that was held back (%s)', (_, answer, outstanding) => {
    const saga = SagaDriver.start(machine({ isBad: true }));
    saga.signal('skip');
    saga.reply('b', ok());
    expect(saga.status).toBe('stuck');
    saga.reply('a:settle', answer);
    saga.cancel();
    expect(saga.live.deferred).toEqual([]);
    // b's own answer, on which the machine faulted, settles it.
    expect(saga.count('StepSettled')).toBe(2);
    expect(saga.outstanding()).toEqual(
      [...outstanding.filter((name) => name !== 'b:settle'), 'b:compensate'].sort(),
    );
  });

  test('a compensation’s answer that was held back', () => {
    const saga = SagaDriver.start(machine({ isBad: true }));
    saga.signal('skip');
    saga.reply('a:settle', ok());
    saga.reply('b', ok());
    saga.reply('a:compensate', ok());
    saga.cancel();
    expect(saga.outstanding()).toEqual(['b:compensate']);
    saga.reply('b:compensate', ok());
    expect(saga.status).toBe('compensated');
  });
});

describe('the pivot’s own answer at fault', () => {
  const machine = (edition: Edition) => {
    const keep = assign({ n: () => (edition.isBad ? oops() : 1) });
    return define(
      setup({ actors: { ...actors, p: decisive('p', { timeout: '5s' }) } }).createMachine({
        id: 'm',
        initial: 'a',
        context: { n: 0 },
        states: {
          a: doStep('a', 'p', 'undoing'),
          p: {
            invoke: {
              src: 'p',
              input: {},
              onDone: { target: 'r', actions: keep },
              onError: { target: 'undoing', actions: keep },
            },
          },
          r: doStep('r', 'done'),
          ...ends,
        },
      } as never),
    );
  };
  const begin = (edition: Edition) => {
    const saga = SagaDriver.start(machine(edition));
    saga.reply('a', ok());
    return saga;
  };

  test.each(['p', 'p:settle'])('it succeeded (by %s): a cancel can’t undo that (I7)', (which) => {
    const edition = { isBad: true };
    const saga = begin(edition);
    if (which === 'p:settle') saga.advance(5_000);
    saga.reply(which, ok());
    expect(saga.status).toBe('stuck');
    saga.cancel();
    expect(saga.count('CompensationRequested')).toBe(0);
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    expect(saga.value).toBe('r');
    expect(saga.last('CancelRefused').failure.code).toBe('PIVOT_PASSED');
  });

  test.each(['p', 'p:settle'])('it was refused (by %s): a cancel gets out of it', (which) => {
    const saga = begin({ isBad: true });
    if (which === 'p:settle') saga.advance(5_000);
    saga.reply(which, no());
    expect(saga.status).toBe('stuck');
    saga.cancel();
    expect(saga.outstanding()).toEqual(['a:compensate']);
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('compensated');
  });
});

test('a guard that throws on the cancel is a fault, and a second cancel gets out', () => {
  const saga = SagaDriver.start(
    define(
      setup({ actors }).createMachine({
        initial: 'a',
        context: {},
        states: {
          a: {
            ...doStep('a', 'done', 'undoing'),
            on: { 'saga.cancel': { guard: () => oops(), target: 'undoing' } },
          },
          ...ends,
        },
      } as never),
    ),
  );
  saga.cancel();
  expect(saga.last('InputFaulted').cause.type).toBe('CancelRequested');
  expect(saga.stuckCode).toBe('MACHINE_FAULT');
  saga.cancel();
  saga.reply('a:settle', neverRan);
  expect(saga.status).toBe('compensated');
});
