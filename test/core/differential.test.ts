/** The core's way of running a machine against xstate's own: the same values, contexts, statuses, tags and wishes. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  createActor,
  initialTransition,
  transition,
  type AnyMachineSnapshot,
  type AnyStateMachine,
  type EventObject,
} from 'xstate';
import {
  canHandle,
  initialTurn,
  nextTurn,
  tagsOf,
  type MachineState,
  type MachineTurn,
} from '../../engine/core/machine.ts';
import type { SagaEvent } from '../../engine/core/events.ts';
import { CHART_EVENTS, randomChart } from '../support/random-chart.ts';
import { SagaDriver } from '../support/saga-driver.ts';
import { define } from './machines.ts';

function plain<T>(value: T): T {
  return value === undefined ? value : (JSON.parse(JSON.stringify(value)) as T);
}
type Step<T> = { kind: 'done'; value: T } | { kind: 'threw' };
function attempt<T>(run: () => T): Step<T> {
  try {
    return { kind: 'done', value: run() };
  } catch {
    return { kind: 'threw' };
  }
}

/** Whether xstate itself came to a state that can't be (it does in rare charts): a fault with us. */
function isWhole(snapshot: AnyMachineSnapshot): boolean {
  const { machine, value, _nodes: nodes } = snapshot;
  if (snapshot.status !== 'active') return true;
  const ids = (list: { id: string }[]) => list.map(({ id }) => id).sort();
  const resolved = machine.resolveState({ value, context: {} }) as AnyMachineSnapshot;
  const isTree = (node: (typeof nodes)[number]): boolean =>
    node.type !== 'compound' ||
    Object.values(node.states).filter((child) => nodes.includes(child as never)).length === 1;
  return ids(resolved._nodes).join() === ids(nodes).join() && nodes.every(isTree);
}

interface RawAction {
  type: string;
  params?: { [key: string]: unknown };
}
/** What xstate wants done, in the core's words. */
function wishes(actions: readonly RawAction[]): object[] {
  return actions.flatMap(({ type, params = {} }): object[] => {
    switch (type) {
      case 'xstate.spawnChild':
        return [
          { type: 'spawn', actorId: params['id'], src: params['src'], input: params['input'] },
        ];
      case 'xstate.raise':
        return typeof params['delay'] === 'number'
          ? [
              {
                type: 'setTimer',
                timerId: params['id'],
                delayMs: params['delay'],
                event: params['event'],
              },
            ]
          : [];
      case 'xstate.cancel':
        return [{ type: 'clearTimer', timerId: params['sendId'] }];
      case 'xstate.emit':
        return [{ type: 'emit', event: params['event'] }];
      default:
        return [];
    }
  });
}

function expectSame(
  machine: AnyStateMachine,
  ours: MachineTurn,
  [snapshot, actions]: readonly [AnyMachineSnapshot, readonly RawAction[]],
  events: readonly EventObject[],
): void {
  const { state } = ours;
  expect(state.value).toEqual(plain(snapshot.value));
  expect(state.context).toEqual(plain(snapshot.context));
  expect(state.status).toBe(snapshot.status);
  expect(state.output ?? null).toEqual(plain(snapshot.output) ?? null);
  expect(ours.actions).toEqual(plain(wishes(actions)));
  if (state.status !== 'active') return;
  expect(tagsOf(machine, state).sort()).toEqual([...snapshot.tags].sort());
  for (const event of events) {
    expect(canHandle(machine, state, event)).toBe(snapshot.can(event));
  }
}

