/**
 * Commands on their way: failures, attempts, settlements, and being stuck.
 *
 * Guards that an unmodelled failure is never taken for a business "no": it is tried again to its
 * budget, then its outcome is unknown and is settled at the participant's barrier, or a person acts (I12).
 */
import type { StepError } from './contracts.ts';
import type { CommandOp, Failure } from './events.ts';
import type { Json } from './json.ts';
import { retryDelayMs, SETTLEMENT_RETRY } from './retry.ts';
import { emit, queueError, stepSpec, trace, type Turn } from './turn.ts';
import type { Call, StepState } from './state.ts';
import type { RetryPolicy } from './steps.ts';

export function opOf(commandId: string): CommandOp {
  return commandId.endsWith('.c') ? 'compensate' : commandId.endsWith('.s') ? 'settle' : 'do';
}

/** The id of the step that a compensation's or settlement's id belongs to. */
export function stepIdOf(commandId: string): string {
  return opOf(commandId) === 'do' ? commandId : commandId.slice(0, -2);
}

function policyOf(turn: Turn, step: StepState, op: CommandOp): RetryPolicy {
  if (op === 'settle') return SETTLEMENT_RETRY;
  const spec = stepSpec(turn, step);
  return op === 'compensate' && spec.compensation !== null ? spec.compensation.retry : spec.retry;
}

/** A failed attempt: the next one is scheduled, or the budget is used up. */
export function attemptFailed(
  turn: Turn,
  step: StepState,
  call: Call,
  failure: Failure,
  retryable: boolean,
): void {
  const op = opOf(call.commandId);
  const policy = policyOf(turn, step, op);
  const used = call.attempt - call.budgetFrom;
  if (retryable && used < policy.maxAttempts) {
    const dueAt = Math.ceil(turn.now + retryDelayMs(policy, call.commandId, used));
    call.status = 'waiting';
    call.retryAt = dueAt;
    call.failure = failure;
    emit(turn, {
      type: 'RetryScheduled',
      commandId: call.commandId,
      attempt: call.attempt + 1,
      dueAt,
    });
    return;
  }
  const exhausted: Failure = {
    code:
      op === 'do'
        ? 'STEP_ATTEMPTS_EXHAUSTED'
        : op === 'settle'
          ? 'SETTLEMENT_FAILED'
          : 'COMPENSATION_FAILED',
    message: `${used} attempt(s) failed; the last: ${failure.code}: ${failure.message}`,
  };
  if (op === 'do') giveUp(turn, step, exhausted, 'failed');
  else becomeStuck(turn, call, exhausted);
}

/** The engine stops waiting for a step whose outcome it doesn't know; the machine is left word. */
export function giveUp(
  turn: Turn,
  step: StepState,
  failure: Failure,
  kind: StepError['kind'],
): void {
  if (step.class === 'retriable') {
    if (step.call !== undefined) becomeStuck(turn, step.call, failure);
    delete step.deadlineAt;
    return;
  }
  emit(turn, { type: 'StepGivenUp', commandId: step.commandId, failure });
  if (step.class === 'readOnly') {
    delete turn.state.steps[step.commandId];
  } else {
    giveUpForSettlement(turn, step, failure);
    // While the pivot's outcome is unknown the saga may go neither way: the machine hears when it is settled.
    if (step.class === 'pivot') return;
  }
  queueError(turn, step.actorId, { kind, code: failure.code, message: failure.message });
}

export function giveUpForSettlement(turn: Turn, step: StepState, failure: Failure): void {
  step.givenUp = failure;
  delete step.call;
  delete step.deadlineAt;
  delete step.heartbeatDueAt;
  const commandId = `${step.commandId}.s`;
  step.settle = { commandId, status: 'open', attempt: 1, budgetFrom: 0 };
  emit(turn, {
    type: 'SettlementRequested',
    commandId,
    of: step.commandId,
    command: stepSpec(turn, step).contract.name,
    ...trace(turn.state),
  });
}

export function becomeStuck(turn: Turn, call: Call, failure: Failure): void {
  call.status = 'stuck';
  call.failure = failure;
  delete call.retryAt;
  emit(turn, { type: 'SagaStuck', commandId: call.commandId, failure });
}

/** Notes that a stuck call is stuck no more, because it was answered after all or by hand. */
export function noteUnstuck(turn: Turn, call: Call | undefined): void {
  if (call?.status === 'stuck') emit(turn, { type: 'SagaUnstuck', commandId: call.commandId });
}

/** Sends the next attempt of a command; its id stays (I3). */
export function retryNow(turn: Turn, step: StepState, call: Call): void {
  const op = opOf(call.commandId);
  const spec = stepSpec(turn, step);
  call.attempt += 1;
  call.status = 'open';
  delete call.retryAt;
  if (op === 'do' && spec.heartbeatTimeoutMs !== null) {
    step.heartbeatDueAt = Math.ceil(turn.now + spec.heartbeatTimeoutMs);
  }
  const input: Json =
    op === 'do' ? step.input : op === 'compensate' ? (step.compensate?.input ?? null) : null;
  emit(turn, {
    type: 'CommandRetried',
    commandId: call.commandId,
    op,
    ...(op === 'do' ? {} : { of: step.commandId }),
    attempt: call.attempt,
    command: op === 'compensate' ? (spec.compensation?.contract.name ?? '') : spec.contract.name,
    input,
    ...(op === 'do' && step.deadlineAt !== undefined ? { deadlineAt: step.deadlineAt } : {}),
    ...trace(turn.state),
  });
}
