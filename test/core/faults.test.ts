/** The machine's own code at fault: nothing is lost, it is shown, and a mended definition goes on (I4, I9, I12). */
import { describe, expect, test } from 'vitest';
import { assign, emit, enqueueActions, log, raise, setup } from 'xstate';
import { z } from 'zod';
import { decide } from '../../engine/core/decide.ts';
import type { AnyDefinition } from '../../engine/core/define.ts';
import { command, compensatable, compensateAll, pivot } from '../../engine/core/index.ts';
import { SagaDriver, ok } from '../support/saga-driver.ts';
import { actors, define, doStep, ends, oops, type Edition } from './machines.ts';

/** What TypeScript calls an error need not be one. */
function throwNothing(): never {
  const nothing: unknown = null;
  throw nothing as Error;
}

/** a → b → done, with one bad place in it, in a bad and in a mended edition. */
const PLACES: { [place: string]: (edition: Edition) => AnyDefinition } = {
  'an assign': (edition) => flow({ onB: assign({ n: () => (edition.isBad ? oops() : 1) }) }),
  'a guard': (edition) => flow({ guardB: () => (edition.isBad ? oops() : true) }),
  'the input mapping of a step': (edition) => flow({ inputB: () => (edition.isBad ? oops() : {}) }),
  'an input that its contract refuses': (edition) =>
    flow({ inputB: () => (edition.isBad ? 'text' : {}) }),
  'a context that JSON can’t carry': (edition) =>
    flow({ onB: assign({ n: () => (edition.isBad ? new Date(0) : 1) }) }),
  'a context with half a character': (edition) =>
    flow({ onB: assign({ n: () => (edition.isBad ? '😀'.slice(0, 1) : 1) }) }),
  'a context with a NUL': (edition) =>
    flow({ onB: assign({ n: () => (edition.isBad ? 'a\0b' : 1) }) }),
  'a key with a NUL': (edition) =>
    flow({ onB: assign({ n: () => (edition.isBad ? { 'a\0b': 1 } : 1) }) }),
  'an error whose message jsonb can’t hold': (edition) =>
    flow({
      onB: assign({
        n: () => {
          if (edition.isBad) throw new Error(`\0${'😀'.slice(1)}${'x'.repeat(100_000)}`);
          return 1;
        },
      }),
    }),
  'something thrown that is no error': (edition) =>
    flow({ onB: assign({ n: () => (edition.isBad ? throwNothing() : 1) }) }),
  'a side effect out of enqueueActions': (edition) =>
    flow({
      onB: enqueueActions(({ enqueue }) => {
        if (edition.isBad) enqueue(log('told'));
      }),
    }),
  'a function out of enqueueActions': (edition) =>
    flow({
      onB: enqueueActions(({ enqueue }) => {
        if (edition.isBad) enqueue(() => oops());
      }),
    }),
  'an actor spawned out of enqueueActions': (edition) =>
    flow({
      onB: enqueueActions(({ enqueue }) => {
        if (edition.isBad) enqueue.spawnChild('q' as never);
      }),
    }),
  'an actor spawned in an assign': (edition) =>
    flow({
      onB: assign(({ spawn }) => {
        if (edition.isBad) (spawn as (src: string) => void)('q');
        return {};
      }),
    }),
  'a raise that never rests': (edition) =>
    flow({
      onB: enqueueActions(({ enqueue }) => {
        if (edition.isBad) enqueue.raise({ type: 'spin' });
      }),
      on: { spin: { actions: raise({ type: 'spin' }) } },
    }),
  'a delay that is no number of ms': (edition) =>
    flow({ onB: raise({ type: 'late' }, { delay: () => (edition.isBad ? NaN : 5) }) }),
  'a delay without end': (edition) =>
    flow({ onB: raise({ type: 'late' }, { delay: () => (edition.isBad ? Infinity : 5) }) }),
  'an emitted event that is no JSON': (edition) =>
    flow({ onB: emit(() => ({ type: 'told', at: edition.isBad ? 1n : 1 })) }),
};

function flow(parts: {
  onB?: unknown;
  guardB?: unknown;
  inputB?: unknown;
  on?: object;
}): AnyDefinition {
  return define(
    setup({ actors }).createMachine({
      id: 'm',
      initial: 'a',
      context: { n: 0 },
      on: { late: {}, ...parts.on },
      states: {
        a: doStep('a', 'q', 'undoing'),
        q: {
          invoke: {
            src: 'q',
            input: {},
            onDone: {
              target: 'b',
              ...(parts.guardB === undefined ? {} : { guard: parts.guardB }),
              actions: parts.onB === undefined ? [] : [parts.onB],
            },
            onError: 'undoing',
          },
        },
        b: {
          invoke: { src: 'b', input: parts.inputB ?? {}, onDone: 'done', onError: 'undoing' },
        },
        ...ends,
      },
    } as never),
    { signals: ['late'] },
  );
}

