/**
 * The one caller of xstate: a machine as a pure function from (JSON state, event) to (JSON state, actions).
 *
 * Guards replay (I9): state is plain JSON before and after, so a restored saga is the same as one that
 * stayed in memory. xstate's own `transition()` builds a whole actor, and with it the machine's initial
 * state, on every call (it cost more than the step itself); here one inert scope is built per machine
 * and only collects the actions. Nothing is started: no actor runs, no timer is set, nothing is sent.
 */
import {
  createActor,
  createMachine,
  type AnyActorScope,
  type AnyMachineSnapshot,
  type AnyStateMachine,
  type EventObject,
  type StateNode,
  type StateValue,
} from 'xstate';
import { MAX_DURATION_MS } from './durations.ts';
import { DefinitionFault } from './errors.ts';
import { wordsOf } from './fit.ts';
import { sortedCopy, toJson, type Json } from './json.ts';

/** A machine's state as it is kept. History is kept by state ids. */
export interface MachineState {
  value: StateValue;
  context: { [key: string]: Json };
  status: 'active' | 'done' | 'error';
  history?: { [nodeId: string]: string[] };
  output?: Json;
  /** The error that no `onError` took, when `status` is `error`. */
  error?: Json;
}

/** What a machine wants done, in the order in which it said so. */
export type MachineAction =
  | { type: 'spawn'; actorId: string; src: string; input: Json }
  | {
      type: 'setTimer';
      /** None when the machine gave none. */
      timerId: string | undefined;
      delayMs: number;
      event: { type: string; [key: string]: Json };
    }
  | { type: 'clearTimer'; timerId: string }
  | { type: 'emit'; event: { type: string; [key: string]: Json } };

export interface MachineTurn {
  state: MachineState;
  actions: MachineAction[];
  /** Ids of the children that the active states invoke. */
  activeActorIds: ReadonlySet<string>;
}

/** Microsteps in one turn beyond which a machine is taken to loop for ever, unless it sets its own bound. */
const DEFAULT_MAX_MICROSTEPS = 1000;

interface Compiled {
  machine: AnyStateMachine;
  /** Ids of everything that the machine invokes. */
  invokeIds: ReadonlySet<string>;
  scope: AnyActorScope;
  /** Where the scope's executor puts actions; replaced for each turn. */
  sink: { actions: RawAction[] };
}
interface RawAction {
  type: string;
  params?: unknown;
}

const compiledMachines = new WeakMap<AnyStateMachine, Compiled>();

/** The machine's first turn. @throws DefinitionFault when its own code throws. */
export function initialTurn(definition: AnyStateMachine, input: Json): MachineTurn {
  const compiled = compile(definition);
  return runTurn(compiled, () => {
    // Copies go in, here and below: code that changes its input in place must not change an event, and the
    // order of keys, which the log does not keep, must be the same on replay (I9).
    const snapshot = compiled.machine.getInitialSnapshot(
      compiled.scope,
      sortedCopy(input),
    ) as AnyMachineSnapshot;
    // A throwing context function doesn't throw out of xstate, it gives a snapshot in error.
    if (snapshot.status === 'error') throw snapshot.error;
    return snapshot;
  });
}

/** One turn on an event. @throws DefinitionFault when the machine's own code throws. */
export function nextTurn(
  definition: AnyStateMachine,
  state: MachineState,
  event: EventObject,
): MachineTurn {
  const compiled = compile(definition);
  return runTurn(compiled, () =>
    compiled.machine.transition(
      restore(compiled.machine, state),
      sortedCopy(event),
      compiled.scope,
    ),
  );
}

/**
 * Whether the machine has a transition for this event in this state (guards included).
 * @throws DefinitionFault when a guard throws.
 */
export function canHandle(
  definition: AnyStateMachine,
  state: MachineState,
  event: EventObject,
): boolean {
  const { machine } = compile(definition);
  return guarded(() => restore(machine, state).can(sortedCopy(event)));
}

/** Tags of the active states. */
export function tagsOf(definition: AnyStateMachine, state: MachineState): string[] {
  return [...restore(compile(definition).machine, state).tags] as string[];
}

