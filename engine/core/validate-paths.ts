/**
 * Checks on the machine's paths: loops without a bound, and the order of step classes
 * (compensatable* pivot? retriable*, SEMANTICS 4.2) as far as the graph of states tells.
 *
 * Guards I7 before anything runs, and that nothing which may still make a saga go back is asked for after a step that
 * is never taken back. Each parallel region has an order of its own; after compensateAll() a path begins anew. The
 * graph is an over-approximation (guards are ignored), so what it refuses can be written another way. What comes after a
 * pivot is also watched while a saga runs.
 */
import type { AnyStateMachine, StateNode } from 'xstate';
import type { ActorSpec } from './steps.ts';
import { CANCEL_EVENT, refuse, stateName } from './refusals.ts';

type Node = StateNode;
type Invoked = { id: string; spec: ActorSpec }[];

/** States that are entered when `node` is: itself, its initial or parallel children, and its ancestors. */
function entered(node: Node): Node[] {
  const out: Node[] = [];
  for (let up: Node | undefined = node; up !== undefined; up = up.parent) out.push(up);
  const down: Node[] = [node];
  for (let next = down.pop(); next !== undefined; next = down.pop()) {
    if (next.type === 'compound') down.push(...(next.initial.target as Node[]));
    if (next.type === 'parallel') down.push(...(Object.values(next.states) as Node[]));
    if (next.type === 'history') down.push(...historyTargets(next));
    out.push(next);
  }
  return out;
}

/** A history state can lead back into anything below its parent. */
function historyTargets(node: Node): Node[] {
  return node.parent === undefined
    ? []
    : (Object.values(node.parent.states) as Node[]).filter((n) => n.type !== 'history');
}

export function checkUnboundedAlways(machine: AnyStateMachine, nodes: readonly Node[]): void {
  if (machine.config.options?.maxIterations !== undefined) return;
  const next = new Map<Node, Node[]>();
  for (const node of nodes) {
    const targets = (node.always ?? []).flatMap((transition) => {
      const target = transition.target as Node[] | undefined;
      return target === undefined ? [node] : target.flatMap((t) => entered(t));
    });
    next.set(node, targets);
  }
  for (const node of nodes) {
    if ((node.always ?? []).length > 0 && reaches(next, next.get(node) ?? [], node)) {
      throw refuse(
        `${stateName(node)} is in a loop of "always" transitions that may never rest. Set ` +
          'options: { maxIterations: 100 } (or what it truly needs) on the machine, or break the loop with an event or a delay.',
      );
    }
  }
}

function reaches(graph: ReadonlyMap<Node, Node[]>, from: readonly Node[], goal: Node): boolean {
  const seen = new Set<Node>();
  const rest = [...from];
  for (let node = rest.pop(); node !== undefined; node = rest.pop()) {
    if (node === goal) return true;
    if (seen.has(node)) continue;
    seen.add(node);
    rest.push(...(graph.get(node) ?? []));
  }
  return false;
}

export function checkPivots(nodes: readonly Node[], invokedBy: (node: Node) => Invoked): void {
  for (const node of nodes) {
    for (const { id, spec } of invokedBy(node)) {
      if (spec.kind !== 'step' || spec.class !== 'pivot') continue;
      checkBeside(node, id, invokedBy);
      checkAfterPivot(node, id, invokedBy);
    }
  }
}

/** What may fail or compensate must have ended before the pivot begins: in its state, around it, and in regions beside it. */
function checkBeside(pivot: Node, actorId: string, invokedBy: (node: Node) => Invoked): void {
  for (let node: Node | undefined = pivot; node !== undefined; node = node.parent) {
    const others = invokedBy(node).filter(({ id }) => node !== pivot || id !== actorId);
    if (others.some(({ spec }) => isRisky(spec))) {
      throw refuse(
        `${stateName(pivot)} invokes the pivot beside ${stateName(node)}, which invokes a step that may still fail, or ` +
          'compensateAll(). Let that end first, then invoke the pivot in a state of its own.',
      );
    }
    if (node.parent?.type !== 'parallel') continue;
    for (const sibling of regionsBeside(node)) {
      const risky = subtree(sibling).find((n) => invokedBy(n).some(({ spec }) => isRisky(spec)));
      if (risky !== undefined) {
        throw refuse(
          `${stateName(pivot)} invokes the pivot beside ${stateName(risky)}, a parallel region that may still fail. ` +
            'Join the regions first (onDone of the parallel state), then invoke the pivot.',
        );
      }
    }
  }
}

function checkAfterPivot(pivot: Node, actorId: string, invokedBy: (node: Node) => Invoked): void {
  const rest = activeAfter(pivot, actorId);
  const seen = new Set<Node>();
  for (let node = rest.pop(); node !== undefined; node = rest.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    // The states around the pivot are active before it too; only what they lead to counts.
    const around = isAncestor(node, pivot);
    const offender = around
      ? undefined
      : invokedBy(node).find(({ spec }) => !allowedAfterPivot(spec));
    if (offender !== undefined) {
      const what =
        offender.spec.kind === 'step' ? `the ${offender.spec.class} step` : 'compensateAll()';
      throw refuse(
        `${stateName(node)} invokes ${what} "${offender.id}" and can be reached after the pivot of ${stateName(pivot)}. ` +
          'Past the pivot nothing may fail or be compensated: use retriable() or readOnly() there, or move the step before the pivot.',
      );
    }
    rest.push(...ledTo(node));
  }
}

