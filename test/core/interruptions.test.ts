/** What comes from outside at any time: cancels, pauses, repeats, forgeries, and what comes after the end. */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import { decide, type SagaInput } from '../../engine/core/decide.ts';
import {
  SagaDriver,
  broken,
  heartbeat,
  neverRan,
  no,
  ok,
  pending,
} from '../support/saga-driver.ts';
import { actors, decisive, define, doStep, ends, undoable } from './machines.ts';

/** a, b, then a wait for `go` or for an hour; `handles` says whether it takes the cancel itself. */
const shop = (handles: boolean) =>
  define(
    setup({
      actors: { ...actors, b: undoable('b', { timeout: '5s', heartbeatTimeout: '1s' }) },
    }).createMachine({
      id: 'm',
      initial: 'open',
      context: { why: null },
      states: {
        open: {
          initial: 'a',
          ...(handles
            ? {
                on: {
                  'saga.cancel': {
                    target: 'undoing',
                    actions: assign({
                      why: ({ event }: { event: { reason?: string } }) => event.reason,
                    }),
                  },
                },
              }
            : {}),
          states: {
            a: doStep('a', 'b', '#m.undoing'),
            b: doStep('b', 'rest', '#m.undoing'),
            rest: { on: { go: '#m.done' }, after: { 3_600_000: '#m.undoing' } },
          },
        },
        ...ends,
      },
    } as never),
    { signals: ['go'] },
  );

describe('cancel', () => {
  test('handled by the machine, which hears the reason', () => {
    const saga = SagaDriver.start(shop(true));
    saga.reply('a', ok());
    saga.cancel();
    expect(saga.value).toBe('undoing');
    expect(saga.context['why']).toBe('not wanted any more');
    expect(saga.outstanding()).toEqual(['b:settle']);
    saga.reply('b', ok());
    saga.reply('b:compensate', ok());
    saga.reply('a:compensate', ok());
    expect(saga.last('SagaCompensated').reason?.code).toBe('CANCELLED');
  });

  test('handled by nobody: the engine takes everything back, the machine stays where it was', () => {
    const saga = SagaDriver.start(shop(false));
    saga.reply('a', ok());
    saga.reply('b', ok());
    saga.cancel();
    expect(saga.live.phase).toBe('aborting');
    expect(saga.status).toBe('compensating');
    expect(saga.last('TimerCleared').timerId).toContain('3600000');
    expect(saga.signal('go').kind).toBe('accepted');
    expect(saga.value).toBe('open.rest');
    saga.reply('b:compensate', ok());
    saga.advance(3_600_000);
    saga.reply('a:compensate', ok());
    expect(saga.last('SagaCompensated').reason).toEqual({
      code: 'CANCELLED',
      message: 'not wanted any more',
    });
  });

  test('handled by nobody, with a step in flight: it is settled first', () => {
    const saga = SagaDriver.start(shop(false));
    saga.reply('a', ok());
    saga.cancel();
    expect(saga.outstanding()).toEqual(['b:settle']);
    saga.reply('b:settle', neverRan);
    expect(saga.outstanding()).toEqual(['a:compensate']);
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('compensated');
  });

  test.each([true, false])(
    'while compensating it asks for nothing more (handled: %s)',
    (handles) => {
      const saga = SagaDriver.start(shop(handles));
      saga.reply('a', ok());
      saga.cancel();
      const before = saga.outstanding();
      saga.cancel();
      expect(saga.outstanding()).toEqual(before);
      expect(saga.count('CompensationStarted')).toBe(1);
    },
  );

  test('while the end waits for given-up steps it is refused', () => {
    const hasty = define(
      setup({ actors }).createMachine({
        initial: 'a',
        context: {},
        states: { a: { ...doStep('a', 'done', 'undone'), on: { go: 'done' } }, ...ends },
      } as never),
      { signals: ['go'] },
    );
    const saga = SagaDriver.start(hasty);
    saga.signal('go');
    expect(saga.live.phase).toBe('closing');
    saga.cancel();
    expect(saga.last('CancelRefused').failure.code).toBe('SAGA_ENDED');
    saga.reply('a:settle', neverRan);
    expect(saga.status).toBe('completed');
  });
});

