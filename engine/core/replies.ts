/**
 * What a participant's reply comes to: a cause, nothing, or a refusal.
 *
 * Guards that late, repeated and forged answers change nothing (I4), and that an answer is taken only in a
 * form that its contract allows, whichever way it came: to the step, late, or to its settlement.
 */
import { opOf, stepIdOf } from './calls.ts';
import { awaitsFailure, findCall, reviewDeferred } from './causes.ts';
import type { AnyDefinition } from './define.ts';
import type { ErrorCode } from './errors.ts';
import type { CauseEvent, Failure, Settlement } from './events.ts';
import { fit, misfitOf } from './fit.ts';
import type { Json } from './json.ts';
import type { SagaState } from './state.ts';
import type { ReplyBody } from './wire.ts';

/** What an input comes to before anything is applied. */
export type Translation =
  { cause: CauseEvent } | { ignored: string } | { refused: ErrorCode; why: string };

/**
 * @param body a reply that names this saga or claims to
 * @param service whose worker says that it wrote it, if one does
 */
export function translateReply(
  definition: AnyDefinition,
  state: SagaState,
  body: ReplyBody,
  service?: string,
): Translation {
  const step = state.steps[stepIdOf(body.commandId)];
  const n = Number(stepIdOf(body.commandId).split('.')[1]);
  if (!body.commandId.startsWith(`${state.sagaId}.`) || n > state.stepCount) {
    return {
      refused: 'COMMAND_UNKNOWN',
      why: `Saga ${state.sagaId} never sent the command ${body.commandId}.`,
    };
  }
  if (step === undefined) return { ignored: 'the step is closed' };
  const asked =
    service === undefined ? undefined : serviceAsked(definition, step.step, body.commandId);
  if (asked !== undefined && service !== asked) {
    return {
      refused: 'COMMAND_UNKNOWN',
      why: `${body.commandId} was sent to the service ${asked}; a worker of ${service} can't answer it.`,
    };
  }
  const found = findCall(state, body.commandId);
  switch (opOf(body.commandId)) {
    case 'do':
      if (found !== undefined) return doReply(definition, state, found.step.step, found.call, body);
      return step.settle === undefined
        ? { ignored: 'the step is closed' }
        : lateReply(definition, step.step, step.settle.commandId, body);
    case 'settle':
      return found === undefined
        ? { ignored: 'the settlement is closed' }
        : settleReply(definition, found.step.step, found.call, body);
    case 'compensate':
      return found === undefined
        ? { ignored: 'the compensation is closed' }
        : compensateReply(found.call, body);
  }
}

/** The service that a command went to. */
function serviceAsked(
  definition: AnyDefinition,
  stepName: string,
  commandId: string,
): string | undefined {
  const spec = definition.actors.get(stepName);
  if (spec?.kind !== 'step') return undefined;
  return opOf(commandId) === 'compensate'
    ? spec.compensation?.contract.service
    : spec.contract.service;
}

type CallView = { commandId: string; status: string; attempt: number };

function doReply(
  definition: AnyDefinition,
  state: SagaState,
  stepName: string,
  call: CallView,
  body: ReplyBody,
): Translation {
  const { commandId, attempt } = body;
  const isCurrent = call.status === 'open' && attempt === call.attempt;
  if (isDeferredAnswer(state, commandId)) return { ignored: 'an answer is held back already' };
  switch (body.outcome) {
    case 'succeeded': {
      const output = fitOutput(definition, stepName, body.output);
      return 'data' in output
        ? { cause: { type: 'StepSucceeded', commandId, attempt, output: output.data } }
        : misfitReply(call, output.misfit);
    }
    case 'rejected': {
      if (call.status === 'stuck') return { ignored: 'a person has to look at it already' };
      const failure = asFailure(body.failure);
      const misfit = rejectionMisfit(definition, stepName, failure);
      return misfit === null
        ? { cause: { type: 'StepRejected', commandId, attempt, failure } }
        : misfitReply(call, misfit);
    }
    case 'failed':
      if (!awaitsFailure(call, attempt)) return { ignored: 'a failure of an earlier attempt' };
      return {
        cause: {
          type: 'StepFailed',
          commandId,
          attempt: call.attempt,
          failure: asFailure(body.failure),
          retryable: body.retryable,
        },
      };
    case 'pending':
      return isCurrent
        ? { cause: { type: 'StepPending', commandId, attempt } }
        : { ignored: 'not awaited' };
    case 'heartbeat':
      if (!isCurrent || state.steps[commandId]?.heartbeatDueAt === undefined)
        return { ignored: 'no heartbeat is awaited' };
      return {
        cause: {
          type: 'StepHeartbeat',
          commandId,
          attempt,
          ...(body.details === undefined ? {} : { details: body.details }),
        },
      };
    case 'neverRan':
    case 'superseded':
      return { ignored: 'no answer to a step' };
  }
}

/** An answer that its contract does not know says nothing of what was done: the step is given up and settled. */
function misfitReply({ commandId, attempt, status }: CallView, message: string): Translation {
  if (status !== 'open' && status !== 'pending')
    return { ignored: 'an answer that does not fit, to a call that waits' };
  const failure = { code: 'OUTPUT_INVALID', message };
  return { cause: { type: 'StepFailed', commandId, attempt, failure, retryable: false } };
}

