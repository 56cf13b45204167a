/** The point of no return (I7): what waits while its outcome is unknown, and what can't be asked for after it. */
import { describe, expect, test } from 'vitest';
import { assign, setup } from 'xstate';
import { SagaDriver, broken, neverRan, no, ok } from '../support/saga-driver.ts';
import { actors, decisive, define, doStep, ends, undoable } from './machines.ts';

const heard = assign({
  heard: ({ context, event }: { context: { heard: string[] }; event: { type: string } }) => [
    ...context.heard,
    event.type,
  ],
});

/** a, then b (whose failure is shrugged off), then the pivot p, then r. Signals are noted wherever they come. */
const machine = define(
  setup({
    actors: { ...actors, b: undoable('b', { timeout: '1s' }), p: decisive('p', { timeout: '5s' }) },
  }).createMachine({
    id: 'm',
    initial: 'a',
    context: { heard: [] },
    on: { ping: { actions: heard }, pong: { actions: heard } },
    states: {
      a: doStep('a', 'b', 'undoing'),
      b: doStep('b', 'p', 'p'),
      p: {
        ...doStep('p', 'r', 'undoing'),
        on: { 'saga.cancel': { target: 'undoing', actions: heard } },
        after: { 2_000: { actions: heard } },
      },
      r: doStep('r', 'done'),
      ...ends,
    },
  } as never),
  { signals: ['ping', 'pong'] },
);

const inFlight = () => {
  const saga = SagaDriver.start(machine);
  saga.reply('a', ok());
  saga.reply('b', ok());
  expect(saga.live.pivot).toBe('inFlight');
  return saga;
};
/** b is given up on its deadline, and is still being settled when the pivot begins. */
const withGivenUp = () => {
  const saga = SagaDriver.start(machine);
  saga.reply('a', ok());
  saga.advance(1_000);
  expect(saga.outstanding()).toEqual(['b:settle', 'p']);
  return saga;
};

