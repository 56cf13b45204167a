/**
 * Random statecharts, for comparing the core's way of running a machine with xstate's own.
 *
 * Guards that no feature of xstate is left out by taste: nesting, parallel regions, both kinds of history, guards,
 * always, after with fixed, named and computed delays, raise (delayed too), cancel, emit, enqueueActions, tags,
 * reenter, wildcards, final states with outputs, onDone of states, and invokes.
 */
import { assign, cancel, emit, enqueueActions, setup, type AnyStateMachine } from 'xstate';
import { compensatable, command, readOnly } from '../../engine/core/index.ts';
import { z } from 'zod';
import { Dice } from './dice.ts';

export const CHART_EVENTS = ['e0', 'e1', 'e2', 'e3', 'f.a', 'f.b'] as const;
const NAMES = [...CHART_EVENTS, '*', 'f.*'] as const;
const MAX_DEPTH = 3;

export interface ChartOptions {
  /** States may invoke steps; their answers are events of their own. */
  invokes: boolean;
}
export interface Chart {
  machine: AnyStateMachine;
  /** Ids of everything it invokes. */
  invokeIds: string[];
}

interface Context {
  n: number;
  trail: string[];
}
interface NodeConfig {
  id: string;
  [key: string]: unknown;
  states?: { [key: string]: NodeConfig };
}

export function randomChart(seed: number, options: ChartOptions): Chart {
  const dice = new Dice(seed);
  const nodes: NodeConfig[] = [];
  const root = buildNode(dice, 'root', 0, nodes);
  root['initial'] = Object.keys(root.states ?? {})[0];
  const targets = nodes.filter((node) => node !== root).map((node) => `#${node.id}`);
  const invokeIds: string[] = [];
  for (const node of nodes) fillNode(dice, node, node === root, targets, options, invokeIds);
  return { machine: build({ ...root, context: { n: 0, trail: [] } }), invokeIds };
}

function buildNode(dice: Dice, id: string, depth: number, nodes: NodeConfig[]): NodeConfig {
  const node: NodeConfig = { id };
  nodes.push(node);
  const isRoot = depth === 0;
  const kind = isRoot ? 'compound' : depth >= MAX_DEPTH ? 'atomic' : dice.pick(KINDS);
  if (kind === 'atomic') return node;
  const states: { [key: string]: NodeConfig } = {};
  const count = kind === 'parallel' ? 2 : 2 + dice.below(2);
  for (let index = 0; index < count; index++) {
    states[`s${index}`] = buildNode(dice, `${id}_${index}`, depth + 1, nodes);
  }
  if (kind === 'parallel') node['type'] = 'parallel';
  else {
    node['initial'] = 's0';
    if (isRoot || dice.chance(0.6)) {
      states['end'] = { id: `${id}_end`, type: 'final', output: { from: id } };
      nodes.push(states['end']);
    }
  }
  if (dice.chance(0.4)) {
    states['hist'] = {
      id: `${id}_hist`,
      type: 'history',
      ...(dice.chance(0.5) ? { history: 'deep' } : {}),
    };
    nodes.push(states['hist']);
  }
  node.states = states;
  return node;
}
const KINDS = ['atomic', 'atomic', 'compound', 'compound', 'parallel'] as const;

function fillNode(
  dice: Dice,
  node: NodeConfig,
  isRoot: boolean,
  targets: readonly string[],
  options: ChartOptions,
  invokeIds: string[],
): void {
  if (node['type'] === 'history') return;
  if (dice.chance(0.3)) node['entry'] = someActions(dice);
  if (node['type'] === 'final') return;
  if (dice.chance(0.3)) node['exit'] = someActions(dice);
  if (dice.chance(0.4)) node['tags'] = [`t${dice.below(3)}`];
  const transition = (): object => ({
    ...(dice.chance(0.85) && !isRoot ? { target: dice.pick(targets) } : {}),
    ...(dice.chance(0.4) ? { guard: dice.pick(GUARDS) } : {}),
    ...(dice.chance(0.2) ? { reenter: true } : {}),
    ...(dice.chance(0.5) ? { actions: someActions(dice) } : {}),
  });
  const on: { [event: string]: object } = {};
  for (let left = dice.below(4); left > 0; left--)
    on[dice.pick(NAMES)] = [transition(), transition()];
  node['on'] = on;
  if (isRoot) return;
  // Bounded: each one counts up, and the guard lets only low counts pass.
  if (dice.chance(0.2)) {
    node['always'] = { guard: 'low', target: dice.pick(targets), actions: 'count' };
  }
  if (dice.chance(0.4)) node['after'] = { [dice.pick(DELAYS)]: transition() };
  if (node.states !== undefined && dice.chance(0.7)) node['onDone'] = transition();
  if (options.invokes && dice.chance(0.3)) {
    const id = `i_${node.id}`;
    invokeIds.push(id);
    node['invoke'] = {
      id,
      src: dice.pick(['read', 'make']),
      input: { of: node.id },
      onDone: transition(),
      ...(dice.chance(0.8) ? { onError: transition() } : {}),
    };
  }
}
const GUARDS = ['even', 'low', 'seldom'] as const;
const DELAYS = [10, 25, 'fixed', 'computed'] as const;
const ACTIONS = ['count', 'note', 'tell', 'poke', 'later', 'never', 'several'] as const;

function someActions(dice: Dice): string[] {
  return Array.from({ length: 1 + dice.below(2) }, () => dice.pick(ACTIONS));
}

const anything = z.looseObject({});
const contract = (name: string) => command(`svc.${name}`, { input: anything, output: anything });

function build(config: object): AnyStateMachine {
  const loose = setup({
    types: { context: {} as Context, emitted: {} as { type: 'told'; n: number } },
    actors: {
      read: readOnly(contract('read')),
      make: compensatable(contract('make'), { compensateWith: contract('unmake') }),
    },
    guards: {
      even: ({ context }) => context.n % 2 === 0,
      low: ({ context }) => context.n < 6,
      seldom: ({ context, event }) => (context.n + event.type.length) % 3 === 0,
    },
    delays: { fixed: 40, computed: ({ context }) => 5 + (context.n % 4) * 10 },
    actions: {
      count: assign({ n: ({ context }) => context.n + 1 }),
      note: assign({
        trail: ({ context, event }) => [...context.trail.slice(-8), event.type],
      }),
      tell: emit(({ context }) => ({ type: 'told' as const, n: context.n })),
      poke: enqueueActions(({ context, enqueue }) => {
        if (context.n < 9) {
          enqueue.assign({ n: context.n + 1 });
          enqueue.raise({ type: 'e1' });
        }
      }),
      // Cleared before it is set anew: xstate lets two of one id run side by side and can cancel only one.
      later: enqueueActions(({ enqueue }) => {
        enqueue.cancel('later');
        enqueue.raise({ type: 'e2' }, { id: 'later', delay: 30 });
      }),
      never: cancel('later'),
      several: enqueueActions(({ enqueue, check }) => {
        if (check('even' as never)) enqueue.emit({ type: 'told', n: -1 });
        enqueue('count' as never);
      }),
    },
  });
  return loose.createMachine(config as never) as unknown as AnyStateMachine;
}