describe.each(Object.entries(PLACES))('%s', (_, make) => {
  const edition: Edition = { isBad: true };
  const faulted = () => {
    edition.isBad = true;
    const saga = SagaDriver.start(make(edition));
    saga.reply('a', ok());
    saga.reply('q', ok({ found: 1 }));
    return saga;
  };

  test('is a fault on record, not an exception, and the saga rests', () => {
    const saga = faulted();
    expect(saga.status).toBe('stuck');
    expect(saga.last('InputFaulted').cause).toMatchObject({
      type: 'StepSucceeded',
      output: { found: 1 },
    });
    expect(['MACHINE_FAULT', 'NOT_JSON']).toContain(saga.stuckCode);
    const { message } = saga.last('InputFaulted').failure;
    expect(message.isWellFormed() && !message.includes('\0')).toBe(true);
    expect(message.length).toBeLessThan(5_000);
    expect(saga.value).toBe('q');
    saga.advance(1_000_000);
    expect(saga.operator({ verb: 'retry' }).kind).toBe('accepted');
    expect(saga.status).toBe('stuck');
  });

  test('mended, a retry applies it, and the log replays with the mended definition', () => {
    const saga = faulted();
    edition.isBad = false;
    saga.deploy(make(edition));
    saga.checkReplay();
    saga.operator({ verb: 'retry' });
    expect(saga.value).toBe('b');
    saga.reply('b', ok());
    expect(saga.status).toBe('completed');
  });

  test('a repeat of the answer that it threw on is no second one (I4)', () => {
    const saga = faulted();
    const before = saga.events().length;
    expect(saga.reply('q', ok({ found: 1 }))).toMatchObject({ kind: 'ignored' });
    expect(saga.events()).toHaveLength(before);
  });

  test('a cancel gets out of it without the machine', () => {
    const saga = faulted();
    saga.cancel();
    expect(saga.live.phase).toBe('aborting');
    saga.reply('a:compensate', ok());
    expect(saga.status).toBe('compensated');
  });
});

test('what comes while it is faulted is kept and applied in order after the mending', () => {
  const edition = { isBad: true };
  const machine = define(
    setup({ actors }).createMachine({
      id: 'm',
      initial: 'both',
      context: { n: 0, notes: [] },
      on: {
        note: {
          actions: assign({
            notes: ({ context, event }: { context: { notes: unknown[] }; event: unknown }) => [
              ...context.notes,
              (event as { text: string }).text,
            ],
          }),
        },
      },
      states: {
        both: {
          type: 'parallel',
          onDone: 'undoing',
          states: {
            one: {
              initial: 'a',
              states: {
                a: {
                  invoke: {
                    src: 'a',
                    input: {},
                    onDone: {
                      target: 'over',
                      actions: assign({ n: () => (edition.isBad ? oops() : 1) }),
                    },
                    onError: 'over',
                  },
                },
                over: { type: 'final' },
              },
            },
            two: {
              initial: 'b',
              states: { b: doStep('b', 'over', 'over'), over: { type: 'final' } },
            },
          },
        },
        ...ends,
      },
    } as never),
    { signals: ['note'] },
  );
  const saga = SagaDriver.start(machine);
  saga.signal('note', { text: 'first' });
  saga.reply('a', ok());
  saga.signal('note', { text: 'second' });
  saga.reply('b', ok());
  expect(saga.context['notes']).toEqual(['first']);
  edition.isBad = false;
  saga.operator({ verb: 'retry' });
  expect(saga.context['notes']).toEqual(['first', 'second']);
  expect(saga.outstanding().sort()).toEqual(['a:compensate', 'b:compensate']);
});

describe('the start itself', () => {
  const starting = (edition: Edition) =>
    define(
      setup({ actors }).createMachine({
        id: 'm',
        initial: 'a',
        context: () => (edition.isBad ? oops() : { n: 1 }),
        on: { poke: { actions: assign({ n: 2 }) } },
        states: { a: doStep('a', 'done', 'undone'), ...ends },
      } as never),
      { signals: ['poke'] },
    );

  test('a context function that throws: the start is kept and retried', () => {
    const edition = { isBad: true };
    const saga = SagaDriver.start(starting(edition));
    expect(saga.status).toBe('stuck');
    expect(saga.types()).toEqual(['InputFaulted', 'SagaStuck']);
    saga.signal('poke');
    edition.isBad = false;
    saga.operator({ verb: 'retry' });
    expect(saga.context).toEqual({ n: 2 });
    expect(saga.outstanding()).toEqual(['a']);
  });

  test('cancelled, it ends clean: nothing was done', () => {
    const saga = SagaDriver.start(starting({ isBad: true }));
    saga.signal('poke');
    saga.cancel();
    expect(saga.status).toBe('compensated');
    expect(saga.sent()).toEqual([]);
  });
});

