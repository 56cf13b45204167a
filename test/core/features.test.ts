/** Features of xstate as an author uses them in a saga, each through decide and evolve, with steps and timers. */
import { describe, expect, test } from 'vitest';
import { assign, cancel, emit, enqueueActions, raise, setup, stateIn } from 'xstate';
import { DRIVER_START_MS, SagaDriver, no, ok } from '../support/saga-driver.ts';
import { tagsOf } from '../../engine/core/machine.ts';
import { actors, define, doStep, ends } from './machines.ts';

type States = { [name: string]: object };
const HOUR_MS = 3_600_000;

/** A saga of these states; signals are those of SIGNALS that are found in it. */
function saga(
  states: States,
  rest: object = {},
  implementations: object = {},
  input: object = {},
): SagaDriver {
  const machine = setup({ actors, ...implementations }).createMachine({
    id: 'm',
    initial: Object.keys(states)[0],
    context: ({ input: given }: { input: object }) => ({ n: 0, ...given }),
    states: { ...ends, ...states },
    ...rest,
  } as never);
  const signals = SIGNALS.filter((name) =>
    (machine as unknown as { events: string[] }).events.some(
      (event) => event === name || event.includes('*'),
    ),
  );
  return SagaDriver.start(define(machine, { signals }), input as never);
}
const SIGNALS = ['go', 'stay', 'back', 'part.one', 'part.two'] as const;
const count = assign({ n: ({ context }: { context: { n: number } }) => context.n + 1 });
const region = (src: string): object => ({
  initial: 'asked',
  states: { asked: doStep(src, 'over', 'over'), over: { type: 'final' } },
});

describe('nested and parallel states', () => {
  test('onDone of a compound state, then of a parallel one, then of regions within regions', () => {
    const driver = saga({
      outer: {
        initial: 'inner',
        onDone: 'both',
        states: {
          inner: { ...region('a'), onDone: 'over' },
          over: { type: 'final' },
        },
      },
      both: {
        type: 'parallel',
        onDone: 'undoing',
        states: {
          x: region('b'),
          y: { type: 'parallel', states: { c: region('c'), d: region('d') } },
        },
      },
    });
    expect(driver.value).toBe('outer.inner.asked');
    driver.reply('a', ok());
    expect(driver.outstanding()).toEqual(['b', 'c', 'd']);
    driver.reply('c', ok());
    driver.reply('b', ok());
    expect(driver.value).toBe('both.x.over,both.y.c.over,both.y.d.asked');
    driver.reply('d', ok());
    expect(driver.value).toBe('undoing');
  });

  test('a step invoked by a parent goes on while the children move, and is left with the parent', () => {
    const driver = saga({
      parent: {
        ...doStep('a', 'done', 'undoing'),
        initial: 'one',
        on: { back: 'rest' },
        states: { one: { on: { go: 'two' } }, two: doStep('b', 'one', 'one') },
      },
      rest: { on: { go: 'done' } },
    });
    driver.signal('go');
    driver.reply('b', ok());
    driver.signal('go');
    expect(driver.sentNames()).toEqual(['a', 'b', 'b']);
    expect(driver.outstanding()).toEqual(['a', 'b']);
    driver.signal('back');
    expect(driver.outstanding()).toEqual(['a:settle', 'b:settle']);
  });

  test('several invokes in one state, each with its own answer', () => {
    const invoke = (src: string) => ({
      src,
      input: {},
      onDone: { actions: count },
      onError: 'undoing',
    });
    const driver = saga({
      rest: { invoke: [invoke('a'), invoke('b'), invoke('a')], on: { go: 'done' } },
    });
    expect(driver.outstanding()).toEqual(['a', 'b', 'a']);
    for (const { call } of driver.calls()) driver.reply(call.commandId, ok());
    expect(driver.context['n']).toBe(3);
  });

  test('a child that is invoked and left within one turn was never asked', () => {
    const driver = saga({
      x: { ...doStep('a', 'done', 'undoing'), always: 'y' },
      y: { ...doStep('b', 'done', 'undoing'), entry: raise({ type: 'on' }), on: { on: 'rest' } },
      rest: { on: { go: 'done' } },
    });
    expect(driver.sent()).toEqual([]);
    expect(driver.value).toBe('rest');
  });

  test('reenter asks anew and gives up the old; without it the step is left alone', () => {
    const driver = saga({
      x: {
        ...doStep('a', 'done', 'undoing'),
        on: { stay: { target: 'x' }, go: { target: 'x', reenter: true } },
      },
    });
    driver.signal('stay');
    expect(driver.outstanding()).toEqual(['a']);
    driver.signal('go');
    expect(driver.outstanding()).toEqual(['a:settle', 'a']);
    driver.reply('7001.1', ok());
    driver.reply('7001.2', ok());
    expect(driver.live.phase).toBe('closing');
    driver.reply('7001.1.c', ok());
    expect(driver.status).toBe('completed');
  });
});

