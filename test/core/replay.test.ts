/** Replay tells when the log and the definition disagree, and when the log itself was changed (I9). */
import { describe, expect, test } from 'vitest';
import { assign, emit, setup } from 'xstate';
import type { AnyDefinition } from '../../engine/core/define.ts';
import { ReplayDivergence, SagaxError } from '../../engine/core/errors.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { evolve, fold } from '../../engine/core/evolve.ts';
import { decide } from '../../engine/core/decide.ts';
import type { Logged } from '../support/log-invariants.ts';
import { SagaDriver, broken, no, ok } from '../support/saga-driver.ts';
import { actors, define, doStep, ends, lasting, undoable } from './machines.ts';

interface Variant {
  first?: string;
  second?: string;
  delayMs?: number;
  says?: string | null;
  timeout?: '5s' | '6s';
  input?: object;
  initialInterval?: number;
  maxAttempts?: number;
  contract?: string;
  undo?: string;
  toFinal?: string;
}

/** a, b, a rest that an `after` or `go` ends, then r. */
function edition(variant: Variant = {}): AnyDefinition {
  const {
    first = 'a',
    second = 'b',
    delayMs = 60_000,
    says = 'rested',
    timeout = '5s',
    input = { n: 1 },
    initialInterval = 100,
    maxAttempts = 3,
    contract = 'a',
    undo,
    toFinal = 'done',
  } = variant;
  const retry = { maxAttempts, initialInterval };
  return define(
    setup({
      actors: {
        ...actors,
        a: undoable(contract, { timeout, retry }),
        b: undoable(undo ?? 'b', { timeout: '5s' }),
        r: lasting('r'),
      },
    }).createMachine({
      id: 'm',
      initial: 'one',
      context: { n: 0 },
      states: {
        one: { invoke: { src: first, input, onDone: 'two', onError: 'undoing' } },
        two: doStep(second, 'rest', 'undoing'),
        rest: {
          entry: assign({ n: 1 }),
          after: { [delayMs]: 'last' },
          on: {
            go: { target: 'last', actions: says === null ? [] : emit({ type: says }) },
          },
        },
        last: doStep('r', toFinal),
        ...ends,
      },
    } as never),
    { signals: ['go'] },
  );
}

/** A log with a retry, a timer set and cleared, a signal, an emit and an end. */
function forward(): SagaDriver {
  const saga = SagaDriver.start(edition());
  saga.reply('a', broken());
  saga.advance(200);
  saga.reply('a', ok({ id: 1 }));
  saga.reply('b', ok());
  saga.signal('go');
  saga.reply('r', ok());
  expect(saga.status).toBe('completed');
  return saga;
}
function backward(): SagaDriver {
  const saga = SagaDriver.start(edition());
  saga.reply('a', ok({ id: 1 }));
  saga.reply('b', no());
  saga.reply('a:compensate', ok());
  expect(saga.status).toBe('compensated');
  return saga;
}

/** What folding does: the code of what it throws, `cut` when the log ends within a turn, else null. */
function verdict(definition: AnyDefinition, log: readonly Logged[]): string | null {
  try {
    const state = fold(definition, '7001', log);
    return state === null || state.expected.length > 0 ? 'cut' : null;
  } catch (error) {
    if (!(error instanceof SagaxError)) throw error;
    return error.code;
  }
}

describe('a definition changed under its version', () => {
  const changes: [string, Variant][] = [
    ['another command for a step', { contract: 'x' }],
    ['another compensation, by another contract', { undo: 'x' }],
    ['the steps in another order', { first: 'b', second: 'a' }],
    ['one step twice', { second: 'a' }],
    ['a step of another class', { second: 'q' }],
    ['another delay', { delayMs: 60_001 }],
    ['an emit dropped', { says: null }],
    ['another event emitted', { says: 'slept' }],
    ['another timeout', { timeout: '6s' }],
    ['another input', { input: { n: 2 } }],
    ['another pause before a retry', { initialInterval: 400 }],
    ['fewer attempts', { maxAttempts: 1 }],
  ];
  test.each(changes)('%s', (_, variant) => {
    const saga = forward();
    expect(verdict(edition(), saga.log)).toBeNull();
    expect(verdict(edition(variant), saga.log)).toBe('REPLAY_DIVERGED');
    expect(edition(variant).hash).not.toBe(edition().hash);
  });

  test('the error says where, what the log has, what the definition gives, and asks the question', () => {
    const saga = forward();
    const act = (): unknown => fold(edition({ delayMs: 5 }), '7001', saga.log);
    expect(act).toThrow(ReplayDivergence);
    expect(act).toThrow(
      /Saga 7001 at stream version 10: the log has .*TimerSet.*Was tested@1 changed without a new version\?/,
    );
  });

  test('the same definition made again has the same hash', () => {
    expect(edition().hash).toBe(edition().hash);
  });

  test('what the log does not show yet is not judged: the saga goes on along the new way', () => {
    const saga = SagaDriver.start(edition());
    saga.deploy(edition({ delayMs: 5 }));
    saga.checkReplay();
    saga.reply('a', ok());
    saga.reply('b', ok());
    saga.advance(5);
    expect(saga.outstanding()).toEqual(['r']);
  });
});

