/** Each class of step with each outcome that a participant, the clock or the machine can give it. */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import type { AnyDefinition } from '../../engine/core/define.ts';
import {
  SagaDriver,
  broken,
  heartbeat,
  neverRan,
  no,
  ok,
  pending,
  superseded,
} from '../support/saga-driver.ts';
import {
  actors,
  decisive,
  define,
  ends,
  lasting,
  reading,
  undoable,
  type DefineOptions,
} from './machines.ts';

const signals: DefineOptions = { signals: ['leave', 'finish'] };

/** One step `x` of any class; its answer is kept; `leave` goes on without it; `finish` ends. */
function oneStep(x: ReturnType<typeof undoable>, afterMs?: number): AnyDefinition {
  const keepError = assign({ error: ({ event }: { event: { error?: unknown } }) => event.error });
  return define(
    setup({ actors: { ...actors, x } }).createMachine({
      initial: 'go',
      context: { got: null, error: null },
      states: {
        go: {
          invoke: {
            src: 'x',
            input: { want: 1 },
            onDone: {
              target: 'rest',
              actions: assign({
                got: ({ event }: { event: { output?: unknown } }) => event.output,
              }),
            },
            onError: { target: 'failed', actions: keepError },
          },
          on: { leave: 'rest' },
          ...(afterMs === undefined ? {} : { after: { [afterMs]: 'rest' } }),
        },
        rest: { on: { finish: 'done' } },
        failed: { on: { finish: 'undoing' } },
        ...ends,
      },
    } as never),
    signals,
  );
}
const timeout = { timeout: '5s' } as const;
const CLASSES = {
  compensatable: undoable('x', timeout),
  pivot: decisive('x', timeout),
  readOnly: reading('x', timeout),
  retriable: lasting('x', timeout),
} as const;
type ClassName = keyof typeof CLASSES;
const begin = (name: ClassName, afterMs?: number) =>
  SagaDriver.start(oneStep(CLASSES[name], afterMs));
const all = Object.keys(CLASSES) as ClassName[];
const mayFail = all.filter((name) => name !== 'retriable');
/** What may have been done when no answer came: it has to be settled. */
const settled = ['compensatable', 'pivot'] as const;

describe('succeeded', () => {
  test.each(all)('%s: the output reaches the machine', (name) => {
    const saga = begin(name);
    expect(saga.outstanding()).toEqual(['x']);
    expect(saga.last('StepRequested')).toMatchObject({ class: name, input: { want: 1 } });
    saga.reply('x', ok({ answer: 42 }));
    expect(saga.value).toBe('rest');
    expect(saga.context['got']).toEqual({ answer: 42 });
    saga.signal('finish');
    expect(saga.status).toBe('completed');
  });

  test.each(all)('%s: a repeat of the answer changes nothing', (name) => {
    const saga = begin(name);
    saga.reply('x', ok({ answer: 42 }));
    const before = saga.log.length;
    for (const again of [ok({ answer: 43 }), no(), broken(), pending, heartbeat, superseded]) {
      expect(saga.reply('x', again).kind).toBe('ignored');
    }
    expect(saga.log.length).toBe(before);
  });

  test.each(all)(
    '%s: an output beyond what JSON schemas accept is a failure, not an answer',
    (name) => {
      const saga = begin(name);
      saga.reply('x', ok('not an object'));
      expect(saga.last('StepFailed')).toMatchObject({
        failure: { code: 'OUTPUT_INVALID' },
        retryable: false,
      });
      expect(saga.context['got']).toBeNull();
    },
  );
});

describe('rejected', () => {
  test.each(mayFail)('%s: the machine hears the business "no", and nothing is owed', (name) => {
    const saga = begin(name);
    saga.reply('x', no('OutOfStock', { available: 3 }));
    expect(saga.value).toBe('failed');
    expect(saga.context['error']).toEqual({
      kind: 'rejected',
      code: 'OutOfStock',
      message: 'OutOfStock it is',
      data: { available: 3 },
    });
    expect(saga.count('CommandRetried')).toBe(0);
    saga.signal('finish');
    expect(saga.sentNames()).toEqual(['x']);
    expect(saga.status).toBe('compensated');
  });

  test('a retriable step has no "no": it is stuck, and a repeat does not make it more stuck', () => {
    const saga = begin('retriable');
    saga.reply('x', no());
    expect(saga.status).toBe('stuck');
    expect(saga.stuckCode).toBe('STEP_REJECTED');
    expect(saga.reply('x', no()).kind).toBe('ignored');
    saga.operator({ verb: 'retry', commandId: saga.commandId('x') });
    expect(saga.call('x')).toMatchObject({ status: 'open', attempt: 2 });
    saga.reply('x', ok());
    expect(saga.value).toBe('rest');
  });
});

