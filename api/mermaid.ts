/**
 * A machine as a Mermaid `stateDiagram-v2`.
 *
 * Guards that the text is valid Mermaid whatever the names are: ids are made of safe characters and are
 * unique, labels hold nothing that the grammar reads as syntax. Pure.
 */
import type { InvokeView, StateView, TransitionView } from './machine-view.ts';

interface Drawing {
  lines: string[];
  /** State id → Mermaid id. */
  names: ReadonlyMap<string, string>;
  /** State id → id of the state it is in; none for those at the top of the diagram. */
  parents: ReadonlyMap<string, string>;
  /** Transitions between states of different boxes: inside a box Mermaid would draw the other state again. */
  across: string[];
}

/** The diagram's text, with a newline at its end. States keep the machine's order. */
export function mermaidOf(root: StateView): string {
  // The machine itself gets a box only where something hangs on it: regions, or transitions of every state.
  const boxed = root.type === 'parallel' || root.transitions.length > 0 || root.states.length === 0;
  const drawing: Drawing = {
    lines: ['stateDiagram-v2'],
    names: nameStates(root),
    parents: parentsOf(root, boxed),
    across: [],
  };
  if (boxed) {
    drawing.lines.push(`  [*] --> ${nameIn(drawing, root.id)}`);
    writeState(root, 1, drawing);
  } else {
    writeChildren(root, 1, drawing);
  }
  return `${[...drawing.lines, ...drawing.across].join('\n')}\n`;
}

/** Unique although different characters are replaced by the same one. */
function nameStates(root: StateView): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  const taken = new Set<string>();
  const visit = (state: StateView): void => {
    const path = state.id.startsWith(`${root.id}.`) ? state.id.slice(root.id.length + 1) : state.id;
    // The prefix keeps names apart from Mermaid's own words, such as "end" and "state".
    const base = `s_${path.replace(/[^A-Za-z0-9]+/g, '_')}`;
    let name = base;
    for (let n = 2; taken.has(name); n += 1) name = `${base}_${n}`;
    taken.add(name);
    names.set(state.id, name);
    state.states.forEach(visit);
  };
  visit(root);
  return names;
}

function parentsOf(root: StateView, boxed: boolean): ReadonlyMap<string, string> {
  const parents = new Map<string, string>();
  const visit = (state: StateView): void => {
    for (const child of state.states) {
      if (boxed || state !== root) parents.set(child.id, state.id);
      visit(child);
    }
  };
  visit(root);
  return parents;
}

function writeState(state: StateView, depth: number, drawing: Drawing): void {
  const pad = '  '.repeat(depth);
  const name = nameIn(drawing, state.id);
  drawing.lines.push(`${pad}state "${label(titleOf(state))}" as ${name}`);
  if (state.states.length > 0) {
    drawing.lines.push(`${pad}state ${name} {`);
    writeChildren(state, depth + 1, drawing);
    drawing.lines.push(`${pad}}`);
  }
  for (const transition of state.transitions) writeTransition(state, transition, depth, drawing);
  if (state.type === 'final') drawing.lines.push(`${pad}${name} --> [*]`);
}

function writeChildren(state: StateView, depth: number, drawing: Drawing): void {
  const pad = '  '.repeat(depth);
  const regions = state.type === 'parallel';
  if (state.initial !== null) drawing.lines.push(`${pad}[*] --> ${nameIn(drawing, state.initial)}`);
  state.states.forEach((child, index) => {
    if (regions && index > 0) drawing.lines.push(`${pad}--`);
    if (regions) drawing.lines.push(`${pad}[*] --> ${nameIn(drawing, child.id)}`);
    writeState(child, depth, drawing);
  });
}

function writeTransition(
  state: StateView,
  transition: TransitionView,
  depth: number,
  drawing: Drawing,
): void {
  const from = nameIn(drawing, state.id);
  const words = label(
    transition.guard === null ? transition.on : `${transition.on} [${transition.guard}]`,
  );
  // No target: the state is kept, which is drawn as an arrow back to it.
  const targets = transition.targets.length > 0 ? transition.targets : [state.id];
  for (const target of targets) {
    const arrow = `${from} --> ${nameIn(drawing, target)} : ${words}`;
    if (drawing.parents.get(state.id) === drawing.parents.get(target)) {
      drawing.lines.push(`${'  '.repeat(depth)}${arrow}`);
    } else {
      drawing.across.push(`  ${arrow}`);
    }
  }
}

function nameIn(drawing: Drawing, stateId: string): string {
  const name = drawing.names.get(stateId);
  if (name === undefined)
    throw new Error(`State "${stateId}" is not in the machine that is drawn.`);
  return name;
}

function titleOf(state: StateView): string {
  const key = state.type === 'history' ? `${state.key} (history)` : state.key;
  return [key, ...state.invoke.map(invokeWords)].join(' · ');
}

function invokeWords(invoke: InvokeView): string {
  return invoke.command === null ? invoke.src : `${invoke.command} (${invoke.class ?? 'step'})`;
}

/** Quotes, colons, line breaks, `%%`, `#` and `;` would end a label or start something else. */
function label(text: string): string {
  const safe = text
    .replace(/["#;:<>{}\\`]|%%|--/g, ' ')
    .replace(/\s+/g, ' ')
    .trim()
    .slice(0, 200);
  return safe === '' ? '?' : safe;
}
