/**
 * Random sagas that a team could have written: sequences, nested and parallel parts, steps of every class that are
 * waited for, shrugged off or left, waits for signals and timers, nudges that are raised later and cancelled, loops,
 * work that is held and taken up again by its history, at most one pivot, a tail of retriable steps, in regions too.
 *
 * Guards that whatever a team may declare is drawn: each part carries the tag of its kind, so that a run can tell
 * which kinds it came to.
 */
import { assign, cancel, emit, raise, setup, type AnyStateMachine } from 'xstate';
import { z } from 'zod';
import {
  command,
  compensatable,
  compensateAll,
  pivot,
  readOnly,
  retriable,
  type AnyContract,
  type StepOptions,
} from '../../engine/core/index.ts';
import type { Dice } from './dice.ts';

/** Signals that some random saga handles; each takes any object. */
export const SAGA_SIGNALS = ['go', 'skip', 'resume', 'hold', 'proceed'] as const;

/** Kinds of parts; each is a tag of its states. */
export const SAGA_PARTS = [
  'step',
  'wait',
  'nest',
  'fork',
  'loop',
  'spin',
  'hold',
  'nudge',
  'chime',
  'pivot',
  'tail',
  'undoing',
] as const;

export const anything = z.looseObject({});
const rejections = { No: anything };
const retry = { maxAttempts: 3, initialInterval: 50, maxInterval: 400 } as const;
const OPTIONS: readonly StepOptions[] = [
  { retry },
  { retry, timeout: '2s' },
  { retry: { ...retry, maxAttempts: 1 }, timeout: '1s' },
  { retry, timeout: '6s', heartbeatTimeout: 700 },
];
/** Steps with even options live in the service `near`, the others in `far`. */
const serviceOf = (index: number): string => (index % 2 === 0 ? 'near' : 'far');
const contract = (name: string, index: number) =>
  command(`${serviceOf(index)}.${name}-${index}`, {
    input: anything,
    output: anything,
    rejections,
  });
const lasting = (name: string, index: number) =>
  command(`${serviceOf(index)}.${name}-${index}`, { input: anything, output: anything });

const CONTRACTS = OPTIONS.map((options, index) => ({
  options,
  make: contract('make', index),
  unmake: lasting('unmake', index),
  read: contract('read', index),
  turn: contract('turn', index),
  tell: lasting('tell', index),
}));

/** All that random sagas ask for; those with rejections may answer `No`. */
export const SAGA_CONTRACTS: readonly AnyContract[] = CONTRACTS.flatMap(
  ({ make, unmake, read, turn, tell }): AnyContract[] => [make, unmake, read, turn, tell],
);

const actors = {
  ...Object.fromEntries(
    CONTRACTS.flatMap(({ options, make, unmake, read, turn, tell }, index) => [
      [
        `c${index}`,
        compensatable(make, {
          ...options,
          compensateWith: unmake,
          compensation: ({ input, output }) => ({ input, output }),
          compensationRetry: retry,
        }),
      ],
      [`q${index}`, readOnly(read, options)],
      [`p${index}`, pivot(turn, options)],
      [`r${index}`, retriable(tell, options)],
    ]),
  ),
  back: compensateAll(),
} as { [name: string]: ReturnType<typeof compensateAll> };

type States = { [name: string]: object };
interface Plan {
  dice: Dice;
  /** How many steps have been made: bounds the machine. */
  size: number;
  /** How many loops have been made: each counts under a name of its own. */
  loops: number;
  nudges: number;
}
const MAX_SIZE = 14;
const MAX_DEPTH = 2;
const ANY = ['c', 'c', 'c', 'q'] as const;
const KINDS = [
  'step',
  'step',
  'step',
  'wait',
  'nest',
  'fork',
  'loop',
  'spin',
  'hold',
  'nudge',
  'chime',
] as const;

