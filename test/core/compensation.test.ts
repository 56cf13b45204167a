/** What is taken back, in which order (I6), and what happens when taking back fails (I12). */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import {
  SagaDriver,
  broken,
  neverRan,
  no,
  ok,
  pending,
  superseded,
} from '../support/saga-driver.ts';
import { actors, define, doStep, ends, undoable } from './machines.ts';

const region = (src: string, failed = '#m.undoing') => ({
  initial: 'asked',
  states: { asked: doStep(src, 'over', failed), over: { type: 'final' } },
});

/** a, then b, then c; `stop` compensates after them. */
const line = define(
  setup({ actors }).createMachine({
    id: 'm',
    initial: 'a',
    context: {},
    states: {
      a: doStep('a', 'b', 'undoing'),
      b: doStep('b', 'c', 'undoing'),
      c: doStep('c', 'rest', 'undoing'),
      rest: { on: { stop: 'undoing', go: 'done' } },
      ...ends,
    },
  } as never),
  { signals: ['stop', 'go'] },
);

describe('sequence', () => {
  test('strictly in reverse, one at a time, each with what its step got and gave', () => {
    const saga = SagaDriver.start(line);
    for (const step of ['a', 'b', 'c']) saga.reply(step, ok({ from: step }));
    saga.signal('stop');
    expect(saga.last('CompensationStarted').owed).toEqual(['7001.1', '7001.2', '7001.3']);
    for (const step of ['c', 'b', 'a']) {
      expect(saga.outstanding()).toEqual([`${step}:compensate`]);
      expect(saga.last('CompensationRequested')).toMatchObject({
        command: `svc.undo-${step}`,
        input: { input: { step }, output: { from: step } },
      });
      saga.reply(`${step}:compensate`, ok());
    }
    expect(saga.value).toBe('undone');
    expect(saga.status).toBe('compensated');
    expect(saga.types().slice(-3)).toEqual([
      'CompensationSucceeded',
      'CompensationDone',
      'SagaCompensated',
    ]);
  });

  test('a rejected step owes nothing; those before it do', () => {
    const saga = SagaDriver.start(line);
    saga.reply('a', ok());
    saga.reply('b', no('Empty'));
    expect(saga.sentNames()).toEqual(['a', 'b', 'a:compensate']);
    expect(saga.last('CompensationStarted').reason).toEqual({
      code: 'Empty',
      message: 'Empty it is',
    });
    saga.reply('a:compensate', ok());
    expect(saga.last('SagaCompensated').reason?.code).toBe('Empty');
  });

  test('nothing is owed: done within the same turn', () => {
    const saga = SagaDriver.start(line);
    saga.reply('a', no());
    expect(saga.types().slice(-4)).toEqual([
      'StepRejected',
      'CompensationStarted',
      'CompensationDone',
      'SagaCompensated',
    ]);
  });

  test('a given-up step is settled before it, and what came before it, is taken back', () => {
    const saga = SagaDriver.start(line);
    saga.reply('a', ok());
    saga.reply('b', broken(false));
    expect(saga.value).toBe('undoing');
    expect(saga.outstanding()).toEqual(['b:settle']);
    saga.reply('b:settle', ok({ late: true }));
    expect(saga.outstanding()).toEqual(['b:compensate']);
    saga.reply('b:compensate', ok());
    expect(saga.outstanding()).toEqual(['a:compensate']);
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test('a given-up step that never ran lets its turn pass', () => {
    const saga = SagaDriver.start(line);
    saga.reply('a', ok());
    saga.reply('b', broken(false));
    saga.reply('b:settle', neverRan);
    expect(saga.outstanding()).toEqual(['a:compensate']);
  });
});

describe('parallel regions', () => {
  /** a and b side by side, then c and d side by side. */
  const square = define(
    setup({ actors }).createMachine({
      id: 'm',
      initial: 'first',
      context: {},
      on: { stop: '.undoing' },
      states: {
        first: { type: 'parallel', onDone: 'second', states: { a: region('a'), b: region('b') } },
        second: { type: 'parallel', onDone: 'rest', states: { c: region('c'), d: region('d') } },
        rest: { on: { go: 'done' } },
        ...ends,
      },
    } as never),
    { signals: ['stop', 'go'] },
  );

  test('overlapping steps are taken back side by side, earlier pairs after later ones', () => {
    const saga = SagaDriver.start(square);
    for (const step of ['b', 'a', 'c', 'd']) saga.reply(step, ok());
    saga.signal('stop');
    expect(saga.outstanding()).toEqual(['c:compensate', 'd:compensate']);
    saga.reply('c:compensate', ok());
    expect(saga.outstanding()).toEqual(['d:compensate']);
    saga.reply('d:compensate', ok());
    expect(saga.outstanding().sort()).toEqual(['a:compensate', 'b:compensate']);
    saga.reply('a:compensate', ok());
    saga.reply('b:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test('the first rejection leaves the others in flight: they are settled in their turn', () => {
    const saga = SagaDriver.start(square);
    saga.reply('a', ok());
    saga.reply('b', ok());
    saga.reply('c', no());
    expect(saga.outstanding()).toEqual(['d:settle']);
    saga.reply('d', ok());
    expect(saga.outstanding()).toEqual(['d:compensate']);
    saga.reply('d:compensate', ok());
    expect(saga.outstanding().sort()).toEqual(['a:compensate', 'b:compensate']);
  });

  test('a chain beside one long step: the chain in reverse, the long one by its side', () => {
    const machine = define(
      setup({ actors }).createMachine({
        id: 'm',
        initial: 'both',
        context: {},
        states: {
          both: {
            type: 'parallel',
            onDone: 'undoing',
            states: {
              chain: {
                initial: 'a',
                states: {
                  a: doStep('a', 'b', '#m.undoing'),
                  b: doStep('b', 'over', '#m.undoing'),
                  over: { type: 'final' },
                },
              },
              long: region('c'),
            },
          },
          ...ends,
        },
      } as never),
    );
    const saga = SagaDriver.start(machine);
    for (const step of ['a', 'b', 'c']) saga.reply(step, ok());
    expect(saga.outstanding().sort()).toEqual(['b:compensate', 'c:compensate']);
    saga.reply('b:compensate', ok());
    expect(saga.outstanding().sort()).toEqual(['a:compensate', 'c:compensate']);
  });

  test('compensateAll() in one region waits for a step of another that is in flight', () => {
    const machine = define(
      setup({ actors }).createMachine({
        id: 'm',
        type: 'parallel',
        context: {},
        states: {
          one: {
            initial: 'a',
            states: {
              a: doStep('a', 'back', 'back'),
              back: { invoke: { src: 'back', onDone: 'over' } },
              over: { type: 'final' },
            },
          },
          other: {
            initial: 'b',
            states: { b: doStep('b', 'over', 'over'), over: { type: 'final' } },
          },
        },
      } as never),
    );
    const saga = SagaDriver.start(machine);
    saga.reply('a', ok());
    expect(saga.outstanding().sort()).toEqual(['a:compensate', 'b']);
    saga.reply('a:compensate', ok());
    expect(saga.value).toBe('one.back,other.b');
    saga.reply('b', ok());
    expect(saga.outstanding()).toEqual(['b:compensate']);
    expect(saga.value).toBe('one.back,other.over');
    saga.reply('b:compensate', ok());
    expect(saga.status).toBe('compensated');

    const rejected = SagaDriver.start(machine);
    rejected.reply('a', no());
    expect(rejected.value).toBe('one.back,other.b');
    rejected.reply('b', no());
    expect(rejected.status).toBe('compensated');
  });
});

describe('loops and nesting', () => {
  const loop = define(
    setup({
      actors,
      guards: { more: ({ context }: { context: { n: number } }) => context.n < 3 },
    }).createMachine({
      id: 'm',
      initial: 'round',
      context: { n: 0 },
      states: {
        round: {
          initial: 'a',
          states: {
            a: {
              invoke: {
                src: 'a',
                input: ({ context }: { context: { n: number } }) => ({ n: context.n }),
                onDone: {
                  target: 'over',
                  actions: assign({
                    n: ({ context }: { context: { n: number } }) => context.n + 1,
                  }),
                },
                onError: '#m.undoing',
              },
            },
            over: { type: 'final' },
          },
          onDone: [{ guard: 'more', target: 'round', reenter: true }, { target: 'undoing' }],
        },
        ...ends,
      },
    } as never),
  );

  test('the same step in three rounds is three steps, taken back last to first', () => {
    const saga = SagaDriver.start(loop);
    for (let round = 0; round < 3; round++) saga.reply('a', ok({ round }));
    const taken: unknown[] = [];
    for (let round = 0; round < 3; round++) {
      const [call] = saga.calls();
      taken.push(saga.last('CompensationRequested').input);
      expect(saga.calls()).toHaveLength(1);
      saga.reply(call?.call.commandId ?? '', ok());
    }
    expect(taken).toEqual([2, 1, 0].map((round) => ({ input: { n: round }, output: { round } })));
    expect(saga.status).toBe('compensated');
  });

  test('after compensating it may try again: what is done then is owed anew', () => {
    const again = define(
      setup({ actors }).createMachine({
        id: 'm',
        initial: 'a',
        context: {},
        states: {
          a: doStep('a', 'b', 'undone'),
          b: doStep('b', 'done', 'back'),
          back: { invoke: { src: 'back', onDone: 'c' } },
          c: doStep('c', 'done', 'undone'),
          ...ends,
        },
      } as never),
    );
    const start = () => {
      const saga = SagaDriver.start(again);
      saga.reply('a', ok());
      saga.reply('b', no());
      saga.reply('a:compensate', ok());
      expect(saga.outstanding()).toEqual(['c']);
      return saga;
    };
    const forward = start();
    forward.reply('c', ok());
    expect(forward.status).toBe('completed');
    const backward = start();
    backward.reply('c', no());
    expect(backward.status).toBe('compensated');
  });
});

describe('compensateAll() left by a signal', () => {
  const leaving = define(
    setup({ actors }).createMachine({
      id: 'm',
      initial: 'a',
      context: {},
      states: {
        a: doStep('a', 'b', 'undoing'),
        b: doStep('b', 'c', 'undoing'),
        c: doStep('c', 'done', 'undoing'),
        rest: { on: { stop: 'undoing', go: 'done' } },
        ...ends,
        undoing: { invoke: { src: 'back', onDone: 'undone' }, on: { on: 'rest' } },
      },
    } as never),
    { signals: ['stop', 'go', 'on'] },
  );
  const left = () => {
    const saga = SagaDriver.start(leaving);
    saga.reply('a', ok());
    saga.reply('b', ok());
    saga.reply('c', no());
    saga.signal('on');
    expect(saga.value).toBe('rest');
    expect(saga.live.phase).toBe('forward');
    return saga;
  };

  test('what has begun goes on, what has not is kept', () => {
    const saga = left();
    expect(saga.outstanding()).toEqual(['b:compensate']);
    saga.reply('b:compensate', ok());
    expect(saga.outstanding()).toEqual([]);
    expect(saga.status).toBe('running');
    saga.signal('go');
    expect(saga.status).toBe('completed');
  });

  test('back in it, it goes on where it was', () => {
    const saga = left();
    saga.signal('stop');
    expect(saga.outstanding()).toEqual(['b:compensate']);
    saga.reply('b:compensate', ok());
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('compensated');
    expect(saga.count('CompensationRequested')).toBe(2);
  });

  test('the end waits for what has begun', () => {
    const saga = left();
    saga.signal('go');
    expect(saga.live.phase).toBe('closing');
    saga.reply('b:compensate', ok());
    expect(saga.status).toBe('completed');
  });
});

describe('a compensation that does not succeed', () => {
  const failing = () => {
    const saga = SagaDriver.start(line);
    saga.reply('a', ok());
    saga.reply('b', ok());
    saga.reply('c', no());
    return saga;
  };
  const exhaust = (saga: SagaDriver, answer = broken()) => {
    for (let left = 3; left > 0; left--) {
      saga.reply('b:compensate', answer);
      saga.advance(1_000);
    }
  };

  test.each([
    ['failed', broken()],
    ['rejected: it has no business "no"', no()],
  ])('%s to exhaustion: stuck, and nothing overtakes it', (_, answer) => {
    const saga = failing();
    exhaust(saga, answer);
    expect(saga.status).toBe('stuck');
    expect(saga.stuckCode).toBe('COMPENSATION_FAILED');
    expect(saga.outstanding()).toEqual([]);
    saga.advance(86_400_000);
    expect(saga.count('CommandRetried')).toBe(2);
  });

  test.each([
    [
      'retry',
      (saga: SagaDriver, commandId: string) => {
        saga.operator({ verb: 'retry', commandId });
        expect(saga.call('b:compensate')).toMatchObject({ status: 'open', attempt: 4 });
        saga.reply('b:compensate', ok());
      },
    ],
    [
      'skip',
      (saga: SagaDriver, commandId: string) => void saga.operator({ verb: 'skip', commandId }),
    ],
    [
      'resolve',
      (saga: SagaDriver, commandId: string) => void saga.operator({ verb: 'resolve', commandId }),
    ],
    ['a late success', (saga: SagaDriver) => void saga.reply('b:compensate', ok(), 1)],
  ])('freed by %s', (_, free) => {
    const saga = failing();
    exhaust(saga);
    free(saga, saga.commandId('b:compensate'));
    expect(saga.last('SagaUnstuck').commandId).toBe('7001.2.c');
    expect(saga.outstanding()).toEqual(['a:compensate']);
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test('retried to a second exhaustion it is stuck again', () => {
    const saga = failing();
    exhaust(saga);
    saga.operator({ verb: 'retry', commandId: saga.commandId('b:compensate') });
    exhaust(saga);
    expect(saga.status).toBe('stuck');
    expect(saga.call('b:compensate').attempt).toBe(6);
  });

  test('pending is waited for; a failure of an earlier attempt does not end the wait', () => {
    const saga = failing();
    saga.reply('b:compensate', broken());
    saga.advance(1_000);
    saga.reply('b:compensate', pending);
    expect(saga.reply('b:compensate', broken(), 1).kind).toBe('ignored');
    expect(saga.call('b:compensate').status).toBe('pending');
    saga.reply('b:compensate', ok());
    expect(saga.outstanding()).toEqual(['a:compensate']);
  });

  test('"never ran" is as good as done; "superseded" says nothing', () => {
    const saga = failing();
    expect(saga.reply('b:compensate', superseded).kind).toBe('ignored');
    saga.reply('b:compensate', neverRan);
    expect(saga.outstanding()).toEqual(['a:compensate']);
  });

  test('verbs are refused where nothing is stuck', () => {
    const saga = failing();
    const commandId = saga.commandId('b:compensate');
    expect(saga.operator({ verb: 'retry', commandId }).kind).toBe('refused');
    expect(saga.operator({ verb: 'skip', commandId }).kind).toBe('refused');
    expect(saga.operator({ verb: 'retry' }).kind).toBe('refused');
    expect(saga.operator({ verb: 'resolve', commandId: '7001.1.c' }).kind).toBe('refused');
  });
});

test('an error that nobody takes: the engine compensates in the machine’s stead', () => {
  const picky = define(
    setup({
      actors: { ...actors, a: undoable('a') },
      guards: {
        soldOut: ({ event }) => (event as { error?: { code?: string } }).error?.code === 'SoldOut',
      },
    }).createMachine({
      id: 'm',
      initial: 'a',
      context: {},
      states: {
        a: doStep('a', 'b', 'undone'),
        b: {
          invoke: {
            src: 'b',
            input: {},
            onDone: 'done',
            onError: { guard: 'soldOut', target: 'undone' },
          },
        },
        ...ends,
      },
    } as never),
  );
  const saga = SagaDriver.start(picky);
  saga.reply('a', ok());
  saga.reply('b', no('Other'));
  expect(saga.live.phase).toBe('aborting');
  expect(saga.last('CompensationStarted').reason?.code).toBe('Other');
  saga.reply('a:compensate', ok());
  expect(saga.last('SagaCompensated').reason?.code).toBe('Other');
});
