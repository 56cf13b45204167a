/**
 * What each cause does to a saga: one function per cause, all of them on a turn.
 *
 * Guards that a cause is applied to a step only while the step waits for it: `fits` says so before it
 * is logged, and again when it was deferred meanwhile.
 */
import {
  attemptFailed,
  becomeStuck,
  giveUp,
  noteUnstuck,
  opOf,
  retryNow,
  stepIdOf,
} from './calls.ts';
import {
  abort,
  cancelEvent,
  cancelFailure,
  cancelRefusal,
  runMachine,
  tellDone,
  tellError,
  tellMachine,
} from './advance.ts';
import { DefinitionFault } from './errors.ts';
import type { CauseEvent, Failure, OperatorAction, Settlement } from './events.ts';
import type { Json } from './json.ts';
import { canHandle } from './machine.ts';
import { pumpObligations } from './obligations.ts';
import { rulesOf, type Call, type SagaState, type StepState } from './state.ts';
import { emit, stepSpec, type Turn } from './turn.ts';

type Cause<T extends CauseEvent['type']> = Extract<CauseEvent, { type: T }>;

/** The call that a command id names, if it still awaits something. */
export function findCall(
  state: SagaState,
  commandId: string,
): { step: StepState; call: Call } | undefined {
  const step = state.steps[stepIdOf(commandId)];
  if (step === undefined) return undefined;
  const op = opOf(commandId);
  const call = op === 'do' ? step.call : op === 'settle' ? step.settle : step.compensate;
  return call === undefined ? undefined : { step, call };
}

function required(state: SagaState, commandId: string): { step: StepState; call: Call } {
  const found = findCall(state, commandId);
  if (found === undefined)
    throw new DefinitionFault(
      'REPLAY_DIVERGED',
      `Nothing awaits an answer for command ${commandId}.`,
    );
  return found;
}

/** Applies a cause other than a start or one that is only kept (deferred, faulted). */
export function applyCause(turn: Turn, cause: CauseEvent): void {
  apply(turn, cause);
  runMachine(turn);
}

function apply(turn: Turn, cause: CauseEvent): void {
  const { state } = turn;
  switch (cause.type) {
    case 'StepSucceeded':
      return stepSucceeded(turn, required(state, cause.commandId).step, cause.output);
    case 'StepRejected':
      return stepRejected(turn, required(state, cause.commandId).step, cause.failure);
    case 'StepFailed':
    case 'CompensationFailed':
    case 'SettlementFailed': {
      const { step, call } = required(state, cause.commandId);
      return attemptFailed(turn, step, call, cause.failure, cause.retryable);
    }
    case 'StepPending':
      return stepPending(required(state, cause.commandId));
    case 'StepHeartbeat':
      return stepHeartbeat(turn, required(state, cause.commandId).step);
    case 'StepTimedOut':
      return giveUp(turn, required(state, cause.commandId).step, cause.failure, 'timedOut');
    case 'StepSettled':
      return stepSettled(turn, cause);
    case 'CompensationSucceeded': {
      const { step, call } = required(state, cause.commandId);
      return compensationSucceeded(turn, step, call);
    }
    case 'RetryDue': {
      const { step, call } = required(state, cause.commandId);
      return retryNow(turn, step, call);
    }
    case 'TimerFired':
      return timerFired(turn, cause.timerId);
    case 'SignalReceived':
      return signalReceived(turn, cause);
    case 'CancelRequested':
      return cancelRequested(turn, cause);
    case 'OperatorActed':
      if (replacesFaulted(state, cause)) unfault(turn, () => false);
      return operatorActed(turn, cause);
    case 'SagaStarted':
    case 'InputDeferred':
    case 'InputFaulted':
      throw new DefinitionFault('REPLAY_DIVERGED', `${cause.type} can't stand here.`);
  }
}