/** The same dice give the same machine. */
export function randomSaga(dice: Dice): AnyStateMachine {
  const plan: Plan = { dice, size: 0, loops: 0, nudges: 0 };
  const states: States = {};
  const hasPivot = dice.chance(0.6);
  const start = chain(plan, states, 'w', 1 + dice.below(4), 0, hasPivot ? 'pivot' : 'tail0');
  if (hasPivot) states['pivot'] = pivotPart(plan);
  const tail = dice.below(3);
  for (let n = 0; n <= tail; n++) {
    states[`tail${n}`] = tailPart(plan, n === tail ? 'done' : `tail${n + 1}`);
  }
  const handlesCancel = dice.chance(0.5);
  const again = { guard: 'first', target: start, actions: 'count' };
  return build({
    id: 'm',
    initial: start,
    // Loops of "always" end by their own counts; this is what is left when one doesn't.
    options: { maxIterations: 50 },
    context: { n: 0, rounds: {} },
    ...(handlesCancel ? { on: { 'saga.cancel': '.undoing' } } : {}),
    states: {
      ...states,
      undoing: {
        tags: ['undoing'],
        invoke: {
          src: 'back',
          onDone: dice.chance(0.3) ? [again, { target: 'undone' }] : 'undone',
        },
        ...(dice.chance(0.2) ? { on: { resume: { ...again } } } : {}),
      },
      done: { type: 'final', entry: 'tell' },
      undone: { type: 'final' },
    },
  });
}

/** The go or no-go, in a state of its own or within one. */
function pivotPart(plan: Plan): object {
  const { dice } = plan;
  const src = `p${dice.below(OPTIONS.length)}`;
  if (dice.chance(0.6)) return { ...step(plan, src, 'tail0', '#m.undoing'), tags: ['pivot'] };
  return {
    tags: ['pivot'],
    initial: 'turning',
    onDone: 'tail0',
    states: { turning: step(plan, src, 'over', '#m.undoing'), over: { type: 'final' } },
  };
}

/** Steps that are sure to come through, one after the other or side by side. */
function tailPart(plan: Plan, next: string): object {
  const { dice } = plan;
  const one = (then: string): object =>
    step(plan, `${dice.pick(['r', 'r', 'q'])}${dice.below(OPTIONS.length)}`, then, then);
  if (dice.chance(0.75)) return { ...one(next), tags: ['tail'] };
  const region = (): object => ({
    initial: 'telling',
    states: { telling: one('over'), over: { type: 'final' } },
  });
  return { tags: ['tail'], type: 'parallel', onDone: next, states: { b: region(), a: region() } };
}

/** A chain of parts under `states`. @returns the name of its first state */
function chain(
  plan: Plan,
  states: States,
  prefix: string,
  length: number,
  depth: number,
  end: string,
): string {
  for (let n = 0; n < length; n++) {
    states[`${prefix}${n}`] = part(plan, depth, n === length - 1 ? end : `${prefix}${n + 1}`);
  }
  return `${prefix}0`;
}

function part(plan: Plan, depth: number, next: string): object {
  const { dice } = plan;
  const kind = depth >= MAX_DEPTH || plan.size > MAX_SIZE ? 'step' : dice.pick(KINDS);
  return { ...PARTS[kind](plan, depth, next), tags: [kind] };
}

const PARTS: Readonly<
  Record<(typeof KINDS)[number], (plan: Plan, depth: number, next: string) => object>