describe('history', () => {
  const states = (history: 'shallow' | 'deep'): States => ({
    work: {
      initial: 'one',
      on: { back: 'rest' },
      states: {
        one: { on: { go: 'two' } },
        two: {
          initial: 'x',
          states: { x: { on: { go: 'y' } }, y: doStep('a', '#m.done', '#m.undoing') },
        },
        hist: { type: 'history', history },
      },
    },
    rest: { on: { go: 'work.hist' } },
  });
  test.each([
    ['shallow', 'work.two.x', ['a:settle']],
    ['deep', 'work.two.y', ['a:settle', 'a']],
  ] as const)('%s', (kind, value, outstanding) => {
    const driver = saga(states(kind));
    driver.signal('go');
    driver.signal('go');
    expect(driver.value).toBe('work.two.y');
    driver.signal('back');
    driver.signal('go');
    expect(driver.value).toBe(value);
    expect(driver.outstanding()).toEqual(outstanding);
  });
});

describe('guards, always, tags', () => {
  test('guards with params and combinations, evaluated on the input', () => {
    const driver = saga(
      {
        x: {
          always: [
            { guard: { type: 'above', params: { limit: 10 } }, target: 'high' },
            { guard: stateIn('#m.x'), target: 'low' },
          ],
        },
        high: doStep('a', 'done', 'undoing'),
        low: doStep('b', 'done', 'undoing'),
      },
      {},
      {
        guards: {
          above: ({ context }: { context: { n: number } }, { limit }: { limit: number }) =>
            context.n > limit,
        },
      },
      { n: 11 },
    );
    expect(driver.outstanding()).toEqual(['a']);
  });

  test('tags of the active states', () => {
    const driver = saga({
      x: { tags: ['t', 'u'], initial: 'y', states: { y: { tags: 'v', on: { go: '#m.done' } } } },
    });
    const { machine } = driver.live;
    expect(machine === null ? [] : tagsOf(driver.definition.machine, machine).sort()).toEqual([
      't',
      'u',
      'v',
    ]);
  });

  test('wildcards take what nothing else does, the cancel too', () => {
    const driver = saga({
      x: { on: { 'part.*': { actions: count }, '*': { target: 'rest' } } },
      rest: { on: { go: 'done' } },
    });
    driver.signal('part.one');
    driver.signal('part.two');
    expect(driver.context['n']).toBe(2);
    driver.cancel();
    expect(driver.value).toBe('rest');
    expect(driver.live.phase).toBe('forward');
  });
});

describe('time', () => {
  test.each<[string, object, object, number]>([
    ['a number', { after: { 5_000: 'done' } }, {}, 5_000],
    ['a name', { after: { anHour: 'done' } }, { delays: { anHour: HOUR_MS } }, HOUR_MS],
    [
      'a function',
      { after: { wait: 'done' } },
      { delays: { wait: ({ context }: { context: { n: number } }) => context.n * 1_000 } },
      7_000,
    ],
    ['a fraction, never early', { after: { part: 'done' } }, { delays: { part: 10.2 } }, 11],
    ['nothing', { after: { 0: 'done' } }, {}, 0],
    ['a negative number', { after: { minus: 'done' } }, { delays: { minus: -5 } }, 0],
    ['more than setTimeout can', { after: { [90 * 24 * HOUR_MS]: 'done' } }, {}, 90 * 24 * HOUR_MS],
  ])('after %s', (_, state, implementations, ms) => {
    const driver = saga({ x: state }, {}, implementations, { n: 7 });
    for (const early of ms > 0 ? [ms - 1, 0, 1] : [0]) driver.advance(early);
    expect(driver.events().filter(({ type }) => type === 'TimerFired')).toHaveLength(1);
    expect(driver.log.find(({ event }) => event.type === 'TimerFired')?.at).toBe(
      DRIVER_START_MS + ms,
    );
    expect(driver.status).toBe('completed');
  });

  test('leaving the state clears the timer; coming back sets it anew (I11)', () => {
    const driver = saga({
      x: { after: { 1_000: 'done' }, on: { go: 'y' } },
      y: { on: { go: 'x' } },
    });
    driver.advance(900);
    driver.signal('go');
    expect(driver.count('TimerCleared')).toBe(1);
    driver.advance(10_000);
    driver.signal('go');
    driver.advance(999);
    expect(driver.value).toBe('x');
    driver.advance(1);
    expect(driver.status).toBe('completed');
  });

  test('a delayed raise by its id, and its cancel', () => {
    const states: States = {
      x: {
        entry: raise({ type: 'late' }, { id: 'reminder', delay: 500 }),
        on: { late: 'done', stay: { actions: cancel('reminder') }, go: 'done' },
      },
    };
    const left = saga(states);
    left.advance(500);
    expect(left.status).toBe('completed');
    const cleared = saga(states);
    cleared.signal('stay');
    cleared.advance(10_000);
    expect(cleared.value).toBe('x');
    expect(cleared.live.timers).toEqual({});
  });

  test('delayed raises without an id all fire, each at its time', () => {
    const driver = saga({
      x: {
        entry: [
          raise({ type: 'tick' }, { delay: 100 }),
          raise({ type: 'tick' }, { delay: 300 }),
          raise({ type: 'tick' }, { delay: 200 }),
        ],
        on: { tick: { actions: count } },
        always: {
          guard: ({ context }: { context: { n: number } }) => context.n === 3,
          target: 'done',
        },
      },
    });
    driver.advance(250);
    expect(driver.context['n']).toBe(2);
    driver.advance(50);
    expect(driver.status).toBe('completed');
  });

  test('timers of the same moment all fire', () => {
    const timed = {
      initial: 'x',
      states: { x: { after: { 100: 'over' } }, over: { type: 'final' } },
    };
    const driver = saga({
      both: { type: 'parallel', onDone: 'done', states: { a: timed, b: timed, c: timed } },
    });
    driver.advance(100);
    expect(driver.count('TimerFired')).toBe(3);
    expect(driver.status).toBe('completed');
  });

  test('a timer that is late by hours fires once', () => {
    const driver = saga({ x: { after: { 100: { actions: count } }, on: { go: 'done' } } });
    driver.now += HOUR_MS;
    driver.advance(0);
    expect(driver.context['n']).toBe(1);
  });
});

