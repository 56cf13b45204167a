/**
 * A turn: one cause applied to a copy of the state, with the consequences that follow from it.
 *
 * Guards that the machine's wishes become facts in one place: spawned steps are requested (obligation
 * first), left ones are superseded, timers are set and cleared, and the end is reached only when
 * nothing is owed. Pure: time comes in, ids are derived, nothing is awaited.
 */
import type { EventObject } from 'xstate';
import type { StepError } from './contracts.ts';
import type { AnyDefinition } from './define.ts';
import { DefinitionFault } from './errors.ts';
import type { ConsequenceEvent, Failure } from './events.ts';
import { fit, wordsOf } from './fit.ts';
import { sortedCopy, toJson, type Json } from './json.ts';
import { isSendable } from './wire.ts';
import { initialTurn, nextTurn, type MachineAction, type MachineTurn } from './machine.ts';
import { giveUpForSettlement } from './calls.ts';
import { pumpObligations } from './obligations.ts';
import { stepsOf, type SagaState, type StepState } from './state.ts';
import type { StepSpec } from './steps.ts';

/** Machine turns within one turn of the saga; more means two steps that end each other without any work. */
const MAX_MACHINE_TURNS = 1000;

export interface Turn {
  readonly definition: AnyDefinition;
  readonly state: SagaState;
  /** ms since the epoch, the database's clock. */
  readonly now: number;
  readonly consequences: ConsequenceEvent[];
  /** Events that the machine has still to be told in this turn. */
  readonly machineQueue: EventObject[];
  machineTurns: number;
  /** Whether the machine's queue is being worked off: a nested call only adds to it. */
  machineRuns: boolean;
}

/** `state` must be a copy that this turn may change, its `streamVersion` that of the cause. */
export function beginTurn(definition: AnyDefinition, state: SagaState, now: number): Turn {
  return {
    definition,
    state,
    now,
    consequences: [],
    machineQueue: [],
    machineTurns: 0,
    machineRuns: false,
  };
}

/** Adds a consequence. @returns its stream version. */
export function emit(turn: Turn, event: ConsequenceEvent): number {
  turn.consequences.push(event);
  return turn.state.streamVersion + turn.consequences.length;
}

export function stepSpec(turn: Turn, step: { step: string }): StepSpec {
  const spec = turn.definition.actors.get(step.step);
  if (spec?.kind !== 'step') {
    throw new DefinitionFault(
      'MACHINE_FAULT',
      `The definition has no step named "${step.step}" any more.`,
    );
  }
  return spec;
}

export function startMachine(turn: Turn, input: Json): void {
  turn.machineRuns = true;
  absorb(turn, initialTurn(turn.definition.machine, input));
  turn.machineRuns = false;
  runMachine(turn);
}

/** Tells the machine, and goes on until it has nothing more to be told (in order, never nested). */
export function tellMachine(turn: Turn, event: EventObject): void {
  turn.machineQueue.push(event);
  runMachine(turn);
}

export function tellDone(turn: Turn, actorId: string, output: Json): void {
  tellMachine(turn, { type: `xstate.done.actor.${actorId}`, output, actorId } as EventObject);
}

export function tellError(turn: Turn, actorId: string, error: StepError): void {
  turn.state.lastFailure = { code: error.code, message: error.message };
  tellMachine(turn, { type: `xstate.error.actor.${actorId}`, error, actorId } as EventObject);
}

function runMachine(turn: Turn): void {
  if (turn.machineRuns) return;
  turn.machineRuns = true;
  for (
    let event = turn.machineQueue.shift();
    event !== undefined;
    event = turn.machineQueue.shift()
  ) {
    const { machine, phase } = turn.state;
    if (machine === null || machine.status !== 'active' || phase === 'aborting') continue;
    if (++turn.machineTurns > MAX_MACHINE_TURNS) {
      throw new DefinitionFault(
        'MACHINE_FAULT',
        `The machine did not rest within ${MAX_MACHINE_TURNS} turns on one input.`,
      );
    }
    absorb(turn, nextTurn(turn.definition.machine, machine, event));
  }
  turn.machineRuns = false;
}

function absorb(turn: Turn, result: MachineTurn): void {
  const { state } = turn;
  state.machine = result.state;
  const spawns = lastSpawns(result.actions);
  supersedeLeftSteps(turn, (actorId) => !result.activeActorIds.has(actorId) || spawns.has(actorId));
  const left = state.compensateActorId;
  if (left !== undefined && (!result.activeActorIds.has(left) || spawns.has(left)))
    leaveCompensation(state);
  for (const action of result.actions) {
    // A child that was invoked and left again within the same turn was never started.
    const started =
      action.type !== 'spawn' ||
      (spawns.get(action.actorId) === action && result.activeActorIds.has(action.actorId));
    if (started) perform(turn, action);
  }
  if (result.state.status === 'error') {
    abort(
      turn,
      state.lastFailure ?? { code: 'UNHANDLED_ERROR', message: 'No onError took the error.' },
    );
  } else if (result.state.status === 'done') {
    beginClosing(turn);
  }
}