> = {
  step: (plan, _depth, next) => {
    const { dice } = plan;
    const failed = dice.chance(0.7) ? '#m.undoing' : next;
    return step(plan, `${dice.pick(ANY)}${dice.below(OPTIONS.length)}`, next, failed);
  },
  wait: ({ dice }, _depth, next) => ({
    on: { go: { target: next, actions: dice.chance(0.5) ? 'tell' : [] } },
    after: { [500 + dice.below(2_000)]: dice.chance(0.6) ? next : '#m.undoing' },
  }),
  nest: (plan, depth, next) => ({ ...nested(plan, depth), onDone: next }),
  fork: (plan, depth, next) => ({
    type: 'parallel',
    onDone: next,
    states: { z: nested(plan, depth), a: nested(plan, depth) },
  }),
  loop: (plan, depth, next) => {
    const states: States = {};
    const initial = chain(plan, states, 's', 1 + plan.dice.below(2), depth + 1, 'again');
    states['again'] = { always: [oneMore(plan, initial), { target: 'over' }] };
    return { initial, onDone: next, states: { ...states, over: { type: 'final' } } };
  },
  // Rounds within one turn, without a rest in between.
  spin: (plan, _depth, next) => ({
    initial: 'round',
    onDone: next,
    states: {
      round: { always: [oneMore(plan, 'turn'), { target: 'rest' }] },
      turn: { always: { target: 'round', actions: 'tell' } },
      rest: { after: { [100 + plan.dice.below(600)]: 'over' } },
      over: { type: 'final' },
    },
  }),
  hold: (plan, depth, next) => ({
    initial: 'working',
    onDone: next,
    states: {
      working: {
        ...(plan.dice.chance(0.4)
          ? {
              type: 'parallel',
              states: { ...history(plan), z: nested(plan, depth), a: nested(plan, depth) },
            }
          : withHistory(plan, nested(plan, depth))),
        on: { hold: { target: 'held', actions: 'tell' } },
        onDone: 'over',
      },
      held: {
        on: { proceed: 'working.hist' },
        after: {
          [800 + plan.dice.below(4_000)]: plan.dice.chance(0.5) ? 'working.hist' : '#m.undoing',
        },
      },
      over: { type: 'final' },
    },
  }),
  // Raised later by itself, and taken back when a signal comes first.
  nudge: (plan, _depth, next) => {
    const { dice } = plan;
    // Of its own: two regions may wait for one each, and xstate cancels but one of those with one id.
    const id = `nudge${plan.nudges++}`;
    return {
      entry: raise({ type: 'nudge' }, { id, delay: dice.pick([400, 3_000]) }),
      exit: cancel(id),
      on: { nudge: { target: next, actions: dice.chance(0.5) ? 'tell' : [] }, go: next },
    };
  },
  // Raised at once, within the turn.
  chime: ({ dice }, _depth, next) => ({
    initial: 'struck',
    onDone: next,
    states: {
      struck: {
        entry: dice.chance(0.5) ? ['count', 'strike'] : 'strike',
        on: { chime: { target: 'rung', actions: 'tell' } },
      },
      rung: { after: { [50 + dice.below(400)]: 'over' } },
      over: { type: 'final' },
    },
  }),
};

/** Another round, unless there were as many as may be. */
function oneMore(plan: Plan, target: string): object {
  const params = { loop: `loop${plan.loops++}`, most: 1 + plan.dice.below(3) };
  return {
    guard: { type: 'fewer', params },
    target,
    actions: { type: 'round', params },
  };
}

function history({ dice }: Plan): States {
  return { hist: { type: 'history', ...(dice.chance(0.6) ? { history: 'deep' } : {}) } };
}

function withHistory(plan: Plan, node: { initial: string; states: States }): object {
  return { ...node, states: { ...node.states, ...history(plan) } };
}

function nested(plan: Plan, depth: number): { initial: string; states: States } {
  const states: States = {};
  const initial = chain(plan, states, 's', 1 + plan.dice.below(2), depth + 1, 'over');
  return { initial, states: { ...states, over: { type: 'final' } } };
}

function step(plan: Plan, src: string, next: string, failed: string): object {
  const { dice } = plan;
  plan.size += 1;
  const mayLeave = src[0] !== 'p' && src[0] !== 'r';
  return {
    ...(dice.chance(0.3) ? { entry: 'count' } : {}),
    invoke: {
      src,
      input: ({ context }: { context: Context }) => ({ n: context.n }),
      onDone: { target: next, actions: dice.chance(0.3) ? ['count', 'tell'] : [] },
      ...(src[0] === 'r' ? {} : { onError: failed }),
    },
    ...(mayLeave && dice.chance(0.2) ? { on: { skip: next } } : {}),
    ...(mayLeave && dice.chance(0.15) ? { after: { [200 + dice.below(1_500)]: next } } : {}),
  };
}

interface Context {
  n: number;
  /** How often each loop went round; never set back, so that a saga that begins anew ends too. */
  rounds: { [loop: string]: number };
}
interface Loop {
  loop: string;
  most: number;
}

function build(config: object): AnyStateMachine {
  return setup({
    types: { context: {} as Context, emitted: {} as { type: 'told'; n: number } },
    actors,
    guards: {
      first: ({ context }) => context.n < 40,
      fewer: ({ context }, { loop, most }: Loop) => (context.rounds[loop] ?? 0) < most,
    },
    actions: {
      // Once through `first` is enough: it lets no third round begin.
      count: assign({ n: ({ context }) => context.n + 15 }),
      round: assign({
        rounds: ({ context }, { loop }: Loop) => ({
          ...context.rounds,
          [loop]: (context.rounds[loop] ?? 0) + 1,
        }),
      }),
      tell: emit(({ context }) => ({ type: 'told' as const, n: context.n })),
      strike: raise({ type: 'chime' }),
    },
  }).createMachine(config as never) as unknown as AnyStateMachine;
}