function stepSucceeded(turn: Turn, step: StepState, output: Json): void {
  const { state } = turn;
  noteUnstuck(turn, step.call);
  closeCall(step);
  switch (step.class) {
    case 'compensatable':
      step.completedVersion = state.streamVersion;
      step.output = output;
      state.compensated = false;
      break;
    case 'pivot':
      passPivot(state, step);
      break;
    case 'retriable':
    case 'readOnly':
      delete state.steps[step.commandId];
      break;
  }
  tellDone(turn, step.actorId, output);
  // A compensateAll() may have waited for this step.
  if (step.class === 'compensatable') pumpObligations(turn);
}

function closeCall(step: StepState): void {
  delete step.call;
  delete step.deadlineAt;
  delete step.heartbeatDueAt;
}

/** Past the pivot nothing is compensated (I7), but for steps that were given up: they are no part of what was agreed. */
function passPivot(state: SagaState, pivot: StepState): void {
  state.pivot = 'passed';
  state.compensated = false;
  delete state.steps[pivot.commandId];
  for (const step of Object.values(state.steps)) {
    const agreed =
      step.completedVersion !== undefined &&
      step.givenUp === undefined &&
      step.compensate === undefined;
    if (agreed) delete state.steps[step.commandId];
  }
}

function stepRejected(turn: Turn, step: StepState, failure: Failure): void {
  if (step.class === 'retriable') {
    // Its contract has no business "no"; a person must look.
    if (step.call !== undefined)
      becomeStuck(turn, step.call, { ...failure, code: 'STEP_REJECTED' });
    return;
  }
  noteUnstuck(turn, step.call);
  if (step.class === 'pivot') turn.state.pivot = 'none';
  delete turn.state.steps[step.commandId];
  tellRejected(turn, step, failure);
  if (step.class === 'compensatable') pumpObligations(turn);
}

function tellRejected(turn: Turn, step: StepState, failure: Failure): void {
  tellError(turn, step.actorId, {
    kind: 'rejected',
    code: failure.code,
    message: failure.message,
    ...(failure.data === undefined ? {} : { data: failure.data }),
  });
}

function stepPending({ step, call }: { step: StepState; call: Call }): void {
  call.status = 'pending';
  delete step.heartbeatDueAt;
}

function stepHeartbeat(turn: Turn, step: StepState): void {
  const { heartbeatTimeoutMs } = stepSpec(turn, step);
  if (heartbeatTimeoutMs !== null) step.heartbeatDueAt = Math.ceil(turn.now + heartbeatTimeoutMs);
}

function stepSettled(turn: Turn, cause: Cause<'StepSettled'>): void {
  const { state } = turn;
  const step = state.steps[stepIdOf(cause.commandId)];
  if (step === undefined)
    throw new DefinitionFault('REPLAY_DIVERGED', `No step awaits settlement ${cause.commandId}.`);
  noteUnstuck(turn, step.settle);
  delete step.settle;
  if (step.class === 'pivot') {
    pivotSettled(turn, step, cause.settlement);
  } else if (cause.settlement.outcome === 'succeeded') {
    step.completedVersion = state.streamVersion;
    step.output = cause.settlement.output;
  } else {
    delete state.steps[step.commandId];
  }
  pumpObligations(turn);
}

function pivotSettled(turn: Turn, step: StepState, settlement: Settlement): void {
  const { state } = turn;
  if (settlement.outcome === 'succeeded') {
    passPivot(state, step);
    tellDone(turn, step.actorId, settlement.output);
    return;
  }
  state.pivot = 'none';
  delete state.steps[step.commandId];
  if (settlement.outcome === 'rejected') {
    tellRejected(turn, step, settlement.failure);
  } else {
    const failure = step.givenUp ?? { code: 'STEP_TIMED_OUT', message: '' };
    tellError(turn, step.actorId, {
      kind: failure.code === 'STEP_TIMED_OUT' ? 'timedOut' : 'failed',
      code: failure.code,
      message: failure.message,
    });
  }
}

function compensationSucceeded(turn: Turn, step: StepState, call: Call): void {
  noteUnstuck(turn, call);
  delete turn.state.steps[step.commandId];
  pumpObligations(turn);
}