function lastSpawns(actions: readonly MachineAction[]): Map<string, MachineAction> {
  const spawns = new Map<string, MachineAction>();
  for (const action of actions) if (action.type === 'spawn') spawns.set(action.actorId, action);
  return spawns;
}

function perform(turn: Turn, action: MachineAction): void {
  const { state, now } = turn;
  switch (action.type) {
    case 'spawn':
      if (turn.definition.actors.get(action.src)?.kind === 'compensateAll')
        startCompensation(turn, action.actorId);
      else requestStep(turn, action);
      return;
    case 'setTimer': {
      const dueAt = Math.ceil(now + action.delayMs);
      // One without an id can't be cancelled and replaces no other: it gets an id that no other has.
      const version = state.streamVersion + turn.consequences.length + 1;
      const timerId = action.timerId ?? `${action.event.type}@${version}`;
      state.timers[timerId] = { dueAt, event: action.event };
      emit(turn, { type: 'TimerSet', timerId, dueAt });
      return;
    }
    case 'clearTimer':
      clearTimer(turn, action.timerId);
      return;
    case 'emit':
      assertSendable(action.event, `The event "${action.event.type}" that the machine emits`);
      emit(turn, { type: 'DomainEventEmitted', event: action.event });
      return;
  }
}

function clearTimer(turn: Turn, timerId: string): void {
  if (turn.state.timers[timerId] === undefined) return;
  delete turn.state.timers[timerId];
  emit(turn, { type: 'TimerCleared', timerId });
}

/** In an order of their own: that of keys is not the same in a state out of a snapshot (I9). */
function clearAllTimers(turn: Turn): void {
  for (const timerId of Object.keys(turn.state.timers).sort()) clearTimer(turn, timerId);
}

function requestStep(turn: Turn, action: { actorId: string; src: string; input: Json }): void {
  const { state, now } = turn;
  const spec = stepSpec(turn, { step: action.src });
  if (state.pivot === 'passed' && (spec.class === 'compensatable' || spec.class === 'pivot')) {
    throw new DefinitionFault(
      'PIVOT_PASSED',
      `The machine asks for the ${spec.class} step "${action.src}" after its pivot. Past the pivot only retriable and read-only steps may follow.`,
    );
  }
  const what = `The input of step "${action.src}" for ${spec.contract.name}`;
  const checked = fit(spec.contract.input, action.input, what);
  if ('misfit' in checked) throw new DefinitionFault('MACHINE_FAULT', checked.misfit);
  assertSendable(action.input, `The input of step "${action.src}"`);
  const n = ++state.stepCount;
  const commandId = `${state.sagaId}.${n}`;
  const deadlineAt = spec.timeoutMs === null ? undefined : Math.ceil(now + spec.timeoutMs);
  const requestedVersion = emit(turn, {
    type: 'StepRequested',
    commandId,
    step: action.src,
    actorId: action.actorId,
    class: spec.class,
    command: spec.contract.name,
    input: action.input,
    ...(spec.compensation === null ? {} : { compensateWith: spec.compensation.contract.name }),
    ...(deadlineAt === undefined ? {} : { deadlineAt }),
    ...trace(state),
  });
  const step: StepState = {
    commandId,
    n,
    step: action.src,
    actorId: action.actorId,
    class: spec.class,
    input: action.input,
    requestedVersion,
    call: { commandId, status: 'open', attempt: 1, budgetFrom: 0 },
  };
  if (deadlineAt !== undefined) step.deadlineAt = deadlineAt;
  if (spec.heartbeatTimeoutMs !== null)
    step.heartbeatDueAt = Math.ceil(now + spec.heartbeatTimeoutMs);
  state.steps[commandId] = step;
  if (spec.class === 'pivot') state.pivot = 'inFlight';
}

export function trace(state: SagaState): { traceparent?: string } {
  return state.traceparent === undefined ? {} : { traceparent: state.traceparent };
}

/** Steps in flight that the machine no longer waits for. What may have been done is settled, then compensated. */
function supersedeLeftSteps(turn: Turn, isLeft: (actorId: string) => boolean): void {
  for (const step of stepsOf(turn.state)) {
    if (step.call === undefined || step.givenUp !== undefined || !isLeft(step.actorId)) continue;
    emit(turn, { type: 'StepSuperseded', commandId: step.commandId });
    if (step.class === 'compensatable' || step.class === 'pivot') {
      giveUpForSettlement(turn, step, {
        code: 'SUPERSEDED',
        message: 'The saga went on without waiting for this step.',
      });
    } else {
      delete turn.state.steps[step.commandId];
    }
  }
}