describe('while it is in flight', () => {
  test('signals, timers and a cancel wait, and are applied afterwards in order', () => {
    const saga = inFlight();
    saga.signal('ping');
    saga.cancel();
    saga.signal('pong');
    saga.advance(3_000);
    expect(saga.context['heard']).toEqual([]);
    expect(saga.count('TimerFired')).toBe(0);
    expect(saga.live.deferred.map((cause) => cause.type)).toEqual([
      'SignalReceived',
      'CancelRequested',
      'SignalReceived',
    ]);
    saga.reply('p', ok());
    expect(saga.context['heard']).toEqual(['ping', 'pong']);
    expect(saga.last('CancelRefused').failure.code).toBe('PIVOT_PASSED');
    expect(saga.value).toBe('r');
    saga.advance(0);
    expect(saga.count('TimerFired')).toBe(0);
    saga.reply('r', ok());
    expect(saga.status).toBe('completed');
  });

  test('rejected: what waited is applied then, the cancel too', () => {
    const saga = inFlight();
    saga.signal('ping');
    saga.cancel();
    saga.reply('p', no());
    expect(saga.context['heard']).toEqual(['ping']);
    expect(saga.value).toBe('undoing');
    expect(saga.outstanding()).toEqual(['b:compensate']);
    expect(saga.count('CancelRefused')).toBe(0);
  });

  test('retries of it go on, and its own deadline counts', () => {
    const saga = inFlight();
    saga.signal('ping');
    saga.reply('p', broken());
    saga.advance(100);
    expect(saga.call('p')).toMatchObject({ status: 'open', attempt: 2 });
    saga.advance(5_000);
    expect(saga.outstanding()).toEqual(['p:settle']);
    expect(saga.context['heard']).toEqual([]);
  });

  test.each([
    ['succeeded', ok(), 'r', []],
    ['rejected', no(), 'undoing', ['b:compensate']],
    ['never ran', neverRan, 'undoing', ['b:compensate']],
  ])('timed out, then settled as %s', (_, answer, value, outstanding) => {
    const saga = inFlight();
    saga.advance(5_000);
    saga.cancel();
    expect(saga.value).toBe('p');
    saga.reply('p:settle', answer);
    expect(saga.value).toBe(value);
    expect(saga.outstanding()).toEqual(value === 'r' ? ['r'] : outstanding);
    expect(saga.count('CancelRefused')).toBe(value === 'r' ? 1 : 0);
  });

  test('a settlement of an earlier step is taken, and its compensation sent', () => {
    const saga = withGivenUp();
    saga.reply('b:settle', ok());
    expect(saga.outstanding()).toEqual(['b:compensate', 'p']);
    saga.reply('b:compensate', ok());
    saga.reply('p', ok());
    saga.reply('r', ok());
    expect(saga.status).toBe('completed');
  });

  test('a person’s word on it counts as its answer', () => {
    const saga = inFlight();
    saga.signal('ping');
    saga.operator({ verb: 'resolve', commandId: saga.commandId('p'), output: {} });
    expect(saga.value).toBe('r');
    expect(saga.context['heard']).toEqual(['ping']);
  });

  test('more signals than are held back are refused; its own answer never is', () => {
    const saga = new SagaDriver(machine, { light: true });
    saga.start();
    saga.reply('a', ok());
    saga.reply('b', ok());
    let taken = 0;
    for (; taken < 2_000; taken++) if (saga.signal('ping').kind !== 'accepted') break;
    expect(taken).toBe(1_000);
    expect(saga.signal('ping')).toMatchObject({ kind: 'refused', code: 'OVERLOADED' });
    expect(saga.cancel().kind).toBe('accepted');
    expect(saga.reply('p', ok()).kind).toBe('accepted');
    expect(saga.value).toBe('r');
    expect(saga.context['heard']).toHaveLength(1_000);
    expect(saga.operator({ verb: 'pause' }).kind).toBe('accepted');
    saga.checkReplay();
  });

  test('the same for fewer signals that are large', () => {
    const saga = new SagaDriver(machine, { light: true });
    saga.start();
    saga.reply('a', ok());
    saga.reply('b', ok());
    const large = 'x'.repeat(890_000);
    let taken = 0;
    for (; taken < 100; taken++) if (saga.signal('ping', { large }).kind !== 'accepted') break;
    expect(taken).toBe(17);
    expect(saga.signal('ping', { large })).toMatchObject({ kind: 'refused', code: 'OVERLOADED' });
    // A state out of a snapshot comes to the same.
    saga.state = structuredClone(saga.live);
    expect(saga.signal('ping', { large })).toMatchObject({ kind: 'refused', code: 'OVERLOADED' });
    expect(saga.signal('ping', { small: large.slice(0, 1_000) }).kind).toBe('accepted');
    expect(saga.cancel().kind).toBe('accepted');
    expect(saga.reply('p', ok({ large })).kind).toBe('accepted');
    expect(saga.context['heard']).toHaveLength(18);
    saga.checkReplay();
    expect(saga.signal('ping', { large }).kind).toBe('accepted');
  });

  test('answers that are held back are taken whatever their size', () => {
    const saga = new SagaDriver(machine, { light: true });
    saga.start();
    saga.operator({ verb: 'pause' });
    const large = 'x'.repeat(890_000);
    for (let n = 0; n < 17; n++) expect(saga.signal('ping', { large }).kind).toBe('accepted');
    expect(saga.signal('ping', { large }).kind).toBe('refused');
    expect(saga.reply('a', ok({ large })).kind).toBe('accepted');
  });
});

describe('past it', () => {
  const passed = () => {
    const saga = inFlight();
    saga.reply('p', ok());
    return saga;
  };

  test('a cancel is refused, for good, and the refusal is on record', () => {
    const saga = passed();
    saga.cancel('c1');
    expect(saga.last('CancelRefused')).toMatchObject({
      requestId: 'c1',
      failure: { code: 'PIVOT_PASSED' },
    });
    expect(saga.value).toBe('r');
    expect(saga.cancel('c1').kind).toBe('ignored');
  });

  test('nothing is owed any more, whatever comes late', () => {
    const saga = passed();
    expect(Object.values(saga.live.steps).map((step) => step.step)).toEqual(['r']);
    for (const late of [ok(), no(), broken()]) {
      expect(saga.reply('a', late).kind).toBe('ignored');
      expect(saga.reply('p', late).kind).toBe('ignored');
    }
  });

  test('a step that was given up before it is still settled and taken back, before the end', () => {
    const saga = withGivenUp();
    saga.reply('p', ok());
    saga.reply('r', ok());
    expect(saga.live.phase).toBe('closing');
    expect(saga.status).toBe('running');
    expect(saga.cancel().kind).toBe('accepted');
    expect(saga.last('CancelRefused').failure.code).toBe('PIVOT_PASSED');
    saga.reply('b:settle', ok());
    saga.reply('b:compensate', ok());
    expect(saga.status).toBe('completed');
  });

  test('its last step out of attempts is stuck, never compensated', () => {
    const saga = passed();
    saga.reply('r', broken(false));
    expect(saga.status).toBe('stuck');
    saga.operator({ verb: 'skip', commandId: saga.commandId('r') });
    expect(saga.status).toBe('completed');
    expect(saga.count('CompensationRequested')).toBe(0);
  });
});