/** The state value as one line: `paying`, `booking.flight.done`, regions joined by ",". */
export function stateLine(value: StateValue): string {
  if (typeof value === 'string') return value;
  return Object.entries(value)
    .flatMap(([key, child]) => {
      const inner = child === undefined ? '' : stateLine(child);
      return inner === '' ? [key] : inner.split(',').map((part) => `${key}.${part}`);
    })
    .join(',');
}

function compile(definition: AnyStateMachine): Compiled {
  const known = compiledMachines.get(definition);
  if (known !== undefined) return known;
  const options = { maxIterations: DEFAULT_MAX_MICROSTEPS, ...definition.config.options };
  const machine = createMachine(
    { ...definition.config, options } as never,
    definition.implementations as never,
  ) as unknown as AnyStateMachine;
  const self = createActor(createMachine({}));
  const sink: Compiled['sink'] = { actions: [] };
  const scope: AnyActorScope = {
    self,
    id: self.id,
    sessionId: self.sessionId,
    system: self.system,
    logger: () => {},
    defer: () => {},
    emit: () => {},
    stopChild: () => {},
    actionExecutor: (action) => {
      sink.actions.push(action);
    },
  };
  const invokeIds = new Set(invokeIdsOf(machine.root));
  const compiled = { machine, invokeIds, scope, sink };
  compiledMachines.set(definition, compiled);
  return compiled;
}

function invokeIdsOf(node: AnyStateMachine['root']): string[] {
  return [
    ...node.invoke.map((invoke) => invoke.id),
    ...Object.values(node.states).flatMap((child) => invokeIdsOf(child)),
  ];
}

function runTurn(compiled: Compiled, run: () => AnyMachineSnapshot): MachineTurn {
  const actions: RawAction[] = [];
  compiled.sink.actions = actions;
  let snapshot: AnyMachineSnapshot;
  try {
    snapshot = guarded(run);
  } finally {
    compiled.sink.actions = [];
  }
  if (snapshot.status === 'active') assertWhole(new Set(snapshot._nodes as StateNode[]));
  // An assign's spawn leaves no action, only a child.
  for (const [id, child] of Object.entries(
    snapshot.children as { [id: string]: { src: unknown } },
  )) {
    refuseSpawned(compiled, id, child.src);
  }
  return {
    state: keep(snapshot),
    actions: actions.flatMap((action) => readAction(compiled, action)),
    activeActorIds: new Set(
      snapshot.status === 'active'
        ? snapshot._nodes.flatMap((node: { invoke: { id: string }[] }) =>
            node.invoke.map((invoke) => invoke.id),
          )
        : [],
    ),
  };
}

/**
 * In rare charts xstate enters a state without its parent, or two children of one parent: when regions of one
 * parallel state leave it on the same event, or into its history. What the missing state invokes would never run.
 */
function assertWhole(nodes: ReadonlySet<StateNode>): void {
  for (const node of nodes) {
    const children = Object.values(node.states).filter((child) => child.type !== 'history');
    const active = children.filter((child) => nodes.has(child)).length;
    const wanted = node.type === 'parallel' ? children.length : node.type === 'compound' ? 1 : 0;
    if (active === wanted && (node.parent === undefined || nodes.has(node.parent))) continue;
    throw new DefinitionFault(
      'MACHINE_FAULT',
      `The machine came to a state that can't be, around "${node.path.join('.')}". Mostly two regions of a parallel ` +
        'state left it on the same event: let the parallel state itself have that transition.',
    );
  }
}

function guarded<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof DefinitionFault) throw error;
    throw new DefinitionFault('MACHINE_FAULT', `The machine's own code threw: ${wordsOf(error)}`, {
      cause: error,
    });
  }
}