/** A retriable step is not taken back, so nothing may follow it for which the saga may have to go back. */
export function checkRetriables(nodes: readonly Node[], invokedBy: (node: Node) => Invoked): void {
  for (const node of nodes) {
    const retriable = invokedBy(node).find(
      ({ spec }) => spec.kind === 'step' && spec.class === 'retriable',
    );
    if (retriable !== undefined) checkAfterRetriable(node, retriable.id, invokedBy);
  }
}

function checkAfterRetriable(
  step: Node,
  actorId: string,
  invokedBy: (node: Node) => Invoked,
): void {
  const rest: Node[] = [];
  for (let up: Node | undefined = step; up !== undefined; up = up.parent) rest.push(up);
  const seen = new Set<Node>();
  for (let node = rest.pop(); node !== undefined; node = rest.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    const invoked = invokedBy(node);
    // All that was done is taken back there.
    if (invoked.some(({ spec }) => spec.kind === 'compensateAll')) continue;
    // What its own state and those around it invoke runs beside it.
    const beside = node === step || isAncestor(node, step);
    const offender = beside ? undefined : invoked.find(({ spec }) => isRisky(spec));
    if (offender?.spec.kind === 'step') {
      throw refuse(
        `${stateName(node)} invokes the ${offender.spec.class} step "${offender.id}" and can be reached after the retriable ` +
          `step "${actorId}" of ${stateName(step)}. What a retriable step did is never taken back, so only retriable() and ` +
          'readOnly() steps may follow it: move it behind the others, or make it compensatable(), with a compensation that does nothing ' +
          'if there is nothing to take back.',
      );
    }
    rest.push(...ledTo(node));
  }
}

/** States that are active, or entered, once the pivot has succeeded. */
function activeAfter(pivot: Node, actorId: string): Node[] {
  const done = pivot.transitions.get(`xstate.done.actor.${actorId}`) ?? [];
  const targets = done.map((transition) => transition.target as Node[] | undefined);
  const out = targets.flatMap((target) => (target ?? []).flatMap((n) => entered(n)));
  const stays = targets.includes(undefined);
  // An onDone without a target stays in the state, whose other ways out are still open.
  if (stays) out.push(...ledTo(pivot, `xstate.error.actor.${actorId}`));
  for (let node: Node | undefined = pivot; node?.parent !== undefined; node = node.parent) {
    const { parent } = node;
    if (stays) out.push(parent);
    const isLeft = !stays && !out.some((n) => isAncestor(parent, n));
    if (parent.type === 'parallel' && !isLeft) {
      for (const sibling of regionsBeside(node)) out.push(...subtree(sibling));
    }
  }
  return out;
}

/** What the transitions of a state enter. */
function ledTo(node: Node, exceptOn?: string): Node[] {
  return [...node.transitions.values(), node.always ?? []].flat().flatMap((transition) =>
    // A cancel is refused by the engine once the pivot has passed; the machine never sees it there.
    transition.eventType === CANCEL_EVENT || transition.eventType === exceptOn
      ? []
      : ((transition.target as Node[] | undefined) ?? []).flatMap((n) => entered(n)),
  );
}

function regionsBeside(region: Node): Node[] {
  return (Object.values(region.parent?.states ?? {}) as Node[]).filter((n) => n !== region);
}

/** Ids of invokes name the steps' answers: two that may run at once must not share one. */
export function checkInvokeIds(nodes: readonly Node[]): void {
  const first = new Map<string, Node[]>();
  for (const node of nodes) {
    for (const { id } of node.invoke) {
      const others = first.get(id) ?? [];
      const rival = others.find((other) => mayBothBeActive(other, node));
      if (rival !== undefined) {
        throw refuse(
          `${stateName(rival)} and ${stateName(node)} both invoke under the id "${id}" and may be active at once. ` +
            'Give each an id of its own, or leave the id out.',
        );
      }
      first.set(id, [...others, node]);
    }
  }
}

function mayBothBeActive(a: Node, b: Node): boolean {
  if (a === b || isAncestor(a, b) || isAncestor(b, a)) return true;
  let common: Node | undefined = a.parent;
  while (common !== undefined && !isAncestor(common, b)) common = common.parent;
  return common?.type === 'parallel';
}

function isAncestor(node: Node, of: Node): boolean {
  for (let up: Node | undefined = of.parent; up !== undefined; up = up.parent)
    if (up === node) return true;
  return false;
}

function subtree(node: Node): Node[] {
  return [node, ...(Object.values(node.states) as Node[]).flatMap((child) => subtree(child))];
}

function isRisky(spec: ActorSpec): boolean {
  return spec.kind === 'compensateAll' || spec.class === 'compensatable' || spec.class === 'pivot';
}

function allowedAfterPivot(spec: ActorSpec): boolean {
  return spec.kind === 'step' && (spec.class === 'retriable' || spec.class === 'readOnly');
}
