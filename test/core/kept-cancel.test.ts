/** A cancel that comes while the saga compensates: applied when its machine would go forward again (SEMANTICS 4.2). */
import { describe, expect, test } from 'vitest';
import { assign, emit, setup } from 'xstate';
import { decide } from '../../engine/core/decide.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import { fold } from '../../engine/core/evolve.ts';
import { SagaDriver, broken, neverRan, no, ok } from '../support/saga-driver.ts';
import { actors, define, doStep, ends, oops, type Edition } from './machines.ts';

interface Shape {
  /** Where the machine goes when it has compensated. */
  next?: object;
  /** The states of the way forward that handle a cancel. */
  handles?: boolean;
}

/** a, then b; when b fails all is taken back, and then another way is tried: c, then the pivot. */
function again({ next = { target: 'other' }, handles = false }: Shape = {}): AnyDefinition {
  const hear = assign({ why: ({ event }: { event: { reason?: string } }) => event.reason });
  return define(
    setup({ actors }).createMachine({
      id: 'm',
      initial: 'a',
      context: { why: null },
      states: {
        a: doStep('a', 'b', 'undone'),
        b: doStep('b', 'done', 'back'),
        back: {
          invoke: { src: 'back', onDone: next },
          on: { on: 'other' },
          after: { 3_600_000: 'other' },
        },
        twice: { invoke: { src: 'back', onDone: 'other' } },
        other: {
          initial: 'c',
          ...(handles ? { on: { 'saga.cancel': { target: 'undoing', actions: hear } } } : {}),
          states: { c: doStep('c', '#m.p', '#m.undoing') },
        },
        p: doStep('p', 'r', 'undoing'),
        r: doStep('r', 'done'),
        ...ends,
      },
      output: ({ context }: { context: object }) => context,
    } as never),
    { signals: ['on'] },
  );
}

/** a is being taken back. */
function compensating(definition: AnyDefinition, saga = SagaDriver.start(definition)): SagaDriver {
  saga.reply('a', ok());
  saga.reply('b', no());
  expect(saga.value).toBe('back');
  expect(saga.outstanding()).toEqual(['a:compensate']);
  return saga;
}

/** How it ended, what was asked for, and whether a cancel is kept still. */
const endOf = (saga: SagaDriver): object => ({
  status: saga.status,
  reason: saga.last('SagaCompensated').reason,
  sent: saga.sentNames(),
  keeps: 'keptCancel' in saga.live,
});
/** By the cancel; on the way forward nothing was asked for. */
const cancelled = (sent = ['a', 'b', 'a:compensate']): object => ({
  status: 'compensated',
  reason: { code: 'CANCELLED', message: 'not wanted any more' },
  sent,
  keeps: false,
});

describe('a machine that would go forward again', () => {
  test('does not handle cancels: the engine ends it, and it stays where it was', () => {
    const saga = compensating(again());
    saga.cancel();
    expect(saga.outstanding()).toEqual(['a:compensate']);
    expect(saga.count('CompensationStarted')).toBe(1);
    saga.reply('a:compensate', ok());
    expect(endOf(saga)).toEqual(cancelled());
    expect(saga.value).toBe('back');
  });

  test('handles them where it goes: it is told there, before anything is asked for', () => {
    const saga = compensating(again({ handles: true }));
    saga.cancel();
    saga.reply('a:compensate', ok());
    expect(endOf(saga)).toEqual(cancelled());
    expect(saga.value).toBe('undone');
    expect(saga.live.output).toEqual({ why: 'not wanted any more' });
  });

  test('would ask the pivot at once: it is never asked', () => {
    const saga = compensating(again({ next: { target: 'p' } }));
    saga.cancel();
    saga.reply('a:compensate', ok());
    expect(endOf(saga)).toEqual(cancelled());
    expect(saga.live.pivot).toBe('none');
  });

  test('without a cancel it goes on as it did', () => {
    const saga = compensating(again());
    saga.reply('a:compensate', ok());
    saga.reply('c', ok());
    saga.reply('p', ok());
    saga.reply('r', ok());
    expect(saga.status).toBe('completed');
  });

  test.each([true, false])('leaves compensateAll() by a signal (handled: %s)', (handles) => {
    const saga = compensating(again({ handles }));
    saga.cancel();
    saga.signal('on');
    expect(saga.outstanding()).toEqual(['a:compensate']);
    expect(saga.last('CompensationStarted').reason?.code).toBe('CANCELLED');
    saga.reply('a:compensate', ok());
    expect(endOf(saga)).toEqual(cancelled());
  });

  test.each([true, false])('leaves it by a timer (handled: %s)', (handles) => {
    const saga = compensating(again({ handles }));
    saga.cancel();
    saga.reply('a:compensate', broken(false));
    saga.advance(3_600_000);
    saga.operator({ verb: 'resolve', commandId: saga.commandId('a:compensate') });
    expect(endOf(saga)).toEqual(cancelled());
  });
});