function keep(snapshot: AnyMachineSnapshot): MachineState {
  const state: MachineState = {
    value: snapshot.value as StateValue,
    context: toJson(snapshot.context, "The machine's context") as MachineState['context'],
    status: snapshot.status === 'stopped' ? 'error' : snapshot.status,
  };
  const history = Object.entries(snapshot.historyValue as { [id: string]: { id: string }[] });
  if (history.length > 0) {
    state.history = Object.fromEntries(
      history.map(([id, nodes]) => [id, nodes.map((node) => node.id)]),
    );
  }
  if (snapshot.status === 'done') state.output = toJson(snapshot.output, "The machine's output");
  if (snapshot.status === 'error') state.error = toJson(snapshot.error, "The machine's error");
  return state;
}

/** A state that was kept as jsonb, which sorts keys, with its regions in the machine's order again (I9). */
export function inMachineOrder(definition: AnyStateMachine, state: MachineState): MachineState {
  return { ...state, value: inDocumentOrder(definition.root, state.value) };
}

/** xstate goes through parallel regions in the order of the value's keys; here it is always that of the machine. */
function inDocumentOrder(node: AnyStateMachine['root'], value: StateValue): StateValue {
  if (typeof value === 'string') return value;
  const keys = Object.keys(value);
  if (keys.length > 1) {
    const order = Object.keys(node.states);
    keys.sort((a, b) => order.indexOf(a) - order.indexOf(b));
  }
  return Object.fromEntries(
    keys.map((key) => {
      const child = node.states[key];
      const inner = value[key] ?? {};
      return [key, child === undefined ? inner : inDocumentOrder(child, inner)];
    }),
  );
}

function restore(machine: AnyStateMachine, state: MachineState): AnyMachineSnapshot {
  const historyValue = Object.fromEntries(
    Object.entries(state.history ?? {}).map(([id, nodes]) => [
      id,
      nodes.map((node) => machine.getStateNodeById(node)),
    ]),
  );
  return machine.resolveState({
    value: inDocumentOrder(machine.root, state.value),
    context: sortedCopy(state.context),
    status: state.status,
    historyValue,
    output: state.output,
    error: state.error,
  });
}

function refuseSpawned({ invokeIds }: Compiled, id: string, src: unknown): void {
  if (invokeIds.has(id)) return;
  throw new DefinitionFault(
    'MACHINE_FAULT',
    `The machine spawned the actor "${String(src)}" by an action. Let a state invoke it, so that its answer has a place to go.`,
  );
}

function readAction(compiled: Compiled, action: RawAction): MachineAction[] {
  switch (action.type) {
    case 'xstate.spawnChild': {
      const { id, src, input } = action.params as { id: string; src: unknown; input: unknown };
      refuseSpawned(compiled, id, src);
      return [
        {
          type: 'spawn',
          actorId: id,
          src: String(src),
          input: toJson(input, `The input of step "${String(src)}"`),
        },
      ];
    }
    case 'xstate.raise': {
      const { event, id, delay } = action.params as {
        event: unknown;
        id?: string;
        delay?: unknown;
      };
      // Without a delay xstate has put it into its own queue already.
      if (typeof delay !== 'number') return [];
      if (!(delay <= MAX_DURATION_MS)) {
        throw new DefinitionFault(
          'MACHINE_FAULT',
          `The machine asked for a delay of ${delay} ms; it must be a number up to a hundred years.`,
        );
      }
      const raised = toJson(event, 'A raised event') as { type: string };
      return [
        {
          type: 'setTimer',
          timerId: id,
          delayMs: Math.max(0, delay),
          event: raised,
        },
      ];
    }
    case 'xstate.cancel':
      return [
        { type: 'clearTimer', timerId: String((action.params as { sendId: unknown }).sendId) },
      ];
    case 'xstate.emit': {
      const { event } = action.params as { event: unknown };
      return [{ type: 'emit', event: toJson(event, 'An emitted event') as { type: string } }];
    }
    case 'xstate.stopChild':
      // Which children stopped is seen from activeActorIds; a restored machine has no child refs to name.
      return [];
    default:
      throw new DefinitionFault(
        'MACHINE_FAULT',
        `The machine ran the action "${action.type}", which has side effects; only assign, raise, cancel and emit are pure.`,
      );
  }
}
