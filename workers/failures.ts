/**
 * Failure codes that this runtime answers with, and how an error becomes a `failed` reply.
 *
 * Guards that nothing a handler throws can break the reply: texts are cut, every failure has a code
 * and says whether trying again can help.
 */
import { SagaxError } from '../engine/core/errors.ts';
import type { Failure } from '../engine/core/events.ts';

/** Code → what it means and what to do; they stand in a saga's `StepFailed` events. */
export const PARTICIPANT_FAILURES = {
  NO_HANDLER:
    'The worker has no handler for this command. Deploy one that has; the command is retried.',
  HANDLER_FAILED: 'The handler threw. The message is the error; the command is retried.',
  OUTPUT_INVALID: "The handler's output or rejection does not fit the contract. Mend the handler.",
  COMPENSATION_REJECTED:
    'A compensation must not be rejected for business reasons. Mend the handler.',
  STILL_RUNNING: 'The step is in flight under a live lease; ask again after it.',
  STILL_PENDING: 'The step was accepted and has not been completed; complete it, then ask again.',
  LEASE_LOST: 'The handler outlived its lease. Call heartbeat(), or give it a longer leaseMs.',
  HANDLER_TIMEOUT:
    'The handler, or the wait for a row of another transaction, took too long and was rolled back.',
  STEP_TIMED_OUT: "The step's deadline had passed before its handler ended.",
  WORKER_STOPPED: 'The worker stopped while the handler ran; the command is delivered again.',
  INPUT_INVALID: 'The input does not fit the contract. Mend the saga definition.',
  MESSAGE_INVALID: 'The message is not a command of the wire protocol.',
  PAYLOAD_REFUSED: 'The reply is over the size limit. Answer with a reference (claim check).',
} as const;
export type ParticipantFailureCode = keyof typeof PARTICIPANT_FAILURES;

/** Thrown inside a transaction to roll it back and answer `failed` with this code. */
export class CommandFailure extends Error {
  readonly code: ParticipantFailureCode;
  readonly retryable: boolean;
  constructor(
    code: ParticipantFailureCode,
    message: string,
    options: ErrorOptions & { retryable?: boolean } = {},
  ) {
    super(message, options);
    this.name = 'CommandFailure';
    this.code = code;
    this.retryable = options.retryable ?? true;
  }
}

/** Longest text of a failure; the rest is in the worker's log. */
export const MAX_FAILURE_TEXT = 1_000;

/** Short enough, and without what the wire refuses (NUL, halves of surrogate pairs). */
export function cutText(text: string): string {
  const cut = text.length <= MAX_FAILURE_TEXT ? text : `${text.slice(0, MAX_FAILURE_TEXT - 1)}…`;
  return cut.toWellFormed().replaceAll('\0', '\uFFFD');
}

/** What to answer for anything that was thrown. */
export function failureOf(error: unknown): { failure: Failure; retryable: boolean } {
  if (error instanceof CommandFailure) {
    return {
      failure: { code: error.code, message: cutText(error.message) },
      retryable: error.retryable,
    };
  }
  // Our own encoder's refusal: the same answer would be refused each time.
  if (error instanceof SagaxError && error.code === 'PAYLOAD_REFUSED') {
    return {
      failure: { code: 'PAYLOAD_REFUSED', message: cutText(error.message) },
      retryable: false,
    };
  }
  return {
    failure: { code: 'HANDLER_FAILED', message: cutText(textOf(error)) },
    retryable: true,
  };
}

/** Words for anything thrown; never throws itself, whatever its getters do. */
export function textOf(error: unknown): string {
  try {
    if (error instanceof Error) return `${error.name}: ${error.message}`;
    return String(error);
  } catch {
    return 'The handler threw something that has no text.';
  }
}