describe('a machine that does not go forward', () => {
  test('ends: with its own output, and for the reason for which it compensated', () => {
    const saga = compensating(
      again({ next: { target: 'undone', actions: emit({ type: 'over' }) } }),
    );
    saga.cancel();
    saga.reply('a:compensate', ok());
    expect(saga.value).toBe('undone');
    expect(saga.last('SagaCompensated')).toMatchObject({
      output: { why: null },
      reason: { code: 'No' },
    });
    expect(saga.count('DomainEventEmitted')).toBe(1);
    expect(saga.live).not.toHaveProperty('keptCancel');
  });

  test('compensates once more: the cancel is kept until that is over', () => {
    const saga = compensating(again({ next: { target: 'twice' } }));
    saga.cancel();
    saga.reply('a:compensate', ok());
    expect(saga.count('CompensationDone')).toBeGreaterThanOrEqual(2);
    expect(endOf(saga)).toEqual(cancelled());
    expect(saga.value).toBe('twice');
  });
});

describe('parallel regions', () => {
  /** One compensates when a fails; the other waits for `go`, or compensates too when c fails. */
  const regions = (handles: boolean, then = 'over') =>
    define(
      setup({ actors }).createMachine({
        id: 'm',
        type: 'parallel',
        context: {},
        states: {
          one: {
            initial: 'a',
            states: {
              a: doStep('a', 'over', 'back'),
              back: { invoke: { src: 'back', onDone: 'over' } },
              over: { type: 'final' },
            },
          },
          other: {
            initial: 'c',
            states: {
              c: doStep('c', 'wait', 'back'),
              wait: { on: { go: 'b', ...(handles ? { 'saga.cancel': 'over' } : {}) } },
              b: doStep('b', 'over', 'over'),
              back: { invoke: { src: 'back', onDone: then } },
              over: { type: 'final' },
            },
          },
        },
      } as never),
      { signals: ['go'] },
    );

  test.each([true, false])(
    'the sibling gets it when the other is done (handled: %s)',
    (handles) => {
      const saga = SagaDriver.start(regions(handles));
      saga.reply('c', ok());
      saga.reply('a', no());
      saga.cancel();
      expect(saga.value).toBe('one.back,other.wait');
      saga.reply('c:compensate', ok());
      expect(endOf(saga)).toEqual(cancelled(['a', 'c', 'c:compensate']));
      expect(saga.value.split(',').sort()).toEqual(
        handles ? ['one.over', 'other.over'] : ['one.back', 'other.wait'],
      );
    },
  );

  test('the sibling moves on meanwhile: nothing is applied before all is compensated', () => {
    const saga = SagaDriver.start(regions(true));
    saga.reply('a', no());
    saga.cancel();
    saga.reply('c', ok());
    expect(saga.live.phase).toBe('compensating');
    expect(saga.value).toBe('one.back,other.wait');
    expect(saga.outstanding()).toEqual(['c:compensate']);
    saga.reply('c:compensate', ok());
    expect(endOf(saga)).toEqual(cancelled(['a', 'c', 'c:compensate']));
  });

  const both = (then: string): SagaDriver => {
    const saga = SagaDriver.start(regions(false, then));
    saga.reply('a', no());
    saga.cancel();
    saga.reply('c', no());
    return saga;
  };
  test('two compensateAll() are told, and the machine ends', () => {
    const saga = both('over');
    expect(saga.value.split(',').sort()).toEqual(['one.over', 'other.over']);
    expect(saga.last('SagaCompensated').reason?.code).toBe('No');
  });
  test('two compensateAll() are told, and one of them would go forward', () => {
    expect(endOf(both('b'))).toEqual(cancelled(['a', 'c']));
  });
});

