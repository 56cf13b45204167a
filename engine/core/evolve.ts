/**
 * `evolve`: folds one event into a state; the same function live and on replay (I9).
 *
 * A cause runs a turn and leaves its consequences as `expected`; each consequence must then be the next
 * one expected, else the log and the definition disagree and the saga is stopped, never "fixed".
 */
import { applyCause, concernsMachine, replacesFaulted, reviewDeferred } from './causes.ts';
import type { AnyDefinition } from './define.ts';
import { ReplayDivergence } from './errors.ts';
import type { CauseEvent, ConsequenceEvent, SagaEvent } from './events.ts';
import { jsonEqual } from './json.ts';
import { copyState, isEnded, machineIsOpen, type SagaState } from './state.ts';
import { startMachine } from './advance.ts';
import { beginTurn, emit } from './turn.ts';

/**
 * @param state null before the first event
 * @param event the next event of the stream
 * @param at its time, ms since the epoch
 * @throws ReplayDivergence when the event can't follow, or is not what the definition gives
 * @throws DefinitionFault when the machine's own code throws on a cause
 */
export function evolve(
  definition: AnyDefinition,
  sagaId: string,
  state: SagaState | null,
  event: SagaEvent,
  at: number,
): SagaState {
  if (state !== null && state.expected.length > 0) return takeExpected(state, event, at);
  if (state !== null && isEnded(state)) throw diverged(state, event, 'the stream has ended (I5)');
  return applyEvent(definition, sagaId, state, event, at);
}

/** Folds a whole stream. @param from a state to go on from, e.g. out of a snapshot */
export function fold(
  definition: AnyDefinition,
  sagaId: string,
  events: Iterable<{ event: SagaEvent; at: number }>,
  from: SagaState | null = null,
): SagaState | null {
  let state = from;
  for (const { event, at } of events) state = evolve(definition, sagaId, state, event, at);
  return state;
}

function takeExpected(state: SagaState, event: SagaEvent, at: number): SagaState {
  const [next, ...rest] = state.expected;
  if (!jsonEqual(next, event)) {
    throw diverged(state, event, `the definition gives ${JSON.stringify(next)}`);
  }
  const after = { ...state, expected: rest, streamVersion: state.streamVersion + 1, updatedAt: at };
  return rest.length === 0 ? dropStaleDeferred(after) : after;
}

function applyEvent(
  definition: AnyDefinition,
  sagaId: string,
  state: SagaState | null,
  event: SagaEvent,
  at: number,
): SagaState {
  if (state === null) return applyFirst(definition, sagaId, event, at);
  const next = copyState(state);
  next.streamVersion += 1;
  next.updatedAt = at;
  noteSeen(next, event);
  const turn = beginTurn(definition, next, at);
  if (event.type === 'InputDeferred') {
    next.deferred = [...next.deferred, event.cause];
  } else if (event.type === 'InputFaulted') {
    takeDeferred(next, event.cause);
    // A cancel or a verb met a fault of its own: what had faulted before comes after it.
    if (next.faulted !== undefined && !replacesFaulted(next, event.cause))
      next.deferred = [next.faulted.cause, ...next.deferred];
    next.faulted = { cause: event.cause, failure: event.failure };
    emit(turn, { type: 'SagaStuck', failure: event.failure });
  } else if (event.type === 'SagaStarted') {
    // Only the retry of a start that had faulted comes here; a first start has no state yet.
    takeDeferred(next, event);
    startMachine(turn, event.input);
  } else if (isCause(event)) {
    takeDeferred(next, event);
    applyCause(turn, event);
  } else {
    throw diverged(state, event, 'the definition gives nothing here');
  }
  return settleTurn(next, turn.consequences);
}

