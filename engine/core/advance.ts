/**
 * The machine's part of a turn: it is told what happened, and its wishes become facts.
 *
 * Guards that spawned steps are requested (obligation first), left ones superseded, timers set and
 * cleared, and that the machine is told one thing after the other, never in the middle of a turn.
 */
import type { EventObject } from 'xstate';
import { giveUpForSettlement } from './calls.ts';
import type { StepError } from './contracts.ts';
import { DefinitionFault } from './errors.ts';
import type { Failure } from './events.ts';
import { fit } from './fit.ts';
import type { Json } from './json.ts';
import {
  canHandle,
  initialTurn,
  nextTurn,
  type MachineAction,
  type MachineTurn,
} from './machine.ts';
import {
  announceCompensation,
  leaveCompensation,
  pumpObligations,
  setWaitingCompensators,
  waitingCompensators,
} from './obligations.ts';
import { CANCEL_EVENT } from './refusals.ts';
import { rulesOf, stepsOf, type Cancel, type SagaState, type StepState } from './state.ts';
import { assertSendable, emit, queueDone, queueError, stepSpec, trace, type Turn } from './turn.ts';

/** Machine turns within one turn of the saga; more means two steps that end each other without any work. */
const MAX_MACHINE_TURNS = 1000;

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
  queueDone(turn, actorId, output);
  runMachine(turn);
}

export function tellError(turn: Turn, actorId: string, error: StepError): void {
  queueError(turn, actorId, error);
  runMachine(turn);
}

/** Tells the machine all that it has been left word of. */
export function runMachine(turn: Turn): void {
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
    const result = nextTurn(turn.definition.machine, machine, event);
    if (turn.state.keptCancel === undefined) absorb(turn, result);
    else absorbOrCancel(turn, turn.state.keptCancel, result);
  }
  turn.machineRuns = false;
}

/**
 * A cancel that came while compensating is applied before anything is asked for on the way forward, the pivot above
 * all (SEMANTICS 4.2). A machine that ends, or compensates on, is let do so.
 */
function absorbOrCancel(turn: Turn, cancel: Cancel, result: MachineTurn): void {
  const { state, definition } = turn;
  let ahead = result;
  // Of several compensateAll() each is told: where the machine goes shows after the last.
  for (const event of turn.machineQueue) {
    if (!goesForward(turn, ahead)) break;
    const { actorId } = event as { actorId?: string };
    if (actorId !== undefined && !ahead.activeActorIds.has(actorId)) continue;
    ahead = inOne(ahead, nextTurn(definition.machine, ahead.state, event));
  }
  if (!goesForward(turn, ahead)) return absorb(turn, result);
  delete state.keptCancel;
  const refusal = cancelRefusal(state);
  if (refusal !== null) {
    emit(turn, { type: 'CancelRefused', requestId: cancel.requestId, failure: refusal });
    return absorb(turn, result);
  }
  // The cancel is why it goes back, not what let it go forward.
  turn.trigger = null;
  const event = cancelEvent(cancel);
  if (!canHandle(definition.machine, ahead.state, event)) return abort(turn, cancelFailure(cancel));
  state.lastFailure = cancelFailure(cancel);
  turn.machineQueue.length = 0;
  absorb(turn, inOne(ahead, nextTurn(definition.machine, ahead.state, event)));
}

/** Whether the machine, after this turn, is neither at its end nor in a compensateAll(), and may be cancelled. */
function goesForward({ state, definition }: Turn, result: MachineTurn): boolean {
  if (result.state.status !== 'active' || state.pivot === 'inFlight') return false;
  const spawns = lastSpawns(result.actions);
  const waits = waitingCompensators(state).some(
    (actorId) => result.activeActorIds.has(actorId) && !spawns.has(actorId),
  );
  const begins = [...spawns.values()].some(
    (action) =>
      action.type === 'spawn' &&
      result.activeActorIds.has(action.actorId) &&
      definition.actors.get(action.src)?.kind === 'compensateAll',
  );
  return !waits && !begins;
}

/** Two turns of the machine as one: what the second left was never begun. */
function inOne(first: MachineTurn, second: MachineTurn): MachineTurn {
  return { ...second, actions: [...first.actions, ...second.actions] };
}

export function cancelRefusal(state: SagaState): Failure | null {
  if (state.pivot === 'passed') {
    return {
      code: 'PIVOT_PASSED',
      message: 'The pivot has passed: the saga can only go on to its end.',
    };
  }
  if (state.phase === 'closing')
    return { code: 'SAGA_ENDED', message: 'The saga has reached its end.' };
  return null;
}

export function cancelFailure({ reason }: Cancel): Failure {
  return { code: 'CANCELLED', message: reason };
}

export function cancelEvent({ reason, by }: Cancel): EventObject {
  return { type: CANCEL_EVENT, reason, by } as EventObject;
}

function absorb(turn: Turn, result: MachineTurn): void {
  const { state } = turn;
  state.machine = result.state;
  const spawns = lastSpawns(result.actions);
  const isLeft = (actorId: string): boolean =>
    !result.activeActorIds.has(actorId) || spawns.has(actorId);
  supersedeLeftSteps(turn, isLeft);
  leaveCompensation(state, isLeft);
  if (rulesOf(state) > 1) dropWordOfLeft(turn, isLeft);
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

/** Word of a child that was left meanwhile would reach another that was invoked under its id since. */
function dropWordOfLeft({ machineQueue }: Turn, isLeft: (actorId: string) => boolean): void {
  const kept = machineQueue.filter((event) => {
    const { actorId } = event as { actorId?: string };
    return actorId === undefined || !isLeft(actorId);
  });
  machineQueue.splice(0, machineQueue.length, ...kept);
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
  const others = rulesOf(state) > 1 ? waitingCompensators(state) : [];
  setWaitingCompensators(state, [...others, actorId]);
  if (turn.trigger !== null) state.lastFailure = turn.trigger;
  announceCompensation(turn, state.lastFailure ?? null);
  pumpObligations(turn);
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
  setWaitingCompensators(state, []);
  delete state.keptCancel;
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
  delete state.keptCancel;
  turn.machineQueue.length = 0;
  clearAllTimers(turn);
  pumpObligations(turn);
}
