/** Several compensateAll() that wait at once, in regions of a parallel state: each gets its answer (I6, I12). */
import { describe, expect, test } from 'vitest';
import { emit, setup } from 'xstate';
import { SagaDriver, neverRan, no, ok } from '../support/saga-driver.ts';
import { actors, define, doStep } from './machines.ts';

/** One step; when it fails the region compensates, and says so when it is told that all is done. */
const region = (src: string, onDone: object = { target: 'over' }) => ({
  initial: 'asked',
  states: {
    asked: doStep(src, 'over', 'back'),
    back: {
      id: `back-${src}`,
      invoke: { src: 'back', onDone: { actions: emit({ type: `told-${src}` }), ...onDone } },
      on: { [`leave-${src}`]: 'over' },
    },
    over: { type: 'final' },
  },
});
/** c, then d: what is owed, the later one first. */
const chain = {
  initial: 'c',
  states: { c: doStep('c', 'd', 'over'), d: doStep('d', 'over', 'over'), over: { type: 'final' } },
};
const signals = ['leave-a', 'leave-b'];
const regions = define(
  setup({ actors }).createMachine({
    id: 'm',
    type: 'parallel',
    context: {},
    states: { one: region('a'), two: region('b'), three: chain },
  } as never),
  { signals },
);

/** Both regions compensate, in that order; c and d are done. */
function bothBack(saga: SagaDriver, first = 'a', second = 'b'): SagaDriver {
  saga.reply('c', ok());
  saga.reply('d', ok());
  saga.reply(first, no());
  saga.reply(second, no());
  expect(saga.value).toBe('one.back,two.back,three.over');
  expect(saga.outstanding()).toEqual(['d:compensate']);
  return saga;
}
const told = (saga: SagaDriver): string[] =>
  saga.events().flatMap((event) => (event.type === 'DomainEventEmitted' ? [event.event.type] : []));

describe('two regions wait in compensateAll() at once', () => {
  test.each([
    ['a', 'b'],
    ['b', 'a'],
  ])('both are told when nothing is owed, %s before %s', (first, second) => {
    const saga = bothBack(SagaDriver.start(regions), first, second);
    saga.reply('d:compensate', ok());
    expect(told(saga)).toEqual([]);
    saga.reply('c:compensate', ok());
    expect(told(saga)).toEqual([`told-${first}`, `told-${second}`]);
    expect(saga.count('CompensationDone')).toBe(1);
    expect(saga.status).toBe('compensated');
  });

  test('nothing is owed when the second begins: both are told in that turn', () => {
    const saga = SagaDriver.start(regions);
    saga.reply('c', no());
    saga.reply('a', no());
    expect(saga.value).toBe('one.back,two.asked,three.over');
    saga.reply('b', no());
    expect(told(saga)).toEqual(['told-a', 'told-b']);
    expect(saga.status).toBe('compensated');
  });

  test.each(['a', 'b'])('%s is left: what is owed is taken back for the other', (left) => {
    const saga = bothBack(SagaDriver.start(regions));
    saga.signal(`leave-${left}`);
    expect(saga.live.phase).toBe('compensating');
    saga.reply('d:compensate', ok());
    expect(saga.outstanding()).toEqual(['c:compensate']);
    saga.reply('c:compensate', ok());
    expect(told(saga)).toEqual([left === 'a' ? 'told-b' : 'told-a']);
    expect(saga.status).toBe('compensated');
  });

  test('both are left: what has begun goes on, what has not is kept', () => {
    const saga = bothBack(SagaDriver.start(regions));
    saga.signal('leave-b');
    saga.signal('leave-a');
    expect(saga.live.phase).toBe('closing');
    saga.reply('d:compensate', ok());
    expect(saga.count('CompensationRequested')).toBe(1);
    expect(saga.status).toBe('completed');
  });

  test('a pause changes nothing of that', () => {
    const saga = bothBack(SagaDriver.start(regions));
    saga.operator({ verb: 'pause' });
    saga.reply('d:compensate', ok());
    saga.operator({ verb: 'resume' });
    saga.reply('c:compensate', ok());
    expect(saga.status).toBe('compensated');
  });
});

test('the first one’s answer leaves the second, which begins anew: it waits for what is under way since', () => {
  const saga = SagaDriver.start(
    define(
      setup({ actors }).createMachine({
        id: 'm',
        type: 'parallel',
        context: {},
        states: { one: region('a', { target: '#back-b', reenter: true }), two: region('b') },
      } as never),
      { signals },
    ),
  );
  saga.reply('a', no());
  saga.reply('b', no());
  expect(told(saga)).toEqual(['told-a']);
  expect(saga.value).toBe('one.asked,two.back');
  saga.reply('a', ok());
  saga.reply('a:compensate', ok());
  expect(told(saga)).toEqual(['told-a', 'told-b']);
  expect(saga.status).toBe('compensated');
});

describe('a saga that was started by the rules before', () => {
  test('keeps them: its log goes on as it was written, and a cancel gets it out', () => {
    const saga = bothBack(SagaDriver.startedBefore(regions));
    expect(saga.live).not.toHaveProperty('rules');
    expect(saga.live).not.toHaveProperty('furtherCompensateActorIds');
    saga.reply('d:compensate', ok());
    saga.reply('c:compensate', ok());
    expect(told(saga)).toEqual(['told-b']);
    expect(saga.value).toBe('one.back,two.over,three.over');
    saga.cancel();
    expect(saga.status).toBe('compensated');
  });

  test('left by one of them it goes forward', () => {
    const saga = bothBack(SagaDriver.startedBefore(regions));
    saga.signal('leave-b');
    expect(saga.live.phase).toBe('forward');
  });

  test('one alone is as it always was, in the same state', () => {
    const states = [SagaDriver.startedBefore(regions), SagaDriver.start(regions)].map((saga) => {
      saga.reply('c', ok());
      saga.reply('a', no());
      const { rules: _, ...state } = saga.live;
      expect(state.compensateActorId).toBe('0.back-a');
      return state;
    });
    expect(states[1]).toEqual(states[0]);
  });
});

test('a step in flight in a third region is waited for by both', () => {
  const saga = SagaDriver.start(regions);
  saga.reply('a', no());
  saga.reply('b', no());
  expect(saga.outstanding()).toEqual(['c']);
  saga.reply('c', ok());
  // d was asked for meanwhile: it is waited for, and taken back before c.
  saga.reply('d', ok());
  saga.reply('d:compensate', ok());
  saga.reply('c:compensate', neverRan);
  expect(told(saga)).toEqual(['told-a', 'told-b']);
  expect(saga.status).toBe('compensated');
});
