/**
 * A saga's state: what its stream folds to. Plain JSON, so that it can be kept as a snapshot (a cache).
 *
 * Guards that everything `decide` looks at is in here and nowhere else; the rest of this file are
 * questions about a state that several modules ask.
 */
import type { CauseEvent, ConsequenceEvent, Failure, SagaStatus, StepClass } from './events.ts';
import type { Json } from './json.ts';
import { stateLine, type MachineState } from './machine.ts';

/**
 * One command on its way to an answer. `open`: a participant has it. `waiting`: the next attempt is due
 * at `retryAt`. `pending`: accepted, the answer comes later. `stuck`: out of attempts, a person acts.
 */
export interface Call {
  commandId: string;
  status: 'open' | 'waiting' | 'pending' | 'stuck';
  attempt: number;
  /** Attempts made before the present budget began (an operator's retry begins a new one). */
  budgetFrom: number;
  retryAt?: number;
  failure?: Failure;
}

export interface StepState {
  commandId: string;
  /** 1, 2, 3… in the order of requests; a loop's second round is another step. */
  n: number;
  step: string;
  actorId: string;
  class: StepClass;
  input: Json;
  /** Stream version of its StepRequested. */
  requestedVersion: number;
  /** Stream version of the event that made its success known. */
  completedVersion?: number;
  output?: Json;
  deadlineAt?: number;
  heartbeatDueAt?: number;
  /** The step itself, until it is answered or given up. */
  call?: Call;
  /** Set when the machine no longer waits for it though it may have been done: it is settled, then compensated. */
  givenUp?: Failure;
  settle?: Call;
  compensate?: Call & { input: Json };
}

/**
 * `forward`: the machine runs. `compensating`: it waits in compensateAll(). `aborting`: the engine
 * compensates in the machine's stead. `closing`: the machine is done, given-up steps are being settled.
 */
export type Phase = 'forward' | 'compensating' | 'aborting' | 'closing' | 'ended';

/**
 * The core's rules of today. A saga keeps those that it was started by: its log gives the same for ever (I9).
 * 1: of several compensateAll() that wait at once only the last is told when all is compensated; a cancel that comes
 * meanwhile is dropped; a compensation is built from the step's input as the machine sent it.
 * 2: each of them is told; the cancel is kept for when the machine would go forward again; a compensation is built from
 * the step's input as its schema gives it.
 */
export const RULES = 2;

export interface Cancel {
  requestId: string;
  reason: string;
  by: string;
}

export interface SagaState {
  sagaId: string;
  namespace: string;
  definition: string;
  definitionVersion: number;
  /** The rules that it was started by; absent: 1. */
  rules?: number;
  streamVersion: number;
  startedAt: number;
  updatedAt: number;
  businessKey?: string;
  attributes?: { [name: string]: string | number | boolean };
  traceparent?: string;
  /** Null while the start itself is faulted. */
  machine: MachineState | null;
  phase: Phase;
  /** The actor id under which the machine invoked compensateAll(), while it runs. */
  compensateActorId?: string;
  /** Those of others that run beside it, in parallel regions, in the order in which they were invoked. */
  furtherCompensateActorIds?: string[];
  /** A cancel that came while compensating: applied when the machine would go forward again. */
  keptCancel?: Cancel;
  pivot: 'none' | 'inFlight' | 'passed';
  /** Everything owed was compensated, and nothing was done since that could be. */
  compensated: boolean;
  /** The last failure the machine was told of: the reason given for a compensation. */
  lastFailure?: Failure;
  steps: { [commandId: string]: StepState };
  stepCount: number;
  timers: { [timerId: string]: { dueAt: number; event: { type: string; [key: string]: Json } } };
  paused: boolean;
  /** Inputs held back, in order of arrival; applied when the saga is neither paused, faulted nor in its pivot. */
  deferred: CauseEvent[];
  /** The input on which the machine's own code threw. */
  faulted?: { cause: CauseEvent; failure: Failure };
  /** Ids of signals and verbs that were accepted: a repeat is dropped (I4). */
  seenIds: string[];
  /** Consequences of the last cause that the log must show next; empty between turns (I9). */
  expected: ConsequenceEvent[];
  endedAt?: number;
  output?: Json;
  failure?: Failure;
}

export function rulesOf(state: SagaState): number {
  return state.rules ?? 1;
}