describe('a log that was changed', () => {
  const logs = { forward: forward().log, backward: backward().log };

  describe.each(Object.entries(logs))('%s', (_, log) => {
    test('any event left out is missed', () => {
      for (let at = 0; at < log.length - 1; at++) {
        const { event } = log[at] as Logged;
        // A heartbeat and the like would leave no trace; this log has no such event.
        const cut = log.filter((__, index) => index !== at);
        expect(verdict(edition(), cut), `without ${event.type}`).not.toBeNull();
      }
    });

    test('the log cut off within a turn is seen', () => {
      const whole = log.map(({ event }, index) => ({ index, event }));
      for (const { index } of whole) {
        const cut = log.slice(0, index);
        const found = verdict(edition(), cut);
        const next = log[index]?.event as SagaEvent;
        const isConsequence = index > 0 && !CAUSES.has(next.type);
        expect(found).toBe(index === 0 || isConsequence ? 'cut' : null);
      }
    });

    test('two neighbours swapped are seen', () => {
      for (let at = 0; at < log.length - 1; at++) {
        const swapped = log.with(at, log[at + 1] as Logged).with(at + 1, log[at] as Logged);
        expect(verdict(edition(), swapped), `from ${at}`).not.toBeNull();
      }
    });

    test('an event twice is seen', () => {
      for (let at = 0; at < log.length; at++) {
        const doubled = log.toSpliced(at, 0, log[at] as Logged);
        expect(verdict(edition(), doubled), `${at}: ${log[at]?.event.type}`).not.toBeNull();
      }
    });

    test('a changed consequence is seen, whatever was changed', () => {
      for (let at = 0; at < log.length; at++) {
        const { event, at: time } = log[at] as Logged;
        if (CAUSES.has(event.type)) continue;
        for (const key of Object.keys(event)) {
          const changed = { ...event, [key]: { tampered: true } };
          const tampered = log.with(at, { event: changed, at: time });
          expect(verdict(edition(), tampered), `${event.type}.${key}`).toBe('REPLAY_DIVERGED');
        }
      }
    });

    test('a cause that says something else is seen by what follows from it', () => {
      const at = log.findIndex(({ event }) => event.type === 'StepSucceeded');
      const { event, at: time } = log[at] as Logged;
      const other: SagaEvent = {
        type: 'StepRejected',
        commandId: (event as { commandId: string }).commandId,
        attempt: 1,
        failure: { code: 'No', message: '' },
      };
      expect(verdict(edition(), log.with(at, { event: other, at: time }))).toBe('REPLAY_DIVERGED');
    });

    test('another time is seen where something hangs on it', () => {
      const at = log.findIndex(({ event }) => event.type === 'SagaStarted');
      const { event, at: time } = log[at] as Logged;
      expect(verdict(edition(), log.with(at, { event, at: time + 1 }))).toBe('REPLAY_DIVERGED');
    });

    test('nothing can follow the end (I5)', () => {
      const state = fold(edition(), '7001', log);
      const more: SagaEvent = { type: 'SignalReceived', signalId: 's', name: 'go', payload: {} };
      expect(() => evolve(edition(), '7001', state, more, 0)).toThrow(
        /the stream has ended \(I5\)/,
      );
    });
  });

  test('a stream that does not begin with a start', () => {
    const [, ...rest] = logs.forward;
    expect(() => fold(edition(), '7001', rest)).toThrow(
      /The stream of saga 7001 begins with StepRequested/,
    );
  });

  test('a decision on a state in the middle of a turn is refused by an exception', () => {
    const state = fold(edition(), '7001', logs.forward.slice(0, 1));
    expect(state?.expected.length).toBe(1);
    const input = {
      type: 'signal' as const,
      body: { sagaId: '7001', namespace: 'default', signalId: 's', name: 'go', payload: {} },
    };
    expect(() => decide(edition(), '7001', state, input, 1)).toThrow(ReplayDivergence);
  });

  test('a deferred input that was passed over', () => {
    const saga = SagaDriver.start(edition());
    saga.operator({ verb: 'pause' });
    saga.reply('a', ok());
    saga.signal('go');
    saga.operator({ verb: 'resume' });
    const at = saga.log.findLastIndex(({ event }) => event.type === 'StepSucceeded');
    const cut = saga.log.toSpliced(at, 2);
    expect(verdict(edition(), cut)).toBe('REPLAY_DIVERGED');
  });
});

const CAUSES = new Set<string>([
  'SagaStarted',
  'StepSucceeded',
  'StepRejected',
  'StepFailed',
  'RetryDue',
  'SignalReceived',
  'CompensationSucceeded',
]);
