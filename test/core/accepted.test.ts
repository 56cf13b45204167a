/** What defineSaga must accept: nothing that can be run is refused. */
import { expect, test } from 'vitest';
import { assign, raise, setup } from 'xstate';
import { actors, define, doStep, machineOf, type States } from './machines.ts';

const accepted: [string, States, object?][] = [
  ['a bare wait', { rest: { on: { go: 'done' } } }],
  ['a retriable step without onError', { r: doStep('r', 'done') }],
  ['compensateAll() without onError', { a: doStep('a', 'done', 'undoing') }],
  [
    'retriable and read-only steps after the pivot',
    { p: doStep('p', 'q', 'undoing'), q: doStep('q', 'r', 'r'), r: doStep('r', 'done') },
  ],
  [
    'retriable and read-only steps at the end, without a pivot',
    {
      a: doStep('a', 'r', 'undoing'),
      r: doStep('r', 'q'),
      q: doStep('q', 's', 's'),
      s: doStep('s', 'done'),
    },
  ],
  [
    'a retriable step again and again',
    { r: doStep('r', 'rest'), rest: { on: { go: 'r', stay: 'done' } } },
  ],
  [
    'all from the start, after what was done has been taken back',
    {
      a: doStep('a', 'r', 'undoing'),
      r: { ...doStep('r', 'done'), on: { stay: 'undoing' } },
      undoing: { invoke: { src: 'back', onDone: 'rest' } },
      rest: { on: { go: 'a', stay: 'undone' } },
    },
  ],
  [
    'a retriable step in a region beside one that may fail',
    {
      x: {
        type: 'parallel',
        onDone: 's',
        states: {
          one: { initial: 'r', states: { r: doStep('r', 'over'), over: { type: 'final' } } },
          two: {
            initial: 'a',
            states: { a: doStep('a', 'over', '#m.undoing'), over: { type: 'final' } },
          },
        },
      },
      s: doStep('s', 'done'),
    },
  ],
  [
    'delays up to a hundred years, in numbers and in digits',
    {
      x: {
        entry: raise({ type: 'stay' }, { delay: () => Infinity }),
        after: { 3_153_600_000_000: 'done', '1000': 'undone' },
      },
    },
  ],
  [
    'a cancel handler around the pivot',
    {
      x: {
        on: { 'saga.cancel': 'undoing' },
        initial: 'p',
        states: { p: doStep('p', 'rest', '#m.undoing'), rest: { on: { go: '#m.done' } } },
      },
    },
  ],
  [
    'two pivots on two paths',
    {
      rest: { on: { go: 'p', stay: 'p2' } },
      p: doStep('p', 'done', 'undoing'),
      p2: doStep('p', 'done', 'undoing'),
    },
  ],
  [
    'a pivot tried again after its failure',
    { p: doStep('p', 'done', 'rest'), rest: { on: { go: 'p', stay: 'undoing' } } },
  ],
  [
    'a pivot beside regions that only read or last',
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
            initial: 'q',
            states: { q: doStep('q', 'r', 'r'), r: doStep('r', 'over'), over: { type: 'final' } },
          },
        },
      },
    },
  ],
  [
    'an always that is bounded by the author',
    { x: { always: { guard: () => false, target: 'x' }, on: { go: 'done' } } },
    { options: { maxIterations: 50 } },
  ],
  [
    'always that only goes forward',
    {
      x: { always: [{ guard: () => false, target: 'done' }, { target: 'y' }] },
      y: { always: 'rest' },
      rest: { on: { go: 'done' } },
    },
  ],
  [
    'one id for invokes that never run at once',
    {
      a: { invoke: { id: 'job', src: 'a', input: {}, onDone: 'b', onError: 'undoing' } },
      b: { invoke: { id: 'job', src: 'b', input: {}, onDone: 'done', onError: 'undoing' } },
    },
  ],
  [
    'history, shallow and deep',
    {
      x: {
        initial: 'y',
        on: { go: 'rest' },
        states: {
          y: { on: { stay: 'z' } },
          z: {},
          h: { type: 'history', history: 'deep' },
          s: { type: 'history' },
        },
      },
      rest: { on: { go: 'x.h', stay: 'done' } },
    },
  ],
  ['a wildcard and a pattern', { x: { on: { 'go.*': 'done', '*': { actions: assign({}) } } } }],
];
test.each(accepted)('%s', (_, states, rest) => {
  const signals = ['go', 'stay'].filter((name) => JSON.stringify(states).includes(`"${name}"`));
  expect(define(machineOf(states, rest), { signals }).kind).toBe('sagax.definition');
});

test('fifty levels of nesting, and two hundred states in a row', () => {
  let deep: object = doStep('a', '#m.done', '#m.undoing');
  for (let level = 0; level < 50; level++) deep = { initial: 'x', states: { x: deep } };
  expect(define(machineOf({ x: deep })).services).toEqual(['svc']);
  const row: States = {};
  for (let n = 0; n < 200; n++)
    row[`s${n}`] = doStep('a', n === 199 ? 'done' : `s${n + 1}`, 'undoing');
  expect(define(machineOf(row)).actors.size).toBe(2);
});

test('a parallel root, which ends when its regions do', () => {
  const machine = setup({ actors }).createMachine({
    type: 'parallel',
    context: {},
    states: {
      one: { initial: 'a', states: { a: doStep('a', 'over', 'over'), over: { type: 'final' } } },
    },
  } as never);
  expect(define(machine).kind).toBe('sagax.definition');
});
