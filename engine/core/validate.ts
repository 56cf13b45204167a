/**
 * What `defineSaga` refuses, and why.
 *
 * Guards that a machine which is accepted can be run by the pure core for ever: every actor is one of
 * ours, every action is pure, every wait can end, and no path does what a saga must not (I7). Each
 * refusal names the state and the remedy.
 */
import type { AnyStateMachine, StateNode } from 'xstate';
import { MAX_DURATION_MS } from './durations.ts';
import { toJson } from './json.ts';
import { CANCEL_EVENT, refuse, stateName } from './refusals.ts';
import { specOf, type ActorSpec } from './steps.ts';
import {
  checkInvokeIds,
  checkPivots,
  checkRetriables,
  checkUnboundedAlways,
} from './validate-paths.ts';

type Node = StateNode;

/** Built-in actions that have no side effect of their own; the engine reads or applies each of them. */
const PURE_ACTIONS = new Set([
  'xstate.assign',
  'xstate.raise',
  'xstate.cancel',
  'xstate.emit',
  'xstate.enqueueActions',
]);
const NAME = /^[a-z][a-z0-9-]{0,62}$/;

export function validateMachine(spec: {
  name: string;
  version: number;
  machine: AnyStateMachine;
  signals: readonly string[];
}): { actors: ReadonlyMap<string, ActorSpec>; services: readonly string[] } {
  const { name, version, machine, signals } = spec;
  if (!NAME.test(name)) {
    throw refuse(
      `Saga name "${name}" must be lower-case kebab case, at most 63 characters, e.g. "order".`,
    );
  }
  if (!Number.isInteger(version) || version < 1) {
    throw refuse(
      `Saga "${name}": version is ${version}; use a whole number ≥ 1 and raise it when the machine changes.`,
    );
  }
  if (!('root' in machine) || !('implementations' in machine)) {
    throw refuse(
      `Saga "${name}": machine must be made by xstate's setup().createMachine() or createMachine().`,
    );
  }
  if (typeof machine.config.context === 'object') {
    toJson(machine.config.context, `The context of saga "${name}"`);
  }
  const nodes = allNodes(machine.root);
  const actors = new Map<string, ActorSpec>();
  for (const node of nodes) {
    checkInvokes(node, machine, actors);
    checkTransitions(node, machine);
    checkActions(node, machine);
  }
  if (
    !Object.values(machine.root.states).some((state) => state.type === 'final') &&
    machine.root.type !== 'parallel'
  ) {
    throw refuse(`Saga "${name}" can never end: add a top-level state with type: 'final'.`);
  }
  checkSignals(name, signals, nodes);
  checkUnboundedAlways(machine, nodes);
  checkInvokeIds(nodes);
  const invokedBy = (node: Node) => invokedSpecs(node, actors);
  checkPivots(nodes, invokedBy);
  checkRetriables(nodes, invokedBy);
  return { actors, services: servicesOf(actors) };
}

function allNodes(root: Node): Node[] {
  return [root, ...Object.values(root.states).flatMap((child) => allNodes(child))];
}

function invokedSpecs(
  node: Node,
  actors: ReadonlyMap<string, ActorSpec>,
): { id: string; spec: ActorSpec }[] {
  return node.invoke.flatMap((invoke) => {
    const spec = actors.get(nameOf(invoke.src));
    return spec === undefined ? [] : [{ id: invoke.id, spec }];
  });
}

/** xstate names inline logic too, so `src` is a text in every resolved invoke. */
function nameOf(src: unknown): string {
  return typeof src === 'string' ? src : '(inline)';
}

function servicesOf(actors: ReadonlyMap<string, ActorSpec>): string[] {
  const services = new Set<string>();
  for (const spec of actors.values()) {
    if (spec.kind !== 'step') continue;
    services.add(spec.contract.service);
    if (spec.compensation !== null) services.add(spec.compensation.contract.service);
  }
  return [...services].sort();
}

function checkInvokes(node: Node, machine: AnyStateMachine, actors: Map<string, ActorSpec>): void {
  for (const [index, invoke] of node.invoke.entries()) {
    const src = nameOf(invoke.src);
    const raw = (node.config.invoke as unknown[] | object | undefined) ?? [];
    const config = (Array.isArray(raw) ? raw[index] : raw) as {
      src: unknown;
      onSnapshot?: unknown;
    };
    const logic: unknown =
      typeof config.src === 'string'
        ? (machine.implementations.actors as { [name: string]: unknown })[config.src]
        : config.src;
    const spec = specOf(logic);
    if (spec === undefined) {
      throw refuse(
        `${stateName(node)} invokes "${src}", which is not a step. Make its logic with compensatable(), pivot(), ` +
          'retriable(), readOnly() or compensateAll(), and name it under setup({ actors }). Work of any other kind ' +
          'belongs into a participant.',
      );
    }
    if (typeof config.src !== 'string') {
      throw refuse(
        `${stateName(node)} invokes a step inline. Name it under setup({ actors: { … } }) and use that name as src, ` +
          'so that events in the log can name it.',
      );
    }
    if (invoke.systemId !== undefined || config.onSnapshot !== undefined) {
      throw refuse(
        `${stateName(node)} gives "${src}" a systemId or onSnapshot; a step has neither. Remove it.`,
      );
    }
    const needsOnError = spec.kind === 'step' && spec.class !== 'retriable';
    if (needsOnError && invoke.onError === undefined) {
      throw refuse(
        `${stateName(node)} invokes "${src}" without onError, so a rejection would have nowhere to go. Add ` +
          "onError: 'compensating' (a state that invokes compensateAll()), or handle it.",
      );
    }
    if (invoke.onDone === undefined) {
      throw refuse(
        `${stateName(node)} invokes "${src}" without onDone, so the saga would stay there for ever. Add onDone.`,
      );
    }
    actors.set(src, spec);
  }
}