/** A clock that fires what is due in order, and not what was cleared meanwhile (xstate's simulated one does). */
class OrderedClock {
  #now = 0;
  #ids = 0;
  readonly #timeouts = new Map<number, { at: number; fn: () => void }>();
  setTimeout(fn: () => void, ms: number): number {
    this.#timeouts.set(++this.#ids, { at: this.#now + Math.max(0, ms), fn });
    return this.#ids;
  }
  clearTimeout(id: number): void {
    this.#timeouts.delete(id);
  }
  increment(ms: number): void {
    const target = this.#now + ms;
    for (;;) {
      const [first] = [...this.#timeouts]
        .filter(([, { at }]) => at <= target)
        .sort(([a, left], [b, right]) => left.at - right.at || a - b);
      if (first === undefined) break;
      this.#timeouts.delete(first[0]);
      this.#now = Math.max(this.#now, first[1].at);
      first[1].fn();
    }
    this.#now = target;
  }
}

/** Whether a timer was set anew without having been cleared; xstate then has two, and loses one of them. */
function hasTwins(events: readonly SagaEvent[]): boolean {
  const set = new Set<string>();
  return events.some((event) => {
    if (event.type === 'TimerCleared' || event.type === 'TimerFired') set.delete(event.timerId);
    if (event.type !== 'TimerSet') return false;
    const isTwin = set.has(event.timerId);
    set.add(event.timerId);
    return isTwin;
  });
}

/** SAGAX_PROPERTY_RUNS asks for more, in a night's run. */
const RUNS = Number(process.env['SAGAX_PROPERTY_RUNS'] ?? 400);
const seeds = fc.integer({ min: 0, max: 0x7fffffff });

/** xstate has no bound on microsteps by default; with the same one both give up on the same input. */
function bounded(machine: AnyStateMachine): AnyStateMachine {
  machine.config.options = { maxIterations: 200 };
  machine.options = { maxIterations: 200 };
  return machine;
}

describe('machine.ts against initialTransition() and transition()', () => {
  test('random charts, random events, a JSON round trip between any two turns', () => {
    let turns = 0;
    fc.assert(
      fc.property(seeds, fc.array(fc.nat({ max: 1_000 }), { maxLength: 25 }), (seed, picks) => {
        const { machine, invokeIds } = randomChart(seed, { invokes: true });
        bounded(machine);
        const events: EventObject[] = [
          ...CHART_EVENTS.map((type) => ({ type })),
          ...invokeIds.flatMap((actorId) => [
            { type: `xstate.done.actor.${actorId}`, output: { ok: true }, actorId },
            { type: `xstate.error.actor.${actorId}`, error: { code: 'No' }, actorId },
          ]),
        ];
        const first = attempt(() => initialTurn(machine, null));
        const theirFirst = attempt(() => {
          const result = initialTransition(machine, null);
          // It gives a snapshot in error where transition() throws.
          const { status, error } = result[0] as AnyMachineSnapshot;
          if (status === 'error' || !isWhole(result[0] as AnyMachineSnapshot)) throw error;
          return result;
        });
        expect(first.kind).toBe(theirFirst.kind);
        if (first.kind === 'threw' || theirFirst.kind === 'threw') return;
        expectSame(machine, first.value, theirFirst.value as never, events);
        let state: MachineState = plain(first.value.state);
        let snapshot = theirFirst.value[0] as AnyMachineSnapshot;
        const timers = new Map<string, EventObject>();
        const follow = (turn: MachineTurn): void => {
          for (const action of turn.actions) {
            if (action.type === 'setTimer') timers.set(action.timerId ?? '', action.event);
            if (action.type === 'clearTimer') timers.delete(action.timerId);
          }
        };
        follow(first.value);
        for (const pick of picks) {
          if (state.status !== 'active') return;
          const choices = [...events, ...timers.values()];
          const event = choices[pick % choices.length] as EventObject;
          const turn = attempt(() => nextTurn(machine, state, event));
          const theirs = attempt(() => {
            const result = transition(machine, snapshot as never, event as never);
            if (!isWhole(result[0] as AnyMachineSnapshot)) throw new Error('not whole');
            return result;
          });
          expect(turn.kind).toBe(theirs.kind);
          if (turn.kind === 'threw' || theirs.kind === 'threw') return;
          expectSame(machine, turn.value, theirs.value as never, events);
          follow(turn.value);
          state = plain(turn.value.state);
          snapshot = theirs.value[0] as AnyMachineSnapshot;
          turns += 1;
        }
      }),
      { numRuns: RUNS },
    );
    expect(turns).toBeGreaterThan(RUNS);
  }, 60_000);
});

describe('decide and evolve against createActor() with a clock of ours', () => {
  test('random charts under signals and time', () => {
    let compared = 0;
    const step = fc.oneof(
      fc.constantFrom(...CHART_EVENTS).map((type) => ({ type, ms: 0 })),
      fc.integer({ min: 1, max: 60 }).map((ms) => ({ type: '', ms })),
    );
    fc.assert(
      fc.property(seeds, fc.array(step, { maxLength: 20 }), (seed, steps) => {
        const { machine } = randomChart(seed, { invokes: false });
        bounded(machine);
        const handled = CHART_EVENTS.filter((name) => machine.events.includes(name as never));
        const told: object[] = [];
        const clock = new OrderedClock();
        let actor = createActor(machine, { clock: clock });
        actor.on('*', (event: object) => told.push(event));
        // An actor reports what its machine throws instead of throwing; the comparison ends there.
        let hasThrown = false;
        actor.subscribe({ error: () => (hasThrown = true) });
        actor.start();
        const saga = SagaDriver.start(define(machine, { signals: handled }), null, {
          replayEvery: 10,
        });
        const compare = (): boolean => {
          if (hasTwins(saga.events())) return false;
          const snapshot = actor.getSnapshot() as AnyMachineSnapshot;
          const isFaulted = saga.live.faulted !== undefined;
          expect(isFaulted).toBe(hasThrown || !isWhole(snapshot));
          if (isFaulted) return false;
          const { machine: ours } = saga.live;
          expect(ours?.value).toEqual(plain(snapshot.value));
          expect(ours?.context).toEqual(plain(snapshot.context));
          expect(ours?.status).toBe(snapshot.status);
          expect(ours?.output ?? null).toEqual(plain(snapshot.output) ?? null);
          const emitted = saga
            .events()
            .flatMap((e) => (e.type === 'DomainEventEmitted' ? [e.event] : []));
          expect(emitted).toEqual(told);
          compared += 1;
          return snapshot.status === 'active';
        };
        if (!compare()) return;
        for (const { type, ms } of steps) {
          for (let left = ms; left > 0; left--) {
            clock.increment(1);
            saga.advance(1);
            if (!compare()) return;
          }
          if (ms === 0 && handled.includes(type as never)) {
            actor.send({ type });
            saga.signal(type);
          }
          if (!compare()) return;
        }
        actor = actor.stop();
      }),
      { numRuns: RUNS / 2 },
    );
    expect(compared).toBeGreaterThan(RUNS / 2);
  }, 60_000);
});