/** Whether an answer to it waits to be applied: held back, or thrown on by the machine's own code (I4). */
function isDeferredAnswer(state: SagaState, commandId: string): boolean {
  const waiting = [
    ...state.deferred,
    ...(state.faulted === undefined ? [] : [state.faulted.cause]),
  ];
  return waiting.some(
    (cause) =>
      (cause.type === 'StepSucceeded' || cause.type === 'StepRejected') &&
      cause.commandId === commandId &&
      reviewDeferred(state, cause) !== null,
  );
}

/** An answer to a step that was given up and is being settled: as good as the settlement's own. */
function lateReply(
  definition: AnyDefinition,
  stepName: string,
  settlementId: string,
  body: ReplyBody,
): Translation {
  if (body.outcome === 'succeeded') {
    const output = fitOutput(definition, stepName, body.output);
    if ('misfit' in output) return { ignored: `a late answer. ${output.misfit}` };
    return settledAs(settlementId, { outcome: 'succeeded', output: output.data });
  }
  if (body.outcome === 'rejected') {
    const failure = asFailure(body.failure);
    const misfit = rejectionMisfit(definition, stepName, failure);
    if (misfit !== null) return { ignored: `a late answer. ${misfit}` };
    return settledAs(settlementId, { outcome: 'rejected', failure });
  }
  return { ignored: 'the step is being settled' };
}

function settledAs(commandId: string, settlement: Settlement): Translation {
  return { cause: { type: 'StepSettled', commandId, settlement } };
}

function settleReply(
  definition: AnyDefinition,
  stepName: string,
  call: CallView,
  body: ReplyBody,
): Translation {
  const { commandId, attempt } = body;
  const failed = (failure: Failure, retryable: boolean): Translation =>
    call.status === 'open' && attempt === call.attempt
      ? { cause: { type: 'SettlementFailed', commandId, attempt, failure, retryable } }
      : { ignored: 'a failure of an earlier attempt' };
  switch (body.outcome) {
    case 'succeeded': {
      const output = fitOutput(definition, stepName, body.output);
      return 'data' in output
        ? settledAs(commandId, { outcome: 'succeeded', output: output.data })
        : failed({ code: 'OUTPUT_INVALID', message: output.misfit }, false);
    }
    case 'rejected': {
      const failure = asFailure(body.failure);
      const misfit = rejectionMisfit(definition, stepName, failure);
      return misfit === null
        ? settledAs(commandId, { outcome: 'rejected', failure })
        : failed({ code: 'OUTPUT_INVALID', message: misfit }, false);
    }
    case 'neverRan':
    case 'superseded':
      return settledAs(commandId, { outcome: 'neverRan' });
    case 'failed':
      return failed(asFailure(body.failure), body.retryable);
    case 'pending':
      return failed({ code: 'STILL_PENDING', message: '' }, true);
    case 'heartbeat':
      return { ignored: 'no heartbeat is awaited' };
  }
}

function compensateReply(call: CallView, body: ReplyBody): Translation {
  const { commandId, attempt } = body;
  const isCurrent = call.status === 'open' && attempt === call.attempt;
  switch (body.outcome) {
    case 'succeeded':
    // Nothing to take back: the barrier saw that the step never ran.
    case 'neverRan':
      return {
        cause: {
          type: 'CompensationSucceeded',
          commandId,
          attempt,
          output: body.outcome === 'succeeded' ? body.output : null,
        },
      };
    case 'rejected':
    case 'failed': {
      if (!awaitsFailure(call, attempt)) return { ignored: 'a failure of an earlier attempt' };
      // A compensation has no business "no" (SEMANTICS 4.2): it is tried again like any failure.
      const retryable = body.outcome === 'rejected' || body.retryable;
      return {
        cause: {
          type: 'CompensationFailed',
          commandId,
          attempt: call.attempt,
          failure: asFailure(body.failure),
          retryable,
        },
      };
    }
    case 'pending':
      return isCurrent
        ? { cause: { type: 'StepPending', commandId, attempt } }
        : { ignored: 'not awaited' };
    case 'heartbeat':
    case 'superseded':
      return { ignored: 'no answer to a compensation' };
  }
}

function asFailure(failure: { code: string; message: string; data?: Json | undefined }): Failure {
  const { code, message, data } = failure;
  return data === undefined ? { code, message } : { code, message, data };
}

/** @param output undefined when a person gave none */
export function fitOutput(
  definition: AnyDefinition,
  stepName: string,
  output: Json | undefined,
): { data: Json } | { misfit: string } {
  const spec = definition.actors.get(stepName);
  return spec?.kind === 'step'
    ? fit(spec.contract.output, output, `The answer to ${spec.contract.name}`)
    : { data: output ?? null };
}

/**
 * Why a rejection is none of those that the step's contract has, or null. A retriable step has none at all:
 * whatever it is rejected with, a person looks at that.
 */
function rejectionMisfit(
  definition: AnyDefinition,
  stepName: string,
  { code, data }: Failure,
): string | null {
  const spec = definition.actors.get(stepName);
  if (spec?.kind !== 'step' || spec.class === 'retriable') return null;
  const { name, rejections } = spec.contract;
  // Own names only: `toString` is no rejection.
  const schema = Object.hasOwn(rejections, code) ? rejections[code] : undefined;
  if (schema === undefined)
    return `${name} was rejected with "${code}", which its contract does not declare.`;
  const misfit = misfitOf(schema, data, `The data of the rejection "${code}" of ${name}`);
  // Workers send data that is not there as null.
  return data === null && misfitOf(schema, undefined, code) === null ? null : misfit;
}