describe('actions', () => {
  test('assign, raise, emit and enqueueActions in the order in which they are written', () => {
    const driver = saga({
      x: {
        on: {
          go: {
            actions: [
              emit(({ context }: { context: { n: number } }) => ({
                type: 'first',
                n: context.n,
              })) as never,
              enqueueActions(({ enqueue, context }) => {
                enqueue(count as never);
                if ((context as { n: number }).n === 0) enqueue.raise({ type: 'again' });
                enqueue.emit(
                  ({ context: now }) => ({ type: 'second', n: (now as { n: number }).n }) as never,
                );
              }),
            ],
          },
          again: { target: 'done', actions: emit({ type: 'third' }) },
        },
      },
    });
    driver.signal('go');
    const emitted = driver
      .events()
      .flatMap((e) => (e.type === 'DomainEventEmitted' ? [e.event] : []));
    expect(emitted).toEqual([{ type: 'first', n: 0 }, { type: 'second', n: 1 }, { type: 'third' }]);
    expect(driver.status).toBe('completed');
  });

  test('the output of the machine, from context and from the final state', () => {
    const driver = saga(
      { x: { on: { go: 'end' } }, end: { type: 'final', output: { via: 'end' } } },
      {
        output: ({ context, event }: { context: { n: number }; event: { output?: unknown } }) => ({
          n: context.n,
          final: event.output,
        }),
      },
      {},
      { n: 5 },
    );
    driver.signal('go');
    expect(driver.last('SagaCompleted').output).toEqual({ n: 5, final: { via: 'end' } });
  });

  test('an error’s data chooses the way: mixed recovery without compensating', () => {
    const driver = saga({
      x: {
        invoke: {
          src: 'a',
          input: {},
          onDone: 'done',
          onError: [
            {
              guard: ({ event }: { event: unknown }) =>
                (event as { error: { code: string } }).error.code === 'Busy',
              target: 'other',
            },
            { target: 'undoing' },
          ],
        },
      },
      other: doStep('b', 'done', 'undoing'),
    });
    driver.reply('a', no('Busy'));
    expect(driver.outstanding()).toEqual(['b']);
    driver.reply('b', ok());
    expect(driver.status).toBe('completed');
  });
});

test('a signal that the current state does not handle is on record and changes nothing', () => {
  const driver = saga({ x: { on: { go: 'y' } }, y: { on: { stay: 'done' } } });
  driver.signal('stay');
  expect(driver.value).toBe('x');
  expect(driver.types().slice(-1)).toEqual(['SignalReceived']);
});

test('compensateAll() that ends into itself is found out, not followed for ever', () => {
  const driver = saga({
    x: { on: { go: 'undoing' } },
    undoing: { invoke: { src: 'back', onDone: { target: 'undoing', reenter: true } } },
  });
  driver.signal('go');
  expect(driver.stuckCode).toBe('MACHINE_FAULT');
  expect(driver.last('InputFaulted').failure.message).toMatch(/did not rest within 1000 turns/);
});