describe('failed', () => {
  test.each(all)('%s: tried again under the same id, later each time', (name) => {
    const saga = begin(name);
    const asked = saga.now;
    saga.reply('x', broken());
    const first = saga.last('RetryScheduled').dueAt - asked;
    expect(first).toBeGreaterThanOrEqual(50);
    expect(first).toBeLessThanOrEqual(100);
    expect(saga.outstanding()).toEqual([]);
    saga.advance(first - 1);
    expect(saga.count('CommandRetried')).toBe(0);
    saga.advance(1);
    expect(saga.last('CommandRetried')).toMatchObject({ attempt: 2, op: 'do', input: { want: 1 } });
    saga.reply('x', broken());
    const second = saga.last('RetryScheduled').dueAt - saga.now;
    expect(second).toBeGreaterThanOrEqual(100);
    expect(second).toBeLessThanOrEqual(200);
    saga.advance(second);
    saga.reply('x', ok());
    expect(saga.value).toBe('rest');
    expect(new Set(saga.sent().map((command) => command.commandId)).size).toBe(1);
  });

  test.each(all)('%s: an earlier attempt’s failure is ignored, its success is taken', (name) => {
    const saga = begin(name);
    saga.reply('x', broken());
    expect(saga.reply('x', broken(), 1).kind).toBe('ignored');
    saga.advance(100);
    expect(saga.reply('x', broken(), 1).kind).toBe('ignored');
    expect(saga.reply('x', broken(), 7).kind).toBe('ignored');
    saga.reply('x', ok(), 1);
    expect(saga.value).toBe('rest');
  });

  const exhaustions = [
    ['to exhaustion', (saga: SagaDriver) => exhaust(saga)],
    ['non-retryable', (saga: SagaDriver) => void saga.reply('x', broken(false))],
  ] as const;
  describe.each(exhaustions)('%s', (_, fail) => {
    test('compensatable: given up and settled; the machine goes on at once', () => {
      const saga = begin('compensatable');
      fail(saga);
      expect(saga.value).toBe('failed');
      expect(saga.context['error']).toMatchObject({
        kind: 'failed',
        code: 'STEP_ATTEMPTS_EXHAUSTED',
      });
      expect(saga.outstanding()).toEqual(['x:settle']);
    });
    test('pivot: settled first; the machine hears nothing while it is unknown', () => {
      const saga = begin('pivot');
      fail(saga);
      expect(saga.value).toBe('go');
      expect(saga.live.pivot).toBe('inFlight');
      saga.reply('x:settle', neverRan);
      expect(saga.value).toBe('failed');
      expect(saga.context['error']).toMatchObject({
        kind: 'failed',
        code: 'STEP_ATTEMPTS_EXHAUSTED',
      });
    });
    test('readOnly: nothing is owed for it', () => {
      const saga = begin('readOnly');
      fail(saga);
      expect(saga.value).toBe('failed');
      expect(saga.outstanding()).toEqual([]);
    });
    test('retriable: stuck, and an operator’s retry gives a fresh budget', () => {
      const saga = begin('retriable');
      fail(saga);
      expect(saga.status).toBe('stuck');
      const { attempt } = saga.call('x');
      saga.operator({ verb: 'retry', commandId: saga.commandId('x') });
      expect(saga.call('x')).toMatchObject({ status: 'open', attempt: attempt + 1 });
      exhaust(saga);
      expect(saga.call('x')).toMatchObject({ status: 'stuck', attempt: attempt + 3 });
      saga.reply('x', ok());
      expect(saga.count('SagaUnstuck')).toBe(2);
      expect(saga.value).toBe('rest');
    });
  });
});

/** Three failed attempts, as `hasty` allows. */
function exhaust(saga: SagaDriver): void {
  for (let left = 3; left > 0; left--) {
    saga.reply('x', broken());
    if (left > 1) saga.advance(1_000);
  }
}