describe('pause', () => {
  const paused = () => {
    const saga = SagaDriver.start(shop(true));
    saga.reply('a', ok());
    saga.operator({ verb: 'pause' });
    expect(saga.status).toBe('paused');
    return saga;
  };

  test('replies, signals and cancels are kept, nothing is sent, and all is applied in order on resume', () => {
    const saga = paused();
    const sent = saga.sentNames().length;
    saga.reply('b', ok({ id: 1 }));
    expect(saga.reply('b', ok({ id: 2 })).kind).toBe('ignored');
    expect(saga.reply('b', no()).kind).toBe('ignored');
    saga.signal('go');
    saga.advance(10_000);
    expect(saga.value).toBe('open.b');
    expect(saga.sentNames()).toHaveLength(sent);
    expect(saga.types().slice(-2)).toEqual(['InputDeferred', 'InputDeferred']);
    saga.operator({ verb: 'resume' });
    expect(saga.status).toBe('completed');
    expect(saga.types().slice(-6)).toEqual([
      'SagaResumed',
      'StepSucceeded',
      'TimerSet',
      'SignalReceived',
      'TimerCleared',
      'SagaCompleted',
    ]);
  });

  test('an answer that came during the pause counts, though the deadline passed meanwhile', () => {
    const saga = paused();
    saga.reply('b', ok());
    saga.advance(60_000);
    saga.operator({ verb: 'resume' });
    saga.advance(0);
    expect(saga.value).toBe('open.rest');
    expect(saga.count('StepTimedOut')).toBe(0);
  });

  test('what fell due during the pause is due at once afterwards', () => {
    const saga = paused();
    saga.advance(60_000);
    expect(saga.count('StepTimedOut')).toBe(0);
    saga.operator({ verb: 'resume' });
    saga.advance(0);
    expect(saga.count('StepTimedOut') + saga.count('StepFailed')).toBeGreaterThan(0);
  });

  test('a cancel during the pause waits for its end', () => {
    const saga = paused();
    saga.cancel();
    expect(saga.value).toBe('open.b');
    saga.operator({ verb: 'resume' });
    expect(saga.value).toBe('undoing');
  });

  test('a later failure of a pending step is not lost', () => {
    const saga = SagaDriver.start(shop(true));
    saga.reply('a', ok());
    saga.reply('b', pending);
    saga.operator({ verb: 'pause' });
    saga.reply('b', broken());
    saga.operator({ verb: 'resume' });
    expect(saga.call('b').status).toBe('waiting');
  });

  test('a repeat kept beside its original changes nothing', () => {
    const saga = paused();
    saga.reply('b', broken());
    saga.reply('b', broken());
    saga.reply('b', pending);
    saga.operator({ verb: 'resume' });
    expect(saga.call('b')).toMatchObject({ status: 'waiting', attempt: 1 });
    expect(saga.count('RetryScheduled')).toBe(1);
    saga.advance(100);
    expect(saga.call('b')).toMatchObject({ status: 'open', attempt: 2 });
  });

  test('a repeated failure of a compensation is kept but counts once', () => {
    const saga = SagaDriver.start(shop(true));
    saga.reply('a', ok());
    saga.reply('b', no());
    saga.operator({ verb: 'pause' });
    for (let n = 0; n < 5; n++) saga.reply('a:compensate', broken());
    saga.operator({ verb: 'resume' });
    expect(saga.count('RetryScheduled')).toBe(1);
    expect(saga.call('a:compensate')).toMatchObject({ status: 'waiting', attempt: 1 });
  });

  test('heartbeats are not piled up', () => {
    const saga = paused();
    for (let beat = 0; beat < 50; beat++) {
      saga.advance(900);
      saga.reply('b', heartbeat);
    }
    expect(saga.live.deferred).toEqual([]);
    saga.operator({ verb: 'resume' });
    saga.advance(0);
    expect(saga.count('StepFailed')).toBe(0);
  });

  test('a person’s word on a step waits too, and counts', () => {
    const saga = paused();
    saga.operator({ verb: 'resolve', commandId: saga.commandId('b'), output: { by: 'hand' } });
    expect(saga.value).toBe('open.b');
    saga.operator({ verb: 'resume' });
    expect(saga.value).toBe('open.rest');
  });

  test('two words of a person on the same step: the first counts, the second finds nothing', () => {
    const saga = paused();
    const commandId = saga.commandId('b');
    saga.operator({ verb: 'resolve', commandId, output: {} });
    saga.operator({ verb: 'resolve', commandId, output: {} });
    saga.reply('b', ok());
    saga.operator({ verb: 'resume' });
    expect(saga.value).toBe('open.rest');
    expect(saga.count('StepSucceeded')).toBe(1);
  });

  test('the pivot’s own answer waits as well', () => {
    const saga = SagaDriver.start(
      define(
        setup({ actors: { ...actors, p: decisive('p', { timeout: '5s' }) } }).createMachine({
          initial: 'p',
          context: {},
          states: { p: doStep('p', 'r', 'undone'), r: doStep('r', 'done'), ...ends },
        } as never),
      ),
    );
    saga.operator({ verb: 'pause' });
    saga.reply('p', ok());
    saga.cancel();
    saga.advance(60_000);
    expect(saga.live.pivot).toBe('inFlight');
    saga.operator({ verb: 'resume' });
    expect(saga.live.pivot).toBe('passed');
    expect(saga.value).toBe('r');
    expect(saga.last('CancelRefused').failure.code).toBe('PIVOT_PASSED');
  });

  test('pausing what is paused and resuming what is not are refused', () => {
    const saga = paused();
    expect(saga.operator({ verb: 'pause' }).kind).toBe('refused');
    saga.operator({ verb: 'resume' });
    expect(saga.operator({ verb: 'resume' }).kind).toBe('refused');
  });

  test('a compensation’s answer during the pause is applied afterwards', () => {
    const saga = SagaDriver.start(shop(true));
    saga.reply('a', ok());
    saga.reply('b', no());
    saga.operator({ verb: 'pause' });
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('paused');
    saga.operator({ verb: 'resume' });
    expect(saga.status).toBe('compensated');
  });
});

