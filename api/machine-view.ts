/**
 * A machine as JSON: the state tree with its transitions, functions shown by name.
 *
 * Guards that an operator sees the machine that runs, not a drawing of it: it is read from xstate's own
 * resolved state nodes. Pure; the Mermaid diagram is made from the same view.
 */
import type { AnyStateMachine, AnyStateNode, AnyTransitionDefinition } from 'xstate';
import type { StepClass } from '../engine/core/events.ts';
import type { ActorSpec } from '../engine/core/steps.ts';

export interface TransitionView {
  /** What takes it, in an author's words: `approve`, `done of reserve`, `after 1000 ms`, `always`. */
  on: string;
  /** Ids of the target states; empty when the state is kept. */
  targets: string[];
  guard: string | null;
  actions: string[];
}

export interface InvokeView {
  id: string;
  src: string;
  command: string | null;
  class: StepClass | null;
}

export interface StateView {
  id: string;
  key: string;
  type: 'atomic' | 'compound' | 'parallel' | 'final' | 'history';
  initial: string | null;
  description: string | null;
  tags: string[];
  invoke: InvokeView[];
  entry: string[];
  exit: string[];
  transitions: TransitionView[];
  states: StateView[];
}

/** Actions that xstate adds for `after`; the transition already shows them. */
const IMPLIED_ACTIONS: ReadonlySet<string> = new Set(['xstate.raise', 'xstate.cancel']);

export function machineView(
  machine: AnyStateMachine,
  actors: ReadonlyMap<string, ActorSpec>,
): StateView {
  return stateView(machine.root, actors);
}

function stateView(node: AnyStateNode, actors: ReadonlyMap<string, ActorSpec>): StateView {
  const invokes = new Map(node.invoke.map((invoke) => [invoke.id, srcOf(invoke)]));
  const transitions = [...node.transitions.values()].flat() as AnyTransitionDefinition[];
  const always = (node.always ?? []) as AnyTransitionDefinition[];
  return {
    id: node.id,
    key: node.key,
    type: node.type,
    initial: node.type === 'compound' ? (node.initial?.target?.[0]?.id ?? null) : null,
    description: node.description ?? null,
    tags: [...node.tags],
    invoke: node.invoke.map((invoke) => invokeView(invoke.id, srcOf(invoke), actors)),
    entry: visibleActions(node.entry),
    exit: visibleActions(node.exit),
    transitions: [...transitions, ...always].map((transition) =>
      transitionView(transition, invokes),
    ),
    states: Object.values(node.states).map((child) => stateView(child, actors)),
  };
}

/** The engine's definitions name their actors; anything else could not have been accepted. */
function srcOf(invoke: { src: unknown }): string {
  return typeof invoke.src === 'string' ? invoke.src : 'inline';
}

function invokeView(id: string, src: string, actors: ReadonlyMap<string, ActorSpec>): InvokeView {
  const spec = actors.get(src);
  return spec?.kind === 'step'
    ? { id, src, command: spec.contract.name, class: spec.class }
    : { id, src, command: null, class: null };
}

function transitionView(
  transition: AnyTransitionDefinition,
  invokes: ReadonlyMap<string, string>,
): TransitionView {
  return {
    on: eventWords(String(transition.eventType), invokes),
    targets: (transition.target ?? []).map((target: AnyStateNode) => target.id),
    guard: transition.guard === undefined ? null : nameOf(transition.guard),
    actions: (transition.actions ?? []).map(nameOf),
  };
}

/** xstate's internal event names, in words. */
function eventWords(eventType: string, invokes: ReadonlyMap<string, string>): string {
  if (eventType === '') return 'always';
  const done = /^xstate\.(done|error)\.actor\.(.+)$/.exec(eventType);
  if (done?.[1] !== undefined && done[2] !== undefined) {
    return `${done[1]} of ${invokes.get(done[2]) ?? done[2]}`;
  }
  if (eventType.startsWith('xstate.done.state.')) return 'done';
  const after = /^xstate\.after\.([^.]+)\./.exec(eventType);
  if (after?.[1] !== undefined)
    return `after ${/^\d+$/.test(after[1]) ? `${after[1]} ms` : after[1]}`;
  return eventType;
}

function visibleActions(actions: readonly unknown[]): string[] {
  return actions.map(nameOf).filter((name) => !IMPLIED_ACTIONS.has(name));
}

/** Name of a guard or action: its own, its type's, or that of xstate's creator (`assign`). */
function nameOf(value: unknown): string {
  if (typeof value === 'string') return value;
  if (typeof value === 'object' || typeof value === 'function') {
    const { type, name } = (value ?? {}) as { type?: unknown; name?: unknown };
    // xstate's creators (assign, raise, and, not…) give functions whose `type` says which.
    if (typeof type === 'string' && type !== '') {
      return typeof value === 'function' ? type.replace(/^xstate\./, '') : type;
    }
    if (typeof name === 'string' && name !== '') return name;
  }
  return 'inline';
}