function checkTransitions(node: Node, machine: AnyStateMachine): void {
  for (const [event, transitions] of node.transitions) {
    if (event.startsWith('saga.') && event !== CANCEL_EVENT) {
      throw refuse(
        `${stateName(node)} handles "${event}"; the prefix "saga." is reserved, only "${CANCEL_EVENT}" may be handled.`,
      );
    }
    for (const transition of transitions) checkGuard(node, machine, transition.guard);
  }
  for (const transition of node.always ?? []) checkGuard(node, machine, transition.guard);
  for (const { delay } of node.after) checkDelay(node, machine, delay);
}

function checkDelay(node: Node, machine: AnyStateMachine, delay: unknown): void {
  const { delays } = machine.implementations;
  const isNamed = typeof delay === 'string' && delay in delays;
  if (typeof delay === 'string' && !isNamed && !/^\d+$/.test(delay)) {
    throw refuse(
      `${stateName(node)} waits for the delay "${delay}", which is not under setup({ delays }).`,
    );
  }
  // One that is reckoned is known only when it is; a literal that would fault then is refused here.
  const given: unknown = isNamed ? (delays as { [name: string]: unknown })[delay] : delay;
  if (typeof given !== 'function' && !(Number(given) <= MAX_DURATION_MS)) {
    throw refuse(
      `${stateName(node)} waits for ${isNamed ? `"${delay}", which is ` : ''}${String(given)} ms; a delay is a number of milliseconds up to a hundred years.`,
    );
  }
}

function checkGuard(node: Node, machine: AnyStateMachine, guard: unknown): void {
  const name =
    typeof guard === 'string'
      ? guard
      : typeof guard === 'object' && guard !== null && 'type' in guard
        ? String(guard.type)
        : undefined;
  if (name !== undefined && !(name in machine.implementations.guards)) {
    throw refuse(
      `${stateName(node)} uses the guard "${name}", which is not under setup({ guards }).`,
    );
  }
}

function checkActions(node: Node, machine: AnyStateMachine): void {
  const actions: unknown[] = [...node.entry, ...node.exit];
  for (const transitions of node.transitions.values()) {
    for (const transition of transitions) actions.push(...transition.actions);
  }
  for (const transition of node.always ?? []) actions.push(...transition.actions);
  if (node.type === 'compound') actions.push(...node.initial.actions);
  for (const action of actions) checkAction(node, machine, action);
}

function checkAction(node: Node, machine: AnyStateMachine, action: unknown): void {
  const name =
    typeof action === 'string'
      ? action
      : typeof action === 'object' && action !== null && 'type' in action
        ? String(action.type)
        : undefined;
  const implementation: unknown =
    name === undefined
      ? action
      : (machine.implementations.actions as { [key: string]: unknown })[name];
  if (implementation === undefined) {
    throw refuse(
      `${stateName(node)} names the action "${name}", which is not under setup({ actions }).`,
    );
  }
  const type =
    typeof implementation === 'function' && 'resolve' in implementation && 'type' in implementation
      ? String(implementation.type)
      : undefined;
  if (type === 'xstate.raise') {
    const { delay } = implementation as unknown as { delay?: unknown };
    if (delay !== undefined) checkDelay(node, machine, delay);
  }
  if (type !== undefined && PURE_ACTIONS.has(type)) return;
  const what = type ?? (name === undefined ? 'an inline function' : `"${name}"`);
  throw refuse(
    `${stateName(node)} has an action with side effects (${what}). A machine is folded again and again from its ` +
      'log, so it may only assign, raise, cancel, emit and enqueueActions. Do the work in a participant, or emit a ' +
      'domain event and let a consumer act on it.',
  );
}

function checkSignals(name: string, signals: readonly string[], nodes: readonly Node[]): void {
  for (const signal of signals) {
    if (signal.startsWith('xstate.') || signal.startsWith('saga.') || signal === '*') {
      throw refuse(
        `Saga "${name}": signal "${signal}" uses a reserved name; "xstate." and "saga." belong to the engine.`,
      );
    }
    const handled = nodes.some((node) =>
      [...node.transitions.keys()].some(
        (event) =>
          event === signal ||
          event === '*' ||
          (event.endsWith('.*') && signal.startsWith(event.slice(0, -1))),
      ),
    );
    if (!handled) {
      throw refuse(
        `Saga "${name}" declares the signal "${signal}", but no state handles it. Add on: { '${signal}': … } or drop the signal.`,
      );
    }
  }
}
