/**
 * What can befall one command, and every case of it for a way: the product of nodes and troubles.
 *
 * Guards that the list is made from the nodes of a run, so that no step and no compensation is left out.
 */
import type { Node, Way } from './nodes.ts';

/**
 * - `twice`: delivered and answered twice. `at once`: to two workers at the same time.
 * - `answer lost`: done, its answer comes only after the deadline and the settlement's answer.
 * - `answer late`: the same, its answer comes between the deadline and the settlement's.
 * - `comes late`: delivered only after its settlement. `settled meanwhile`: at the same time as its settlement.
 * - `rejected`: the participant says no, then the command comes again though it would say yes by now.
 * - `throws before` / `throws behind` its work, a few times; `broken`: at each attempt until a person acts.
 */
export type Trouble =
  | 'twice'
  | 'at once'
  | 'answer lost'
  | 'answer late'
  | 'comes late'
  | 'settled meanwhile'
  | 'rejected'
  | 'throws before'
  | 'throws behind'
  | 'broken'
  | 'broken behind';

export interface Fault {
  /** `charge`, or `charge:compensate`. */
  readonly node: string;
  readonly trouble: Trouble;
}

export interface Case {
  readonly name: string;
  readonly way: Way;
  readonly faults: readonly Fault[];
  /** Which command is delivered first when several are on their way. */
  readonly first: 'oldest' | 'newest';
}

/** Attempts that a handler with a passing trouble fails. */
export const PASSING_FAILURES = 3;

const ON_ANY: readonly Trouble[] = [
  'twice',
  'at once',
  'throws before',
  'throws behind',
  'broken',
  'broken behind',
];
const ON_TIMED: readonly Trouble[] = [
  'answer lost',
  'answer late',
  'comes late',
  'settled meanwhile',
];
const ORDERS = ['oldest', 'newest'] as const;

/**
 * @param nodes the steps of the way's undisturbed run
 * @param parallel whether several commands are on their way at once, so that their order makes a difference
 */
export function casesOf(way: Way, nodes: readonly Node[], parallel: boolean): Case[] {
  const faultSets: Fault[][] = [
    [],
    nodes.map(({ step }) => ({ node: step, trouble: 'twice' })),
    nodes.map(({ step }) => ({ node: step, trouble: 'at once' })),
    ...nodes.flatMap((node) => forward(node).map((fault) => [fault])),
    ...nodes.flatMap((node) =>
      enders(node).flatMap((end) => undone(nodes, node, end).map((faults) => [end, ...faults])),
    ),
  ];
  return faultSets.flatMap((faults) =>
    (parallel ? ORDERS : ORDERS.slice(0, 1)).map((first) => ({
      name: nameOf(way, faults, first),
      way,
      faults,
      first,
    })),
  );
}

function nameOf(way: Way, faults: readonly Fault[], first: Case['first']): string {
  const told = faults.map(({ node, trouble }) => `${node} ${trouble}`).join(', ');
  return `${way.name}: ${told === '' ? 'undisturbed' : told}; ${first} first`;
}

function forward(node: Node): Fault[] {
  const troubles = [...ON_ANY, ...(node.spec.timeoutMs === null ? [] : ON_TIMED)];
  if (canReject(node)) troubles.push('rejected');
  return troubles.map((trouble) => ({ node: node.step, trouble }));
}

function canReject({ spec }: Node): boolean {
  return Object.keys(spec.contract.rejections as object).length > 0;
}

/** What makes the saga turn back at this node: a no, an outcome that stays unknown. */
function enders(node: Node): Fault[] {
  if (node.class === 'retriable') return [];
  const troubles: Trouble[] = [];
  if (canReject(node)) troubles.push('rejected');
  if (node.spec.timeoutMs !== null) troubles.push('comes late');
  if (node.class === 'compensatable' && node.spec.timeoutMs !== null) troubles.push('answer lost');
  return troubles.map((trouble) => ({ node: node.step, trouble }));
}

/** Troubles of each compensation that may be owed when `ender` ends the saga, and of all of them together. */
function undone(nodes: readonly Node[], ender: Node, end: Fault): Fault[][] {
  const isOwed = (node: Node): boolean => node !== ender || end.trouble === 'answer lost';
  const owed = nodes.filter((node) => node.class === 'compensatable' && isOwed(node));
  const names = owed.map(({ step }) => `${step}:compensate`);
  const each = names.flatMap((node) => ON_ANY.map((trouble): Fault[] => [{ node, trouble }]));
  const all = ON_ANY.map((trouble) => names.map((node): Fault => ({ node, trouble })));
  return names.length === 0 ? [[]] : [[], ...each, ...(names.length > 1 ? all : [])];
}