describe('repeats', () => {
  test('a start, signals and verbs with an id that was seen are ignored, not refused', () => {
    const saga = SagaDriver.start(shop(true));
    expect(saga.start().kind).toBe('ignored');
    saga.operator({ verb: 'pause' }, 'v1');
    expect(saga.operator({ verb: 'pause' }, 'v1').kind).toBe('ignored');
    saga.signal('go', {}, 's1');
    expect(saga.signal('go', {}, 's1').kind).toBe('ignored');
    saga.operator({ verb: 'resume' }, 'v2');
    expect(saga.operator({ verb: 'resume' }, 'v2').kind).toBe('ignored');
    expect(saga.operator({ verb: 'pause' }, 'v1').kind).toBe('ignored');
    saga.cancel('c1');
    expect(saga.cancel('c1').kind).toBe('ignored');
    expect(saga.count('CancelRequested')).toBe(1);
  });

  test('a verb that freed a stuck command is ignored when it comes again', () => {
    const saga = SagaDriver.start(shop(true));
    saga.reply('a', ok());
    saga.reply('b', no());
    saga.reply('a:compensate', broken(false));
    const commandId = saga.commandId('a:compensate');
    saga.operator({ verb: 'retry', commandId }, 'v1');
    expect(saga.operator({ verb: 'retry', commandId }, 'v1').kind).toBe('ignored');
  });

  test('one id may name a signal, a cancel and a verb', () => {
    const saga = SagaDriver.start(shop(true));
    expect(saga.operator({ verb: 'pause' }, 'x').kind).toBe('accepted');
    expect(saga.signal('go', {}, 'x').kind).toBe('accepted');
    expect(saga.cancel('x').kind).toBe('accepted');
  });
});

