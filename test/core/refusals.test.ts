/** What defineSaga refuses, each with the state and the remedy named. What it must accept: accepted.test.ts. */
import { describe, expect, test } from 'vitest';
import { createMachine, fromPromise, log, raise, sendTo, spawnChild, assign } from 'xstate';
import { z } from 'zod';
import {
  DefinitionFault,
  command,
  compensatable,
  pivot,
  readOnly,
} from '../../engine/core/index.ts';
import {
  actors,
  define,
  doStep,
  doing,
  machineOf,
  undoing,
  type DefineOptions,
  type States,
} from './machines.ts';

function refusal(make: () => unknown): string {
  try {
    make();
  } catch (error) {
    if (!(error instanceof DefinitionFault)) throw error;
    return error.message;
  }
  throw new Error('it was accepted');
}

const refusedStates: [string, States, RegExp[]][] = [
  [
    'logic that is not ours',
    { x: { invoke: { src: 'other', onDone: 'done', onError: 'undoing' } } },
    [/State "x" invokes "other"/, /compensatable\(\), pivot\(\)/],
  ],
  [
    'a step given inline',
    { x: { invoke: { src: pivot(doing('y')), onDone: 'done', onError: 'undoing' } } },
    [/State "x" invokes a step inline/, /setup\(\{ actors/],
  ],
  [
    'a systemId',
    { x: { invoke: { src: 'a', systemId: 'z', onDone: 'done', onError: 'undoing' } } },
    [/State "x" gives "a" a systemId/, /Remove it/],
  ],
  [
    'onSnapshot',
    { x: { invoke: { src: 'a', onSnapshot: {}, onDone: 'done', onError: 'undoing' } } },
    [/State "x" gives "a" a systemId or onSnapshot/, /Remove it/],
  ],
  [
    'a step without onError',
    { x: { invoke: { src: 'a', onDone: 'done' } } },
    [/State "x" invokes "a" without onError/, /Add onError/],
  ],
  [
    'a step without onDone',
    { x: { invoke: { src: 'a', onError: 'undoing' } } },
    [/State "x" invokes "a" without onDone/, /Add onDone/],
  ],
  [
    'a retriable step without onDone',
    { x: { invoke: { src: 'r' } } },
    [/State "x" invokes "r" without onDone/, /Add onDone/],
  ],
  [
    'an event under our prefix',
    { x: { on: { 'saga.paused': 'done' } } },
    [/State "x" handles "saga\.paused"/, /"saga\.cancel"/],
  ],
  [
    'a wildcard under our prefix',
    { x: { on: { 'saga.*': 'done' } } },
    [/State "x" handles "saga\.\*"/, /reserved/],
  ],
  [
    'a guard that is not there',
    { x: { on: { go: { guard: 'rich', target: 'done' } } } },
    [/State "x" uses the guard "rich"/, /setup\(\{ guards/],
  ],
  [
    'a guard that is not there, on an always',
    { x: { always: { guard: { type: 'rich' }, target: 'done' } } },
    [/State "x" uses the guard "rich"/],
  ],
  [
    'a delay that is not there',
    { x: { after: { forAWhile: 'done' } } },
    [/State "x" waits for the delay "forAWhile"/, /setup\(\{ delays/],
  ],
  [
    'a delay of more than a hundred years',
    { x: { after: { 3_200_000_000_000: 'done' } } },
    [/State "x" waits for 3200000000000 ms/, /up to a hundred years/],
  ],
  [
    'a named delay of more than a hundred years',
    { x: { after: { forEver: 'done' } } },
    [/State "x" waits for "forEver", which is Infinity ms/],
  ],
  [
    'an event raised after more than a hundred years',
    { x: { entry: raise({ type: 'go' }, { delay: 3_200_000_000_000 }), on: { go: 'done' } } },
    [/State "x" waits for 3200000000000 ms/],
  ],
  [
    'an action that is not there',
    { x: { entry: 'shout', on: { go: 'done' } } },
    [/State "x" names the action "shout"/, /setup\(\{ actions/],
  ],
  [
    'an inline function, deep down',
    {
      x: { initial: 'y', states: { y: { on: { go: { target: '#m.done', actions: () => {} } } } } },
    },
    [/State "x\.y" has an action with side effects \(an inline function\)/, /participant/],
  ],
  [
    'a named function',
    { x: { exit: 'sideEffect', on: { go: 'done' } } },
    [/State "x" has an action with side effects \("sideEffect"\)/, /domain event/],
  ],
  ['log()', { x: { entry: log('hello'), on: { go: 'done' } } }, [/side effects \(xstate\.log\)/]],
  [
    'sendTo()',
    { x: { always: { target: 'done', actions: sendTo('z', { type: 'go' }) } } },
    [/side effects \(xstate\.sendTo\)/],
  ],
  [
    'spawnChild()',
    { x: { entry: spawnChild('a' as never), on: { go: 'done' } } },
    [/side effects \(xstate\.spawnChild\)/],
  ],
  [
    'an action on a compound state’s initial transition',
    {
      x: { initial: { target: 'y', actions: () => {} }, states: { y: { on: { go: '#m.done' } } } },
    },
    [/State "x" has an action with side effects/],
  ],
  [
    'a loop of always that may never rest',
    { x: { always: { guard: () => true, target: 'y' } }, y: { always: 'x' } },
    [/State "x" is in a loop of "always"/, /maxIterations/],
  ],
  [
    'a compensatable step after the pivot',
    { p: doStep('p', 'a', 'undoing'), a: doStep('a', 'done', 'undone') },
    [/State "a" invokes the compensatable step/, /after the pivot of State "p"/, /retriable\(\)/],
  ],
  [
    'a second pivot on the same path',
    {
      p: doStep('p', 'x', 'undoing'),
      x: { initial: 'y', states: { y: doStep('p', '#m.done', '#m.done') } },
    },
    [/State "x\.y" invokes the pivot step/],
  ],
  [
    'compensateAll() after the pivot, by a signal',
    { p: doStep('p', 'rest', 'undoing'), rest: { on: { go: 'undoing' } } },
    [/State "undoing" invokes compensateAll\(\)/],
  ],
  [
    'compensateAll() after the pivot, by an ancestor’s timer',
    {
      x: {
        initial: 'p',
        after: { 1000: 'undoing' },
        states: { p: doStep('p', 'rest', '#m.undoing'), rest: { on: { go: '#m.done' } } },
      },
    },
    [/State "undoing" invokes compensateAll\(\)/],
  ],
  [
    'compensateAll() after a pivot whose onDone stays in the state',
    {
      p: {
        invoke: { src: 'p', input: {}, onDone: { actions: assign({}) }, onError: 'undoing' },
        on: { go: 'undoing', stay: 'done' },
      },
    },
    [/State "undoing" invokes compensateAll\(\)/, /after the pivot of State "p"/],
  ],
  [
    'a compensatable step after a retriable one',
    { r: doStep('r', 'a'), a: doStep('a', 'done', 'undoing') },
    [
      /State "a" invokes the compensatable step/,
      /after the retriable step "0.m.r" of State "r"/,
      /never taken back/,
      /make it compensatable\(\)/,
    ],
  ],
  [
    'a pivot after a retriable step, by way of others',
    {
      r: doStep('r', 'q'),
      q: doStep('q', 'rest', 'rest'),
      rest: { after: { 1000: 'x' } },
      x: { initial: 'p', states: { p: doStep('p', '#m.done', '#m.undoing') } },
    },
    [/State "x\.p" invokes the pivot step/, /after the retriable step "0.m.r" of State "r"/],
  ],
  [
    'a compensatable step after a retriable one that is left, by an ancestor',
    {
      x: {
        initial: 'r',
        on: { go: 'a' },
        states: { r: doStep('r', 'rest'), rest: {} },
      },
      a: doStep('a', 'done', 'undoing'),
    },
    [/State "a" invokes the compensatable step/, /of State "x\.r"/],
  ],
  [
    'a compensatable step after regions of which one has a retriable step',
    {
      x: {
        type: 'parallel',
        onDone: 'b',
        states: {
          one: { initial: 'r', states: { r: doStep('r', 'over'), over: { type: 'final' } } },
          two: {
            initial: 'a',
            states: { a: doStep('a', 'over', '#m.undoing'), over: { type: 'final' } },
          },
        },
      },
      b: doStep('b', 'done', 'undoing'),
    },
    [/State "b" invokes the compensatable step/, /of State "x\.one\.r"/],
  ],
  [
    'a pivot beside a region that may fail',
    {
      x: {
        type: 'parallel',
        onDone: 'done',
        states: {
          one: {
            initial: 'p',
            states: { p: doStep('p', 'over', '#m.undoing'), over: { type: 'final' } },
          },
          two: {
            initial: 'a',
            states: { a: doStep('a', 'over', '#m.undoing'), over: { type: 'final' } },
          },
        },
      },
    },
    [/State "x\.one\.p" invokes the pivot beside State "x\.two\.a"/, /Join the regions first/],
  ],
  [
    'a pivot beside a region that may compensate',
    {
      x: {
        type: 'parallel',
        onDone: 'done',
        states: {
          one: {
            initial: 'p',
            states: { p: doStep('p', 'over', 'over'), over: { type: 'final' } },
          },
          two: {
            initial: 'rest',
            states: {
              rest: { on: { go: 'back' } },
              back: { invoke: { src: 'back', onDone: 'over' } },
              over: { type: 'final' },
            },
          },
        },
      },
    },
    [/State "x\.one\.p" invokes the pivot beside State "x\.two\.back"/],
  ],
  [
    'a pivot beside a region that leads to compensation',
    {
      x: {
        type: 'parallel',
        onDone: 'done',
        states: {
          one: {
            initial: 'p',
            states: { p: doStep('p', 'over', '#m.undoing'), over: { type: 'final' } },
          },
          two: {
            initial: 'rest',
            states: { rest: { on: { go: '#m.undoing', stay: 'over' } }, over: { type: 'final' } },
          },
        },
      },
    },
    [/State "undoing" invokes compensateAll\(\)/, /after the pivot of State "x\.one\.p"/],
  ],
  [
    'a pivot and a step that may fail in one state',
    {
      x: {
        invoke: [
          { src: 'p', input: {}, onDone: 'done', onError: 'undoing' },
          { src: 'a', input: {}, onDone: {}, onError: 'undoing' },
        ],
      },
    },
    [/State "x" invokes the pivot beside/, /may still fail/],
  ],
  [
    'a pivot below a state whose step may fail',
    {
      x: {
        invoke: { src: 'a', input: {}, onDone: {}, onError: {} },
        initial: 'p',
        states: { p: doStep('p', '#m.done', '#m.undone') },
      },
    },
    [/State "x\.p" invokes the pivot beside State "x"/],
  ],
  [
    'one id for two invokes that may run at once',
    {
      x: {
        type: 'parallel',
        onDone: 'done',
        states: {
          one: {
            initial: 'a',
            states: {
              a: { invoke: { id: 'job', src: 'a', input: {}, onDone: 'over', onError: 'over' } },
              over: { type: 'final' },
            },
          },
          two: {
            initial: 'b',
            states: {
              b: { invoke: { id: 'job', src: 'b', input: {}, onDone: 'over', onError: 'over' } },
              over: { type: 'final' },
            },
          },
        },
      },
    },
    [/State "x\.one\.a" and State "x\.two\.b" both invoke under the id "job"/, /id of its own/],
  ],
];

describe('states that are refused', () => {
  test.each(refusedStates)('%s', (_, states, patterns) => {
    const implementations = {
      actors: { ...actors, other: fromPromise(() => Promise.resolve(1)) },
      actions: { sideEffect: () => {} },
      delays: { forEver: Infinity },
    };
    const signals = ['go', 'stay'].filter((name) => JSON.stringify(states).includes(`"${name}"`));
    const message = refusal(() => define(machineOf(states, {}, implementations), { signals }));
    for (const pattern of patterns) expect(message).toMatch(pattern);
  });
});

describe('the saga as a whole', () => {
  const fine = (): unknown => machineOf({ rest: { on: { go: 'done' } } });
  const named = (options: DefineOptions, machine: unknown = fine()): string =>
    refusal(() => define(machine, options));

  test.each(['Order', 'or der', '1st', '', 'a'.repeat(64), 'ünder', '__proto__'])(
    'the name %j',
    (name) => {
      expect(named({ name })).toMatch(/must be lower-case kebab case/);
    },
  );
  test.each([0, -1, 1.5, NaN, Infinity])('the version %d', (version) => {
    expect(named({ version })).toMatch(
      /use a whole number ≥ 1 and raise it when the machine changes/,
    );
  });
  test('what is no machine', () => {
    expect(named({}, {})).toMatch(/machine must be made by xstate's setup\(\)\.createMachine\(\)/);
  });
  test('a machine that can never end', () => {
    const endless = createMachine({ initial: 'x', states: { x: {} } });
    expect(named({}, endless)).toMatch(/can never end: add a top-level state with type: 'final'/);
  });
  test('a context that is not JSON', () => {
    const dated = machineOf({ rest: {} }, { context: { when: new Date(0) } });
    expect(named({}, dated)).toMatch(/context of saga "tested".when holds an instance of Date/);
  });
  test.each(['xstate.stop', 'saga.cancel', 'saga.go', '*'])('the signal %s', (signal) => {
    const machine = machineOf({ rest: { on: { '*': 'done' } } });
    expect(named({ signals: [signal] }, machine)).toMatch(/uses a reserved name/);
  });
  test('a signal that no state handles', () => {
    expect(named({ signals: ['go', 'come'] })).toMatch(
      /declares the signal "come", but no state handles it. Add on: \{ 'come': … \} or drop the signal/,
    );
  });
});

describe('contracts and steps', () => {
  test.each(['reserve', 'a.B', 'A.b', 'a.b.c', '.b', 'a.', 'a b.c'])(
    'the command name %j',
    (name) => {
      expect(refusal(() => command(name, { input: z.any(), output: z.any() }))).toMatch(
        /must be "service.command" in lower-case kebab case/,
      );
    },
  );
  const retries = [
    [{ maxAttempts: 0 }, /retry.maxAttempts of svc.do-x must be a whole number ≥ 1/],
    [{ maxAttempts: 1.5 }, /retry.maxAttempts of svc.do-x/],
    [{ backoff: 0.5 }, /retry.backoff of svc.do-x must be ≥ 1/],
    [{ backoff: NaN }, /retry.backoff of svc.do-x/],
    [
      { initialInterval: 0 },
      /retry.initialInterval of svc.do-x is 0; write a number of ms|retry.initialInterval/,
    ],
    [{ maxInterval: '5 min' as never }, /retry.maxInterval of svc.do-x is "5 min"/],
  ] as const;
  test.each(retries)('retry %j', (retry, pattern) => {
    expect(refusal(() => readOnly(doing('x'), { retry }))).toMatch(pattern);
    expect(
      refusal(() =>
        compensatable(doing('y'), {
          compensateWith: undoing('x'),
          compensation: () => ({}),
          compensationRetry: retry,
        }),
      ),
    ).toMatch(/svc\./);
  });
  test.each(['soon', '10', '-1s', 0, -5, NaN, Infinity, '999999999999d', 1e300])(
    'timeout %j',
    (timeout) => {
      expect(refusal(() => pivot(doing('x'), { timeout: timeout as never }))).toMatch(
        /timeout of svc.do-x is .*; write a number of milliseconds or a text such as "250ms", "10s"/,
      );
    },
  );
});
