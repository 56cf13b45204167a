/**
 * Random sagas that a team could have written: sequences, nested and parallel parts, steps of every class that are
 * waited for, shrugged off or left, waits for signals and timers, loops, at most one pivot, a retriable tail.
 */
import { assign, emit, setup, type AnyStateMachine } from 'xstate';
import { z } from 'zod';
import {
  command,
  compensatable,
  compensateAll,
  pivot,
  readOnly,
  retriable,
  type StepOptions,
} from '../../engine/core/index.ts';
import type { Dice } from './random-chart.ts';

/** Signals that some random saga handles; each takes any object. */
export const SAGA_SIGNALS = ['go', 'skip', 'resume'] as const;

const anything = z.looseObject({});
const rejections = { No: anything };
const retry = { maxAttempts: 3, initialInterval: 50, maxInterval: 400 } as const;
const OPTIONS: readonly StepOptions[] = [
  { retry },
  { retry, timeout: '2s' },
  { retry: { ...retry, maxAttempts: 1 }, timeout: '1s' },
  { retry, timeout: '6s', heartbeatTimeout: 700 },
];
const contract = (name: string) =>
  command(`svc.${name}`, { input: anything, output: anything, rejections });
const lasting = (name: string) => command(`svc.${name}`, { input: anything, output: anything });

const actors = {
  ...Object.fromEntries(
    OPTIONS.flatMap((options, index) => [
      [
        `c${index}`,
        compensatable(contract(`make-${index}`), {
          ...options,
          compensateWith: lasting(`unmake-${index}`),
          compensation: ({ input, output }) => ({ input, output }),
          compensationRetry: retry,
        }),
      ],
      [`q${index}`, readOnly(contract(`read-${index}`), options)],
      [`p${index}`, pivot(contract(`turn-${index}`), options)],
      [`r${index}`, retriable(lasting(`tell-${index}`), options)],
    ]),
  ),
  back: compensateAll(),
} as { [name: string]: ReturnType<typeof compensateAll> };

type States = { [name: string]: object };
interface Plan {
  dice: Dice;
  /** How many states have been made: bounds the machine. */
  size: number;
}
const MAX_SIZE = 14;
const ANY = ['c', 'c', 'c', 'q'] as const;

/** The same dice give the same machine. */
export function randomSaga(dice: Dice): AnyStateMachine {
  const plan: Plan = { dice, size: 0 };
  const states: States = {};
  const hasPivot = dice.chance(0.6);
  const start = chain(plan, states, 'w', 1 + dice.below(4), 0, hasPivot ? 'pivot' : 'tail0');
  if (hasPivot)
    states['pivot'] = step(plan, `p${dice.below(OPTIONS.length)}`, 'tail0', '#m.undoing');
  const tail = dice.below(3);
  for (let n = 0; n <= tail; n++) {
    const next = n === tail ? 'done' : `tail${n + 1}`;
    const name = `${dice.pick(['r', 'r', 'q'])}${dice.below(OPTIONS.length)}`;
    states[`tail${n}`] = step(plan, name, next, next);
  }
  const handlesCancel = dice.chance(0.5);
  const again = { guard: 'first', target: start, actions: 'count' };
  return build({
    id: 'm',
    initial: start,
    context: { n: 0 },
    ...(handlesCancel ? { on: { 'saga.cancel': '.undoing' } } : {}),
    states: {
      ...states,
      undoing: {
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
  const kind =
    depth >= 2 || plan.size > MAX_SIZE
      ? 'step'
      : dice.pick(['step', 'step', 'step', 'wait', 'nest', 'fork'] as const);
  switch (kind) {
    case 'step': {
      const failed = dice.chance(0.7) ? '#m.undoing' : next;
      return step(plan, `${dice.pick(ANY)}${dice.below(OPTIONS.length)}`, next, failed);
    }
    case 'wait':
      return {
        on: { go: { target: next, actions: dice.chance(0.5) ? 'tell' : [] } },
        after: { [500 + dice.below(2_000)]: dice.chance(0.6) ? next : '#m.undoing' },
      };
    case 'nest':
      return { ...nested(plan, depth), onDone: next };
    case 'fork':
      return {
        type: 'parallel',
        onDone: next,
        states: { z: nested(plan, depth), a: nested(plan, depth) },
      };
  }
}

function nested(plan: Plan, depth: number): object {
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
      input: ({ context }: { context: object }) => ({ ...context }),
      onDone: { target: next, actions: dice.chance(0.3) ? ['count', 'tell'] : [] },
      ...(src[0] === 'r' ? {} : { onError: failed }),
    },
    ...(mayLeave && dice.chance(0.2) ? { on: { skip: next } } : {}),
    ...(mayLeave && dice.chance(0.15) ? { after: { [200 + dice.below(1_500)]: next } } : {}),
  };
}

function build(config: object): AnyStateMachine {
  return setup({
    types: { context: {} as { n: number }, emitted: {} as { type: 'told'; n: number } },
    actors,
    guards: { first: ({ context }) => context.n < 40 },
    actions: {
      // Once through `first` is enough: it lets no third round begin.
      count: assign({ n: ({ context }) => context.n + 15 }),
      tell: emit(({ context }) => ({ type: 'told' as const, n: context.n })),
    },
  }).createMachine(config as never) as unknown as AnyStateMachine;
}