test('a saga that has taken all the signals it may can still be cancelled and paused', () => {
  const saga = SagaDriver.start(shop(true));
  const seenIds = Array.from({ length: 10_000 }, (_, n) => `signal:s${n}`);
  const full = { ...saga.live, seenIds };
  const body = { sagaId: '7001', namespace: 'default' };
  const give = (input: SagaInput) => decide(saga.definition, '7001', full, input, saga.now);
  expect(
    give({ type: 'signal', body: { ...body, signalId: 's', name: 'go', payload: {} } }),
  ).toMatchObject({ kind: 'refused', code: 'OVERLOADED' });
  const words = { requestId: 'r', reason: '', by: '' };
  expect(give({ type: 'cancel', body: { ...body, ...words } }).kind).toBe('accepted');
  const action = { verb: 'pause' as const };
  expect(give({ type: 'operator', body: { ...body, ...words, action } }).kind).toBe('accepted');
});

describe('forgeries', () => {
  test.each(['7001.2', '7001.99', '9999.1', '7001.99.c', '9999.1.s'])(
    'a reply to %s, which was never sent, is refused',
    (commandId) => {
      const saga = SagaDriver.start(shop(true));
      expect(saga.reply(commandId, ok())).toMatchObject({
        kind: 'refused',
        code: 'COMMAND_UNKNOWN',
      });
    },
  );

  test.each(['7001.1.c', '7001.1.s'])('a reply to %s, not asked for yet, changes nothing', (id) => {
    const saga = SagaDriver.start(shop(true));
    const before = saga.log.length;
    for (const answer of [ok(), no(), neverRan, broken(), pending]) {
      expect(saga.reply(id, answer).kind).not.toBe('accepted');
    }
    expect(saga.log).toHaveLength(before);
  });

  test('an unknown signal, or one that does not fit, is refused with what is known', () => {
    const saga = SagaDriver.start(shop(true));
    expect(saga.signal('come')).toMatchObject({ kind: 'refused', code: 'SIGNAL_UNKNOWN' });
    expect((saga.signal('come') as { why: string }).why).toContain('it has: go');
    expect(saga.signal('go', 'text')).toMatchObject({ kind: 'refused', code: 'INPUT_INVALID' });
    for (const name of ['toString', '__proto__', 'constructor', 'xstate.init', 'saga.cancel']) {
      expect(saga.signal(name)).toMatchObject({ kind: 'refused', code: 'SIGNAL_UNKNOWN' });
    }
  });

  test('anything for a saga that was never started is refused, a wake-up ignored', () => {
    const saga = new SagaDriver(shop(true));
    expect(saga.signal('go')).toMatchObject({ kind: 'refused', code: 'SAGA_UNKNOWN' });
    expect(saga.cancel()).toMatchObject({ kind: 'refused', code: 'SAGA_UNKNOWN' });
    expect(saga.operator({ verb: 'pause' })).toMatchObject({ code: 'SAGA_UNKNOWN' });
    expect(saga.reply('7001.1', ok())).toMatchObject({ code: 'SAGA_UNKNOWN' });
    expect(saga.send({ type: 'wake' }).kind).toBe('ignored');
  });
});

test('everything after the end is ignored (I5)', () => {
  const saga = SagaDriver.start(shop(true));
  saga.reply('a', no());
  expect(saga.status).toBe('compensated');
  const before = saga.log.length;
  saga.reply('a', ok());
  saga.reply('a', broken());
  saga.signal('go');
  saga.cancel();
  saga.operator({ verb: 'pause' });
  saga.operator({ verb: 'retry' });
  saga.start();
  saga.advance(1_000_000);
  expect(saga.log).toHaveLength(before);
});