describe('pending', () => {
  test.each(all)('%s: accepted, completed later', (name) => {
    const saga = begin(name);
    saga.reply('x', pending);
    expect(saga.call('x').status).toBe('pending');
    expect(saga.reply('x', pending).kind).toBe('ignored');
    saga.advance(4_000);
    saga.reply('x', ok({ answer: 1 }));
    expect(saga.context['got']).toEqual({ answer: 1 });
  });

  test.each(all)('%s: failed later, then tried again', (name) => {
    const saga = begin(name);
    saga.reply('x', pending);
    saga.reply('x', broken());
    saga.advance(100);
    expect(saga.call('x')).toMatchObject({ status: 'open', attempt: 2 });
  });

  test('its deadline holds all the same', () => {
    const saga = begin('compensatable');
    saga.reply('x', pending);
    saga.advance(5_000);
    expect(saga.value).toBe('failed');
    expect(saga.outstanding()).toEqual(['x:settle']);
  });
});

describe('heartbeat', () => {
  const beating = () => SagaDriver.start(oneStep(undoable('x', { heartbeatTimeout: '1s' })));

  test('keeps the attempt alive, and its absence ends it', () => {
    const saga = beating();
    for (let beat = 0; beat < 5; beat++) {
      saga.advance(900);
      saga.reply('x', { outcome: 'heartbeat', details: { done: beat } });
    }
    expect(saga.count('StepFailed')).toBe(0);
    saga.advance(999);
    expect(saga.count('StepFailed')).toBe(0);
    saga.advance(1);
    expect(saga.last('StepFailed').failure.code).toBe('HEARTBEAT_MISSED');
    saga.advance(100);
    expect(saga.call('x').attempt).toBe(2);
  });

  test('the next attempt is watched from its own start, after a pending one too', () => {
    const saga = beating();
    saga.reply('x', pending);
    saga.advance(10_000);
    expect(saga.count('StepFailed')).toBe(0);
    saga.reply('x', broken());
    saga.advance(100);
    expect(saga.call('x').attempt).toBe(2);
    saga.advance(1_000);
    expect(saga.last('StepFailed')).toMatchObject({
      attempt: 2,
      failure: { code: 'HEARTBEAT_MISSED' },
    });
  });

  test('of an earlier attempt, or where none is awaited, it is ignored', () => {
    const saga = beating();
    saga.advance(1_100);
    expect(saga.call('x').attempt).toBe(2);
    expect(saga.reply('x', heartbeat, 1).kind).toBe('ignored');
    expect(begin('compensatable').reply('x', heartbeat).kind).toBe('ignored');
  });
});

