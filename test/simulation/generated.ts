/**
 * Generated sagas of a seed: machines that nobody wrote, with names and inputs of their own.
 *
 * Guards that the simulation does not only meet what its authors thought of. A definition is made from one
 * number, so that a seed names its machines too; which kinds of parts a state belongs to is told by its tags.
 */
import type { AnyStateNode } from 'xstate';
import { defineSaga, type AnyDefinition } from '../../engine/core/define.ts';
import { Dice } from '../support/dice.ts';
import { anything, randomSaga, SAGA_SIGNALS } from '../support/random-saga.ts';

/** Generated definitions are named so; nothing else is. */
const PREFIX = 'generated-';

/** @param n tells the generated definitions of one seed apart */
export function generateDefinition(n: number, dice: number): AnyDefinition {
  const machine = randomSaga(new Dice(dice));
  const signals = Object.fromEntries(
    SAGA_SIGNALS.filter((name) => machine.events.includes(name)).map((name) => [name, anything]),
  );
  return defineSaga({
    name: `${PREFIX}${n}`,
    version: 1,
    machine,
    input: anything,
    signals,
  }) as AnyDefinition;
}

export function isGenerated(definition: string): boolean {
  return definition.startsWith(PREFIX);
}

/** Kinds of the parts that one state is in, from the outermost: `fork`, `fork>loop`, `fork>loop>step`. */
export function kindsOf({ machine }: AnyDefinition, path: string): string[] {
  const kinds: string[] = [];
  const chains: string[] = [];
  let node: AnyStateNode | undefined = machine.root;
  for (const key of path === '' ? [] : path.split('.')) {
    node = node?.states[key];
    const kind = node?.tags[0];
    if (kind === undefined) continue;
    kinds.push(kind);
    chains.push(kinds.join('>'));
  }
  return chains;
}

/** The machine as an outline, one line a state: for the trace of a seed. */
export function outlineOf({ name, machine }: AnyDefinition): string[] {
  const lines = [`${name}:`];
  const visit = (node: AnyStateNode, depth: number): void => {
    const steps = node.invoke
      .map(({ src }) => (typeof src === 'string' ? ` invokes ${src}` : ''))
      .join('');
    const exits = [...node.transitions].map(([event, ways]) => {
      const to = ways.flatMap(({ target }) => target?.map(({ path }) => path.join('.')) ?? ['-']);
      return ` ${event}→${to.join('|')}`;
    });
    const always = (node.always ?? []).flatMap(({ target }) =>
      (target ?? []).map(({ path }) => ` always→${path.join('.')}`),
    );
    const type = node.type === 'atomic' ? '' : ` (${node.type})`;
    lines.push(
      `${'  '.repeat(depth)}${node.key}${type}${steps}${exits.join('')}${always.join('')}`,
    );
    for (const child of Object.values(node.states)) visit(child, depth + 1);
  };
  for (const child of Object.values(machine.root.states)) visit(child, 1);
  return lines;
}