function applyFirst(
  definition: AnyDefinition,
  sagaId: string,
  event: SagaEvent,
  at: number,
): SagaState {
  const start = event.type === 'InputFaulted' ? event.cause : event;
  if (start.type !== 'SagaStarted')
    throw new ReplayDivergence(`The stream of saga ${sagaId} begins with ${event.type}.`);
  const state: SagaState = {
    sagaId,
    namespace: start.namespace,
    definition: start.definition,
    definitionVersion: start.definitionVersion,
    streamVersion: 1,
    startedAt: at,
    updatedAt: at,
    machine: null,
    phase: 'forward',
    pivot: 'none',
    compensated: false,
    steps: {},
    stepCount: 0,
    timers: {},
    paused: false,
    deferred: [],
    seenIds: [],
    expected: [],
  };
  if (start.rules !== undefined) state.rules = start.rules;
  if (start.businessKey !== undefined) state.businessKey = start.businessKey;
  if (start.attributes !== undefined) state.attributes = start.attributes;
  if (start.traceparent !== undefined) state.traceparent = start.traceparent;
  const turn = beginTurn(definition, state, at);
  if (event.type === 'InputFaulted') {
    state.faulted = { cause: start, failure: event.failure };
    emit(turn, { type: 'SagaStuck', failure: event.failure });
  } else {
    startMachine(turn, start.input);
  }
  return settleTurn(state, turn.consequences);
}

function settleTurn(state: SagaState, consequences: ConsequenceEvent[]): SagaState {
  state.expected = consequences;
  return consequences.length === 0 ? dropStaleDeferred(state) : state;
}

/** Drops deferred inputs whose object is gone, so that the next one, if any, can be applied as it stands. */
function dropStaleDeferred(state: SagaState): SagaState {
  let current = state;
  for (let index = nextDeferredIndex(current); index >= 0; index = nextDeferredIndex(current)) {
    const cause = current.deferred[index];
    const due = cause === undefined ? null : reviewDeferred(current, cause);
    if (due === null) {
      current = { ...current, deferred: current.deferred.filter((_, at) => at !== index) };
      continue;
    }
    if (due !== cause) current = { ...current, deferred: current.deferred.with(index, due) };
    break;
  }
  return current;
}

/** The deferred input that must be applied next, if one must. */
export function nextDeferred(state: SagaState): CauseEvent | undefined {
  return state.deferred[nextDeferredIndex(state)];
}

/** While the pivot is in flight its own answers pass; all else waits its turn. */
function nextDeferredIndex(state: SagaState): number {
  if (isEnded(state) || state.paused || state.faulted !== undefined) return -1;
  if (machineIsOpen(state)) return state.deferred.length > 0 ? 0 : -1;
  return state.deferred.findIndex((cause) => !concernsMachine(state, cause));
}

function takeDeferred(state: SagaState, event: CauseEvent): void {
  const index = nextDeferredIndex(state);
  if (index < 0) return;
  if (!jsonEqual(state.deferred[index], event)) {
    throw diverged(state, event, `the deferred ${state.deferred[index]?.type} comes first`);
  }
  state.deferred = state.deferred.filter((_, at) => at !== index);
}

function noteSeen(state: SagaState, event: SagaEvent): void {
  const cause =
    event.type === 'InputDeferred' || event.type === 'InputFaulted' ? event.cause : event;
  const id = seenIdOf(cause);
  if (id !== undefined && !state.seenIds.includes(id)) state.seenIds = [...state.seenIds, id];
}

/** The id by which a repeated signal or verb is known. */
export function seenIdOf(cause: SagaEvent): string | undefined {
  switch (cause.type) {
    case 'SignalReceived':
      return `signal:${cause.signalId}`;
    case 'CancelRequested':
      return `cancel:${cause.requestId}`;
    case 'OperatorActed':
      return `operator:${cause.requestId}`;
    default:
      return undefined;
  }
}

const CAUSES: ReadonlySet<string> = new Set<CauseEvent['type']>([
  'SagaStarted',
  'StepSucceeded',
  'StepRejected',
  'StepFailed',
  'StepPending',
  'StepHeartbeat',
  'StepTimedOut',
  'StepSettled',
  'SettlementFailed',
  'CompensationSucceeded',
  'CompensationFailed',
  'RetryDue',
  'TimerFired',
  'SignalReceived',
  'CancelRequested',
  'OperatorActed',
  'InputDeferred',
  'InputFaulted',
]);
export function isCause(event: SagaEvent): event is CauseEvent {
  return CAUSES.has(event.type);
}

function diverged(state: SagaState, event: SagaEvent, why: string): ReplayDivergence {
  return new ReplayDivergence(
    `Saga ${state.sagaId} at stream version ${state.streamVersion + 1}: the log has ${JSON.stringify(event)}, but ${why}. ` +
      `Was ${state.definition}@${state.definitionVersion} changed without a new version?`,
  );
}