export function isEnded(state: SagaState): boolean {
  return state.phase === 'ended';
}

/** Whether an input for the machine may be applied now; otherwise it is deferred (SEMANTICS 4.2, 4.7). */
export function machineIsOpen(state: SagaState): boolean {
  return !state.paused && state.faulted === undefined && state.pivot !== 'inFlight';
}

/** The steps in the order of their requests; that of keys is not the same in a state out of a snapshot. */
export function stepsOf(state: SagaState): StepState[] {
  return Object.values(state.steps).sort((a, b) => a.n - b.n);
}

/** All calls that still await something, with the step they belong to. */
export function activeCalls(state: SagaState): { step: StepState; call: Call }[] {
  return stepsOf(state).flatMap((step) =>
    [step.call, step.settle, step.compensate].flatMap((call) =>
      call === undefined ? [] : [{ step, call }],
    ),
  );
}

/** Something that falls due: what a wake-up at that time has to do. */
export type Due =
  | { kind: 'timer'; at: number; timerId: string }
  | { kind: 'retry'; at: number; commandId: string; attempt: number }
  | { kind: 'deadline'; at: number; commandId: string }
  | { kind: 'heartbeat'; at: number; commandId: string; attempt: number };

/** The earliest thing that falls due, if any. Paused and faulted sagas sleep; all is due at once when they go on. */
export function earliestDue(state: SagaState): Due | null {
  if (isEnded(state) || state.paused || state.faulted !== undefined) return null;
  let first: Due | null = null;
  const offer = (due: Due): void => {
    if (first === null || due.at < first.at) first = due;
  };
  // While the pivot's outcome is unknown the saga may go neither way: only the pivot's own times count.
  const inPivot = state.pivot === 'inFlight';
  for (const { step, call } of activeCalls(state)) {
    if (call.status === 'waiting' && call.retryAt !== undefined) {
      offer({
        kind: 'retry',
        at: call.retryAt,
        commandId: call.commandId,
        attempt: call.attempt + 1,
      });
    }
    if (call !== step.call || call.status === 'stuck' || (inPivot && step.class !== 'pivot'))
      continue;
    if (step.deadlineAt !== undefined)
      offer({ kind: 'deadline', at: step.deadlineAt, commandId: step.commandId });
    if (step.heartbeatDueAt !== undefined && call.status === 'open') {
      offer({
        kind: 'heartbeat',
        at: step.heartbeatDueAt,
        commandId: step.commandId,
        attempt: call.attempt,
      });
    }
  }
  if (!inPivot) {
    for (const [timerId, { dueAt }] of Object.entries(state.timers))
      offer({ kind: 'timer', at: dueAt, timerId });
  }
  return first;
}

export function statusOf(state: SagaState): SagaStatus {
  if (state.phase === 'ended') return state.compensated ? 'compensated' : 'completed';
  if (state.paused) return 'paused';
  if (stuckReason(state) !== null) return 'stuck';
  return state.phase === 'compensating' || state.phase === 'aborting' ? 'compensating' : 'running';
}

/** Why a person is needed, or null. */
export function stuckReason(state: SagaState): Failure | null {
  if (state.faulted !== undefined) return state.faulted.failure;
  for (const { call } of activeCalls(state)) {
    if (call.status === 'stuck') return call.failure ?? { code: 'STUCK', message: '' };
  }
  return null;
}

/** The failure to show for a saga: why it is stuck, was compensated, or last failed. */
export function shownFailure(state: SagaState): Failure | null {
  // What it is stuck with comes first: a person has to act on that, not on what began the compensation.
  return (
    stuckReason(state) ??
    state.failure ??
    (statusOf(state) === 'completed' ? null : (state.lastFailure ?? null))
  );
}

export function shownState(state: SagaState): string {
  return state.machine === null ? '' : stateLine(state.machine.value);
}

/** A copy that may be changed without touching the original; JSON inside steps is shared, never changed. */
export function copyState(state: SagaState): SagaState {
  const steps: SagaState['steps'] = {};
  for (const [id, step] of Object.entries(state.steps)) {
    const copy = { ...step };
    if (step.call !== undefined) copy.call = { ...step.call };
    if (step.settle !== undefined) copy.settle = { ...step.settle };
    if (step.compensate !== undefined) copy.compensate = { ...step.compensate };
    steps[id] = copy;
  }
  return { ...state, steps, timers: { ...state.timers } };
}