describe('timed out', () => {
  test.each(settled)('%s: unknown, so it is settled under its own id', (name) => {
    const saga = begin(name);
    saga.advance(4_999);
    expect(saga.count('StepTimedOut')).toBe(0);
    saga.advance(1);
    expect(saga.last('SettlementRequested')).toEqual({
      type: 'SettlementRequested',
      commandId: '7001.1.s',
      of: '7001.1',
      command: 'svc.do-x',
    });
  });

  test('readOnly: failed, nothing to settle', () => {
    const saga = begin('readOnly');
    saga.advance(5_000);
    expect(saga.context['error']).toMatchObject({ kind: 'timedOut', code: 'STEP_TIMED_OUT' });
    expect(saga.outstanding()).toEqual([]);
  });

  test('retriable: stuck; a late success frees it', () => {
    const saga = begin('retriable');
    saga.advance(5_000);
    expect(saga.stuckCode).toBe('STEP_TIMED_OUT');
    saga.reply('x', ok());
    expect(saga.value).toBe('rest');
  });

  test('retriable: an operator’s retry sets a fresh deadline', () => {
    const saga = begin('retriable');
    saga.advance(5_000);
    saga.operator({ verb: 'retry', commandId: saga.commandId('x') });
    saga.advance(4_999);
    expect(saga.status).toBe('running');
    saga.advance(1);
    expect(saga.status).toBe('stuck');
  });

  /** The settlement's own answer, and a late answer to the step itself, count the same. */
  describe.each(['x:settle', 'x'])('answered by %s', (which) => {
    test('compensatable, it succeeded: taken back, also without compensateAll()', () => {
      const saga = begin('compensatable');
      saga.advance(5_000);
      saga.reply(which, ok({ id: 'late' }));
      expect(saga.outstanding()).toEqual(['x:compensate']);
      expect(saga.last('CompensationRequested').input).toEqual({
        input: { want: 1 },
        output: { id: 'late' },
      });
      saga.reply('x:compensate', ok());
      expect(saga.live.steps).toEqual({});
    });
    test('compensatable, it was rejected: nothing is owed', () => {
      const saga = begin('compensatable');
      saga.advance(5_000);
      saga.reply(which, no());
      expect(saga.live.steps).toEqual({});
      expect(saga.context['error']).toMatchObject({ kind: 'timedOut' });
    });
    test('pivot, it succeeded: the machine goes on as if it had answered in time', () => {
      const saga = begin('pivot');
      saga.advance(5_000);
      saga.reply(which, ok({ answer: 9 }));
      expect(saga.value).toBe('rest');
      expect(saga.context['got']).toEqual({ answer: 9 });
      expect(saga.live.pivot).toBe('passed');
    });
    test('pivot, it was rejected: the machine hears the "no"', () => {
      const saga = begin('pivot');
      saga.advance(5_000);
      saga.reply(which, no('Full'));
      expect(saga.context['error']).toMatchObject({ kind: 'rejected', code: 'Full' });
      expect(saga.live.pivot).toBe('none');
    });
  });

  test.each([neverRan, superseded])('never ran ($outcome)', (answer) => {
    const saga = begin('compensatable');
    saga.advance(5_000);
    saga.reply('x:settle', answer);
    expect(saga.live.steps).toEqual({});
    const pivot = begin('pivot');
    pivot.advance(5_000);
    pivot.reply('x:settle', answer);
    expect(pivot.context['error']).toMatchObject({ kind: 'timedOut', code: 'STEP_TIMED_OUT' });
  });

  test.each(settled)('%s: late answers after the settlement’s change nothing', (name) => {
    const saga = begin(name);
    saga.advance(5_000);
    saga.reply('x:settle', neverRan);
    for (const late of [ok(), no(), broken()]) {
      expect(saga.reply('x', late).kind).toBe('ignored');
      expect(saga.reply('x:settle', late).kind).toBe('ignored');
    }
  });

  test.each(settled)('%s: what says nothing does not settle it', (name) => {
    const saga = begin(name);
    saga.advance(5_000);
    for (const late of [broken(), pending, heartbeat, superseded, neverRan]) {
      expect(saga.reply('x', late).kind).toBe('ignored');
    }
    expect(saga.outstanding()).toEqual(['x:settle']);
  });

  test('an answer that does not fit does not settle it: a person gives the right one', () => {
    const saga = begin('pivot');
    saga.advance(5_000);
    expect(saga.reply('x', ok('no object')).kind).toBe('ignored');
    saga.reply('x:settle', ok('no object'));
    expect(saga.last('SettlementFailed').failure.code).toBe('OUTPUT_INVALID');
    expect(saga.stuckCode).toBe('SETTLEMENT_FAILED');
    saga.operator({
      verb: 'resolve',
      commandId: saga.commandId('x:settle'),
      output: { answer: 1 },
    });
    expect(saga.context['got']).toEqual({ answer: 1 });
  });

  test.each(settled)(
    '%s: a settlement that fails is tried 28 times, then a person acts',
    (name) => {
      const saga = begin(name);
      saga.advance(5_000);
      const alternatives = [broken(), pending];
      for (let attempt = 1; attempt <= 28; attempt++) {
        expect(saga.call('x:settle')).toMatchObject({ status: 'open', attempt });
        saga.reply('x:settle', alternatives[attempt % 2] ?? pending);
        saga.advance(30_000);
      }
      expect(saga.stuckCode).toBe('SETTLEMENT_FAILED');
      saga.operator({ verb: 'skip', commandId: saga.commandId('x:settle') });
      expect(saga.live.steps).toEqual({});
      expect(saga.value).toBe('failed');
    },
  );
});

describe('superseded', () => {
  describe.each([
    ['by a signal', (saga: SagaDriver) => void saga.signal('leave')],
    ['by a timer', (saga: SagaDriver) => saga.advance(1_000)],
  ])('%s', (_, leave) => {
    test('compensatable: settled, and taken back when it was done', () => {
      const saga = begin('compensatable', 1_000);
      leave(saga);
      expect(saga.value).toBe('rest');
      expect(saga.count('StepSuperseded')).toBe(1);
      expect(saga.outstanding()).toEqual(['x:settle']);
      saga.signal('finish');
      expect(saga.live.phase).toBe('closing');
      saga.reply('x', ok());
      saga.reply('x:compensate', ok());
      expect(saga.status).toBe('completed');
    });
    test.each(['readOnly', 'retriable'] as const)('%s: forgotten', (name) => {
      const saga = begin(name, 1_000);
      leave(saga);
      expect(saga.value).toBe('rest');
      expect(saga.live.steps).toEqual({});
      expect(saga.reply('x', ok()).kind).toBe('ignored');
    });
    test('a pivot is not left: the wish waits until its outcome is known', () => {
      const saga = begin('pivot', 1_000);
      leave(saga);
      expect(saga.value).toBe('go');
      saga.reply('x', ok());
      expect(saga.value).toBe('rest');
    });
  });
});