describe('more than one', () => {
  test('the first counts, with its reason; a repeat of one is none', () => {
    const saga = compensating(again());
    saga.cancel('c1');
    const before = saga.log.length;
    expect(saga.cancel('c1').kind).toBe('ignored');
    saga.cancel('c2');
    expect(saga.log).toHaveLength(before + 1);
    expect(saga.live.keptCancel?.requestId).toBe('c1');
    saga.reply('a:compensate', ok());
    expect(endOf(saga)).toEqual(cancelled());
  });

  test('in a pause it is held back, and kept afterwards', () => {
    const saga = compensating(again());
    saga.operator({ verb: 'pause' });
    saga.cancel();
    saga.reply('a:compensate', ok());
    saga.operator({ verb: 'resume' });
    expect(endOf(saga)).toEqual(cancelled());
  });
});

describe('with code that throws on the way forward', () => {
  const faulty = (edition: Edition): SagaDriver => {
    const n = assign({ why: () => (edition.isBad ? oops() : 'mended') });
    const saga = compensating(again({ next: { target: 'other', actions: n } }));
    saga.cancel();
    saga.reply('a:compensate', ok());
    expect(saga.stuckCode).toBe('MACHINE_FAULT');
    return saga;
  };

  test('mended and retried, it is cancelled', () => {
    const edition = { isBad: true };
    const saga = faulty(edition);
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    expect(endOf(saga)).toEqual(cancelled());
  });

  test('a second cancel gets out of the fault', () => {
    const saga = faulty({ isBad: true });
    saga.cancel();
    expect(endOf(saga)).toEqual(cancelled());
  });
});

test('a step whose outcome is unknown is settled and taken back first', () => {
  const saga = SagaDriver.start(again());
  saga.reply('a', ok());
  saga.reply('b', broken(false));
  expect(saga.outstanding()).toEqual(['b:settle']);
  saga.cancel();
  saga.reply('b:settle', neverRan);
  saga.reply('a:compensate', ok());
  expect(endOf(saga)).toEqual(cancelled(['a', 'b', 'b:settle', 'a:compensate']));
});

test('past the pivot it is refused', () => {
  const saga = SagaDriver.start(
    define(
      setup({ actors }).createMachine({
        initial: 'p',
        context: {},
        states: {
          p: doStep('p', 'r', 'undone'),
          r: doStep('r', 's'),
          s: doStep('s', 'done'),
          ...ends,
        },
      } as never),
    ),
  );
  saga.reply('p', ok());
  // No definition that is taken leads there; if one did, nothing is taken back (I7).
  const state = { ...saga.live, keptCancel: { requestId: 'c1', reason: '', by: '' } };
  const commandId = saga.commandId('r');
  const body = { commandId, sagaId: '7001', namespace: 'default', attempt: 1 };
  const reply = { ...body, outcome: 'succeeded' as const, output: {} };
  const decision = decide(saga.definition, '7001', state, { type: 'reply', body: reply }, saga.now);
  const types = decision.kind === 'accepted' ? decision.events.map(({ type }) => type) : [];
  expect(types).toEqual(['StepSucceeded', 'CancelRefused', 'StepRequested']);
});

test('a saga that was started by the rules before goes on as its log was written', () => {
  const saga = SagaDriver.start(again());
  const [start] = saga.log;
  if (start?.event.type !== 'SagaStarted') throw new Error('It begins with its start.');
  const { rules: _, ...event } = start.event;
  saga.log[0] = { event, at: start.at };
  saga.state = fold(saga.definition, saga.sagaId, saga.log);
  compensating(saga.definition, saga);
  saga.cancel();
  saga.reply('a:compensate', ok());
  expect(saga.outstanding()).toEqual(['c']);
});