function startCompensation(turn: Turn, actorId: string): void {
  const { state } = turn;
  if (state.pivot === 'passed') {
    throw new DefinitionFault(
      'PIVOT_PASSED',
      'The machine invokes compensateAll() after its pivot; past the pivot nothing is compensated.',
    );
  }
  state.phase = 'compensating';
  state.compensateActorId = actorId;
  announceCompensation(turn, state.lastFailure ?? null);
  pumpObligations(turn);
}

function announceCompensation(turn: Turn, reason: Failure | null): void {
  const owed = stepsOf(turn.state)
    .filter((step) => step.class === 'compensatable')
    .map((step) => step.commandId);
  emit(turn, { type: 'CompensationStarted', reason, owed });
}

function leaveCompensation(state: SagaState): void {
  state.phase = 'forward';
  delete state.compensateActorId;
}

/** Called when the phase's obligations are discharged. */
export function obligationsDischarged(turn: Turn): void {
  const { state } = turn;
  switch (state.phase) {
    case 'compensating': {
      const actorId = state.compensateActorId;
      leaveCompensation(state);
      state.compensated = true;
      emit(turn, { type: 'CompensationDone' });
      if (actorId !== undefined) tellDone(turn, actorId, null);
      return;
    }
    case 'aborting':
      state.compensated = true;
      emit(turn, { type: 'CompensationDone' });
      end(turn);
      return;
    case 'closing':
      end(turn);
      return;
    case 'forward':
    case 'ended':
      return;
  }
}

/**
 * The engine compensates in the machine's stead: a cancel nobody handled, an error nobody took. Answers that
 * were held back stay: they say what was done, and a participant does not say it twice (I4).
 */
export function abort(turn: Turn, reason: Failure): void {
  const { state } = turn;
  if (state.pivot === 'passed') {
    throw new DefinitionFault(
      'MACHINE_FAULT',
      `The machine failed after its pivot (${reason.code}: ${reason.message}); it can only go on. Mend the definition and retry.`,
    );
  }
  state.phase = 'aborting';
  delete state.compensateActorId;
  state.failure = reason;
  turn.machineQueue.length = 0;
  clearAllTimers(turn);
  supersedeLeftSteps(turn, () => true);
  announceCompensation(turn, reason);
  pumpObligations(turn);
}

function beginClosing(turn: Turn): void {
  const { state } = turn;
  state.phase = 'closing';
  turn.machineQueue.length = 0;
  clearAllTimers(turn);
  pumpObligations(turn);
}

function end(turn: Turn): void {
  const { state } = turn;
  const output = state.machine?.output ?? null;
  state.phase = 'ended';
  state.endedAt = turn.now;
  state.output = output;
  state.steps = {};
  state.deferred = [];
  if (state.compensated) {
    const reason = state.failure ?? state.lastFailure ?? null;
    if (reason !== null) state.failure = reason;
    emit(turn, { type: 'SagaCompensated', output, reason });
  } else {
    emit(turn, { type: 'SagaCompleted', output });
  }
}

/** JSON that a compensation's mapping gave; a mapping that throws is the definition's fault. */
export function compensationInput(spec: StepSpec, step: StepState): Json {
  const compensation = spec.compensation;
  if (compensation === null)
    throw new DefinitionFault('MACHINE_FAULT', `Step "${step.step}" has no compensation.`);
  let mapped: unknown;
  try {
    // A copy, so that a mapping that sorts or reverses in place changes no event (I9).
    mapped = compensation.input(sortedCopy({ input: step.input, output: step.output }));
  } catch (error) {
    throw new DefinitionFault(
      'MACHINE_FAULT',
      `The compensation mapping of step "${step.step}" threw: ${wordsOf(error)}`,
      { cause: error },
    );
  }
  const what = `The compensation input of step "${step.step}" for ${compensation.contract.name}`;
  const input = toJson(mapped, what);
  const checked = fit(compensation.contract.input, input, what);
  if ('misfit' in checked) throw new DefinitionFault('MACHINE_FAULT', checked.misfit);
  assertSendable(input, what);
  return input;
}

function assertSendable(value: Json, what: string): void {
  if (isSendable(value)) return;
  throw new DefinitionFault(
    'PAYLOAD_REFUSED',
    `${what} is too large for one message. Keep the large part elsewhere and pass a reference (claim check).`,
  );
}