describe('schemas that throw', () => {
  const bad = z
    .object({})
    .loose()
    .refine(() => oops());
  const later = z
    .object({})
    .loose()
    .refine(() => Promise.resolve(true));
  const dated = z
    .object({})
    .loose()
    .transform(() => new Date(0));

  test.each([bad, later, dated])('of a signal: refused', (schema) => {
    const saga = SagaDriver.start(
      define(
        setup({ actors }).createMachine({
          initial: 'rest',
          context: {},
          states: { rest: { on: { go: 'done' } }, done: { type: 'final' } },
        } as never),
        { signals: { go: schema as never } },
      ),
    );
    expect(saga.signal('go')).toMatchObject({ kind: 'refused', code: 'INPUT_INVALID' });
  });

  test.each([bad, later, dated])('of an output: no answer', (schema) => {
    const x = compensatable(command('svc.do-x', { input: z.any(), output: schema }), {
      compensateWith: command('svc.undo-x', { input: z.any(), output: z.any() }),
      compensation: () => ({}),
    });
    const saga = SagaDriver.start(
      define(
        setup({ actors: { x, back: compensateAll() } }).createMachine({
          initial: 'x',
          context: {},
          states: { x: doStep('x', 'done', 'undoing'), ...ends },
        } as never),
      ),
    );
    saga.reply('x', ok());
    expect(saga.last('StepFailed').failure.code).toBe('OUTPUT_INVALID');
    expect(saga.outstanding()).toEqual(['x:settle']);
  });

  test.each([bad, later])('of an input: a fault', (schema) => {
    const x = pivot(command('svc.do-x', { input: schema, output: z.any() }));
    const saga = SagaDriver.start(
      define(
        setup({ actors: { x } }).createMachine({
          initial: 'x',
          context: {},
          states: { x: doStep('x', 'done', 'undone'), ...ends, undoing: {} },
        } as never),
      ),
    );
    expect(saga.stuckCode).toBe('MACHINE_FAULT');
  });
});

test('code that changes what it is given in place leaves the log and the replay as they are (I9)', () => {
  const x = compensatable(command('svc.do-x', { input: z.any(), output: z.any() }), {
    compensateWith: command('svc.undo-x', { input: z.any(), output: z.any() }),
    compensation: ({ input, output }) => ({
      in: (input as { list: number[] }).list.reverse(),
      out: (output as { list: number[] }).list.reverse(),
    }),
  });
  const saga = SagaDriver.start(
    define(
      setup({ actors: { ...actors, x } }).createMachine({
        initial: 'x',
        context: ({ input }: { input: { list: number[] } }) => ({ list: input.list.reverse() }),
        states: {
          x: {
            invoke: {
              src: 'x',
              input: ({ context }: { context: { list: number[] } }) => ({
                list: context.list.reverse(),
              }),
              onDone: {
                target: 'rest',
                actions: assign({
                  got: ({ event }: { event: { output?: { list: number[] } } }) =>
                    event.output?.list.reverse(),
                }),
              },
              onError: 'undoing',
            },
          },
          rest: {
            on: {
              back: {
                target: 'undoing',
                actions: assign({
                  said: ({ event }: { event: { list?: number[] } }) => event.list?.reverse(),
                }),
              },
            },
          },
          ...ends,
        },
      } as never),
      { signals: ['back'] },
    ),
    { list: [1, 2, 3] },
  );
  expect(saga.last('SagaStarted').input).toEqual({ list: [1, 2, 3] });
  saga.reply('x', ok({ list: [4, 5, 6] }));
  expect(saga.last('StepSucceeded').output).toEqual({ list: [4, 5, 6] });
  expect(saga.context['got']).toEqual([6, 5, 4]);
  saga.signal('back', { list: [7, 8] });
  expect(saga.last('SignalReceived').payload).toEqual({ list: [7, 8] });
  expect(saga.last('CompensationRequested').input).toEqual({ in: [3, 2, 1], out: [6, 5, 4] });
});

test('broken engine code is a fault of that saga alone', () => {
  const saga = SagaDriver.start(flow({}));
  // Nothing that defineSaga lets through: it stands for any defect of the engine.
  const actors = { get: () => (undefined as never as { kind: string }).kind };
  const broke = { ...saga.definition, actors: actors as never };
  const body = {
    commandId: '7001.1',
    sagaId: '7001',
    namespace: 'default',
    attempt: 1,
    outcome: 'failed' as const,
    failure: { code: 'Crash', message: '' },
    retryable: true,
  };
  const decision = decide(broke, '7001', saga.live, { type: 'reply', body }, saga.now);
  expect(decision.kind).toBe('accepted');
  const { events, state } = decision as Extract<typeof decision, { kind: 'accepted' }>;
  expect(events.map((event) => event.type)).toEqual(['InputFaulted', 'SagaStuck']);
  expect(state.faulted).toMatchObject({
    cause: { type: 'StepFailed' },
    failure: { code: 'INTERNAL' },
  });
});