function timerFired(turn: Turn, timerId: string): void {
  const timer = turn.state.timers[timerId];
  if (timer === undefined)
    throw new DefinitionFault('REPLAY_DIVERGED', `No timer ${timerId} is set.`);
  delete turn.state.timers[timerId];
  turn.trigger = { code: 'TIMER_FIRED', message: `The timer ${timerId} fired.` };
  tellMachine(turn, timer.event);
}

function signalReceived(turn: Turn, cause: Cause<'SignalReceived'>): void {
  const payload = (cause.payload ?? {}) as { [key: string]: Json };
  turn.trigger = { code: 'SIGNAL_RECEIVED', message: `The signal "${cause.name}" came.` };
  tellMachine(turn, { ...payload, type: cause.name });
}

function cancelRequested(turn: Turn, cause: Cause<'CancelRequested'>): void {
  const { state, definition } = turn;
  const refusal = cancelRefusal(state);
  if (refusal !== null) {
    emit(turn, { type: 'CancelRefused', requestId: cause.requestId, failure: refusal });
    return;
  }
  if (state.phase === 'aborting') return;
  // On the way back already: a cancel asks for nothing yet, but to go on without a machine that is at fault.
  if (state.phase === 'compensating' && state.faulted === undefined) {
    const { requestId, reason, by } = cause;
    if (rulesOf(state) > 1) state.keptCancel ??= { requestId, reason, by };
    return;
  }
  const event = cancelEvent(cause);
  if (
    state.faulted === undefined &&
    state.machine !== null &&
    canHandle(definition.machine, state.machine, event)
  ) {
    state.lastFailure = cancelFailure(cause);
    tellMachine(turn, event);
  } else {
    leaveFault(turn);
    abort(turn, cancelFailure(cause));
  }
}

/** The machine is told nothing more, but what the faulted input answered still counts: it is applied next. */
function leaveFault(turn: Turn): void {
  // Without a machine there is nothing that a start could be applied to.
  unfault(turn, (cause) => cause.type !== 'SagaStarted');
}

/** The faulted input goes back to the head of the held-back ones, if it is kept. */
function unfault(turn: Turn, isKept: (cause: CauseEvent) => boolean): void {
  const { state } = turn;
  if (state.faulted === undefined) return;
  const { cause } = state.faulted;
  if (isKept(cause)) state.deferred = [cause, ...state.deferred];
  delete state.faulted;
  emit(turn, { type: 'SagaUnstuck' });
}

function operatorActed(turn: Turn, { action }: Cause<'OperatorActed'>): void {
  const { state } = turn;
  switch (action.verb) {
    case 'pause':
      state.paused = true;
      emit(turn, { type: 'SagaPaused' });
      return;
    case 'resume':
      state.paused = false;
      emit(turn, { type: 'SagaResumed' });
      return;
    case 'retry':
      return action.commandId === undefined
        ? unfault(turn, () => true)
        : retryStuck(turn, action.commandId);
    case 'resolve':
      return answerByHand(turn, action.commandId, action.output ?? null, {
        outcome: 'succeeded',
        output: action.output ?? null,
      });
    case 'skip':
      return answerByHand(turn, action.commandId, null, { outcome: 'neverRan' });
  }
}

function retryStuck(turn: Turn, commandId: string): void {
  const { step, call } = required(turn.state, commandId);
  noteUnstuck(turn, call);
  call.budgetFrom = call.attempt;
  if (opOf(commandId) === 'do') {
    const { timeoutMs } = stepSpec(turn, step);
    if (timeoutMs !== null) step.deadlineAt = Math.ceil(turn.now + timeoutMs);
  }
  retryNow(turn, step, call);
}

/** Takes a command as answered, by a person's word. @param settlement what it says when that was the question */
function answerByHand(turn: Turn, commandId: string, output: Json, settlement: Settlement): void {
  const { step, call } = required(turn.state, commandId);
  switch (opOf(commandId)) {
    case 'do':
      return stepSucceeded(turn, step, output);
    case 'compensate':
      return compensationSucceeded(turn, step, call);
    case 'settle':
      return stepSettled(turn, { type: 'StepSettled', commandId, settlement });
  }
}

/** Whether a verb stands for a command's answer: it then waits as the answer would. */
export function answersCall(
  action: OperatorAction,
): action is Extract<OperatorAction, { verb: 'resolve' | 'skip' }> {
  return action.verb === 'resolve' || action.verb === 'skip';
}

/**
 * Whether a person says something else on the command on whose answer by hand the machine's own code threw. It takes
 * that one's place: held back behind it, it would never come to its turn.
 */
export function replacesFaulted(state: SagaState, cause: CauseEvent): boolean {
  const faulted = state.faulted?.cause;
  if (faulted?.type !== 'OperatorActed' || cause.type !== 'OperatorActed') return false;
  const [before, now] = [faulted.action, cause.action];
  return answersCall(before) && answersCall(now) && before.commandId === now.commandId;
}

/** Whether a failure of that attempt is one that the call waits for. */
export function awaitsFailure(
  call: { status: string; attempt: number } | undefined,
  attempt: number,
): boolean {
  if (call === undefined) return false;
  return call.status === 'pending'
    ? attempt >= call.attempt
    : call.status === 'open' && attempt === call.attempt;
}

/** Whether a cause that was deferred still has something to be applied to, and as what. */
export function reviewDeferred(state: SagaState, cause: CauseEvent): CauseEvent | null {
  const keepIf = (holds: boolean): CauseEvent | null => (holds ? cause : null);
  switch (cause.type) {
    case 'StepSucceeded':
    case 'StepRejected':
      return reviewAnswer(state, cause);
    case 'StepFailed':
    case 'CompensationFailed':
    case 'SettlementFailed':
      return keepIf(awaitsFailure(findCall(state, cause.commandId)?.call, cause.attempt));
    case 'StepPending': {
      const call = findCall(state, cause.commandId)?.call;
      return keepIf(call?.status === 'open' && call.attempt === cause.attempt);
    }
    case 'TimerFired':
      return keepIf(state.timers[cause.timerId] !== undefined);
    case 'OperatorActed': {
      const { action } = cause;
      if (!answersCall(action)) return cause;
      const call = findCall(state, action.commandId)?.call;
      return keepIf(action.verb === 'resolve' ? call !== undefined : call?.status === 'stuck');
    }
    case 'SagaStarted':
    case 'SignalReceived':
    case 'CancelRequested':
      return cause;
    default:
      return keepIf('commandId' in cause && findCall(state, cause.commandId) !== undefined);
  }
}

function reviewAnswer(
  state: SagaState,
  cause: Cause<'StepSucceeded'> | Cause<'StepRejected'>,
): CauseEvent | null {
  const step = state.steps[cause.commandId];
  if (step?.call !== undefined) {
    const isRepeat = cause.type === 'StepRejected' && step.call.status === 'stuck';
    return isRepeat ? null : cause;
  }
  if (step?.settle === undefined) return null;
  const settlement: Settlement =
    cause.type === 'StepSucceeded'
      ? { outcome: 'succeeded', output: cause.output }
      : { outcome: 'rejected', failure: cause.failure };
  return { type: 'StepSettled', commandId: step.settle.commandId, settlement };
}

/** Whether a cause says that the pivot was not done and never will be. */
export function refusesPivot(state: SagaState, cause: CauseEvent): boolean {
  const isNo =
    cause.type === 'StepRejected' ||
    (cause.type === 'StepSettled' && cause.settlement.outcome !== 'succeeded');
  return isNo && state.steps[stepIdOf(cause.commandId)]?.class === 'pivot';
}

/** Whether a cause may move the machine while the pivot is in flight (its own answers may). */
export function concernsMachine(state: SagaState, cause: CauseEvent): boolean {
  switch (cause.type) {
    case 'SignalReceived':
    case 'CancelRequested':
    case 'TimerFired':
      return true;
    case 'StepSucceeded':
    case 'StepRejected':
    case 'StepFailed':
    case 'StepTimedOut':
      return state.steps[cause.commandId]?.class !== 'pivot';
    case 'OperatorActed': {
      const { action } = cause;
      if (!answersCall(action) || opOf(action.commandId) !== 'do') return false;
      return state.steps[action.commandId]?.class !== 'pivot';
    }
    default:
      return false;
  }
}
